"""The server, as peers over plain sockets see it."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import select
import socket
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplesockets.errors import BindError, SetupError
from simplesockets.hpx import Context, Server, sessions
from simplesockets.hpx import server as server_module
from simplesockets.hpx.codec import pack

from ..support.running import reset
from ..support.waiting import PATIENCE, Gate, wait_until
from .support import HOST, USERS, Clock, frame, offer_functions, peer, running
from .test_codec import DAMAGED, bomb

either_engine = pytest.mark.usefixtures("either_engine")

CALL = [{"fname": "add", "a": 1}]
SUM = [{"fname": "add", "data": 3}]


def code(answer: dict[str, Any]) -> int:
    """The code of an error at the root, whose data is null."""
    assert answer["data"] is None
    assert set(answer["error"]) == {"code", "msg"}
    found = answer["error"]["code"]
    assert type(found) is int
    return found


# --------------------------------------------------------------------------------------------------- handshakes


def test_the_greeting() -> None:
    with running(name="the server", version={"core": [1, 2, 3], "db": [0, 1, 0], "torrent": [0, 0, 1]}) as server:
        with socket.create_connection(server.address, PATIENCE) as sock:
            data = b""
            while not data.endswith(b"<EOF>"):
                data += sock.recv(1000)
    assert json.loads(gzip.decompress(data[:-5])) == {
        "session": "",
        "name": "the server",
        "data": {"version": {"core": [1, 2, 3], "db": [0, 1, 0], "torrent": [0, 0, 1]}, "guest_allowed": True},
    }


def test_a_guest_and_a_user() -> None:
    with running() as server, peer(server) as each:
        assert each.shake_hands() == {"session": each.session, "name": "server", "data": "Authenticated"}
        assert each.call({"fname": "who"}) == [{"fname": "who", "data": [None, "peer"]}]
        guest = each.session
        assert each.shake_hands("ünï", "pässwörd")["data"] == "Authenticated"
        assert each.call({"fname": "who"}) == [{"fname": "who", "data": ["ünï", "peer"]}]
        assert each.session != guest
        assert min(len(each.session), len(guest)) >= 32


@pytest.mark.parametrize(
    ("guest_allowed", "data", "expected"),
    [
        (True, {"user": "admin", "password": "wrong"}, 411),
        (True, {"user": "nobody", "password": ""}, 411),
        (True, {"user": "admin", "password": None}, 411),
        (True, {"user": ["admin"], "password": {"a": 1}}, 411),
        (True, {"user": "\ud800", "password": "\ud800"}, 411),
        (False, {"user": "admin", "password": "wrong"}, 411),
        (False, {}, 412),
        (False, {"user": "admin"}, 412),
        (False, {"password": "secret"}, 412),
        (False, {"user": "admin", "password": "secret", "more": 1}, 412),
        (False, CALL, 407),
        (True, {"user": "admin"}, 407),
        (True, {"user": "admin", "password": "secret", "more": 1}, 407),
        (True, CALL, 407),
        (True, None, 407),
        (True, "nonsense", 407),
        (True, "serverquit", 407),
        (True, 1, 407),
    ],
)
def test_who_is_refused_without_a_session(guest_allowed: bool, data: object, expected: int) -> None:
    with running(guest_allowed=guest_allowed) as server, peer(server) as each:
        answer = each.ask(data, session="")
        assert code(answer) == expected
        assert answer["session"] == ""
        assert each.shake_hands("admin", "secret")["data"] == "Authenticated"  # the connection goes on


def test_a_function_may_judge_the_credentials() -> None:
    with running(users=lambda user, password: user == password[::-1]) as server, peer(server) as each:
        assert each.shake_hands("abc", "cba")["data"] == "Authenticated"
        assert code(each.shake_hands("abc", "abc")) == 411


def test_a_function_that_fails_to_judge_lets_nobody_in() -> None:
    def judge(user: str, password: str) -> bool:
        raise LookupError("no database")

    with running(users=judge) as server, peer(server) as each:
        assert code(each.shake_hands("abc", "cba")) == 100
        assert isinstance(server.exceptions[-1].exception, LookupError)


@pytest.mark.parametrize("session", ["", "unknown"])
@pytest.mark.parametrize("data", ["requestauth", "RequestAuth", 3])
def test_the_greeting_can_be_requested_by_anybody(session: str, data: object) -> None:
    with running(guest_allowed=False) as server, peer(server) as each:
        answer = each.ask(data, session=session)
        assert answer["data"] == {"version": server.version, "guest_allowed": False}
        assert "error" not in answer


def test_requesting_the_greeting_extends_a_session() -> None:
    clock = Clock()
    with running(clock=clock, session_lifespan=10) as server, peer(server, "") as each:
        clock.now += 9
        assert each.ask("requestauth")["session"] == each.session
        clock.now += 9
        assert each.call(*CALL) == SUM


# ----------------------------------------------------------------------------------------------------- sessions


@either_engine
def test_connections_share_a_session_and_remember_nothing() -> None:
    with running() as server, peer(server, "admin") as one, peer(server) as other:
        assert other.ask([{"fname": "who"}], session=one.session)["data"][0]["data"] == ["admin", "peer"]
        assert other.ask([{"fname": "count"}], session=one.session)["data"][0]["data"] == 1
        assert one.call({"fname": "count"})[0]["data"] == 2
        assert code(other.ask(CALL, session="")) == 407
        one.socket.close()
        assert other.ask([{"fname": "count"}], session=one.session)["data"][0]["data"] == 3


@either_engine
def test_sessions_are_extended_and_expire() -> None:
    clock = Clock()
    with running(clock=clock, session_lifespan=10) as server, peer(server, "") as each:
        for _ in range(3):
            clock.now += 9
            assert each.call(*CALL) == SUM
        clock.now += 10
        expired = each.ask(CALL)
        assert code(expired) == 408
        assert expired["session"] == ""
        assert code(each.ask(CALL)) == 408
        assert each.shake_hands()["data"] == "Authenticated"
        assert each.call(*CALL) == SUM


@pytest.mark.parametrize("data", [CALL, {}, {"user": "admin", "password": "secret"}, "serverquit", None])
def test_an_unknown_session(data: object) -> None:
    with running() as server, peer(server) as each:
        assert code(each.ask(data, session="made up")) == 408


def test_the_longest_idle_session_goes_first() -> None:
    with running(max_sessions=2) as server, peer(server) as each:
        first, second = (each.shake_hands()["session"] for _ in range(2))
        assert each.ask(CALL, session=first)["data"] == SUM
        third = each.shake_hands()["session"]
        assert [("error" in each.ask(CALL, session=session)) for session in (first, second, third)] == [
            False,
            True,
            False,
        ]


# ----------------------------------------------------------------------------------------------- function calls


def test_calls_are_answered_in_order_and_fail_one_by_one() -> None:
    with running() as server, peer(server, "") as each:
        entries = each.call(
            {"fname": "add", "a": 1},
            {"fname": "nothing"},
            {"fname": "add"},
            {"fname": "add", "a": 1, "c": 2},
            {"fname": "fail", "code": 404},
            {"fname": "fail", "code": 777},
            {"fname": "add", "a": 1, "b": 1},
        )
    assert [entry["fname"] for entry in entries] == ["add", "nothing", "add", "add", "fail", "fail", "add"]
    assert [entry["data"] for entry in entries] == [3, None, None, None, None, None, 2]
    errors = [entry.get("error") for entry in entries]
    assert [error and error["code"] for error in errors] == [None, 403, 403, 403, 404, 777, None]
    said = " ".join(error["msg"] for error in errors if error)
    assert "'nothing'" in said
    assert "'a'" in said
    assert "'c'" in said
    assert "as you wish" in said


def test_an_empty_list_of_calls() -> None:
    with running() as server, peer(server, "") as each:
        assert each.ask([]) == {"session": each.session, "name": "server", "data": []}


@pytest.mark.parametrize(
    "data", [[{"fname": "crash"}, {}], ["add"], [{"fname": 1}], {}, {"fname": "add"}, "x", 4, True]
)
def test_what_is_no_list_of_calls_is_refused_as_a_whole_and_nothing_runs(data: object) -> None:
    with running() as server, peer(server, "") as each:
        assert code(each.ask(data)) == 403
        assert not server.exceptions


@either_engine
def test_an_unhandled_exception_is_an_error_at_the_root(caplog: pytest.LogCaptureFixture) -> None:
    with running() as server, peer(server, "") as each:
        answer = each.ask([*CALL, {"fname": "crash"}, *CALL], __id__=1)
        assert code(answer) == 100
        assert "crash" in answer["error"]["msg"]
        assert answer["session"] == each.session
        assert answer["__id__"] == 1
        assert each.call(*CALL) == SUM
        assert [type(record.exception) for record in server.exceptions] == [ZeroDivisionError]
    assert "on purpose" in caplog.text


def test_in_development_an_unhandled_exception_gets_no_answer() -> None:
    with running(dev=True) as server, peer(server, "") as each:
        each.send_json({"session": each.session, "name": "", "data": [{"fname": "crash"}]})
        assert each.call(*CALL) == SUM
        assert code(each.ask("nonsense")) == 403  # errors of the protocol are answered


@pytest.mark.parametrize("result", [float("nan"), {1}, b"bytes", object()], ids=lambda result: type(result).__name__)
def test_a_result_that_is_no_json_names_its_function(result: object) -> None:
    with running() as server, peer(server, "") as each:
        server.function("strange")(lambda: result)
        answer = each.ask([*CALL, {"fname": "strange"}])
        assert code(answer) == 100
        assert "'strange'" in answer["error"]["msg"]
        assert each.call(*CALL) == SUM


@either_engine
def test_exit_in_a_function_is_one_more_exception() -> None:
    with running() as server, peer(server, "") as each:
        server.function("leave")(lambda: exit(3))
        assert code(each.ask([{"fname": "leave"}])) == 100
        assert each.call(*CALL) == SUM


@either_engine
def test_functions_block_nobody_else() -> None:
    gate = Gate()
    with running() as server, peer(server, "") as slow, peer(server, "") as quick:
        server.function("wait")(lambda: gate.arrive())
        slow.send_json({"session": slow.session, "name": "", "data": [{"fname": "wait"}]})
        gate.wait_arrived()
        assert quick.call(*CALL) == SUM
        gate.open()
        assert slow.read()["data"] == [{"fname": "wait", "data": None}]


@either_engine
def test_large_answers_and_texts_of_every_kind() -> None:
    with running() as server, peer(server, "") as each:
        values: list[object] = [
            "<EOF>" * 1000,
            "äöü€😀" * 1000,
            "\0\x1f\x8b",
            "\ud800",
            [[[]]],
            {"a": {"b": None}},
            1e300,
            -5,
        ]
        for value in values:
            assert each.call({"fname": "echo", "value": value}) == [{"fname": "echo", "data": value}]
        assert len(each.call({"fname": "long", "size": 3_000_000})[0]["data"]) == 3_000_000


# ----------------------------------------------------------------------------------------------------- envelopes


@pytest.mark.parametrize("ident", [0, None, "x", [1, {}]])
def test_an_id_is_repeated_in_answers_and_errors(ident: object) -> None:
    with running() as server, peer(server, "") as each:
        assert each.ask(CALL, __id__=ident)["__id__"] == ident
        for data, session in (("nonsense", None), (CALL, "unknown"), (CALL, ""), ({}, "")):
            assert each.ask(data, session=session, __id__=ident)["__id__"] == ident
        each.send_json({"__id__": ident})
        answer = each.read()
        assert (code(answer), answer["__id__"]) == (403, ident)
        server.ready = False
        assert each.ask(CALL, __id__=ident)["__id__"] == ident
        assert "__id__" not in each.ask(CALL)


WRONG = {
    "a list": (frame([]), 403, "object"),
    "a string": (frame("text"), 403, "object"),
    "null": (frame(None), 403, "object"),
    "no session": (frame({"name": "", "data": {}}), 403, "'session'"),
    "no name": (frame({"session": "", "data": {}}), 403, "'name'"),
    "no data": (frame({"session": "", "name": ""}), 403, "'data'"),
    "an unknown key": (frame({"session": "", "name": "", "data": {}, "what": 1}), 403, "'what'"),
    "a session of the wrong type": (frame({"session": 5, "name": "", "data": {}}), 403, "'session'"),
    "invalid JSON": (pack(b"{"), 900, "JSON"),
    "invalid UTF-8": (pack(b'{"session": "\xff"}'), 900, "utf-8"),
    "no JSON, but NaN": (pack(b"NaN"), 900, "NaN"),
    "an empty message": (pack(b""), 900, "JSON"),
    "nested for ever": (pack(b"[" * 1_000_000), 900, "deep"),
    **{f"damaged: {name}": (bad, 410, "gzip") for name, bad in DAMAGED.items()},
}


@either_engine
@pytest.mark.parametrize(("sent", "expected", "named"), WRONG.values(), ids=WRONG)
def test_wrong_messages_get_their_error_and_the_connection_goes_on(sent: bytes, expected: int, named: str) -> None:
    with running() as server, peer(server, "") as each, peer(server, "") as other:
        each.socket.sendall(sent)
        answer = each.read()
        assert code(answer) == expected
        assert named in answer["error"]["msg"]
        assert each.call(*CALL) == SUM
        assert other.call(*CALL) == SUM


@either_engine
def test_a_truncated_message_is_an_error_when_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STALL", 0.05)
    with running() as server, peer(server, "") as each:
        each.send_packed(gzip.compress(b"hello" * 100, 0)[:50])
        assert code(each.read()) == 410
        assert each.call(*CALL) == SUM


@either_engine
def test_a_truncated_message_hides_the_next_one_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STALL", 0.05)
    with running() as server, peer(server, "") as each:
        each.send_packed(gzip.compress(b"hello" * 100, 0)[:50])
        each.send_json({"session": each.session, "name": "", "data": CALL})
        assert code(each.read()) == 410
        assert each.read()["data"] == SUM


@either_engine
@pytest.mark.parametrize(
    "sent",
    [bomb(1 << 30), pack(b" " * 2_000_001, 9), b"\x1f\x8b" + b"x" * 1_000_000],
    ids=["a bomb", "too large unpacked", "too large packed"],
)
def test_over_a_limit_a_connection_is_told_and_ended_and_memory_stays_bounded(sent: bytes) -> None:
    with running(max_packed=500_000 if sent.endswith(b"x") else 4_000_000, max_unpacked=2_000_000) as server:
        with peer(server, "") as each, peer(server, "") as other:
            tracemalloc.start()
            try:
                each.socket.sendall(sent)
                answer = each.read()
                assert tracemalloc.get_traced_memory()[1] < 40_000_000
            finally:
                tracemalloc.stop()
            assert code(answer) == 403
            assert "limit" in answer["error"]["msg"]
            assert each.is_over()
            assert other.call(*CALL) == SUM


@either_engine
def test_frames_with_the_delimiter_inside_whole_and_byte_by_byte() -> None:
    with running() as server, peer(server, "") as each:
        content = {"session": each.session, "name": "", "data": [{"fname": "echo", "value": "a<EOF>b" * 20}]}
        packed = gzip.compress(json.dumps(content).encode(), 0)
        assert packed.count(b"<EOF>") == 20
        each.send_packed(packed)
        assert each.read()["data"][0]["data"] == "a<EOF>b" * 20
        for byte in packed + b"<EOF>":
            each.socket.sendall(bytes([byte]))
        assert each.read()["data"][0]["data"] == "a<EOF>b" * 20


@either_engine
def test_twenty_messages_in_one_segment_get_twenty_answers_in_order() -> None:
    with running() as server, peer(server, "") as each:
        messages = [
            {"session": each.session, "name": "", "data": [{"fname": "add", "a": number}]} for number in range(20)
        ]
        each.socket.sendall(b"".join(map(frame, messages)))
        assert [each.read()["data"][0]["data"] for _ in range(20)] == list(range(2, 22))


@either_engine
@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can be told to acknowledge at once")
def test_peers_that_send_the_delimiter_separately_do_not_wait_for_acknowledgements() -> None:
    # The released client does, without TCP_NODELAY: each message would take 40 ms.
    with running() as server, peer(server, "") as each:
        packed = frame({"session": each.session, "name": "", "data": CALL})[: -len(b"<EOF>")]
        began = time.monotonic()
        for _ in range(50):
            each.socket.sendall(packed)
            each.socket.sendall(b"<EOF>")
            assert each.read()["data"] == SUM
        assert time.monotonic() - began < 1.0


@either_engine
def test_peers_that_leave_in_the_middle_hurt_nobody() -> None:
    with running() as server, peer(server, "") as each:
        for sent in (b"", b"\x1f\x8b", frame({"session": "", "name": "", "data": {}})[:-3], frame({})):
            for ends in (socket.socket.close, reset):
                with peer(server) as leaver:
                    leaver.socket.sendall(sent)
                    ends(leaver.socket)
        assert each.call(*CALL) == SUM
        tcp = server._tcp
        assert tcp is not None
        wait_until(lambda: len(tcp.clients) == 1)


def test_garbage_ends_at_most_its_own_connection() -> None:
    damage = st.one_of(st.binary(max_size=80), st.sampled_from(list(DAMAGED.values())))
    with running() as server, peer(server, "") as friend:

        @settings(max_examples=40, deadline=None, derandomize=True)
        @given(st.lists(damage, max_size=6), st.data())
        def try_it(noise: list[bytes], data: st.DataObject) -> None:
            good = bytearray(frame({"session": "", "name": "", "data": {}}) * 2)
            for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=3)):
                good[place] ^= data.draw(st.integers(1, 255))
            with peer(server) as each:
                each.socket.sendall(b"".join(noise) + bytes(good))
                each.socket.shutdown(socket.SHUT_WR)
                with contextlib.suppress(EOFError):
                    while True:
                        answer = each.read()
                        assert answer["data"] == "Authenticated" or code(answer) in {403, 407, 408, 410, 900}
            assert friend.call(*CALL) == SUM

        try_it()


@either_engine
def test_a_connection_that_says_nothing_acceptable_is_dropped() -> None:
    with running(handshake_timeout=0.3) as server, peer(server, "") as friend, peer(server) as silent:
        with peer(server) as chatty:
            assert code(chatty.ask("nonsense")) == 407
            assert chatty.is_over()
        assert silent.is_over()
        assert friend.call(*CALL) == SUM


def test_while_the_server_is_not_ready_it_asks_to_wait() -> None:
    with running(ready=False) as server, peer(server) as each:
        asked: list[object] = [{}, CALL, "requestauth", None]
        for data in asked:
            assert each.ask(data, session="some") == {"session": "some", "name": "server", "data": {"msg": "wait"}}
        server.ready = True
        assert each.shake_hands()["data"] == "Authenticated"


# ----------------------------------------------------------------------------------------------- server commands


@pytest.mark.parametrize("data", ["serverquit", "ServerQuit", 1, "serverrestart", 2])
def test_guests_cannot_end_the_server(data: object) -> None:
    with running() as server, peer(server, "") as each:
        assert code(each.ask(data)) == 407
        assert each.call(*CALL) == SUM


@either_engine
@pytest.mark.parametrize("data", ["serverquit", "SERVERQUIT", 1])
def test_a_user_quits_and_everybody_hears_of_it(data: object) -> None:
    with running() as server, peer(server, "admin") as admin:
        with peer(server, "") as one, peer(server) as other:
            answer = admin.ask(data, __id__=7)
            assert answer == {"session": admin.session, "name": "server", "data": "serverquit", "__id__": 7}
            for each in (one, other):
                assert each.read() == {"session": "", "name": "server", "data": "serverquit"}
            assert all(each.is_over() for each in (admin, one, other))
        wait_until(lambda: not server.running)


@pytest.mark.parametrize("data", [True, False, 1.0, "1", " serverquit"])
def test_what_only_looks_like_a_command_is_none(data: object) -> None:
    with running() as server, peer(server, "admin") as admin:
        assert code(admin.ask(data)) == 403
        assert server.running


@either_engine
@pytest.mark.parametrize("data", ["serverrestart", 2])
def test_a_user_restarts_and_the_server_is_back_at_the_same_place_without_sessions(data: object) -> None:
    with running() as server, peer(server, "admin") as admin, peer(server, "") as other:
        place = server.address
        assert admin.ask(data)["data"] == "serverrestart"
        assert other.read()["data"] == "serverrestart"
        assert admin.is_over()
        wait_until(lambda: server.running and server._tcp is not None and server._tcp.addresses)
        assert server.address == place
        with peer(server) as again:
            assert code(again.ask(CALL, session=admin.session)) == 408
            again.shake_hands()
            assert again.call(*CALL) == SUM


@either_engine
def test_two_quit_at_once_and_both_are_answered() -> None:
    with running() as server, peer(server, "admin") as one, peer(server, "admin") as other:
        for each in (one, other):
            each.send_json({"session": each.session, "name": "", "data": "serverquit"})
        assert one.read()["data"] == other.read()["data"] == "serverquit"
        wait_until(lambda: not server.running)


@either_engine
def test_who_does_not_read_delays_quitting_for_a_while_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BROADCAST_TIME", 2.5)
    with running() as server, peer(server, "admin") as admin, peer(server, "") as other:
        with peer(server, "") as deaf:
            deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            message = frame({"session": deaf.session, "name": "", "data": [{"fname": "noise"}]})
            noise = "".join(map(chr, range(32, 127))) * 3
            server.function("noise")(lambda: [noise + str(number * 7919) for number in range(30_000)])
            deaf.socket.sendall(message * 30)
            tcp = server._tcp
            assert tcp is not None
            target = tcp.clients[deaf.socket.getsockname()]
            wait_until(lambda: _is_stuck(target.socket))
            began = time.monotonic()
            assert admin.ask("serverquit")["data"] == "serverquit"
            assert other.read()["data"] == "serverquit"
            assert time.monotonic() - began < 2.0
            wait_until(lambda: not server.running, patience=10)


def _is_stuck(sock: socket.socket) -> bool:
    return not select.select([], [sock], [], 0)[1]


def test_serve_forever_ends_with_a_quit() -> None:
    server = Server(port=0, users=USERS)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        wait_until(lambda: server._tcp is not None and server._tcp.addresses)
        with peer(server, "admin") as admin:
            assert admin.ask("serverquit")["data"] == "serverquit"
        thread.join(PATIENCE)
        assert not thread.is_alive()
    finally:
        server.close()


# ------------------------------------------------------------------------------------------------------- logins


@either_engine
def test_failed_logins_delay_their_connection_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FIRST_DELAY", 600.0)
    monkeypatch.setattr(sessions, "MAX_DELAY", 600.0)
    with running() as server, peer(server, "") as friend, peer(server) as guesser:
        for _ in range(sessions.FREE_FAILURES):
            assert code(guesser.shake_hands("admin", "guess")) == 411
        guesser.send_json({"session": "", "name": "", "data": {"user": "admin", "password": "guess"}})
        for _ in range(20):
            assert friend.call(*CALL) == SUM
        with peer(server, "") as newcomer:
            assert newcomer.call(*CALL) == SUM
        guesser.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            guesser.read()
        guesser.socket.settimeout(PATIENCE)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 5
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("simplesockets-")]


@either_engine
def test_the_right_password_after_a_delay_is_accepted_and_makes_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FIRST_DELAY", 0.2)
    with running() as server, peer(server) as each:
        for _ in range(sessions.FREE_FAILURES):
            assert code(each.shake_hands("admin", "guess")) == 411
        began = time.monotonic()
        assert each.shake_hands("admin", "secret")["data"] == "Authenticated"
        assert time.monotonic() - began >= 0.2
        assert code(each.shake_hands("admin", "guess")) == 411
        assert server._service._failures.delay(HOST, time.monotonic()) == 0


# ---------------------------------------------------------------------------------------------------- lifecycle


@either_engine
def test_a_server_starts_again_after_close() -> None:
    server = Server(port=0)
    offer_functions(server)
    for _ in range(2):
        server.start()
        server.start()
        with peer(server, "") as each:
            assert each.call(*CALL) == SUM
        server.close()
        server.close()
        assert not server.running
        with pytest.raises(SetupError, match="not running"):
            print(server.address)


@either_engine
def test_close_in_a_function() -> None:
    with running() as server, peer(server, "") as each:
        server.function("stop")(lambda: server.close())
        each.send_json({"session": each.session, "name": "", "data": [{"fname": "stop"}]})
        wait_until(lambda: not server.running)


def test_a_port_in_use_is_an_error_at_start_that_can_be_overcome() -> None:
    with running() as server:
        other = Server(port=server.address[1])
        with pytest.raises(BindError, match="in use"):
            other.start()
        assert not other.running
        with pytest.raises(BindError):
            other.serve_forever()


@either_engine
def test_the_limit_of_connections() -> None:
    with running(max_connections=1) as server, peer(server, "") as first:
        with socket.create_connection(server.address, PATIENCE) as waiting:
            assert first.call(*CALL) == SUM
            waiting.settimeout(0.05)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            first.socket.close()
            waiting.settimeout(PATIENCE)
            assert waiting.recv(1)


@pytest.mark.parametrize(
    "options",
    [
        {"port": -1},
        {"port": "http"},
        {"max_packed": 0},
        {"max_unpacked": -1},
        {"max_connections": 0},
        {"max_sessions": 0},
        {"session_lifespan": -1},
        {"level": 10},
        {"version": {"core": {1, 2}}},
    ],
    ids=str,
)
def test_arguments_of_no_use_are_named(options: dict[str, Any]) -> None:
    named = "JSON" if "version" in options else next(iter(options)).removeprefix("max_")
    with pytest.raises((TypeError, ValueError), match=named):
        Server(**options)


def test_the_representation_says_where_it_is() -> None:
    with running() as server:
        assert str(server.address[1]) in repr(server)
    assert "not running" in repr(server)


def test_the_context_tells_guests_from_users() -> None:
    assert Context("", "a", None).is_guest
    assert not Context("", "a", "b").is_guest
    assert "guest" in repr(Context("", "a", None))


def test_passwords_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), running() as server, peer(server) as each:
        each.shake_hands("admin", "sesame")
        each.shake_hands("admin", "secret")
        assert "sesame" not in caplog.text
        assert "secret" not in caplog.text
        assert each.session not in caplog.text
