"""The client, against our server and against servers that a test scripts."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from simplesockets import hpx
from simplesockets.hpx import Client, exceptions

from ..support.running import raw_listener, reset
from ..support.waiting import PATIENCE, Gate, wait_until
from .support import GREETING, Clock, frame, read_frame, running, scripted_server


def answering(*answers: object) -> Callable[[socket.socket], None]:
    """A script: greet, then give these answers, one to each message; bytes as they are."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        for answer in answers:
            read_frame(sock)
            with contextlib.suppress(OSError):  # a client that does not like it is gone before all is sent
                sock.sendall(answer if isinstance(answer, bytes) else frame(answer))
        with contextlib.suppress(OSError):
            sock.recv(1)

    return serve


def answer(data: object, **more: object) -> dict[str, object]:
    return {"session": "s", "name": "scripted", "data": data, **more}


@contextlib.contextmanager
def connected(address: tuple[str, int], **options: Any) -> Iterator[Client]:
    client = Client("tester", *address, **options)
    try:
        client.connect()
        yield client
    finally:
        client.close()


# --------------------------------------------------------------------------------------------------- handshakes


def test_connecting_takes_the_greeting() -> None:
    with running(version={"core": [1, 2, 3], "db": [0, 0, 0], "torrent": [0, 0, 0]}) as server:
        client = Client("tester", *server.address)
        assert (client.alive(), client.ready(), client.accepted, client.version) == (False, False, False, None)
        with client:
            assert (client.alive(), client.ready(), client.accepted, client.guest_allowed) == (True, True, False, True)
            assert client.version == {"core": [1, 2, 3], "db": [0, 0, 0], "torrent": [0, 0, 0]}
            assert client.connect() is True
            assert client.handshake() is True
            assert client.accepted
            assert client.session
        assert (client.alive(), client.ready(), client.accepted, client.session) == (False, False, False, "")


def test_host_and_port_can_be_given_late() -> None:
    with running() as server:
        client = Client("tester")
        assert (client.host, client.port) == ("localhost", 7007)
        client.host, client.port = "nowhere.invalid", 1
        client.connect("127.0.0.1", server.address[1])
        assert (client.host, client.port) == server.address
        client.close()


def test_the_greeting_is_requested_and_the_latest_credentials_are_used_again() -> None:
    with running(guest_allowed=False) as server, connected(server.address) as client:
        assert client.handshake("admin", "secret")
        first = client.session
        assert client.request_handshake()
        assert client.session != first
        assert client.call("who") == ["admin", "tester"]
        with pytest.raises(hpx.AuthMissingCredentials):
            client.request_handshake(None, None)
        assert client.request_handshake(user="ünï", password="pässwörd")
        assert client.call("who") == ["ünï", "tester"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (411, hpx.AuthWrongCredentialsError),
        (407, hpx.AuthRequiredError),
        (412, hpx.AuthMissingCredentials),
        (406, hpx.AuthError),
        (400, hpx.AuthError),
    ],
)
def test_a_refused_handshake_raises_by_its_code(code: int, kind: type[Exception]) -> None:
    refusal = answer(None, error={"code": code, "msg": "because"})
    with scripted_server(answering(refusal, refusal)) as address, connected(address) as client:
        with pytest.raises(kind, match=r"tester: .*because") as caught:
            client.handshake("admin", "wrong")
        assert type(caught.value) is kind
        assert client.handshake("admin", "wrong", ignore_err=True) is False
        assert not client.accepted


def test_without_a_connection_a_handshake_is_false() -> None:
    assert Client("tester").handshake() is False


# ----------------------------------------------------------------------------------------------------- messages


def test_sending_needs_a_session_unless_said_otherwise() -> None:
    with running() as server, connected(server.address) as client:
        with pytest.raises(hpx.AuthRequiredError):
            client.send([])
        with pytest.raises(hpx.AuthRequiredError):
            client.send_raw({})
        with pytest.raises(hpx.AuthRequiredError):
            client.send_bytes(b"{}")
        error = client.send([], raise_on_auth=False)["error"]
        assert isinstance(error, dict)
        assert error["code"] == 407


def test_raw_messages_and_ready_made_json() -> None:
    with running() as server, connected(server.address) as client:
        client.handshake()
        message = hpx.finalize("me", [{"fname": "add", "a": 1}], client.session)
        expected = {"session": client.session, "name": "server", "data": [{"fname": "add", "data": 3}]}
        assert client.send_raw(message) == expected
        assert client.send_raw({**message, "__id__": 9}) == {**expected, "__id__": 9}
        text = client.send_bytes(json.dumps(message).encode())
        assert isinstance(text, str)
        assert json.loads(text) == expected


def test_finalize() -> None:
    assert hpx.finalize("n", [1]) == {"session": "", "name": "n", "data": [1]}
    assert hpx.finalize(name="n", msg={}, session_id="s") == {"session": "s", "name": "n", "data": {}}


def test_call_gives_the_value_or_raises_the_error_of_the_entry() -> None:
    with running() as server, connected(server.address) as client:
        client.handshake()
        assert client.call("add", a=1, b=5) == 6
        assert client.call("echo", value={"self": 1}) == {"self": 1}
        for code, kind in (
            (404, hpx.APIError),
            (405, hpx.APIRequirementError),
            (409, hpx.EnumError),
            (101, hpx.CoreError),
            (102, hpx.TimeoutError),
            (411, hpx.AuthWrongCredentialsError),
            (900, hpx.JSONParseError),
            (777, hpx.HPXError),
        ):
            with pytest.raises(kind, match="as you wish") as caught:
                client.call("fail", code=code)
            assert type(caught.value) is kind
            assert caught.value.code == code
        with pytest.raises(hpx.InvalidMessage, match="'nothing'"):
            client.call("nothing")
        with pytest.raises(hpx.HPXError, match="crash"):
            client.call("crash")
        with pytest.raises(TypeError, match="fname"):
            client.call("add", fname="x")


@pytest.mark.parametrize("data", [None, [], {"msg": "wait"}, ["x"]])
def test_call_does_not_take_anything_for_an_answer(data: object) -> None:
    with scripted_server(answering(answer("Authenticated"), answer(data))) as address, connected(address) as client:
        client.handshake()
        with pytest.raises(hpx.ServerError):
            client.call("add")


def test_several_answers_in_one_segment_are_kept_apart() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING) + frame(answer("Authenticated")))
        read_frame(sock)
        read_frame(sock)
        sock.sendall(frame(answer([1])))

    with scripted_server(serve) as address, connected(address) as client:
        assert client.handshake()
        assert client.send([])["data"] == [1]


@pytest.mark.parametrize("notice", ["serverquit", "ServerRestart", 1, 2])
def test_a_command_that_the_server_sends_on_is_no_answer(notice: object) -> None:
    script = answering(answer("Authenticated"), frame(answer(notice)) + frame(answer([{"fname": "f", "data": 5}])))
    with scripted_server(script) as address, connected(address) as client:
        client.handshake()
        assert client.call("f") == 5
        assert list(client.notices) == ["serverquit" if notice in ("serverquit", 1) else "serverrestart"]


@pytest.mark.parametrize("by_bytes", [False, True])
def test_a_command_of_ones_own_is_answered_by_itself(by_bytes: bool) -> None:
    with running() as server, connected(server.address) as client, connected(server.address) as other:
        client.handshake("admin", "secret")
        other.handshake()
        if by_bytes:
            text = json.dumps(hpx.finalize("me", "serverquit", client.session)).encode()
            assert json.loads(client.send_bytes(text))["data"] == "serverquit"
        else:
            assert client.send("ServerQuit")["data"] == "serverquit"
        assert not client.notices
        wait_until(lambda: not server.running)
        with pytest.raises(hpx.ConnectionError):
            other.send([])
        assert list(other.notices) == ["serverquit"]
        assert not other.alive()


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_the_last_words_of_a_server_that_left_are_heard(leave: Callable[[socket.socket], object]) -> None:
    left = threading.Event()

    def say_and_leave(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        read_frame(sock)
        sock.sendall(frame(answer("Authenticated")) + frame(answer("serverquit")))
        leave(sock)
        left.set()

    with scripted_server(say_and_leave) as address, connected(address) as client:
        client.handshake()
        assert left.wait(PATIENCE)
        with pytest.raises(hpx.ServerDisconnectError):
            client.send([])
        assert list(client.notices) == ["serverquit"]


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (gzip.compress(b"{") + b"<EOF>", hpx.JSONParseError),
        (gzip.compress(b"\xff") + b"<EOF>", hpx.JSONParseError),
        (frame([]), hpx.JSONParseError),
        (b"no gzip<EOF>", hpx.ConnectionError),
        (gzip.compress(bytes(3_000_000)) + b"<EOF>", hpx.ConnectionError),
        (b"x" * 1_100_000, hpx.ConnectionError),
    ],
    ids=["no JSON", "no UTF-8", "no object", "no gzip", "too large unpacked", "too large packed"],
)
def test_what_a_broken_server_sends(sent: bytes, kind: type[Exception]) -> None:
    with scripted_server(answering(sent)) as address:
        with connected(address, max_packed=1_000_000, max_unpacked=2_000_000) as client:
            with pytest.raises(kind) as caught:
                client.handshake()
            assert type(caught.value) is kind
            assert client.alive() == (kind is hpx.JSONParseError)


# -------------------------------------------------------------------------------------------- lost connections


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", [b"", frame(answer([]))[:7]], ids=["nothing", "half an answer"])
def test_a_lost_connection_is_an_error_and_connect_makes_a_new_one(
    end: Callable[[socket.socket], None], sent: bytes
) -> None:
    def lose(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        read_frame(sock)
        sock.sendall(frame(answer("Authenticated")))
        read_frame(sock)
        sock.sendall(sent)
        end(sock)

    sessions = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        sessions.append(read_frame(sock)["session"])
        sock.sendall(frame(answer([5])))

    with scripted_server(lose, serve) as address, connected(address) as client:
        client.handshake()
        with pytest.raises(hpx.ConnectionError) as caught:
            client.send([])
        assert isinstance(caught.value, ConnectionError)
        assert (client.alive(), client.ready(), client.accepted, client.session) == (False, False, False, "")
        with pytest.raises(hpx.ClientError, match="not connected"):
            client.send([])
        client.connect()
        assert client.accepted
        assert client.send([])["data"] == [5]
        assert sessions == ["s"]  # it goes on


def test_call_connects_anew_and_shakes_hands_anew() -> None:
    clock = Clock()
    with running(clock=clock, session_lifespan=10) as server, connected(server.address) as client:
        client.handshake("admin", "secret")
        first = client.session
        clock.now += 11
        assert client.call("who") == ["admin", "tester"]  # the session had expired
        assert client.session != first
        place = server.address
        server.close()
        with pytest.raises(hpx.ConnectionError):
            client.call("who")
        with pytest.raises(hpx.ServerDisconnectError):
            client.call("who")
        server._place = place
        server.start()
        assert client.call("who") == ["admin", "tester"]  # neither the connection nor the session is there any more


def test_a_client_that_was_never_connected_does_not_connect_by_itself() -> None:
    with running() as server:
        client = Client("tester", *server.address)
        with pytest.raises(hpx.ClientError, match="not connected"):
            client.call("add", a=1)


def test_nobody_listens() -> None:
    with raw_listener() as listener:
        port = listener.getsockname()[1]
    with pytest.raises(hpx.ServerDisconnectError):
        Client("tester", "127.0.0.1", port).connect()


def test_a_server_that_does_not_answer_in_time_is_lost() -> None:
    gate = Gate()

    def mute(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        gate.arrive()

    with scripted_server(mute) as address, connected(address, timeout=0.1) as client:
        with pytest.raises(hpx.ConnectionError, match=r"0\.1 seconds"):
            client.handshake()
        assert not client.alive()
        gate.open()


def test_a_server_that_does_not_greet_in_time_is_no_server() -> None:
    gate = Gate()
    with scripted_server(gate.arrive) as address:
        client = Client("tester", *address, timeout=0.1)
        with pytest.raises(hpx.ServerDisconnectError):
            client.connect()
        assert not client.alive()
        gate.open()
        client.close()


@pytest.mark.parametrize("timeout", [0, 10])
def test_close_ends_whoever_waits_for_an_answer(timeout: float) -> None:
    read = threading.Event()
    gate = Gate()

    def mute(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        read_frame(sock)
        read.set()
        gate.arrive()

    caught: list[BaseException] = []
    with scripted_server(mute) as address, connected(address, timeout=timeout) as client:

        def wait() -> None:
            try:
                client.handshake()
            except BaseException as failure:
                caught.append(failure)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert read.wait(PATIENCE)
        began = time.monotonic()
        client.close()
        waiting.join(PATIENCE)
        assert time.monotonic() - began < 5
        gate.open()
    assert [type(failure) for failure in caught] == [hpx.ServerDisconnectError]
    with pytest.raises(hpx.ClientError, match="closed"):
        client.connect()


# ------------------------------------------------------------------------------------------------ many threads


def test_many_threads_of_one_client_get_the_answers_to_their_own_messages() -> None:
    wrong: list[object] = []
    with running() as server, connected(server.address) as client:
        client.handshake()

        def work(number: int) -> None:
            for step in range(50):
                value = f"{number}:{step}"
                if client.call("echo", value=value) != value:
                    wrong.append(value)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_a_hundred_clients_make_a_hundred_batches_of_calls_each() -> None:
    failures: list[object] = []
    start = threading.Barrier(101)
    with running() as server:

        def work(number: int) -> None:
            with Client(f"client {number}", *server.address, timeout=60) as client:
                client.handshake(*(("admin", "secret") if number % 2 else ()))
                start.wait(PATIENCE)
                for step in range(100):
                    calls: list[dict[str, object]] = [
                        {"fname": "add", "a": number, "b": step},
                        {"fname": "fail", "code": 500 + step},
                        {"fname": "echo", "value": [number, step]},
                        {"fname": "count"},
                    ]
                    entries: Any = client.send(calls)["data"]
                    found = [entry["data"] for entry in entries], entries[1]["error"]["code"]
                    if found != ([number + step, None, [number, step], step + 1], 500 + step):
                        failures.append(entries)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        start.wait(PATIENCE)
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert not failures


# ------------------------------------------------------------------------------------------------------- errors


ERRORS: list[tuple[type[hpx.HPXError], int, tuple[type, ...]]] = [
    (hpx.HPXError, 100, (Exception,)),
    (hpx.CoreError, 101, (hpx.HPXError,)),
    (hpx.TimeoutError, 102, (TimeoutError,)),
    (hpx.ServerError, 400, (hpx.HPXError,)),
    (hpx.ClientDisconnectError, 401, (hpx.ServerError,)),
    (hpx.InvalidMessage, 403, (hpx.ServerError,)),
    (hpx.APIError, 404, (hpx.HPXError,)),
    (hpx.APIRequirementError, 405, (hpx.APIError,)),
    (hpx.AuthError, 406, (hpx.ClientError,)),
    (hpx.AuthRequiredError, 407, (hpx.AuthError,)),
    (hpx.SessionError, 408, (hpx.HPXError,)),
    (hpx.EnumError, 409, (hpx.HPXError,)),
    (hpx.ParsingError, 410, (hpx.HPXError,)),
    (hpx.AuthWrongCredentialsError, 411, (hpx.AuthError,)),
    (hpx.AuthMissingCredentials, 412, (hpx.AuthError,)),
    (hpx.ClientError, 500, (hpx.HPXError,)),
    (hpx.ConnectionError, 501, (hpx.ClientError, ConnectionError)),
    (hpx.ServerDisconnectError, 502, (hpx.ConnectionError, ConnectionAbortedError)),
    (hpx.JSONParseError, 900, (hpx.ClientError,)),
]


@pytest.mark.parametrize(("kind", "code", "bases"), ERRORS)
def test_every_code_has_its_error(kind: type[hpx.HPXError], code: int, bases: tuple[type, ...]) -> None:
    assert kind.code == code
    assert all(issubclass(kind, base) for base in bases)
    made = exceptions.from_code(code, "tester", "why")
    assert type(made) is kind
    assert (made.code, made.msg) == (code, "why")
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again), again.code) == (kind, str(made), code)


def test_the_codes_are_all_there() -> None:
    documented = {100, 101, 102, 400, 401, *range(403, 413), 500, 501, 502, 900}
    assert {code for _, code, _ in ERRORS} == documented


def test_an_error_keeps_what_it_is_about() -> None:
    failure = hpx.JSONParseError(b"{", "tester", "why")
    assert (failure.json_data, failure.name, failure.msg, str(failure)) == (b"{", "tester", "why", "tester: why")
    assert hpx.HPXError("why", 5).code == 5


def test_the_representation_says_whether_it_is_connected() -> None:
    with running() as server, connected(server.address) as client:
        assert "connected" in repr(client)
        assert "not" not in repr(client)
    wait_until(lambda: "not connected" in repr(client))
