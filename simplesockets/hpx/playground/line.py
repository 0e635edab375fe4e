"""One connection to a server, every message of which is told of, with its sizes on the way."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable

from ...client import TCPClient
from ...errors import ProtocolError
from ...tls import explain
from ..codec import Framing, Unpacker, Unreadable
from ..exceptions import ServerDisconnectError

CONNECT_TIMEOUT = 10.0
"""Seconds that connecting may take."""

OnMessage = Callable[["bytes | Unreadable", int], object]
"""Called with the JSON of each message that comes, and the bytes of its frame."""
OnEnd = Callable[["Line", str], object]
"""Called with the connection that ended, and why, in a sentence."""

_RECV_BUFFER = 64 * 1024


class _Packed(Framing):
    """What is sent is packed already, since its size is of interest."""

    def encode(self, item: bytes) -> bytes:
        return item


class Line:
    """A connection to a server.

    Args:
        address: of the server.
        ssl_context: for TLS.
        on_message, on_end: called in the thread that reads; on_end once, after everything else.

    Everything may be called from any thread. :meth:`close` ends whoever waits.
    """

    def __init__(
        self, address: tuple[str, int], ssl_context: ssl.SSLContext | None, on_message: OnMessage, on_end: OnEnd
    ) -> None:
        self.address = address
        self._on_message = on_message
        self._on_end = on_end
        self._unpacker = Unpacker()  # the reading thread's alone
        self._packed = 0  # bytes of the frame that is begun
        self._broken = ""  # why this end gave up
        self._tcp = TCPClient()
        self._tcp.setup(
            *address,
            recv_buffer=_RECV_BUFFER,
            on_receive=self._take,
            on_disconnect=self._end,
            connect_timeout=CONNECT_TIMEOUT,
            protocol=_Packed,
            ssl_context=ssl_context,
        )

    def open(self) -> None:
        """Connect.

        Raises:
            ServerDisconnectError: there is no connection to be had; ``msg`` says why.
        """
        try:
            self._tcp.open()
        except OSError as failure:
            why = f"{self._named()} cannot be reached: {failure}{_hint(failure)}"
            raise ServerDisconnectError("playground", why) from failure

    def read(self) -> None:
        """Begin to read, in a thread of its own."""
        self._tcp.autorecv()

    def send(self, frame: bytes) -> None:
        """Send a packed message.

        Raises:
            ServerDisconnectError: it could not be sent.
        """
        if not self._tcp.send_data(frame):
            raise ServerDisconnectError("playground", f"The message was not sent: {self._reason()}")

    def close(self, timeout: float = 5.0) -> None:
        """End the connection; ``on_end`` runs if it was open.

        Args:
            timeout: seconds that it takes at most.
        """
        self._tcp.close(timeout)

    def _take(self, piece: bytes) -> None:
        self._packed += len(piece)
        try:
            messages = self._unpacker.take(piece)
        except ProtocolError as failure:
            self._broken = str(failure)
            self._tcp.disconnect()
            return
        self._tell(messages)

    def _tell(self, messages: Iterable[bytes | Unreadable]) -> None:
        for message in messages:  # mostly one; of several, damaged ones are the first
            packed, self._packed = self._packed, 0
            self._on_message(message, packed)

    def _end(self) -> None:
        if self._unpacker.pending and not self._broken:
            self._tell(self._unpacker.give_up())
        self._on_end(self, self._broken or self._reason())

    def _reason(self) -> str:
        records = self._tcp.return_exceptions()
        return str(records[-1].exception) if records else f"{self._named()} ended the connection"

    def _named(self) -> str:
        return "{}:{}".format(*self.address)


def _hint(failure: OSError) -> str:
    if isinstance(failure, ConnectionRefusedError):
        return ". Is the server running, with this port?"
    return explain(failure)
