"""``python -m tests.fuzz CODEC``: see the package."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time

from . import base, hisock, hpx
from .running import Failed, Figures, Fuzzer, Target, shrunk

CODECS = {"base": base.targets, "hisock": hisock.targets, "hpx": hpx.targets}
_LOOK_EVERY = 64  # cases, for the time


def make_targets(codec: str) -> list[Target]:
    """The targets of a codec; the same ones each time."""
    return CODECS[codec](random.Random(0))


def fuzz(fuzzer: Fuzzer, seconds: float | None, frames: int | None, first: int = 0) -> int:
    """Run cases until the time is over, or so many frames were read. Gives the number of the next case.

    Raises:
        Failed: a case broke a rule; ``fuzzer.figures.cases`` tells which.
    """
    until = None if seconds is None else time.monotonic() + seconds
    number = first
    while frames is None or fuzzer.figures.frames < frames:
        fuzzer.run(number)
        number += 1
        if until is not None and number % _LOOK_EVERY == 0 and time.monotonic() >= until:
            break
    return number


def report(codec: str, seed: int, figures: Figures, seconds: float) -> str:
    """What a run found, as text."""
    lines = [
        f"{codec}, seed {seed}: {figures.frames:,} frames in {figures.cases:,} streams of {figures.received:,} bytes, "
        f"each read twice, in {seconds:.0f} s: {figures.frames / max(seconds, 1e-9):,.0f} frames/s",
        "  " + ", ".join(f"{kind} {count:,}" for kind, count in figures.kinds.most_common()),
    ]
    for what, unit, (cost, size, case) in (
        ("slowest stream", "ms", figures.slowest),
        ("slowest per byte", "µs/byte", figures.slowest_per_byte),
    ):
        lines.append(f"  {what}: {cost * (1e3 if unit == 'ms' else 1e6):.2f} {unit} (case {case}, {size} bytes)")
    lines.append(f"  most bytes kept: {figures.most_kept:,}")
    return "\n".join(lines)


def explain(failure: Failed, codec: str, seed: int, case: int) -> str:
    """A failure, and how to see it again."""
    small = shrunk(failure)
    return (
        f"FAILED: {failure}\n  again: python -m tests.fuzz {codec} --seed {seed} --case {case}\n"
        f"  with fewer bytes: {small.why}\n  {small.stream!r}"
    )


def main(arguments: list[str] | None = None) -> int:
    """The program; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feed a codec with damaged streams.")
    parser.add_argument("codec", choices=CODECS)
    parser.add_argument("--seconds", type=float, help="how long (not given: 60, or until --frames)")
    parser.add_argument("--frames", type=int, help="until so many frames were read")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="run this case and nothing else")
    given = parser.parse_args(arguments)
    fuzzer = Fuzzer(make_targets(given.codec), given.seed)
    since = time.monotonic()
    number = given.case
    try:
        if number is not None:
            target, stream, cuts = fuzzer.case(number)
            print(f"{target.name}: {stream!r}\n  in pieces of {[len(cut) for cut in cuts]}")
            fuzzer.run(number)
        else:
            fuzz(fuzzer, given.seconds if given.seconds or given.frames else 60.0, given.frames)
    except Failed as failure:
        case = fuzzer.figures.cases if number is None else number
        print(explain(failure, given.codec, given.seed, case))
        return 1
    except KeyboardInterrupt:
        pass
    print(report(given.codec, given.seed, fuzzer.figures, time.monotonic() - since))
    return 0


if __name__ == "__main__":
    logging.getLogger("simplesockets").setLevel(logging.CRITICAL)  # logins fail by the thousand
    sys.exit(main())
