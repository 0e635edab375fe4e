"""Files over a raw connection, whole or not at all.

A stream has no messages, so the two ends have to agree how many bytes are the file's (or that it goes on until the end
of the stream), and then nothing may go wrong unnoticed:

* *Sending.* The size is taken at the beginning, and exactly so many bytes are sent, with nobody else's in between. The
  system does it by itself (``sendfile``) where it can; where not, for TLS above all, pieces are read and sent.
* *Receiving.* What comes goes to a file of another name beside the wanted one, which takes its place in the end. So
  there is no half file that looks like a whole one.
* *Half of it.* When either end gives up in the middle, all that could follow on the connection would be taken for what
  it is not. So the connection is broken off: this end sends nothing more, and the other end sees a reset, not an end of
  the stream.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO
from typing import Protocol as Interface

from .connection import Connection
from .errors import ConnectionClosed, FileIncomplete, FileTimeout, LifecycleError
from .protocol import RawProtocol
from .transport import Stream

SENT_AT_ONCE = 512 * 1024
"""Bytes of a file that are sent between two reports of progress, at most."""
SENT_UNTOLD = 16 * 1024 * 1024
"""The same, where nobody wants to be told, and the system sends by itself."""
RECEIVED_AT_ONCE = 256 * 1024
"""Bytes of a file that are received between two reports of progress, at most."""

Path = str | os.PathLike[str]


# -------------------------------------------------------------------------------------------------- progress


class Bar(Interface):
    """A progress bar, such as ``tqdm``'s."""

    def update(self, n: int, /) -> object:
        """So many more bytes were transferred."""


SendProgress = Callable[[int, int], object] | Bar
"""Told of a file's progress: called as ``(bytes so far, bytes of the file)``, or a bar with ``update(more_bytes)``."""
ReceiveProgress = Callable[[int, int | None], object] | Bar
"""The same; the second number is None where the file goes on until the end of the stream."""


class _Meter:
    """Counts the bytes, and tells the program.

    Raises:
        TypeError: what the program gave can be told nothing.
    """

    def __init__(self, progress: SendProgress | ReceiveProgress | None, total: int | None) -> None:
        self.done = 0
        self.total = total
        self._update: Callable[[int], object] | None = None
        self._call: Callable[[int, int | None], object] | None = None
        update = getattr(progress, "update", None)
        if callable(update):
            self._update = update
        elif callable(progress):
            self._call = progress  # type: ignore[assignment]  # who sends has a total
        elif progress is not None:
            raise TypeError(
                f"progress must be a function called as progress(done, total), or an object with update(n), not "
                f"{progress!r}"
            )

    @property
    def is_told(self) -> bool:
        """Whether the program wants to be told."""
        return self._update is not None or self._call is not None

    def begin(self) -> None:
        """Tell that nothing was transferred yet."""
        if self._call is not None:
            self._call(0, self.total)

    def tell(self, count: int) -> None:
        """Tell that so many more bytes were transferred."""
        if self._update is not None:
            self._update(count)
        elif self._call is not None:
            self._call(self.done, self.total)

    def left(self, most: int) -> int:
        """How many bytes are still to come, ``most`` at most."""
        return most if self.total is None else min(most, self.total - self.done)


# --------------------------------------------------------------------------------------------------- sending


class _Source:
    """What is to be sent of an open file.

    Args:
        file: open for reading, in binary mode, and able to seek.
        offset: where to begin.
        count: how many bytes; None: all up to the end of the file.

    Raises:
        ValueError: the file does not have these bytes.
    """

    def __init__(self, file: BinaryIO, offset: int, count: int | None) -> None:
        self._file = file
        self._offset = offset
        self._place: int | None = None  # where the file stands, if we know
        self.fd = _descriptor(file)
        if self.fd is not None:
            file.flush()  # what the program wrote to it a moment ago
            length = os.fstat(self.fd).st_size
        else:
            length = file.seek(0, os.SEEK_END)
        if offset > length:
            raise ValueError(f"the file has {length} bytes, so nothing can be sent from offset {offset} on")
        if count is not None and count > length - offset:
            raise ValueError(f"the file has {length - offset} bytes from offset {offset} on, and not count={count}")
        self.size = length - offset if count is None else count

    def at(self, done: int) -> int:
        """The place in the file of the byte after the first so many."""
        return self._offset + done

    def read(self, done: int, size: int) -> bytes:
        """At most ``size`` bytes after the first so many; empty if the file became shorter."""
        if self._place != self.at(done):
            self._file.seek(self.at(done))
        data = self._file.read(size)
        if not isinstance(data, bytes):
            raise TypeError(f"the file's read() has to give bytes, not {type(data).__name__}")
        self._place = self.at(done) + len(data)
        return data

    def leave(self, done: int) -> None:
        """Let the file stand after the first so many bytes, as ``socket.sendfile`` does."""
        with contextlib.suppress(OSError, ValueError):
            self._file.seek(self.at(done))


def _descriptor(file: BinaryIO) -> int | None:
    # Only of a plain file: a wrapper, one that decompresses for example, may well tell that of what it wraps.
    if not isinstance(file, (io.FileIO, io.BufferedReader, io.BufferedRandom)):
        return None
    if not isinstance(file, io.FileIO) and not isinstance(file.raw, io.FileIO):
        return None
    try:
        fd = file.fileno()
    except (OSError, ValueError):
        return None
    return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None


@contextlib.contextmanager
def _opened(file: Path | BinaryIO, offset: int, count: int | None) -> Iterator[_Source]:
    _check_count("offset", offset)
    if count is not None:
        _check_count("count", count)
    if isinstance(file, (str, os.PathLike)):
        with _open_regular(file) as opened:
            yield _Source(opened, offset, count)
        return
    if isinstance(file, io.TextIOBase) or not all(hasattr(file, name) for name in ("read", "seek")):
        raise TypeError(f"the file must be a path, or a file that was opened in binary mode ('rb'), not {file!r}")
    yield _Source(file, offset, count)


def _open_regular(path: Path) -> BinaryIO:
    file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{os.fspath(path)!r} is no regular file, so nobody knows its size; read it and send that")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for who writes to it


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of bytes, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more bytes, not {value}")


class _Lost(Exception):
    """The connection failed, not the file nor the program's code."""

    def __init__(self, failure: OSError) -> None:
        self.failure = failure


def send(
    connection: Connection,
    file: Path | BinaryIO,
    progress: SendProgress | None,
    *,
    offset: int,
    count: int | None,
) -> tuple[int, OSError | None]:
    """Send a file; see ``Server_Client.send_file``.

    Returns:
        The number of bytes sent, and what broke the connection before that were all.
    """
    _require_raw(connection, "send_file()")
    with _opened(file, offset, count) as source:
        meter = _Meter(progress, source.size)
        try:
            _send_all(connection, source, meter)
        except _Lost as lost:
            return meter.done, lost.failure
        finally:
            source.leave(meter.done)
    return meter.done, None


def _send_all(connection: Connection, source: _Source, meter: _Meter) -> None:
    stream = connection.stream
    meter.begin()
    if connection.closing:
        raise _Lost(ConnectionClosed("this connection was closed here; nothing can be sent any more"))
    try:
        with stream.undisturbed():
            try:
                last = _send_pieces(stream, source, meter)
            except BaseException:
                if meter.done:  # before anybody else may send
                    _note(connection, FileIncomplete("sending ended", meter.done, meter.total))
                    stream.break_off()
                raise
    except BaseException:
        if meter.done:
            _end(connection)
        raise
    if last:
        meter.tell(last)


def _send_pieces(stream: Stream, source: _Source, meter: _Meter) -> int:
    # Gives the size of the last one, which is to be told when others may send again.
    direct, sent = stream.sends_files and source.fd is not None, 0
    while (size := meter.left(SENT_UNTOLD if direct and not meter.is_told else SENT_AT_ONCE)) > 0:
        if sent:
            meter.tell(sent)
        sent = _send_directly(stream, source, meter.done, size) if direct else 0
        if not sent:  # the system cannot, or the file is faulty, or shorter: reading it does it, or tells
            direct = False
            sent = _read_and_send(stream, source, meter.done, min(size, SENT_AT_ONCE))
        if not sent:
            raise FileIncomplete("the file became shorter", meter.done, meter.total)
        meter.done += sent
    return sent


def _send_directly(stream: Stream, source: _Source, done: int, size: int) -> int:
    if source.fd is None:
        return 0
    try:
        return stream.send_from(source.fd, source.at(done), size)
    except (ConnectionError, TimeoutError) as failure:
        raise _Lost(failure) from failure
    except OSError:
        return 0


def _read_and_send(stream: Stream, source: _Source, done: int, size: int) -> int:
    data = source.read(done, size)
    try:
        stream.send_part(data)
    except OSError as failure:
        raise _Lost(failure) from failure
    return len(data)


# ------------------------------------------------------------------------------------------------- receiving


class _PartFile:
    """A file under another name, which takes the place of the wanted one when it is complete."""

    def __init__(self, path: Path) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"the path must be one of a file to write, not {path!r}")
        self._path = os.fspath(path)
        if os.path.isdir(self._path) or not os.path.basename(self._path):
            raise IsADirectoryError(f"cannot receive a file as {self._path!r}: that is a directory")
        directory, name = os.path.split(self._path)
        self._part = os.path.join(directory, f".{name[:32]}.{secrets.token_hex(8)}.part")
        self._file = open(self._part, "xb")  # noqa: SIM115 - closed in __exit__, or before
        self.write = self._file.write

    def __enter__(self) -> _PartFile:
        return self

    def keep(self) -> None:
        """It is complete."""
        self._file.close()
        os.replace(self._part, self._path)

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):  # it was kept
            os.unlink(self._part)


def receive(
    connection: Connection,
    path: Path,
    size: int | None,
    progress: ReceiveProgress | None,
    *,
    head: bytes,
    timeout: float | None,
    delivered: bool,
) -> int:
    """Receive a file; see ``Server_Client.receive_file``.

    Args:
        delivered: whether a reader hands what it reads to a callback.
    """
    _require_raw(connection, "receive_file()")
    _check_expected(size, head, timeout)
    if delivered and not connection.is_served_here() and not connection.is_unread():
        raise LifecycleError(
            "on_receive (or handle_client) gets what comes on this connection; call receive_file() inside of it"
        )
    meter = _Meter(progress, size)
    with _PartFile(path) as part:
        meter.begin()
        try:
            _receive_all(connection, part, meter, head, timeout)
            part.keep()
        except BaseException:
            if meter.done:
                _note(connection, FileIncomplete("receiving ended", meter.done, meter.total))
                connection.stream.break_off()
                _end(connection)
            raise
    return meter.done


def _check_expected(size: int | None, head: bytes, timeout: float | None) -> None:
    if size is not None:
        _check_count("size", size)
    if not isinstance(head, bytes):
        raise TypeError(f"head must be bytes, not {type(head).__name__}")
    if size is not None and len(head) > size:
        raise ValueError(
            f"head has {len(head)} bytes, but the file only {size}; what comes behind, head[{size}:], is not the file's"
        )
    if timeout is not None and (not isinstance(timeout, (int, float)) or isinstance(timeout, bool)):
        raise TypeError(f"timeout must be a number of seconds, or None for no limit, not {timeout!r}")


def _receive_all(connection: Connection, part: _PartFile, meter: _Meter, head: bytes, timeout: float | None) -> None:
    if head:
        _write(part, meter, head)
    while (size := meter.left(RECEIVED_AT_ONCE)) > 0:
        data = _receive_some(connection, meter, size, timeout)
        if not data:
            return
        _write(part, meter, data)


def _write(part: _PartFile, meter: _Meter, data: bytes) -> None:
    meter.done += len(data)  # it was taken, whatever happens next
    part.write(data)
    meter.tell(len(data))


def _receive_some(connection: Connection, meter: _Meter, size: int, timeout: float | None) -> bytes:
    # Empty where the stream may end.
    try:
        data = connection.receive(size, timeout)
    except TimeoutError as failure:
        if failure.errno is not None:  # of the network
            raise FileIncomplete("the connection broke", meter.done, meter.total) from failure
        raise FileTimeout(f"nothing came within {timeout} seconds", meter.done, meter.total) from failure
    except OSError as failure:
        raise FileIncomplete("the connection broke", meter.done, meter.total) from failure
    if data:
        return data
    ending = connection.ending
    if meter.total is None and ending is not None and ending.kind == "peer closed":
        return b""
    cause = None if ending is None else ending.exception
    why = "the stream ended" if ending is None else f"the connection ended ({ending.kind})"
    raise FileIncomplete(why, meter.done, meter.total) from cause


# --------------------------------------------------------------------------------------------- the connection


def _require_raw(connection: Connection, what: str) -> None:
    if type(connection.protocol) is not RawProtocol:
        raise LifecycleError(
            f"{what} is for a raw stream. This connection has a protocol, and a file in between would break its "
            "messages: send the file as messages, or over a connection of its own"
        )


def _note(connection: Connection, why: FileIncomplete) -> None:
    # The program gets the exception itself. What the ending remembers holds no frames.
    connection.note_ending("closed here", why)


def _end(connection: Connection) -> None:
    connection.disconnect()
    if connection.kept:
        connection.close()
    elif connection.is_unread():
        connection.finish()
