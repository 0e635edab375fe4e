"""The fuzzers, for a moment each; and that they would find what they are there for."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from simplesockets.framing import DelimiterFramer

from . import base, running
from .__main__ import CODECS, explain, fuzz, main, make_targets, report
from .running import Failed, Fuzzer, Reader, Target

SECONDS = 1.0
MOST_FRAMES = 20_000


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # Logins fail by the hundred. The program lowers the level, too; afterwards it is as it was.
    caplog.set_level("CRITICAL", logger="simplesockets")


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_streams_give_results_or_documented_errors(codec: str) -> None:
    fuzzer = Fuzzer(make_targets(codec), seed=1)
    try:
        fuzz(fuzzer, SECONDS, MOST_FRAMES)
    except Failed as failure:
        pytest.fail(explain(failure, codec, 1, fuzzer.figures.cases))
    assert fuzzer.figures.frames > 100
    assert len(fuzzer.figures.kinds) > 3


@pytest.mark.parametrize("codec", CODECS)
def test_a_case_is_the_same_each_time(codec: str) -> None:
    first, second = (Fuzzer(make_targets(codec), seed=7) for _ in range(2))
    for number in (5, 0):
        target, stream, cuts = first.case(number)
        assert b"".join(cuts) == stream
        again = second.case(number)
        assert (again[0].name, *again[1:]) == (target.name, stream, cuts)


@pytest.mark.parametrize("codec", CODECS)
def test_valid_frames_are_all_read(codec: str) -> None:
    for target in make_targets(codec):
        reader = target.reader()
        stream = b"".join([*target.opening[:1], *target.frames[:20]])
        assert len(list(reader.feed(stream))) >= 15


class Careless(Reader):
    """A framer with a fault."""

    def __init__(self, fault: str) -> None:
        self._framer = DelimiterFramer(b"\n", 300)
        self._fault = fault
        self._size = 0

    def feed(self, data: bytes) -> Iterator[object]:
        self._size += len(data)
        if self._fault == "undocumented" and b"\xff" in data:
            raise KeyError("on purpose")
        if self._fault == "goes on":
            self._framer._failure = None
        if self._fault == "slow" and len(data) > 256:
            sum(range(200_000))  # milliseconds
        for item in self._framer.feed(data):
            yield item + b"!" if self._fault == "cut" and data.startswith(b"\n") else item

    def feed_eof(self) -> Iterable[object]:
        return self._framer.feed_eof()

    def kept(self) -> int:
        return self._size if self._fault == "keeps" else len(self._framer._kept)


def careless(fault: str) -> Target:
    (sound,) = (target for target in base.targets(random.Random(0)) if target.name == "delimiter b'\\n'")
    understand = _fail_for_some if fault == "reading" else base.understand
    return Target("careless", lambda: Careless(fault), sound.most_kept, sound.frames, sound.words, understand)


def _fail_for_some(item: object) -> str:
    assert isinstance(item, bytes)
    return str(b"0123456789"[len(item) % 12])


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("undocumented", "undocumented KeyError"),
        ("goes on", "after FrameTooLarge"),
        ("cut", "cut it gives"),
        ("keeps", "it keeps"),
        ("slow", "bytes take"),
        ("reading", "was read"),
    ],
)
def test_each_rule_is_watched(fault: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "slow":
        monkeypatch.setattr(running, "MOST_SECONDS", 0.001)
        monkeypatch.setattr(running, "MOST_PER_BYTE", 0.0)
    fuzzer = Fuzzer([careless(fault)], seed=1)
    with pytest.raises(Failed, match=found) as caught:
        fuzz(fuzzer, 20.0, None)
    case = fuzzer.figures.cases
    with pytest.raises(Failed, match=found):
        Fuzzer([careless(fault)], seed=1).run(case)
    if fault == "undocumented":
        said = explain(caught.value, "base", 1, case)
        assert f"--seed 1 --case {case}" in said
        assert r"b'\xff'" in said  # and no byte more


def test_the_program_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["base", "--frames", "500", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "base, seed 3: " in said
    assert "frames/s" in said
    assert "slowest" in said
    assert main(["base", "--seed", "3", "--case", "12"]) == 0
    assert "in pieces of" in capsys.readouterr().out


def test_a_report_of_nothing() -> None:
    assert "0 frames" in report("base", 1, Fuzzer(make_targets("base"), 1).figures, 0.0)
