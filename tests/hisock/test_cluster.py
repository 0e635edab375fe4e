"""Several servers as one service, over a backplane in memory that fails when a test says so."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from simplesockets.hisock import BackplaneError, ClientInfo, ClientNotFound, GroupNotFound, HiSockServer
from simplesockets.hisock.backplane import Entry, Row, unpack
from simplesockets.hisock.groups import Identifier
from simplesockets.hisock.neighbours import Neighbours, Remote
from simplesockets.timing import Deadline

from ..support.backplane import MemoryBackplane, MemoryLog, cluster_of, wait_met
from ..support.waiting import PATIENCE, Gate, wait_until
from .running import Notes, RawClient, names, server, wait_names

JOINED, LEFT = b"$CLTCONN$", b"$CLTDISCONN$"
DIALECTS = pytest.mark.parametrize("dialect", ["2.x", "0.x"])


class Nodes:
    """Two servers that met, and their ways to the log."""

    def __init__(
        self, log: MemoryLog, here: HiSockServer, there: HiSockServer, ways: Sequence[MemoryBackplane]
    ) -> None:
        self.log = log
        self.here = here
        self.there = there
        self.way, self.way_there = ways


@contextlib.contextmanager
def two_nodes(lease: float = 30.0, max_outbox: int = 1 << 20) -> Iterator[Nodes]:
    log = MemoryLog()
    ways = [MemoryBackplane(log, lease, max_outbox) for _ in range(2)]
    with server(backplane=ways[0]) as here, server(backplane=ways[1]) as there:
        wait_met(here, there)
        yield Nodes(log, here, there, ways)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with two_nodes() as made:
        yield made


def wait_both(nodes: Nodes, *expected: str | None) -> None:
    """Wait until both nodes know that exactly these are connected."""
    wait_names(nodes.here, *expected)
    wait_names(nodes.there, *expected)


def wait_announced(nodes: Nodes, count: int) -> None:
    """Wait until so many clients are ``there`` of whom everybody was told."""
    others = cluster_of(nodes.here)._others
    wait_until(lambda: [each.heard_of for each in others.all(()) if isinstance(each, Remote)] == [2] * count)


def told_to_ann(nodes: Nodes, ann: RawClient, count: int) -> list[tuple[bytes, str]]:
    """Of whom else she is told, and what: so often, or more often than that."""
    told: list[tuple[bytes, str]] = []

    def note(body: bytes) -> None:
        word, _, about = body.partition(b"{")
        if word.strip() in (JOINED, LEFT) and (name := json.loads(b"{" + about)["name"]) != "ann":
            told.append((word.strip(), name))

    while len(told) < count:
        note(ann.read_body())
    nodes.here.send_client("ann", "end")
    while b"end" not in (body := ann.read_body()):
        note(body)
    return told


# --------------------------------------------------------------------------------------------------------- sending


@DIALECTS
@pytest.mark.parametrize("how", ["all", "group", "name", "address", "info", "text"])
def test_a_message_reaches_a_client_of_another_node(nodes: Nodes, dialect: str, how: str) -> None:
    with RawClient(nodes.there.get_addr(), "ann", "red", dialect=dialect) as ann:
        wait_names(nodes.here, "ann")
        info = nodes.here.get_client("ann")
        for number in range(20):
            if how == "all":
                nodes.here.send_all_clients("n", number)
            elif how == "group":
                nodes.here.send_group("red", "n", number)
            else:
                forms: dict[str, Identifier] = {"name": "ann", "address": info.ip, "info": info, "text": info.ipstr}
                nodes.here.send_client(forms[how], "n", number)
        assert [ann.read_command("n") for _ in range(20)] == [b"%d" % number for number in range(20)]


def test_a_client_info_names_whom_it_describes_where_two_nodes_have_its_address(nodes: Nodes) -> None:
    with RawClient(nodes.here.get_addr(), "ann"):
        wait_both(nodes, "ann")
        ann, cluster = nodes.here.get_client("ann"), nodes.here.cluster
        assert cluster is not None
        with nodes.here._lock:
            cluster._others.join(cluster.nodes[0], Row(*ann.ip, 1, "bob", None, True, 2))
        assert nodes.here.get_client(ClientInfo(ann.ip, "bob")).name == "bob"
        assert nodes.here.get_client(ann).name == "ann"


@DIALECTS
@pytest.mark.parametrize("how", ["send_all_clients_raw", "send_group_raw", "send_client_raw"])
def test_raw_content_reaches_a_client_of_another_node_as_it_is(nodes: Nodes, dialect: str, how: str) -> None:
    with RawClient(nodes.there.get_addr(), "ann", "red", dialect=dialect) as ann:
        wait_names(nodes.here, "ann")
        target = {"send_all_clients_raw": (), "send_group_raw": ("red",), "send_client_raw": ("ann",)}[how]
        getattr(nodes.here, how)(*target, b"\n\xff\x00 raw")
        assert ann.read_until(lambda body: b"raw" in body) == b"\n\xff\x00 raw"


def test_everybody_meant_gets_a_message_once_and_nobody_else_does(nodes: Nodes) -> None:
    with contextlib.ExitStack() as stack:
        clients = {}
        for where in (nodes.here, nodes.there):
            for group in ("red", "blue"):
                for dialect in ("2.x", "0.x"):
                    raw = stack.enter_context(RawClient(where.get_addr(), "x", group, dialect=dialect))
                    clients[raw] = group
        wait_both(nodes, *["x"] * 8)
        nodes.here.send_group("red", "m", "to red")
        nodes.there.send_group("blue", "m", "to blue")
        for where in (nodes.here, nodes.there):
            where.send_all_clients("m", "to all")
        for raw, group in clients.items():
            got = sorted(raw.read_command("m") for _ in range(3))
            assert got == [b"to all", b"to all", f"to {group}".encode()]
        nodes.here.disconnect_all_clients(force=True)
        for raw in clients:
            assert b"m" not in _commands_until_end(raw)


def _commands_until_end(raw: RawClient) -> list[bytes]:
    found = []
    with contextlib.suppress(AssertionError, ConnectionError):
        while True:
            body = raw.read_body()
            found += [b"m"] if b"to " in body else []
    return found


def test_what_is_for_clients_of_this_node_is_not_published(nodes: Nodes) -> None:
    with RawClient(nodes.here.get_addr(), "ann", "red") as ann, RawClient(nodes.there.get_addr(), "bob", "blue"):
        wait_both(nodes, "ann", "bob")
        nodes.here.send_group("red", "m", "1")
        nodes.here.send_client("ann", "m", "2")
        assert [ann.read_command("m") for _ in range(2)] == [b"1", b"2"]
        assert cluster_of(nodes.here).published + cluster_of(nodes.here).waiting == 0


def test_nobody_anywhere_is_an_error(nodes: Nodes) -> None:
    with pytest.raises(GroupNotFound):
        nodes.here.send_group("red", "m")
    with pytest.raises(GroupNotFound):
        nodes.here.get_group("red")
    for call in (nodes.here.get_client, nodes.here.disconnect_client, lambda who: nodes.here.send_client(who, "m")):
        with pytest.raises(ClientNotFound):
            call("ann")


def test_after_closing_nobody_is_there(nodes: Nodes) -> None:
    with RawClient(nodes.there.get_addr(), "bob", "red"):
        wait_names(nodes.here, "bob")
        nodes.here.close()
        assert names(nodes.here) == []
        with pytest.raises(ClientNotFound):
            nodes.here.send_client("bob", "m")
        with pytest.raises(GroupNotFound):
            nodes.here.send_group("red", "m")
        nodes.here.send_all_clients("m")
        assert cluster_of(nodes.here).dropped == 0


def test_too_long_for_the_header_reaches_nobody(nodes: Nodes) -> None:
    with RawClient(nodes.there.get_addr(), "ann") as ann:
        wait_names(nodes.here, "ann")
        nodes.here._writer.limit = 100
        with pytest.raises(ValueError, match="100"):
            nodes.here.send_client("ann", "m", b"x" * 101)
        nodes.here.send_client("ann", "m", b"short")
        assert ann.read_command("m") == b"short"


# ------------------------------------------------------------------------------------------------------ looking up


def test_lookups_are_over_all_nodes_and_in_one_order(nodes: Nodes) -> None:
    with contextlib.ExitStack() as stack:
        for number, where in enumerate([nodes.here, nodes.there, nodes.here, nodes.there]):
            stack.enter_context(RawClient(where.get_addr(), f"c{number}", "red"))
            wait_both(nodes, *[f"c{each}" for each in range(number + 1)])
        expected = [f"c{each}" for each in range(4)]
        for where in (nodes.here, nodes.there):
            assert where.get_all_clients("name") == expected
            assert [info.name for info in where.get_group("red")] == expected
            assert where.get_all_clients(lambda info: info.name == "c1") == [where.get_client("c1")]
            assert len(where) == 2


@DIALECTS
def test_a_client_looks_up_one_of_another_node(nodes: Nodes, dialect: str) -> None:
    with RawClient(nodes.here.get_addr(), "ann", dialect=dialect) as ann, RawClient(nodes.there.get_addr(), "bob"):
        wait_both(nodes, "ann", "bob")
        host, port = nodes.here.get_client("bob").ip
        for who in ("bob", f"{host}:{port}", f"('{host}', {port})"):
            ann.send_reserved(b"$GETCLT$", who.encode())
            answer = ann.read_until(lambda body: b'"name": "bob"' in body and not body.startswith(JOINED))
            assert json.loads(answer.removeprefix(b"$CMD$$MSG$")) == {"ip": [host, port], "name": "bob", "group": None}


def test_of_two_with_one_name_the_first_to_have_connected_is_meant_everywhere(nodes: Nodes) -> None:
    with RawClient(nodes.there.get_addr(), "ann", "first"):
        wait_both(nodes, "ann")
        with RawClient(nodes.here.get_addr(), "ann", "second"):
            wait_both(nodes, "ann", "ann")
            for where in (nodes.here, nodes.there):
                with pytest.warns(UserWarning, match="2 clients are called"):
                    assert where.get_client("ann").group == "first"


def test_another_name_and_group_count_everywhere(nodes: Nodes) -> None:
    with RawClient(nodes.there.get_addr(), "ann", "red") as ann:
        wait_both(nodes, "ann")
        ann.send_reserved(b"$CHNAME$", b"eve")
        ann.send_reserved(b"$CHGROUP$", b"blue")
        wait_both(nodes, "eve")
        wait_until(lambda: nodes.here.get_client("eve").group == "blue")
        nodes.here.send_group("blue", "m", "1")
        assert ann.read_command("m") == b"1"
        with pytest.raises(GroupNotFound):
            nodes.here.send_group("red", "m")


def test_a_node_that_comes_later_knows_everybody(nodes: Nodes) -> None:
    with RawClient(nodes.here.get_addr(), "ann"), RawClient(nodes.there.get_addr(), "bob"):
        wait_both(nodes, "ann", "bob")
        with server(backplane=MemoryBackplane(nodes.log)) as late:
            wait_names(late, "ann", "bob")
            with RawClient(late.get_addr(), "eve"):
                wait_both(nodes, "ann", "bob", "eve")


# --------------------------------------------------------------------------------------------------------- notices


@DIALECTS
def test_clients_hear_who_joins_and_leaves_at_another_node(nodes: Nodes, dialect: str) -> None:
    with RawClient(nodes.here.get_addr(), "ann", dialect=dialect) as ann:
        wait_both(nodes, "ann")
        if dialect == "2.x":
            assert ann.read_notice(JOINED)["name"] == "ann"
        for name in ("bob", "eve"):
            with RawClient(nodes.there.get_addr(), name, "red") as raw:
                described = {"ip": list(raw.address), "name": name, "group": "red"}
                assert ann.read_notice(JOINED) == described
            assert ann.read_notice(LEFT) == described


@DIALECTS
def test_when_a_node_is_closed_its_clients_leave_once(nodes: Nodes, dialect: str) -> None:
    with RawClient(nodes.here.get_addr(), "ann", dialect=dialect) as ann:
        wait_both(nodes, "ann")
        with RawClient(nodes.there.get_addr(), "bob"), RawClient(nodes.there.get_addr(), "eve"):
            wait_both(nodes, "ann", "bob", "eve")
            wait_announced(nodes, 2)
            nodes.there.close()
            wait_names(nodes.here, "ann")
        assert sorted(told_to_ann(nodes, ann, 4)) == [
            (JOINED, "bob"), (JOINED, "eve"), (LEFT, "bob"), (LEFT, "eve")
        ]  # fmt: skip


def test_clients_of_0_hear_of_it_once_its_join_handler_ran(nodes: Nodes) -> None:
    gate = Gate()
    nodes.there.on("join")(lambda client: gate.arrive() if client.name == "bob" else None)
    with (
        RawClient(nodes.here.get_addr(), "old", dialect="0.x") as old,
        RawClient(nodes.here.get_addr(), "modern") as modern,
    ):
        wait_both(nodes, "old", "modern")
        with RawClient(nodes.there.get_addr(), "bob") as bob:
            modern.read_until(lambda body: b'"bob"' in body)
            gate.wait_arrived()
            nodes.there.send_client("old", "m", "while it runs")
            assert b"while it runs" in old.read_until(lambda body: b"modern" not in body)
            gate.open()
            assert old.read_notice(JOINED)["ip"] == list(bob.address)


def test_handlers_run_on_the_node_of_the_client_only(nodes: Nodes) -> None:
    here, there = Notes(), Notes()
    for where, notes in ((nodes.here, here), (nodes.there, there)):
        for word in ("join", "leave"):
            where.on(word)(lambda client, notes=notes, word=word: notes(word, client.name))
    with RawClient(nodes.there.get_addr(), "ann"):
        wait_both(nodes, "ann")
    wait_both(nodes)
    assert there.wait(2) == [("join", "ann"), ("leave", "ann")]
    assert here.all == []


# --------------------------------------------------------------------------------------------------- disconnecting


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("call_func", [False, True])
def test_a_client_of_another_node_is_disconnected(nodes: Nodes, force: bool, call_func: bool) -> None:
    left = Notes()
    nodes.there.on("leave")(lambda client: left(client.name))
    with RawClient(nodes.there.get_addr(), "ann") as ann:
        wait_names(nodes.here, "ann")
        assert ann.read_notice(JOINED)["name"] == "ann"
        nodes.here.send_client("ann", "last")
        nodes.here.disconnect_client("ann", force=force, call_func=call_func)
        assert ann.read_body() == b"$CMD$last$MSG$"
        if not force:
            assert ann.read_body() == b"$DISCONN$"
        assert ann.at_end()
    wait_both(nodes)
    if call_func:
        left.wait(1)
    assert left.all == ["ann"] * call_func


def test_disconnecting_everybody_is_over_all_nodes(nodes: Nodes) -> None:
    with RawClient(nodes.here.get_addr(), "ann") as ann, RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_both(nodes, "ann", "bob")
        nodes.here.disconnect_all_clients()
        for raw in (ann, bob):
            raw.read_until(lambda body: body == b"$DISCONN$")
            assert raw.at_end()
    wait_both(nodes)


def test_closing_a_node_disconnects_its_own_clients_only(nodes: Nodes) -> None:
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        nodes.here.close()
        wait_until(lambda: not cluster_of(nodes.there).nodes)
        nodes.there.send_client("bob", "m", "1")
        assert bob.read_command("m") == b"1"


# -------------------------------------------------------------------------------------------- an absent backplane


def test_nobody_waits_for_the_backplane(nodes: Nodes) -> None:
    gate = Gate()
    with RawClient(nodes.there.get_addr(), "bob", "red") as bob, RawClient(nodes.here.get_addr(), "ann", "red") as ann:
        wait_both(nodes, "ann", "bob")
        nodes.way.before_append = gate
        try:
            for number in range(100):
                nodes.here.send_group("red", "m", number)
            assert [ann.read_command("m") for _ in range(100)][-1] == b"99"
            assert cluster_of(nodes.here).waiting == 100
        finally:
            gate.open()
        assert [bob.read_command("m") for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_what_was_sent_meanwhile_comes_afterwards_once_and_in_order(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "simplesockets")
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        nodes.log.leave()
        wait_until(lambda: not cluster_of(nodes.here).connected)
        for number in range(50):
            nodes.here.send_client("bob", "m", number)
        nodes.log.come_back()
        assert [bob.read_command("m") for _ in range(50)] == [b"%d" % number for number in range(50)]
        wait_until(lambda: "the backplane is back, to publish" in caplog.text)
    failures = [record.exception for record in cluster_of(nodes.here).return_exceptions()]
    assert {type(each) for each in failures} == {BackplaneError}
    assert (cluster_of(nodes.here).dropped, cluster_of(nodes.there).missed) == (0, 0)


def test_what_was_appended_without_an_answer_is_not_delivered_twice(nodes: Nodes) -> None:
    def fail(_: object) -> None:
        nodes.way.after_append = lambda _: None
        raise BackplaneError("the answer was lost")

    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        nodes.way.after_append = fail
        nodes.here.send_client("bob", "m", "once")
        wait_until(lambda: cluster_of(nodes.here).published == 1)
        nodes.here.send_client("bob", "m", "next")
        assert [bob.read_command("m") for _ in range(2)] == [b"once", b"next"]
        assert nodes.log.kinds(cluster_of(nodes.here).node).count("send") == 3
        assert cluster_of(nodes.there).received == 2


def test_too_much_for_the_outbox_drops_the_oldest_and_both_sides_count_it(caplog: pytest.LogCaptureFixture) -> None:
    with two_nodes(max_outbox=10_000) as nodes, RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        nodes.log.leave()
        wait_until(lambda: not cluster_of(nodes.here).connected)
        for number in range(20):
            nodes.here.send_client("bob", "m", b"%02d" % number + bytes(798))  # each counts for a thousand
        assert cluster_of(nodes.here).dropped == 10
        nodes.log.come_back()
        assert [bob.read_command("m")[:2] for _ in range(10)] == [b"%d" % number for number in range(10, 20)]
        assert cluster_of(nodes.there).missed == 10
        wait_until(lambda: "10 messages for clients of other nodes were dropped" in caplog.text)
        assert "10 messages of the node" in caplog.text
        assert "were dropped" in str(list(cluster_of(nodes.here).return_exceptions()))


def test_what_the_log_lost_is_counted_exactly() -> None:
    gate = Gate()
    with two_nodes(lease=2.0) as nodes, RawClient(nodes.there.get_addr(), "bob") as bob:  # so it is noticed soon
        wait_names(nodes.here, "bob")
        nodes.way_there.before_read = gate
        nodes.here.send_client("bob", "m", "first")
        gate.wait_arrived()
        for number in range(7):
            nodes.here.send_client("bob", "m", number)
        wait_until(lambda: cluster_of(nodes.here).waiting == 0)
        nodes.log.leave()
        nodes.log.come_back(keep=False)
        gate.open()
        wait_until(lambda: cluster_of(nodes.there).missed)
        nodes.here.send_client("bob", "m", "last")
        assert bob.read_until(lambda body: b"last" in body)
        there = cluster_of(nodes.there)
        assert there.received + there.missed == cluster_of(nodes.here).published == 9


@DIALECTS
def test_who_came_and_went_meanwhile_is_told_once_afterwards(nodes: Nodes, dialect: str) -> None:
    with RawClient(nodes.here.get_addr(), "ann", dialect=dialect) as ann:
        wait_both(nodes, "ann")
        leaves = RawClient(nodes.there.get_addr(), "leaves")
        wait_both(nodes, "ann", "leaves")
        wait_announced(nodes, 1)
        nodes.log.leave()
        wait_until(lambda: not cluster_of(nodes.there).connected)
        leaves.socket.close()
        # its leaving is on the way then, and will be said; what happens from now on waits
        wait_until(lambda: cluster_of(nodes.there)._exchange._writing.end is None)
        with RawClient(nodes.there.get_addr(), "passes"):
            wait_until(lambda: len(nodes.there) == 1)
        wait_until(lambda: len(nodes.there) == 0)
        with RawClient(nodes.there.get_addr(), "comes"):
            wait_until(lambda: len(nodes.there) == 1)
            assert "leaves" in names(nodes.here), "nobody knows better while the backplane is away"
            nodes.log.come_back()
            wait_both(nodes, "ann", "comes")
            told = told_to_ann(nodes, ann, 3)
    assert told == [(JOINED, "leaves"), (LEFT, "leaves"), (JOINED, "comes")]


def test_the_clients_of_a_node_that_says_nothing_are_gone_and_come_back_with_it() -> None:
    gate = Gate()
    with two_nodes(lease=1.0) as nodes, RawClient(nodes.here.get_addr(), "ann") as ann:
        wait_both(nodes, "ann")
        with RawClient(nodes.there.get_addr(), "bob"):
            wait_both(nodes, "ann", "bob")
            wait_announced(nodes, 1)
            nodes.way_there.before_append = gate
            try:
                wait_names(nodes.here, "ann")
                with pytest.raises(ClientNotFound):
                    nodes.here.send_client("bob", "m")
            finally:
                gate.open()
            wait_names(nodes.here, "ann", "bob")
            assert told_to_ann(nodes, ann, 3) == [(JOINED, "bob"), (LEFT, "bob"), (JOINED, "bob")]


def test_a_node_that_is_quiet_keeps_its_clients() -> None:
    with two_nodes(lease=0.4) as nodes, RawClient(nodes.there.get_addr(), "bob"):
        wait_names(nodes.here, "bob")
        there = cluster_of(nodes.there).node
        told = nodes.log.kinds(there).count("beat")
        known = []

        def look() -> bool:
            known.append(names(nodes.here))
            return nodes.log.kinds(there).count("beat") > told + 8

        wait_until(look)
        assert known == [["bob"]] * len(known)


def test_a_question_is_put_behind_the_state_and_not_left_out_for_it(nodes: Nodes) -> None:
    gate = Gate()
    here = cluster_of(nodes.here)
    nodes.way.before_append = gate
    here._exchange.announce()
    gate.wait_arrived()
    here._exchange.post("ask", "somebody")
    here._exchange.announce()
    gate.open()
    wait_until(lambda: nodes.log.kinds(here.node)[-2:] == ["state", "ask"])


def test_a_question_that_is_not_answered_is_asked_again() -> None:
    others = Neighbours(silence=9.0)
    assert [others.note(_told("node", seq), now, 0.0).ask for seq, now in enumerate([1.0, 2.0, 9.0, 11.0, 12.0])] == [
        True, False, False, True, False
    ]  # fmt: skip
    others.replace("node", [])
    assert not others.note(_told("node", 5), 30.0, 0.0).ask


def test_nobody_is_taken_for_dead_while_nothing_can_be_appended() -> None:
    def refuse(_: object) -> None:
        refused.set()
        raise BackplaneError("OOM command not allowed")

    with two_nodes(lease=0.6) as nodes, RawClient(nodes.there.get_addr(), "bob", "red") as bob:
        wait_names(nodes.here, "bob")
        refused = threading.Event()
        nodes.way.before_append = nodes.way_there.before_append = refuse
        nodes.here.send_group("red", "m", "1")
        assert refused.wait(PATIENCE)
        looked = Notes()
        nodes.way.before_read = lambda: looked("a look")
        looked.wait(12)  # which is longer than the lease, as nothing comes
        nodes.here.send_group("red", "m", "2")
        nodes.way.before_append = nodes.way_there.before_append = lambda _: None
        assert [bob.read_command("m") for _ in range(2)] == [b"1", b"2"]
        assert names(nodes.here) == ["bob"]


def _told(node: str, seq: int) -> Entry:
    return Entry(node, seq, 0, "beat", [])


def test_who_was_silent_only_while_the_log_was_is_alive() -> None:
    others = Neighbours(silence=9.0)
    for seq, (now, at) in enumerate([(0.0, 1000.0), (5.0, 1005.0)], 1):
        for node in ("quick", "slow"):
            others.note(_told(node, seq), now, at)
    others.note(_told("quick", 3), 65.0, 1065.0)  # the log was away for a minute, and there is more to read
    assert others.silent(False, 1065.0) == []
    others.note(_told("quick", 4), 66.0, 1073.0)
    assert others.silent(False, 1073.0) == []
    others.note(_told("quick", 5), 67.0, 1075.0)
    assert others.silent(False, 1075.0) == ["slow"]


# --------------------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'["x",1,0,"unknown",[]]',
        b'["x",1,0,["beat"],[]]',
        b'["x",1,0,"send",[[],null]]',
        b'["x",1,0,"send",[["client",1],null]]',
        b'["x",1,0,"send",[["client","%b","h"],null]]',
        b'["x",1,0,"state",[false,[[1,2]]]]',
        b'["x","1",0,"beat",[]]',
        b'["x",1,0,"told",["h",1,2]]',
        b'["x",1,0,"send",[["group",["unhashable"]],"m"]]',
    ],
)
def test_an_entry_of_no_use_is_left_out(nodes: Nodes, entry: bytes) -> None:
    entry = entry.replace(b"%b", cluster_of(nodes.there).node.encode())
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        nodes.log.append(nodes.log.connect(), [entry])
        nodes.here.send_client("bob", "m", "1")
        assert bob.read_command("m") == b"1"


@pytest.mark.parametrize("side", ["before_append", "before_read"])
def test_a_backplane_that_breaks_in_any_way_is_tried_again(nodes: Nodes, side: str) -> None:
    def fail(*_: object) -> None:
        setattr(nodes.way, side, lambda *_: None)
        raise ValueError("this answer makes no sense")

    with RawClient(nodes.here.get_addr(), "ann") as ann:
        wait_both(nodes, "ann")
        setattr(nodes.way, side, fail)
        nodes.there.send_client("ann", "m", "1")
        cluster_of(nodes.here)._exchange.announce()
        assert ann.read_command("m") == b"1"
        wait_until(lambda: "makes no sense" in str(list(cluster_of(nodes.here).return_exceptions())))
        nodes.there.send_client("ann", "m", "2")
        assert ann.read_command("m") == b"2"


def test_entries_survive_packing() -> None:
    entry = Entry("node", 3, 2, "send", [["group", "ünï\n"], "\ud800"], b"\n\x00")
    assert unpack(entry.packed()) == entry


# --------------------------------------------------------------------------------------------------------- closing


def test_closing_says_what_could_not_be_published(caplog: pytest.LogCaptureFixture) -> None:
    with two_nodes() as nodes, RawClient(nodes.there.get_addr(), "bob"):
        wait_names(nodes.here, "bob")
        nodes.log.leave()
        wait_until(lambda: not cluster_of(nodes.here).connected)
        for number in range(3):
            nodes.here.send_client("bob", "m", number)
        nodes.here.close()
        assert cluster_of(nodes.here).dropped == 3
        assert "3 messages for clients of other nodes were dropped" in caplog.text


def test_what_was_sent_before_closing_is_published(nodes: Nodes) -> None:
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        for number in range(1000):
            nodes.here.send_client("bob", "m", number)
        nodes.here.close()
        assert [bob.read_command("m") for _ in range(1000)] == [b"%d" % number for number in range(1000)]


def test_closing_in_a_handler_ends_both_threads(nodes: Nodes) -> None:
    nodes.there.on("end")(lambda: nodes.there.close())
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        bob.send_command("end")
        assert bob.at_end()
    wait_names(nodes.here)


def test_closing_in_a_signal_handler_says_goodbye_once_the_interrupted_code_goes_on(nodes: Nodes) -> None:
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        began = time.monotonic()
        with nodes.here._lock:  # as the interrupted code may do, and the thread of the handler is the same
            nodes.here.send_client("bob", "m", "last")
            nodes.here.close(timeout=PATIENCE)
            cluster_of(nodes.here).send(("all",), "m", b"after the end")
        assert time.monotonic() - began < PATIENCE / 3
        assert bob.read_command("m") == b"last"
        wait_until(lambda: not cluster_of(nodes.there).nodes)
        nodes.here.close()
        assert cluster_of(nodes.here).dropped == 1


def test_of_two_who_close_the_first_decides_how_long_to_wait(nodes: Nodes) -> None:
    gate = Gate()
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        nodes.way.before_append = gate
        nodes.here.send_client("bob", "m", "first")
        gate.wait_arrived()
        nodes.here.send_client("bob", "m", "second")
        cluster = cluster_of(nodes.here)
        patient = threading.Thread(target=cluster.close, args=(Deadline(PATIENCE, time.monotonic()),))
        patient.start()
        wait_until(lambda: cluster._exchange._closing)
        assert cluster.close(Deadline(0.02, time.monotonic())) == []
        gate.open()
        patient.join(PATIENCE)
        assert [bob.read_command("m") for _ in range(2)] == [b"first", b"second"]
        assert cluster.dropped == 0


def test_closing_before_anything_could_be_read_waits_for_nothing() -> None:
    away = MemoryBackplane(MemoryLog())
    away.reader = MemoryBackplane(refusing := MemoryLog()).reader  # type: ignore[method-assign]
    refusing.leave()
    with server(backplane=away) as here:
        began = time.monotonic()
        here.close(timeout=PATIENCE)
        assert time.monotonic() - began < PATIENCE / 20


def test_closing_does_not_wait_for_more_to_read(nodes: Nodes) -> None:
    gate = Gate()
    nodes.way.after_append = lambda entries: gate() if unpack(entries[-1]).kind == "bye" else None
    closing = threading.Thread(target=nodes.here.close, args=(PATIENCE,))
    closing.start()
    gate.wait_arrived()
    exchange = cluster_of(nodes.here)._exchange
    wait_until(lambda: exchange._echoed == exchange._seq)  # it read the farewell, and reads on
    began = time.monotonic()
    gate.open()
    closing.join(PATIENCE)
    assert time.monotonic() - began < PATIENCE / 10


def test_closing_does_not_wait_for_a_backplane_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with two_nodes() as nodes:
        nodes.way.before_append = gate
        nodes.here.send_all_clients("wakes nobody")
        cluster_of(nodes.here)._exchange.announce()
        gate.wait_arrived()
        try:
            nodes.here.close(timeout=1.0)
            assert "wait for the backplane" in caplog.text
        finally:
            gate.open()


def test_nodes_that_come_and_go_at_once_leave_nothing() -> None:
    log = MemoryLog()
    threads = [
        threading.Thread(target=HiSockServer(("127.0.0.1", 0), backplane=MemoryBackplane(log)).close) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


@pytest.mark.parametrize("given", [5, b"redis://localhost", True, object()])
def test_what_is_no_backplane_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match="backplane"):
        HiSockServer(("127.0.0.1", 0), backplane=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["", "localhost:6379", "http://localhost", "redis://"])
def test_what_is_no_url_of_redis_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="backplane"):
        HiSockServer(("127.0.0.1", 0), backplane=given)


def test_a_node_appends_no_faster_than_it_reads(nodes: Nodes) -> None:
    gate = Gate()
    nodes.way.window = 10
    with RawClient(nodes.there.get_addr(), "bob") as bob:
        wait_names(nodes.here, "bob")
        nodes.way.before_read = gate
        nodes.there.send_all_clients("m", "wakes the reader")
        nodes.here.send_client("bob", "m", "first")
        gate.wait_arrived()
        for number in range(100):
            nodes.here.send_client("bob", "m", number)
        try:
            assert bob.read_until(lambda body: body.endswith(b"$3"))
            assert cluster_of(nodes.here).waiting >= 90
        finally:
            gate.open()
        assert bob.read_until(lambda body: body.endswith(b"$99"))
