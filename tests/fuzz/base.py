"""The framers of the base layer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from simplesockets.framing import DelimiterFramer, LengthPrefixFramer

from .running import Reader, Target

LIMIT = 300
BARE = (b"$CHNAME$", b"$CHGROUP$")
_SIZES = (0, 1, 2, 15, 16, 17, LIMIT - 1, LIMIT)
_DIGITS = (b"0", b"00", b"-1", b"+1", b" 1", b"1_0", b"\xb2", b"301", b"300", b"299", b"9" * 4, b"9" * 16, b"0" * 15)


class FramerReader(Reader):
    """A framer."""

    def __init__(self, framer: LengthPrefixFramer | DelimiterFramer) -> None:
        self._framer = framer

    def feed(self, data: bytes) -> Iterable[object]:
        return self._framer.feed(data)

    def feed_eof(self) -> Iterable[object]:
        return self._framer.feed_eof()

    def kept(self) -> int:
        return len(self._framer._kept)


def understand(item: object) -> str:
    """A frame is bytes within the limit."""
    assert type(item) is bytes
    assert len(item) <= LIMIT
    return "frame"


def _prefixed(header: int, bare: tuple[bytes, ...] = ()) -> LengthPrefixFramer:
    framer = LengthPrefixFramer(header, LIMIT)
    framer.bare = bare
    return framer


def _bodies(dice: random.Random) -> Iterator[bytes]:
    for _ in range(100):
        yield dice.randbytes(int(20 * dice.random() ** 2))
    for size in _SIZES:
        yield b"x" * size


def _of_prefix(header: int, bare: tuple[bytes, ...], dice: random.Random) -> Target:
    encode = _prefixed(header).encode
    return Target(
        name=f"length prefix of {header}{', bare words' if bare else ''}",
        reader=lambda: FramerReader(_prefixed(header, bare)),
        most_kept=header + LIMIT,
        frames=[*map(encode, _bodies(dice)), *bare],
        words=[*_DIGITS, *(each.ljust(header)[:header] for each in _DIGITS), *BARE, b" " * header, b"\0"],
        understand=understand,
    )


def _of_delimiter(delimiter: bytes, final: bool, dice: random.Random) -> Target:
    def make() -> DelimiterFramer:
        return DelimiterFramer(delimiter, LIMIT, final=final)

    frames = [make().encode(body) for body in _bodies(dice) if delimiter not in body + delimiter[:-1]]
    parts = [delimiter[:end] for end in range(1, len(delimiter) + 1)]
    return Target(
        name=f"delimiter {delimiter!r}{', final' if final else ''}",
        reader=lambda: FramerReader(make()),
        most_kept=LIMIT + len(delimiter) - 1,
        frames=frames,
        words=[*parts, delimiter * 3, b"x" * LIMIT, b"x" * (LIMIT + 1)],
        understand=understand,
    )


def targets(dice: random.Random) -> list[Target]:
    """All the framers."""
    makers: list[Callable[[], Target]] = [
        lambda: _of_prefix(16, (), dice),
        lambda: _of_prefix(4, (), dice),
        lambda: _of_prefix(16, BARE, dice),
        lambda: _of_delimiter(b"\n", False, dice),
        lambda: _of_delimiter(b"\r\n", True, dice),
        lambda: _of_delimiter(b"aab", False, dice),
    ]
    return [make() for make in makers]
