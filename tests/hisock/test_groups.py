"""The registry of members: by address, name and group, always in the order of connecting."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from simplesockets.hisock.casting import ClientInfo
from simplesockets.hisock.errors import ClientNotFound
from simplesockets.hisock.groups import Member, Members
from simplesockets.hisock.protocol import MODERN, Hello

NAMES = st.sampled_from([None, "Ann", "Bob", "127.0.0.1"])
GROUPS = st.sampled_from([None, "red", "blue"])
PORTS = st.integers(1, 12)


def member(port: int, name: str | None = None, group: str | None = None) -> Member:
    return Member(("127.0.0.1", port), Hello(MODERN, name, group))


class Registry(RuleBasedStateMachine):
    """The registry does what a plain list would."""

    def __init__(self) -> None:
        super().__init__()
        self.members: Members[Member] = Members()
        self.model: list[Member] = []

    @rule(port=PORTS, name=NAMES, group=GROUPS)
    def join(self, port: int, name: str | None, group: str | None) -> None:
        if self.members.at(("127.0.0.1", port)) is None:
            new = member(port, name, group)
            self.members.add(new)
            self.model.append(new)

    @rule(port=PORTS)
    def leave(self, port: int) -> None:
        gone = self.members.at(("127.0.0.1", port))
        if gone is not None:
            assert self.members.remove(gone)
            assert not self.members.remove(gone)
            self.model.remove(gone)

    @rule(port=PORTS, name=NAMES, group=GROUPS)
    def change(self, port: int, name: str | None, group: str | None) -> None:
        changed = self.members.at(("127.0.0.1", port))
        if changed is not None:
            before = changed.info
            kept = dict(before)
            self.members.change(changed, name=name, group=group)
            assert before == kept
            assert (changed.info.name, changed.info.group) == (name, group)

    @invariant()
    def agrees(self) -> None:
        assert self.members.all() == self.model
        assert len(self.members) == len(self.model)
        for group in (None, "red", "blue"):
            assert self.members.in_group(group) == [each for each in self.model if each.info.group == group]
        for name in ("Ann", "Bob", "127.0.0.1"):
            named = [each for each in self.model if each.info.name == name]
            try:
                assert self.members.find(name) == named
            except ClientNotFound:
                assert named == []
        for each in self.model:
            for who in (each.info.ip, tuple(each.info.ip), str(each.info.ip), each.info, dict(each.info)):
                assert self.members.find(who) == [each]


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


@pytest.mark.parametrize("who", ["Nobody", "127.0.0.1:9", ("127.0.0.1", 9), ClientInfo(("127.0.0.1", 9))])
def test_who_is_not_connected_is_not_found(who: object) -> None:
    members: Members[Member] = Members()
    members.add(member(1))
    with pytest.raises(ClientNotFound, match=r"Nobody|127\.0\.0\.1:9"):
        members.find(who)


@pytest.mark.parametrize(
    "who",
    [None, 5, b"Ann", (), ("127.0.0.1",), ("127.0.0.1", "5"), ("127.0.0.1", -1), ("x", True), {}, "127.0.0.1:70000"],
)
def test_what_names_nobody_is_refused(who: object) -> None:
    with pytest.raises(ValueError, match=r"port|named by"):
        Members[Member]().find(who)
