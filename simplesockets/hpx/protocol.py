"""What the messages say: envelopes, handshakes, server commands, function calls. Pure.

A message is ``{"session": …, "name": …, "data": …}``, with ``"error"`` where one occurred. ``"__id__"`` may be there,
too, and is repeated in the answer. Everything here takes parsed JSON and raises an
:class:`~.exceptions.HPXError` whose code and text go to the other end.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from .exceptions import HPXError, InvalidMessage

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What JSON can say."""

AUTHENTICATED = "Authenticated"
WAIT: dict[str, Json] = {"msg": "wait"}
"""The answer to everything while a server is not ready."""

INVALID_JSON = 900
MAX_VALUES = 2_000_000
"""Values in a message at most. An empty list takes 2 bytes of JSON, and 80 of memory."""

_REQUIRED = ("session", "name", "data")
_ID = "__id__"
_KNOWN = frozenset({*_REQUIRED, "error", _ID})
_CREDENTIALS = {"user", "password"}


# --------------------------------------------------------------------------------------------------------- JSON


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_no_json).decode
# ASCII only: so text that is no valid Unicode (half a surrogate pair) passes, as JSON allows.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def parse_json(text: bytes) -> Json:
    """The content of a message.

    Raises:
        HPXError: with code 900, it is no JSON or not in UTF-8.
        InvalidMessage: it has too many values.
    """
    if len(text) > MAX_VALUES and _marks(text) > MAX_VALUES and _marks(_STRINGS.sub(b"", text)) > MAX_VALUES:
        raise InvalidMessage(f"Invalid message: it has more than {MAX_VALUES} values")
    try:
        parsed: Json = _decode(text.decode("utf-8"))
    except RecursionError:
        raise HPXError("Invalid JSON: it is nested too deeply", INVALID_JSON) from None
    except ValueError as failure:  # UnicodeDecodeError is one, too
        raise HPXError(f"Invalid JSON: {failure}", INVALID_JSON) from None
    return parsed


def to_json(content: object) -> bytes:
    """The text of a message.

    Raises:
        TypeError, ValueError: JSON cannot say it.
    """
    try:
        return _encode(content).encode("ascii")
    except RecursionError:
        raise ValueError("it is nested too deeply, or contains itself") from None


# ---------------------------------------------------------------------------------------------------- envelopes


@dataclass(frozen=True)
class Message:
    """A message that is formally right."""

    session: str
    name: str
    data: Json


def identity(content: Json) -> dict[str, Json]:
    """The part of a message that its answer repeats: empty, or ``{"__id__": …}``. Never fails."""
    return {_ID: content[_ID]} if isinstance(content, dict) and _ID in content else {}


def parse_message(content: Json) -> Message:
    """Look at a message.

    Raises:
        InvalidMessage: a key is missing, unknown or of the wrong type; the text names it.
    """
    if not isinstance(content, dict):
        raise InvalidMessage(f"Invalid message: it must be an object with {_listed(_REQUIRED)}, not {_kind(content)}")
    for key in _REQUIRED:
        if key not in content:
            raise InvalidMessage(f"Invalid message: the key '{key}' is missing")
    for key in content:
        if key not in _KNOWN:
            raise InvalidMessage(f"Invalid message: unexpected key {_shown(key)}")
    session, name = content["session"], content["name"]
    if not isinstance(session, str):
        raise InvalidMessage(f"Invalid message: the value of 'session' must be a string, not {_kind(session)}")
    if not isinstance(name, str):
        raise InvalidMessage(f"Invalid message: the value of 'name' must be a string, not {_kind(name)}")
    return Message(session, name, content["data"])


def make_message(session: str, name: str, data: object, error: HPXError | None = None) -> dict[str, object]:
    """A message; with an error its data is null."""
    if error is None:
        return {"session": session, "name": name, "data": data}
    return {"session": session, "name": name, "data": None, "error": make_error(error)}


def make_error(error: HPXError) -> dict[str, object]:
    """An error as messages have it. Programs derive errors of their own, and may forget a part."""
    code = error.code if isinstance(error.code, int) else HPXError.code
    return {"code": int(code), "msg": str(getattr(error, "msg", error))}


def make_greeting(version: object, guest_allowed: bool) -> dict[str, object]:
    """What a server says first."""
    return {"version": version, "guest_allowed": guest_allowed}


# --------------------------------------------------------------------------------------------------- handshakes


class Handshake(enum.Enum):
    """What the data of a message without a session asks for."""

    GUEST = "to be a guest"
    USER = "to be a user"
    NONE = "something else"


def parse_handshake(data: Json) -> Handshake:
    """Whether somebody shakes hands, and as what."""
    if data == {} and isinstance(data, dict):
        return Handshake.GUEST
    if isinstance(data, dict) and set(data) == _CREDENTIALS:
        return Handshake.USER
    return Handshake.NONE


# ---------------------------------------------------------------------------------------------- server commands


class ServerCommand(enum.Enum):
    """What a server can be told to do. In a message it is its name, in any case, or its number."""

    ServerQuit = 1
    ServerRestart = 2
    RequestAuth = 3

    @property
    def word(self) -> str:
        """How we write it."""
        return self.name.lower()


_COMMANDS = {command.word: command for command in ServerCommand}


def parse_command(data: object) -> ServerCommand | None:
    """The server command that some data is; None if it is something else."""
    if isinstance(data, str):
        return _COMMANDS.get(data.lower())
    if type(data) is int and 1 <= data <= len(ServerCommand):  # a boolean is an int, too
        return ServerCommand(data)
    return None


# ----------------------------------------------------------------------------------------------- function calls


@dataclass(frozen=True)
class Call:
    """A function call: its name and its arguments."""

    fname: str
    arguments: dict[str, Json]


def parse_calls(data: Json) -> list[Call]:
    """The calls of a message.

    Raises:
        InvalidMessage: it is no list of function calls.
    """
    if not isinstance(data, list):
        raise InvalidMessage(
            f"Invalid message: the value of 'data' must be a list of function calls, or a server command, "
            f"not {_kind(data)}"
        )
    return list(_each_call(data))


def _each_call(entries: list[Json]) -> Iterator[Call]:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InvalidMessage(f"Invalid message: function call {number} must be an object, not {_kind(entry)}")
        if "fname" not in entry:
            raise InvalidMessage(f"Invalid message: the key 'fname' is missing in function call {number}")
        fname = entry.pop("fname")
        if not isinstance(fname, str):
            raise InvalidMessage(
                f"Invalid message: 'fname' in function call {number} must be a string, not {_kind(fname)}"
            )
        yield Call(fname, entry)


def make_result(fname: str, data: object, error: HPXError | None = None) -> dict[str, object]:
    """The answer to a function call; with an error its data is null."""
    if error is None:
        return {"fname": fname, "data": data}
    return {"fname": fname, "data": None, "error": make_error(error)}


# -------------------------------------------------------------------------------------------------------- texts

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


def _kind(content: Json) -> str:
    if isinstance(content, str) and len(content) < 40:
        return f"the string {content!r}"
    return _KINDS.get(type(content), "null")


def _shown(key: str) -> str:
    return f"'{key}'" if len(key) <= 100 else f"'{key[:100]}…'"


def _listed(names: tuple[str, ...]) -> str:
    return "the keys " + ", ".join(f"'{name}'" for name in names)
