"""A server as one node of several: what it tells the others, and what it does when they tell something."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, cast

from ..events import ExceptionList
from ..timing import Deadline
from . import protocol
from .backplane import EVERYBODY, Backplane, Entry, Row, Target, read_row
from .errors import BackplaneError
from .exchange import Exchange
from .groups import HEARD_BY_ALL, HEARD_BY_MODERN, HEARD_BY_NOBODY, Member
from .neighbours import Neighbours, Remote
from .redis_backplane import RedisBackplane

Task = Callable[[], object]


class Host(Protocol):
    """What a node needs of its server. Nothing of it waits for a client."""

    def local_rows(self) -> list[Row]:
        """All clients of this node. Under the lock."""

    def deliver(self, target: Target, command: str | None, content: bytes) -> None:
        """Send to the clients of this node that are meant."""

    def dismiss(self, target: Target, force: bool, call_func: bool) -> None:
        """Disconnect the clients of this node that are meant."""

    def tell(self, word: bytes, member: Member, heard: Sequence[bool]) -> None:
        """Tell clients of this node that somebody joined or left: those of 0.x, those of 2.x, as ``heard`` says."""


class Cluster:
    """This node's side of the backplane: ``server.cluster``.

    Args:
        backplane: where the nodes meet.
        host: the server.
        lock: the server's lock over its clients, which is for the other nodes' clients, too.
        name: begins the names of the threads.
    """

    def __init__(self, backplane: Backplane, host: Host, lock: threading.RLock, name: str) -> None:
        self.node = secrets.token_hex(8)
        """The name of this node, a new one each time."""
        self._host = host
        self._exchange = Exchange(
            backplane, self.node, name, lock, host.local_rows, self._heard, self._looked, self._resumed
        )
        self._lock = lock  # protects what follows; never held across I/O or user code
        self._silence = backplane.lease * 0.6  # and a look is due after an eighth: so within the lease
        self._others = Neighbours(self._silence)
        self._received = self._missed = 0

    def start(self) -> None:
        """Connect, in the background."""
        self._exchange.start()

    def close(self, deadline: Deadline) -> list[str]:
        """Say goodbye, after all that waits. Returns the names of threads that are busy for longer."""
        busy = self._exchange.close(deadline)
        with self._lock:
            self._others = Neighbours(self._silence)
        return busy

    def __repr__(self) -> str:
        return f"<node {self.node}, {'connected' if self.connected else 'alone'}>"

    # ----------------------------------------------------------------------------------------------- how it fares

    @property
    def connected(self) -> bool:
        """Whether the backplane is there."""
        return self._exchange.connected

    @property
    def nodes(self) -> list[str]:
        """The other nodes that are there."""
        with self._lock:
            return self._others.names()

    @property
    def waiting(self) -> int:
        """How many messages for clients of other nodes wait to be published."""
        return self._exchange.waiting

    @property
    def published(self) -> int:
        """How many messages for clients of other nodes were published."""
        return self._exchange.published

    @property
    def dropped(self) -> int:
        """How many messages were dropped, since too much waited or the server was closed."""
        return self._exchange.dropped

    @property
    def received(self) -> int:
        """How many messages of other nodes came."""
        return self._received

    @property
    def missed(self) -> int:
        """How many messages of other nodes should have come and did not: those that they dropped, and those that the
        backplane lost."""
        return self._missed

    def return_exceptions(self, delete: bool = False) -> ExceptionList:
        """What went wrong: the backplane was away, messages were dropped or missed. The newest 1,000.

        Args:
            delete: whether to forget them.
        """
        return self._exchange.journal.take(delete, True)

    # ------------------------------------------------------------------------------------- what the others are told

    def joined(self, member: Member) -> None:
        """A client of this node came. Under the lock, like the next three."""
        self._exchange.post("join", _row(member))

    def changed(self, member: Member) -> None:
        """It has another name or group."""
        self._exchange.post("change", *member.address, member.number, member.name, member.group)

    def told(self, member: Member) -> None:
        """More of this node's clients heard of it."""
        self._exchange.post("told", *member.address, member.number, member.heard_of)

    def left(self, member: Member) -> None:
        """It is gone."""
        self._exchange.post("leave", *member.address, member.number)

    def emptied(self) -> None:
        """All are gone."""
        self._exchange.announce()

    def send(self, target: Target, command: str | None, content: bytes) -> None:
        """Send to clients of other nodes. Never waits."""
        self._exchange.post("send", target, command, body=content)

    def kick(self, target: Target, force: bool, call_func: bool) -> None:
        """Disconnect clients of other nodes. Never waits."""
        self._exchange.post("kick", target, force, call_func)

    # -------------------------------------------------------------------------------------------------- looking up

    def others_in(self, group: str | None) -> Target | None:
        """Those of a group who are elsewhere; None: nobody is."""
        with self._lock:
            return ("group", group) if self._others.has_group(group) else None

    def others(self) -> Target | None:
        """All who are elsewhere; None: nobody is."""
        with self._lock:
            return EVERYBODY if self._others.has_any() else None

    def all(self, local: Iterable[Member]) -> list[Member]:
        """Everybody. Under the lock, like the next two, and given who is here."""
        return self._others.all(local)

    def in_group(self, group: str | None, local: Iterable[Member]) -> list[Member]:
        """Who is in a group."""
        return self._others.in_group(group, local)

    def find(self, who: object, local: Iterable[Member]) -> list[Member]:
        """Whom an identifier names."""
        return self._others.find(who, local)

    # -------------------------------------------------------------------------------------- what the others tell

    def _heard(self, entry: Entry, at: float) -> None:
        with self._lock:
            noted = self._others.note(entry, time.monotonic(), at)
            self._missed += noted.missed
            self._received += noted.fresh and entry.is_message
            tasks = self._apply(entry) if noted.fresh else ()
        if noted.missed:
            text = f"{noted.missed} messages of the node {entry.node} did not come, and {self._missed} of all so far"
            self._exchange.journal.record(BackplaneError(text), "messages were missed", level=logging.WARNING)
        if noted.ask:
            self._exchange.post("ask", entry.node)
        for task in tasks:
            task()

    def _resumed(self) -> None:
        with self._lock:
            self._others.excuse(time.monotonic())

    def _looked(self, latest: bool, at: float) -> None:
        # Where there is more to read, a node may be there: only the log's own clock tells how long it said nothing.
        with self._lock:
            silent = self._others.silent(latest, at)
            left = [member for name in silent for member in self._others.remove(name)]
        for member in left:
            self._tell_left(member)

    def _apply(self, entry: Entry) -> Iterable[Task]:
        # Under the lock. Gives what is to be done without it.
        node, kind, details = entry.node, entry.kind, entry.details
        host = self._host
        if kind == "send":
            target, command = cast("tuple[list[str | int | None], str | None]", details)
            return self._if_meant(target, lambda: host.deliver(tuple(target), command, entry.body))
        if kind == "kick":
            target, force, call = cast("tuple[list[str | int | None], bool, bool]", details)
            return self._if_meant(target, lambda: host.dismiss(tuple(target), force, call))
        if kind == "state":
            return self._apply_state(entry)
        if kind == "ask":
            if details[0] == self.node:
                self._exchange.announce()
        elif kind == "join":
            self._others.join(node, read_row(details[0]))
        elif kind == "bye":
            return self._leavings(self._others.remove(node))
        elif kind != "beat":
            return self._apply_change(entry)
        return ()

    def _if_meant(self, target: Sequence[object], task: Task) -> Iterable[Task]:
        return () if target[0] == "client" and target[1] != self.node else (task,)

    def _apply_state(self, entry: Entry) -> Iterable[Task]:
        asks, rows = cast("tuple[bool, list[object]]", entry.details)
        heard, left = self._others.replace(entry.node, map(read_row, rows))
        if asks:
            self._exchange.announce()
        return [*self._leavings(left), *(partial(self._tell_joined, *each) for each in heard)]

    def _apply_change(self, entry: Entry) -> Iterable[Task]:
        host, port, number, *rest = cast("tuple[str, int, int, object]", entry.details)
        member = self._others.member(entry.node, host, port, number)
        if member is None:
            return ()  # its state is asked for, or says it already
        if entry.kind == "leave":
            self._others.leave(member)
            return self._leavings([member])
        if entry.kind == "change":
            name, group = cast("tuple[str | None, str | None]", rest)
            self._others.change(member, name, group)
            return ()
        before, member.heard_of = member.heard_of, cast("int", rest[0])
        return (lambda: self._tell_joined(member, before),)

    def _tell_joined(self, member: Remote, before: int) -> None:
        # Of 0.x and of 2.x: those who were told on its own node, and not before.
        old = before < HEARD_BY_ALL <= member.heard_of
        modern = before < HEARD_BY_MODERN <= member.heard_of
        self._host.tell(protocol.JOINED, member, (old, modern))

    def _leavings(self, members: Iterable[Remote]) -> list[Task]:
        return [partial(self._tell_left, member) for member in members]

    def _tell_left(self, member: Remote) -> None:
        heard = member.heard_of
        self._host.tell(protocol.LEFT, member, (heard >= HEARD_BY_ALL, heard > HEARD_BY_NOBODY))


def _row(member: Member) -> Row:
    host, port = member.address
    return Row(host, port, member.number, member.name, member.group, member.dialect.modern, member.heard_of)


def rows(members: Iterable[Member]) -> list[Row]:
    """The clients, as other nodes are told of them."""
    return [_row(member) for member in members]


def described(member: Member) -> bytes:
    """Who it is, in a notice."""
    return json.dumps(member.described()).encode()


def backplane_of(given: object) -> Backplane | None:
    """What ``backplane=`` means.

    Raises:
        SetupError, TypeError, ValueError: as :class:`RedisBackplane`.
    """
    return given if given is None or isinstance(given, Backplane) else RedisBackplane(cast("str", given))
