"""What a server knows of one connection. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import FrameTooLarge, FrameTruncated
from ..timing import Deadline
from .codec import DELIMITER, Framing, Unpacker, Unreadable


class Conversation(Framing):
    """The ``protocol=`` of a server's connection.

    Feeding it raises nothing, as that would be told before the messages in front of it were answered. What is wrong
    comes in its place in the stream, as an empty piece, and is the :attr:`failure`; where the stream ends inside of a
    frame there is no such piece.

    Args:
        max_packed: bytes of a frame at most.
        max_unpacked: bytes of a message at most.
        level: effort of compression, 0 to 9.
    """

    def __init__(self, max_packed: int, max_unpacked: int, level: int) -> None:
        super().__init__(max_packed, level)
        self._unpacker = Unpacker(max_unpacked, max_packed)
        self.until = Deadline(None, 0.0)
        """When its first message has to be accepted."""
        self.busy = False
        """Whether a piece is being dealt with."""
        self.failure: FrameTooLarge | FrameTruncated | None = None
        """Why there are no further pieces."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What was received, cut after each delimiter."""
        self.received += len(data)
        try:
            for piece in self._framer.feed(data):
                yield piece + DELIMITER
        except FrameTooLarge as failure:
            self.failure = failure
            yield b""

    def feed_eof(self) -> Iterator[bytes]:
        """The stream ended. Gives nothing."""
        try:
            yield from super().feed_eof()
        except FrameTruncated as failure:
            self.failure = failure

    @property
    def pending(self) -> bool:
        """See :attr:`.Unpacker.pending`."""
        return self._unpacker.pending

    def take(self, piece: bytes) -> list[bytes | Unreadable] | None:
        """The messages that a piece completes; empty, it is the end, and there are none.

        Raises:
            FrameTooLarge: a message is over a limit.
            FrameTruncated: the end is inside of a frame.
        """
        if piece:
            return self._unpacker.take(piece)
        if self.failure is not None:
            raise self.failure
        return self.give_up() if self.pending else None

    def give_up(self) -> list[bytes | Unreadable]:
        """See :meth:`.Unpacker.give_up`."""
        return self._unpacker.give_up()
