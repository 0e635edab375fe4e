"""What ``on()`` registers: which function handles which command, and how to call it.

How many arguments a function takes, and what its annotations say, is looked at once, when it is registered.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..dispatch import accepts, never_runs
from ..hints import alike
from .casting import Cast, ClientInfo, castable
from .errors import InvalidHandler
from .protocol import check_command

Function = TypeVar("Function", bound=Callable[..., object])

Form = tuple[str, ...]
"""The arguments of a handler, by the names of :class:`Message`'s attributes."""

WILDCARD = "*"

SLOW = 1.0
"""Seconds for which a handler may keep the loop before the program is told."""
_ELSEWHERE = {
    "connect": "join",
    "client_connect": "join",
    "disconnect": "leave",
    "client_disconnect": "leave",
    "joined": "join",
    "left": "leave",
    "join": "client_connect",
    "leave": "client_disconnect",
}
"""What servers call that for which clients, and other packages, have other names; and the reverse."""

log = logging.getLogger("simplesockets")


class Message:
    """What there is to give to a handler."""

    __slots__ = ("body", "client", "command", "content")

    def __init__(
        self,
        client: ClientInfo | None = None,
        command: str | None = None,
        content: bytes | None = None,
        body: bytes = b"",
    ) -> None:
        self.client = client
        self.command = command
        self.content = content
        self.body = body


class Change(Message):
    """What there is to give to a handler of a changed name or group."""

    __slots__ = ("new", "old")

    def __init__(self, client: ClientInfo, old: str | None, new: str | None) -> None:
        super().__init__(client)
        self.old = old
        self.new = new


class Handler:
    """A registered function.

    Args:
        function: the program's.
        threaded: whether to run it in a thread of its own.
        form: its arguments.
        casts: how to make each of them, where that is not as it is.
    """

    def __init__(self, function: Callable[..., object], threaded: bool, form: Form, casts: list[Cast | None]) -> None:
        self.function = function
        self.threaded = threaded
        self._told_slow = False
        self.arguments = _arguments(form, casts)
        """``arguments(message)``: what to call the function with. Raises InvalidTypeCast if the content is not of the
        annotated type."""

    def was_slow(self) -> None:
        """It took long, and all other messages had to wait. Says so, once."""
        if not self._told_slow:
            self._told_slow = True
            log.warning(
                "the handler %r took longer than %g s, for which all other messages waited; on(…, threaded=True) runs "
                "it in a thread of its own",
                getattr(self.function, "__name__", self.function),
                SLOW,
            )


def _arguments(form: Form, casts: list[Cast | None]) -> Callable[[Message], Sequence[object]]:
    if form == ("client", "content"):  # nearly all; it takes a quarter of the time
        cast = casts[1]
        if cast is None:
            return lambda message: (message.client, message.content)
        return lambda message: (message.client, cast(message.content))
    parts = list(zip(form, casts, strict=True))
    return lambda message: [
        getattr(message, name) if cast is None else cast(getattr(message, name)) for name, cast in parts
    ]


class Handlers:
    """All handlers of a server or client.

    Args:
        reserved: the names with a meaning of their own, and the forms of their handlers, the preferred one first.
        ordinary: the forms of all other handlers.
    """

    def __init__(self, reserved: Mapping[str, tuple[Form, ...]], ordinary: tuple[Form, ...]) -> None:
        self._reserved = dict(reserved)
        self._forms = ordinary
        self._special: dict[str, Handler] = {}
        self._ordinary: dict[str, Handler] = {}
        self._with_spaces: list[tuple[bytes, str]] = []  # commands of more than one word, the longest first
        self._lock = threading.RLock()  # protects these three while they change
        self.reserved = self._special.get
        """``reserved(name)``: the handler of a reserved name; None if there is none, or the name was made an ordinary
        one."""
        self.ordinary = self._ordinary.get
        """``ordinary(command)``: the handler of a command that the other end sent; None if there is none."""

    def on(self, command: str, threaded: bool, override: bool) -> Callable[[Function], Function]:
        """The decorator that registers a function; see the servers' and clients' ``on()``."""
        check_command(command)
        if not override:
            self._warn_of_misspelt(command)

        def register(function: Function) -> Function:
            reserved = command in self._reserved and not override
            forms = self._reserved[command] if reserved else self._forms
            handler = _handler(command, function, threaded, forms)
            with self._lock:
                if override:
                    self._reserved.pop(command, None)
                    self._special.pop(command, None)
                if reserved:
                    self._special[command] = handler
                else:
                    self._ordinary[command] = handler
                    several = [(name.encode(errors="replace"), name) for name in self._ordinary if " " in name]
                    self._with_spaces = sorted(several, reverse=True, key=lambda pair: len(pair[0]))
            return function

        return register

    def _warn_of_misspelt(self, command: str) -> None:
        meant = _ELSEWHERE.get(command) or alike(command, self._reserved)
        if meant in self._reserved and command not in self._reserved:
            log.warning(
                "on(%r) handles a command that the other end sends; did you mean on(%r)? If not, override=True says so",
                command,
                meant,
            )

    def longest(self, body: bytes) -> str | None:
        """The longest command of several words that a body of 0.x begins with."""
        for encoded, name in self._with_spaces:
            if body.startswith(encoded) and body[len(encoded) : len(encoded) + 1] in (b"", b" "):
                return name
        return None

    def functions(self) -> dict[str, Callable[..., object]]:
        """All functions by their command."""
        return {name: handler.function for name, handler in {**self._ordinary, **self._special}.items()}


def _handler(command: str, function: Callable[..., object], threaded: bool, forms: tuple[Form, ...]) -> Handler:
    if not callable(function):
        raise InvalidHandler(f"on({command!r}) decorates a function; {function!r} is none")
    if (why := never_runs(function)) is not None:
        raise InvalidHandler(f"the handler of {command!r}: {why}")
    form = next((form for form in forms if accepts(function, len(form)) is not False), None)
    if form is None:
        described = " or ".join(f"({', '.join(_SHOWN.get(name, name) for name in form)})" for form in forms)
        raise InvalidHandler(
            f"the handler of {command!r} is called with {described}; {function!r} takes other arguments. "
            "Change its parameters"
        )
    annotations = _annotations(function, len(form))
    return Handler(
        function,
        threaded,
        form,
        [_cast(command, name, annotation) for name, annotation in zip(form, annotations, strict=True)],
    )


_SHOWN = {"content": "message", "body": "message"}
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _annotations(function: Callable[..., object], count: int) -> list[object]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of a built-in function, which has no annotations either
        return [None] * count
    given = [_resolved(each.annotation, function) for each in parameters if each.kind in _POSITIONAL][:count]
    return given + [None] * (count - len(given))


_KNOWN = {kind.__name__: kind for kind in (bytes, str, int, float, bool, list, dict, ClientInfo)}


def _resolved(annotation: object, function: Callable[..., object]) -> object:
    # With `from __future__ import annotations` it is text.
    if annotation is inspect.Parameter.empty:
        return None
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {**_KNOWN, **_scope(function)})
    except Exception:  # a name that only type checkers see, say
        return _KNOWN.get(annotation.rpartition(".")[2], annotation)


def _scope(function: Callable[..., object]) -> dict[str, object]:
    # The names that the function's module knows, also of a partial one and of an object that can be called.
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not hasattr(function, "__globals__"):
        function = inspect.unwrap(type(function).__call__)
    scope: dict[str, object] = getattr(function, "__globals__", {})
    return scope


def _cast(command: str, name: str, annotation: object) -> Cast | None:
    if annotation is None or name in ("client", "old", "new"):
        return None
    cast = castable(annotation)
    if cast is None:
        raise InvalidHandler(
            f"the handler of {command!r} wants its {_SHOWN.get(name, name)} as {annotation!r}, to which content cannot "
            "be cast; use bytes, str, int, float, bool, list, dict or ClientInfo, or no annotation"
        )
    if name == "command":
        return lambda given: cast(None if given is None else str(given).encode())
    return cast
