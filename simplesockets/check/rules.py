"""The rules: which places in a program a fact is about. Pure.

The reader tells of every place that may matter, with the kinds of the values there; a rule answers by reporting a fact.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .facts import FACTS, Level
from .reader import NOTHING, Call, Function, Knowledge, Values
from .signatures import Arity, annotation_of, callables
from .vocabulary import (
    CALLBACK_ARGUMENTS,
    CALLBACKS,
    FOREIGN,
    HANDLERS,
    INSTANCES,
    NOT_CASTABLE,
    PORTED,
    PRIVATE,
    PUBLIC,
    RENAMED,
    SETUP,
    canonical,
    is_gone,
    original_of,
)

ORIGINAL = {
    **dict.fromkeys(("TCPServer", "TCPClient"), "simplesockets"),
    **dict.fromkeys(("HiSockServer", "HiSockClient"), "hisock"),
    "Client": "happypandax_client",
}
"""The original of each class."""

MANUAL, NEWER = "manual", "0.4"
"""Generations of programs: simplesockets up to 0.2 and hisock 0.x; what came later."""

_MARKS = {
    ("TCPServer", "new_data_recved"): MANUAL,
    ("TCPClient", "new_data_recved"): MANUAL,
    ("event.exception", "list"): MANUAL,
    ("event.exception", "exceptions"): NEWER,
    ("server item", "response"): NEWER,
    ("server item", "from_"): NEWER,
    ("server item", "time_"): NEWER,
    ("server item", "equals"): NEWER,
    ("received", "response"): NEWER,
    ("HiSockServer", "send_client_raw"): MANUAL,
    ("HiSockServer", "send_group_raw"): MANUAL,
    ("HiSockClient", "raw_send"): MANUAL,
    ("HiSockClient", "recv_raw"): MANUAL,
}
"""What gives a program's generation away."""

_NAMES_OF_THE_NEWER = frozenset({"Server_Client", "Socket_Response", "Better_Exception"})
_ANY = frozenset({"Exception", "BaseException"})
_CONNECTION = _ANY | {
    *("OSError", "IOError", "error", "timeout", "ConnectionError", "BrokenPipeError"),
    *("ConnectionResetError", "ConnectionAbortedError"),
}
_NO_GROUP = _ANY | {"TypeError", "GroupNotFound", "ServerException"}
_NO_HOST = _ANY | {"OSError", "gaierror", "error", "IOError"}
_DICT_METHODS = frozenset({"pop", "popitem", "setdefault", "update"})
_TABLE_METHODS = frozenset({"pop", "popitem", "setdefault", "update", "clear"})


@dataclass(frozen=True, order=True)
class Finding:
    """Something to say about a place in a program.

    Args:
        line, column: the place; both begin with 1.
        level: ``ok``, ``differs`` or ``change``.
        fact: the key of the fact; empty for ``ok``.
        text: the sentence.
    """

    line: int
    column: int
    level: Level
    fact: str
    text: str


class Rules:
    """Collects findings, in one round through a program.

    Args:
        installs: whether the program calls ``install_as_hisock()``, so that ``import hisock`` is as it should be.
    """

    def __init__(self, installs: bool = False) -> None:
        self.discarded: ast.expr | None = None
        """The call of which nobody looks at the result."""
        self._installs = installs
        self._findings: dict[tuple[int, int, str], Finding] = {}
        self._generations: set[tuple[str, str]] = set()
        self._guards: list[frozenset[str]] = []
        self._stars: set[str] = set()
        self._setups: list[ast.Call] = []
        self._started = False

    def findings(self) -> list[Finding]:
        """What there is to say, in the order of the program."""
        if not self._started:
            for call in self._setups:
                self._report("simplesockets:never-started", call)
        told = [finding for finding in self._findings.values() if self._concerns(finding)]
        places = {(each.line, each.column) for each in told if each.level != "ok"}
        return sorted(each for each in told if each.level != "ok" or (each.line, each.column) not in places)

    def _concerns(self, finding: Finding) -> bool:
        if not finding.fact or not FACTS[finding.fact].era:
            return True
        original = FACTS[finding.fact].original
        manual, newer = ((original, era) in self._generations for era in (MANUAL, NEWER))
        return (newer and not manual) if FACTS[finding.fact].era == "0.4" else (newer or not manual)

    def _report(self, key: str, node: ast.AST, subject: str = "", write: str = "") -> None:
        fact = FACTS[key]
        self._add(node, fact.level, key, fact.sentence(subject, write))

    def _fine(self, node: ast.AST, what: str) -> None:
        self._add(node, "ok", "", f"{what} runs unchanged")

    def _add(self, node: ast.AST, level: Level, key: str, text: str) -> None:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        self._findings[line, column, key] = Finding(line, column, level, key, text)

    # ------------------------------------------------------------------------------------------------- imports

    def imported(self, node: ast.alias, written: str, name: str) -> None:
        """An import; ``written`` as the program says it, ``name`` as the original does."""
        original, last = original_of(name), name.rpartition(".")[2]
        if original is None:
            return
        if last in _NAMES_OF_THE_NEWER or name.startswith(("simplesockets.simple_sockets", "simplesockets.typehints")):
            self._generations.add((original, NEWER))
        if name.startswith("simplesockets.simplesockets"):
            self._generations.add((original, MANUAL))
        if is_gone(name):
            self._report(f"{original}:module", node, f"`{written}`")
        elif last in FOREIGN.get(name.rpartition(".")[0], ()):
            self._report(f"{original}:foreign", node, f"`{written}`")
        elif self._is_found(written):
            self._fine(node, f"the import of {written}")

    def imports(self, node: ast.Import | ast.ImportFrom) -> None:
        """A whole import statement, after its parts."""
        for module in _modules(node):
            original = original_of(canonical(module))
            if original and not is_gone(module) and not self._is_found(module):
                self._report(f"{original}:import", node, f"`{ast.unparse(node)}`", f"Write `{_ported(node)}`")

    def _is_found(self, module: str) -> bool:
        # Whether the import finds this package as it is written.
        return original_of(module) == "simplesockets" or (self._installs and original_of(module) == "hisock")

    def star(self, module: str) -> None:
        """A star import; of a module of somebody else if the name is empty."""
        self._stars.add(module)

    def unbound(self, node: ast.Name) -> None:
        """A name that the program neither binds nor imports, by that name."""
        if "" in self._stars:
            return
        for module in sorted(self._stars):
            if node.id in FOREIGN.get(module, ()) and not node.id.startswith("_"):
                self._report(f"{original_of(module)}:foreign", node, f"`{node.id}`, which `{module}` merely imports")
            if module.startswith("happypandax_client") and node.id == "TimeoutError":
                self._report("happypandax_client:star", node)

    # ------------------------------------------------------------------------------------------ attributes

    def attribute(self, node: ast.Attribute, owner: Values) -> None:
        """An attribute is read, or a method called."""
        for kind in sorted(owner):
            self._mark(kind, node.attr)
            if kind.startswith("@"):
                self._module_attribute(node, f"{kind[1:]}.{node.attr}")
            elif kind in PUBLIC:
                self._member(node, kind, owner)
        if "TCPServer" in owner and node.attr == "start":
            self._started = True
        if node.attr == "funcs" and owner & {"HiSockServer", "HiSockClient"}:
            self._report("hisock:funcs", node)

    def _mark(self, kind: str, name: str) -> None:
        if (kind, name) in _MARKS:
            self._generations.add((ORIGINAL.get(kind, "simplesockets"), _MARKS[kind, name]))

    def _module_attribute(self, node: ast.AST, name: str) -> None:
        original = original_of(name)
        if is_gone(name):
            self._report(f"{original}:module", node, f"`{name}`")
        elif name.rpartition(".")[2] in FOREIGN.get(name.rpartition(".")[0], ()):
            self._report(f"{original}:foreign", node, f"`{name}`")

    def _member(self, node: ast.Attribute, kind: str, owner: Values) -> None:
        name, original = node.attr, ORIGINAL[kind]
        secure = owner & {"SecureServer", "SecureClient"}
        if name in RENAMED.get(kind, {}):
            self._report("hisock:underscore", node, f"`{name}()`, which is `{RENAMED[kind][name]}()` here")
        elif name in PRIVATE[kind]:
            self._report(f"{original}:private", node, f"`{name}`")
        elif secure and name in ("privatekey", "publickey", "key", "cipher"):
            self._report("simplesockets:secure-keys", node, f"`{name}`")
        elif kind == "TCPServer" and name == "exception":
            self._report("simplesockets:exception-flag", node)
        elif name in PUBLIC[kind]:
            self._fine(node, f"{kind}.{name}")

    def assigned(self, node: ast.Attribute, owner: Values, values: Values, known: Knowledge) -> None:
        """An attribute is set."""
        for kind in sorted(owner):
            if node.attr in CALLBACKS.get(kind, {}):
                self._callback(node, kind, node.attr, values, known)
            if kind in PUBLIC:
                self._member(node, kind, owner)
        if "accepting" in owner and node.attr == "run":
            self._started = True
        if "ClientInfo" in owner and node.attr in ("ip", "name", "group"):
            self._report("hisock:info-assign", node, f"an assignment to `{node.attr}` of a ClientInfo")

    def changed(self, node: ast.Subscript, owner: Values) -> None:
        """An element is set or deleted."""
        if "client table" in owner:
            self._report("hisock:clients-table", node)

    def subscripted(self, node: ast.Subscript, owner: Values) -> None:
        """An element is read."""
        if "server item" in owner:
            self._report("simplesockets:index", node)

    def unpacked(self) -> None:
        """A polled element is taken apart into three."""
        self._generations.add(("simplesockets", MANUAL))

    # ------------------------------------------------------------------------------------------------ callables

    def called(self, call: Call, known: Knowledge) -> Values:
        """Something is called. Returns what that gives, where only a rule knows."""
        self._escaped_by(call)
        self._built_in(call)
        self._made(call)
        for kind in call.function:
            if kind.startswith("on:") and call.arguments:
                self.decorated(kind, call.node, call.arguments[0], known)
        if "TCPServer" in call.owner or "TCPClient" in call.owner:
            self._engine_method(call, known)
        if call.owner & {"HiSockServer", "HiSockClient"}:
            return self._hisock_method(call)
        if call.name == "import_module" or _is_name(call.node.func, "__import__", "import_module"):
            return self._imported_late(call.node)
        if "Client" in call.owner and "_data" in call.keywords:
            self._report("happypandax_client:private", call.node, "`handshake(_data=…)`")
        if "exceptions" in call.owner and call.name in _DICT_METHODS:
            self._report("simplesockets:exceptions-dict", call.node, f"`{call.name}()` of `return_exceptions()`")
        if "client table" in call.owner and call.name in _TABLE_METHODS:
            self._report("hisock:clients-table", call.node)
        return NOTHING

    def _imported_late(self, node: ast.Call) -> Values:
        module = _constant(node.args) or ""
        original = original_of(canonical(module))
        if original is None:
            return NOTHING
        if is_gone(canonical(module)):
            self._report(f"{original}:module", node, f"`{module}`")
        elif not self._is_found(module):
            written = ".".join([_HOMES[original], *module.split(".")[1:]])
            self._report(f"{original}:import", node, f"the import of `{module}`", f"Import `{written}`")
        return frozenset({f"@{canonical(module)}"})

    def _built_in(self, call: Call) -> None:
        name = call.node.func.id if isinstance(call.node.func, ast.Name) else ""
        if call.name == "getLogger" and _constant(call.node.args) == "happypandax-client":
            self._report("happypandax_client:logger", call.node)
        if name in ("str", "print"):
            for argument, values in zip(call.node.args, call.arguments, strict=False):
                self.shown(argument, values)
        if not call.arguments:
            return
        if name == "len" and "server item" in call.arguments[0]:
            self._report("simplesockets:len", call.node)
        if name == "bool":
            self.asked(call.node, call.arguments[0])
        if name in ("list", "tuple", "set", "sorted", "iter", "enumerate"):
            self.iterated(call.node, call.arguments[0])
        if name == "isinstance" and len(call.node.args) == 2:
            self._type_question(call.node, call.arguments[0])

    def _type_question(self, node: ast.Call, values: Values) -> None:
        asked = set(_names(node.args[1]))
        if ("server item" in values and "tuple" in asked) or ("received" in values and "bytes" in asked):
            self._report("simplesockets:isinstance", node)
        if "connect address" in values and "Server_Client" in asked:
            self._report("simplesockets:connect-isinstance", node)
        if "exceptions" in values and "dict" in asked:
            self._report("simplesockets:exceptions-dict", node)

    def _made(self, call: Call) -> None:
        names = {kind.rpartition(".")[2] for kind in call.function if kind.startswith("@hisock.")}
        ends = {name for name in names if set(INSTANCES["hisock"].get(name, ())) & {"HiSockServer", "HiSockClient"}}
        for keyword in call.node.keywords:
            if ends and keyword.arg == "blocking":
                self._generations.add(("hisock", MANUAL))
            if ends and keyword.arg == "cache_size" and _is_constant(keyword.value, 0):
                self._report("hisock:cache-zero", keyword.value)
        caught = self._caught()
        if {name for name in ends if "erver" in name} and "TypeError" in caught and not caught & _NO_HOST:
            self._report("hisock:bad-host", call.node)

    def _engine_method(self, call: Call, known: Knowledge) -> None:
        kind = "TCPServer" if "TCPServer" in call.owner else "TCPClient"
        if call.name == "setup":
            self._setup(call, kind, known)
        if call.name == "killed" and kind == "TCPServer":
            self._report("simplesockets:killed", call.node)
        unseen = call.name == "send_data" and kind == "TCPClient" and call.node is self.discarded
        if unseen and self._caught() & _CONNECTION:
            self._report("simplesockets:send-raises", call.node)

    def _setup(self, call: Call, kind: str, known: Knowledge) -> None:
        given = {keyword.arg for keyword in call.node.keywords}
        by_name: dict[str | None, Values] = {**call.keywords}
        by_name.update(zip(SETUP[kind], call.arguments, strict=False))
        everything = None in given or any(isinstance(each, ast.Starred) for each in call.node.args)  # *args, **options
        for name, values in by_name.items():
            if name is not None and name in CALLBACKS[kind]:
                self._callback(_place(call.node, kind, name), kind, name, values, known)
        if kind == "TCPServer" and "ip" not in by_name and not everything:
            self._report("simplesockets:default-ip", call.node)
        if kind == "TCPServer" and isinstance(call.node.func, ast.Attribute):
            own = any(each.startswith("self:") for each in call.owner)
            if isinstance(call.node.func.value, ast.Name) and not own:
                self._setups.append(call.node)
        if not everything:
            self._secure_setup(call, given)

    def _secure_setup(self, call: Call, given: set[str | None]) -> None:
        if "keysize" in given:
            keyword = next(each for each in call.node.keywords if each.arg == "keysize")
            self._report("simplesockets:keysize", keyword.value)
        if "SecureServer" in call.owner and not given & {"certfile", "ssl_context"}:
            self._report("simplesockets:secure-server", call.node)
        if "SecureClient" in call.owner and not given & {"cafile", "ssl_context"}:
            self._report("simplesockets:secure-client", call.node)

    def _callback(self, node: ast.AST, kind: str, name: str, values: Values, known: Knowledge) -> None:
        for tag, takes in callables(values, known):
            forms = CALLBACKS[kind][name]
            count = takes.first_of(forms)
            if count is None:
                self._report("simplesockets:callback", node, f"`{name}` with a function that takes {takes}")
                continue
            known.pass_on(tag, [frozenset({each}) for each in CALLBACK_ARGUMENTS.get((kind, name, count), ())])
            if kind == "TCPServer" and len(forms) > 1:
                self._several_forms(node, name, takes, forms)

    def subclassed(self, statement: ast.ClassDef, kinds: Values, names: Mapping[str, Values], known: Knowledge) -> None:
        """A class is defined, whose instances are of these kinds, with these names in it."""
        for kind in kinds & set(CALLBACKS):
            for node in statement.body:
                if isinstance(node, ast.FunctionDef) and node.name in CALLBACKS[kind] and node.name != "handle_client":
                    self._report("simplesockets:callback-method", node, f"`{node.name}()` as a method of a subclass")
                    own = frozenset(each.replace("func:", "bound:", 1) for each in names[node.name])
                    self._callback(node, kind, node.name, own, known)

    def _several_forms(self, node: ast.AST, name: str, takes: Arity, forms: tuple[int, ...]) -> None:
        longest = forms[0]
        if takes.accepts(longest) and takes.accepts(longest - 1):
            self._report("simplesockets:callback-open", node, f"`{name}` with a function that takes {takes}")
        elif takes.accepts(longest):
            self._generations.add(("simplesockets", MANUAL))
        elif name == "on_receive" and takes.accepts(2):
            self._generations.add(("simplesockets", NEWER))

    def _hisock_method(self, call: Call) -> Values:
        kind = "HiSockServer" if "HiSockServer" in call.owner else "HiSockClient"
        if call.name == "on":
            return frozenset({f"on:{kind}:{int(_overrides(call.node))}:{_constant(call.node.args) or ''}"})
        if call.name == "start":
            self._loop_started(call)
        if call.name == "send_group" and not self._caught() & _NO_GROUP:
            self._report("hisock:empty-group", call.node)
        if call.name in ("send", "send_client", "send_group", "send_all_clients"):
            self._sent(call)
        return NOTHING

    def _loop_started(self, call: Call) -> None:
        given = any(keyword.arg == "error_handler" for keyword in call.node.keywords) or len(call.node.args) > 1
        if given or ("threaded" not in call.owner and self._caught() & _ANY):
            self._report("hisock:error-handler", call.node)

    def _sent(self, call: Call) -> None:
        place = 1 if call.name in ("send", "send_all_clients") else 2
        named = [keyword.value for keyword in call.node.keywords if keyword.arg == "content"]
        for content in (*call.node.args[place : place + 1], *named):
            if _is_empty(content):
                self._report("hisock:empty-content", content)

    def decorated(self, kind: str, node: ast.AST, values: Values, known: Knowledge) -> None:
        """A function is registered as a handler, by what ``on()`` gave."""
        if not kind.startswith("on:"):
            return
        _, side, override, command = kind.split(":", 3)
        reserved = HANDLERS[side].get(command) if command and override == "0" else None
        forms = reserved or HANDLERS[side][""]
        for tag, takes in callables(values, known):
            count = takes.first_of(forms)
            if count is None and command:
                self._report("hisock:handler", node, f"the handler of {command!r}, which takes {takes}")
            elif count is not None:
                self._handler(tag, side, command, reserved is not None, takes, count, known)

    def _handler(
        self, tag: str, side: str, command: str, reserved: bool, takes: Arity, count: int, known: Knowledge
    ) -> None:
        function = known.functions[tag.replace("bound:", "func:", 1)]
        about_clients = side == "HiSockServer" or command in ("client_connect", "client_disconnect")
        if count and about_clients:
            known.pass_on(tag, [frozenset({"ClientInfo"})])
        if takes.open_ended and takes.named < count and not reserved:
            self._report("hisock:handler-open", function)
        if not reserved or command in ("message", "*"):
            self._annotation(function, tag.startswith("bound:") + (side == "HiSockServer"), count)

    def _annotation(self, function: Function, first: int, count: int) -> None:
        for place in range(first, first + count):
            annotation = annotation_of(function, place)
            if annotation is not None and _names(annotation)[:1] and _names(annotation)[0] in NOT_CASTABLE:
                self._report("hisock:annotation", annotation, f"the annotation `{ast.unparse(annotation)}`")

    # ------------------------------------------------------------------------------------------- what is asked

    def asked(self, node: ast.expr, values: Values) -> None:
        """A value decides which way the program goes."""
        if "collection" in values:
            self._report("simplesockets:exceptions-truth", node)

    def iterated(self, node: ast.expr, values: Values) -> None:
        """A loop goes over a value."""
        if "exceptions" in values:
            self._report("simplesockets:exceptions-iterate", node)

    def shown(self, node: ast.expr, values: Values) -> None:
        """A value is made into text."""
        if "client address" in values:
            self._report("hisock:ip-text", node)

    def compared(self, node: ast.Compare, operands: Sequence[ast.expr], values: Sequence[Values]) -> None:
        """Values are compared."""
        if not any(isinstance(operator, (ast.Eq, ast.NotEq)) for operator in node.ops):
            return
        for operand, kinds in zip(operands, values, strict=True):
            if kinds & {"HiSockServer", "HiSockClient"}:
                self._report("hisock:equal", operand)
            if "exceptions" in kinds and any(isinstance(other, ast.Dict) for other in operands):
                self._report("simplesockets:exceptions-dict", operand)

    # -------------------------------------------------------------------------------------------- what is around

    @contextmanager
    def guarded(self, handlers: Sequence[ast.ExceptHandler]) -> Iterator[None]:
        """Inside, these exceptions are caught."""
        names = [_names(handler.type) if handler.type is not None else ["BaseException"] for handler in handlers]
        self._guards.append(frozenset(name for each in names for name in each))
        try:
            yield
        finally:
            self._guards.pop()

    def _caught(self) -> frozenset[str]:
        return frozenset().union(*self._guards)

    def entered(self, values: Values) -> None:
        """A ``with`` block is entered."""
        self._started = self._started or "TCPServer" in values

    def escapes(self, values: Values) -> None:
        """A value goes where it is not followed."""
        self._started = self._started or "TCPServer" in values

    def _escaped_by(self, call: Call) -> None:
        for values in (*call.arguments, *call.keywords.values()):
            self.escapes(values)


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that a statement imports, or imports from; none of those beside the program."""
    if isinstance(node, ast.ImportFrom):
        return [] if node.level else [str(node.module)]
    return [alias.name for alias in node.names]


def _ported(node: ast.Import | ast.ImportFrom) -> str:
    """The import statement as it is written for this package."""
    if isinstance(node, ast.ImportFrom):
        home = _HOMES[str(node.module).partition(".")[0]]
        module = ".".join([home, *str(node.module).split(".")[1:]])
        return ast.unparse(ast.ImportFrom(module, node.names, 0))
    return "; ".join(_ported_name(alias) for alias in node.names)


def _ported_name(alias: ast.alias) -> str:
    root, *rest = alias.name.split(".")
    if root not in _HOMES:
        return f"import {ast.unparse(alias)}"
    if rest and alias.asname:
        return f"import {'.'.join([_HOMES[root], *rest])} as {alias.asname}"
    here, shown = _HOMES[root].rpartition(".")[2], alias.asname or root
    return f"from simplesockets import {here}" + (f" as {shown}" if shown != here else "")


_HOMES = {original: here for here, original in PORTED.items()}


def _names(node: ast.expr | None) -> list[str]:
    """The last words of the names in an expression: of ``(a.B, C)``, B and C."""
    if isinstance(node, ast.Tuple):
        return [name for each in node.elts for name in _names(each)]
    if isinstance(node, ast.BinOp):
        return [*_names(node.left), *_names(node.right)]
    if isinstance(node, ast.Subscript):
        return _names(node.value)
    if isinstance(node, ast.Attribute):
        return [node.attr]
    return [node.id] if isinstance(node, ast.Name) else []


def _constant(arguments: Sequence[ast.expr]) -> str | None:
    """The first argument, if it is a text that stands in the program."""
    first = arguments[0] if arguments else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _is_name(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _overrides(node: ast.Call) -> bool:
    """Whether a call of ``on()`` makes a reserved name ordinary, as far as can be seen."""
    given = [*node.args[2:3], *(keyword.value for keyword in node.keywords if keyword.arg == "override")]
    return any(not isinstance(each, ast.Constant) or bool(each.value) for each in given)


def _is_constant(node: ast.expr, value: int) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value == value


def _is_empty(node: ast.expr) -> bool:
    if isinstance(node, (ast.List, ast.Dict)):
        return not (node.elts if isinstance(node, ast.List) else node.keys)
    return _is_constant(node, 0)


def _place(node: ast.Call, kind: str, name: str) -> ast.AST:
    """Where a call of ``setup()`` gives that argument."""
    for keyword in node.keywords:
        if keyword.arg == name:
            return keyword.value
    place = SETUP[kind].index(name)
    return node.args[place] if place < len(node.args) else node
