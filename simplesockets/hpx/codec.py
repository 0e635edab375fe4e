"""Frames: ``gzip(JSON in UTF-8)`` and then ``<EOF>``. Pure.

The delimiter may stand inside compressed bytes, too. So the end of a frame is where the gzip member ends and the
delimiter follows, which only the inflater knows. Here that is two steps:

    bytes --Framing--> pieces, each up to and including a delimiter --Unpacker--> messages

:class:`Framing` cuts at every delimiter and does nothing else; it is the ``protocol=`` of a connection. Nearly always a
piece is a whole frame. :class:`Unpacker` inflates one piece at a time, when its turn has come, so that of a thousand
small frames which unpack to gigabytes only one at a time is in memory, and that one up to a limit. If the member is not
over at the end of the piece, the delimiter was part of it, and the next piece goes on.

Or the frame is damaged, which is the same to an inflater for a while. When it finds out, or nothing follows, the first
piece is one unreadable message, and the pieces after it are tried anew from the first on that looks like the beginning
of a frame. So a damaged frame costs its own answer and no other. Whoever sends such frames on purpose does not get
more than twice the work out of it, on average: what is inflated again is paid from what was received.

What we send never contains the delimiter inside, so that programs which just split at it can read us.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator

from ..errors import FrameTooLarge
from ..framing import DelimiterFramer

DELIMITER = b"<EOF>"
MAX_PACKED = 16 * 1024 * 1024
"""Default limit of a frame, in bytes."""
MAX_UNPACKED = 64 * 1024 * 1024
"""Default limit of a message, in bytes of JSON."""
LEVEL = 1
"""Effort of compression. On JSON the highest levels take twice as long and save some per cent."""
SMALL = 1200
"""Bytes: shorter messages fit one network packet as they are. They are stored in gzip's format, not compressed, which
takes a tenth of the time."""

_GZIP = 31  # zlib's number for: a gzip member, with a window of 32 KiB
_MAGIC = b"\x1f\x8b"
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no flags, no time, unknown system
_BLOCK = struct.Struct("<BHH")  # a stored block: 1 if it is the last one, its size, the size inverted
_TRAILER = struct.Struct("<II")  # checksum and size of the content
_LAST_BLOCK = _BLOCK.pack(1, 0, 0xFFFF)
_CREDIT = 64 * 1024  # bytes; what is received adds to it
_BLOCK_SIZE = 0x7FFF  # so the upper byte of the inverted size is none of the delimiter's


# ------------------------------------------------------------------------------------------------------ packing


def pack(text: bytes, level: int = LEVEL) -> bytes:
    """The frame of a message, delimiter included. No other delimiter is inside.

    In the rare case that nothing else helps, blanks are appended to the message, which mean nothing in JSON.
    """
    if len(text) <= SMALL and DELIMITER not in text:
        frame = _stored(text)
        if _is_clean(frame):
            return frame
    for effort in dict.fromkeys((level, 6, 1)):
        frame = _compressed(text, effort)
        if _is_clean(frame):
            return frame
    while not _is_clean(frame := _stored_in_blocks(text)):
        text += b" "
    return frame


def _is_clean(frame: bytes) -> bool:
    return frame.find(DELIMITER) == len(frame) - len(DELIMITER)


def _stored(text: bytes) -> bytes:
    size = len(text)
    block = _BLOCK.pack(1, size, size ^ 0xFFFF)
    return b"".join((_HEADER, block, text, _TRAILER.pack(zlib.crc32(text), size), DELIMITER))


def _compressed(text: bytes, level: int) -> bytes:
    # gzip.compress() writes a time into each frame, and is slower with small ones.
    deflater = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
    return b"".join((deflater.compress(text), deflater.flush(), DELIMITER))


def _stored_in_blocks(text: bytes) -> bytes:
    # Each delimiter in the text is torn apart by the border of two blocks, and the empty block at the end keeps the
    # text from making one with the trailer. That leaves the trailer itself, which changes with the text.
    parts = [_HEADER]
    for block in _blocks(text):
        parts += _BLOCK.pack(0, len(block), len(block) ^ 0xFFFF), block
    parts += _LAST_BLOCK, _TRAILER.pack(zlib.crc32(text), len(text) & 0xFFFFFFFF), DELIMITER
    return b"".join(parts)


def _blocks(text: bytes) -> Iterator[bytes]:
    middle = 2
    start = 0
    while start < len(text):
        end = text.find(DELIMITER, start)
        end = len(text) if end < 0 else end + middle
        for place in range(start, end, _BLOCK_SIZE):
            yield text[place : min(end, place + _BLOCK_SIZE)]
        start = end


class Framing:
    """The ``protocol=`` of a connection: pieces come in, messages go out.

    Args:
        limit: bytes of a piece at most.
        level: effort of compression, 0 to 9.
    """

    def __init__(self, limit: int = MAX_PACKED, level: int = LEVEL) -> None:
        self._framer = DelimiterFramer(DELIMITER, limit)
        self._level = level
        self.received = 0
        """Bytes that were fed."""

    def feed(self, data: bytes) -> Iterable[bytes]:
        """What was received, cut after each delimiter. Pieces are for an :class:`Unpacker`."""
        self.received += len(data)
        return (piece + DELIMITER for piece in self._framer.feed(data))

    def feed_eof(self) -> Iterable[bytes]:
        """The stream ended.

        Raises:
            FrameTruncated: not after a delimiter.
        """
        return self._framer.feed_eof()

    def encode(self, item: bytes) -> bytes:
        """The frame of a message."""
        return pack(item, self._level)

    def data_to_send(self) -> bytes:
        """Never anything."""
        return b""


# ---------------------------------------------------------------------------------------------------- unpacking


class Unreadable:
    """Stands where a message would, and says why there is none."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<unreadable: {self.reason}>"


class Unpacker:
    """Makes messages of the pieces of one stream.

    Args:
        limit: bytes of a message at most.
        packed_limit: bytes of a frame at most.
    """

    def __init__(self, limit: int = MAX_UNPACKED, packed_limit: int = MAX_PACKED) -> None:
        self._limit = limit
        self._packed_limit = packed_limit
        self._inflater = zlib.decompressobj(_GZIP)
        # A frame of many tiny pieces must not take more memory than one of a few.
        self._parts = bytearray()  # of the message that is begun, unpacked …
        self._pieces = bytearray()  # … and packed
        self._credit = _CREDIT  # bytes that may be inflated again
        self._size = 0  # of the parts together
        self._packed = 0  # bytes of the message that is begun; 0 if none is
        self._failure: FrameTooLarge | None = None

    @property
    def pending(self) -> bool:
        """Whether a message is begun: the last delimiter was inside it, unless it is damaged."""
        return self._packed > 0

    def take(self, piece: bytes) -> list[bytes | Unreadable]:
        """Take a piece, delimiter included; give the messages that are complete now: one, mostly.

        Raises:
            FrameTooLarge: a message is over a limit. There is no way to go on then: every call raises it again.
        """
        self._check()
        self._credit += len(piece)
        return self._take_all(deque((piece,)))

    def give_up(self) -> list[bytes | Unreadable]:
        """Nothing followed for long: the message that is begun will not be completed. Gives what there is instead."""
        self._check()
        begun = self._pieces
        return [self._unreadable("it ends too early"), *self._take_all(self._salvage(begun))]

    def _take_all(self, pieces: deque[bytes]) -> list[bytes | Unreadable]:
        messages: list[bytes | Unreadable] = []
        while pieces:
            piece = pieces.popleft()
            try:
                message = self._inflate(piece)
            except zlib.error as failure:
                begun = self._pieces + piece
                messages.append(self._unreadable(str(failure)))
                pieces.extendleft(reversed(self._salvage(begun)))
                continue
            if message is not None:
                messages.append(message)
        return messages

    def _salvage(self, begun: bytearray) -> deque[bytes]:
        # The first piece was the beginning of a damaged message; which of the others may be another message?
        start = begun.find(DELIMITER + _MAGIC)
        if start < 0:
            return deque()
        rest = begun[start + len(DELIMITER) :]
        if len(rest) > self._credit:
            return deque()
        self._credit -= len(rest)
        return deque(bytes(piece) + DELIMITER for piece in rest.split(DELIMITER)[:-1])

    def _inflate(self, piece: bytes) -> bytes | None:
        self._packed += len(piece)
        if self._packed > self._packed_limit + len(DELIMITER):
            raise self._fail(self._packed, self._packed_limit)
        inflater = self._inflater
        part = inflater.decompress(piece, self._limit - self._size + 1)
        self._size += len(part)
        if self._size > self._limit:
            raise self._fail(self._size, self._limit)
        if not inflater.eof:
            self._parts += part
            self._pieces += piece
            return None
        if inflater.unused_data != DELIMITER:
            raise zlib.error("more than one gzip member, or something else behind it")
        message = bytes(self._parts + part) if self._parts else part
        self._reset()
        return message

    def _fail(self, size: int, limit: int) -> FrameTooLarge:
        self._failure = FrameTooLarge(size, limit)
        self._reset()  # nothing of it is of use
        return self._failure

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _unreadable(self, why: str) -> Unreadable:
        self._reset()
        return Unreadable(f"the message is not in gzip's format, or damaged: {why}")

    def _reset(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)
        self._parts = bytearray()
        self._pieces = bytearray()
        self._size = self._packed = 0
