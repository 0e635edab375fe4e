"""Content: what a program sends, what a handler gets, and who a client is. Pure.

Content travels as bytes. Text is UTF-8; numbers are their text; lists, dictionaries and clients are JSON; True is one
zero byte, and False is nothing at all. A handler's annotations say what comes out at the other end.
"""

from __future__ import annotations

import ast
import ipaddress
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Union

from .errors import InvalidTypeCast

LITERAL_LIMIT = 32 * 1024
"""Characters: longer lists and dictionaries have to be JSON; shorter ones may be Python literals, too."""


class ClientAddress(tuple[str, int]):
    """``(ip, port)``, whose text is ``ip:port``."""

    def __new__(cls, address: typing.Iterable[object]) -> ClientAddress:
        host, port = address
        if not isinstance(host, str) or not isinstance(port, int):
            raise ValueError(f"an address is a pair (ip, port) such as ('127.0.0.1', 5000), not {(host, port)!r}")
        return tuple.__new__(cls, (host, port))

    def __str__(self) -> str:
        return f"{self[0]}:{self[1]}"


class ClientInfo(dict[str, object]):
    """Who a client is: a dictionary of ``ip``, ``name`` and ``group``, with the same as attributes.

    It is JSON as it is. On the server ``info["socket"]`` gives the client's socket, too; that is no part of the JSON.

    Args:
        ip: ``(ip, port)``.
        name: None for a client without one.
        group: None likewise.
    """

    _socket: object = None

    def __init__(self, ip: typing.Iterable[object], name: str | None = None, group: str | None = None) -> None:
        super().__init__(ip=ClientAddress(ip), name=name, group=group)

    def __missing__(self, key: str) -> object:
        if key == "socket" and self._socket is not None:
            return self._socket
        raise KeyError(key)

    @property
    def ip(self) -> ClientAddress:
        """``(ip, port)``, whose text is ``ip:port``."""
        return self["ip"]  # type: ignore[return-value]  # cast() would take longer than the rest

    @property
    def name(self) -> str | None:
        """The name; None if there is none."""
        return typing.cast("str | None", self["name"])

    @property
    def group(self) -> str | None:
        """The group; None if there is none."""
        return typing.cast("str | None", self["group"])

    @property
    def ip_as_str(self) -> str:
        """The address as ``ip:port``. Source: 2.x."""
        return str(self.ip)

    ipstr = ip_as_str
    """The same under its name of 1.x."""

    @property
    def client_dict(self) -> dict[str, object]:
        """A plain dictionary of the three. Source: 2.x."""
        return dict(self)

    def as_dict(self) -> dict[str, object]:
        """A plain dictionary of the three. Source: 1.x."""
        return dict(self)

    def __str__(self) -> str:
        return f"<ClientInfo: IP: {self.ip}, Name: {self.name}, Group: {self.group}>"

    __repr__ = __str__

    def __reduce__(self) -> tuple[type[ClientInfo], tuple[object, ...]]:
        return ClientInfo, (tuple(self.ip), self.name, self.group)


def read_info(content: bytes | str) -> ClientInfo:
    """The client that a JSON text describes.

    Raises:
        ValueError: it describes none.
    """
    described = json.loads(content)
    if not isinstance(described, dict) or not isinstance(described.get("ip"), list):
        raise ValueError(f"this does not describe a client: {content[:100]!r}")
    for key in ("name", "group"):
        if not isinstance(described.get(key), (str, type(None))):
            raise ValueError(f"a client's {key} is text or null, not {described[key]!r}")
    return ClientInfo(described["ip"], described.get("name"), described.get("group"))


def read_address(text: str) -> tuple[str, int] | None:
    """The address that a text of the shape ``ip:port`` names; None for any other text.

    Raises:
        ValueError: it has that shape, but the port is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        return None
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    if len(port) > 5 or int(port) > 65535:
        raise ValueError(f"{text!r} has no valid port; ports go up to 65535")
    return host, int(port)


# ----------------------------------------------------------------------------------------------------- sending


def to_content(value: object) -> bytes:
    """The bytes that carry a value.

    Raises:
        InvalidTypeCast: values of that type cannot be sent.
    """
    if type(value) is bytes:
        return value
    if type(value) is str:
        return value.encode()
    if value is None:
        return b""
    if type(value) is bool:
        return b"\x00" if value else b""
    if isinstance(value, (str, int, float)):
        return str(value).encode()
    if isinstance(value, (list, dict)):
        return _to_json(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise InvalidTypeCast(
        f"{value!r} cannot be sent: send bytes, str, int, float, bool, list, dict, a ClientInfo or None, "
        f"not {type(value).__name__}"
    )


def _to_json(value: object) -> bytes:
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as failure:
        raise InvalidTypeCast(f"{value!r:.200} cannot be sent as JSON: {failure}") from failure


# --------------------------------------------------------------------------------------------------- receiving

Cast = Callable[["bytes | None"], object]
"""Makes a value of content; None is no content."""


def _int(content: bytes) -> int:
    text = content.decode().strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return int(text, 0)  # 0x10 and its like
    except ValueError:
        number = float(text)
    if not math.isfinite(number):
        raise ValueError("this is no whole number")
    return int(number)


def _bool(content: bytes) -> bool:
    value = {b"\x00": True, b"1": True, b"true": True, b"0": False, b"false": False}.get(content.lower())
    if value is None:
        raise ValueError("a bool is 1 or 0, true or false")
    return value


def _structure(kind: type, bracket: str) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        text = content.decode()
        try:
            value = json.loads(text)
        except ValueError:
            # Python's parser is not made for hostile text: it takes long, and some versions crash on what is long.
            if len(text) > LITERAL_LIMIT or not text.lstrip().startswith(bracket):
                raise
            value = ast.literal_eval(text.strip())
        if not isinstance(value, kind):
            raise ValueError(f"this is a {type(value).__name__}")
        return value

    return read


_READERS: dict[object, tuple[Callable[[bytes], object], Callable[[], object]]] = {
    str: (bytes.decode, str),
    int: (_int, int),
    float: (lambda content: float(content.decode()), float),
    bool: (_bool, bool),
    list: (_structure(list, "["), list),
    dict: (_structure(dict, "{"), dict),
    ClientInfo: (read_info, lambda: read_info(b"")),  # there is no empty one, which it says
}
"""How to read each type, and how to make its value for no content."""


def castable(kind: object) -> Cast | None:
    """How to cast content to a type; None where the type is none that content can be cast to.

    Args:
        kind: ``bytes str int float bool list dict ClientInfo`` or None, also as ``list[int]`` or ``Optional[str]``
            (of which nothing but the outer type, and that no content is None, counts).
    """
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _optional(typing.get_args(kind))
    if origin is not None:
        kind = origin
    if kind is None or kind is type(None) or kind is object or kind is typing.Any:
        return _as_it_is
    if kind is bytes:
        return _bytes
    return _reading(typing.cast("type", kind)) if kind in _READERS else None


def _optional(kinds: tuple[object, ...]) -> Cast | None:
    rest = [kind for kind in kinds if kind is not type(None)]
    if len(rest) != 1:
        return None
    cast = castable(rest[0])
    if cast is None or len(rest) == len(kinds):
        return cast
    return lambda content: None if content is None else cast(content)


def _as_it_is(content: bytes | None) -> bytes | None:
    return content


def _bytes(content: bytes | None) -> bytes:
    return content or b""


def _reading(kind: type) -> Cast:
    read, make = _READERS[kind]

    def cast(content: bytes | None) -> object:
        try:
            return read(content) if content else make()
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as failure:
            # Not `from failure`: its text may repeat all that the peer sent, and goes to logs.
            shown = (content or b"")[:100]
            raise InvalidTypeCast(f"{shown!r} cannot be cast to {kind.__name__}: {failure!s:.100}") from None

    return cast


def cast_for(kind: object) -> Cast:
    """How to cast content to a type, as :func:`castable`.

    Raises:
        InvalidTypeCast: there is no way.
    """
    cast = castable(kind)
    if cast is None:
        raise InvalidTypeCast(
            f"content cannot be cast to {kind!r}; use bytes, str, int, float, bool, list, dict or ClientInfo"
        )
    return cast
