"""The other nodes, and their clients, as far as this node knows. Pure; whoever shares it among threads locks it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from .backplane import Entry, Row
from .groups import Member, Members, address_in, in_order, not_found
from .protocol import MODERN, OLD, Hello

REMEMBERED = 1000
"""Nodes that are gone and remembered nevertheless: they may have been cut off only, and come back."""


class Remote(Member):
    """A client of another node.

    Args:
        node: its node's name.
        row: what that node told of it.
    """

    def __init__(self, node: str, row: Row) -> None:
        super().__init__((row.host, row.port), Hello(MODERN if row.modern else OLD, row.name, row.group))
        self.node = node
        self.number = row.number
        self.heard_of = row.heard


class Neighbour:
    """Another node.

    Args:
        name: its name, which another start of the same program does not have.
        entry: the first one that came from it.
    """

    def __init__(self, name: str, entry: Entry) -> None:
        self.name = name
        self.members: Members[Remote] = Members()
        self.seq = entry.seq - 1
        self.latest = entry.latest - entry.is_message
        self.heard = 0.0
        """When something came from it."""
        self.spoke = 0.0
        """When it was appended, by the log's clock."""
        self.present = False
        """Whether it is taken for alive."""
        self.known = False
        """Whether nothing that it told of its clients was missed."""
        self.asked = -math.inf
        """When it was last asked for its state."""


class Noted(NamedTuple):
    """What an entry's numbers say."""

    fresh: bool
    """Whether it comes for the first time."""
    missed: int
    """Messages that should have come before it and did not."""
    ask: bool
    """Whether its node has to be asked for its state."""


class Replaced(NamedTuple):
    """What a node's state changed."""

    heard: list[tuple[Remote, int]]
    """Of whom more clients are to hear than before, and how many heard before."""
    left: list[Remote]


class Neighbours:
    """All other nodes.

    Args:
        silence: seconds; who says nothing for longer is dead, and who is asked and does not answer is asked again.
    """

    def __init__(self, silence: float) -> None:
        self._nodes: dict[str, Neighbour] = {}
        self._silence = silence
        self._at = 0.0  # how far the log was read, by its clock

    # ---------------------------------------------------------------------------------------------------- entries

    def note(self, entry: Entry, now: float, at: float) -> Noted:
        """An entry came: look at its numbers. Only a fresh one is to be used.

        Args:
            entry: it.
            now: the time.
            at: the time by the log's clock.
        """
        self._pass_to(at)
        node = self._nodes.get(entry.node)
        if node is None:
            self._forget_oldest()
            node = self._nodes[entry.node] = Neighbour(entry.node, entry)
        if entry.seq <= node.seq:
            return Noted(False, 0, False)
        missed = entry.latest - entry.is_message - node.latest
        if entry.seq != node.seq + 1:
            node.known, node.asked = False, -math.inf
        node.seq, node.latest = entry.seq, entry.latest
        node.heard, node.spoke, node.present = now, at, True
        ask = not node.known and now - node.asked > self._silence and entry.kind not in ("state", "bye")
        if ask:
            node.asked = now
        return Noted(True, missed, ask)

    def _forget_oldest(self) -> None:
        absent = [node for node in self._nodes.values() if not node.present]
        if len(absent) >= REMEMBERED:
            del self._nodes[min(absent, key=lambda node: node.heard).name]

    def replace(self, name: str, rows: Iterable[Row]) -> Replaced:
        """A node told of all of its clients."""
        new = {(row.host, row.port): row for row in rows}
        node = self._nodes[name]
        node.known = True
        left = [old for old in node.members.all() if _differs(old, new.get(old.address))]
        for old in left:
            node.members.remove(old)
        heard = []
        for row in new.values():
            old_one = node.members.at((row.host, row.port))
            member = old_one or self.join(name, row)
            before = member.heard_of if old_one is not None else 0
            node.members.change(member, name=row.name, group=row.group)
            member.heard_of = row.heard
            if row.heard > before:
                heard.append((member, before))
        return Replaced(heard, left)

    def join(self, name: str, row: Row) -> Remote:
        """A client came to a node."""
        member = Remote(name, row)
        members = self._nodes[name].members
        if (old := members.at(member.address)) is not None:
            members.remove(old)
        members.add(member, member.number)
        return member

    def member(self, name: str, host: str, port: int, number: int) -> Remote | None:
        """This very client, if it is there."""
        member = self._nodes[name].members.at((host, port))
        return member if member is not None and member.number == number else None

    def change(self, member: Remote, name: str | None, group: str | None) -> None:
        """A client has another name and group."""
        self._nodes[member.node].members.change(member, name=name, group=group)

    def leave(self, member: Remote) -> None:
        """A client left."""
        self._nodes[member.node].members.remove(member)

    def remove(self, name: str) -> list[Remote]:
        """A node is gone. Returns whom it took along."""
        node = self._nodes[name]
        left = node.members.all()
        node.members = Members()
        node.present = node.known = False
        node.asked = -math.inf
        return left

    def silent(self, latest: bool, at: float) -> list[str]:
        """The nodes that said nothing for too long before that time: of this node's clock if all was read, else of the
        log's."""
        since = at - self._silence
        if not latest:
            self._pass_to(at)
        present = [node for node in self._nodes.values() if node.present]
        return [node.name for node in present if (node.heard if latest else node.spoke) < since]

    def _pass_to(self, at: float) -> None:
        # Where the log has nothing of anybody for so long, it was the log that was away.
        if at - self._at > self._silence:
            for node in self._nodes.values():
                node.spoke = at
        self._at = at

    def excuse(self, now: float) -> None:
        """They could not be heard until now."""
        for node in self._nodes.values():
            node.heard = now

    # -------------------------------------------------------------------------------------------------- looking up

    def names(self) -> list[str]:
        """The nodes that are there."""
        return [node.name for node in self._nodes.values() if node.present]

    def has_any(self) -> bool:
        """Whether another node has a client."""
        return any(len(node.members) for node in self._nodes.values())

    def has_group(self, group: str | None) -> bool:
        """Whether a client of another node is in the group."""
        return any(node.members.has_group(group) for node in self._nodes.values())

    def all(self, local: Iterable[Member]) -> list[Member]:
        """Everybody of all nodes, in the order of connecting."""
        return in_order([*local, *(each for node in self._nodes.values() for each in node.members.all())])

    def in_group(self, group: str | None, local: Iterable[Member]) -> list[Member]:
        """Who is in the group, on all nodes, in the order of connecting."""
        remote = (each for node in self._nodes.values() for each in node.members.in_group(group))
        return in_order([*local, *remote])

    def find(self, who: object, local: Iterable[Member]) -> list[Member]:
        """Whom an identifier names, on all nodes; at least one. Those of a name are in the order of connecting. Two
        nodes may have a client with the same address: a ClientInfo names the one that it describes, other identifiers
        rather the one of this node.

        Args:
            who: the identifier.
            local: whom it names on this node.

        Raises:
            ValueError: it is no identifier.
            ClientNotFound: it names nobody.
        """
        address = address_in(who)
        remote = [each for node in self._nodes.values() for each in node.members.matching(who, address)]
        if address is None:
            return in_order([*local, *remote]) or not_found(who, address)
        found = [*local, *in_order(remote)]
        return [each for each in found if each.info == who] or found or not_found(who, address)


def _differs(old: Remote, row: Row | None) -> bool:
    return row is None or row.number != old.number
