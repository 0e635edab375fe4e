"""Hostile messages and interleavings of the HPX layer, forced."""

from __future__ import annotations

import functools
import gzip
import os
import signal
import socket
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from simplesockets import hpx
from simplesockets.hpx import Client, Context, Server
from simplesockets.hpx import server as server_module
from simplesockets.hpx.codec import Unpacker, pack
from simplesockets.server import TCPServer

from ..support.waiting import PATIENCE, Gate, is_held, wait_until
from .support import GREETING, frame, peer, read_frame, running, scripted_server

CALL = [{"fname": "add", "a": 1}]
SUM = [{"fname": "add", "data": 3}]


def answer(data: object) -> bytes:
    return frame({"session": "s", "name": "scripted", "data": data})


# ------------------------------------------------------------------------------------------------- contexts


def optional(context: Context | None = None) -> object:
    return context if isinstance(context, dict) else type(context).__name__


def beside_unknown(context: Ctx, other: Unknown = None) -> object:  # type: ignore[name-defined]  # noqa: F821
    return optional(context)


def first(context: Context, number: int) -> object:
    return optional(context)


class Callee:
    def __call__(self, context: Context) -> object:
        return optional(context)


Ctx = Context


@pytest.mark.parametrize("function", [optional, beside_unknown, functools.partial(first, number=1), Callee()])
def test_a_client_cannot_send_a_context_of_its_own(function: Callable[..., object]) -> None:
    with running() as server, peer(server, "") as each:
        server.function("f")(function)
        assert each.call({"fname": "f"})[0].get("data") == "Context"
        assert each.call({"fname": "f", "context": {"user": "admin"}})[0]["error"]["code"] == 403


def positional(context: Context, /) -> None: ...


@pytest.mark.parametrize("function", [positional, max, functools.partial(first)])
def test_what_cannot_be_offered_is_refused_at_once(function: Callable[..., object]) -> None:
    with pytest.raises(TypeError):
        Server(port=0).function(function)


# ------------------------------------------------------------------------------------------- what JSON cannot say


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Unspeakable


class Careless(hpx.HPXError):
    def __init__(self) -> None:
        Exception.__init__(self, "careless")


@pytest.mark.usefixtures("either_engine")
def test_whatever_fails_is_answered_and_the_connection_goes_on() -> None:
    def judge(user: str, password: str) -> bool:
        if user == "exit":
            sys.exit()
        raise hpx.HPXError("no", code={1})  # type: ignore[arg-type]

    def speechless() -> None:
        raise Unspeakable

    def careless() -> None:
        raise Careless

    with running(users=judge) as server, peer(server, "") as each:
        server.function(speechless)
        server.function(careless)
        each.socket.sendall(pack(b'{"session":"","name":"","data":{},"__id__":1e999}'))
        assert each.read()["error"]["code"] == 100
        assert each.ask([{"fname": "speechless"}])["error"]["code"] == 100
        assert each.call({"fname": "careless"})[0]["error"] == {"code": 100, "msg": "careless"}
        for user in ("exit", "strange"):
            assert each.ask({"user": user, "password": ""}, session="")["error"]["code"] == 100
        assert each.call(*CALL) == SUM


def test_who_judges_by_raising_counts_failures_too() -> None:
    def judge(user: str, password: str) -> bool:
        raise hpx.AuthWrongCredentialsError("server", "no")

    with running(users=judge) as server, peer(server) as each:
        for _ in range(4):
            assert each.ask({"user": "a", "password": "b"}, session="")["error"]["code"] == 411
        assert server._service._failures.delay("127.0.0.1", time.monotonic()) > 0


# --------------------------------------------------------------------------------------------------- the client


class Interrupted(Exception):
    pass


def test_after_an_interruption_the_late_answer_is_not_taken_for_the_next() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        read_frame(sock)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert done.wait(PATIENCE)
        sock.sendall(answer([{"fname": "f", "data": "first"}]))
        sock.recv(1)  # whether it is lost, or asked the next

    def again(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        read_frame(sock)
        sock.sendall(answer([{"fname": "f", "data": "second"}]))

    def interrupt(number: int, where: object) -> None:
        raise Interrupted

    done = threading.Event()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with scripted_server(serve, again) as address, Client("tester", *address, session_id="s", timeout=5) as client:
            with pytest.raises(Interrupted):
                client.call("f")
            done.set()
            try:
                found = client.call("f")
            except hpx.ConnectionError:
                found = client.call("f")
            if found == "first":  # let the script end
                socket.create_connection(address).close()
        assert found == "second"
    finally:
        done.set()
        signal.signal(signal.SIGUSR1, before)


def test_a_call_in_a_signal_handler_does_not_take_the_answer_of_the_interrupted_one() -> None:
    caught: list[object] = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        read_frame(sock)
        while not done.is_set():  # one that comes just before the waiting begins is noticed when that is over
            os.kill(os.getpid(), signal.SIGUSR1)
            done.wait(0.1)
        sock.sendall(answer([{"fname": "f", "data": "outer"}]))

    def handler(number: int, where: object) -> None:
        if done.is_set():
            return
        done.set()
        try:
            caught.append(client.call("f"))
        except hpx.HPXError as failure:
            caught.append(type(failure))

    done = threading.Event()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with scripted_server(serve) as address, Client("tester", *address, session_id="s", timeout=5) as client:
            assert client.call("f") == "outer"
        assert caught == [hpx.ClientError]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_timeout_is_for_silence_as_the_released_client_has_it() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        read_frame(sock)
        for byte in answer([{"fname": "f", "data": 5}])[:-1]:
            sock.sendall(bytes((byte,)))
            threading.Event().wait(0.01)
        sock.sendall(b">")

    with scripted_server(serve) as address, Client("tester", *address, session_id="s", timeout=0.5) as client:
        assert client.call("f") == 5


def test_a_session_is_renewed_as_what_it_was() -> None:
    with running() as server, Client("tester", *server.address) as client:
        client.handshake("admin", "wrong", ignore_err=True)
        client.handshake()
        server._service.clear()
        assert client.call("who")[0] is None  # type: ignore[index]
        client.handshake("admin", "secret")
        with Client("other", *server.address, session_id=client.session) as other:
            assert other.call("who")[0] == "admin"  # type: ignore[index]
            server._service.clear()
            with pytest.raises(hpx.SessionError):  # and no guest all of a sudden
                other.call("who")


def test_a_session_is_not_shown_to_another_server() -> None:
    seen = []

    def lose(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))

    def other(sock: socket.socket) -> None:
        sock.sendall(frame(GREETING))
        seen.append(read_frame(sock)["session"])
        sock.sendall(answer([]))

    with scripted_server(lose) as one, scripted_server(other) as two:
        client = Client("tester", *one, session_id="secret")
        client.connect()
        with pytest.raises(hpx.ConnectionError):
            client.send([])
        client.connect(*two)
        client.send([], raise_on_auth=False)
        client.close()
    assert seen == [""]


def test_close_while_connecting_leaves_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server(lambda sock: None) as address:
        client = Client("tester", *address)
        connect = client._tcp.connect

        def slow() -> bool:
            client.close()
            return connect()

        monkeypatch.setattr(client._tcp, "connect", slow)
        with pytest.raises(hpx.ClientError):
            client.connect()
        assert not client.alive()


# --------------------------------------------------------------------------------------------------- the server


@pytest.mark.usefixtures("either_engine")
def test_close_in_a_function_does_not_wait_for_who_waits_for_it() -> None:
    gate = Gate()
    took: list[float] = []
    with running() as server, peer(server, "admin") as admin, peer(server, "") as each:

        def stop() -> None:
            gate.arrive()
            began = time.monotonic()
            server.close()
            took.append(time.monotonic() - began)

        server.function(stop)
        each.send_json({"session": each.session, "name": "", "data": [{"fname": "stop"}]})
        gate.wait_arrived()
        assert admin.ask("serverquit")["data"] == "serverquit"
        wait_until(lambda: not server.running)
        gate.open()
        wait_until(lambda: bool(took), patience=10)
    assert took[0] < 2


@pytest.mark.usefixtures("either_engine")
def test_close_while_a_command_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_value))
    gate = Gate()
    with running() as server, peer(server, "admin") as admin:
        tcp = server._tcp
        assert tcp is not None
        monkeypatch.setattr(tcp, "stop", gate.arrive)
        admin.send_json({"session": admin.session, "name": "", "data": "serverquit"})
        gate.wait_arrived()
        closing = threading.Thread(target=server.close)
        closing.start()
        wait_until(lambda: not tcp.addresses or not tcp._listeners)
        gate.open()
        closing.join(PATIENCE)
    assert not failures


@pytest.mark.usefixtures("either_engine")
def test_a_command_right_after_a_restart_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with running() as server:
        listen = server._listen

        def listen_and_linger() -> None:
            listen()
            if threading.current_thread().name.endswith("serverrestart"):
                gate.arrive()

        monkeypatch.setattr(server, "_listen", listen_and_linger)
        with peer(server, "admin") as admin:
            admin.ask("serverrestart")
        gate.wait_arrived()
        try:
            with peer(server, "admin") as admin:
                assert admin.ask("serverquit")["data"] == "serverquit"
                wait_until(lambda: not server.running)
        finally:
            gate.open()


def test_an_interrupted_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TCPServer] = []
    start = TCPServer.start

    def interrupted(tcp: TCPServer) -> None:
        start(tcp)
        made.append(tcp)
        raise KeyboardInterrupt

    monkeypatch.setattr(TCPServer, "start", interrupted)
    server = Server(port=0)
    try:
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever()
        assert not made[0].addresses or not made[0]._listeners
    finally:
        made[0].close()


def test_a_restart_that_fails_in_any_way_ends_serve_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    server = Server(port=0, users={"admin": "secret"})
    server.start()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with peer(server, "admin") as admin:

        def start(tcp: TCPServer) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(TCPServer, "start", start)
        admin.ask("serverrestart")
        thread.join(PATIENCE)
    alive = thread.is_alive()
    server.close()
    assert not alive


def test_close_in_a_signal_handler_that_interrupts_close() -> None:
    server = Server(port=0)
    server.start()
    left = [True]

    def trace(frame: Any, event: str, argument: object) -> Any:
        if "threading" in frame.f_code.co_filename and frame.f_code.co_name == "notify_all" and left:
            left.clear()
            sys.settrace(None)
            server.close()  # as a handler of SIGTERM would
        return trace

    def close() -> None:
        sys.settrace(trace)
        server.close()

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(3)
    stuck = thread.is_alive()
    assert not stuck


# ----------------------------------------------------------------------------------------------------- the codec


@pytest.mark.usefixtures("either_engine")
def test_a_slow_message_with_the_delimiter_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STALL", 0.3)
    with running() as server, peer(server, "") as each:
        text = b'{"session":"%s","name":"<EOF>","data":[{"fname":"add","a":1}]}' % each.session.encode()
        for byte in gzip.compress(text, 0) + b"<EOF>":
            each.socket.sendall(bytes((byte,)))
            threading.Event().wait(0.01)
        assert each.read()["data"] == SUM


@pytest.mark.usefixtures("either_engine")
def test_a_truncated_message_at_the_end_of_the_stream_is_answered_and_hides_nothing() -> None:
    with running() as server, peer(server, "") as each:
        each.send_packed(gzip.compress(b"hello" * 100, 0)[:50])
        each.send_json({"session": each.session, "name": "", "data": CALL})
        each.socket.shutdown(socket.SHUT_WR)
        assert each.read()["error"]["code"] == 410
        assert each.read()["data"] == SUM


@pytest.mark.usefixtures("either_engine")
def test_damaged_messages_do_not_outlive_the_time_for_a_handshake() -> None:
    with running(handshake_timeout=0.3) as server, peer(server) as each:
        each.send_packed(gzip.compress(b"hello" * 100, 0)[:50])
        began = time.monotonic()
        assert each.read()["error"]["code"] == 410
        assert each.is_over()
        assert time.monotonic() - began < 2


def test_a_frame_of_many_pieces_takes_no_more_memory_than_another() -> None:
    text = b"<EOF>" * 40_000
    deflater = zlib.compressobj(0, zlib.DEFLATED, 31)
    packed = deflater.compress(text) + deflater.flush() + b"<EOF>"
    unpacker = Unpacker()
    tracemalloc.start()
    try:
        found = [each for piece in packed.split(b"<EOF>")[:-1] for each in unpacker.take(piece + b"<EOF>")]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [text]
    assert peak < 16 * len(text)


def test_closing_ends_a_send_to_a_server_that_never_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client("c", port=listener.getsockname()[1], host="127.0.0.1", session_id="s")
        connecting = threading.Thread(target=client.connect)
        connecting.start()
        deaf, _ = listener.accept()
        ended: list[bool] = []

        def send() -> None:
            with pytest.raises(hpx.HPXError):
                client.send_bytes(os.urandom(14 << 20))
            ended.append(True)

        with deaf:
            deaf.sendall(frame(GREETING))
            connecting.join(PATIENCE)
            thread = threading.Thread(target=send)
            thread.start()
            connection = client._tcp._connection
            assert connection is not None
            wait_until(lambda: is_held(connection.stream.write_lock), "the send to wait")
            began = time.monotonic()
            client.close()
            thread.join(PATIENCE)
            assert ended
            assert time.monotonic() - began < PATIENCE / 2
