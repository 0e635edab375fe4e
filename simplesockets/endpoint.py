"""What TCPServer and TCPClient have in common: received data, exceptions, callbacks, their flags."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from . import events
from .connection import LINGER, Connection, end_idle
from .dispatch import Callback, Dispatch, ExceptionFlags, log
from .engine import Engine
from .events import Ending, Event, ExceptionList
from .hints import Forgotten, warn_of_misspelt
from .mailbox import Item, ReceivedList
from .stats import Ledger, Stats
from .transport import LOOKS, Stream

Some = TypeVar("Some", bound=Dispatch)


class EndpointEvents:
    """``event``: the flags to poll. Spinning on a False flag costs nothing; see mailbox.py."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._new_data = dispatch.mailbox.new_data
        self.exception = ExceptionFlags(dispatch.journal)

    @property
    def new_data(self) -> bool:
        """Whether data waits to be fetched with ``return_recved_data()``."""
        flag = self._new_data
        return flag._value or flag.idle()  # as flag.read(), in one call less: loops spin on this

    @new_data.setter
    def new_data(self, value: bool) -> None:
        self._new_data.assign(value)


class Endpoint(Generic[Some]):
    """A server or a client.

    Args:
        dispatch: with a mailbox of its own.
    """

    EVENT_EXCEPTION = events.EXCEPTION
    EVENT_RECEIVED = events.RECEIVED
    EVENT_TIMEOUT = events.TIMEOUT

    def __init__(self, dispatch: Some) -> None:
        self._dispatch = dispatch
        self._mailbox = dispatch.mailbox
        self._bell = dispatch.mailbox.bell
        self._engine: Engine | None = None
        self._ledger = Ledger()
        self._misspelt: set[str] = set()  # attributes of which the program was told that they are never called
        self._mailbox.new_data.hint = Forgotten(self._missing)

    # ----------------------------------------------------------------------------------------------- callbacks

    @property
    def on_connect(self) -> Callback | None:
        """Runs when a connection began; see ``setup()``. May be assigned at any time; TypeError if it does not fit."""
        return self._dispatch.assigned("on_connect")

    @on_connect.setter
    def on_connect(self, function: Callback | None) -> None:
        self._require_assignable("on_connect")
        self._dispatch.assign("on_connect", function)

    @property
    def on_disconnect(self) -> Callback | None:
        """Runs when a connection ended; see ``setup()``. May be assigned at any time; TypeError if it does not fit."""
        return self._dispatch.assigned("on_disconnect")

    @on_disconnect.setter
    def on_disconnect(self, function: Callback | None) -> None:
        self._require_assignable("on_disconnect")
        self._dispatch.assign("on_disconnect", function)

    @property
    def on_receive(self) -> Callback | None:
        """Gets what was received; see ``setup()``. May be assigned at any time; TypeError if it does not fit."""
        return self._dispatch.assigned("on_receive")

    @on_receive.setter
    def on_receive(self, function: Callback | None) -> None:
        self._require_assignable("on_receive")
        engine = self._engine
        if engine is not None and function is not None:
            engine.set_polled(False)  # before it can run in a thread that polls
        try:
            self._dispatch.assign("on_receive", function)
        finally:
            if engine is not None:
                engine.set_polled(self._dispatch.polled)
        if not self._dispatch.polled:
            self._mailbox.resume_all()

    def _missing(self) -> str | None:
        """What the program has to do before data can come; None where nothing is missing."""
        return None

    def _warn_of_misspelt(self) -> None:
        given = list(vars(self))
        for kind in type(self).__mro__[: type(self).__mro__.index(Endpoint)]:
            given += vars(kind)
        callbacks = {name: self._dispatch.assigned(name) for name in self._dispatch.FORMS}
        warn_of_misspelt(given, callbacks, self, self._misspelt)

    def _require_assignable(self, name: str) -> None:
        """Called before a callback is assigned, to refuse that."""

    def _assign(self, **callbacks: Callback | None) -> None:
        # What was given; else the method by which a subclass replaced the property of that name.
        for name, function in callbacks.items():
            replaced = getattr(type(self), name) is not getattr(Endpoint, name)
            self._dispatch.assign(name, getattr(self, name) if function is None and replaced else function)

    # ------------------------------------------------------------------------------------------- received data

    @property
    def recved_data(self) -> ReceivedList:
        """The live list of received data; prefer ``return_recved_data()``. Source: manual."""
        return self._mailbox.items

    @recved_data.setter
    def recved_data(self, items: Iterable[Item]) -> None:
        self._mailbox.replace(items)

    @property
    def new_data_recved(self) -> bool:
        """The same as ``event.new_data``. Source: the manual's example."""
        return self._mailbox.new_data.read()

    @new_data_recved.setter
    def new_data_recved(self, value: bool) -> None:
        self._mailbox.new_data.assign(value)

    # ----------------------------------------------------------------------------------------------- internals

    def _count(self, connections: list[Connection]) -> Stats:
        # Told who is connected now.
        tally = self._ledger.add_up()
        queued, queued_bytes = self._mailbox.depth()
        return Stats(
            since=self._ledger.since,
            time=time.time(),
            connections=len(connections),
            connections_total=tally.connections_total,
            refused=tally.refused,
            **tally.counts._asdict(),
            errors=self._dispatch.journal.total,
            queued=queued,
            queued_bytes=queued_bytes,
            pending_out=sum(connection.stream.on_its_way() for connection in connections),
            rates=tally.rates,
        )

    def _take_event(self, timeout: float) -> tuple[Event, list[Item] | ExceptionList | None]:
        event = self._mailbox.events.take(timeout)
        if event is None:
            return self.EVENT_TIMEOUT.copy(), None
        if event == self.EVENT_RECEIVED:
            return event, self._mailbox.take_all()
        if event == self.EVENT_EXCEPTION:
            return event, self._dispatch.journal.take(delete=True, reset=True)
        return event, None

    def _cut_later(self, stream: Stream) -> None:
        # Somebody hung up. The reader may be asleep in the socket until the other end closes, too; if that does not,
        # the reader is woken when the time for it is over.
        if self._engine is not None and not self._bell.closed:
            self._engine.later(LINGER, stream.cut)

    def _look_for_idle(
        self, engine: Engine, timeout: float, connections: Callable[[], list[Connection] | None]
    ) -> None:
        # In the timers' thread, again and again as long as there is something to look at.
        found = connections()
        if found is not None:
            end_idle(found, timeout)
            engine.later(timeout / LOOKS, lambda: self._look_for_idle(engine, timeout, connections))

    def _record_ending(self, ending: Ending | None, who: object) -> None:
        if ending is None:
            return
        if ending.kind in ("protocol error", "failed", "tls") and ending.exception is not None:
            self._dispatch.journal.record(ending.exception, f"{who!r} was dropped", level=logging.WARNING)
        elif ending.kind == "send timeout":  # who sent has the exception
            log.warning("%r was dropped", who)
        elif ending.kind == "idle":
            log.info("%r was dropped", who)
