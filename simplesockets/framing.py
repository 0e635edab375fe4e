"""Framers: where one frame ends and the next begins in a stream of bytes. Pure.

A framer is fed whatever the network delivered and yields the frames that are complete:

    for frame in framer.feed(data): ...
    for frame in framer.feed_eof(): ...

Both are iterators; run each to its end before the next call. An error (:class:`~.errors.ProtocolError`) is raised
where it stands in the stream, so frames before it come out first, however the bytes were cut. After an error the
stream is of no use any more: whatever follows raises the same error, and nothing of it is kept.

Cost: every byte is looked at a bounded number of times, whatever the sizes of the pieces. A frame that has not come
whole waits in a bytearray, and it is not searched again before it can be complete: the length-prefix framer knows
how many bytes are due, the delimiter framer remembers how far it searched. Frames that came whole are cut from what
was fed, without a copy in between.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache

from .errors import FrameTooLarge, FrameTruncated, InvalidHeader, ProtocolError

MAX_FRAME = 64 * 1024 * 1024
"""Default limit of a frame, in bytes, header or delimiter not counted."""


_MOST_DIGITS = 18
"""More digits than any limit has; int() refuses thousands, and takes long for hundreds."""


# The same lengths come again and again, and to look one up takes a third of the time of reading or writing it. (Not for
# subclasses, which may be equal and different nevertheless.)


@lru_cache(1024)
def _length_in(header: bytes) -> int:
    digits = header.rstrip(b" ")
    if not digits.isdigit():  # refuses "", "-1", "+1", "1_0" and non-ASCII digits, all of which int() would take
        raise InvalidHeader(header)
    return int(digits) if len(digits) <= _MOST_DIGITS else _read_long(digits)


@lru_cache(1024)
def _header_of(length: int, header_size: int) -> bytes:
    header = b"%-*d" % (header_size, length)
    if len(header) > header_size:
        raise ValueError(f"a length of {length} does not fit a header of {header_size} characters")
    return header


def _read_long(digits: bytes) -> int:
    significant = digits.lstrip(b"0")
    return int(significant or b"0") if len(significant) <= _MOST_DIGITS else sys.maxsize


def _check_size(name: str, value: object, least: int = 0) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of bytes, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least} bytes, not {value}")


class _Stream:
    """What both framers keep of a stream."""

    def __init__(self) -> None:
        self._kept = bytearray()  # the frame that has not come whole
        self._failure: ProtocolError | None = None

    def fail(self, failure: ProtocolError) -> ProtocolError:
        """The stream is of no use any more: feeding it raises this error from now on. Gives the error."""
        self._failure = failure
        self._kept[:] = b"!"  # so who is fed looks at the failure, for which nothing is asked while all goes well
        return failure

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class LengthPrefixFramer(_Stream):
    """Frames that follow a header of fixed size which says their length, by default in ASCII decimal digits, padded
    with spaces on the right (HiSock's form).

    Args:
        header_size: bytes of header.
        limit: the largest frame that is taken or made, in bytes. May be changed between frames.

    :attr:`bare` may be set to words that stand without a header, where one is due; none begins with another. They come
    out as these very objects.

    Another header (binary, say) is a subclass that overrides :meth:`read_header` and :meth:`write_header`.
    """

    def __init__(self, header_size: int = 16, limit: int = MAX_FRAME) -> None:
        super().__init__()
        _check_size("header_size", header_size, 1)
        _check_size("limit", limit)
        self.header_size = header_size
        self.limit = limit
        self.bare: tuple[bytes, ...] = ()
        self._due = header_size  # with fewer bytes than these there is nothing to look at

    def read_header(self, header: bytes) -> int:
        """The length that a header says.

        Raises:
            InvalidHeader: it does not say one.
        """
        return _length_in(header) if type(header) is bytes else _length_in.__wrapped__(header)

    def write_header(self, size: int) -> bytes:
        """The header of a frame of ``size`` bytes.

        Raises:
            ValueError: the header is too short for that number.
        """
        return (_header_of if type(size) is int else _header_of.__wrapped__)(size, self.header_size)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what was received; give the frames that it completes."""
        body, size = self.header_size, len(data)
        try:
            if size >= body and not self._kept and not self.bare and size == body + self._read_size(data[:body]):
                return iter((data[body:],))  # most come alone and whole, and need no generator
        except ProtocolError:
            pass  # it is raised again, to who asks for frames
        return self._cut(data)

    def _cut(self, data: bytes) -> Iterator[bytes]:
        if self._kept:
            self._check()
            self._kept += data
            if len(self._kept) < self._due:
                return
            data = bytes(self._kept)
            self._kept.clear()
        start = 0
        while True:
            if self.bare and (word := self._bare_word(data, start)) is not None:
                start += len(word)
                yield word
                continue
            body = start + self.header_size
            if len(data) < body:
                # A bare word may be complete sooner; then every byte counts.
                self._keep(data, start, len(data) - start + 1 if self.bare else self.header_size)
                return
            end = body + self._read_size(data[start:body])
            if len(data) < end:
                self._keep(data, start, end - start)
                return
            start = end
            yield data[body:end]

    def _read_size(self, header: bytes) -> int:
        try:
            size = self.read_header(header)
        except ProtocolError as failure:
            self.fail(failure)
            raise
        if size > self.limit:
            raise self.fail(FrameTooLarge(size, self.limit))
        return size

    def _bare_word(self, data: bytes, start: int) -> bytes | None:
        return next((word for word in self.bare if data.startswith(word, start)), None)

    def _keep(self, data: bytes, start: int, due: int) -> None:
        self._kept += memoryview(data)[start:]
        self._due = due

    def feed_eof(self) -> Iterator[bytes]:
        """The stream ended.

        Raises:
            FrameTruncated: inside a frame.
        """
        if self._kept:
            self._check()
            raise FrameTruncated(len(self._kept))
        return iter(())

    def encode(self, frame: bytes) -> bytes:
        """The bytes to send for a frame.

        Raises:
            ValueError: it is over the limit, or its length does not fit the header.
        """
        size = len(frame)
        if size > self.limit:
            raise FrameTooLarge(size, self.limit)
        return self.write_header(size) + frame


class DelimiterFramer(_Stream):
    r"""Frames that end with a delimiter, which is not part of them.

    Args:
        delimiter: for example ``b"\n"``.
        limit: the largest frame that is taken or made, in bytes.
        final: whether an unfinished frame at the end of the stream counts as one (as the last line of a text file
            does); without it, that is a :class:`~.errors.FrameTruncated`.
    """

    def __init__(self, delimiter: bytes = b"\n", limit: int = MAX_FRAME, *, final: bool = False) -> None:
        super().__init__()
        if not delimiter:
            raise ValueError("the delimiter is empty; give at least one byte, such as b'\\n'")
        _check_size("limit", limit)
        self.delimiter = delimiter
        self.limit = limit
        self.final = final
        self._searched = 0  # no delimiter begins in the bytes of _kept before this one

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what was received; yield the frames that it completes."""
        source: bytes | bytearray = data
        found = 0
        if self._kept:
            self._check()
            self._kept += data
            found = self._kept.find(self.delimiter, self._searched)
            if found < 0:
                self._wait_for_more()
                return
            source = bytes(self._kept)
            self._kept.clear()
        start = 0
        while (found := source.find(self.delimiter, max(start, found))) >= 0:
            if found - start > self.limit:
                break
            yield bytes(source[start:found])
            start = found = found + len(self.delimiter)
        self._kept += memoryview(source)[start:]
        self._wait_for_more()

    def _wait_for_more(self) -> None:
        # The end of what is kept may be the beginning of a delimiter, so that much is searched again, and is not
        # counted against the limit.
        undecided = len(self.delimiter) - 1
        if len(self._kept) - undecided > self.limit:
            raise self.fail(FrameTooLarge(len(self._kept) - undecided, self.limit))
        self._searched = max(0, len(self._kept) - undecided)

    def feed_eof(self) -> Iterator[bytes]:
        """The stream ended.

        Raises:
            FrameTruncated: inside a frame (without ``final``).
        """
        if not self._kept:
            return
        self._check()
        if not self.final:
            raise FrameTruncated(len(self._kept))
        if len(self._kept) > self.limit:
            raise self.fail(FrameTooLarge(len(self._kept), self.limit))
        rest = bytes(self._kept)
        self._kept.clear()
        yield rest

    def encode(self, frame: bytes) -> bytes:
        """The bytes to send for a frame.

        Raises:
            ValueError: it is over the limit, or the delimiter would be found inside or across its end.
        """
        if len(frame) > self.limit:
            raise FrameTooLarge(len(frame), self.limit)
        encoded = frame + self.delimiter
        if encoded.find(self.delimiter) != len(frame):
            raise ValueError(f"the frame contains its own delimiter {self.delimiter!r}; escape it, or choose another")
        return encoded
