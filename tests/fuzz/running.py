"""The loop of all fuzzers, and what must hold of everything that reads from strangers:

* it gives results, or raises what is documented, and nothing else;
* results and error do not depend on how the stream was cut;
* what it keeps of an unfinished frame stays within its limit;
* an error is final: the same one comes again, and nothing else, whatever follows;
* no stream takes much longer than its bytes should.

Each case is made from the seed and its number alone, so one that failed can be run again.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from simplesockets.errors import FrameTruncated, ProtocolError

from .mutations import cut_anywhere, spoil_some

MOST_SECONDS = 0.02
"""That a case may take however short it is …"""
MOST_PER_BYTE = 20e-6
"""… and seconds for each of its bytes. Both are far above what any takes, and far below what a quadratic one would."""

WORTH_IT = 256
"""Bytes: of shorter streams the time is all overhead, and says nothing for each byte."""
_TRIES = 5  # of what seems slow …
_MOST_TRIES = 20  # … and of what seems too slow


class Reader(ABC):
    """One end of a fresh conversation, as a fuzzer sees it."""

    @abstractmethod
    def feed(self, data: bytes) -> Iterable[object]:
        """What some bytes complete."""

    @abstractmethod
    def feed_eof(self) -> Iterable[object]:
        """What the end of the stream completes."""

    @abstractmethod
    def kept(self) -> int:
        """Bytes that wait for their frame to come whole."""


@dataclass(frozen=True)
class Target:
    """An end of a conversation, and what to feed it with.

    Args:
        name: for the report.
        reader: makes an end.
        most_kept: bytes that it may keep.
        frames: valid ones, to be mutated.
        words: what means something to the reader, limits and delimiters among them.
        understand: reads an item as programs do; gives what kind it is. May raise nothing.
        opening: frames that a conversation begins with, most of the time.
    """

    name: str
    reader: Callable[[], Reader]
    most_kept: int
    frames: Sequence[bytes]
    words: Sequence[bytes]
    understand: Callable[[object], str]
    opening: Sequence[bytes] = ()

    def stream(self, dice: random.Random) -> bytes:
        """Frames, mutated."""
        frames = dice.choices(self.frames, k=dice.choice((1, 4, 16, 64)))
        if self.opening and dice.random() < 0.95:
            frames.insert(0, dice.choice(self.opening))
        spoil_some(frames, dice, self.words)
        return b"".join(frames)


@dataclass
class Figures:
    """What a run found."""

    cases: int = 0
    frames: int = 0
    received: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int, int] = (0.0, 0, 0)  # seconds, bytes, case
    slowest_per_byte: tuple[float, int, int] = (0.0, 0, 0)
    most_kept: int = 0

    def is_slow(self, seconds: float, size: int) -> bool:
        """Whether a case that took so long would be the slowest in some way."""
        return seconds > self.slowest[0] or (size >= WORTH_IT and seconds > self.slowest_per_byte[0] * size)

    def timed(self, seconds: float, size: int, case: int) -> None:
        """A case took so long."""
        self.slowest = max(self.slowest, (seconds, size, case))
        if size >= WORTH_IT:
            self.slowest_per_byte = max(self.slowest_per_byte, (seconds / size, size, case))


class Failed(AssertionError):
    """A case broke a rule."""

    def __init__(self, target: Target, stream: bytes, why: str) -> None:
        super().__init__(f"{target.name}: {why}")
        self.target = target
        self.stream = stream
        self.why = why


@dataclass(frozen=True)
class Outcome:
    """What a stream gave."""

    items: list[object]
    error: ProtocolError | None

    def same(self, other: Outcome) -> bool:
        """Whether another way to cut the stream gave just this."""
        return self.items == other.items and type(self.error) is type(other.error)  # sizes are what is known so far


def read(target: Target, stream: bytes, pieces: Iterable[bytes], figures: Figures) -> Outcome:
    """Feed a reader, up to its first error, which has to be final."""
    reader = target.reader()
    items: list[object] = []
    try:
        for piece in pieces:
            items.extend(reader.feed(piece))
            kept = reader.kept()
            if kept > figures.most_kept:
                figures.most_kept = kept
                if kept > target.most_kept:
                    raise Failed(target, stream, f"it keeps {kept} bytes, of which {target.most_kept} are allowed")
        items.extend(reader.feed_eof())
    except ProtocolError as error:
        if not isinstance(error, FrameTruncated):
            _check_final(target, stream, reader, error)
        return Outcome(items, error)
    except Failed:
        raise
    except Exception as error:
        raise Failed(target, stream, f"undocumented {error!r}") from error
    return Outcome(items, None)


def _check_final(target: Target, stream: bytes, reader: Reader, error: ProtocolError) -> None:
    asks: list[Callable[[], Iterable[object]]] = [
        partial(reader.feed, target.frames[0]),
        partial(reader.feed, b"\n" * 40),
        reader.feed_eof,
    ]
    for ask in asks:
        try:
            more = list(ask())
        except ProtocolError as again:
            if again is not error:
                raise Failed(target, stream, f"after {error!r} comes {again!r}") from again
        else:
            raise Failed(target, stream, f"after {error!r} come {more!r:.200}")
    if reader.kept() > target.most_kept:
        raise Failed(target, stream, f"it keeps {reader.kept()} bytes after {error!r}")


def check(target: Target, stream: bytes, cuts: Sequence[bytes], figures: Figures) -> Outcome:
    """Run a stream through everything that must hold, but for the time."""
    whole = read(target, stream, [stream], figures)
    parts = read(target, stream, cuts, figures)
    if not whole.same(parts):
        raise Failed(target, stream, f"whole it gives {whole!r:.300}, cut it gives {parts!r:.300}")
    kinds = figures.kinds
    for item in whole.items:
        try:
            kinds[target.understand(item)] += 1
        except Exception as failure:
            raise Failed(target, stream, f"{failure!r} where {item!r:.300} was read") from failure
    if whole.error is not None:
        kinds[type(whole.error).__name__] += 1
    return whole


class Fuzzer:
    """Runs cases.

    Args:
        targets: the ends of a codec's conversations.
        seed: the same one gives the same cases.
    """

    def __init__(self, targets: Sequence[Target], seed: int) -> None:
        self._targets = targets
        self._seed = seed
        self._dice = random.Random()
        self.figures = Figures()

    def case(self, number: int) -> tuple[Target, bytes, list[bytes]]:
        """The target, the stream and the pieces of a case."""
        dice = self._dice
        dice.seed(self._seed << 40 | number)
        target = dice.choice(self._targets)
        stream = target.stream(dice)
        return target, stream, cut_anywhere(stream, dice)

    def run(self, number: int) -> None:
        """Run a case.

        Raises:
            Failed: it broke a rule.
        """
        target, stream, cuts = self.case(number)
        figures = self.figures
        since = time.perf_counter()
        outcome = check(target, stream, cuts, figures)
        seconds = time.perf_counter() - since
        if figures.is_slow(seconds, len(stream)):
            allowed = MOST_SECONDS + MOST_PER_BYTE * len(stream)
            for tries in range(_MOST_TRIES):  # the machine may have been busy
                if tries >= _TRIES and seconds <= allowed:
                    break
                seconds = min(seconds, _seconds(target, stream, cuts))
            if seconds > allowed:
                raise Failed(target, stream, f"its {len(stream)} bytes take {seconds:.3f} s")
            figures.timed(seconds, len(stream), number)
        figures.cases += 1
        figures.frames += len(outcome.items) + (outcome.error is not None)
        figures.received += len(stream)


def _seconds(target: Target, stream: bytes, cuts: Sequence[bytes]) -> float:
    since = time.perf_counter()
    check(target, stream, cuts, Figures())
    return time.perf_counter() - since


def shrunk(failure: Failed, seconds: float = 20.0) -> Failed:
    """The same failure with fewer bytes, as far as leaving some out helps."""
    until = time.monotonic() + seconds
    size = len(failure.stream) // 2
    while size:
        for start in range(0, len(failure.stream), size):
            if time.monotonic() > until:
                return failure
            less = failure.stream[:start] + failure.stream[start + size :]
            if (smaller := _failure_of(failure.target, less)) is not None:
                failure = smaller
                break
        else:
            size //= 2
    return failure


def _failure_of(target: Target, stream: bytes) -> Failed | None:
    cuts = [stream[place : place + 1] for place in range(len(stream))]
    try:
        check(target, stream, cuts, Figures())
    except Failed as failure:
        return failure
    return None
