"""Frames: found whatever they contain and however they were cut, bounded, and readable for naive peers."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplesockets.errors import FrameTooLarge, FrameTruncated
from simplesockets.hpx import codec
from simplesockets.hpx.codec import DELIMITER, SMALL, Framing, Unpacker, Unreadable, pack

from ..support.chunks import byte_by_byte, every_way, whole

modest = settings(max_examples=150, deadline=None, derandomize=True)

alphabet = st.sampled_from([b"<EOF>", b"<EO", b"F>", b"<", b">", b'"', b"x", b"\xff", b"\x1f\x8b", b"\0"])
eof_soup = st.lists(alphabet, max_size=60).map(b"".join)
contents = st.one_of(eof_soup, st.binary(max_size=200), st.text().map(lambda text: json.dumps(text).encode()))


def messages(pieces: Iterable[bytes], unpacker: Unpacker | None = None) -> list[bytes | Unreadable]:
    """What a stream says that arrives in these pieces."""
    framing, unpacker = Framing(), unpacker or Unpacker()
    return [message for data in pieces for piece in framing.feed(data) for message in unpacker.take(piece)]


def stored(text: bytes) -> bytes:
    """A frame as a peer makes it with level 0: the content stands in it as it is."""
    return gzip.compress(text, 0) + DELIMITER


def naive(frame: bytes) -> bytes:
    """What a peer makes of a frame that just splits at the delimiter."""
    packed, rest = frame.split(DELIMITER, 1)
    assert rest == b""
    return gzip.decompress(packed)


# ------------------------------------------------------------------------------------------------------ packing


@modest
@given(contents, st.integers(0, 9))
@example(b"<EOF>" * 10_000, 0)
@example(b"<EOF>", 0)
@example(b"", 5)
def test_a_naive_peer_reads_every_frame_that_we_send(text: bytes, level: int) -> None:
    frame = pack(text, level)
    assert frame.count(DELIMITER) == 1
    assert naive(frame).rstrip(b" ") == text.rstrip(b" ")


@modest
@given(contents, st.integers(0, 9))
def test_what_is_packed_is_unpacked(text: bytes, level: int) -> None:
    (message,) = messages([pack(text, level)])
    assert isinstance(message, bytes)
    assert message.rstrip(b" ") == text.rstrip(b" ")


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 0x7FFF, 0x8000, 70_000, 300_000])
@pytest.mark.parametrize("kind", ["compressible", "random", "delimiters in noise"])
def test_sizes_around_the_limits_of_blocks(size: int, kind: str) -> None:
    dice = random.Random(size)
    text = {
        "compressible": b"a" * size,
        "random": dice.randbytes(size),
        "delimiters in noise": b"".join(dice.randbytes(7) + DELIMITER for _ in range(size // 12)),
    }[kind]
    assert naive(pack(text)) == text
    assert messages([pack(text)]) == [text]
    assert naive(codec._stored_in_blocks(text)) == text


def test_noise_full_of_delimiters_is_stored_by_deflate_and_torn_apart_by_us() -> None:
    dice = random.Random(7)
    text = b"".join(dice.randbytes(200) + DELIMITER for _ in range(500))
    assert gzip.compress(text, 1).count(DELIMITER) > 0  # what makes this hard
    assert naive(pack(text)) == text


def test_a_trailer_that_would_contain_the_delimiter() -> None:
    # Its size and checksum are what the content makes them: so content is found whose checksum ends with "<EO" and
    # whose size begins with "F>".
    size = int.from_bytes(b"F>", "little")
    text = _with_checksum(size, int.from_bytes(b"x<EO", "little"))
    assert struct.pack("<II", zlib.crc32(text), size).count(DELIMITER) == 1
    frame = pack(text)
    assert frame.count(DELIMITER) == 1
    assert naive(frame) == text + b" "


def _with_checksum(size: int, wanted: int) -> bytes:
    # The checksum is linear over the bits: solve for 32 of them.
    base = bytearray(size)
    start = zlib.crc32(bytes(base))
    rows: list[tuple[int, int]] = []  # (effect on the checksum, which bits make it)
    for bit in range(64):
        changed = bytearray(base)
        changed[bit // 8] ^= 1 << bit % 8
        effect, bits = zlib.crc32(bytes(changed)) ^ start, 1 << bit
        for other, other_bits in rows:
            if effect ^ other < effect:
                effect, bits = effect ^ other, bits ^ other_bits
        if effect:
            rows.append((effect, bits))
            rows.sort(reverse=True)
    need, chosen = wanted ^ start, 0
    for effect, bits in rows:
        if need ^ effect < need:
            need, chosen = need ^ effect, chosen ^ bits
    assert need == 0
    for bit in range(64):
        if chosen >> bit & 1:
            base[bit // 8] ^= 1 << bit % 8
    return bytes(base)


def test_small_messages_are_stored_and_large_ones_compressed() -> None:
    small, large = b"a" * SMALL, b"a" * (SMALL + 1)
    assert small in pack(small)
    assert len(pack(large)) < 100


# ---------------------------------------------------------------------------------------------------- unpacking

TEXTS = [
    b'{"plain": 1}',
    b"<EOF>",
    b"<EOF><EOF>\x1f\x8b<EOF>",
    b"",
    b"a<EOF>b" * 300,
    json.dumps({"text": "ä" * 500}).encode(),
]


@pytest.mark.parametrize("make", [stored, pack], ids=["level 0", "ours"])
def test_frames_are_read_whole_byte_by_byte_and_in_any_other_pieces(make: object) -> None:
    assert callable(make)
    stream = b"".join(make(text) for text in TEXTS)
    for pieces in every_way(stream, 30):
        assert messages(pieces) == TEXTS


def test_every_split_in_two_of_a_stream_with_delimiters_inside() -> None:
    stream = b"".join(stored(text) for text in TEXTS[:4])
    for place in range(len(stream)):
        assert messages([stream[:place], stream[place:]]) == TEXTS[:4]


@modest
@given(st.lists(contents, max_size=6), st.integers(0, 9), st.data())
def test_any_contents_by_any_level_in_any_pieces(texts: list[bytes], level: int, data: st.DataObject) -> None:
    stream = b"".join(gzip.compress(text, level) + DELIMITER for text in texts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[start:end] for start, end in itertools.pairwise([0, *cuts, len(stream)])]
    assert messages(pieces) == texts


def test_twenty_messages_in_one_piece() -> None:
    texts = [b"%d" % number for number in range(20)]
    assert messages(whole(b"".join(map(pack, texts)))) == texts


# ------------------------------------------------------------------------------------------------------- damage

DAMAGED = {
    "no gzip": b"hello<EOF>",
    "nothing": b"<EOF>",
    "a first byte": b"\x1f<EOF>",
    "JSON that was not packed": b'{"session": "", "name": "", "data": {}}<EOF>',
    "deflate without a header": zlib.compress(b"hello") + DELIMITER,
    "a wrong checksum": gzip.compress(b"hello")[:-8] + b"\0" * 8 + DELIMITER,
    "the trailer missing": gzip.compress(b"hello")[:-8] + DELIMITER,
    "half of the trailer missing": gzip.compress(b"hello")[:-4] + DELIMITER,
    "one byte missing": gzip.compress(b"hello")[:-1] + DELIMITER,
    "something behind it": gzip.compress(b"hello") + b"x" + DELIMITER,
    "two members": gzip.compress(b"hello") + gzip.compress(b"hello") + DELIMITER,
    "a block of an unknown kind": codec._HEADER + b"\x07" + DELIMITER,
}


@pytest.mark.parametrize("bad", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_frame_is_one_unreadable_message_and_the_next_is_read(bad: bytes) -> None:
    for pieces in (whole(bad + pack(b"good")), byte_by_byte(bad + pack(b"good"))):
        first, second = messages(pieces)
        assert isinstance(first, Unreadable)
        assert second == b"good"


@pytest.mark.parametrize("bad", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_without_waiting_for_more(bad: bytes) -> None:
    unpacker = Unpacker()
    (only,) = messages([bad], unpacker)
    assert isinstance(only, Unreadable)
    assert not unpacker.pending


def truncated_everywhere() -> Iterable[bytes]:
    packed = gzip.compress(json.dumps({"session": "abc", "data": [{"fname": "get"}] * 9}).encode())
    return (packed[:end] + DELIMITER for end in range(len(packed)))


def test_truncated_at_any_byte_it_is_told_or_waited_for_and_the_next_frame_is_read() -> None:
    waited = 0
    for bad in truncated_everywhere():
        unpacker = Unpacker()
        found = messages([bad], unpacker)
        waited += unpacker.pending
        found += messages([pack(b"good")], unpacker)
        assert [type(each) for each in found] == [Unreadable, bytes]
        assert found[1] == b"good"
    assert waited > 0  # where only the next frame, or time, tells


def test_giving_up_on_a_truncated_frame() -> None:
    unpacker = Unpacker()
    assert messages([gzip.compress(b"hello" * 100, 0)[:50] + DELIMITER], unpacker) == []
    assert unpacker.pending
    assert [type(each) for each in unpacker.give_up()] == [Unreadable]
    assert not unpacker.pending
    assert messages([pack(b"good")], unpacker) == [b"good"]


def test_giving_up_finds_the_messages_that_a_truncated_frame_seemed_to_contain() -> None:
    unpacker = Unpacker()
    truncated = gzip.compress(b"hello" * 100, 0)[:50] + DELIMITER
    assert messages([truncated, stored(b"a<EOF>b"), pack(b"good"), truncated, pack(b"last")], unpacker) == []
    first, *found = unpacker.give_up()
    assert isinstance(first, Unreadable)
    assert found == [b"a<EOF>b", b"good"]
    assert unpacker.pending  # the other truncated one
    second, *found = unpacker.give_up()
    assert isinstance(second, Unreadable)
    assert found == [b"last"]
    assert not unpacker.pending


def test_damaged_frames_on_purpose_are_not_worth_it() -> None:
    # Each claims to contain all that follow, as far as the format allows: so each could be inflated again and again.
    claim = codec._HEADER + struct.pack("<BHH", 0, 0xFFFF, 0) + DELIMITER
    unpacker, inflated = Unpacker(), 0
    real = unpacker._inflate

    def counted(piece: bytes) -> bytes | None:
        nonlocal inflated
        inflated += len(piece)
        return real(piece)

    unpacker._inflate = counted  # type: ignore[method-assign]
    sent = 0
    while sent < 1_000_000:
        sent += len(claim)
        unpacker.take(claim)
    while unpacker.pending:
        unpacker.give_up()
    assert inflated <= 2 * sent + codec._CREDIT


def test_a_damaged_frame_with_delimiters_inside_is_one_unreadable_message() -> None:
    bad = bytearray(stored(b"a<EOF>b<EOF>c" * 10))
    bad[-8] ^= 1
    first, second = messages([bytes(bad) + pack(b"good")])
    assert isinstance(first, Unreadable)
    assert second == b"good"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.lists(st.integers(0, 299), max_size=5))
def test_garbage_gives_messages_or_says_that_it_is_unreadable(noise: bytes, flips: list[int]) -> None:
    good = bytearray(pack(b'{"a": [1, 2, 3]}' * 3) * 3)
    for place in flips:
        good[place % len(good)] ^= 0x10
    for stream in (noise + DELIMITER, bytes(good) + noise):
        for found in messages([stream]):
            assert isinstance(found, (bytes, Unreadable))


# ------------------------------------------------------------------------------------------------------- limits


def test_a_message_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert messages([pack(b"a" * 1000)], Unpacker(limit=1000)) == [b"a" * 1000]
    with pytest.raises(FrameTooLarge):
        messages([pack(b"a" * 1001)], Unpacker(limit=1000))


def test_the_limit_holds_over_several_pieces_too() -> None:
    text = b"12345<EOF>" * 100
    assert messages([stored(text)], Unpacker(limit=1000)) == [text]
    with pytest.raises(FrameTooLarge):
        messages([stored(text)], Unpacker(limit=999))
    with pytest.raises(FrameTooLarge):
        messages([stored(text)], Unpacker(packed_limit=len(stored(text)) - len(DELIMITER) - 1))
    assert messages([stored(text)], Unpacker(packed_limit=len(stored(text)) - len(DELIMITER))) == [text]


@pytest.mark.parametrize("limits", [{"limit": 10}, {"packed_limit": 10}], ids=lambda limits: next(iter(limits)))
def test_beyond_a_limit_there_is_no_way_to_go_on(limits: dict[str, int]) -> None:
    unpacker = Unpacker(**limits)
    with pytest.raises(FrameTooLarge) as first:
        unpacker.take(pack(b"12345<EOF>" * 100))
    assert not unpacker.pending  # nor anything kept
    with pytest.raises(FrameTooLarge) as second:
        unpacker.take(pack(b"{}"))
    with pytest.raises(FrameTooLarge) as third:
        unpacker.give_up()
    assert first.value is second.value is third.value


def test_a_piece_over_the_limit_is_refused_before_it_is_complete() -> None:
    framing = Framing(limit=100)
    with pytest.raises(FrameTooLarge):
        list(framing.feed(b"x" * 105))


def test_the_limit_counts_for_each_message_anew() -> None:
    unpacker = Unpacker(limit=1000, packed_limit=1000)
    assert messages([pack(b"a" * 900), pack(b"b" * 900)], unpacker) == [b"a" * 900, b"b" * 900]


def bomb(size: int) -> bytes:
    """A frame of so many zeros, to whole MiB; one block of them again and again."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    count = size >> 20
    checksum = functools.reduce(lambda sofar, _: zlib.crc32(bytes(1 << 20), sofar), range(min(count, 16)), 0)
    return codec._HEADER + block * count + b"\3\0" + struct.pack("<II", checksum, count << 20) + DELIMITER


def test_a_bomb_is_refused_with_bounded_memory() -> None:
    packed = bomb(1 << 30)
    assert len(packed) < 2 << 20
    limit = 4 << 20
    pieces = list(Framing().feed(packed))
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge):
            [message for piece in pieces for message in Unpacker(limit).take(piece)]
        assert tracemalloc.get_traced_memory()[1] < 4 * limit
    finally:
        tracemalloc.stop()


def test_many_small_bombs_are_unpacked_one_at_a_time() -> None:
    pieces = list(Framing().feed(bomb(4 << 20) * 50))
    unpacker = Unpacker()
    tracemalloc.start()
    try:
        for piece in pieces:
            assert unpacker.take(piece) == [bytes(4 << 20)]
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_in_many_pieces_is_looked_at_once() -> None:
    # Counted, not timed: how many bytes the inflater is given for a frame with ten thousand delimiters inside.
    given_bytes = 0
    text = b"ab<EOF>" * 10_000
    unpacker = Unpacker()
    real = unpacker._inflater

    class Counting:
        unused_data = property(lambda self: real.unused_data)
        eof = property(lambda self: real.eof)

        def decompress(self, data: bytes, limit: int) -> bytes:
            nonlocal given_bytes
            given_bytes += len(data)
            return real.decompress(data, limit)

    unpacker._inflater = Counting()  # type: ignore[assignment]
    frame = stored(text)
    assert messages(byte_by_byte(frame), unpacker) == [text]
    assert given_bytes == len(frame)


def test_the_end_of_the_stream() -> None:
    framing = Framing()
    assert list(framing.feed_eof()) == []
    list(framing.feed(b"begun"))
    with pytest.raises(FrameTruncated):
        list(framing.feed_eof())
    assert framing.data_to_send() == b""
