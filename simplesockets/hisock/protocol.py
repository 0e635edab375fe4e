"""What HiSock sends over the wire, in both generations. Pure.

Every message is a header (the body's length in decimal digits, padded with spaces) and a body. A body is a *word*
such as ``$KEEPALIVE$``, maybe with something behind it, or a command, or raw data. The generations differ in a space
and in how commands are written; :class:`Dialect` has all of that:

    ==================  ====================================  ==========================
    message             2.x                                   0.x
    ==================  ====================================  ==========================
    hello               ``$CLTHELLO${…}``                     ``$CLTHELLO$ {…}``
    command             ``$CMD$<command>$MSG$<content>``      ``<command> <content>``
    joined, left        ``$CLTCONN${…}``, ``$CLTDISCONN$…``   with a space
    rename, regroup     ``$CHNAME$<name>``                    with a space
    look-up             ``$GETCLT$<client>``                  with a space
    its answer          ``$CMD$$MSG${…}``                     ``{…}``
    ==================  ====================================  ==========================

A client of 0.x that has no name any more sends ``$CHNAME$`` without a header (``bare`` in framing.py).

The server learns a client's dialect from its hello, which comes first (:class:`ServerProtocol`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import ProtocolError
from ..framing import MAX_FRAME, LengthPrefixFramer
from ..protocol import nothing_to_send

HEADER_LEN = 16
"""Bytes of a header, by default."""
HELLO_LIMIT = 64 * 1024
"""Bytes: a larger hello is refused."""

HELLO = b"$CLTHELLO$"
JOINED = b"$CLTCONN$"
LEFT = b"$CLTDISCONN$"
KICKED = b"$DISCONN$"
GOODBYE = b"$USRCLOSE$"
RENAME = b"$CHNAME$"
REGROUP = b"$CHGROUP$"
LOOK_UP = b"$GETCLT$"
KEEPALIVE = b"$KEEPALIVE$"
ALIVE = b"$KEEPACK$"
TLS_PROBE = b"$DH_NUMS$"
NO_TLS = b"$NOTLS$"
COMMAND = b"$CMD$"
CONTENT = b"$MSG$"
_NAME = len(COMMAND)  # where a command's name begins

RESERVED = (
    HELLO, JOINED, LEFT, KICKED, GOODBYE, RENAME, REGROUP, LOOK_UP, KEEPALIVE, ALIVE, TLS_PROBE, NO_TLS, COMMAND
)  # fmt: skip
"""What raw content must not begin with: it would mean something."""
UNKNOWN_CLIENT = "$NOEXIST$"
"""The traceback in the answer to a look-up of somebody who is not connected."""

_RESERVED_COMMAND = re.compile(r"\$.+\$", re.DOTALL)


class InvalidHello(ProtocolError, ValueError):
    """A client did not introduce itself as it has to."""


class Hello(NamedTuple):
    """How a client introduced itself."""

    dialect: Dialect
    name: str | None
    group: str | None


class Dialect:
    """The messages of one generation.

    Args:
        version: ``"2.x"`` or ``"0.x"``.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.modern = version == "2.x"
        self._gap = b"" if self.modern else b" "
        self._command = COMMAND + b"%b" + CONTENT + b"%b" if self.modern else b"%b %b"

    def __repr__(self) -> str:
        return f"<dialect {self.version}>"

    def word(self, word: bytes, rest: bytes = b"") -> bytes:
        """A reserved word with something behind it."""
        return word + self._gap + rest if rest else word

    def rest(self, word: bytes, body: bytes) -> bytes:
        """What stands behind a reserved word."""
        return body[len(word) :] if self.modern else body[len(word) :].removeprefix(b" ")

    def hello(self, name: str | None, group: str | None) -> bytes:
        """A client's introduction."""
        return self.word(HELLO, json.dumps({"name": name, "group": group}).encode())

    def command(self, name: str, content: bytes) -> bytes:
        """A command with its content.

        Raises:
            ValueError: the text is not valid Unicode.
        """
        return self._command % (name.encode(), content)

    def answer(self, found: dict[str, object]) -> bytes:
        """The answer to a look-up."""
        described = json.dumps(found).encode()
        return COMMAND + CONTENT + described if self.modern else described

    def look_up_answer(self, body: bytes) -> dict[str, object] | None:
        """What an answer to a look-up says, in either form; None if the body is none."""
        try:
            found = json.loads(body.removeprefix(COMMAND + CONTENT))
        except (ValueError, RecursionError):
            return None
        if isinstance(found, dict) and ("traceback" in found or {"ip", "name", "group"} <= found.keys()):
            return found
        return None

    def read_command(self, body: bytes) -> tuple[str, bytes | None] | None:
        """The command in a body, and its content, None if it has none; nothing but None if it is raw data. In 0.x
        every body is a command: its first word.

        Raises:
            ProtocolError: the command's name is not text.
        """
        if self.modern:
            if not body.startswith(COMMAND):
                return None
            name, _, content = body[_NAME:].partition(CONTENT)
        else:
            name, _, content = body.partition(b" ")
        try:
            return name.decode(), content or None
        except UnicodeDecodeError as failure:
            if not self.modern:
                return None
            raise ProtocolError(f"the name of a command is not text: {name[:100]!r}") from failure


MODERN = Dialect("2.x")
OLD = Dialect("0.x")


def dialect_of(version: object) -> Dialect:
    """The dialect of a version: ``"2.x"``, ``"0.x"``, ``"1.x"``, or any version that begins so, such as ``"2.0.2"``.

    Raises:
        ValueError: there is none.
    """
    generation = str(version).partition(".")[0]
    if generation == "2":
        return MODERN
    if generation in ("0", "1"):
        return OLD
    raise ValueError(f"dialect={version!r} is not known; it is '2.x' (the default) or '0.x'")


def read_hello(body: bytes) -> Hello:
    """A client's introduction, which also tells its dialect.

    Raises:
        InvalidHello: it is none.
    """
    if not body.startswith(HELLO):
        raise InvalidHello(
            f"a client has to introduce itself first, with {HELLO.decode()}; it sent {body[:60]!r}. Is it one of "
            "HiSock, with the same header_len?"
        )
    dialect = OLD if body.startswith(b" ", len(HELLO)) else MODERN
    try:
        given = json.loads(body[len(HELLO) :])
    except (ValueError, RecursionError) as failure:
        raise InvalidHello(f"a client's hello is not JSON: {body[:60]!r}") from failure
    if not isinstance(given, dict):
        raise InvalidHello(f"a client's hello is no dictionary of name and group: {body[:60]!r}")
    for key in ("name", "group"):
        if not isinstance(given.get(key), (str, type(None))):
            raise InvalidHello(f"a client's {key} has to be text or null, not {given[key]!r:.60}")
    return Hello(dialect, given.get("name"), given.get("group"))


def check_command(name: object) -> None:
    """Refuse names that the other end could not tell from something else.

    Raises:
        TypeError: it is no text.
        ValueError: it may not be used.
    """
    if type(name) is str and len(name) <= _KEPT_NAME:
        _check_name(name)
        return
    if not isinstance(name, str):
        advice = '; the decorator takes it: @server.on("chat")' if callable(name) else ""
        raise TypeError(f"a command is text, such as 'chat', not {name!r}{advice}")
    _check_name.__wrapped__(name)


_KEPT_NAME = 100
"""Characters: longer names are looked at each time. They may be another end's, which a program passes on."""


@functools.lru_cache(maxsize=256)  # programs have few commands, and use them often
def _check_name(name: str) -> None:
    if not name:
        raise ValueError("a command needs a name; raw content without one is sent by the raw methods")
    if _RESERVED_COMMAND.search(name):
        raise ValueError(f"the command {name!r} has the form $…$, which is reserved; choose another name")
    if f"{name}{CONTENT.decode()}".find(CONTENT.decode()) != len(name):
        raise ValueError(f"the command {name!r} ends with the beginning of {CONTENT.decode()}; choose another name")


def check_raw(content: bytes) -> bytes:
    """Refuse raw content that would mean something; else give it.

    Raises:
        ValueError: it begins with a reserved word.
    """
    if content.startswith(b"$") and content.startswith(RESERVED):
        word = next(word for word in RESERVED if content.startswith(word))
        raise ValueError(f"raw content must not begin with {word.decode()}, which is reserved; use the method for it")
    return content


# -------------------------------------------------------------------------------------------------- connections


class ServerProtocol:
    """A server's half of a connection: bodies in, bodies out. Refuses whoever does not begin with a hello.

    Args:
        header_len: bytes of a header.
        limit: the largest body, in bytes.
    """

    def __init__(self, header_len: int = HEADER_LEN, limit: int = MAX_FRAME) -> None:
        self._framer = LengthPrefixFramer(header_len, min(limit, HELLO_LIMIT))
        self._writer = LengthPrefixFramer(header_len, limit)
        self._limit = limit
        self.greeted = False
        """Whether a valid hello came."""
        self.joined = False
        """Whether the server took it in, or refused to."""
        self.encode = self._writer.encode
        self.feed_eof = self._framer.feed_eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take received bytes; give the bodies that they complete. (Once the hello came, the framer does.)"""
        for body in self._framer.feed(data):
            if not self.greeted and not body.startswith(TLS_PROBE):
                self._greet(body)
            yield body

    def _greet(self, body: bytes) -> None:
        try:
            dialect = read_hello(body).dialect
        except InvalidHello as failure:
            self._framer.fail(failure)  # a second try would not count
            raise
        self._framer.limit = self._limit
        if not dialect.modern:
            self._framer.bare = (RENAME, REGROUP)
        self.greeted = True
        self.feed = self._framer.feed  # type: ignore[method-assign]

    data_to_send = nothing_to_send


class ClientProtocol:
    """A client's half of a connection: bodies in, bodies out. Answers keepalives.

    Args:
        header_len: bytes of a header.
        limit: the largest body, in bytes.
    """

    def __init__(self, header_len: int = HEADER_LEN, limit: int = MAX_FRAME) -> None:
        self._framer = LengthPrefixFramer(header_len, limit)
        self._reply = b""
        self.encode = self._framer.encode
        self.feed_eof = self._framer.feed_eof

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Take received bytes; give the bodies that they complete. Keepalives are left out."""
        for body in self._framer.feed(data):
            if body == KEEPALIVE:
                self._reply += self.encode(ALIVE)
            else:
                yield body

    def data_to_send(self) -> bytes:
        """Acknowledgements of keepalives."""
        reply, self._reply = self._reply, b""
        return reply
