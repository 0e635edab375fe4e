"""The functions that a server offers, and how they are called. Pure."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from typing import TypeVar

from ..dispatch import never_runs
from .exceptions import InvalidMessage
from .protocol import Json, to_json

Function = TypeVar("Function", bound=Callable[..., object])

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Context:
    """Who calls. One for each session: every connection that uses the session shares it.

    Attributes:
        session: the session's id.
        name: what the client called itself when it shook hands.
        user: the user's name; None for a guest.
        data: whatever the server's functions keep for this session. Several of them may run at the same time.
    """

    def __init__(self, session: str, name: str, user: str | None) -> None:
        self.session = session
        self.name = name
        self.user = user
        self.data: dict[str, object] = {}

    @property
    def is_guest(self) -> bool:
        """Whether this is a guest's session."""
        return self.user is None

    def __repr__(self) -> str:
        return f"<context of {self.name!r}, {'a guest' if self.user is None else f'user {self.user!r}'}>"


class Offered:
    """A registered function: what can be known of it before it is called.

    Args:
        fname: its name in calls.
        function: called with keyword arguments only. A parameter that is annotated as :class:`Context` gets the
            calling session's context, and is no argument for clients.

    Raises:
        TypeError: it cannot be called like that.
    """

    def __init__(self, fname: str, function: Callable[..., object]) -> None:
        self.fname = fname
        self.function = function
        everything = _parameters(function)
        for parameter in everything:
            self._check(parameter)
        namespace = _namespace(function)
        self._context_names = tuple(
            parameter.name
            for parameter in everything
            if parameter.kind in _BY_KEYWORD and _is_context(parameter.annotation, namespace)
        )
        parameters = [parameter for parameter in everything if parameter.name not in self._context_names]
        by_keyword = [parameter for parameter in parameters if parameter.kind in _BY_KEYWORD]
        self._names = frozenset(parameter.name for parameter in by_keyword)
        self._needed = tuple(parameter.name for parameter in by_keyword if parameter.default is parameter.empty)
        self._any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._arguments = by_keyword

    def _check(self, parameter: inspect.Parameter) -> None:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise TypeError(f"{self.fname}: arguments come by name, and {parameter.name!r} takes none; drop the '/'")
        if parameter.name == "fname" and parameter.kind in _BY_KEYWORD:
            raise TypeError(f"{self.fname}: no parameter can be called 'fname', which is the function's name in a call")

    def call(self, arguments: dict[str, Json], context: Context) -> object:
        """Call it.

        Raises:
            InvalidMessage: an argument is missing or unexpected; the text names it.
        """
        for name in arguments:
            if name not in self._names and (not self._any or name in self._context_names):
                raise InvalidMessage(f"{self.fname}: unexpected argument '{name}'")
        for name in self._needed:
            if name not in arguments:
                raise InvalidMessage(f"{self.fname}: the argument '{name}' is missing")
        return self.function(**arguments, **dict.fromkeys(self._context_names, context))

    def described(self) -> dict[str, Json]:
        """What a frontend has to know to call it; see :meth:`Functions.described`."""
        return {
            "fname": self.fname,
            "doc": inspect.getdoc(self.function) or "",
            "arguments": [_described(each) for each in self._arguments],
            "more": self._any,
        }


def _described(parameter: inspect.Parameter) -> Json:
    annotation = "" if parameter.annotation is parameter.empty else parameter.annotation
    described: dict[str, Json] = {
        "name": parameter.name,
        "type": annotation if isinstance(annotation, str) else inspect.formatannotation(annotation),
        "needed": parameter.default is parameter.empty,
    }
    try:
        described["default"] = json.loads(to_json(parameter.default))
    except (TypeError, ValueError):  # there is none, or JSON cannot say it
        pass
    return described


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError as failure:  # some of those that are written in C
        raise TypeError(
            f"{function!r} does not say which arguments it takes; wrap it in a function that does"
        ) from failure


def _namespace(function: object) -> dict[str, object]:
    # Where annotations that are texts are looked up: that of the function which signature() speaks of.
    while True:
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        inner = inner or getattr(function, "__func__", None)
        if inner is None:
            break
        function = inner
    if not hasattr(function, "__globals__"):
        makes = isinstance(function, type)
        function = getattr(function if makes else type(function), "__init__" if makes else "__call__")
    return {"Context": Context, **getattr(function, "__globals__", {})}


def _is_context(given: object, namespace: dict[str, object]) -> bool:
    # Each annotation is looked up by itself: another one, for type checkers only, say, must not make a context
    # something that clients can send.
    annotation = given
    if isinstance(given, str):
        try:
            annotation = eval(given, dict(namespace))
        except Exception:  # it cannot be looked up here
            return given.rpartition(".")[2] == Context.__name__
    if isinstance(annotation, typing.ForwardRef):
        return _is_context(annotation.__forward_arg__, namespace)
    return annotation is Context or any(_is_context(each, namespace) for each in typing.get_args(annotation))


class Functions:
    """Registered functions by their names. Registering and calling may go on at the same time."""

    def __init__(self) -> None:
        self._offered: dict[str, Offered] = {}

    def add(self, fname: str, function: Callable[..., object]) -> None:
        """Register a function; one of the same name is replaced.

        Raises:
            TypeError: it cannot be called with arguments by name, or has no name.
        """
        if not callable(function):
            raise TypeError(f"{function!r} is no function")
        if (why := never_runs(function)) is not None:
            raise TypeError(f"{fname}: {why}")
        if not fname:
            raise TypeError(f'{function!r} has no name; give one: server.function("name")')
        self._offered[fname] = Offered(fname, function)

    def names(self) -> list[str]:
        """The names of all functions, sorted."""
        return sorted(self._offered)

    def described(self) -> list[dict[str, Json]]:
        """All functions, sorted by name: each an object with ``fname``, ``doc`` (text), ``more`` (whether it takes
        arguments of any name) and ``arguments``: objects with ``name``, ``type`` (the annotation as text, or empty),
        ``needed``, and ``default`` where there is one that JSON can say."""
        return [offered.described() for _, offered in sorted(self._offered.items())]

    def find(self, fname: str) -> Offered:
        """The function of that name.

        Raises:
            InvalidMessage: there is none.
        """
        found = self._offered.get(fname)
        if found is None:
            raise InvalidMessage(f"There is no function '{fname[:100]}' here; check its spelling")
        return found
