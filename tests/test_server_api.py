"""TCPServer, call by call: what programs of both generations pass, read and get."""

from __future__ import annotations

import array
import contextlib
import errno
import importlib
import logging
import os
import pathlib
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

import simplesockets
from simplesockets import (
    BindError,
    Event,
    LifecycleError,
    ResolveError,
    Server_Client,
    SetupError,
    Socket_Response,
    TCPServer,
    UnknownClient,
    transport,
)

from .support.programs import has_ipv6
from .support.running import HOST, raw_client, read_exactly, reset, running_server
from .support.waiting import PATIENCE, Gate, wait_until

pytestmark = pytest.mark.usefixtures("either_engine")

NOWHERE = "no-such-host.invalid"
"""A name that never resolves (RFC 6761)."""
NOT_OURS = "203.0.113.1"
"""An address that no machine has (RFC 5737)."""
MOMENT = 0.1
"""Seconds to watch for something that must not happen."""

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")


@pytest.fixture
def server() -> Iterator[TCPServer]:
    """A polled server that accepts."""
    with running_server() as server:
        yield server


@pytest.fixture
def bare() -> Iterator[TCPServer]:
    """A server that is not set up."""
    with contextlib.closing(TCPServer()) as server:
        yield server


@pytest.fixture
def sock(server: TCPServer) -> Iterator[socket.socket]:
    """A plain socket that is connected to it."""
    with raw_client(server) as sock:
        yield sock


@pytest.fixture
def client(server: TCPServer, sock: socket.socket) -> Server_Client:
    """That socket as the server sees it."""
    return entry_of(server, sock)


def entry_of(server: TCPServer, sock: socket.socket) -> Server_Client:
    """The entry of the client at the other end of that socket."""
    wait_until(lambda: sock.getsockname() in server.clients, "the client's entry")
    return server.clients[sock.getsockname()]


def next_item(server: TCPServer) -> Any:
    """The next received item, which must come alone."""
    wait_until(lambda: server.event.new_data, "received data")
    (item,) = server.return_recved_data()
    return item


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run something in a thread; gives the thread and the list that its result will be put in."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    return thread, results


def is_served(sock: socket.socket) -> bool:
    """Whether a server that greets whom it accepts has accepted this socket, within a moment."""
    return bool(select.select([sock], [], [], MOMENT)[0])


def greet(address: Any) -> None:
    """An ``on_connect`` for that."""
    address.send(b"hello")


# ---------------------------------------------------------------------------------------------------- what comes in


def test_received_item_is_a_tuple_of_client_address_and_bytes(server: TCPServer, sock: socket.socket) -> None:
    sock.sendall(b"text")
    item = next_item(server)
    client, address, data = item
    assert isinstance(item, tuple)
    assert len(item) == 3
    assert client is server.clients[address]
    assert address == sock.getsockname()
    assert data == item[2] == b"text"
    assert type(data) is bytes


def test_received_item_has_the_attributes_of_a_response(server: TCPServer, sock: socket.socket) -> None:
    before = datetime.now()
    sock.sendall(b"text")
    item = next_item(server)
    assert isinstance(item, Socket_Response)
    assert item.response == b"text"
    assert isinstance(item.response, bytes)
    assert item.from_ is item[0]
    assert before - timedelta(seconds=1) <= item.time_ <= datetime.now() + timedelta(seconds=1)


def test_received_item_equals_what_has_the_same_content(server: TCPServer, sock: socket.socket) -> None:
    sock.sendall(b"text")
    item = next_item(server)
    assert item.equals(b"text")
    assert item.equals(item)
    assert item.equals(Socket_Response(b"text", datetime.now()))
    assert not item.equals(b"other")
    with pytest.raises(TypeError, match="bytes"):
        item.equals("text")


def test_callback_gets_bytes_that_are_a_response_too() -> None:
    got: list[Any] = []
    with running_server(on_receive=lambda client, received: got.append((client, received))) as server:
        with raw_client(server) as sock:
            sock.sendall(b"text")
            wait_until(lambda: got)
        ((client, received),) = got
    assert received == b"text"
    assert isinstance(received, bytes)
    assert isinstance(received, Socket_Response)
    assert bytes(received.response) == b"text"  # type: ignore[arg-type]
    assert received.from_ is client
    assert received.equals(b"text")
    assert isinstance(received.time_, datetime)


def test_returning_data_lowers_the_flag_and_empties_the_list(server: TCPServer, sock: socket.socket) -> None:
    assert server.event.new_data is False
    assert server.new_data_recved is False
    assert server.return_recved_data() == []
    sock.sendall(b"text")
    wait_until(lambda: server.new_data_recved)
    assert server.event.new_data is True
    assert [item.response for item in server.recved_data] == [b"text"]
    assert [item.response for item in server.return_recved_data()] == [b"text"]
    assert server.event.new_data is False
    assert server.new_data_recved is False
    assert server.recved_data == []


def test_data_is_kept_for_polling_beside_the_callback() -> None:
    got: list[bytes] = []
    with running_server(on_receive=lambda data: got.append(data)) as server, raw_client(server) as sock:
        sock.sendall(b"text")
        wait_until(lambda: got)
        assert next_item(server).response == b"text"
    assert got == [b"text"]


# --------------------------------------------------------------------------------------- the client as a socket


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"array"), memoryview(b"view"), "text ä"])
def test_send_returns_the_number_of_bytes(client: Server_Client, sock: socket.socket, data: Any) -> None:
    content = data.encode() if isinstance(data, str) else bytes(data)
    assert client.send(data) == len(content)
    assert read_exactly(sock, len(content)) == content


def test_send_sends_everything(client: Server_Client, sock: socket.socket) -> None:
    content = os.urandom(8_000_000)
    sender, results = in_thread(lambda: client.send(content))
    assert read_exactly(sock, len(content)) == content
    sender.join(PATIENCE)
    assert results == [len(content)]


def test_send_takes_raw_as_in_04(client: Server_Client, sock: socket.socket) -> None:
    assert client.send(b"one", True) + client.send(b"two", raw=False) == 6
    assert read_exactly(sock, 6) == b"onetwo"


def test_sendall_returns_nothing(client: Server_Client, sock: socket.socket) -> None:
    result: object = client.sendall(b"text")  # type: ignore[func-returns-value]
    assert result is None
    assert read_exactly(sock, 4) == b"text"


def test_send_refuses_other_types_and_says_what_to_do(client: Server_Client) -> None:
    with pytest.raises(TypeError, match=r"int.*convert"):
        client.send(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"dict.*convert"):
        client.sendall({})  # type: ignore[arg-type]


def test_client_answers_for_its_socket(client: Any, sock: socket.socket) -> None:
    assert client.getpeername() == sock.getsockname()
    assert client.getsockname() == sock.getpeername()
    assert client.fileno() == client.socket.fileno() >= 0
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    with pytest.raises(AttributeError):
        client.no_such_thing  # noqa: B018


def test_client_can_be_selected() -> None:
    got: list[bytes] = []

    def handle(client: Any) -> None:
        readable, writable, _ = select.select([client], [client], [], PATIENCE)
        assert writable == [client]
        if not readable:
            readable, _, _ = select.select([client], [], [], PATIENCE)
        assert readable == [client]
        got.append(client.recv(100))

    with running_server(handle_client=handle) as server, raw_client(server) as sock:
        sock.sendall(b"text")
        wait_until(lambda: got or server.event.exception.occurred)
    assert got == [b"text"]


def test_shutdown_ends_the_stream_to_the_client_and_not_the_one_from_it(
    server: TCPServer, client: Any, sock: socket.socket
) -> None:
    client.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    sock.sendall(b"still heard")
    assert next_item(server).response == b"still heard"


def test_close_ends_the_connection(server: TCPServer, client: Server_Client, sock: socket.socket) -> None:
    client.send(b"last words")
    client.close()
    assert read_exactly(sock, 100) == b"last words"
    assert client.address not in server.clients
    with pytest.raises(ConnectionError, match="closed"):
        client.send(b"too late")
    client.close()


def test_close_runs_on_disconnect_once() -> None:
    gone: list[object] = []
    with running_server(on_disconnect=gone.append) as server:
        with raw_client(server) as sock:
            client = entry_of(server, sock)
            wait_until(lambda: client._announced, "on_connect")
            client.close()
            client.close()
            address = sock.getsockname()
            assert sock.recv(1) == b""
        wait_until(lambda: client.fileno() < 0)
    assert gone == [address]


def test_closed_client_has_no_descriptor(client: Server_Client, sock: socket.socket) -> None:
    client.close()
    sock.close()
    wait_until(lambda: client.fileno() == -1)


def test_recv_with_a_number_gives_at_most_so_many_bytes() -> None:
    got: list[bytes] = []

    def handle(client: Server_Client) -> None:
        while data := client.recv(4):
            got.append(data)
        got.append(data)

    with running_server(handle_client=handle) as server, raw_client(server) as sock:
        sock.sendall(b"0123456789")
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: got and got[-1] == b"")
    assert b"".join(got) == b"0123456789"
    assert max(map(len, got)) == 4


@pytest.mark.parametrize("arguments", [{}, {"raw": True}, {"raw": False}], ids=str)
def test_recv_without_a_number_gives_an_item(arguments: dict[str, bool]) -> None:
    got: list[Any] = []
    content = os.urandom(5000)

    def handle(client: Server_Client) -> None:
        assert len(client.recv(1)) == 1  # the rest has arrived, too
        got.append(client.recv(**arguments))

    with running_server(handle_client=handle) as server, raw_client(server) as sock:
        sock.sendall(content)
        wait_until(lambda: got or server.event.exception.occurred)
    (item,) = got
    assert len(item) > 1
    assert content[1:].startswith(item)
    assert item.response == item
    assert item.from_ is not None
    assert isinstance(item, Socket_Response)


def test_recv_takes_raw_by_position_as_in_04(client: Server_Client, sock: socket.socket) -> None:
    for raw in (True, False):
        sock.sendall(b"a whole item")
        assert client.recv(raw, timeout=PATIENCE) == b"a whole item"


@pytest.mark.parametrize("size", [None, 100])
def test_recv_elsewhere_gives_what_was_received_before_the_end(
    server: TCPServer, client: Server_Client, sock: socket.socket, size: int | None
) -> None:
    sock.sendall(b"text")
    wait_until(lambda: server.event.new_data)
    sock.close()
    wait_until(lambda: not server.clients)
    assert client.recv(size, timeout=PATIENCE) == b"text"
    assert client.recv(size, timeout=PATIENCE) == b""


def test_recv_in_a_callback_reads_what_follows() -> None:
    got: list[bytes] = []

    def on_receive(client: Server_Client, data: bytes) -> None:
        client.send(b"go on")
        got.extend([data, client.recv(3), client.recv()])

    with running_server(on_receive=on_receive) as server, raw_client(server) as sock:
        sock.sendall(b"first")
        read_exactly(sock, 5)
        sock.sendall(b"second")
        wait_until(lambda: got or server.event.exception.occurred)
    assert got == [b"first", b"sec", b"ond"]


def test_recv_elsewhere_takes_what_was_received_for_polling(
    server: TCPServer, client: Server_Client, sock: socket.socket
) -> None:
    sock.sendall(b"text")
    wait_until(lambda: server.event.new_data)
    assert client.recv(timeout=PATIENCE) == b"text"
    assert server.event.new_data is False
    assert server.return_recved_data() == []


def test_recv_with_a_number_elsewhere_leaves_the_rest_for_later(client: Server_Client, sock: socket.socket) -> None:
    sock.sendall(b"0123456789")
    assert [client.recv(4, timeout=PATIENCE) for _ in range(3)] == [b"0123", b"4567", b"89"]


def test_recv_waits_for_data(client: Server_Client, sock: socket.socket) -> None:
    receiver, results = in_thread(client.recv)
    sock.sendall(b"text")
    receiver.join(PATIENCE)
    assert results == [b"text"]


def test_recv_can_time_out(client: Server_Client) -> None:
    with pytest.raises(TimeoutError):
        client.recv(timeout=0.01)


def test_timeout_of_the_clients_socket_ends_recv_and_nothing_else() -> None:
    got: list[object] = []

    def handle(client: Any) -> None:
        client.settimeout(0.01)
        try:
            client.recv(100)
        except TimeoutError:
            got.append("nothing came")
        client.settimeout(PATIENCE)
        client.send(b"go on")
        got.append(client.recv(100))

    with running_server(handle_client=handle) as server, raw_client(server) as sock:
        assert read_exactly(sock, 5) == b"go on"
        sock.sendall(b"text")
        wait_until(lambda: len(got) == 2 or server.event.exception.occurred)
    assert got == ["nothing came", b"text"]


def test_timeout_of_the_clients_socket_does_not_end_polling(
    server: TCPServer, client: Any, sock: socket.socket
) -> None:
    client.settimeout(0.01)
    for _ in range(3):
        assert server.await_event(30) == ("--TIMEOUT--", None)
        sock.sendall(b"x" * 2048)  # a full read: more may be there
        assert next_item(server).response == b"x" * 2048
    assert client.address in server.clients


def test_recv_gives_nothing_at_the_end_of_the_stream(client: Server_Client, sock: socket.socket) -> None:
    receiver, results = in_thread(client.recv)
    sock.close()
    receiver.join(PATIENCE)
    assert results == [b""]


@pytest.mark.own_threads
def test_entry_is_a_pair_of_thread_and_socket(server: TCPServer, sock: socket.socket, client: Any) -> None:
    entry: Any = server.clients[sock.getsockname()]
    thread, sock_of_client = entry
    assert len(entry) == 2
    assert entry[0] is thread
    assert isinstance(thread, threading.Thread)
    wait_until(thread.is_alive)
    assert entry[1] is sock_of_client
    assert entry[1].getpeername() == sock.getsockname()
    assert entry[1].send(b"text") == 4
    assert read_exactly(sock, 4) == b"text"
    with pytest.raises(IndexError):
        entry[2]


def test_entry_has_the_attributes_of_04(server: TCPServer, sock: socket.socket, client: Server_Client) -> None:
    assert client.address == sock.getsockname()
    assert client.socket.getpeername() == sock.getsockname()
    assert client.thread is server.clients[client.address][0]
    assert client.recv_buffer == 2048
    assert client.key is None
    assert client.cipher is None


def test_clients_is_a_dictionary_of_who_is_connected(server: TCPServer) -> None:
    assert isinstance(server.clients, dict)
    assert server.clients == {}
    with raw_client(server) as one, raw_client(server) as two:
        wait_until(lambda: len(server.clients) == 2)
        assert set(server.clients) == {one.getsockname(), two.getsockname()}
    wait_until(lambda: server.clients == {})


def test_client_made_by_hand_covers_a_socket() -> None:
    near, far = socket.socketpair()
    with far:
        client = Server_Client(near, (HOST, 1), b"key", "cipher", threading.current_thread(), 16)
        assert (client.key, client.cipher, client.thread, client.recv_buffer) == (
            b"key",
            "cipher",
            threading.current_thread(),
            16,
        )
        assert client.send("text") == 4
        assert far.recv(100) == b"text"
        far.sendall(b"answer")
        assert client.recv(timeout=PATIENCE) == b"answer"
        client.close()
        assert far.recv(1) == b""
        assert near.fileno() == -1


# ------------------------------------------------------------------------------------------------------ callbacks


class Recorder:
    """Callbacks in the forms that a program may give."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def three(self, client: object, address: object, data: object) -> None:
        self.calls.append((client, address, data))

    def two(self, client: object, received: object) -> None:
        self.calls.append((client, received))

    def one(self, data: object) -> None:
        self.calls.append((data,))

    def any(self, *arguments: object) -> None:
        self.calls.append(arguments)

    def four(self, first: object, client: object, address: object, data: object) -> None:
        self.calls.append((client, address, data))


class Signatureless:
    """A callable whose signature cannot be found, as that of some builtins."""

    __signature__ = "none"

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, *arguments: object) -> None:
        self.recorder.any(*arguments)


def function_of_three(recorder: Recorder) -> Callable[..., object]:
    def on_receive(client: object, address: object, data: object) -> None:
        recorder.any(client, address, data)

    return on_receive


FORMS: dict[str, tuple[Callable[[Recorder], Callable[..., object]], int]] = {
    "function of three": (function_of_three, 3),
    "method of three": (lambda recorder: recorder.three, 3),
    "method of two": (lambda recorder: recorder.two, 2),
    "method of one": (lambda recorder: recorder.one, 1),
    "any number": (lambda recorder: recorder.any, 3),
    "partial of four": (lambda recorder: partial(recorder.four, "first"), 3),
    "partial of three": (lambda recorder: partial(recorder.three, "client"), 2),
    "lambda of one": (lambda recorder: lambda data: recorder.any(data), 1),
    "lambda of two": (lambda recorder: lambda client, received: recorder.any(client, received), 2),
    "one and a default": (lambda recorder: lambda a, b=None: recorder.any(a, b), 2),
    "two and a default": (lambda recorder: lambda a, b, c=None: recorder.any(a, b, c), 3),
    "all defaults": (lambda recorder: lambda a=0, b=0, c=0, d="kept": recorder.any(a, b, c, d), 3),
    "keyword with a default": (lambda recorder: lambda a, *, b=0: recorder.any(a), 1),
    "builtin with a signature": (lambda recorder: recorder.calls.append, 1),
    "no signature": (Signatureless, 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_on_receive_gets_the_most_arguments_it_takes(form: str) -> None:
    make, count = FORMS[form]
    recorder = Recorder()
    with running_server(on_receive=make(recorder)) as server, raw_client(server) as sock:
        sock.sendall(b"text")
        wait_until(lambda: recorder.calls or server.event.exception.occurred)
        client = server.clients[sock.getsockname()]
        assert not server.event.exception.occurred, server.return_exceptions()
        expected = {3: (client, sock.getsockname(), b"text"), 2: (client, b"text"), 1: (b"text",)}[count]
        if form == "partial of three":
            expected = ("client", *expected)
        if form == "builtin with a signature":
            assert recorder.calls == [b"text"]
        else:
            assert recorder.calls[0][:3] == expected


WRONG = {
    "none": lambda: None,
    "four": lambda a, b, c, d: None,
    "a keyword that must be given": lambda a, *, b: None,
}


@pytest.mark.parametrize("function", WRONG.values(), ids=WRONG)
def test_on_receive_of_no_accepted_form_is_refused_when_assigned(
    bare: TCPServer, function: Callable[..., object]
) -> None:
    forms = r"on_receive\(client_socket, address, data\).*on_receive\(client, received\).*on_receive\(data\)"
    with pytest.raises(TypeError, match=forms):
        bare.on_receive = function
    assert bare.on_receive is None
    with pytest.raises(TypeError, match=forms):
        bare.setup(HOST, 0, on_receive=function)
    assert bare.addresses == []


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect"])
@pytest.mark.parametrize("function", [lambda: None, lambda a, b: None], ids=["none", "two"])
def test_on_connect_and_on_disconnect_take_one_argument(
    bare: TCPServer, name: str, function: Callable[..., object]
) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(address\)"):
        setattr(bare, name, function)
    with pytest.raises(TypeError, match=rf"{name}\(address\)"):
        bare.setup(HOST, 0, **{name: function})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_receive", "handle_client"])
@pytest.mark.parametrize("thing", [5, "print", b"", ()], ids=repr)
def test_callback_that_cannot_be_called_is_refused(bare: TCPServer, name: str, thing: Any) -> None:
    with pytest.raises(TypeError, match=f"{name}.*not callable"):
        bare.setup(HOST, 0, **{name: thing})
    if name != "handle_client":
        with pytest.raises(TypeError, match=f"{name}.*not callable"):
            setattr(bare, name, thing)


def test_callable_that_is_empty_is_a_callback_too() -> None:
    class Log(list[object]):
        def __call__(self, data: object) -> None:
            self.append(data)

    log = Log()
    with running_server(on_connect=log) as server, raw_client(server) as sock:
        wait_until(lambda: server.clients)
        sock.sendall(b"text")
        next_item(server)
        assert log == [sock.getsockname()]


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_receive"])
def test_callback_can_be_read_replaced_and_removed(bare: TCPServer, name: str) -> None:
    assert getattr(bare, name) is None
    setattr(bare, name, print)
    assert getattr(bare, name) is print
    setattr(bare, name, None)
    assert getattr(bare, name) is None


def test_on_receive_assigned_later_gets_the_next_item(server: TCPServer, sock: socket.socket) -> None:
    sock.sendall(b"first")
    assert next_item(server).response == b"first"
    got: list[object] = []
    server.on_receive = lambda data: got.append(data)
    sock.sendall(b"second")
    wait_until(lambda: got)
    assert got == [b"second"]


def test_on_connect_gets_an_address_that_answers_for_the_client() -> None:
    came: list[Any] = []
    with running_server(on_connect=came.append) as server, raw_client(server) as sock:
        wait_until(lambda: came)
        address = came[0]
        assert address == sock.getsockname()
        assert issubclass(type(address), tuple)
        assert tuple(address) == sock.getsockname()
        assert server.clients[address] is server.clients[sock.getsockname()]
        assert address.address == sock.getsockname()
        assert address.socket.getpeername() == sock.getsockname()
        assert address.thread is server.clients[address].thread
        assert address.send(b"hello") == 5
        assert read_exactly(sock, 5) == b"hello"
        sock.sendall(b"text")
        assert address.recv(timeout=PATIENCE) == b"text"
        address.close()
        assert sock.recv(1) == b""


def test_on_disconnect_gets_the_address_once_it_has_left_clients() -> None:
    left: list[Any] = []
    with running_server() as server:
        server.on_disconnect = lambda address: left.append((address, dict(server.clients)))
        with raw_client(server) as sock:
            wait_until(lambda: server.clients)
            address = sock.getsockname()
        wait_until(lambda: left)
    assert left == [(address, {})]
    assert left[0][0].address == address


@pytest.mark.parametrize("leave", [socket.socket.close, reset, lambda sock: sock.shutdown(socket.SHUT_WR)])
def test_callbacks_of_a_client_run_in_order(leave: Callable[[socket.socket], object]) -> None:
    events: list[object] = []
    with running_server(
        on_connect=lambda address: events.append("connect"),
        on_receive=lambda data: events.append(bytes(data)),
        on_disconnect=lambda address: events.append("disconnect"),
    ) as server:
        with raw_client(server) as sock:
            sock.sendall(b"text")
            wait_until(lambda: b"text" in events)
            leave(sock)
            wait_until(lambda: "disconnect" in events)
        wait_until(lambda: not server.clients)
    assert events == ["connect", b"text", "disconnect"]


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_receive"])
def test_exception_in_a_callback_is_recorded_and_service_goes_on(name: str) -> None:
    def fail(thing: object) -> None:
        raise LookupError("the program's own")

    arguments: Any = {name: fail}
    with running_server(**arguments) as server:
        with raw_client(server) as sock:
            sock.sendall(b"text")
            assert next_item(server).response == b"text"
        wait_until(lambda: server.event.exception.occurred)
        (record,) = server.return_exceptions()
        assert isinstance(record.exception, LookupError)
        assert "in fail" in (record.traceback or "")
        server.on_connect = server.on_disconnect = server.on_receive = None
        with raw_client(server) as sock:
            sock.sendall(b"text")
            assert next_item(server).response == b"text"


def test_subclass_can_define_callbacks_as_methods() -> None:
    events: list[object] = []

    class Service(TCPServer):
        def on_connect(self, address: object) -> None:
            events.append(("connect", address))

        def on_receive(self, client: Server_Client, address: object, data: bytes) -> None:
            events.append(data)
            client.send(data)

        def on_disconnect(self, address: object) -> None:
            events.append(("disconnect", address))

    server = Service()
    server.setup(HOST, 0)
    with server:
        with raw_client(server) as sock:
            address = sock.getsockname()
            sock.sendall(b"text")
            assert read_exactly(sock, 4) == b"text"
        wait_until(lambda: len(events) == 3)
    assert events == [("connect", address), b"text", ("disconnect", address)]


def test_method_of_a_subclass_is_checked_like_any_callback() -> None:
    class Service(TCPServer):
        def on_receive(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"on_receive\(client_socket, address, data\)"):
        Service().setup(HOST, 0)


def test_function_given_to_setup_goes_before_the_method_of_a_subclass() -> None:
    got: list[object] = []

    class Service(TCPServer):
        def on_receive(self, data: bytes) -> None:
            got.append("method")

    server = Service()
    server.setup(HOST, 0, on_receive=lambda data: got.append("function"))
    with server, raw_client(server) as sock:
        sock.sendall(b"text")
        wait_until(lambda: got)
    assert got == ["function"]


# ----------------------------------------------------------------------------------------- handle_client


def test_handle_client_with_two_arguments_gets_client_and_address() -> None:
    calls: list[tuple[object, object]] = []

    def handle(client: Server_Client, address: object) -> None:
        calls.append((client, address))
        client.send(client.recv(100))

    with running_server(handle_client=handle) as server, raw_client(server) as sock:
        sock.sendall(b"text")
        assert read_exactly(sock, 100) == b"text"
        ((client, address),) = calls
        assert isinstance(client, Server_Client)
        assert client.address == address == sock.getsockname()


def test_handle_client_with_one_argument_gets_the_client() -> None:
    def handle(client: Server_Client) -> None:
        client.send(client.recv())

    with running_server(handle_client=handle) as server, raw_client(server) as sock:
        sock.sendall(b"text")
        assert read_exactly(sock, 100) == b"text"


def test_handle_client_stands_in_for_reading_and_on_receive() -> None:
    events: list[object] = []
    with running_server(
        on_connect=lambda address: events.append("connect"),
        handle_client=lambda client: events.append(client.recv()),
        on_receive=lambda data: events.append("on_receive"),
        on_disconnect=lambda address: events.append("disconnect"),
    ) as server:
        with raw_client(server) as sock:
            sock.sendall(b"text")
            assert sock.recv(1) == b""  # the connection ended when the function returned
        wait_until(lambda: not server.clients and "disconnect" in events)
        assert not server.event.new_data
    assert events == ["connect", b"text", "disconnect"]


def test_exception_in_handle_client_is_recorded_and_ends_that_client() -> None:
    with running_server(handle_client=lambda client: 1 / 0) as server:
        with raw_client(server) as sock:
            assert sock.recv(1) == b""
        wait_until(lambda: server.event.exception.occurred)
        assert isinstance(server.return_exceptions()[0].exception, ZeroDivisionError)
        wait_until(lambda: not server.clients)


@pytest.mark.parametrize("function", [lambda: None, lambda a, b, c: None], ids=["none", "three"])
def test_handle_client_of_no_accepted_form_is_refused(bare: TCPServer, function: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=r"handle_client\(client_socket, address\) or handle_client\(client\)"):
        bare.setup(HOST, 0, handle_client=function)


# -------------------------------------------------------------------------------------------------------- sending

CONTENTS: dict[str, tuple[Any, bytes]] = {
    "bytes": (b"data", b"data"),
    "bytearray": (bytearray(b"data"), b"data"),
    "memoryview": (memoryview(b"data"), b"data"),
    "array": (array.array("B", b"data"), b"data"),
    "text": ("dätä", "dätä".encode()),
    "a response": (Socket_Response(b"data", datetime.now()), b"data"),
    "a response of parts": (Socket_Response((b"da", b"ta"), datetime.now()), b"data"),
    "a response of text": (Socket_Response("dätä", datetime.now()), "dätä".encode()),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_send_data_sends(kind: str, server: TCPServer, sock: socket.socket, client: Server_Client) -> None:
    data, content = CONTENTS[kind]
    assert server.send_data(data, client) is True
    assert read_exactly(sock, len(content)) == content


def test_send_data_sends_what_was_received(server: TCPServer, sock: socket.socket) -> None:
    sock.sendall(b"text")
    item = next_item(server)
    assert server.send_data(item, item[0])
    assert server.send_data(item[2], item[0])
    assert read_exactly(sock, 8) == b"texttext"


TARGETS: dict[str, Callable[[Any], Any]] = {
    "the client": lambda client: client,
    "its socket": lambda client: client.socket,
    "its address": lambda client: client.address,
    "an equal address": lambda client: (client.address[0], client.address[1]),
    "the entry's second element": lambda client: client[1],
}


@pytest.mark.parametrize("kind", TARGETS)
def test_send_data_takes(kind: str, server: TCPServer, sock: socket.socket, client: Server_Client) -> None:
    assert server.send_data(b"text", TARGETS[kind](client)) is True
    assert read_exactly(sock, 4) == b"text"


@pytest.mark.parametrize("kind", TARGETS)
def test_disconnect_takes(kind: str, server: TCPServer, sock: socket.socket, client: Server_Client) -> None:
    assert server.disconnect(TARGETS[kind](client)) is True
    assert sock.recv(1) == b""
    assert client.address not in server.clients


@pytest.mark.parametrize("kind", TARGETS)
def test_recv_data_takes(kind: str, server: TCPServer, sock: socket.socket, client: Server_Client) -> None:
    sock.sendall(b"text")
    assert server.recv_data(TARGETS[kind](client), timeout=PATIENCE) == b"text"


def test_a_callbacks_address_is_a_target() -> None:
    came: list[Any] = []
    with running_server(on_connect=came.append) as server, raw_client(server) as sock:
        (address,) = wait_until(lambda: came)
        assert server.send_data(b"hello", address)
        assert read_exactly(sock, 5) == b"hello"
        assert server.disconnect(address)
        assert sock.recv(1) == b""


@pytest.mark.parametrize("data", [None, 5, 1.5, ["list"], {"a": 1}, object()], ids=lambda data: type(data).__name__)
def test_send_data_of_another_type_says_what_to_do(server: TCPServer, client: Server_Client, data: Any) -> None:
    with pytest.raises(TypeError, match=f"bytes.*{type(data).__name__}.*convert it"):
        server.send_data(data, client)
    assert not server.event.exception.occurred


@pytest.mark.parametrize("target", [None, 5, "127.0.0.1", b"x", ["127.0.0.1", 5], {}], ids=repr)
def test_target_of_another_type_says_what_to_do(server: TCPServer, target: Any) -> None:
    for call in (partial(server.send_data, b"text"), server.disconnect, server.recv_data):
        with pytest.raises(TypeError, match=r"socket or object.*address.*server\.clients"):
            call(target)
    assert not server.event.exception.occurred


@pytest.mark.parametrize("target", [("127.0.0.1", 1), (), ("x",)], ids=repr)
def test_unknown_target_is_false_and_recorded(server: TCPServer, target: Any) -> None:
    assert server.send_data(b"text", target) is False
    assert server.disconnect(target) is False
    assert server.event.exception.occurred
    records = server.return_exceptions()
    assert [type(record.exception) for record in records] == [UnknownClient, UnknownClient]
    assert repr(target) in str(records[0].exception)


def test_foreign_socket_is_an_unknown_target(server: TCPServer) -> None:
    with socket.socket() as foreign:
        assert server.send_data(b"text", foreign) is False
    assert isinstance(server.return_exceptions()[0].exception, UnknownClient)


def test_recv_data_of_an_unknown_client_is_empty_and_recorded(server: TCPServer) -> None:
    assert server.recv_data(("127.0.0.1", 1)) == b""
    assert isinstance(server.return_exceptions()[0].exception, UnknownClient)


def test_recv_data_can_time_out(server: TCPServer, client: Server_Client) -> None:
    with pytest.raises(TimeoutError):
        server.recv_data(client, timeout=0.01)


def test_sending_to_a_client_that_left_is_false_and_recorded(
    server: TCPServer, client: Server_Client, sock: socket.socket
) -> None:
    reset(sock)
    wait_until(lambda: not server.clients)
    assert server.send_data(b"text", client) is False
    assert server.send_data(b"text", client.address) is False
    assert server.event.exception.occurred
    kinds = [type(record.exception) for record in server.return_exceptions()]
    assert issubclass(kinds[0], ConnectionError)
    assert kinds[1] is UnknownClient


# ------------------------------------------------------------------------------------------------------ exceptions


def fail_once(server: TCPServer) -> None:
    """Have the server record an exception."""
    assert not server.send_data(b"text", (HOST, 1))


def test_return_exceptions_gives_a_list_of_traceback_and_exception(server: TCPServer) -> None:
    fail_once(server)
    records = server.return_exceptions()
    ((text, exception),) = records
    assert isinstance(records, list)
    assert isinstance(exception, UnknownClient)
    assert isinstance(text, str)
    assert "UnknownClient" in text
    (record,) = records
    assert (record.traceback, record.exception) == (text, exception)
    assert abs(datetime.now() - record.time) < timedelta(seconds=PATIENCE)


def test_return_exceptions_answers_like_a_dictionary_by_time(server: TCPServer) -> None:
    fail_once(server)
    records = server.return_exceptions()
    ((key, record),) = records.items()
    assert key == record.time.strftime("%H:%M:%S|%d.%m.%Y")
    assert list(records.keys()) == [key]
    assert list(records.values()) == [record] == [records[0]]
    assert records.get(key) is record is records[key]
    assert records.get("never") is None
    with pytest.raises(KeyError):
        records["never"]


def test_return_exceptions_forgets_them_and_lowers_the_flag(server: TCPServer) -> None:
    assert server.event.exception.occurred is False
    fail_once(server)
    assert server.event.exception.occurred is True
    assert len(server.return_exceptions()) == 1
    assert server.event.exception.occurred is False
    assert server.return_exceptions() == []


@pytest.mark.parametrize("arguments", [((False,), {}), ((), {"delete": False})], ids=str)
def test_return_exceptions_can_keep_them(server: TCPServer, arguments: Any) -> None:
    fail_once(server)
    positional, named = arguments
    kept = server.return_exceptions(*positional, **named)
    assert not server.event.exception.occurred
    assert len(kept) == 1
    assert server.event.exception.list == kept
    assert server.return_exceptions() == kept


@pytest.mark.parametrize(
    "arguments", [((True, False), {}), ((), {"reset_exception": False}), ((), {"reset_exceptions": False})], ids=str
)
def test_return_exceptions_can_keep_the_flag_up(server: TCPServer, arguments: Any) -> None:
    fail_once(server)
    positional, named = arguments
    assert len(server.return_exceptions(*positional, **named)) == 1
    assert server.event.exception.occurred
    assert server.return_exceptions() == []
    assert not server.event.exception.occurred


def test_caught_exceptions_have_both_names(server: TCPServer) -> None:
    fail_once(server)
    assert server.event.exception.list is server.event.exception.exceptions
    caught = server.event.exception.exceptions
    assert list(caught.exceptions.values()) == list(caught)
    caught.add(ValueError("mine"), "its traceback")
    assert caught[-1] == ("its traceback", caught[-1].exception)
    caught.clear()
    assert server.return_exceptions() == []


def test_newest_thousand_exceptions_are_kept_and_the_rest_counted(server: TCPServer) -> None:
    for port in range(1, 1006):
        server.send_data(b"text", (HOST, port))
    records = server.event.exception.list
    assert len(records) == 1000
    assert records.dropped == 5
    assert f"{HOST!r}, 1005)" in str(records[-1].exception)


# ---------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EVENT_RECEIVED", "--RECEIVED--"),
        ("EVENT_EXCEPTION", "--EXCEPTION--"),
        ("EVENT_TIMEOUT", "--TIMEOUT--"),
    ],
)
def test_event_equals_its_string_and_any_event_of_its_name(name: str, text: str) -> None:
    event = getattr(TCPServer(), name)
    assert event == text
    assert text == event
    assert event == Event(text)
    assert event != Event("--OTHER--")
    assert {text: 1}[event] == 1
    assert event.name == text
    assert isinstance(event.time_, datetime)


def test_await_event_gives_received_data(server: TCPServer, sock: socket.socket) -> None:
    sock.sendall(b"text")
    event, items = server.await_event(20_000)
    assert event == server.EVENT_RECEIVED == "--RECEIVED--"
    assert items is not None
    assert [item.response for item in items] == [b"text"]  # type: ignore[union-attr]
    assert server.event.new_data is False
    assert server.await_event(1) == (server.EVENT_TIMEOUT, None)


def test_await_event_gives_exceptions(server: TCPServer) -> None:
    fail_once(server)
    event, records = server.await_event(20_000)
    assert event == server.EVENT_EXCEPTION
    assert records is not None
    assert len(records) == 1
    assert server.event.exception.occurred is False


def test_await_event_forgets_what_was_fetched_otherwise(server: TCPServer, sock: socket.socket) -> None:
    sock.sendall(b"text")
    next_item(server)
    fail_once(server)
    server.return_exceptions()
    assert server.await_event(1) == ("--TIMEOUT--", None)


def test_await_event_counts_milliseconds(server: TCPServer) -> None:
    before = time.monotonic()
    assert server.await_event(50) == (server.EVENT_TIMEOUT, None)
    assert 0.05 <= time.monotonic() - before < 5


def test_await_event_of_zero_waits_until_data_comes(server: TCPServer, sock: socket.socket) -> None:
    for arguments in ((), (0,)):
        waiter, results = in_thread(partial(server.await_event, *arguments))
        waiter.join(MOMENT)
        assert waiter.is_alive()
        sock.sendall(b"text")
        waiter.join(PATIENCE)
        result: Any = results[0]
        assert result[0] == "--RECEIVED--"
        assert result[1][0].response == b"text"


@pytest.mark.parametrize("timeout", [-1, -0.5])
def test_await_event_refuses_negative_timeouts(server: TCPServer, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        server.await_event(timeout)


def test_close_ends_await_event() -> None:
    with running_server() as server:
        waiter, results = in_thread(server.await_event)
        waiter.join(MOMENT)
        server.close()
        waiter.join(PATIENCE)
        assert results == [("--TIMEOUT--", None)]
        assert server.await_event() == ("--TIMEOUT--", None)


def test_data_received_before_close_can_be_fetched_after_it() -> None:
    with running_server() as server:
        with raw_client(server) as sock:
            sock.sendall(b"text")
            wait_until(lambda: server.event.new_data)
        server.close()
        assert server.event.new_data
        assert next_item(server).response == b"text"


# -------------------------------------------------------------------------------------------- accepting, pausing


def test_clients_are_served_after_start_only() -> None:
    with running_server(start=False, on_connect=greet) as server:
        assert server.event.accepting_thread.run is False
        with raw_client(server) as sock:
            assert not is_served(sock)
            server.start()
            assert server.event.accepting_thread.run is True
            assert read_exactly(sock, 5) == b"hello"


def test_stop_pauses_accepting_and_start_resumes() -> None:
    with running_server(on_connect=greet) as server, raw_client(server) as first:
        read_exactly(first, 5)
        server.stop()
        assert server.event.accepting_thread.run is False
        assert server.killed is False
        with raw_client(server) as second:
            assert not is_served(second)
            first.sendall(b"still served")
            assert next_item(server).response == b"still served"
            server.start()
            assert read_exactly(second, 5) == b"hello"


def test_nobody_who_connects_after_stop_returned_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    calls: list[socket.socket] = []
    accept = socket.socket.accept

    def accept_late(listener: socket.socket) -> tuple[socket.socket, Any]:
        calls.append(listener)
        if len(calls) == 2:  # after the first client the server looks for more at once
            gate.arrive()
        return accept(listener)

    with running_server(on_connect=greet) as server:
        monkeypatch.setattr(socket.socket, "accept", accept_late)
        with raw_client(server) as first:
            gate.wait_arrived()
            stopper, _ = in_thread(server.stop)
            stopper.join(MOMENT)
            if stopper.is_alive():  # it waits for the accept thread
                gate.open()
                stopper.join(PATIENCE)
            with raw_client(server) as second:
                gate.open()
                assert read_exactly(first, 5) == b"hello"
                assert not is_served(second)
                server.start()
                assert read_exactly(second, 5) == b"hello"


def test_run_can_be_set() -> None:
    with running_server(start=False, on_connect=greet) as server:
        server.event.accepting_thread.run = True
        with raw_client(server) as sock:
            assert read_exactly(sock, 5) == b"hello"
        server.event.accepting_thread.run = False
        with raw_client(server) as sock:
            assert not is_served(sock)
            server.event.accepting_thread.run = True
            assert read_exactly(sock, 5) == b"hello"


def test_run_set_before_setup_needs_start_all_the_same(bare: TCPServer) -> None:
    bare.event.accepting_thread.run = True
    bare.setup(HOST, 0, on_connect=greet)
    with raw_client(bare) as sock:
        bare.start()
        assert read_exactly(sock, 5) == b"hello"


def accept_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("-accept")]


def test_exit_accept_ends_the_accept_thread_and_no_connection() -> None:
    with running_server(on_connect=greet) as server, raw_client(server) as first:
        read_exactly(first, 5)
        assert len(accept_threads()) == 1
        assert server.killed is False
        server.exit_accept()
        assert server.killed is True
        assert server.event.accepting_thread.run is False
        assert accept_threads() == []
        first.sendall(b"still served")
        assert next_item(server).response == b"still served"
        with raw_client(server) as second:
            assert not is_served(second)
        server.exit_accept()
        assert server.killed is True


def test_restart_makes_a_new_accept_thread_which_waits_for_start() -> None:
    with running_server(on_connect=greet) as server:
        server.exit_accept()
        server.restart()
        assert server.killed is False
        assert server.event.accepting_thread.run is False
        with raw_client(server) as sock:
            assert not is_served(sock)
            server.start()
            assert read_exactly(sock, 5) == b"hello"


def test_restart_accepts_at_once_where_run_was_set() -> None:
    with running_server(on_connect=greet) as server:
        server.exit_accept()
        server.event.accepting_thread.run = True
        with raw_client(server) as sock:
            assert not is_served(sock)
            server.restart()
            assert read_exactly(sock, 5) == b"hello"


def test_start_after_exit_accept_says_that_restart_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    with running_server() as server:
        server.exit_accept()
        server.start()
        assert "restart()" in caplog.text


@pytest.mark.parametrize("stopped", [False, True])
def test_restart_is_an_error_where_the_accept_thread_was_not_ended(stopped: bool) -> None:
    with running_server() as server:
        if stopped:
            server.stop()
        with pytest.raises(LifecycleError, match="exit_accept"):
            server.restart()
        with raw_client(server):
            server.start()
            wait_until(lambda: server.clients)


# --------------------------------------------------------------------------------------------------- setup's errors


@pytest.mark.parametrize("name", ["start", "restart", "__enter__"])
def test_setup_is_needed_first(bare: TCPServer, name: str) -> None:
    with pytest.raises(SetupError, match="setup"):
        getattr(bare, name)()


def test_address_needs_setup_first(bare: TCPServer) -> None:
    assert bare.addresses == []
    with pytest.raises(SetupError, match="setup"):
        bare.address  # noqa: B018


def test_setup_twice_is_an_error_and_harms_nothing(server: TCPServer, sock: socket.socket) -> None:
    address = server.address
    with pytest.raises(SetupError, match="close"):
        server.setup(HOST, 0)
    assert server.address == address
    sock.sendall(b"text")
    assert next_item(server).response == b"text"


def test_port_in_use_names_the_address_and_what_to_try(server: TCPServer, bare: TCPServer) -> None:
    host, port = server.address
    with pytest.raises(BindError, match=rf"{host}:{port}.*in use.*port=0") as caught:
        bare.setup(host, port)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EADDRINUSE
    bare.setup(host, 0)  # a failed attempt can be repeated
    assert bare.address[1] not in (0, port)


def test_host_that_does_not_resolve_is_named_with_what_to_try(bare: TCPServer) -> None:
    with pytest.raises(ResolveError, match=rf"{NOWHERE}.*127\.0\.0\.1") as caught:
        bare.setup(NOWHERE, 0)
    assert isinstance(caught.value, socket.gaierror)


def test_address_of_another_machine_is_named_with_what_to_try(bare: TCPServer) -> None:
    with pytest.raises(BindError, match=rf"{NOT_OURS}:0.*127\.0\.0\.1") as caught:
        bare.setup(NOT_OURS, 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_one_bad_address_of_several_leaves_nothing_open(bare: TCPServer) -> None:
    with pytest.raises(BindError, match=NOT_OURS):
        bare.setup([HOST, NOT_OURS], 0)
    assert bare.addresses == []
    with pytest.raises(SetupError):
        bare.start()


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "port text": ({"port": "80"}, TypeError),
    "port True": ({"port": True}, TypeError),
    "port float": ({"port": 80.0}, TypeError),
    "port None": ({"port": None}, TypeError),
    "port negative": ({"port": -1}, ValueError),
    "port too big": ({"port": 65536}, ValueError),
    "recv_buffer text": ({"recv_buffer": "2048"}, TypeError),
    "recv_buffer True": ({"recv_buffer": True}, TypeError),
    "recv_buffer None": ({"recv_buffer": None}, TypeError),
    "recv_buffer zero": ({"recv_buffer": 0}, ValueError),
    "recv_buffer negative": ({"recv_buffer": -1}, ValueError),
    "listen text": ({"listen": "5"}, TypeError),
    "listen None": ({"listen": None}, TypeError),
    "ip number": ({"ip": 5}, TypeError),
    "ip bytes": ({"ip": b"127.0.0.1"}, TypeError),
    "ip empty list": ({"ip": []}, TypeError),
    "ip list of numbers": ({"ip": [5]}, TypeError),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_setup_refuses(bare: TCPServer, case: str) -> None:
    arguments, kind = BAD_ARGUMENTS[case]
    ((name, value),) = arguments.items()
    with pytest.raises(kind, match=rf"\b{name}\b.*{re.escape(repr(value))}"):
        bare.setup(**{"ip": HOST, "port": 0, **arguments})
    assert bare.addresses == []
    bare.setup(HOST, 0)


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (-1, ValueError), ("5", TypeError), (True, TypeError)])
def test_max_connections_must_be_a_positive_number_or_none(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="max_connections"):
        TCPServer(value)
    server = TCPServer()
    with pytest.raises(kind, match="max_connections"):
        server.max_connections = value
    assert server.max_connections is None


# ------------------------------------------------------------------------------------------------------- addresses


def test_port_zero_takes_a_free_port_and_address_tells_it(server: TCPServer) -> None:
    host, port = server.address
    assert host == HOST
    assert port > 0
    assert server.addresses == [(host, port)]
    assert server.socket.getsockname() == (host, port)


def test_arguments_by_position_are_in_the_documented_order() -> None:
    got: list[object] = []
    server = TCPServer(3)
    server.setup(HOST, 0, 5, 16, None, got.append, got.append, lambda data: got.append(data))
    assert server.max_connections == 3
    with server:
        with raw_client(server) as sock:
            sock.sendall(b"x" * 16)
            address = sock.getsockname()
            wait_until(lambda: len(got) == 2)
        wait_until(lambda: len(got) == 3)
    assert got == [address, b"x" * 16, address]


@needs_ipv6
def test_several_addresses_have_the_same_port() -> None:
    with running_server(ip=[HOST, "::1"]) as server:
        port = server.address[1]
        assert server.addresses == [(HOST, port), ("::1", port)]
        for host in (HOST, "::1"):
            with socket.create_connection((host, port), PATIENCE) as sock:
                sock.sendall(host.encode())
                item = next_item(server)
                assert item.response == host.encode()
                assert item[1] == sock.getsockname()[:2]
                assert server.send_data(b"text", item[1])
                assert read_exactly(sock, 4) == b"text"


@needs_ipv6
def test_every_address_of_both_families_can_be_listened_on() -> None:
    with running_server(ip=["0.0.0.0", "::"]) as server:
        for host in (HOST, "::1"):
            with socket.create_connection((host, server.address[1]), PATIENCE) as sock:
                sock.sendall(b"text")
                assert next_item(server)[1] == sock.getsockname()[:2]


@needs_ipv6
def test_ipv6_works_with_a_client_of_ours() -> None:
    with running_server(ip="::1", on_receive=lambda client, data: client.send(data)) as server:
        client = simplesockets.TCPClient()
        client.setup("::1", server.address[1])
        with client:
            client.send_data(b"text")
            assert client.await_event(20_000, disable_on_functions=True) == ("--RECEIVED--", [b"text"])


def test_the_same_address_twice_is_one() -> None:
    with running_server(ip=(HOST, HOST)) as server:
        assert len(server.addresses) == 1


def test_a_name_can_be_listened_on() -> None:
    with running_server(ip="localhost") as server, raw_client(server):
        wait_until(lambda: server.clients)


def test_empty_text_is_every_ipv4_address() -> None:
    with running_server(ip="") as server:
        assert server.address[0] == "0.0.0.0"
        with socket.create_connection((HOST, server.address[1]), PATIENCE):
            wait_until(lambda: server.clients)


@contextlib.contextmanager
def server_of_default_ip(monkeypatch: pytest.MonkeyPatch, host_name: str | None = None) -> Iterator[TCPServer]:
    """A server set up without an ip, on a machine of that host name (which may be an address, for it resolves)."""
    if host_name is not None:
        monkeypatch.setattr(socket, "gethostname", lambda: host_name)
    server = TCPServer()
    server.setup(port=0)
    with server:
        yield server


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def own_address() -> str:
    """An address by which this machine can be reached from others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((NOT_OURS, 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is in no network")
        host: str = probe.getsockname()[0]
    return host


def other_loopback() -> str:
    """A loopback address that is not 127.0.0.1."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError:
            pytest.skip("127.0.0.1 is the only loopback address of this system")
    return "127.0.0.2"


def test_default_ip_can_be_reached_by_127_0_0_1(monkeypatch: pytest.MonkeyPatch) -> None:
    with server_of_default_ip(monkeypatch) as server, socket.create_connection((HOST, server.address[1]), PATIENCE):
        wait_until(lambda: server.clients)


def test_default_ip_is_the_host_names_address_and_127_0_0_1(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = other_loopback()
    with server_of_default_ip(monkeypatch, own) as server:
        port = server.address[1]
        assert set(server.addresses) == {(own, port), (HOST, port)}
        for host in (own, HOST):
            with socket.create_connection((host, port), PATIENCE):
                wait_until(lambda: server.clients)
            wait_until(lambda: not server.clients)
    assert warnings_in(caplog) == []


def test_default_ip_where_the_host_name_is_127_0_0_1_is_that_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with server_of_default_ip(monkeypatch, HOST) as server:
        assert [host for host, _ in server.addresses] == [HOST]
    assert warnings_in(caplog) == []


def test_default_ip_that_can_be_reached_from_the_network_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = own_address()
    with server_of_default_ip(monkeypatch, own) as server:
        assert {host for host, _ in server.addresses} == {own, HOST}
    (warning,) = warnings_in(caplog)
    assert own in warning
    assert "ip='127.0.0.1'" in warning


def test_given_ip_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    with running_server(ip="0.0.0.0"):
        pass
    assert warnings_in(caplog) == []


def test_default_ip_where_the_host_name_does_not_resolve_is_loopback_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with server_of_default_ip(monkeypatch, NOWHERE) as server:
        assert [host for host, _ in server.addresses] == [HOST]
    (warning,) = warnings_in(caplog)
    assert HOST in warning


@needs_ipv6
def test_default_ip_where_the_host_name_has_an_ipv6_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with server_of_default_ip(monkeypatch, "::1") as server:
        assert {host for host, _ in server.addresses} == {"::1", HOST}


def test_default_hosts_are_asked_for_at_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "default_hosts", lambda: [HOST])
    with server_of_default_ip(monkeypatch) as server:
        assert [host for host, _ in server.addresses] == [HOST]


# ------------------------------------------------------------------------------------------------------ the socket


def test_options_set_on_the_socket_before_setup_hold() -> None:
    server = TCPServer()
    before = server.socket
    before.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    server.setup(HOST, 0)
    with server:
        assert server.socket is before
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert before.getsockname() == server.address
        with raw_client(server):
            wait_until(lambda: server.clients)
    assert before.fileno() == -1


def test_timeout_set_on_the_socket_before_setup_is_harmless() -> None:
    server = TCPServer()
    server.socket.settimeout(0.01)
    server.setup(HOST, 0, on_connect=greet)
    with server, raw_client(server) as sock:
        assert read_exactly(sock, 5) == b"hello"


def test_socket_of_a_server_that_was_never_set_up_is_closed_by_close(bare: TCPServer) -> None:
    with bare.socket as unused:
        assert unused is bare.socket
        assert unused.fileno() >= 0
        bare.close()
        assert unused.fileno() == -1


@needs_ipv6
def test_unused_socket_is_closed_where_the_address_is_of_another_family(bare: TCPServer) -> None:
    with bare.socket as unused:
        bare.setup("::1", 0)
        assert bare.socket.family == socket.AF_INET6
        bare.close()
        assert unused.fileno() == -1


def test_unused_socket_is_closed_where_setup_failed(bare: TCPServer) -> None:
    with bare.socket as unused:
        with pytest.raises(ResolveError):
            bare.setup(NOWHERE, 0)
        bare.close()
        assert unused.fileno() == -1


def test_accepted_sockets_do_not_delay() -> None:
    with running_server() as server, raw_client(server) as sock:
        client = entry_of(server, sock)
        assert client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ------------------------------------------------------------------------------------------------ max_connections


def test_max_connections_is_held_and_a_freed_slot_is_used() -> None:
    with running_server(2, on_connect=greet) as server:
        assert server.max_connections == 2
        with raw_client(server) as one, raw_client(server) as two, raw_client(server) as three:
            read_exactly(one, 5)
            read_exactly(two, 5)
            assert not is_served(three)
            assert len(server.clients) == 2
            one.close()
            assert read_exactly(three, 5) == b"hello"
            assert len(server.clients) == 2


def test_slot_freed_by_disconnect_is_used() -> None:
    with running_server(1, on_connect=greet) as server, raw_client(server) as one, raw_client(server) as two:
        read_exactly(one, 5)
        assert server.disconnect(one.getsockname())
        assert read_exactly(two, 5) == b"hello"


def test_freed_slot_does_not_undo_stop() -> None:
    with running_server(1, on_connect=greet) as server, raw_client(server) as one, raw_client(server) as two:
        read_exactly(one, 5)
        server.stop()
        one.close()
        wait_until(lambda: not server.clients)
        assert server.event.accepting_thread.run is False
        assert not is_served(two)
        server.start()
        assert read_exactly(two, 5) == b"hello"


def test_limit_leaves_run_alone() -> None:
    with running_server(1) as server, raw_client(server):
        wait_until(lambda: server.clients)
        assert server.event.accepting_thread.run is True


def test_max_connections_can_be_raised_and_lifted() -> None:
    with (
        running_server(1, on_connect=greet) as server,
        raw_client(server) as one,
        raw_client(server) as two,
        raw_client(server) as three,
    ):
        read_exactly(one, 5)
        server.max_connections = 2
        read_exactly(two, 5)
        assert not is_served(three)
        server.max_connections = None
        assert read_exactly(three, 5) == b"hello"


# ------------------------------------------------------------------------------------------------------- the end


def test_context_manager_gives_the_server_started_and_closes_it() -> None:
    server = TCPServer()
    server.setup(HOST, 0, on_connect=greet)
    with server as entered:
        assert entered is server
        assert server.event.accepting_thread.run is True
        with raw_client(server) as sock:
            assert read_exactly(sock, 5) == b"hello"
        address = server.address
    assert server.killed is True
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE)


def test_context_manager_closes_after_an_exception_and_lets_it_through() -> None:
    server = TCPServer()
    server.setup(HOST, 0)
    with pytest.raises(LookupError), server:
        raise LookupError
    assert server.killed


def test_close_ends_connections_after_what_was_sent() -> None:
    with running_server() as server, raw_client(server) as sock:
        client = entry_of(server, sock)
        client.send(b"last words")
        closer, _ = in_thread(server.close)
        assert read_exactly(sock, 100) == b"last words"
        sock.close()
        closer.join(PATIENCE)
        assert server.clients == {}
        assert client.fileno() == -1


def test_close_may_be_repeated_and_come_first() -> None:
    server = TCPServer()
    server.close()
    server.setup(HOST, 0)
    server.start()
    server.close()
    server.close()
    assert server.killed
    assert server.event.accepting_thread.run is False
    assert not server.event.exception.occurred


def test_close_may_come_from_several_threads() -> None:
    with running_server() as server, raw_client(server):
        wait_until(lambda: server.clients)
        closers = [in_thread(server.close)[0] for _ in range(4)]
        for closer in closers:
            closer.join(PATIENCE)
            assert not closer.is_alive()
        assert server.clients == {}


@pytest.mark.own_threads
def test_close_may_come_while_a_client_is_being_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    start = threading.Thread.start

    with running_server(start=False) as server, raw_client(server) as sock:

        def start_late(thread: threading.Thread) -> None:
            if thread.name.endswith(f":{sock.getsockname()[1]}"):
                gate.arrive()
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_late)
        server.start()
        gate.wait_arrived()
        closers = [in_thread(partial(server.close, timeout=0.1)) for _ in range(2)]
        for closer, _ in closers:
            closer.join(MOMENT)
        gate.open()
        for closer, results in closers:
            closer.join(PATIENCE)
            assert results == [None]
        assert sock.recv(1) == b""


@pytest.mark.parametrize("name", ["on_connect", "on_receive", "on_disconnect"])
def test_close_may_come_from_a_callback(name: str) -> None:
    closed = threading.Event()

    with running_server() as server:

        def close(thing: object) -> None:
            server.close()
            closed.set()

        setattr(server, name, close)
        with raw_client(server) as sock:
            sock.sendall(b"text")
            if name == "on_disconnect":
                wait_until(lambda: server.event.new_data)
                sock.close()
            assert closed.wait(PATIENCE)
        assert server.killed
        assert not server.event.exception.occurred


def test_closed_server_says_so() -> None:
    with running_server() as server:
        server.close()
        for call in (server.start, server.restart):
            with pytest.raises(SetupError, match="closed"):
                call()
        with pytest.raises(SetupError, match="closed"):
            server.address  # noqa: B018


def test_close_names_the_thread_that_user_code_keeps_busy(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with running_server(on_receive=gate) as server, raw_client(server) as sock:
        sock.sendall(b"text")
        gate.wait_arrived()
        try:
            before = time.monotonic()
            server.close(timeout=0.05)
            assert time.monotonic() - before < 5
            busy = [thread.name for thread in threading.enumerate() if thread.name.startswith("simplesockets-")]
            (warning,) = warnings_in(caplog)
            assert any(name in warning for name in busy)
        finally:
            gate.open()


def test_server_can_be_set_up_again_after_close() -> None:
    server = TCPServer()
    for _ in range(3):
        server.setup(HOST, 0)
        assert server.killed is False
        assert server.event.accepting_thread.run is False
        server.start()
        with raw_client(server) as sock:
            sock.sendall(b"text")
            assert next_item(server).response == b"text"
        server.close()


def test_port_is_free_again_after_close() -> None:
    with running_server(on_connect=greet) as server, raw_client(server) as sock:
        read_exactly(sock, 5)
        port = server.address[1]
        server.close()
        with running_server(port=port, on_connect=greet) as successor, raw_client(successor) as sock_again:
            assert successor.address[1] == port
            assert read_exactly(sock_again, 5) == b"hello"


def test_repr_tells_where_it_listens_and_how_many_are_connected(server: TCPServer, client: Server_Client) -> None:
    assert repr(server) == f"<TCPServer {HOST}:{server.address[1]}, 1 clients>"
    assert repr(TCPServer()) == "<TCPServer not set up, 0 clients>"
    assert repr(client) == f"<client {HOST}:{client.address[1]}, open>"
    client.close()
    assert "closed here" in repr(client)


# --------------------------------------------------------------------------------------------------- import paths

PATHS = {
    "simplesockets": "TCPServer TCPClient Server_Client Socket_Response SetupError Event",
    "simplesockets.simplesockets": "TCPServer TCPClient Server_Client Socket_Response SetupError Event",
    "simplesockets.simple_sockets": "TCPServer TCPClient Server_Client Socket_Response SetupError Event",
    "simplesockets.secure_sockets": (
        "SecureServer SecureClient TCPServer TCPClient Server_Client Socket_Response SetupError"
    ),
    "simplesockets.typehints": "Server_Client Socket_Response SetupError Event",
}


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in PATHS.items() for name in names.split()])
def test_every_import_path_gives_the_same_object(path: str, name: str) -> None:
    assert getattr(importlib.import_module(path), name) is getattr(simplesockets, name)


def test_the_package_is_typed() -> None:
    assert pathlib.Path(simplesockets.__file__).with_name("py.typed").exists()


def test_a_callback_that_counts_as_false_is_called() -> None:
    class Receive(list[bytes]):
        def __call__(self, client: object, address: object, data: bytes) -> None:
            came.append(data)

    came: list[bytes] = []
    with running_server(on_receive=Receive()) as server, raw_client(server) as sock:
        sock.sendall(b"text")
        wait_until(lambda: came == [b"text"])
