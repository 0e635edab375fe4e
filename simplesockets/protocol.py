"""The protocol interface, and the protocols that need nothing but a framer. Pure.

A protocol is one connection's half of a conversation. It never sees a socket:

    bytes in     items = protocol.feed(data)       what was received -> what the program gets
    end in       items = protocol.feed_eof()       the other end sends no more
    bytes out    data = protocol.encode(item)      what the program sends -> bytes
                 data = protocol.data_to_send()    what the protocol itself wants to say (an acknowledgement, say)

``feed`` and ``feed_eof`` give iterators, to be run to the end before the next call; one thread at a time calls them.
They raise :class:`~.errors.ProtocolError` where the other end broke the rules: that ends the connection, after the
items before it were delivered and what ``data_to_send`` holds was sent. ``encode`` may be called by any thread at
any time.

HiSock and HPX are protocols with a state; those here have none beyond their framer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol as Interface

from .framing import DelimiterFramer, LengthPrefixFramer


class Protocol(Interface):
    """What a connection needs to know of its protocol (see above)."""

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Take received bytes; give the items that they complete."""

    def feed_eof(self) -> Iterable[bytes]:
        """Take the end of the stream; give the items that it completes."""

    def encode(self, item: bytes) -> bytes:
        """The bytes that carry an item."""

    def data_to_send(self) -> bytes:
        """What the protocol wants to send of its own accord; empty most of the time. Asking takes it."""


ProtocolFactory = Callable[[], Protocol]
"""Makes the protocol of a new connection."""


def nothing_to_send(protocol: Protocol) -> bytes:
    """The ``data_to_send`` of a protocol that never says anything by itself."""
    return b""


def only_cuts(protocol: Protocol) -> Callable[[bytes], Iterable[bytes]] | None:
    """The protocol's ``feed``, if that is the one of a :class:`~.framing.LengthPrefixFramer`, and it says nothing by
    itself: then whoever sees a frame that came alone and whole may take it for what ``feed`` would give."""
    feed, said = (getattr(protocol, name, None) for name in ("feed", "data_to_send"))
    if type(getattr(feed, "__self__", None)) is not LengthPrefixFramer:
        return None
    cuts = getattr(feed, "__func__", None) is LengthPrefixFramer.feed
    return feed if cuts and getattr(said, "__func__", None) is nothing_to_send else None


class RawProtocol:
    """A stream and nothing else: what was read in one go is one item."""

    def feed(self, data: bytes) -> Iterable[bytes]:
        """The bytes as they came."""
        return (data,)

    def feed_eof(self) -> Iterable[bytes]:
        """Nothing: whatever came was delivered already."""
        return ()

    def encode(self, item: bytes) -> bytes:
        """The item as it is."""
        return item

    data_to_send = nothing_to_send


class FramedProtocol:
    """Messages instead of a stream: each frame is one item.

    Args:
        framer: a fresh framer of this connection.
    """

    def __init__(self, framer: LengthPrefixFramer | DelimiterFramer) -> None:
        self.feed = framer.feed
        self.feed_eof = framer.feed_eof
        self.encode = framer.encode

    data_to_send = nothing_to_send
