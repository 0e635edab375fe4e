"""Function calls as a person types them: what a server tells of its functions, and what becomes of each field. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..exceptions import HPXError
from ..protocol import Json, parse_json

DESCRIBING = "describe_functions"
"""The function that tells of all functions, where a server offers it."""
MOST_FUNCTIONS = 500
"""Functions that are listed at most."""
MOST_ARGUMENTS = 30
"""Arguments of each that are."""
MOST_DOC = 500
"""Characters of what it says of itself."""
MOST_NAME = 100
"""Characters of a name, or of a type."""


@dataclass(frozen=True)
class Argument:
    """An argument of a function.

    Attributes:
        name: its name.
        type: how the function's author annotated it; may be empty.
        needed: whether a call has to give it.
        default: what it is otherwise, as one would type it; None if that is not known, or not short.
    """

    name: str
    type: str
    needed: bool
    default: str | None = None


@dataclass(frozen=True)
class Function:
    """A function that a server offers.

    Attributes:
        fname: its name.
        doc: what it says of itself.
        arguments: what it takes.
        more: whether it takes arguments of other names, too.
    """

    fname: str
    doc: str = ""
    arguments: tuple[Argument, ...] = ()
    more: bool = False

    def shown(self) -> dict[str, Json]:
        """What JSON says of it."""
        arguments: list[Json] = [dict(vars(each)) for each in self.arguments]
        return {"fname": self.fname, "doc": self.doc, "arguments": arguments, "more": self.more}


class BadInput(ValueError):
    """Something was typed that is of no use.

    Args:
        fields: what is wrong, in a sentence, by the name of the field.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {what}" for name, what in fields.items()))
        self.fields = dict(fields)


@dataclass
class _Form:
    """A form that is being read."""

    arguments: dict[str, Json] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


# -------------------------------------------------------------------------------------------- what a server tells


def functions_in(content: Json) -> dict[str, Function] | None:
    """The functions of which a server's answer tells, by name; None if it tells of none.

    A server may answer anything: what has the wrong form is left out.
    """
    data = content.get("data") if isinstance(content, dict) else None
    for entry in data if isinstance(data, list) else []:
        if isinstance(entry, dict) and entry.get("fname") == DESCRIBING and isinstance(entry.get("data"), list):
            return read_functions(entry["data"])
    return None


def read_functions(told: Json) -> dict[str, Function]:
    """The functions that a server described, by name; see :meth:`simplesockets.hpx.Server.describe_functions`."""
    found = map(_function, _list(told)[:MOST_FUNCTIONS])
    return {each.fname: each for each in found if each is not None}


def _function(told: Json) -> Function | None:
    if not isinstance(told, dict) or not (fname := _name(told.get("fname"))):
        return None
    arguments = filter(None, map(_argument, _list(told.get("arguments"))[:MOST_ARGUMENTS]))
    doc = told.get("doc")
    return Function(fname, doc[:MOST_DOC] if isinstance(doc, str) else "", tuple(arguments), told.get("more") is True)


def _argument(told: Json) -> Argument | None:
    if not isinstance(told, dict) or not (name := _name(told.get("name"))):
        return None
    default = _as_typed(told["default"]) if "default" in told else None
    return Argument(name, _name(told.get("type")), told.get("needed") is True, default)


def _as_typed(default: Json) -> str | None:
    # Short and simple ones only: they are a hint in a field.
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(default)[:MOST_NAME] if isinstance(default, (int, float, str)) else None


def _name(told: Json) -> str:
    return told if isinstance(told, str) and len(told) <= MOST_NAME else ""


def _list(told: Json) -> list[Json]:
    return told if isinstance(told, list) else []


# ------------------------------------------------------------------------------------------- what a person types


def call_of(function: Function, typed: Mapping[str, str], more: str = "") -> Json:
    """The call that was typed into the fields of a function's form.

    Args:
        function: what is called.
        typed: text by argument. Text itself where the argument is annotated as ``str``, otherwise JSON; what is empty
            is not given.
        more: further arguments, as a JSON object.

    Raises:
        BadInput: a field is of no use, or a needed one is empty.
    """
    form = _Form()
    for argument in function.arguments:
        _read(argument, typed.get(argument.name, ""), form)
    known = {argument.name for argument in function.arguments}
    form.wrong |= {name: f"{function.fname} takes no argument '{name}'" for name in typed if name not in known}
    if more.strip():
        _read_more(more, form)
    if form.wrong:
        raise BadInput(form.wrong)
    return {"fname": function.fname, **form.arguments}


def free_call(fname: str, arguments: str) -> Json:
    """The call of a function of which nothing is known.

    Args:
        fname: its name.
        arguments: a JSON object; empty for none.

    Raises:
        BadInput: either is of no use.
    """
    form = _Form()
    if not fname:
        form.wrong["fname"] = "The name of the function is missing"
    if arguments.strip():
        _read_more(arguments, form)
    if form.wrong:
        raise BadInput(form.wrong)
    return {"fname": fname, **form.arguments}


def message_of(text: str) -> Json:
    """The message that was typed as a whole.

    Raises:
        BadInput: it is no JSON.
    """
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except HPXError as failure:
        raise BadInput({"text": _plain(failure)}) from failure


def _read(argument: Argument, text: str, form: _Form) -> None:
    if argument.type == "str":
        if text or argument.needed:
            form.arguments[argument.name] = text
    elif text.strip():
        try:
            form.arguments[argument.name] = _checked(argument.type, parse_json(text.encode("utf-8", "surrogatepass")))
        except HPXError as failure:
            form.wrong[argument.name] = f'{_plain(failure)}. Text needs quotes, as in "text"'
        except ValueError as failure:
            form.wrong[argument.name] = str(failure)
    elif argument.needed:
        form.wrong[argument.name] = "This argument is needed"


def _read_more(text: str, form: _Form) -> None:
    try:
        more = parse_json(text.encode("utf-8", "surrogatepass"))
    except HPXError as failure:
        form.wrong["more"] = _plain(failure)
        return
    if not isinstance(more, dict):
        form.wrong["more"] = 'Arguments are a JSON object, as in {"name": 1}'
    elif "fname" in more:
        form.wrong["more"] = "No argument can be called 'fname', which is the function's name in a call"
    elif twice := more.keys() & form.arguments.keys():
        form.wrong["more"] = f"Given twice: {', '.join(sorted(twice))}"
    else:
        form.arguments.update(more)


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "This has to be a whole number"),
    "float": ((int, float), "This has to be a number"),
    "bool": ((bool,), "This has to be true or false"),
}


def _checked(annotated: str, value: Json) -> Json:
    kinds, wrong = _KINDS.get(annotated, ((), ""))
    if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        raise ValueError(wrong)
    return value


def _plain(failure: HPXError) -> str:
    return failure.msg.replace("Invalid JSON: ", "This is no JSON: ", 1)
