"""The loop that servers and clients share: from what was received to the handlers, and to those who wait in ``recv``.

Receiving goes on in the background (the threads of the TCPServer or TCPClient that is held), so nothing here has to
keep up. What was received comes in two stages, both under one lock:

* *fetched*: taken out of the mailbox into ``_inbound``, in the order in which it came; what the loop's thread reads
  itself, while it waits, comes there without a mailbox (and without the lock);
* *routed*: given to whom it belongs. What needs the program's code becomes a call in ``_calls``; a message that
  somebody waits for in ``recv`` goes there; what nobody wants is kept for a later ``recv``.

Calls are made under no lock, by the thread that runs the loop, one after the other. A pass of the loop routes and
calls in turn, so that what a handler registers counts for the next message. ``recv`` routes by itself where no loop
runs, or where it is called by a handler, whose thread is the loop's; calls that come up then wait until the loop goes
on. So no handler ever runs inside another one.

Everybody waits on the bell of the TCPServer or TCPClient (mailbox.py). Whoever changes what others wait for rings it.
"""

from __future__ import annotations

import logging
import operator
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from os import PathLike
from ssl import SSLContext
from typing import Any, Generic, TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

from ..engine import is_nested
from ..errors import BusyError, LifecycleError, SetupError
from ..mailbox import ITEM_COST, TOTAL_MARK, Mailbox
from ..stats import Stats
from ..timing import HEED, Deadline
from ..tls import check_context, client_context, server_context
from ..transport import check_port
from .casting import Cast, cast_for
from .errors import ServerNotRunning
from .handlers import SLOW, WILDCARD, Function, Handler, Handlers, Message

log = logging.getLogger("simplesockets.hisock")

KEPT_MESSAGES = 100
"""How many messages that nobody claimed are kept for a later ``recv``, for each client; the oldest go first."""
KEPT_BYTES = 1024 * 1024
"""How many bytes of them."""

Call = Callable[[], object]
ErrorHandler = Callable[[Exception], object]
Item = TypeVar("Item")
Wanted = TypeVar("Wanted")
Given = TypeVarTuple("Given")


class MessageCacheMember:
    """One entry of the message cache, with the attributes ``header``, ``content``, ``called`` and ``command``.

    The content is the message's, if a handler or a ``recv`` claimed it (``called``), else the whole body. The command
    is None for raw data.

    Args:
        message_dict: these four.
    """

    header: bytes
    content: bytes | None
    called: bool
    command: str | None

    def __init__(self, message_dict: Mapping[str, object]) -> None:
        for name in ("header", "content", "called", "command"):
            if name in message_dict:
                setattr(self, name, message_dict[name])

    def __str__(self) -> str:
        return f"<MessageCacheMember: {getattr(self, 'content', None)!r}>"

    __repr__ = __str__


class Unclaimed:
    """A message that is neither a reserved one nor handled by a function of its own.

    Args:
        source: whose it is.
        command: None for raw data.
        content: None where there is none.
        body: all of it.
        whole: whether who waits for any message gets all of it: what came may be raw data.
    """

    __slots__ = ("body", "command", "content", "source", "whole")

    def __init__(self, source: Hashable, command: str | None, content: bytes | None, body: bytes, whole: bool) -> None:
        self.source = source
        self.command = command
        self.content = content
        self.body = body
        self.whole = whole


class Waiter:
    """Somebody who waits in ``recv``.

    Args:
        command: the command to wait for; None for any.
        raw: whether to get the whole body.
    """

    keeps = True
    """Whether what it got is kept if it cannot take it after all."""

    def __init__(self, command: str | None, raw: bool) -> None:
        self.message: Unclaimed | None = None
        self.lost = False  # the connection by which it would have come is gone
        self._command = command
        self._raw = raw

    def wants(self, message: Unclaimed) -> bool:
        """Whether to take this one."""
        return self._command is None or self._command == message.command

    def content(self) -> bytes | None:
        """What it waited for."""
        assert self.message is not None
        whole = self._raw or (self._command is None and self.message.whole)
        return self.message.body if whole else self.message.content


class KeptMessages:
    """What nobody claimed, with a limit for each source."""

    def __init__(self) -> None:
        self._messages: OrderedDict[int, Unclaimed] = OrderedDict()  # by their id(), the oldest first
        self._by_source: dict[Hashable, OrderedDict[int, Unclaimed]] = {}  # so that no limit costs a search
        self._bytes: dict[Hashable, int] = {}

    def add(self, message: Unclaimed) -> None:
        """Keep a message, if need be in the place of older ones of its source."""
        source = message.source
        held = self._store(message)
        while len(held) > KEPT_MESSAGES or self._bytes[source] > KEPT_BYTES:
            self._remove(next(iter(held.values())))
            if not held:
                return

    def take(self, waiter: Waiter) -> Unclaimed | None:
        """Take out the oldest that the waiter wants."""
        found = next((message for message in self._messages.values() if waiter.wants(message)), None)
        if found is not None:
            self._remove(found)
        return found

    def put_back(self, message: Unclaimed) -> None:
        """Keep one that was taken, as the oldest."""
        held = self._store(message)
        self._messages.move_to_end(id(message), last=False)
        held.move_to_end(id(message), last=False)

    def forget(self, source: Hashable) -> None:
        """The source is gone, and its messages with it."""
        for message in list(self._by_source.get(source, {}).values()):
            self._remove(message)

    def _store(self, message: Unclaimed) -> OrderedDict[int, Unclaimed]:
        held = self._by_source.setdefault(message.source, OrderedDict())
        self._messages[id(message)] = held[id(message)] = message
        self._bytes[message.source] = self._bytes.get(message.source, 0) + len(message.body)
        return held

    def _remove(self, message: Unclaimed) -> None:
        held = self._by_source[message.source]
        del self._messages[id(message)], held[id(message)]
        self._bytes[message.source] -= len(message.body)
        if not held:
            del self._by_source[message.source], self._bytes[message.source]


def _number(ip: str) -> int:
    return int(ip_address(ip))


def _by_address(compare: Callable[[int, int], bool]) -> Callable[[HiSockLoop[Any], object], bool]:
    def compared(self: HiSockLoop[Any], other: object) -> bool:
        if isinstance(other, HiSockLoop):
            return compare(_number(self.addr[0]), _number(other.addr[0]))
        if isinstance(other, str):
            return compare(_number(self.addr[0]), _number(other.rpartition(":")[0]))
        return NotImplemented  # type: ignore[no-any-return]

    return compared


class HiSockLoop(ABC, Generic[Item]):
    """What a server and a client have in common.

    Args:
        handlers: what ``on()`` registers.
        mailbox: where received bodies come from.
        blocking: whether a pass waits until something happens.
        header_len: bytes of a header.
        cache_size: how many messages to remember for ``get_cache()``; 0 is without limit, less is none.
    """

    addr: tuple[str, int]

    def __init__(self, handlers: Handlers, mailbox: Mailbox, blocking: bool, header_len: int, cache_size: int) -> None:
        self.blocking = blocking
        self.header_len = header_len
        self.cache_size = cache_size
        self.cache: deque[MessageCacheMember] = deque(maxlen=cache_size or None) if cache_size >= 0 else deque(maxlen=0)
        self.closed = False
        """Whether it was closed, or the connection ended."""
        self._handlers = handlers
        self._mailbox = mailbox
        self._bell = mailbox.bell
        self._stored = mailbox.contents  # looked at again and again
        self._lock = threading.RLock()  # protects what follows; never held across I/O or user code
        self._inbound: deque[Item] = deque()
        self._ends: deque[Item] = deque()  # connections that ended: all that came by them is in the mailbox
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()  # with their arguments
        self._commands: defaultdict[str, int] = defaultdict(int)  # how many messages came for each handler
        self._failures = 0  # exceptions of handlers
        self._due = 0  # bytes of messages in the calls
        self._waiters: list[Waiter] = []
        self._kept = KeptMessages()
        self._loop_thread: int | None = None  # the number of the thread in a pass of the loop, or in start()
        self._straight: tuple[int, deque[Item]] | None = None  # for the mailbox, while that waits
        self._threads: set[threading.Thread] = set()  # of threaded handlers
        self._error_handler: ErrorHandler | None = None
        self._name = "simplesockets-hisock"

    # ------------------------------------------------------------------------------------------------ registering

    def on(self, command: str, threaded: bool = False, override: bool = False) -> Callable[[Function], Function]:
        """Decorate a function that handles a command.

        Its annotations tell as what it gets the message: ``bytes str int float bool list dict ClientInfo``; without
        one it gets the bytes, or None if there are none. The class's documentation lists the reserved names.

        Args:
            command: what the other end sends; ``"*"`` for everything that has no handler.
            threaded: whether to run the function in a new thread each time, so that it may take long, or ``recv()``.
            override: whether a reserved name is to be an ordinary command.

        Raises:
            InvalidHandler: the function takes other arguments, or annotates one with a type that content cannot be
                cast to (a TypeError, and a ValueError).
            ValueError: the command has the form ``$…$``, which is reserved.

        May be called at any time from any thread; a later function for the same command takes the place of the
        earlier. Source: 0.x; ``threaded`` and ``override`` are of 2.x.
        """
        return self._handlers.on(command, threaded, override)

    @property
    def funcs(self) -> dict[str, Callable[..., object]]:
        """The registered functions by their command."""
        return self._handlers.functions()

    # --------------------------------------------------------------------------------------------------- the loop

    def start(self, callback: Callable[[], object] | None = None, error_handler: ErrorHandler | None = None) -> None:
        """Run the loop until :meth:`close` (which Ctrl-C, like anything raised here, brings about).

        Args:
            callback: called after each pass, that is, whenever something was received and handled.
            error_handler: gets what handlers and the callback raise. Without it such errors are logged. The loop goes
                on in either case.

        Raises:
            BusyError: another thread runs the loop, which goes on.

        Source: 2.x.
        """
        for function in (callback, error_handler):
            if function is not None and not callable(function):
                raise TypeError(f"start() takes functions, not {function!r}")
        with self._looping():  # a mistaken second start() ends nothing
            self._error_handler = error_handler
            try:
                while not self.closed:
                    self._guarded_pass()
                    if callback is not None:
                        self._guarded(callback)
            finally:
                self.close()

    def _guarded_pass(self) -> None:
        try:
            self._pass(wait=True)
        except ServerNotRunning as failure:  # not of a handler: of the connection
            if self._error_handler is None:
                raise
            self._error_handler(failure)

    def _looping(self) -> _Turn:
        return _Turn(self)

    def _is_loop_thread(self) -> bool:
        return self._loop_thread == threading.get_ident()

    def _one_pass(self) -> None:
        if self.closed:
            return
        with self._looping():
            self._pass(wait=self.blocking)

    def _pass(self, wait: bool) -> None:
        # Wait for something to do (or not), and do all that was there then.
        if wait:
            self._await_work()
            self._work()
        elif self._has_work():
            self._work()
        else:
            self._mailbox.new_data.idle()  # a loop that does nothing else should not burn a core

    def _await_work(self) -> None:
        # What this thread reads itself while it waits needs no mailbox: nobody else fetches.
        mailbox, bell = self._mailbox, self._bell
        mailbox.straight = self._straight
        try:
            while True:
                bell.wait(HEED, self._has_work)
                if self._has_work():
                    return
        finally:
            mailbox.straight = None

    def _has_work(self) -> bool:
        # Asked again and again, so without the lock: who adds something rings afterwards.
        if self._inbound or self._stored or self._calls or self._ends or self.closed:
            return True
        return self._bell.closed

    def _work(self) -> None:
        calls, inbound = self._calls, self._inbound
        fetch = not (calls or inbound)
        while True:
            with self._lock:
                if fetch:
                    self._fetch()
                    fetch = False
                if inbound and not calls:
                    self._route(inbound.popleft())
                due = calls.popleft() if calls else None
            if due is not None:
                function, arguments = due
                function(*arguments)
            if self.closed or not (calls or inbound):
                return

    def _fetch(self) -> None:
        # Under the lock. Who left is looked at first: then all that it sent is in the mailbox, and comes before.
        ended = len(self._ends)
        if self._stored:
            self._inbound.extend(self._mailbox.take_present())  # type: ignore[arg-type]
        while ended and self._ends:  # a signal handler may have taken them
            ended -= 1
            self._inbound.append(self._ends.popleft())

    @abstractmethod
    def _route(self, item: Item) -> None:
        """Give a received item to whom it belongs. Under the lock."""

    @abstractmethod
    def close(self) -> None:
        """End everything."""

    def __str__(self) -> str:
        return repr(self)

    # By the number of the IP address, also with a text ``ip:port``. Source: 2.x. (But equal is only the same object.)
    __lt__ = _by_address(operator.lt)
    __le__ = _by_address(operator.le)
    __gt__ = _by_address(operator.gt)
    __ge__ = _by_address(operator.ge)

    # -------------------------------------------------------------------------------------------------- messages

    def _route_message(self, message: Message, source: Hashable, modern: bool) -> None:
        # Under the lock. A command or raw data: its handler, or who waits for it, or the wildcard, or nobody yet.
        command = message.command if modern else self._read_old(message)
        if command is not None and (handler := self._handlers.ordinary(command)) is not None:
            self._commands[command] += 1
            self._call_soon(handler, message)
            claimed = True
        else:
            self._commands[WILDCARD] += 1  # not by their names, so that the other end cannot make it grow
            claimed = self._offer(Unclaimed(source, command, message.content, message.body, not modern))
        if self.cache_size >= 0:
            self._remember(message, claimed)

    def _with_loop(self, stats: Stats, inbound: list[bytes], pending: int = 0) -> Stats:
        # What the TCPServer or TCPClient counted, with what it does not know of.
        with self._lock:
            commands, failures = dict(self._commands), self._failures
        return replace(
            stats,
            errors=stats.errors + failures,
            queued=stats.queued + len(inbound),
            queued_bytes=stats.queued_bytes + sum(map(len, inbound)),
            pending_out=stats.pending_out + pending,
            commands=commands,
        )

    def _read_old(self, message: Message) -> str | None:
        # In 0.x commands of several words can only be told apart by knowing them.
        if (name := self._handlers.longest(message.body)) is not None:
            message.command = name
            message.content = message.body[len(name.encode()) + 1 :] or None
        return message.command

    def _offer(self, message: Unclaimed) -> bool:
        for waiter in self._waiters:
            if waiter.wants(message):
                waiter.message = message
                self._waiters.remove(waiter)
                self._bell.ring()
                return True
        handler = self._handlers.reserved(WILDCARD)
        if handler is None:
            self._kept.add(message)
            return False
        self._call_soon(handler, self._wildcard_message(message))
        return False

    def _call_soon(self, handler: Handler, message: Message) -> None:
        # Under the lock.
        size = len(message.body) + ITEM_COST
        self._due += size
        self._calls.append((self._run, (handler, message, size)))

    def _add_call(self, function: Callable[[Unpack[Given]], object], *arguments: Unpack[Given]) -> None:
        # Under the lock.
        self._calls.append((function, arguments))

    @abstractmethod
    def _wildcard_message(self, message: Unclaimed) -> Message:
        """What the wildcard's handler gets."""

    def _remember(self, message: Message, claimed: bool) -> None:
        header = b"%-*d" % (self.header_len, len(message.body))
        content = message.content if claimed else message.body
        entry = {"header": header, "content": content, "called": claimed, "command": message.command}
        self.cache.append(MessageCacheMember(entry))

    @overload
    def get_cache(self, idx: slice | None = None) -> list[MessageCacheMember]: ...

    @overload
    def get_cache(self, idx: int) -> MessageCacheMember: ...

    def get_cache(self, idx: int | slice | None = None) -> list[MessageCacheMember] | MessageCacheMember:
        """The message cache, oldest first: all of it, one entry or a slice. Empty without ``cache_size``.

        Source: 2.x.
        """
        with self._lock:
            members = list(self.cache)
        return members if idx is None else members[idx]

    # ---------------------------------------------------------------------------------------------- calling back

    def _call_reserved(self, name: str, message: Message) -> None:
        handler = self._handlers.reserved(name)
        if handler is not None:
            self._run(handler, message)

    def _run(self, handler: Handler, message: Message, due: int = 0) -> None:
        self._due -= due  # without the lock: while this thread is in the loop nobody else routes
        try:
            arguments = handler.arguments(message)
            if handler.threaded:
                self._start_thread(handler, arguments)
                return
            began = time.monotonic()
            handler.function(*arguments)
            if time.monotonic() - began > SLOW:
                handler.was_slow()
        except Exception as failure:
            self._failed(failure)

    def _start_thread(self, handler: Handler, arguments: Sequence[object]) -> None:
        def work() -> None:
            try:
                self._guarded(lambda: handler.function(*arguments))
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        name = getattr(handler.function, "__name__", "handler")
        thread = threading.Thread(target=work, name=f"{self._name}-{name}", daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            with self._lock:
                self._threads.discard(thread)
            raise

    def _guarded(self, function: Call) -> None:
        try:
            function()
        except Exception as failure:
            self._failed(failure)

    def _failed(self, failure: Exception) -> None:
        where = "handler"
        with self._lock:
            self._failures += 1
        if self._error_handler is not None:
            try:
                self._error_handler(failure)
            except Exception as another:
                failure, where = another, "error_handler"
            else:
                return
        log.error("exception in a %s: %s: %s", where, type(failure).__name__, failure, exc_info=failure)

    # --------------------------------------------------------------------------------------------------- receiving

    @overload
    def recv(self, recv_on: str | None = None, *, timeout: float | None = None) -> bytes: ...

    @overload
    def recv(self, recv_on: str | None, recv_as: type[Wanted], timeout: float | None = None) -> Wanted: ...

    @overload
    def recv(self, recv_on: str | None = None, *, recv_as: type[Wanted], timeout: float | None = None) -> Wanted: ...

    @overload
    def recv(self, recv_on: str | None = None, recv_as: object = bytes, timeout: float | None = None) -> object: ...

    def recv(self, recv_on: str | None = None, recv_as: object = bytes, timeout: float | None = None) -> object:
        """Wait for a message that has no handler.

        While the loop runs in another thread (so in a threaded handler, too), this waits for what the loop gets.
        Otherwise it receives by itself, and messages with a handler wait for the next pass of the loop; if these are
        many (32 MiB), nothing more is received before that.

        Args:
            recv_on: its command; None for any, and for raw data.
            recv_as: the type to cast it to, as in annotations of handlers.
            timeout: seconds; None waits until it comes or the connection ends.

        Raises:
            TimeoutError: nothing came in time.
            ConnectionError: the connection is closed, and nothing of the kind was left.
            InvalidTypeCast: ``recv_as`` is no such type, or the message does not fit it.

        Source: 2.x; ``timeout`` is new.
        """
        if recv_on is not None and not isinstance(recv_on, str):
            raise TypeError(f"recv_on is a command (text), or None for any, not {recv_on!r}")
        cast: Cast = cast_for(recv_as)
        return cast(self._receive(Waiter(recv_on, raw=False), timeout))

    def recv_raw(self, timeout: float | None = None) -> bytes:
        """Wait for a message that nobody claimed, and get all of it as it came.

        Args, errors: as for :meth:`recv`. Source: 0.x; ``timeout`` is new.
        """
        return self._receive(Waiter(None, raw=True), timeout) or b""

    def _receive(self, waiter: Waiter, timeout: float | None) -> bytes | None:
        with self._lock:
            waiter.message = self._kept.take(waiter)
            if waiter.message is None:
                self._waiters.append(waiter)
        return self._await(waiter, timeout)

    def _await(self, waiter: Waiter, timeout: float | None) -> bytes | None:
        if self._is_loop_thread():
            self._mailbox.straight = None  # in a signal handler that interrupted a pass: _look() has to hold back
        try:
            self._bell.wait_for(lambda: self._look(waiter), timeout)
            self._look(waiter)  # what came before the bell was closed still counts
        except BaseException:
            with self._lock:
                if waiter.message is not None and waiter.keeps:  # Ctrl-C came in this moment
                    self._kept.put_back(waiter.message)
            raise
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if waiter.message is None:
            if waiter.lost or self._is_over():
                raise self._gone()
            raise TimeoutError(
                f"nothing was received within {timeout} seconds; was the other end start()ed, and does it send this?"
            )
        return waiter.content()

    def _look(self, waiter: Waiter) -> bool | None:
        # Gives something when the waiting is over.
        with self._lock:
            if waiter.message is None and self._loop_thread in (None, threading.get_ident()):
                if self._due < TOTAL_MARK:  # else the other end has to wait, until a pass calls the handlers
                    self._fetch()
                while self._inbound and waiter.message is None and not waiter.lost:
                    self._route(self._inbound.popleft())
                if self._inbound:
                    self._bell.ring()  # the others go on with it
            return True if waiter.message is not None or waiter.lost or self._is_over() else None

    def _is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.closed

    @abstractmethod
    def _gone(self) -> Exception:
        """What to raise when a message is waited for that will not come any more."""

    # --------------------------------------------------------------------------------------------------- closing

    def _join_threads(self, deadline: Deadline) -> None:
        if is_nested():  # a handler's thread would wait for one that waits for it
            return
        with self._lock:
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in threads:
            thread.join(deadline.left(time.monotonic()))
        busy = ", ".join(thread.name for thread in threads if thread.is_alive())
        if busy:
            log.warning("close() left threads behind that are busy in handlers: %s", busy)


class _Turn:
    """A thread's time in the loop. A handler may run a pass inside its own one."""

    def __init__(self, loop: HiSockLoop[Item]) -> None:
        self._loop = loop
        self._before: int | None = None

    def __enter__(self) -> None:
        loop, me = self._loop, threading.get_ident()
        with loop._lock:
            self._before = loop._loop_thread
            if self._before not in (None, me):
                raise BusyError("another thread runs this loop already; only one can")
            loop._loop_thread = me
            loop._straight = me, loop._inbound

    def __exit__(self, *_: object) -> None:
        loop = self._loop
        with loop._lock:
            loop._loop_thread = self._before
        loop._bell.ring()  # who waits for a message, or for an answer, receives by itself now


class Threaded(HiSockLoop[Item]):
    """A loop with a thread of its own: comes before the server or client in a class's bases."""

    _thread: threading.Thread | None = None

    def start(self, callback: Callable[[], object] | None = None, error_handler: ErrorHandler | None = None) -> None:
        """Start the thread that runs the loop, and return at once. The program goes on until ``close()``.

        Arguments: as for the class without a thread.

        Raises:
            LifecycleError: it was started before.
            BusyError: a thread runs a pass of the loop at the moment.

        Source: 2.x.
        """
        with self._lock:
            if self._thread is not None:
                raise LifecycleError("start() was called before; each object runs once, so make a new one")
            if self._loop_thread is not None:
                raise BusyError(
                    "another thread runs the loop at the moment, by run() or update(); start() is for when none does"
                )
            # Not a daemon, so that the program goes on.
            thread = threading.Thread(
                target=super().start, args=(callback, error_handler), name=f"{self._name}-loop", daemon=False
            )
            thread.start()
            self._thread = thread

    def join(self, timeout: float | None = None) -> None:
        """Wait until the loop's thread ended; never in that thread itself. Source: 0.x."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _join_outside(self, timeout: float) -> None:
        if not is_nested():  # else that thread may be waiting for this one
            self.join(timeout)


def check_address(addr: object, *, zero: bool) -> tuple[str, int]:
    """The address, if it is one.

    Args:
        addr: what the program gave.
        zero: whether port 0, "any free one", is allowed.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(addr, (tuple, list)) or len(addr) != 2 or not isinstance(addr[0], str):
        raise TypeError(f"addr is a pair (ip, port) such as ('127.0.0.1', 5000), not {addr!r}")
    check_port(addr[1], zero=zero)
    return addr[0], addr[1]


_FILES = frozenset({"certfile", "keyfile", "password", "cafile"})


def context_for(tls: object, *, server: bool) -> SSLContext | None:
    """What ``tls=`` means; None: no TLS.

    Args:
        tls: an SSLContext, a dict of ``certfile keyfile password cafile``, the path to a PEM file (a server's
            certificate and key, for a client those whom it trusts), or None.
        server: for which side.

    Raises:
        SetupError: a file cannot be used, or is missing.
        TypeError, ValueError: it is nothing of that kind, or for the other side.
    """
    if tls is None or tls is False or isinstance(tls, SSLContext):
        check_context(tls or None, server=server)
        return tls or None
    if isinstance(tls, (str, PathLike)):
        tls = {"certfile" if server else "cafile": tls}
    if not isinstance(tls, Mapping):
        raise TypeError(f"tls is an ssl.SSLContext, a dict, the path to a PEM file, or None, not {tls!r}")
    if not set(tls) <= _FILES:
        raise ValueError(f"tls has {', '.join(sorted(_FILES))}, and not {', '.join(map(str, set(tls) - _FILES))}")
    if server and tls.get("certfile") is None:
        raise SetupError("a server's tls needs a certfile: a PEM file with its certificate (and its key, or keyfile)")
    return server_context(**tls) if server else client_context(**tls)
