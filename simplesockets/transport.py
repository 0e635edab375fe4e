"""The user of sockets: listening, connecting, and the stream of a connection. (tls.py has the encrypted one.)

Closing needs care, and every rule here comes from it:

* ``close()`` on a socket does not wake a thread that is blocked in it, and the freed descriptor may become somebody
  else's connection at once. So whoever wants to end a connection shuts it down; its reader wakes, and the reader
  alone closes the socket, while it holds the write lock, so that no thread is inside.
* Closing a socket with unread data, or data arriving after that, makes the kernel send a reset, which can destroy what
  we sent last. So we end a connection by shutting down our sending side, and read on until the other end closes, for
  a while (``Stream.drain``).

Sockets are in blocking mode, since a timeout costs a second system call per read. ``receive_some`` and ``send_all``
work in non-blocking mode, too, whoever set it.

A peer that does not read must not keep who sends for ever. So the system itself ends a send that cannot go on after a
while (SO_SNDTIMEO), which costs nothing while it goes on; and from there on we look, now and then, whether the peer
takes anything at all: not only whether there is room for more, since the system waits with telling that until there is
much, but whether the peer acknowledged some of what is on its way.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

from typing_extensions import Buffer

from .errors import BindError, BusyError, ConnectionClosed, ResolveError, SendTimeout
from .hotpath import RLock, Sender
from .timing import Deadline, Standstill

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ

    _TELLS_QUEUE = True
except ImportError:  # not POSIX
    _TELLS_QUEUE = False

log = logging.getLogger("simplesockets")

MIN_BACKLOG = 1024
"""The kernel's queue of connections that nobody accepted yet is at least this long. A short one (the documented
default is 5) makes a burst of clients wait for a second each; the system's own limit applies all the same."""

_PORT_TRIES = 20  # a port that is free on one address may be taken on another

SAFE_TO_SEND = 2048
"""Bytes for which a writable socket has room."""
NO_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
"""The flag by which one call does not wait; 0 where the system has none."""
SEND_TIMEOUT = 60.0
"""Seconds for which a peer may take nothing of what is sent to it, by default."""
LOOKS = 8
"""How often in such a time somebody looks whether it goes on; so it takes a little longer until it is noticed."""
_HAS_POLL = hasattr(select, "poll")
_LAST_STEP = 0.1  # seconds that a sender has to notice that the connection was broken off


def wait_ready(sock: socket.socket, timeout: float | None, *, writable: bool = False) -> bool:
    """Wait until the socket can be read (or written) without blocking; False when ``timeout`` seconds are over."""
    if _HAS_POLL:
        poll = select.poll()
        poll.register(sock, select.POLLOUT if writable else select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    ready = select.select([] if writable else [sock], [sock] if writable else [], [], timeout)
    return bool(ready[0] or ready[1])


def send_at_once(sock: socket.socket) -> None:
    """Have small pieces not wait for each other (Nagle's algorithm)."""
    with contextlib.suppress(OSError):  # not a TCP socket, or the peer has gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(sock: socket.socket) -> None:
    """Close a connected socket at once: the other end sees a reset, and the system keeps nothing of it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    sock.close()


class Waker:
    """A socket pair by which one thread wakes another that waits for readiness."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self._lock = threading.RLock()  # protects the writer against being closed while used; the send cannot block

    def wake(self) -> None:
        """Make the reader's end readable. May be called by any thread, at any time."""
        with self._lock, contextlib.suppress(OSError):
            self._writer.send(b"\0")  # when the pair is full or closed there is nothing to do

    def clear(self) -> None:
        """Take all wake-ups that came so far."""
        with contextlib.suppress(OSError):
            self.reader.recv(4096)

    def close(self) -> None:
        """Free the pair."""
        with self._lock:
            self._writer.close()
            self.reader.close()


# ------------------------------------------------------------------------------------------------------ stream


class Stream(Sender):
    """A connected socket: bytes in, bytes out, and an orderly end.

    One thread reads. Any thread may send, shut down or cut.

    Args:
        sock: the socket.
        send_timeout: seconds for which the other end may take nothing of what is sent; None: any number.
    """

    bytes_out: int
    """Bytes that were sent; changed under the write lock, as the next one. See stats.py."""
    messages_out: int
    """Messages that were sent."""
    _send_timeout: float | None = None
    gave_up: weakref.WeakMethod[Callable[[SendTimeout], object]] | None = None
    """Told that nothing can be sent any more, since the other end took nothing for too long."""

    def __init__(self, sock: socket.socket, send_timeout: float | None = None) -> None:
        self.socket = sock
        self.receive_some = sock.recv
        """``receive_some(size, flags)``: what is there, at most ``size`` bytes; waits for the first; empty at the end
        of the stream. Raises BlockingIOError or TimeoutError if the flags are :data:`NO_WAIT`, or the program put the
        socket in a mode in which reading does not wait; OSError if the connection broke."""
        self._send = sock.send
        self.bytes_out = self.messages_out = 0
        self.write_lock = RLock()
        """One sender at a time; held across I/O."""
        send_at_once(sock)
        if send_timeout is not None:
            self._limit_sending(send_timeout)

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self.socket.fileno() < 0

    @property
    def buffered(self) -> bool:
        """Whether the next receive has something that the socket does not show, so that no selector can know of it."""
        return False

    def receive_waiting(self, size: int) -> bytes:
        """What is there already, at most ``size`` bytes; never waits. Empty where there is nothing, and at the end.

        Raises:
            OSError: the connection broke. Only one read says so; the next ones say that the stream ended.
        """
        try:
            # A timeout that the program set would make it wait all the same.
            if (not NO_WAIT or self.has_timeout()) and not wait_ready(self.socket, 0):
                return b""
            return self.socket.recv(size, NO_WAIT)
        except (BlockingIOError, ValueError):  # ValueError: closed in this moment
            return b""

    def has_timeout(self) -> bool:
        """Whether the program put the socket in a mode in which reading does not wait, or not for ever."""
        return self.socket.gettimeout() is not None

    def at_end(self) -> bool:
        """Whether the other end's stream is over and everything it sent was read. Never waits."""
        try:
            return wait_ready(self.socket, 0) and not self.socket.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    def has_input(self) -> bool:
        """Whether something came, or the end of the stream, that nobody has read yet. Never waits for anybody."""
        try:
            return wait_ready(self.socket, 0)
        except (OSError, ValueError):  # closed in this moment
            return True

    def wait_readable(self, timeout: float | None) -> bool:
        """Wait for data, the end of the stream or an error, ``timeout`` seconds at most."""
        try:
            return wait_ready(self.socket, timeout)
        except (OSError, ValueError):  # closed in this moment: the next read tells
            return True

    def wait_hang_up(self, waker: Waker | None, timeout: float | None) -> bool:
        """Wait, without reading, until the connection is cut or reset, or the waker woke this thread.

        Returns:
            Whether the connection is gone. A mere end of the stream is not noticed: data may stand before it.
        """
        if not _HAS_POLL:  # there is no way to ask but to read
            waker_sockets = [waker.reader] if waker else []
            select.select(waker_sockets, [], [self.socket], timeout)
            return False
        poll = select.poll()
        poll.register(self.socket, 0)  # hang-up and error are reported all the same
        if waker:
            poll.register(waker.reader, select.POLLIN)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in ready)

    def send_now(self, parts: Sequence[bytes | memoryview]) -> int:
        """Send what the system takes without waiting. The caller holds the write lock.

        Returns:
            The number of bytes, of all parts together; at least one.

        Raises:
            BlockingIOError: the system takes nothing now.
            OSError: the connection broke.
        """
        if not NO_WAIT:  # there, sending may wait even for a writable socket, if it is much
            if not wait_ready(self.socket, 0, writable=True):
                raise BlockingIOError(errno.EAGAIN, "the socket takes nothing now")
            return self.socket.send(memoryview(parts[0])[:SAFE_TO_SEND])
        if len(parts) == 1:
            return self._send(parts[0], NO_WAIT)
        return self.socket.sendmsg(parts, (), NO_WAIT)

    def _send_rest(self, view: memoryview, sent: int) -> None:
        standstill = None
        while sent < len(view):
            try:
                standstill = self._wait_for_room(standstill, sent)
                step = self.socket.send(view[sent:])
            except (BlockingIOError, TimeoutError) as failure:
                self._require_usable(failure)
            except (OSError, ValueError) as failure:
                raise self._named(failure) from failure
            else:
                sent += step
                self.bytes_out += step

    def _limit_sending(self, seconds: float) -> None:
        self._send_timeout = seconds
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _send_limit(seconds))
        except OSError:  # the peer has gone already, or the system has no such thing
            pass

    def _wait_for_room(self, standstill: Standstill | None, given: int) -> Standstill | None:
        # Until something can be sent. Told what it gave the last time, while the same is being sent, and how much of
        # that was given to the system since.
        if self._send_timeout is None:
            wait_ready(self.socket, None, writable=True)
            return None
        if standstill is None:
            standstill = Standstill(self._send_timeout, given - self.on_its_way(), time.monotonic())
        while not wait_ready(self.socket, self._send_timeout / LOOKS, writable=True):
            if standstill.is_over(given - self.on_its_way(), time.monotonic()):
                raise self.give_up(self._send_timeout)
        return standstill

    def on_its_way(self) -> int:
        """Bytes that the system took and the other end has not acknowledged; 0 where the system does not tell."""
        if not _TELLS_QUEUE:
            return 0
        try:
            return int.from_bytes(ioctl(self.socket.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0

    def _require_usable(self, failure: OSError) -> None:
        # Where the system is not POSIX nobody knows what was sent by a send that timed out.
        if os.name != "posix" and isinstance(failure, TimeoutError) and self._send_timeout and not self.has_timeout():
            raise self.give_up(self._send_timeout)

    def give_up(self, seconds: float) -> SendTimeout:
        """Break off, since the other end took nothing for so many seconds, and tell so. Never waits. Gives what to
        raise."""
        failure = SendTimeout(seconds)
        self.break_off(partial(_refuse_after_standstill, seconds))
        told = self.gave_up() if self.gave_up is not None else None
        if told is not None:
            told(failure)
        return failure

    # A file takes many steps to send, between which nothing else may be sent and the stream may not simply end. The
    # write lock is not held from one to the next, since the program's code runs there. So, while somebody is alone,
    # sending waits for its turn, and ending breaks off.

    sends_files = hasattr(os, "sendfile")
    """Whether :meth:`send_from` works."""
    _alone = 0  # the number of the thread that sends undisturbed; protected by the write lock
    _turn: threading.Condition | None = None  # of the write lock: nobody is alone any more
    _broken_off = False
    _refuse: Callable[..., int]  # then: raises why
    _in_system = False  # who is alone is in os.sendfile()
    _to_close = False  # … and has to close the socket

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Meanwhile nobody else sends, and the calling thread only by :meth:`send_part` and :meth:`send_from`. If
        somebody ends our side, it is broken off. Waits for its turn.

        Raises:
            BusyError: the calling thread does so already, below on its stack.
            ConnectionClosed: it was broken off.
        """
        began = False
        try:
            with self.write_lock:
                self._turn = self._turn or threading.Condition(self.write_lock)
                self._wait_for_turn()
                began = True  # from here on whatever happens is undone
                self.end_sending = self._end_or_break_off  # type: ignore[method-assign]
                self._alone = threading.get_ident()
                self._let_nobody_send()
            yield
            self.messages_out += 1
        finally:
            if began and self._turn is not None:
                with self.write_lock:
                    self._alone = 0
                    self._let_all_send()
                    self._turn.notify_all()
                    if self._to_close:
                        self.socket.close()

    def send_part(self, data: bytes) -> None:
        """Send everything, inside :meth:`undisturbed`. Raises as :meth:`send_all`, and ConnectionClosed as soon as it
        was broken off."""
        with self.write_lock:
            self._require_going_on()
            self._send_rest(memoryview(data), 0)

    def send_from(self, fd: int, offset: int, count: int) -> int:
        """Have the system send from a file, inside :meth:`undisturbed`.

        Args:
            fd: the file's descriptor.
            offset: where to begin.
            count: how many bytes at most, 1 or more.

        Returns:
            How many bytes were sent; 0 at the end of the file.

        Raises:
            OSError: as :meth:`send_part`; or the system cannot send from this file, or cannot read it.
        """
        standstill = None
        with self.write_lock:
            while True:
                self._require_going_on()
                try:
                    self._in_system = True
                    sent = os.sendfile(self.socket.fileno(), fd, offset, count)
                    self.bytes_out += sent
                    return sent
                except BlockingIOError:  # it takes long, or the program set the socket to be non-blocking
                    pass
                except OSError as failure:
                    raise self._named(failure) from failure
                finally:
                    self._in_system = False
                try:
                    standstill = self._wait_for_room(standstill, 0)
                except (OSError, ValueError) as failure:
                    raise self._named(failure) from failure

    def break_off(self, refuse: Callable[..., int] | None = None) -> None:
        """From now on nothing is sent, and whoever ends the connection resets it: so the other end cannot take what it
        got for everything. (Where the system is not POSIX, it ends as usual.)

        Args:
            refuse: raises, whenever somebody wants to send; not given: what is to be said after half a file.
        """
        if not self._broken_off:
            self._send = self._refuse = refuse or _refuse_after_break
            self._broken_off = True
        if os.name == "posix":  # elsewhere a reader would not wake
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.end_sending = self.cut = self._stop_reading  # type: ignore[method-assign]
            self.close = self._reset  # type: ignore[method-assign]
            self.drain = _read_no_more  # type: ignore[method-assign]
        if self._turn is not None and self.write_lock.acquire(blocking=False):  # else it was somebody's turn
            try:
                self._turn.notify_all()
            finally:
                self.write_lock.release()

    def _let_nobody_send(self) -> None:
        if not self._broken_off:
            self._send = self._send_in_turn

    def _let_all_send(self) -> None:
        if not self._broken_off:
            self._send = self.socket.send

    def _send_in_turn(self, data: Buffer, flags: int = 0) -> int:
        self._wait_for_turn()
        return self._send(data, flags)

    def _wait_for_turn(self) -> None:
        # Under the write lock, which is free meanwhile.
        while self._alone and self._turn is not None:
            if self._alone == threading.get_ident():
                raise BusyError(
                    "this thread is in the middle of sending a file on this connection; what you send now, in a "
                    "progress callback or a signal handler, would get into it. Send it afterwards"
                )
            self._require_going_on()
            self._turn.wait()
        self._require_going_on()

    def _require_going_on(self) -> None:
        if self._broken_off:
            self._refuse()

    def _end_or_break_off(self) -> None:
        # In place of end_sending(), from the first file on.
        if self._alone:
            self.break_off()
        if self._broken_off and os.name == "posix":
            self._stop_reading()
        else:
            type(self).end_sending(self)

    def _stop_reading(self) -> None:
        # In place of cut(), once broken off: wakes the reader and tells the other end nothing, which close() does.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def _reset(self) -> None:
        # In place of close().
        if self._in_system and self._alone == threading.get_ident():
            # This is a signal handler. The system goes on with the number of the descriptor, so that has to stay ours.
            self._to_close = True
            type(self).cut(self)
            return
        self._stop_reading()
        if not self.write_lock.acquire(
            timeout=_LAST_STEP
        ):  # a sender is blocked, and wakes from nothing less than this
            type(self).cut(self)
            self.write_lock.acquire()
        try:
            self.socket.close()
        finally:
            self.write_lock.release()

    def _named(self, failure: Exception) -> Exception:
        if self.closed and not isinstance(failure, SendTimeout):
            return ConnectionClosed("this connection was closed; connect again before you send")
        return failure

    def end_sending(self) -> None:
        """Say goodbye: the other end sees the end of our stream after all that was sent. Reading goes on."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End both directions at once and wake every thread that is blocked in the socket."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def drain(self, deadline: Deadline) -> None:
        """Read and discard until the other end closes too, or the time is over."""
        with contextlib.suppress(OSError):
            while self.wait_readable(deadline.left(time.monotonic())) and self.socket.recv(65536):
                pass

    def close(self) -> None:
        """Free the socket. Only for the connection's reader, or when there is none."""
        self.cut()  # a sender that is blocked wakes and lets go of the lock
        with self.write_lock:
            self.socket.close()


def _refuse_after_break(*_: object) -> int:
    raise ConnectionClosed("this connection was closed here in the middle of a file")


def _refuse_after_standstill(seconds: float, *_: object) -> int:
    raise SendTimeout(seconds)


@lru_cache(16)  # each connection of a server has the same
def _send_limit(seconds: float) -> bytes:
    # For SO_SNDTIMEO. What was sent until then counts, where the system is POSIX; so we look early.
    if os.name != "posix":
        return struct.pack("=L", max(1, round(seconds * 1000)))
    early = max(1000, round(seconds / LOOKS * 1e6))
    return struct.pack("@ll", *divmod(early, 1_000_000))


def _read_no_more(deadline: Deadline) -> None:
    pass


# --------------------------------------------------------------------------------------------------- listening


def check_port(port: object, *, zero: bool) -> None:
    """Refuse what is no port number.

    Raises:
        TypeError, ValueError: naming the value and what to give instead.
    """
    lowest = 0 if zero else 1
    hint = " (0 takes a free one)" if zero else ""
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"the port must be a whole number, such as 25567, not {port!r}")
    if not lowest <= port <= 65535:
        raise ValueError(f"the port must be from {lowest} to 65535{hint}, not {port}")


def check_count(name: str, value: object, what: str, least: int) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        TypeError, ValueError: naming the value and what to give instead.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of {what}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least} {what}, not {value}")


def resolve(host: str, port: int, *, passive: bool = False) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The addresses of a host name, IPv4 first when listening.

    Raises:
        ResolveError: there is none.
    """
    try:
        flags = socket.AI_PASSIVE if passive else 0
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    except (socket.gaierror, UnicodeError) as failure:
        code = failure.errno if isinstance(failure, socket.gaierror) else socket.EAI_NONAME
        raise ResolveError(code, f"the host name {host!r} does not resolve to an address; {_advice(host)}") from failure
    if passive:
        found.sort(key=lambda info: info[0] != socket.AF_INET)
    return [(info[0], info[4]) for info in found]  # type: ignore[misc]  # IPv6 addresses have four elements


def _advice(host: str) -> str:
    # Nobody is called by such a name, so it is clear what was meant.
    if "://" in host:
        return "give the host alone, without protocol and path, such as 'example.com'"
    if host.startswith("["):
        return f"an IPv6 address comes without brackets, as {host[1:].partition(']')[0]!r}, and the port apart from it"
    name, colon, port = host.partition(":")
    if colon and port.isdecimal():
        return f"give the port apart from the host: {name!r} and {port}"
    return "check its spelling and the network, or give an IP address such as '127.0.0.1'"


def listen(
    host: str,
    port: int,
    backlog: int,
    *,
    only_ipv6: bool = False,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
) -> socket.socket:
    """A listening, non-blocking socket.

    Args:
        host: an IP address of this machine, a name, or ``""`` for every IPv4 address.
        port: 0 takes a free one.
        backlog: how many connections may wait to be accepted (at least :data:`MIN_BACKLOG` are let).
        only_ipv6: whether an IPv6 socket leaves IPv4 to another one.
        sock: an unbound IPv4 socket to use, if the address is one of IPv4.
        reuse_port: whether it may have the address of others that allow that, too.

    Raises:
        ResolveError: the name does not resolve.
        BindError: the address cannot be used.
    """
    family, address = (socket.AF_INET, ("", port)) if host == "" else resolve(host, port, passive=True)[0]
    if sock is None or sock.family != family:
        sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # there it only means not to wait for old connections to fade
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and only_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            _allow_others(sock)
        sock.bind(address)
        sock.listen(max(backlog, MIN_BACKLOG))
        sock.setblocking(False)
    except OSError as failure:
        sock.close()
        raise BindError(failure.errno, _bind_advice(failure, host, port)) from failure
    return sock


def _bind_advice(failure: OSError, host: str, port: int) -> str:
    advice = {
        errno.EADDRINUSE: "the port is in use. Stop the program that uses it (another copy of this one?), "
        "or choose another port; port=0 takes a free one",
        errno.EADDRNOTAVAIL: "this machine does not have that address. Use '127.0.0.1' to be reached from this machine "
        "only, '0.0.0.0' to be reached on all its addresses",
        errno.EACCES: "that is not allowed. Ports below 1024 need privileges; choose a higher one",
    }.get(failure.errno or 0, failure.strerror)
    return f"cannot listen on {host or '0.0.0.0'}:{port}: {advice}"


def listen_on(
    hosts: Sequence[str],
    port: int,
    backlog: int,
    unbound: socket.socket | None = None,
    *,
    reuse_port: bool = False,
) -> list[socket.socket]:
    """Listening sockets on several addresses, all with the same port.

    Args:
        hosts, port, backlog, reuse_port: see :func:`listen`.
        unbound: a socket that the first address uses if it is one of IPv4; closed if it is not used.

    Raises:
        ResolveError, BindError: see :func:`listen`; no socket is left open then.
    """
    listeners: list[socket.socket] = []
    try:
        for host in hosts:
            same_port = listeners[0].getsockname()[1] if listeners else port
            first = None if listeners else unbound
            only_ipv6 = len(hosts) > 1
            listeners.append(listen(host, same_port, backlog, only_ipv6=only_ipv6, sock=first, reuse_port=reuse_port))
    except (BindError, ResolveError):
        for listener in listeners:
            listener.close()
        raise
    finally:
        if unbound is not None and unbound not in listeners:
            unbound.close()
    return listeners


def listen_on_free_port(
    hosts: Sequence[str], port: int, backlog: int, unbound: socket.socket | None = None
) -> list[socket.socket]:
    """The same, where port 0 means one that is free on all of the addresses: looked for, several times."""
    for _ in range(_PORT_TRIES if port == 0 and len(hosts) > 1 else 0):
        try:
            return listen_on(hosts, port, backlog, unbound)
        except BindError as failure:
            unbound = None
            if failure.errno != errno.EADDRINUSE:
                raise
    return listen_on(hosts, port, backlog, unbound)


CAN_SHARE = hasattr(socket, "SO_REUSEPORT")
"""Whether :func:`listen_shared` works on this system."""


def listen_shared(hosts: Sequence[str], port: int, backlog: int, count: int) -> list[list[socket.socket]]:
    """As :func:`listen_on_free_port`, ``count`` times on the same port: the system spreads connections over them.

    Raises:
        ResolveError, BindError: see :func:`listen`; no socket is left open then.
    """
    shares = [listen_on_free_port(hosts, port, backlog)]
    try:
        # Only now: until here nobody else might have the port, which another copy of this program would allow.
        for listener in shares[0]:
            _allow_others(listener)
        same_port = shares[0][0].getsockname()[1]
        for _ in range(count - 1):
            shares.append(listen_on(hosts, same_port, backlog, reuse_port=True))
    except BaseException:
        for listener in [listener for share in shares for listener in share]:
            listener.close()
        raise
    return shares


def _allow_others(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def default_hosts() -> list[str]:
    """Where a server listens that was not told: the host name's address and 127.0.0.1, or one where they are the
    same, or 127.0.0.1 alone, with a warning, where the host name does not resolve."""
    name = socket.gethostname()
    try:
        named = [resolve(name, 0, passive=True)[0][1][0]]
    except ResolveError:
        log.warning("the host name %r does not resolve: listening on 127.0.0.1 only; setup(ip=…) says where else", name)
        named = []
    return list(dict.fromkeys([*named, "127.0.0.1"]))


def is_loopback(host: str) -> bool:
    """Whether an IP address can be reached from this machine only."""
    return host.startswith("127.") or host == "::1"


# -------------------------------------------------------------------------------------------------- connecting


class Dial:
    """One attempt to connect, which another thread can abort.

    Args:
        host: an IP address or a name; all its addresses are tried in turn.
        port: the port.
        timeout: seconds for each address; None leaves it to the operating system (minutes).
        sock: an unconnected IPv4 socket to use for the first IPv4 address.
    """

    def __init__(self, host: str, port: int, timeout: float | None, sock: socket.socket | None = None) -> None:
        self.host = host
        self._port = port
        self._timeout = timeout
        self._given = sock
        self._lock = threading.RLock()  # protects the next two; not held while connecting
        self._trying: socket.socket | None = None
        self._aborted = False
        self.deadline = Deadline(timeout, 0.0)
        """Until when the address that was tried last has time, for whatever comes after connecting, too."""

    def connect(self) -> socket.socket:
        """The connected socket.

        Raises:
            ResolveError: the name does not resolve.
            OSError: no address could be connected to.
            ConnectionClosed: it was aborted.
        """
        failure: OSError | None = None
        try:
            for family, address in resolve(self.host, self._port):
                try:
                    return self._try(family, address)
                except OSError as refused:
                    failure = refused
                if self._aborted:
                    raise ConnectionClosed("connecting was ended by close()") from failure
            assert failure is not None  # resolve() gives at least one address
            raise failure
        finally:
            if self._given is not None:
                self._given.close()

    @property
    def aborted(self) -> bool:
        """Whether it was ended."""
        return self._aborted

    def abort(self) -> None:
        """End the attempt: :meth:`connect` raises :class:`ConnectionClosed`."""
        with self._lock:
            self._aborted = True
            if self._trying is not None:
                with contextlib.suppress(OSError):
                    self._trying.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def guarding(self, sock: socket.socket) -> Iterator[None]:
        """Meanwhile the socket is connected but of no use yet: :meth:`abort` ends it, too.

        Raises:
            ConnectionClosed: it was aborted.
        """
        with self._lock:
            self._trying = sock
        try:
            if not self._aborted:
                yield
        except OSError as failure:
            if not self._aborted:
                raise
            raise ConnectionClosed("connecting was ended by close()") from failure
        finally:
            with self._lock:
                self._trying = None
        if self._aborted:
            raise ConnectionClosed("connecting was ended by close()")

    def _try(self, family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
        sock = self._socket(family)
        self.deadline = Deadline(self._timeout, time.monotonic())
        wanted = sock.gettimeout()  # the program may have set one on a socket of its own
        with self._lock:
            self._trying = sock
        try:
            if wanted is None:
                sock.settimeout(self._timeout)
            if not self._aborted:
                sock.connect(address)
                if sock.getsockname() == sock.getpeername():  # TCP can connect a socket to itself on a free port
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there")
            sock.settimeout(wanted)
            with self._lock:
                self._trying = None
                if self._aborted:
                    raise ConnectionClosed("connecting was ended by close()")
            return sock
        except BaseException:
            with self._lock:
                self._trying = None
            sock.close()
            raise

    def _socket(self, family: socket.AddressFamily) -> socket.socket:
        if self._given is not None and family == self._given.family:
            sock, self._given = self._given, None
            return sock
        return socket.socket(family, socket.SOCK_STREAM)
