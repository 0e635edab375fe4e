"""TLS, by the standard library's ``ssl``: contexts, and the stream of an encrypted connection.

No two threads may be inside OpenSSL's object of a connection at once, but the connection's reader sleeps in the socket
while others send. So that object never sees the socket. It works on memory (``ssl.MemoryBIO``), under a lock that is
held only while it computes, and :class:`TLSStream` carries the bytes between there and the socket:

* *In.* Whatever was read is decrypted at once, all of it, and what nobody fetched yet waits in ``_plain``. Nobody but
  the stream knows that it does, no ``poll`` and no ``epoll``; so whoever waits asks the stream (``buffered``). Outside
  the lock OpenSSL never holds a whole record, so saying goodbye meets no data.
* *Out.* Bytes leave in the order in which they were encrypted, by way of ``_unsent``, under the write lock.
* *Answers.* Reading may make TLS say something by itself (a new key). The reader sends that, but it must not wait for
  a sender who waits for a peer that does not read, since the peer may be waiting for us to read. So it says that
  something is left (``_left``) and then only tries the write lock; who holds it lets go and then looks at ``_left``;
  so one of them sends it. Ending our side goes by the same rule: nobody is interrupted, nobody waits.

The other end should say goodbye (``close_notify``) before it ends its stream. Many do not, and a stream without frames
cannot tell that from a cable that was cut; so it counts as an ordinary end. Where a message has a frame, a stream that
was cut shows as :class:`~.errors.FrameTruncated`.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from os import PathLike

from .errors import SetupError
from .hotpath import RLock
from .timing import Deadline
from .transport import NO_WAIT, SAFE_TO_SEND, Stream, send_at_once, wait_ready

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a server gives a client for the TLS handshake, by default."""

_RAW = 32 * 1024  # bytes asked for in one read, at least: two records
_RECORD = 16 * 1024  # bytes that a record carries at most
_PIECE = 64 * 1024  # bytes that are encrypted and sent at a time

Path = str | PathLike[str]


# ---------------------------------------------------------------------------------------------------- contexts


def check_context(context: object, *, server: bool) -> None:
    """Refuse what is no context for this side. None is one: no TLS.

    Raises:
        TypeError, ValueError: saying how to make one.
    """
    side, other = ("server", "client") if server else ("client", "server")
    advice = (
        "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), and its load_cert_chain(certfile, keyfile)"
        if server
        else "ssl.create_default_context(), with cafile=… for a certificate of your own"
    )
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {context!r}; a {side} makes one with {advice}")
    wrong = ssl.PROTOCOL_TLS_CLIENT if server else ssl.PROTOCOL_TLS_SERVER
    if context is not None and context.protocol == wrong:
        raise ValueError(f"this ssl_context is one for a {other}; a {side} makes its own with {advice}")


def server_context(
    certfile: Path, keyfile: Path | None = None, password: str | None = None, cafile: Path | None = None
) -> ssl.SSLContext:
    """A context for a server.

    Args:
        certfile: PEM file of the certificate, followed by those that signed it.
        keyfile: PEM file of the key; None: it is in ``certfile``, too.
        password: of the key.
        cafile: PEM file of those whose clients are let in. Then each client has to have a certificate.

    Raises:
        SetupError: a file cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # No tickets for coming back quickly: a client that sends and closes, and never reads, would leave them unread, and
    # its system would make a reset of its orderly end.
    context.num_tickets = 0
    _load_chain(context, certfile, keyfile, password)
    if cafile is not None:
        _load_authorities(context, cafile)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    cafile: Path | None = None,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    password: str | None = None,
) -> ssl.SSLContext:
    """A context for a client, which verifies the server's certificate and its name.

    Args:
        cafile: PEM file of those who sign the server's certificate (or of that itself, if nobody does); None: those
            whom the system trusts.
        certfile, keyfile, password: the client's own certificate, for servers that want one.

    Raises:
        SetupError: a file cannot be used.
    """
    context = ssl.create_default_context()
    if cafile is not None:
        _load_authorities(context, cafile)
    if certfile is not None:
        _load_chain(context, certfile, keyfile, password)
    return context


def _load_chain(context: ssl.SSLContext, certfile: Path, keyfile: Path | None, password: str | None) -> None:
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certfile, keyfile, "" if password is None else password)
    except (OSError, ValueError) as failure:
        key = "" if keyfile is None else f" with the key in {str(keyfile)!r}"
        raise SetupError(f"cannot use the certificate in {str(certfile)!r}{key}: {failure}") from failure


def _load_authorities(context: ssl.SSLContext, cafile: Path) -> None:
    try:
        context.load_verify_locations(cafile)
    except (OSError, ValueError) as failure:
        raise SetupError(f"cannot use the certificates in {str(cafile)!r}: {failure}") from failure


_NO_TLS = frozenset(
    (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
        "PACKET_LENGTH_TOO_LONG",
        "UNEXPECTED_MESSAGE",
        "UNEXPECTED_EOF_WHILE_READING",
    )
)
"""What reading something else as TLS is called, among other things."""
_UNTRUSTED = frozenset((18, 19, 20, 21))  # X509_V_ERR_…: self-signed, or by somebody unknown
_OTHER_NAME = frozenset((62, 64))  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def _explain_certificate(code: int) -> str:
    if code in _UNTRUSTED:
        return "; the client's cafile has to be the server's certificate, or that of whoever signed it"
    if code in _OTHER_NAME:
        return "; connect to a name that the certificate is for, or give it as server_hostname"
    return ""


def explain(failure: BaseException) -> str:
    """What may be the matter, in a few words to put behind a message; empty where the error says it."""
    reason = getattr(failure, "reason", None)
    if reason in _NO_TLS:
        return "; does the other end speak TLS? Both ends need it, or none (SecureServer, SecureClient, ssl_context)"
    if reason == "TLSV1_ALERT_UNKNOWN_CA":
        return "; the client does not trust this server's certificate, and needs it as its cafile"
    if isinstance(failure, ssl.SSLCertVerificationError):
        return _explain_certificate(failure.verify_code)
    if reason == "NO_SHARED_CIPHER":
        return "; does the server's ssl_context have a certificate (load_cert_chain)?"
    return ""


# ------------------------------------------------------------------------------------------------------ socket


class SealedSocket(socket.socket):
    """The socket under an encrypted connection. Options can be set on it, and it tells of the certificate as an
    ``ssl.SSLSocket`` does; what would read or write beside the encryption is refused with a TypeError.

    Args:
        sock: whose descriptor to take over.
        stream: the encrypted connection.
        tls: its object.
        lock: protects that.
    """

    def __init__(self, sock: socket.socket, stream: TLSStream, tls: ssl.SSLObject, lock: threading.RLock) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self._stream = weakref.ref(stream)  # not to keep each other
        self._tls = tls
        self._lock = lock

    def shutdown(self, how: int) -> None:
        """As a socket's, but the other end is told before that nothing more will be sent."""
        stream = self._stream()
        if stream is not None and how != socket.SHUT_RD:
            stream.end_sending()
        if how != socket.SHUT_WR:
            super().shutdown(how)

    def getpeercert(self, binary_form: bool = False) -> object:
        """The other end's certificate, as ``ssl.SSLSocket.getpeercert()`` gives it."""
        with self._lock:
            return self._tls.getpeercert(binary_form)

    def version(self) -> str | None:
        """The version of TLS, such as ``"TLSv1.3"``."""
        with self._lock:
            return self._tls.version()

    def cipher(self) -> tuple[str, str, int] | None:
        """The cipher's name, the version that it is of, and its number of secret bits."""
        with self._lock:
            return self._tls.cipher()

    def selected_alpn_protocol(self) -> str | None:
        """What both ends agreed to speak, where the contexts say so (``set_alpn_protocols``)."""
        with self._lock:
            return self._tls.selected_alpn_protocol()


def _refuse(self: SealedSocket, *_: object, **__: object) -> object:
    raise TypeError(
        "this connection is encrypted, and its socket alone cannot read or write; use the methods of the client or "
        "server, such as client.send() and client.recv()"
    )


_RAW_METHODS = (
    "send sendall sendto sendmsg sendmsg_afalg sendfile recv recv_into recvfrom recvfrom_into recvmsg recvmsg_into "
    "makefile dup detach share"
)
for _name in _RAW_METHODS.split():
    if hasattr(socket.socket, _name):
        setattr(SealedSocket, _name, _refuse)


# ------------------------------------------------------------------------------------------------------ stream


def _wait_either(sock: socket.socket, timeout: float | None) -> None:
    # Until it can be read or written.
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN | select.POLLOUT)
        poll.poll(None if timeout is None else timeout * 1000)
    else:
        select.select([sock], [sock], [], timeout)


class TLSStream(Stream):
    """An encrypted connection: as :class:`~.transport.Stream`, after :meth:`handshake`.

    Args:
        sock: the connected socket; its descriptor goes over to :attr:`socket`.
        context: what to trust, and what to show.
        server: whether this is the server's end.
        name: the server's name, for a client to ask for and to verify.
        send_timeout: seconds for which the other end may take nothing of what is sent; None: any number.

    Raises:
        ValueError: the context checks names, and there is none, or none that is possible; the socket stays open.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server: bool,
        name: str | None = None,
        send_timeout: float | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=name)
        self._lock = threading.RLock()  # protects these three; never held across I/O
        sealed = SealedSocket(sock, self, self._tls, self._lock)
        self.socket = sealed
        self._recv = super(SealedSocket, sealed).recv
        self._send = super(SealedSocket, sealed).send
        self._shut = super(SealedSocket, sealed).shutdown
        send_at_once(sealed)
        if send_timeout is not None:
            self._limit_sending(send_timeout)
        self.bytes_out = self.messages_out = 0
        self.write_lock = RLock()
        self._unsent = memoryview(b"")  # encrypted; protected by the write lock, as the next two
        self._held = 0  # bytes that send_now() is to get once more, and which are encrypted already
        self._pushing = False  # a thread is sending _unsent; if it is the calling one, below on its stack
        self._left = False  # something may be left to send for whoever has the write lock, or had it
        self._leaving = False  # our side is over: nothing more is sent but the goodbye
        self._said_goodbye = False
        self._shaking = True  # the handshake is not over
        self._read_lock = threading.RLock()  # one thread at a time reads and decrypts; held across I/O
        self._reading = False  # if by the calling thread, below on its stack
        self._plain = b""  # decrypted; from here on protected by the read lock
        self._fetched = 0  # how much of it was fetched
        self._over = False  # the other end's stream is over, but for _plain
        self._failure: OSError | None = None  # what the next read raises, after _plain

    # -------------------------------------------------------------------------------------------------- handshake

    def handshake(self, deadline: Deadline) -> None:
        """Agree on keys. Nothing may be sent or received before.

        Raises:
            ssl.SSLError: the other end does not speak TLS, or one of the two does not trust the other.
            TimeoutError: it took too long.
            OSError: the connection broke.
        """
        try:
            while not self._shake_hands():
                left = deadline.left(time.monotonic())
                if left != 0 and self._unsent:
                    _wait_either(self.socket, left)
                elif left == 0 or not wait_ready(self.socket, left):
                    raise TimeoutError(errno.ETIMEDOUT, "the TLS handshake took too long")
                self._read_handshake()
        except OSError:  # some of these are ValueErrors, too
            raise
        except ValueError as failure:  # closed in this moment
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed here") from failure
        finally:
            self._shaking = False

    def _shake_hands(self) -> bool:
        try:
            with self._lock:
                self._tls.do_handshake()
                self._decrypt()  # what came together with the end of the handshake
        except ssl.SSLWantReadError:
            return False
        finally:  # if it failed this says why to the other end
            self._left = True
            self._flush()
        return True

    def _read_handshake(self) -> None:
        if (not NO_WAIT or self.has_timeout()) and not wait_ready(self.socket, 0):
            return
        try:
            raw = self._recv(_RAW, NO_WAIT)
        except BlockingIOError:
            return
        with self._lock:
            if raw:
                self._incoming.write(raw)
            else:
                self._incoming.write_eof()

    # -------------------------------------------------------------------------------------------------- receiving

    def receive_some(self, size: int, flags: int = 0, /) -> bytes:
        """What is there, at most ``size`` bytes; see :attr:`Stream.receive_some`. Also raises ssl.SSLError."""
        with self._read_lock:
            while size and not self._plain and not self._over:
                self._read(size, flags)
            return self._take(size)

    @property
    def buffered(self) -> bool:
        """Whether the next receive has something, the end perhaps, that the socket does not show."""
        return bool(self._plain) or self._over

    def receive_waiting(self, size: int) -> bytes:
        """What is there already; see :meth:`Stream.receive_waiting`."""
        with self._read_lock:
            try:
                while size and not self._plain and not self._over and self._read_now(size):
                    pass
            except ValueError:  # closed in this moment
                return b""
            return self._take(size)

    def at_end(self) -> bool:
        """Whether the other end's stream is over and everything it sent was fetched. Never waits."""
        if self._read_lock.acquire(blocking=False):  # else somebody reads, and notices
            try:
                self._look()
            finally:
                self._read_lock.release()
        return self._over and not self._plain

    def has_input(self) -> bool:
        """Whether something came, or the end, that nobody fetched yet; see :meth:`Stream.has_input`."""
        return self.buffered or super().has_input()  # not under the read lock, with which others wait for input

    def wait_readable(self, timeout: float | None) -> bool:
        """Wait for data, the end of the stream or an error, ``timeout`` seconds at most."""
        deadline = Deadline(timeout, time.monotonic())
        while True:
            with self._read_lock:
                self._look()
            if self._plain or self._over:
                return True
            try:
                if not wait_ready(self.socket, deadline.left(time.monotonic())):
                    return False
            except (OSError, ValueError):  # closed in this moment: the next read tells
                return True

    def _look(self) -> None:
        # Under the read lock: read what is there, until there is something to fetch. An error is for the next read.
        if self._reading:  # a signal handler asks, in the middle of it
            return
        try:
            while not self._plain and not self._over and self._read_now(_RAW):
                pass
        except OSError as failure:
            self._failure, self._over = failure, True
        except ValueError:
            self._over = True

    def _read_now(self, size: int) -> bool:
        # Gives whether anything was there to read: part of a record, perhaps.
        if (not NO_WAIT or self.has_timeout()) and not wait_ready(self.socket, 0):
            return False
        try:
            self._read(size, NO_WAIT)
        except BlockingIOError:
            return False
        return True

    def _read(self, size: int, flags: int) -> None:
        self._reading = True
        try:
            raw = self._recv(max(size, _RAW), flags)
            if not raw:  # with or without a goodbye: see above
                self._over = True
                return
            with self._lock:
                self._incoming.write(raw)
                self._decrypt()
                if self._outgoing.pending:
                    self._left = True
        finally:
            self._reading = False
        if self._left:
            self._flush()

    def _decrypt(self) -> None:
        # Under the lock. OpenSSL takes no more from the memory than the record that it works on.
        parts = []
        try:
            while self._incoming.pending or self._tls.pending():
                part = self._tls.read(_RECORD)
                if not part:
                    self._over = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._over = True
        except OSError as failure:
            self._failure, self._over = failure, True
        if parts:
            self._plain = b"".join((self._plain[self._fetched :], *parts)) if self._plain or parts[1:] else parts[0]
            self._fetched = 0

    def _take(self, size: int) -> bytes:
        if not self._plain:
            failure, self._failure = self._failure, None
            if failure is not None and size:
                raise failure
            return b""
        begin, plain = self._fetched, self._plain
        if begin + size < len(plain):
            self._fetched += size
            return plain[begin : begin + size]
        self._plain, self._fetched = b"", 0
        return plain[begin:]

    # ---------------------------------------------------------------------------------------------------- sending

    def send_all(self, data: bytes) -> None:
        """Send everything; see :meth:`Stream.send_all`. Also raises ssl.SSLError."""
        self.write_lock.acquire()
        try:
            self._require_open()
            for piece in _pieces(data):
                self._encrypt(piece)
                self._push(wait=True)
                self.bytes_out += len(piece)
            self.messages_out += 1
        except (OSError, ValueError) as failure:
            raise self._named(failure) from failure
        finally:
            self.write_lock.release()
            if self._left:
                self._flush()

    def send_now(self, parts: Sequence[bytes | memoryview]) -> int:
        """Send what the system takes without waiting; see :meth:`Stream.send_now`.

        What was encrypted cannot be taken back. So what the system did not take waits here, and counts as not sent
        yet: the next call has to begin with the same bytes, which are not encrypted once more.
        """
        self._require_open()
        if not self._push(wait=False):
            raise BlockingIOError(errno.EAGAIN, "the socket takes nothing now")
        sent, self._held = self._held, 0
        skipped = sent
        for part in parts:
            for piece in _pieces(memoryview(part)[skipped:]):
                self._encrypt(piece)
                if not self._push(wait=False):
                    self._held = len(piece)
                    if sent:
                        return sent
                    raise BlockingIOError(errno.EAGAIN, "the socket takes nothing now")
                sent += len(piece)
            skipped = max(0, skipped - len(part))
        return sent

    sends_files = False

    def send_part(self, data: bytes) -> None:
        """Send everything, inside :meth:`undisturbed`."""
        with self.write_lock:
            try:
                for piece in _pieces(data):
                    self._require_going_on()
                    self._encrypt(piece)
                    self._push(wait=True)
                    self.bytes_out += len(piece)
            except (OSError, ValueError) as failure:
                raise self._named(failure) from failure
        if self._left:
            self._flush()

    def _let_nobody_send(self) -> None:
        pass  # who sends asks _require_open()

    def _let_all_send(self) -> None:
        pass

    def _require_open(self) -> None:
        if self._alone:
            self._wait_for_turn()
        if self._leaving:
            raise _this_end_is_over()

    def _encrypt(self, piece: bytes | memoryview) -> None:
        with self._lock:
            try:
                written = self._tls.write(piece)  # one record
                while written < len(piece):
                    written += self._tls.write(memoryview(piece)[written:])
            except ssl.SSLError as failure:
                if failure.reason != "PROTOCOL_IS_SHUTDOWN":
                    raise
                raise _this_end_is_over() from failure  # we said goodbye in this moment

    def _push(self, *, wait: bool) -> bool:
        # Under the write lock. Gives whether all that is encrypted was sent.
        if self._pushing:  # this is a signal handler, and who was interrupted goes on
            self._left = True
            return False
        self._pushing = True
        standstill = None
        try:
            while self._unsent or self._fetch_encrypted():
                try:
                    sent = self._send(self._unsent) if wait else self._send_now(self._unsent)
                except (BlockingIOError, TimeoutError) as failure:
                    if not wait:
                        return False
                    self._require_usable(failure)
                    standstill = self._wait_for_room(standstill, -len(self._unsent))
                else:
                    self._unsent = self._unsent[sent:]
            return True
        finally:
            self._pushing = False

    def _fetch_encrypted(self) -> bool:
        with self._lock:
            self._unsent = memoryview(self._outgoing.read())
        return len(self._unsent) > 0

    def _send_now(self, data: memoryview) -> int:
        if (not NO_WAIT or self.has_timeout()) and not wait_ready(self.socket, 0, writable=True):
            raise BlockingIOError(errno.EAGAIN, "the socket takes nothing now")
        return self._send(data, NO_WAIT) if NO_WAIT else self._send(data[:SAFE_TO_SEND])

    def _flush(self, *, patient: bool = True) -> None:
        # Send what was left, if nobody is sending; never waits. What the system does not take goes before what is sent
        # next; where nothing is, after the goodbye, a thread waits with it, unless one is not so patient.
        while self._left and self.write_lock.acquire(blocking=False):
            try:
                if self._pushing:  # interrupted by a signal handler; it looks again afterwards
                    return
                self._left = False
                if self._leaving:
                    self._say_goodbye()
                if self._push(wait=False):
                    if self._leaving:
                        self._shut(socket.SHUT_WR)
                elif self._leaving and patient:
                    threading.Thread(target=self._push_goodbye, name="simplesockets-goodbye", daemon=True).start()
            except (OSError, ValueError, RuntimeError):  # it broke: the reader will notice; or: no more threads
                return
            finally:
                self.write_lock.release()

    def _push_goodbye(self) -> None:
        with self.write_lock, contextlib.suppress(OSError, ValueError):
            self._push(wait=True)
            self._shut(socket.SHUT_WR)

    # ------------------------------------------------------------------------------------------------------ ending

    def end_sending(self) -> None:
        """Say goodbye after all that was sent, and end our side. Reading goes on. Never waits: if another thread is
        just sending, or the system takes nothing now, it is done as soon as that is over."""
        if self._shaking:
            self._cut()
            return
        self._leaving = self._left = True
        self._flush()

    def _say_goodbye(self) -> None:
        if not self._said_goodbye:
            self._said_goodbye = True
            with self._lock, contextlib.suppress(OSError):  # it would like to wait for the other end's
                self._tls.unwrap()

    def cut(self) -> None:
        """End both directions at once and wake every thread that is blocked in the socket."""
        if not self._shaking:
            self._leaving = self._left = True
            self._flush(patient=False)
        self._cut()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self._shut(socket.SHUT_RDWR)

    def drain(self, deadline: Deadline) -> None:
        """Read and discard until the other end closes too, or the time is over."""
        with contextlib.suppress(OSError, ValueError):
            while wait_ready(self.socket, deadline.left(time.monotonic())) and self._recv(65536):
                pass


def _this_end_is_over() -> BrokenPipeError:
    return BrokenPipeError(errno.EPIPE, "nothing can be sent any more: this end of the connection is over")


def _pieces(data: bytes | memoryview) -> Iterator[bytes | memoryview]:
    if len(data) <= _PIECE:
        if data:
            yield data
        return
    view = memoryview(data)
    for begin in range(0, len(view), _PIECE):
        yield view[begin : begin + _PIECE]
