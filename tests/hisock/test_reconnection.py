"""HiSock clients that come back: name, group and handlers stay, and who waits for an answer learns that it is lost."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from simplesockets import Reconnect
from simplesockets.hisock import ClientInfo, HiSockClient, HiSockServer, ServerNotRunning, connect, threaded_connect

from ..support.programs import free_port
from ..support.running import HOST, raw_listener
from ..support.waiting import PATIENCE, Gate, wait_until
from .running import Notes, client, framed, looping, pass_until, server, wait_in_recv, wait_names

QUICK = Reconnect(first=0.001, most=0.002)
"""Pauses that a test does not notice."""
SLOW = Reconnect(first=3600.0, most=3600.0)
"""A pause that no test sees the end of."""


def drop_everybody(of: HiSockServer) -> None:
    """End all connections without a word, as a network does that breaks."""
    entries = list(of._tcp.clients.values())
    for entry in entries:
        entry._connection.stream.cut()
    addresses = {entry.address for entry in entries}
    wait_until(lambda: addresses.isdisjoint(each.ip for each in of.get_all_clients()), "the server to notice")


def threads() -> list[threading.Thread]:
    """The threads that reconnect."""
    return [thread for thread in threading.enumerate() if thread.name.endswith("-reconnect")]


def asking(end: HiSockClient, *arguments: Any, look_up: bool = False) -> tuple[threading.Thread, list[object]]:
    """A thread that waits in ``recv`` (or for the answer to a look-up); gives it, and the list for what it gets."""
    got: list[object] = []

    def ask() -> None:
        try:
            got.append(end.get_client(*arguments) if look_up else end.recv(*arguments))
        except ServerNotRunning as failure:
            got.append(str(failure))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, got


class Scripted:
    """A server that only listens, so that the test says when it answers what."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.address: tuple[str, int] = listener.getsockname()
        self.accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        """The next client, after its hello."""
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        self.accepted.append(sock)
        self.body(sock)
        return sock

    def body(self, sock: socket.socket) -> bytes:
        """The next body that a client sent."""
        with sock.makefile("rb", buffering=0) as reader:
            body: bytes = reader.read(int(reader.read(16)))
            return body


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with raw_listener() as listener:
        made = Scripted(listener)
        yield made
        for sock in made.accepted:
            sock.close()


# ------------------------------------------------------------------------------------------------------ coming back


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_name_group_and_handlers_stay(dialect: str) -> None:
    notes = Notes()
    with server() as serving, client(serving, "Ann", "red", dialect=dialect, reconnect=QUICK) as ann:
        ann.on("news")(lambda news: notes(news))
        wait_names(serving, "Ann")
        for number in range(3):
            before = ann.get_client_addr()
            drop_everybody(serving)
            wait_until(lambda before=before: ann.connected and ann.get_client_addr() != before)  # type: ignore[misc]
            wait_until(lambda: serving.get_all_clients("ip") == [ann.get_client_addr()])
            assert [each.name for each in serving.get_group("red")] == ["Ann"]
            serving.send_client("Ann", "news", str(number))
            notes.wait(number + 1)
        assert notes.all == [b"0", b"1", b"2"]


def test_a_server_that_is_started_again_gets_its_clients_back() -> None:
    with server() as first, client(first, "Ann", reconnect=QUICK) as ann:
        wait_names(first, "Ann")
        first.close()
        wait_until(lambda: ann.reconnecting)
        assert not ann.connected
        assert "reconnecting" in repr(ann)
        second = HiSockServer(first.get_addr())
        with looping(second):
            wait_names(second, "Ann")
            wait_until(lambda: ann.connected)
            assert not ann.reconnecting
            assert ann.get_client("Ann", timeout=PATIENCE).name == "Ann"


def test_a_new_name_and_group_are_announced_again() -> None:
    with server() as serving, client(serving, "Ann", "red", reconnect=QUICK) as ann:
        wait_names(serving, "Ann")
        ann.change_name("Beth")
        ann.change_group("blue")
        wait_names(serving, "Beth")
        before = ann.get_client_addr()
        drop_everybody(serving)
        wait_until(lambda: ann.connected and ann.get_client_addr() != before)
        assert ann.get_client("Beth", timeout=PATIENCE) == ClientInfo(ann.get_client_addr(), "Beth", "blue")


def test_on_reconnect_runs_in_the_loop_between_what_came_before_and_after(scripted: Scripted) -> None:
    notes = Notes()
    ann = connect(scripted.address, reconnect=QUICK, on_reconnect=lambda: notes(("back", threading.get_ident())))
    try:
        ann.on("news")(lambda news: notes((news, threading.get_ident())))
        first = scripted.accept()
        first.sendall(framed(b"$CMD$news$MSG$before"))
        first.close()
        second = scripted.accept()
        second.sendall(framed(b"$CMD$news$MSG$after"))
        pass_until(ann.update, lambda: len(notes.all) == 3)
        here = threading.get_ident()
        assert notes.all == [(b"before", here), ("back", here), (b"after", here)]
    finally:
        ann.close()


def test_on_reconnect_does_not_run_for_the_first_connection(scripted: Scripted) -> None:
    notes = Notes()
    rule = Reconnect(first=0.001, most=0.002, initially=True)
    ann = connect(scripted.address, reconnect=rule, on_reconnect=lambda: notes("back"))
    try:
        ann.on("news")(lambda: notes("news"))
        scripted.accept().sendall(framed(b"$CMD$news"))
        pass_until(ann.update, lambda: notes.all)
        assert notes.all == ["news"]
    finally:
        ann.close()


def test_what_on_reconnect_raises_goes_where_errors_of_handlers_go() -> None:
    notes = Notes()

    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    with server() as serving, client(serving, "Ann", loop=False, reconnect=QUICK, on_reconnect=fail) as ann:
        with looping(ann, error_handler=notes):
            wait_names(serving, "Ann")
            drop_everybody(serving)
            (failure,) = notes.wait(1)
            assert isinstance(failure, ZeroDivisionError)
            assert ann.get_client("Ann", timeout=PATIENCE).name == "Ann"


def test_the_client_gets_the_notice_of_its_own_joining_again() -> None:
    notes = Notes()
    with server() as serving, client(serving, "Ann", loop=False, reconnect=QUICK) as ann:
        ann.on("client_connect")(lambda info: notes(info.name))
        with looping(ann):
            notes.wait(1)
            drop_everybody(serving)
            assert notes.wait(2) == ["Ann", "Ann"]


def test_a_threaded_client_comes_back() -> None:
    with server() as serving:
        with threaded_connect(serving.get_addr(), "Ann", reconnect=QUICK) as ann:
            ann.on("ask")(lambda: ann.send("answer", "yes"))
            ann.start()
            wait_names(serving, "Ann")
            before = ann.get_client_addr()
            drop_everybody(serving)
            wait_until(lambda: ann.connected and ann.get_client_addr() != before)
            wait_names(serving, "Ann")
            serving.send_client("Ann", "ask")
            assert serving.recv("answer", str, timeout=PATIENCE) == "yes"


def test_without_the_argument_the_loop_ends_as_before(scripted: Scripted) -> None:
    ann = connect(scripted.address)
    scripted.accept().close()
    with pytest.raises(ServerNotRunning):
        pass_until(ann.update, lambda: False)
    assert ann.closed
    assert threads() == []


# ----------------------------------------------------------------------------------------------- what is in flight


@pytest.mark.parametrize("loop", [True, False])
def test_who_waits_in_recv_learns_of_the_loss_and_the_next_one_gets_what_comes(scripted: Scripted, loop: bool) -> None:
    with client(scripted.address, loop=loop, reconnect=QUICK) as ann:
        first = scripted.accept()
        thread, got = asking(ann, "answer", str)
        wait_in_recv(thread)
        first.close()
        thread.join(PATIENCE)
        assert len(got) == 1
        assert "lost, and what this waited for, maybe" in str(got[0])
        second = scripted.accept()
        thread, got = asking(ann, "answer", str)
        wait_in_recv(thread)
        second.sendall(framed(b"$CMD$answer$MSG$yes"))
        thread.join(PATIENCE)
        assert got == ["yes"]


def test_a_loss_between_question_and_recv_is_told_by_recv(scripted: Scripted) -> None:
    with client(scripted.address, loop=False, reconnect=QUICK) as ann:
        first = scripted.accept()
        ann.send("question")
        first.sendall(framed(b"$CMD$earlier"))
        assert scripted.body(first) == b"$CMD$question$MSG$"
        first.close()
        scripted.accept()
        wait_until(lambda: ann.connected)
        with pytest.raises(ServerNotRunning, match="lost"):
            ann.recv("answer", timeout=PATIENCE)
        assert ann.recv("earlier", timeout=PATIENCE) == b""  # came before, and is not lost
        with pytest.raises(TimeoutError):
            ann.recv("answer", timeout=0)


@pytest.mark.parametrize("loop", [True, False])
def test_a_look_up_in_flight_learns_of_the_loss_and_the_next_gets_its_own_answer(
    scripted: Scripted, loop: bool
) -> None:
    with client(scripted.address, loop=loop, reconnect=QUICK) as ann:
        first = scripted.accept()
        thread, got = asking(ann, "Bob", look_up=True)
        assert scripted.body(first) == b"$GETCLT$Bob"
        first.close()
        thread.join(PATIENCE)
        assert len(got) == 1
        assert "lost" in str(got[0])
        second = scripted.accept()
        wait_until(lambda: ann.connected)
        thread, got = asking(ann, "Cat", look_up=True)
        assert scripted.body(second) == b"$GETCLT$Cat"
        second.sendall(framed(b'$CMD$$MSG${"ip": ["192.0.2.1", 1], "name": "Cat", "group": null}'))
        thread.join(PATIENCE)
        assert got == [ClientInfo(("192.0.2.1", 1), "Cat", None)]


def test_a_look_up_by_the_new_connection_is_not_taken_for_one_by_the_old(scripted: Scripted) -> None:
    gate = Gate()
    with client(scripted.address, loop=False, reconnect=QUICK) as ann:
        ann.on("hold")(gate.arrive)
        with looping(ann):
            first = scripted.accept()
            unasked = b'$CMD$$MSG${"ip": ["192.0.2.9", 9], "name": "Old", "group": null}'
            first.sendall(framed(b"$CMD$hold") + framed(unasked))
            gate.wait_arrived()  # the loop does not see the loss
            first.close()
            second = scripted.accept()
            wait_until(lambda: ann.connected)
            thread, got = asking(ann, "Cat", look_up=True)
            assert scripted.body(second) == b"$GETCLT$Cat"
            gate.open()
            wait_until(lambda: ann._routed_loss is not None)
            second.sendall(framed(b'$CMD$$MSG${"ip": ["192.0.2.1", 1], "name": "Cat", "group": null}'))
            thread.join(PATIENCE)
            assert got == [ClientInfo(("192.0.2.1", 1), "Cat", None)]


def test_nothing_can_be_sent_while_it_is_away_nor_is_it_later(scripted: Scripted) -> None:
    with client(scripted.address, "Ann", loop=False, reconnect=SLOW) as ann:
        scripted.accept().close()
        wait_until(lambda: ann.reconnecting)
        for send in (
            lambda: ann.send("command"),
            lambda: ann.raw_send("raw"),
            lambda: ann.change_group("blue"),
            lambda: ann.get_client("Ann"),
        ):
            with pytest.raises(ServerNotRunning):
                send()
        with pytest.raises(ServerNotRunning, match="not sent, nor later"):
            ann.send("command")
        assert ann._tcp.connect()
        sock = scripted.accept()
        wait_until(lambda: ann.connected)
        ann.send("later")
        assert scripted.body(sock) == b"$CMD$later$MSG$"


def test_a_program_that_looks_away_keeps_few_marks(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplesockets.hisock.client._MOST_MARKS", 10)
    calls = Notes()
    with client(scripted.address, loop=False, reconnect=QUICK, on_reconnect=lambda: calls("back")) as ann:
        for _ in range(20):
            scripted.accept().close()
        scripted.accept()
        wait_until(lambda: ann.connected)
        assert len(ann._mailbox.items) == 10
        pass_until(ann.update, lambda: ann._marks == 0)
        assert len(calls.all) == 5


# ------------------------------------------------------------------------------------------------------------- ends


def test_who_is_disconnected_by_the_server_comes_back(scripted: Scripted) -> None:
    notes = Notes()
    with client(scripted.address, loop=False, reconnect=QUICK) as ann:
        ann.on("force_disconnect")(lambda: notes("kicked"))
        with looping(ann):
            scripted.accept().sendall(framed(b"$DISCONN$"))  # and does not close
            scripted.accept()
            assert notes.wait(1) == ["kicked"]


def test_unless_it_closes_then(scripted: Scripted) -> None:
    with client(scripted.address, loop=False, reconnect=SLOW) as ann:
        ann.on("force_disconnect")(lambda: ann.close())
        with looping(ann) as loop:
            sock = scripted.accept()
            sock.sendall(framed(b"$DISCONN$"))
            assert sock.recv(100) == b""
            sock.close()
            loop.join(PATIENCE)
        assert ann.closed
    assert threads() == []


def test_giving_up_ends_the_loop_and_who_waits(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    ann = connect(scripted.address, reconnect=Reconnect(first=0.001, most=0.002, tries=2))
    sock = scripted.accept()
    scripted.listener.close()
    with caplog.at_level(logging.CRITICAL, "simplesockets"):
        sock.close()
        with pytest.raises(ServerNotRunning):
            pass_until(ann.update, lambda: False)
    assert ann.closed
    with pytest.raises(ConnectionError):
        ann.recv(timeout=PATIENCE)
    ann.close()


def test_who_waits_in_recv_after_the_loss_learns_of_giving_up(scripted: Scripted) -> None:
    ann = connect(scripted.address, reconnect=Reconnect(first=0.05, most=0.05, tries=1))
    sock = scripted.accept()
    scripted.listener.close()
    sock.close()
    with pytest.raises(ServerNotRunning, match="was lost"):
        ann.recv(timeout=PATIENCE)
    with pytest.raises(ServerNotRunning, match="ended the connection"):
        ann.recv(timeout=PATIENCE)
    ann.close()


@pytest.mark.parametrize("loop", [True, False])
def test_close_while_it_pauses(scripted: Scripted, loop: bool) -> None:
    with client(scripted.address, loop=loop, reconnect=SLOW) as ann:
        scripted.accept().close()
        wait_until(lambda: ann.reconnecting)
        ann.close()
        assert threads() == []
        assert not ann.reconnecting
        with pytest.raises(ConnectionError):
            ann.send("command")


def test_close_in_on_reconnect(scripted: Scripted) -> None:
    with client(scripted.address, loop=False, reconnect=QUICK) as ann:
        ann._on_reconnect = ann.close
        with looping(ann) as loop:
            scripted.accept().close()
            sock = scripted.accept()
            scripted.body(sock)  # its goodbye
            assert sock.recv(1) == b""
            sock.close()
            loop.join(PATIENCE)
            assert not loop.is_alive()
    assert threads() == []


def test_closing_and_losing_at_the_same_moment(scripted: Scripted) -> None:
    with client(scripted.address, reconnect=QUICK) as ann:
        sock = scripted.accept()
        both = threading.Barrier(2)

        def lose() -> None:
            both.wait(PATIENCE)
            sock.close()

        losing = threading.Thread(target=lose)
        losing.start()
        both.wait(PATIENCE)
        ann.close()
        losing.join(PATIENCE)
        assert threads() == []
        assert ann.closed


# -------------------------------------------------------------------------------------------------------- beginning


def test_the_first_connection_has_to_succeed() -> None:
    with pytest.raises(ServerNotRunning):
        connect((HOST, free_port()), reconnect=QUICK)
    assert threads() == []


def test_unless_the_rule_says_otherwise() -> None:
    port, notes = free_port(), Notes()
    rule = Reconnect(first=0.001, most=0.01, initially=True)
    with client((HOST, port), "Ann", reconnect=rule, on_reconnect=lambda: notes("found")) as ann:
        assert ann.reconnecting
        with pytest.raises(ServerNotRunning, match="so far"):
            ann.send("command")
        serving = HiSockServer((HOST, port))
        with looping(serving):
            wait_names(serving, "Ann")
            notes.wait(1)
            assert ann.connected
            assert ann.get_client("Ann", timeout=PATIENCE).name == "Ann"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"reconnect": 5}, "reconnect must be"), ({"on_reconnect": 5}, "on_reconnect is a function")],
)
def test_arguments_of_no_use_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        connect((HOST, 1), **arguments)
