"""HiSock's protocol: both dialects, the server's end and the client's, and what they read out of bodies."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator

from simplesockets.errors import ProtocolError
from simplesockets.framing import LengthPrefixFramer
from simplesockets.hisock import protocol
from simplesockets.hisock.casting import ClientInfo, cast_for, read_address, read_info
from simplesockets.hisock.errors import InvalidTypeCast
from simplesockets.hisock.protocol import MODERN, OLD, ClientProtocol, Dialect, ServerProtocol

from .running import Reader, Target

LIMIT = 4000
NESTED = b"[" * 1500
"""Deeper than Python's parsers go."""
_ALIVE = LengthPrefixFramer().encode(protocol.ALIVE)
_CASTS = {kind: cast_for(kind) for kind in (str, int, float, bool, list, dict, ClientInfo)}
_CASTABLE = (b"}", b"]", b"1", b")")
_WORDS = [
    *protocol.RESERVED, protocol.CONTENT, b"0", b"4000", b"4001", b"-1", b"9" * 16, b"16".ljust(16), b"0".ljust(16),
    b" ", b"{", b"}", b'"', b"null", b'{"name": 1}', b'{"name": "\\ud800"}', b"\xff", b"\0", NESTED, b"1e999",
    b"1" * 400, b"0x10", b"('::1', 1)", b"127.0.0.1:99999",
]  # fmt: skip


class ServerReader(Reader):
    """A server's end. What a client says first is outside the limit of the rest."""

    def __init__(self) -> None:
        self._protocol = ServerProtocol(limit=LIMIT)

    def feed(self, data: bytes) -> Iterable[object]:
        return self._protocol.feed(data)

    def feed_eof(self) -> Iterable[object]:
        return self._protocol.feed_eof()

    def kept(self) -> int:
        return len(self._protocol._framer._kept)


class ClientReader(Reader):
    """A client's end. Its acknowledgements are items, too."""

    def __init__(self) -> None:
        self._protocol = ClientProtocol(limit=LIMIT)

    def feed(self, data: bytes) -> Iterator[object]:
        yield from self._protocol.feed(data)
        reply = self._protocol.data_to_send()
        assert reply == _ALIVE * (len(reply) // len(_ALIVE))

    def feed_eof(self) -> Iterable[object]:
        return self._protocol.feed_eof()

    def kept(self) -> int:
        return len(self._protocol._framer._kept)


def _cast_all(content: bytes | None) -> None:
    for kind, cast in _CASTS.items():
        try:
            value = cast(content)
        except InvalidTypeCast:
            continue
        assert isinstance(value, kind)


def _understand(item: object, dialect: Dialect) -> str:
    assert type(item) is bytes
    assert len(item) <= LIMIT
    if item.startswith(protocol.HELLO):
        try:
            return f"hello of {protocol.read_hello(item).dialect.version}"
        except protocol.InvalidHello:
            return "bad hello"
    if item.startswith((b"{", protocol.COMMAND + protocol.CONTENT)) or len(item) % 8 == 0:  # it takes long
        dialect.look_up_answer(item)
    for word in (protocol.JOINED, protocol.LEFT):
        if item.startswith(word):
            return _notice(dialect.rest(word, item))
    try:
        command = dialect.read_command(item)
    except ProtocolError:
        return "bad command"
    if command is None:
        return "raw"
    name, content = command
    if item.endswith(_CASTABLE) and len(item) % 4 == 0:  # these, too
        _cast_all(content)
    try:
        protocol.check_command(name)
    except ValueError:
        return "reserved command"
    try:
        read_address(name)
    except ValueError:
        return "bad address"
    return "command"


def _notice(described: bytes) -> str:
    try:
        read_info(described)
    except ValueError:
        return "bad notice"
    return "notice"


def _frames(dialect: Dialect, dice: random.Random) -> Iterator[bytes]:
    encode = LengthPrefixFramer(16, LIMIT).encode
    info = json.dumps({"ip": ["127.0.0.1", 5000], "name": "ann", "group": None}).encode()
    for word in protocol.RESERVED:
        yield encode(word)
        yield encode(dialect.word(word, b"ann"))
        yield encode(dialect.word(word, info))
    yield encode(dialect.answer({"ip": ["::1", 1], "name": None, "group": "g"}))
    yield encode(dialect.answer({"traceback": protocol.UNKNOWN_CLIENT}))
    contents = (
        b"",
        b"hello",
        b"1",
        b"-7",
        b"[1, 2]",
        b"{'a': (1, 2)}",
        info,
        b"\xff\0",
        b"x" * 3000,
        b"[" * 300 + b"1",
    )
    for name in ("chat", "a b", "ünï", "127.0.0.1:5000"):
        for content in contents:
            yield encode(dialect.command(name, content))
    for size in (0, 1, 15, 16, 17, LIMIT):
        yield encode(b"x" * size)
    for _ in range(40):
        yield encode(dialect.command("chat", dice.randbytes(int(30 * dice.random()))))


def _hellos(dialect: Dialect) -> list[bytes]:
    encode = LengthPrefixFramer(16, LIMIT).encode
    probe = encode(protocol.TLS_PROBE)
    hellos = [encode(dialect.hello(name, group)) for name, group in (("ann", None), (None, "g"), ("ü", "x" * 200))]
    return [*hellos, probe + hellos[0], *hellos]


def _target(dialect: Dialect, server: bool, dice: random.Random) -> Target:
    frames = list(_frames(dialect, dice))
    if server and not dialect.modern:
        frames += [protocol.RENAME, protocol.REGROUP]  # without a header
    return Target(
        name=f"HiSock {dialect.version}, to the {'server' if server else 'client'}",
        reader=ServerReader if server else ClientReader,
        most_kept=LIMIT + 16,
        frames=frames,
        words=_WORDS,
        understand=lambda item: _understand(item, dialect),
        opening=_hellos(dialect) if server else (),
    )


def targets(dice: random.Random) -> list[Target]:
    """Both ends in both dialects."""
    return [_target(dialect, server, dice) for dialect in (MODERN, OLD) for server in (True, False)]
