"""From an item to the program: callback, mailbox, or both. Exceptions of the program's code end here.

What can be decided once is decided when a callback is assigned: how many arguments it takes. Per item there is one
call of an adapter that knows.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from .events import EXCEPTION, ClientAddress, ExceptionList, ExceptionRecord, ReceivedBytes, ReceivedItem
from .hotpath import shortened
from .mailbox import Bell, EventQueue, Flag, Mailbox, Pausable, is_own_thread

if TYPE_CHECKING:
    from .server import Server_Client

log = logging.getLogger("simplesockets")

Callback = Callable[..., object]
"""A function of the program's; the argument forms that fit are in the documentation of ``setup()``."""


# ---------------------------------------------------------------------------------------------------- journal


class Journal:
    """The exceptions that were caught: recorded, logged, flagged."""

    def __init__(self, bell: Bell, events: EventQueue) -> None:
        self.occurred = Flag(bell)
        self.records = ExceptionList()
        self.total = 0
        """How many there were, also those that were forgotten since."""
        self._events = events
        self._bell = bell
        self._lock = threading.RLock()  # protects the records; never held across I/O, logging or user code

    def record(self, failure: BaseException, doing: str, *, level: int = logging.ERROR) -> None:
        """Keep an exception and log that it occurred while ``doing`` something.

        The traceback goes into the log only for errors of the program's own code (``level`` ERROR).
        """
        text = "".join(traceback.format_exception(type(failure), failure, failure.__traceback__))
        with self._lock:
            self.records.add(ExceptionRecord(failure, text))
            self.total += 1
            self._events.happened_once(EXCEPTION)
        self.occurred.set()
        shown = failure if level >= logging.ERROR else None
        log.log(level, "%s: %s: %s", doing, type(failure).__name__, failure, exc_info=shown)
        _forget_frames(failure)

    def take(self, delete: bool, reset: bool) -> ExceptionList:
        """The records so far; afterwards forgotten if ``delete``, the flag lowered if ``reset``."""
        with self._lock:
            records = self.records.copy()
            if delete:
                self.records.clear()
            if reset:
                self.occurred.clear()
                self._events.clear_name(EXCEPTION)
        return records


def _forget_frames(failure: BaseException | None) -> None:
    # The frames would keep whatever was being sent or delivered, a thousand times; the record has them as text.
    while failure is not None and failure.__traceback__ is not None:
        failure.__traceback__ = None
        failure = failure.__cause__ or failure.__context__


class ExceptionFlags:
    """``event.exception``: whether exceptions were caught, and which.

    ``list`` (manual) and ``exceptions`` (0.4) are the same object.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def occurred(self) -> bool:
        """Whether an exception was caught since the flag was lowered."""
        return self._journal.occurred.read()

    @occurred.setter
    def occurred(self, value: bool) -> None:
        self._journal.occurred.assign(value)

    @property
    def list(self) -> ExceptionList:
        """The caught exceptions; the newest thousand are kept."""
        return self._journal.records

    @property
    def exceptions(self) -> ExceptionList:
        """The same list under its name of 0.3/0.4."""
        return self._journal.records


# --------------------------------------------------------------------------------------------------- callbacks


def accepts(function: Callback, count: int) -> bool | None:
    """Whether a callable can be called with that many positional arguments; None where its signature is unknown."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def never_runs(function: Callback) -> str | None:
    """Why calling a function would run nothing of it: a sentence that says what to do; None where it runs."""
    inner: object = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not (inspect.isroutine(inner) or inspect.isclass(inner)):
        inner = type(inner).__call__  # of an object that can be called
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        return f"{function!r} is async def, and calling it runs nothing; there is no event loop here: use plain def"
    if inspect.isgeneratorfunction(inner):
        return f"{function!r} has a yield in it, and calling it runs nothing; return what there is to return"
    return None


def arity(name: str, function: object, forms: dict[int, str]) -> int:
    """How many arguments to call a callback with: the first form that fits, in the order given.

    Args:
        name: of the callback, for the message.
        function: what the program assigned.
        forms: the accepted argument lists by their length, the preferred one first (taken without a signature).

    Raises:
        TypeError: it is not callable, or no form fits.
    """
    described = " or ".join(f"{name}({arguments})" for arguments in forms.values())
    if not callable(function):
        raise TypeError(f"{name} must be a function called as {described}, or None; {function!r} is not callable")
    if (why := never_runs(function)) is not None:
        raise TypeError(f"{name}: {why}")
    for count in forms:
        if accepts(function, count) is not False:
            return count
    raise TypeError(f"{name} is called as {described}; {function!r} takes other arguments. Change its parameters")


class Dispatch:
    """Common to both sides: the callbacks, the mailbox, the journal, and a guarded way to call the program."""

    FORMS: ClassVar[dict[str, dict[int, str]]]
    """How each callback may be called: its arguments by their number, the preferred form first."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.journal = Journal(mailbox.bell, mailbox.events)
        self._bound: dict[str, tuple[Callback | None, int, Callback | None]] = {
            name: (None, max(forms), None) for name, forms in self.FORMS.items()
        }
        self._told_full = False

    def assign(self, name: str, function: Callback | None) -> None:
        """Check and assign a callback.

        Raises:
            TypeError: it cannot be called in any of its forms.
        """
        if function is None:
            self._bound[name] = None, 0, None
        else:
            count = arity(name, function, self.FORMS[name])
            self._bound[name] = function, count, self._adapted(name, function, count)  # in one step: others read it

    def _adapted(self, name: str, function: Callback, count: int) -> Callback:
        """What is called in place of a callback with so many arguments."""
        return function

    def assigned(self, name: str) -> Callback | None:
        """The callback of that name."""
        return self._bound[name][0]

    @property
    def polled(self) -> bool:
        """Whether items go to the mailbox and nowhere else."""
        return self._bound["on_receive"][0] is None

    def call(self, doing: str, function: Callable[[], object]) -> None:
        """Call the program's code; an exception is recorded and goes no further."""
        try:
            function()
        except BaseException as failure:
            self.caught(failure, doing)

    def caught(self, failure: BaseException, doing: str) -> None:
        """Record an exception of the program's code.

        Ctrl-C and ``exit()`` pass where the program's own thread made the call. In a thread of ours they would end
        nothing but the service of one client, so there they are recorded like any other.
        """
        if not isinstance(failure, Exception) and not is_own_thread():
            raise failure
        self.journal.record(failure, f"exception in {doing}")

    def _has_to_pause(self, source: Pausable) -> bool:
        if not self.polled:  # on_receive was assigned in this moment: with it nobody pauses
            self.mailbox.forget(source)
        return self.mailbox.is_paused(source)

    def say_full(self) -> None:
        """What a callback gets is not kept for polling any more. Says so, once."""
        self._told_full = True
        log.info("on_receive gets everything; the copies kept for return_recved_data() reached their limit")


def _taking_three(receive: Callback, arguments: int) -> Callback:
    if arguments == 3:
        return receive
    if arguments == 2:
        return lambda client, address, data: receive(client, ReceivedBytes(data, time.time(), client))
    return lambda client, address, data: receive(ReceivedBytes(data, time.time(), client))


class ServerDispatch(Dispatch):
    """What a server does with the items of its clients."""

    FORMS: ClassVar = {
        "on_connect": {1: "address"},
        "on_disconnect": {1: "address"},
        "on_receive": {3: "client_socket, address, data", 2: "client, received", 1: "data"},
        "handle_client": {2: "client_socket, address", 1: "client"},
    }

    def _adapted(self, name: str, function: Callback, count: int) -> Callback:
        return _taking_three(function, count) if name == "on_receive" else function

    def delivery(self, client: Server_Client, source: Pausable) -> Callable[[bytes], bool]:
        """What hands a client's items over. It returns whether the source has to pause until they were polled."""
        bound, mailbox, address = self._bound, self.mailbox, client.address  # looked up once, not per item
        put, make, now = mailbox.put, tuple.__new__, time.time

        def deliver(data: bytes) -> bool:
            receive = bound["on_receive"][2]
            if receive is None:
                item = make(ReceivedItem, (client, address, data))
                item._stamp = now()
                return put(source, item, len(data)) and self._has_to_pause(source)
            if mailbox.total < mailbox.client_mark:  # the copies get as much room as one client
                put(source, ReceivedItem(client, address, data, now()), len(data))
            elif not self._told_full:
                self.say_full()
            try:
                receive(client, address, data)
            except BaseException as failure:
                self.caught(failure, "on_receive")
            return False

        return shortened(deliver, self, client, source, ReceivedItem)

    def connected(self, client: Server_Client) -> None:
        """Run ``on_connect``."""
        if (function := self.assigned("on_connect")) is not None:
            self.call("on_connect", lambda: function(ClientAddress(client.address, client)))

    def disconnected(self, client: Server_Client) -> None:
        """Run ``on_disconnect``."""
        if (function := self.assigned("on_disconnect")) is not None:
            self.call("on_disconnect", lambda: function(ClientAddress(client.address, client)))

    def handler(self, client: Server_Client) -> Callable[[], object] | None:
        """What runs ``handle_client``, the program's own loop, for this client; None if there is none."""
        function, count, _ = self._bound["handle_client"]
        if function is None:
            return None
        arguments = (client, client.address) if count == 2 else (client,)
        return lambda: self.call("handle_client", lambda: function(*arguments))


class ClientDispatch(Dispatch):
    """What a client does with the items of its server."""

    FORMS: ClassVar = {"on_connect": {0: ""}, "on_disconnect": {0: ""}, "on_receive": {1: "data"}}

    def deliver(self, source: Pausable, data: bytes) -> bool:
        """Hand an item over. Returns whether the source has to pause until it was polled."""
        item = ReceivedBytes(data, time.time())
        function = self._bound["on_receive"][0]
        if function is None:
            return self.mailbox.put(source, item, len(data)) and self._has_to_pause(source)
        mailbox = self.mailbox
        if mailbox.total < mailbox.client_mark:
            mailbox.put(source, item, len(data))
        elif not self._told_full:
            self.say_full()
        try:
            function(item)
        except BaseException as failure:
            self.caught(failure, "on_receive")
        return False

    def connected(self) -> None:
        """Run ``on_connect``."""
        if (function := self.assigned("on_connect")) is not None:
            self.call("on_connect", function)

    def disconnected(self) -> None:
        """Run ``on_disconnect``."""
        if (function := self.assigned("on_disconnect")) is not None:
            self.call("on_disconnect", function)
