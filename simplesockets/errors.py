"""The exception tree.

Everything this package raises on purpose is a :class:`SimpleSocketsError`. Where a built-in type says the same
(``OSError``, ``ConnectionError``, ``ValueError``, …) the class is that, too, so programs that catch the built-in one
keep working.

    SimpleSocketsError (``error`` in 0.3/0.4)
    ├── SocketError
    │   ├── SetupError            setup() is missing, or came at the wrong moment
    │   ├── LifecycleError        a call that does not fit the object's state
    │   ├── BusyError             two threads do what only one can do at a time
    │   ├── BindError             a listening address cannot be used        (OSError)
    │   ├── ResolveError          a host name does not resolve              (socket.gaierror)
    │   ├── ConnectionClosed      the connection was ended on this side     (ConnectionError)
    │   ├── SendTimeout           the other end took nothing for too long   (ConnectionError)
    │   ├── FileIncomplete        a file did not come or go as a whole      (ConnectionError)
    │   │   └── FileTimeout       nothing more of it came in time           (TimeoutError)
    │   ├── UnknownClient         no such client is connected               (KeyError)
    │   └── WorkerError           what a worker process reported, or its death
    └── ProtocolError             the other end broke the rules of the protocol
        ├── FrameTooLarge
        ├── FrameTruncated
        └── InvalidHeader
"""

from __future__ import annotations

import socket


class SimpleSocketsError(Exception):
    """Base of all errors that this package raises."""


class SocketError(SimpleSocketsError):
    """Something about a server, a client or a connection is not as it has to be."""


class SetupError(SocketError):
    """``setup()`` was not called, or may not be called now."""


class LifecycleError(SocketError, RuntimeError):
    """The call does not fit the state that the object is in."""


class BusyError(SocketError, RuntimeError):
    """Another thread is doing just this; only one can at a time."""


class BindError(SocketError, OSError):
    """A listening address cannot be used. ``errno`` is the operating system's code."""


class ResolveError(SocketError, socket.gaierror):
    """A host name does not resolve to an address."""


class ConnectionClosed(SocketError, ConnectionError):
    """The connection is not open any more, or never was."""


class SendTimeout(SocketError, ConnectionError):
    """The other end took nothing of what was sent for so long that the connection was cut, most likely in the middle of
    something.

    Args:
        seconds: for how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the other end took nothing for {seconds:g} seconds, so this connection was cut. It does not read; where "
            "it only needs longer, give setup() a longer send_timeout (None waits for ever)"
        )
        self.seconds = seconds


class FileIncomplete(SocketError, ConnectionError):
    """A file was not transferred as a whole.

    Args:
        why: what happened.
        done: bytes that came, or were sent.
        expected: bytes that the file has; None where it was to go on until the end of the stream.
    """

    def __init__(self, why: str, done: int, expected: int | None) -> None:
        of = "bytes" if expected is None else f"of {expected} bytes"
        super().__init__(f"{why} after {done} {of} of a file")
        self.done = done
        self.expected = expected


class FileTimeout(FileIncomplete, TimeoutError):
    """Nothing more of a file came in time."""


class UnknownClient(SocketError, KeyError):
    """No connected client has this address or socket."""

    __str__ = Exception.__str__  # a KeyError shows its text in quotation marks

    def __init__(self, target: object) -> None:
        super().__init__(
            f"no client {target!r} is connected (it may have left already); server.clients lists those that are"
        )
        self.target = target


class WorkerError(SocketError):
    """An exception that a worker process reported (its traceback there is in ``__cause__``), or that process's death.

    Args:
        message: what happened.
        worker: the worker's number, from 1.
        pid: the process.
    """

    def __init__(self, message: str, worker: int, pid: int) -> None:
        super().__init__(message)
        self.worker = worker
        self.pid = pid


class ProtocolError(SimpleSocketsError):
    """The other end sent bytes that the protocol does not allow. It ends that connection and no other."""


class FrameTooLarge(ProtocolError, ValueError):
    """A frame is larger than the limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a frame of {size} bytes or more is over the limit of {limit} bytes")
        self.size = size
        self.limit = limit


class FrameTruncated(ProtocolError, EOFError):
    """The stream ended inside a frame."""

    def __init__(self, received: int) -> None:
        super().__init__(f"the stream ended inside a frame, {received} bytes after it began")
        self.received = received


class InvalidHeader(ProtocolError, ValueError):
    """A frame's header does not say a length."""

    def __init__(self, header: bytes) -> None:
        super().__init__(
            f"the header {header!r} is not a length in decimal digits, padded with spaces; both ends have to speak the "
            "same protocol, with the same header length (header_len, header_size)"
        )
        self.header = header


error = SimpleSocketsError
"""The base class's name in releases 0.3 and 0.4."""
