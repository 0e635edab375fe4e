"""What holds for every protocol. A new one gets an entry in ``CASES``, and nothing else has to be written."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplesockets.errors import FrameTooLarge, FrameTruncated, ProtocolError
from simplesockets.framing import DelimiterFramer, LengthPrefixFramer
from simplesockets.hisock import protocol as hisock
from simplesockets.hpx import codec
from simplesockets.protocol import FramedProtocol, Protocol, RawProtocol

from .support.chunks import byte_by_byte, every_way, random_splits, whole
from .support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("either_engine")


@dataclass(frozen=True)
class Case:
    """A protocol, and what to try with it.

    ``sender`` and ``receiver`` make the two halves of a new conversation; the receiver takes what the sender encodes.
    """

    name: str
    receiver: Callable[[], Protocol]
    sender: Callable[[], Protocol]
    items: tuple[bytes, ...]
    frames: bool = True  # whether items come out as they went in; if not, only their concatenation does
    limited: Callable[[int], Protocol] | None = None  # a half with this limit of an item's size, where there is one
    malformed: dict[str, bytes] = field(default_factory=dict)  # streams that break the rules right at their start
    noise: bytes = bytes(range(256))  # bytes from which garbage is made, so that some of it is nearly right


def symmetric(name: str, make: Callable[[], Protocol], items: tuple[bytes, ...], **more: object) -> Case:
    """A protocol whose two halves are the same."""
    return Case(name, make, make, items, **more)  # type: ignore[arg-type]


def delimited(delimiter: bytes, limit: int = 1 << 20) -> FramedProtocol:
    return FramedProtocol(DelimiterFramer(delimiter, limit))


def prefixed(limit: int = 1 << 20) -> FramedProtocol:
    return FramedProtocol(LengthPrefixFramer(16, limit))


HELLO = b'$CLTHELLO${"name": null, "group": null}'
OLD_HELLO = b'$CLTHELLO$ {"name": null, "group": null}'


def greeted(hello: bytes, limit: int = 1 << 20) -> hisock.ServerProtocol:
    """A HiSock server's half, after a client introduced itself."""
    protocol = hisock.ServerProtocol(limit=limit)
    assert list(protocol.feed(protocol.encode(hello) if len(hello) <= limit else prefixed().encode(hello))) == [hello]
    return protocol


class HPX:
    """HPX's frames and the messages in them, in one."""

    def __init__(self) -> None:
        self._framing = codec.Framing(1 << 20)
        self._unpacker = codec.Unpacker(1 << 20)
        self.encode = self._framing.encode
        self.data_to_send = self._framing.data_to_send

    def feed(self, data: bytes) -> Iterator[bytes]:
        for piece in self._framing.feed(data):
            for message in self._unpacker.take(piece):
                if isinstance(message, codec.Unreadable):
                    raise ProtocolError(message.reason)
                yield message

    def feed_eof(self) -> Iterable[bytes]:
        yield from self._framing.feed_eof()
        if self._unpacker.pending:
            raise FrameTruncated(0)


HISOCK_BODIES = (b"$CMD$echo$MSG$hello", b"", b"\0\xff\r\n", b"5               hello", b"$CHNAME$", b"x" * 300)
MALFORMED_HEADERS = {"no digits": b"garbage         ", "negative": b"-1              ", "huge": b"9999999999999999"}


CASES = [
    Case(
        "HiSock 2.x, to the server",
        lambda: greeted(HELLO),
        hisock.ClientProtocol,
        HISOCK_BODIES,
        limited=lambda limit: greeted(HELLO, limit),
        malformed={**MALFORMED_HEADERS, "a word without a header": b"$CHNAME$        "},
        noise=b"0123456789 $-",
    ),
    Case(
        "HiSock 0.x, to the server",
        lambda: greeted(OLD_HELLO),
        hisock.ClientProtocol,
        HISOCK_BODIES,
        limited=lambda limit: greeted(OLD_HELLO, limit),
        malformed={**MALFORMED_HEADERS, "an unknown word without a header": b"$CHANGE$        "},
        noise=b"0123456789 $CHNAMEGROUP",
    ),
    Case(
        "HiSock, to the client",
        hisock.ClientProtocol,
        lambda: greeted(HELLO),
        HISOCK_BODIES,
        limited=lambda limit: hisock.ClientProtocol(limit=limit),
        malformed=MALFORMED_HEADERS,
        noise=b"0123456789 -_",
    ),
    symmetric(
        "HPX",
        HPX,
        (b"hello", b"", b"<EOF>", b"\0\xff<EO", b"<EOF><EOF>" * 200, b"x" * 300),
        malformed={"no gzip": b"garbage<EOF>", "nothing": b"<EOF>", "beyond the limit": b"x" * ((1 << 20) + 10)},
        noise=b"\x1f\x8b\x08\0<EOF>",
    ),
    symmetric("raw", RawProtocol, (b"hello", b"\0\xff\r\n", b"x" * 300), frames=False),
    symmetric(
        "length prefix",
        prefixed,
        (b"hello", b"", b"\0\xff\r\n", b"5               hello", b"x" * 300),
        limited=prefixed,
        malformed={
            "no digits": b"garbage         ",
            "negative": b"-1              ",
            "space in front": b" 1              ",
            "beyond the limit": b"9999999999999999",
        },
        noise=b"0123456789 -_",
    ),
    symmetric(
        "newline",
        lambda: delimited(b"\n"),
        (b"hello", b"", b"\0\xff\r", b"x" * 300),
        limited=lambda limit: delimited(b"\n", limit),
        malformed={"beyond the limit": b"x" * ((1 << 20) + 1)},
        noise=b"ab\n",
    ),
    symmetric(
        "delimiter of several bytes",
        lambda: delimited(b"aab"),
        (b"hello", b"", b"aa", b"ab", b"x" * 300),
        limited=lambda limit: delimited(b"aab", limit),
        malformed={"beyond the limit": b"x" * ((1 << 20) + 3)},
        noise=b"abc",
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_framing_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.frames], ids=lambda case: case.name
)
every_limited_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.limited], ids=lambda case: case.name
)
modest = settings(max_examples=60, deadline=None, derandomize=True)


def encode(protocol: Protocol, items: Iterable[bytes]) -> bytes:
    return b"".join(protocol.encode(item) for item in items)


def items_of(protocol: Protocol, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What the pieces and then the end of the stream give."""
    for piece in pieces:
        yield from protocol.feed(piece)
    yield from protocol.feed_eof()


def outcome(protocol: Protocol, pieces: Iterable[bytes]) -> tuple[list[bytes], ProtocolError | None]:
    """The items, and the error that ended them."""
    items: list[bytes] = []
    try:
        for item in items_of(protocol, pieces):
            items.append(item)
    except ProtocolError as error:
        return items, error
    return items, None


# --------------------------------------------------------------------------------------------------- round trip


@every_case
def test_each_item_makes_the_round_trip(case: Case) -> None:
    for item in case.items:
        items, error = outcome(case.receiver(), whole(case.sender().encode(item)))
        assert error is None
        assert items == [item]


@every_case
def test_many_items_make_the_round_trip_in_order(case: Case) -> None:
    sent = case.items * 3
    items, error = outcome(case.receiver(), whole(encode(case.sender(), sent)))
    assert error is None
    assert (tuple(items) == sent) if case.frames else (b"".join(items) == b"".join(sent))


@every_case
def test_items_are_bytes(case: Case) -> None:
    items, _ = outcome(case.receiver(), byte_by_byte(encode(case.sender(), case.items)))
    assert all(type(item) is bytes for item in items)


@every_case
def test_items_do_not_depend_on_how_the_stream_was_cut(case: Case) -> None:
    stream = encode(case.sender(), case.items)
    for pieces in every_way(stream):
        items, error = outcome(case.receiver(), pieces)
        assert error is None, f"cut as {pieces}"
        assert tuple(items) == case.items if case.frames else b"".join(items) == stream, f"cut as {pieces}"


@every_framing_case
def test_an_item_comes_as_soon_as_its_last_byte_does(case: Case) -> None:
    sender, receiver = case.sender(), case.receiver()
    for item in case.items:
        encoded = sender.encode(item)
        assert list(receiver.feed(encoded[:-1])) == []
        assert list(receiver.feed(encoded[-1:])) == [item]


# ----------------------------------------------------------------------------------------------- end of stream


@every_case
def test_a_stream_that_ends_anywhere_gives_the_items_before_and_then_a_clean_end_or_a_truncation(case: Case) -> None:
    sent = case.items
    stream = encode(case.sender(), sent)
    for end in range(len(stream) + 1):
        for pieces in (whole(stream[:end]), byte_by_byte(stream[:end]), random_splits(stream[:end], end)):
            items, error = outcome(case.receiver(), pieces)
            assert error is None or isinstance(error, FrameTruncated), f"at byte {end}"
            if case.frames:
                assert tuple(items) == sent[: len(items)], f"at byte {end}"
            else:
                assert (b"".join(items), error) == (stream[:end], None)


@every_framing_case
def test_an_end_is_clean_between_items_and_nowhere_else(case: Case) -> None:
    sender = case.sender()
    encoded = [sender.encode(item) for item in case.items]
    stream = b"".join(encoded)
    between = {sum(map(len, encoded[:count])) for count in range(len(encoded) + 1)}
    for end in range(len(stream) + 1):
        _, error = outcome(case.receiver(), whole(stream[:end]))
        assert (error is None) == (end in between), f"at byte {end}"


@every_case
def test_an_empty_stream_gives_nothing_and_ends_cleanly(case: Case) -> None:
    assert outcome(case.receiver(), []) == ([], None)


# -------------------------------------------------------------------------------------------------------- limits

LIMIT = 40


@every_limited_case
def test_an_item_of_just_the_limit_passes(case: Case) -> None:
    assert case.limited is not None
    item = b"x" * LIMIT
    for pieces in every_way(case.limited(LIMIT).encode(item)):
        assert outcome(case.limited(LIMIT), pieces) == ([item], None)


@every_limited_case
def test_an_item_one_past_the_limit_is_refused_after_the_items_before_it(case: Case) -> None:
    assert case.limited is not None
    stream = encode(case.limited(LIMIT + 1), [b"first", b"x" * (LIMIT + 1), b"never"])
    for pieces in every_way(stream):
        items, error = outcome(case.limited(LIMIT), pieces)
        assert items == [b"first"]
        assert isinstance(error, FrameTooLarge)
        assert error.limit == LIMIT


@every_limited_case
def test_an_item_one_past_the_limit_is_not_sent(case: Case) -> None:
    assert case.limited is not None
    with pytest.raises(ValueError, match=str(LIMIT)):
        case.limited(LIMIT).encode(b"x" * (LIMIT + 1))


# ------------------------------------------------------------------------------------------------------- garbage


@pytest.mark.parametrize(
    ("case", "stream"),
    [pytest.param(case, each, id=f"{case.name}, {what}") for case in CASES for what, each in case.malformed.items()],
)
def test_a_malformed_stream_is_a_protocol_error_after_the_items_before_it(case: Case, stream: bytes) -> None:
    item = case.items[0]
    good = case.sender().encode(item)
    for pieces in (
        whole(good + stream),
        random_splits(good + stream, 1),
        [good, stream],
        [good + stream[:3], stream[3:]],
    ):
        items, error = outcome(case.receiver(), pieces)
        assert items == [item]
        assert isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    ("case", "stream"),
    [
        pytest.param(case, each, id=f"{case.name}, {what}")
        for case in CASES
        if case.name != "HPX"  # what is unreadable there is an answer, and no end
        for what, each in case.malformed.items()
    ],
)
def test_after_an_error_comes_the_same_error_whatever_follows(case: Case, stream: bytes) -> None:
    receiver = case.receiver()
    with pytest.raises(ProtocolError) as first:
        list(receiver.feed(stream))
    good = case.sender().encode(case.items[0])
    for pieces in ([good], [b"\n" * 20], []):
        with pytest.raises(ProtocolError) as later:
            list(items_of(receiver, pieces))
        assert later.value is first.value


@every_case
@modest
@given(st.data())
def test_any_bytes_give_items_or_a_protocol_error(case: Case, data: st.DataObject) -> None:
    likely = st.lists(st.sampled_from([*byte_by_byte(case.noise), case.sender().encode(b"ab")]), max_size=60)
    stream = data.draw(st.binary(max_size=200) | likely.map(b"".join))
    pieces = random_splits(stream, data.draw(st.integers(0, 2**32)))
    whole_items, whole_error = outcome(case.receiver(), whole(stream))  # anything else that is raised fails the test
    items, error = outcome(case.receiver(), pieces)
    assert type(error) is type(whole_error)
    assert items == whole_items if case.frames else b"".join(items) == stream


@every_case
@modest
@given(st.lists(st.binary(max_size=60), max_size=6), st.integers(0, 2**32))
def test_what_encode_takes_arrives(case: Case, items: list[bytes], seed: int) -> None:
    sender = case.sender()
    taken: list[bytes] = []
    stream = b""
    for item in items:
        try:
            stream += sender.encode(item)
        except ValueError:  # a protocol may refuse what it cannot carry
            continue
        taken.append(item)
    got, error = outcome(case.receiver(), random_splits(stream, seed))
    assert error is None
    assert got == taken if case.frames else b"".join(got) == b"".join(taken)


# ------------------------------------------------------------------------------------------------------ speaking


@every_case
def test_a_protocol_says_nothing_unasked(case: Case) -> None:
    for protocol in (case.sender(), case.receiver()):
        assert protocol.data_to_send() == b""
        encode(protocol, case.items)
        assert protocol.data_to_send() == b""


@pytest.fixture
def _eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@every_case
@pytest.mark.usefixtures("_eager_switching")
def test_several_threads_may_encode_at_once(case: Case) -> None:
    protocol = case.sender()
    start = threading.Barrier(4)
    encoded: list[list[bytes]] = [[] for _ in range(4)]

    def work(own: list[bytes]) -> None:
        start.wait(PATIENCE)
        for _ in range(50):
            own.extend(protocol.encode(item) for item in case.items)

    threads = [threading.Thread(target=work, args=(own,)) for own in encoded]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for own in encoded:
        assert len(own) == 50 * len(case.items)  # fewer, if a thread died of an exception
        items, error = outcome(case.receiver(), own)
        assert error is None
        assert tuple(items) == case.items * 50 or not case.frames
        assert b"".join(items) == b"".join(case.items * 50)
