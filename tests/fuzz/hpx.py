"""HPX: frames, messages, and how a server and a client react to them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator

from simplesockets.errors import FrameTooLarge
from simplesockets.hpx import codec
from simplesockets.hpx.client import _code_and_text
from simplesockets.hpx.exceptions import HPXError, from_code
from simplesockets.hpx.functions import Functions
from simplesockets.hpx.protocol import parse_command, parse_json
from simplesockets.hpx.service import Service
from simplesockets.hpx.sessions import Sessions

from .running import Reader, Target

PACKED = 4000
UNPACKED = 20_000
SESSION = "0123456789abcdef"
GUEST = "fedcba9876543210"
_WORDS = [
    codec.DELIMITER, b"<EO", b"F>", codec.DELIMITER * 3, b"\x1f\x8b", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x03\0",
    b"\0" * 8, b"\xff" * 8, b"\x01\xff\xff\0\0", b"null", b"[", b"{", b"}", b'"', b",", b'"error":', b"x" * PACKED,
]  # fmt: skip


class FramesReader(Reader):
    """Frames and the messages in them, as a connection and the thread that serves it read them."""

    def __init__(self) -> None:
        self._framing = codec.Framing(PACKED)
        self._unpacker = codec.Unpacker(UNPACKED, PACKED)
        self._failure: FrameTooLarge | None = None

    def feed(self, data: bytes) -> Iterator[object]:
        if self._failure is not None:  # of the unpacker: nobody reads the connection any more
            self._unpacker.take(data)
        try:
            for piece in self._framing.feed(data):
                yield from map(_plain, self._unpacker.take(piece))
        except FrameTooLarge as failure:
            self._failure = failure
            self._unpacker._failure = self._unpacker._failure or failure
            raise

    def feed_eof(self) -> Iterator[object]:
        if self._unpacker.pending or self._failure is not None:
            yield from map(_plain, self._unpacker.give_up())
        yield from self._framing.feed_eof()

    def kept(self) -> int:
        return len(self._framing._framer._kept) + len(self._unpacker._parts) + len(self._unpacker._pieces)


def _plain(message: bytes | codec.Unreadable) -> object:
    return message if isinstance(message, bytes) else ("unreadable", message.reason)


def _functions() -> Functions:
    def echo(value: object = None) -> object:
        return value

    functions = Functions()
    functions.add("echo", echo)
    return functions


def _service() -> Service:
    ids = iter((SESSION, GUEST))
    service = Service(
        "fuzz",
        _functions(),
        version={"core": [1, 2, 3], "db": [0, 0, 0], "torrent": [0, 0, 0]},
        guest_allowed=True,
        users={"admin": "secret"},
        dev=False,
        ready=True,
        sessions=Sessions(0.0, limit=10),
        clock=lambda: 1000.0,
        new_id=lambda: next(ids, "another"),
    )
    for data in ({"user": "admin", "password": "secret"}, {}):
        text = json.dumps({"session": "", "name": "", "data": data}).encode()
        assert service.answer(text, "127.0.0.1", lambda _: False).accepted
    return service


class ServerEnd:
    """Answers each message as a server does, and looks at the answer."""

    def __init__(self) -> None:
        self._service = _service()

    def __call__(self, item: object) -> str:
        message = item if isinstance(item, bytes) else codec.Unreadable("")
        assert len(message) <= UNPACKED if isinstance(message, bytes) else True
        reply = self._service.answer(message, "127.0.0.1", lambda _: False)
        assert not self._service.exceptions, self._service.exceptions[0].traceback
        assert reply.text is not None
        answer = json.loads(reply.text)
        assert {"session", "name", "data"} <= answer.keys() <= {"session", "name", "data", "error", "__id__"}
        if "error" in answer:
            assert answer["data"] is None
            return f"answer {answer['error']['code']}"
        return "accepted"


def client_end(item: object) -> str:
    """Reads a message as a client does."""
    if not isinstance(item, bytes):
        return "unreadable"
    try:
        content = parse_json(item)
    except HPXError as failure:
        return f"error {failure.code}"
    if not isinstance(content, dict):
        return "no object"
    parse_command(content.get("data"))
    if error := content.get("error"):
        code, text = _code_and_text(error)
        assert isinstance(from_code(code, "fuzz", text), HPXError)
        return "error in the message"
    return "message"


def _contents() -> Iterator[object]:
    data: tuple[object, ...] = (
        {}, {"user": "admin", "password": "secret"}, {"user": "admin"}, {"user": 1, "password": []},
        {"user": "admin", "password": "wrong"}, [], [{"fname": "echo"}], [{"fname": "echo", "value": {"a": [1, "ü"]}}],
        [{"fname": "nobody"}], [{"fname": 1}], [{}], [1], "serverquit", "ServerRestart", "requestauth", 1, 2, 3, True,
        None, 1.5, "x" * 100, [{"fname": "echo", "value": "<EOF>"}] * 3, [{"fname": "echo"}] * 40,
        {"version": {"core": [1]}, "guest_allowed": True}, "Authenticated",
    )  # fmt: skip
    for each in data:
        for session in ("", SESSION, GUEST, "unknown"):
            yield {"session": session, "name": "fuzz", "data": each}
    for error in ({"code": 404, "msg": "no"}, {"code": "x"}, {}, "text", 7, {"code": 10**30, "msg": None}):
        yield {"session": "", "name": "", "data": None, "error": error}
    for changed in ({"__id__": [1]}, {"other": 1}, {"name": 1}, {"session": None}, {"x" * 200: 1}):
        yield {"session": SESSION, "name": "fuzz", "data": [{"fname": "echo"}], **changed}
    yield from ([], 1, None, "text", {}, {"data": 1})


def _texts(dice: random.Random) -> Iterator[bytes]:
    texts = [json.dumps(content).encode() for content in _contents()]
    yield from texts
    for text in texts:
        spoilt = bytearray(text)
        for _ in range(2):
            spoilt[dice.randrange(len(spoilt))] = dice.choice(b'{}[]",:\\\xff 0e-')
        yield bytes(spoilt)
    yield from (b"", b"NaN", b"1e999", b"[" * 1500, b'"\\ud800"', b"\xef\xbb\xbf{}", b"1" * 5000, b" " * UNPACKED)
    yield b'{"session":"","name":"","data":1e999,"__id__":1e999}'
    yield b'{"session":"","name":"\\ud800","data":{},"__id__":"\\ud800"}'


def _frames(dice: random.Random) -> Iterator[bytes]:
    for text in _texts(dice):
        yield codec.pack(text)
        yield codec.pack(text, dice.randint(0, 9))
        if dice.random() < 0.3:
            yield gzip.compress(text, mtime=0) + codec.DELIMITER
    yield gzip.compress(b" " * (UNPACKED + 1), mtime=0) + codec.DELIMITER  # over the limit
    yield gzip.compress(b"1", mtime=0) * 2 + codec.DELIMITER  # two members
    yield codec._stored(b"<EOF>" * 20)  # delimiters inside


def targets(dice: random.Random) -> list[Target]:
    """The server's end, and the client's."""
    frames = [frame for frame in _frames(dice) if len(frame) <= PACKED + len(codec.DELIMITER)]
    most_kept = 2 * (PACKED + len(codec.DELIMITER)) + UNPACKED
    ends = (("server", ServerEnd()), ("client", client_end))
    return [Target(f"HPX, to the {name}", FramesReader, most_kept, frames, _WORDS, end) for name, end in ends]
