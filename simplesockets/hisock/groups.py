"""Who is connected, by address, by name and by group. Pure; whoever shares it among threads locks it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Generic, NoReturn, TypeVar

from .casting import ClientInfo, read_address
from .errors import ClientNotFound
from .protocol import Dialect, Hello

Identifier = str | tuple[str, int] | ClientInfo
"""How a client is named: its name, ``"ip:port"``, ``(ip, port)``, or its ClientInfo."""

HEARD_BY_NOBODY, HEARD_BY_MODERN, HEARD_BY_ALL = range(3)
"""Who was told that somebody joined: first those of 2.x, after the ``join`` handler those of 0.x, too."""


class Member:
    """A connected client.

    Args:
        address: ``(ip, port)``.
        hello: how it introduced itself.
    """

    def __init__(self, address: tuple[str, int], hello: Hello) -> None:
        self.dialect: Dialect = hello.dialect
        self.hello = hello
        self.address = address
        self.name = hello.name
        self.group = hello.group
        self.info = ClientInfo(address, hello.name, hello.group)
        """What programs get. It is theirs: what they change in it changes nothing here."""
        self.number = 0
        """Rises in the order of connecting."""
        self.heard_of = HEARD_BY_NOBODY

    def __repr__(self) -> str:
        return f"<member {self.address}, {self.dialect.version}>"

    def described(self) -> dict[str, object]:
        """What others are told."""
        return {"ip": self.address, "name": self.name, "group": self.group}


Some = TypeVar("Some", bound=Member)


class Members(Generic[Some]):
    """The registry. Wherever several members are given, they are in the order of connecting."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._by_address: dict[tuple[str, int], Some] = {}
        self._by_name: dict[str | None, set[Some]] = {}
        self._by_group: dict[str | None, set[Some]] = {}
        self.at = self._by_address.get
        """``at(address)``: who has this address; None: nobody."""

    def __len__(self) -> int:
        return len(self._by_address)

    def __contains__(self, member: Some) -> bool:
        return self._by_address.get(member.address) is member

    def add(self, member: Some, number: int = 0) -> None:
        """Take in who connected. The number is the next one, unless there is one that counts elsewhere, too."""
        member.number = number or next(self._numbers)
        self._by_address[member.address] = member
        self._index(member)

    def remove(self, member: Some) -> bool:
        """Forget who left. Returns whether it was here."""
        if member not in self:
            return False
        del self._by_address[member.address]
        self._unindex(member)
        return True

    def change(self, member: Some, *, name: str | None, group: str | None) -> None:
        """Give a member another name and group. Its old ClientInfo stays as it was."""
        self._unindex(member)
        renewed = ClientInfo(member.address, name, group)
        renewed._socket = member.info._socket
        member.name, member.group, member.info = name, group, renewed
        self._index(member)

    def _index(self, member: Some) -> None:
        self._by_name.setdefault(member.name, set()).add(member)
        self._by_group.setdefault(member.group, set()).add(member)

    def _unindex(self, member: Some) -> None:
        for index, key in ((self._by_name, member.name), (self._by_group, member.group)):
            index[key].discard(member)
            if not index[key]:
                del index[key]

    def all(self) -> list[Some]:
        """Everybody."""
        return list(self._by_address.values())

    def in_group(self, group: str | None) -> list[Some]:
        """Who is in this group; None is no group."""
        return in_order(self._by_group.get(group, ()))

    def has_group(self, group: str | None) -> bool:
        """Whether somebody is in this group."""
        return group in self._by_group

    def find(self, who: object) -> list[Some]:
        """Whom an identifier names: several, if it is a name that several have; at least one.

        Raises:
            ValueError: it is no identifier.
            ClientNotFound: nobody of that name or address is connected.
        """
        address = address_in(who)
        return self.matching(who, address) or not_found(who, address)

    def matching(self, who: object, address: tuple[str, int] | None) -> list[Some]:
        """Likewise, or nobody. The address is the one that the identifier is, if any."""
        if address is not None:
            member = self.at(address)
            return [member] if member is not None else []
        return in_order(self._by_name.get(str(who), ()))


def not_found(who: object, address: tuple[str, int] | None) -> NoReturn:
    """Nobody is named so."""
    shown = f"{address[0]}:{address[1]}" if address is not None else who
    raise ClientNotFound(f"no client {shown!r} is connected (any more); get_all_clients() lists those that are")


def address_in(who: object) -> tuple[str, int] | None:
    """The address that an identifier is; None if it is a name.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(who, ClientInfo):
        return who.ip
    if isinstance(who, str):
        return read_address(who)
    if isinstance(who, dict) and "ip" in who:
        who = who["ip"]
    if isinstance(who, (tuple, list)) and len(who) == 2:
        host, port = who
        if isinstance(host, str) and isinstance(port, int) and not isinstance(port, bool) and 0 <= port <= 65535:
            return host, port
    raise ValueError(f"a client is named by its name, 'ip:port', (ip, port) or its ClientInfo, not by {who!r}")


def in_order(members: Iterable[Some]) -> list[Some]:
    """In the order of connecting."""
    return sorted(members, key=lambda member: member.number)
