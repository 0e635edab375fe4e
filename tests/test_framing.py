"""Framers: frames come out as they went in, however the stream was cut, and errors where they stand."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplesockets import framing
from simplesockets.errors import FrameTooLarge, FrameTruncated, InvalidHeader, ProtocolError
from simplesockets.framing import DelimiterFramer, LengthPrefixFramer

from .support.chunks import byte_by_byte, every_way, random_splits, whole

Framer = LengthPrefixFramer | DelimiterFramer
modest = settings(max_examples=80, deadline=None, derandomize=True)
SHORT = 4  # bytes of header in most of these tests


def receive(framer: Framer, pieces: Iterable[bytes]) -> tuple[list[bytes], ProtocolError | None]:
    """The frames that the pieces of a whole stream give, and the error that ends them, if one does."""
    frames: list[bytes] = []
    try:
        for piece in pieces:
            for frame in framer.feed(piece):
                frames.append(frame)
        for frame in framer.feed_eof():
            frames.append(frame)
    except ProtocolError as error:
        return frames, error
    return frames, None


def stream_of(framer: Framer, frames: Iterable[bytes]) -> bytes:
    return b"".join(framer.encode(frame) for frame in frames)


def assert_gives(make: Callable[[], Framer], stream: bytes, frames: list[bytes], error: type | None = None) -> None:
    """The stream gives these frames and then this error, in one piece and in many."""
    for pieces in every_way(stream):
        got, failure = receive(make(), pieces)
        assert (got, type(failure) if failure else None) == (frames, error), f"cut as {pieces}"


# ------------------------------------------------------------------------------------------------ length prefix


def test_a_header_is_the_length_in_digits_padded_on_the_right() -> None:
    assert LengthPrefixFramer().encode(b"hello") == b"5               hello"
    assert LengthPrefixFramer(SHORT).encode(b"") == b"0   "


def test_several_frames_and_empty_ones_come_out_in_order() -> None:
    assert_gives(lambda: LengthPrefixFramer(SHORT), b"2   ab0   1   c", [b"ab", b"", b"c"])


@modest
@given(st.lists(st.binary(max_size=40)), st.integers(0, 2**32))
def test_length_prefixed_frames_survive_any_split(frames: list[bytes], seed: int) -> None:
    stream = stream_of(LengthPrefixFramer(SHORT), frames)
    for pieces in (whole(stream), byte_by_byte(stream), random_splits(stream, seed)):
        assert receive(LengthPrefixFramer(SHORT), pieces) == (frames, None)


@pytest.mark.parametrize(
    "header",
    [
        b"    ",  # ""
        b"-1  ",
        b"+1  ",
        b"1_0 ",
        b"  1 ",
        b"1 2 ",
        b"0x1 ",
        b"1.0 ",
        b"1\t  ",
        b"\n1  ",
        b"1\x00  ",
        "\u0661  ".encode(),  # an Arabic digit: int() would take it
        b"\xb2   ",  # a superscript two in Latin-1
    ],
)
def test_a_header_that_is_no_plain_number_is_refused(header: bytes) -> None:
    assert len(header) == SHORT
    assert_gives(lambda: LengthPrefixFramer(SHORT), b"1   a" + header + b"1   b", [b"a"], InvalidHeader)


def test_an_invalid_header_is_in_the_error() -> None:
    _, error = receive(LengthPrefixFramer(SHORT), [b"nope"])
    assert isinstance(error, InvalidHeader)
    assert error.header == b"nope"
    assert isinstance(error, ValueError)
    assert "nope" in str(error)


@pytest.mark.parametrize("stream", [b"nope", b"99  x"])
def test_an_error_is_raised_to_who_asks_for_frames(stream: bytes) -> None:
    framer = LengthPrefixFramer(SHORT, limit=10)
    for data in (stream, b"1   a"):  # and whatever comes after that
        frames = framer.feed(data)
        with pytest.raises(ProtocolError):
            next(frames)


def test_leading_zeros_are_digits_too() -> None:
    assert_gives(lambda: LengthPrefixFramer(SHORT), b"0002ab", [b"ab"])


def test_a_huge_length_is_refused_at_its_header() -> None:
    framer = LengthPrefixFramer(16)
    frames, error = receive(framer, [b"1               a", b"9" * 16])
    assert frames == [b"a"]
    assert isinstance(error, FrameTooLarge)
    assert (error.size, error.limit) == (9999999999999999, framer.limit)


def test_a_length_of_thousands_of_digits_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):  # int() alone raises a ValueError of its own beyond 4300 digits
        list(LengthPrefixFramer(5000).feed(b"9" * 5000))


def test_a_frame_of_just_the_limit_passes_and_one_byte_more_does_not() -> None:
    def framer() -> LengthPrefixFramer:
        return LengthPrefixFramer(SHORT, limit=10)

    assert_gives(framer, b"10  " + b"x" * 10, [b"x" * 10])
    assert_gives(framer, b"1   a" + b"11  " + b"x" * 11, [b"a"], FrameTooLarge)
    assert framer().encode(b"x" * 10) == b"10  " + b"x" * 10
    with pytest.raises(FrameTooLarge, match="limit of 10 bytes"):
        framer().encode(b"x" * 11)


def test_a_limit_of_zero_lets_empty_frames_pass() -> None:
    assert_gives(lambda: LengthPrefixFramer(SHORT, limit=0), b"0   0   1   x", [b"", b""], FrameTooLarge)


def test_a_length_that_does_not_fit_the_header_is_refused_at_encoding() -> None:
    assert LengthPrefixFramer(1).encode(b"x" * 9) == b"9" + b"x" * 9
    with pytest.raises(ValueError, match="does not fit a header of 1 characters"):
        LengthPrefixFramer(1).encode(b"x" * 10)


@pytest.mark.parametrize("stream", [b"1", b"3  ", b"3   ", b"3   a", b"3   ab"])
def test_an_end_inside_a_length_prefixed_frame_is_an_error_after_the_frames_before(stream: bytes) -> None:
    assert_gives(lambda: LengthPrefixFramer(SHORT), b"1   a" + stream, [b"a"], FrameTruncated)
    _, error = receive(LengthPrefixFramer(SHORT), [b"1   a" + stream])
    assert isinstance(error, FrameTruncated)
    assert error.received == len(stream)


def test_another_header_is_a_subclass() -> None:
    class Binary(LengthPrefixFramer):
        def read_header(self, header: bytes) -> int:
            return int.from_bytes(header, "big")

        def write_header(self, size: int) -> bytes:
            return size.to_bytes(self.header_size, "big")

    frames = [b"ab", b"", b"x" * 300]
    stream = stream_of(Binary(2), frames)
    assert stream.startswith(b"\x00\x02ab\x00\x00\x01\x2c")
    assert_gives(lambda: Binary(2), stream, frames)


# ---------------------------------------------------------------------------------------------------- delimiter


def test_a_delimiter_is_not_part_of_the_frame() -> None:
    assert DelimiterFramer().encode(b"ab") == b"ab\n"
    assert_gives(DelimiterFramer, b"ab\n\nc\n", [b"ab", b"", b"c"])


@pytest.mark.parametrize("delimiter", [b"\r\n", b"<EOF>", b"aab", b"aa", b"aba", b"\0\0\0"])
def test_a_delimiter_of_several_bytes_may_be_cut_anywhere(delimiter: bytes) -> None:
    frames = [b"x", b"", b"yz" * 9]
    stream = stream_of(DelimiterFramer(delimiter), frames)
    for place in range(1, len(stream)):
        assert receive(DelimiterFramer(delimiter), [stream[:place], stream[place:]]) == (frames, None)
    assert_gives(lambda: DelimiterFramer(delimiter), stream, frames)


def test_a_beginning_of_a_delimiter_that_goes_on_otherwise_is_data() -> None:
    assert_gives(lambda: DelimiterFramer(b"aab"), b"aaaab", [b"aa"])
    assert_gives(lambda: DelimiterFramer(b"\r\n"), b"a\rb\r\r\n", [b"a\rb\r"])
    assert_gives(lambda: DelimiterFramer(b"<EOF>"), b"<EO<EOF<EOF>", [b"<EO<EOF"])


def test_the_first_place_where_the_delimiter_fits_counts() -> None:
    assert_gives(lambda: DelimiterFramer(b"aa"), b"aaaaabaa", [b"", b"", b"ab"])


@modest
@given(
    st.sampled_from([b"\n", b"aa", b"aab", b"aba", b"abab"]), st.lists(st.text("abc\n", max_size=12)), st.integers(0)
)
def test_delimited_frames_survive_any_split(delimiter: bytes, texts: list[str], seed: int) -> None:
    frames = [text.encode() for text in texts if (text.encode() + delimiter).find(delimiter) == len(text)]
    stream = stream_of(DelimiterFramer(delimiter), frames)
    for pieces in (whole(stream), byte_by_byte(stream), random_splits(stream, seed)):
        assert receive(DelimiterFramer(delimiter), pieces) == (frames, None)


@modest
@given(st.sampled_from([b"a", b"aa", b"aab", b"aba"]), st.text("ab", max_size=60), st.integers(0), st.booleans())
def test_any_delimited_stream_gives_the_same_in_any_split(delimiter: bytes, text: str, seed: int, final: bool) -> None:
    stream = text.encode()
    results = [
        receive(DelimiterFramer(delimiter, limit=5, final=final), pieces)
        for pieces in (whole(stream), byte_by_byte(stream), random_splits(stream, seed))
    ]
    expected = expected_frames(delimiter, 5, final, stream)
    for frames, error in results:
        assert (frames, type(error)) == expected


def expected_frames(delimiter: bytes, limit: int, final: bool, stream: bytes) -> tuple[list[bytes], type]:
    """What the definition says, by str.split and nothing else."""
    *frames, rest = stream.split(delimiter)
    for place, frame in enumerate(frames):
        if len(frame) > limit:
            return frames[:place], FrameTooLarge
    if not rest:
        return frames, type(None)
    undecided = len(delimiter) - 1  # so many bytes at the end may be half a delimiter
    if len(rest) - undecided > limit or (final and len(rest) > limit):
        return frames, FrameTooLarge
    return ([*frames, rest], type(None)) if final else (frames, FrameTruncated)


@pytest.mark.parametrize(
    ("delimiter", "frame"), [(b"\n", b"a\nb"), (b"\n", b"\n"), (b"aa", b"a"), (b"aba", b"ab"), (b"ab", b"ab")]
)
def test_a_frame_in_which_the_delimiter_would_be_found_is_refused_at_encoding(delimiter: bytes, frame: bytes) -> None:
    with pytest.raises(ValueError, match="contains its own delimiter"):
        DelimiterFramer(delimiter).encode(frame)


@pytest.mark.parametrize(("delimiter", "frame"), [(b"aab", b"a"), (b"aab", b"aa"), (b"<EOF>", b"<EO"), (b"aba", b"b")])
def test_a_frame_that_ends_like_a_delimiter_begins_passes(delimiter: bytes, frame: bytes) -> None:
    assert_gives(lambda: DelimiterFramer(delimiter), DelimiterFramer(delimiter).encode(frame), [frame])


@modest
@given(st.sampled_from([b"a", b"aa", b"aab", b"aba", b"abab"]), st.lists(st.text("ab", max_size=5), max_size=5))
def test_what_encode_takes_comes_out_again(delimiter: bytes, texts: list[str]) -> None:
    taken: list[bytes] = []
    stream = b""
    for text in texts:
        try:
            stream += DelimiterFramer(delimiter).encode(text.encode())
        except ValueError:
            continue
        taken.append(text.encode())
    assert receive(DelimiterFramer(delimiter), [stream]) == (taken, None)


@pytest.mark.parametrize("delimiter", [b"\n", b"\r\n", b"<EOF>"])
def test_a_delimited_frame_of_just_the_limit_passes_and_one_byte_more_does_not(delimiter: bytes) -> None:
    def framer() -> DelimiterFramer:
        return DelimiterFramer(delimiter, limit=10)

    assert_gives(framer, b"x" * 10 + delimiter, [b"x" * 10])
    assert_gives(framer, b"a" + delimiter + b"x" * 11 + delimiter, [b"a"], FrameTooLarge)
    assert framer().encode(b"x" * 10) == b"x" * 10 + delimiter
    with pytest.raises(FrameTooLarge):
        framer().encode(b"x" * 11)


def test_a_frame_that_never_ends_is_refused_before_it_takes_memory() -> None:
    framer = DelimiterFramer(b"<EOF>", limit=10)
    assert list(framer.feed(b"x" * 14)) == []  # ten bytes and what may be most of a delimiter
    with pytest.raises(FrameTooLarge):
        list(framer.feed(b"x"))


@pytest.mark.parametrize("rest", [b"x", b"xyz", b"\r"])
def test_an_end_inside_a_delimited_frame_is_an_error_after_the_frames_before(rest: bytes) -> None:
    assert_gives(lambda: DelimiterFramer(b"\r\n"), b"a\r\n" + rest, [b"a"], FrameTruncated)
    _, error = receive(DelimiterFramer(b"\r\n"), [b"a\r\n" + rest])
    assert isinstance(error, FrameTruncated)
    assert error.received == len(rest)


def test_with_final_the_unfinished_frame_at_the_end_counts() -> None:
    assert_gives(lambda: DelimiterFramer(final=True), b"a\nb", [b"a", b"b"])
    assert_gives(lambda: DelimiterFramer(b"\r\n", final=True), b"a\r\nb\r", [b"a", b"b\r"])


def test_with_final_a_finished_stream_has_no_extra_frame() -> None:
    assert_gives(lambda: DelimiterFramer(final=True), b"a\n", [b"a"])
    assert_gives(lambda: DelimiterFramer(final=True), b"", [])


def test_with_final_the_limit_holds_for_the_last_frame_too() -> None:
    assert_gives(lambda: DelimiterFramer(b"<EOF>", limit=3, final=True), b"abc", [b"abc"])
    assert_gives(lambda: DelimiterFramer(b"<EOF>", limit=3, final=True), b"a<EOF>abcd", [b"a"], FrameTooLarge)


def test_an_empty_delimiter_is_refused() -> None:
    with pytest.raises(ValueError, match="the delimiter is empty"):
        DelimiterFramer(b"")


# --------------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("make", [LengthPrefixFramer, DelimiterFramer])
def test_an_empty_stream_has_no_frames(make: Callable[[], Framer]) -> None:
    assert receive(make(), []) == ([], None)
    assert receive(make(), [b"", b""]) == ([], None)


@pytest.mark.parametrize("make", [LengthPrefixFramer, DelimiterFramer])
def test_frames_are_plain_bytes(make: Callable[[], Framer]) -> None:
    for pieces in every_way(stream_of(make(), [b"ab", b"cd"]), seeds=3):
        frames, _ = receive(make(), pieces)
        assert [type(frame) for frame in frames] == [bytes, bytes]


# --------------------------------------------------------------------------------------------------------- cost


class Work:
    """Counts the bytes that a framer copies and searches, by standing in for the types that it does it with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self.make = counting(builtins.bytes, self)
        monkeypatch.setattr(framing, "bytes", self.make, raising=False)
        monkeypatch.setattr(framing, "bytearray", counting(bytearray, self), raising=False)

    def of(self, make: Callable[[], Framer], pieces: Iterable[bytes]) -> int:
        """What it costs to feed the pieces to a new framer."""
        self.bytes = 0
        framer = make()
        for piece in pieces:
            for _ in framer.feed(self.make(piece)):
                pass
        return self.bytes


def counting(kind: Any, work: Work) -> Any:
    """``bytes`` or ``bytearray``, counting."""

    class Counting(kind):  # type: ignore[misc]
        def __init__(self, *args: bytes) -> None:
            super().__init__(*(args if kind is bytearray else ()))
            work.bytes += len(self)

        def __iadd__(self, more: bytes) -> Any:
            work.bytes += len(more)
            return super().__iadd__(more)

        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            return found if isinstance(found, int) else Counting(found)

        def find(self, wanted: bytes, start: int = 0) -> int:
            place: int = super().find(wanted, start)
            work.bytes += max(0, (len(self) if place < 0 else place) - start) + len(wanted)
            return place

    if kind is bytes:
        del Counting.__iadd__
    return Counting


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


LARGE = 64 * 1024
ONE_FRAME: dict[str, tuple[Callable[[], Framer], bytes]] = {
    "length prefix": (LengthPrefixFramer, b"%-16d" % LARGE + b"x" * LARGE),
    "newline": (DelimiterFramer, b"x" * LARGE + b"\n"),
    "long delimiter": (lambda: DelimiterFramer(b"<EOF>"), b"x" * LARGE + b"<EOF>"),
}


@pytest.mark.parametrize("form", ONE_FRAME)
@pytest.mark.parametrize("cut", ["whole", "in blocks", "byte by byte"])
def test_a_large_frame_costs_the_same_per_byte_however_it_comes(form: str, cut: str, work: Work) -> None:
    make, stream = ONE_FRAME[form]
    size = {"whole": len(stream), "in blocks": 1000, "byte by byte": 1}[cut]
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    # One byte at a time the search for a long delimiter begins a delimiter's length before each.
    assert len(stream) < work.of(make, pieces) < 16 * len(stream)


@pytest.mark.parametrize(
    ("make", "frame"),
    [
        (lambda: LengthPrefixFramer(SHORT), b"1   a"),
        (DelimiterFramer, b"a\n"),
        (lambda: DelimiterFramer(b"ab"), b"aab"),
    ],
    ids=["length prefix", "newline", "two bytes"],
)
@pytest.mark.parametrize("size", [1, 7, 1000, LARGE])
def test_many_tiny_frames_cost_the_same_per_byte_however_they_come(
    make: Callable[[], Framer], frame: bytes, size: int, work: Work
) -> None:
    stream = frame * (LARGE // len(frame))
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert len(stream) < work.of(make, pieces) < 16 * len(stream)


class _Seven(int):
    """Equal to 5, for those who ask."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(5)


def test_lengths_that_only_seem_equal_have_their_own_header() -> None:
    framer = LengthPrefixFramer(4)
    assert framer.write_header(5) == b"5   "
    assert framer.write_header(_Seven(7)) == b"7   "
    assert framer.write_header(1) == framer.write_header(True) == b"1   "


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_header_is_read_whatever_holds_its_bytes(kind: Callable[[bytes], bytes]) -> None:
    assert LengthPrefixFramer(4).read_header(kind(b"5   ")) == 5
