"""TLS, for servers and clients: with our own other end, and with the standard library's."""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from simplesockets import (
    FramedProtocol,
    LengthPrefixFramer,
    SecureClient,
    SecureServer,
    SetupError,
    TCPClient,
    TCPServer,
    tls,
)
from simplesockets.outbox import Courier, Outbox
from simplesockets.timing import Deadline
from simplesockets.tls import TLSStream
from simplesockets.transport import NO_WAIT, wait_ready

from .support import certificates
from .support.certificates import CA, CLIENT, ELSEWHERE, EXPIRED, OTHER_CA, SERVER, client_side, server_side
from .support.clients import Peer, in_thread
from .support.running import (
    HOST,
    echo_poller,
    open_descriptors,
    raw_client,
    read_exactly,
    reset,
    running_client,
    running_server,
)
from .support.waiting import PATIENCE, Gate, wait_until

pytestmark = pytest.mark.usefixtures("either_engine")

MIB = 1024 * 1024
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[1])}


def echo(client: Any, address: Any, data: bytes) -> None:
    client.send(data)


def messages() -> FramedProtocol:
    return FramedProtocol(LengthPrefixFramer(header_size=8, limit=64 * MIB))


def tls_server(**setup: Any) -> contextlib.AbstractContextManager[TCPServer]:
    return running_server(**{"ssl_context": server_side(), **setup})


def tls_client(server: TCPServer, **setup: Any) -> contextlib.AbstractContextManager[TCPClient]:
    return running_client(server, **{"ssl_context": client_side(), **setup})


@contextlib.contextmanager
def stdlib_client(server: TCPServer, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    """The standard library's client, which takes a missing goodbye for an error."""
    with socket.create_connection(server.address, timeout=PATIENCE) as sock:
        secured = (context or client_side()).wrap_socket(sock, server_hostname=HOST, suppress_ragged_eofs=False)
        with secured:
            yield secured


def accept_tls(peer: Peer, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """The standard library's server, for one connection."""
    sock = (context or server_side()).wrap_socket(peer.accept(), server_side=True, suppress_ragged_eofs=False)
    peer.accepted.append(sock)
    return sock


def failed(client: TCPClient) -> BaseException:
    """Why it could not connect."""
    assert not client.connect()
    (record,) = client.return_exceptions()
    failure: BaseException = record.exception
    return failure


# ------------------------------------------------------------------------------------------------ all the styles


def serve_with_recv(client: Any) -> None:
    while data := client.recv():
        client.send(data)


SERVERS: dict[str, dict[str, Any]] = {
    "polled": {},
    "callback": {"on_receive": echo},
    "handler": {"handle_client": serve_with_recv},
}


class Gatherer:
    """What a client received, in one of the styles."""

    def __init__(self, style: str) -> None:
        self.style = style
        self.data = bytearray()
        self._grown = threading.Condition()

    def take(self, data: bytes) -> None:
        with self._grown:
            self.data += data
            self._grown.notify()

    def gather(self, client: TCPClient, size: int) -> bytes:
        while len(self.data) < size:
            if self.style == "callback":
                with self._grown:
                    assert self._grown.wait_for(lambda: len(self.data) >= size, PATIENCE)
            elif self.style == "polled":
                wait_until(lambda: client.event.new_data)
                for part in client.return_recved_data():
                    self.data += part
            else:
                part = client.recv_data(timeout=PATIENCE)
                assert part
                self.data += part
        return bytes(self.data)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=lambda version: version.name)
@pytest.mark.parametrize("client_style", ["polled", "callback", "recv_data"])
@pytest.mark.parametrize("server_style", SERVERS)
def test_echo_in_all_styles(server_style: str, client_style: str, version: ssl.TLSVersion) -> None:
    gatherer = Gatherer(client_style)
    context = client_side()
    context.minimum_version = context.maximum_version = version
    setup: dict[str, Any] = {"on_receive": gatherer.take} if client_style == "callback" else {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(tls_server(**SERVERS[server_style]))
        if server_style == "polled":
            stack.enter_context(echo_poller(server))
        client = stack.enter_context(
            tls_client(server, autorecv=client_style != "recv_data", ssl_context=context, **setup)
        )
        expected = b""
        for number in range(50):
            message = b"%d" % number * 100
            expected += message
            assert client.send_data(message)
            assert gatherer.gather(client, len(expected)) == expected
        assert client.socket.version() == version.name.replace("_", ".")  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 2048, 16384, 16385, MIB, 20 * MIB])
@pytest.mark.parametrize("polled", [True, False])
def test_messages_of_any_size(size: int, polled: bool) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    setup: dict[str, Any] = {} if polled else {"on_receive": echo}
    with tls_server(protocol=messages, **setup) as server, contextlib.ExitStack() as stack:
        if polled:
            stack.enter_context(echo_poller(server))
        with tls_client(server, protocol=messages) as client:
            for _ in range(2):
                assert client.send_data(message)
                assert client.recv_data(timeout=PATIENCE) == message


def test_records_of_one_byte() -> None:
    received: queue.Queue[bytes] = queue.Queue()
    with (
        tls_server(protocol=messages, on_receive=lambda data: received.put(bytes(data))) as server,
        stdlib_client(server) as sock,
    ):
        for byte in messages().encode(b"one byte at a time"):
            sock.sendall(bytes([byte]))
        assert received.get(timeout=PATIENCE) == b"one byte at a time"


def test_records_that_arrive_byte_by_byte_and_the_handshake_too() -> None:
    # The standard library's TLS over memory, carried one byte per segment.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = client_side().wrap_bio(incoming, outgoing, server_hostname=HOST)

    def carried(sock: socket.socket, operation: Callable[[], Any]) -> Any:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                send(sock)
                incoming.write(sock.recv(1))

    def send(sock: socket.socket) -> None:
        for byte in outgoing.read():
            sock.sendall(bytes([byte]))

    with tls_server(on_receive=echo) as server, raw_client(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        carried(sock, end.do_handshake)
        for message in (b"one", b"two" * 1000):
            end.write(message)
            send(sock)
            received = b""
            while len(received) < len(message):
                received += carried(sock, end.read)
            assert received == message


@pytest.mark.parametrize("polled", [True, False])
def test_sixteen_clients_with_many_messages(polled: bool) -> None:
    wrong: list[object] = []

    def talk(server: TCPServer, number: int) -> None:
        with tls_client(server, protocol=messages, autorecv=number % 2 == 0) as client:
            for turn in range(100):
                message = b"%d:%d" % (number, turn) * (1 + turn * 7)
                if not client.send_data(message) or client.recv_data(timeout=PATIENCE) != message:
                    wrong.append((number, turn))
                    return

    setup: dict[str, Any] = {} if polled else {"on_receive": echo}
    with tls_server(protocol=messages, **setup) as server, contextlib.ExitStack() as stack:
        if polled:
            stack.enter_context(echo_poller(server))
        threads = [threading.Thread(target=talk, args=(server, number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE * 2)
        assert not wrong
        assert not any(thread.is_alive() for thread in threads)
        wait_until(lambda: not server.clients)
        assert not server.return_exceptions()


def test_eight_threads_send_while_the_client_receives() -> None:
    # The server echoes meanwhile, so its reader sends, too.
    threads_count, turns = 8, 60
    received: list[bytes] = []
    done = threading.Event()

    def take(data: bytes) -> None:
        received.append(bytes(data))
        if len(received) == threads_count * turns * 2:
            done.set()

    def send(target: Callable[[bytes], object], name: bytes) -> None:
        for turn in range(turns):
            target(b"%s:%d:" % (name, turn) + name * 3000)

    with (
        tls_server(protocol=messages, on_receive=echo) as server,
        tls_client(server, protocol=messages, on_receive=take) as client,
    ):
        wait_until(lambda: server.clients)
        (entry,) = server.clients.values()
        sends: list[tuple[Callable[[bytes], object], bytes]] = []
        sends += [(client.send_data, b"c%d" % number) for number in range(threads_count)]
        sends += [(entry.send, b"s%d" % number) for number in range(threads_count)]
        threads = [threading.Thread(target=send, args=arguments) for arguments in sends]
        for thread in threads:
            thread.start()
        assert done.wait(PATIENCE * 2)
        for thread in threads:
            thread.join()
    for _, name in sends:
        mine = [message for message in received if message.startswith(name + b":")]
        assert mine == [b"%s:%d:" % (name, turn) + name * 3000 for turn in range(turns)]


def test_what_is_not_polled_stops_the_sender_and_nothing_is_lost() -> None:
    data = bytes(range(256)) * 4096 * 16
    with tls_server() as server, tls_client(server) as client:
        sender, sent = in_thread(lambda: client.send_data(data))
        wait_until(lambda: server.clients)
        (entry,) = server.clients.values()
        wait_until(lambda: server._mailbox.is_paused(entry._connection), "reading to pause")
        assert not sent
        received = bytearray()
        while len(received) < len(data):
            for item in server.return_recved_data():
                received += item.response
        sender.join(PATIENCE)
        assert sent == [True]
        assert received == data


# --------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("how", ["goodbye", "close", "half-close", "reset"])
@pytest.mark.parametrize("polled", [True, False])
def test_a_client_that_leaves_is_noticed_at_once(how: str, polled: bool) -> None:
    gone: queue.Queue[Any] = queue.Queue()
    context = server_side()
    context.num_tickets = 0  # or close() would leave them unread, which makes it a reset
    setup: dict[str, Any] = {"ssl_context": context, "on_disconnect": gone.put}
    setup |= {} if polled else {"on_receive": echo}
    with tls_server(**setup) as server, stdlib_client(server) as sock:
        wait_until(lambda: server.clients)
        sock.sendall(b"last words")
        if not polled:
            assert read_exactly(sock, 10) == b"last words"
        if how == "goodbye":
            sock.unwrap()  # waits for the server's
        elif how == "close":
            sock.close()
        elif how == "half-close":
            sock.shutdown(socket.SHUT_WR)
        else:
            reset(sock)
        address = gone.get(timeout=PATIENCE)
        assert not server.clients
        assert address.ending.kind == ("reset" if how == "reset" else "peer closed")
        if polled and how != "reset":
            assert [item.response for item in server.return_recved_data()] == [b"last words"]


def test_who_ended_its_side_still_gets_answers() -> None:
    def answer(client: Any) -> None:
        parts = []
        while part := client.recv():
            parts.append(part)
        client.send(b"".join(parts)[::-1] * 100_000)

    with tls_server(handle_client=answer) as server, tls_client(server, autorecv=False) as client:
        client.send_data(b"abc")
        assert client.end_sending()
        received = bytearray()
        while part := client.recv_data(timeout=PATIENCE):
            received += part
        assert received == b"cba" * 100_000


def test_what_was_sent_arrives_before_the_end_and_the_end_is_a_clean_one() -> None:
    # The reader is slow, and the system takes no goodbye when disconnect() is called.
    data = bytes(range(256)) * 4 * 4096
    sent = threading.Event()

    def send_and_leave(client: Any) -> None:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        client.send(data)
        sent.set()

    with tls_server(handle_client=send_and_leave) as server, stdlib_client(server) as sock:
        received = bytearray()
        while part := sock.recv(65536):  # SSLEOFError without a goodbye
            received += part
        assert received == data
        assert sent.is_set()


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_shutdown_as_on_a_socket_says_goodbye(how: int) -> None:
    def leave(client: Any) -> None:
        client.send(b"last words")
        client.shutdown(how)
        client.recv()

    with tls_server(handle_client=leave) as server, stdlib_client(server) as sock:
        assert read_exactly(sock, 100) == b"last words"


def test_a_sender_that_is_stuck_does_not_hold_up_disconnect_and_finishes() -> None:
    data = bytes(range(256)) * 4 * 8192
    with tls_server() as server, stdlib_client(server) as sock:
        wait_until(lambda: server.clients)
        (entry,) = server.clients.values()
        sender, _ = in_thread(lambda: entry.send(data))
        wait_until(lambda: entry._connection.stream._unsent, "the sender to be stuck")  # type: ignore[attr-defined]
        entry.close()
        received = bytearray()
        while part := sock.recv(65536):
            received += part
        sender.join(PATIENCE)
        assert received == data


def test_a_sender_that_is_stuck_for_good_is_ended() -> None:
    with tls_server() as server, stdlib_client(server):
        wait_until(lambda: server.clients)
        (entry,) = server.clients.values()
        failures: queue.Queue[BaseException] = queue.Queue()

        def send() -> None:
            try:
                entry.send(b"x" * 50 * MIB)
            except OSError as failure:
                failures.put(failure)

        sender = threading.Thread(target=send)
        sender.start()
        wait_until(lambda: entry._connection.stream._unsent, "the sender to be stuck")  # type: ignore[attr-defined]
        entry.close()
        assert isinstance(failures.get(timeout=PATIENCE), OSError)
        sender.join()


def test_the_end_shows_at_the_next_send_where_nothing_reads() -> None:
    with tls_server() as server, tls_client(server, autorecv=False) as client:
        wait_until(lambda: server.clients)
        (entry,) = server.clients.values()
        entry.send(b"first")
        entry.close()
        assert client.recv_data(timeout=PATIENCE) == b"first"
        wait_until(lambda: client._connection is not None and client._connection.stream.at_end())
        assert not client.send_data(b"second")
        assert not client.event.is_connected


def test_a_timeout_counts_data_and_not_what_tls_says_by_itself() -> None:
    with tls_server() as server, tls_client(server, autorecv=False) as client:  # tickets wait in the client's socket
        wait_until(lambda: server.clients)
        with pytest.raises(TimeoutError):
            client.recv_data(timeout=0.05)
        (entry,) = server.clients.values()
        entry.send(b"now")
        assert client.recv_data(timeout=PATIENCE) == b"now"


def test_reading_piecemeal_what_came_in_one_record() -> None:
    taken: queue.Queue[list[bytes]] = queue.Queue()

    def take(client: Any) -> None:
        taken.put([client.recv(1), client.recv(2), client.recv(100)])

    with tls_server(handle_client=take) as server, stdlib_client(server) as sock:
        sock.sendall(b"abcdef")
        assert taken.get(timeout=PATIENCE) == [b"a", b"bc", b"def"]


def test_data_in_no_valid_record_ends_the_client_with_a_recorded_reason() -> None:
    gone: queue.Queue[Any] = queue.Queue()
    with tls_server(on_disconnect=gone.put) as server, stdlib_client(server) as sock:
        wait_until(lambda: server.clients)
        with socket.socket(fileno=sock.detach()) as raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            assert gone.get(timeout=PATIENCE).ending.kind == "tls"
        (record,) = server.return_exceptions()
        assert isinstance(record.exception, ssl.SSLError)


def test_nothing_is_left_behind_by_two_hundred_connections() -> None:
    with tls_server(on_receive=echo) as server:
        for turn in range(200):
            with tls_client(server, autorecv=turn % 2 == 0) as client:
                client.send_data(b"x")
                assert client.recv_data(timeout=PATIENCE) == b"x"
            if turn == 50:
                wait_until(lambda: not server.clients)
                before = open_descriptors()
        wait_until(lambda: open_descriptors() <= before, "the sockets to be closed")


# --------------------------------------------------------------------------------------------------- handshakes


class Witness:
    """What a server said of its clients."""

    def __init__(self) -> None:
        self.connected: list[Any] = []
        self.gone: list[Any] = []

    def setup(self) -> dict[str, Any]:
        return {"on_connect": self.connected.append, "on_disconnect": self.gone.append, "on_receive": echo}

    def saw_nobody(self) -> bool:
        return not self.connected and not self.gone


WRONG: dict[str, tuple[Any, dict[str, Any], type[OSError], str]] = {
    "authority": (SERVER, {"ssl_context": OTHER_CA}, ssl.SSLCertVerificationError, "unable to get local issuer"),
    "name": (ELSEWHERE, {"ssl_context": CA}, ssl.SSLCertVerificationError, "not valid for"),
    "asked name": (
        SERVER,
        {"ssl_context": CA, "server_hostname": "other.example"},
        ssl.SSLCertVerificationError,
        "other.example",
    ),
    "expired": (EXPIRED, {"ssl_context": CA}, ssl.SSLCertVerificationError, "expired"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_certificate_that_is_not_trusted_is_an_error_on_both_sides(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, setup, kind, text = WRONG[what]
    witness = Witness()
    setup = {**setup, "ssl_context": client_side(setup["ssl_context"])}
    with (
        running_server(ssl_context=server_side(certificate), **witness.setup()) as server,
        contextlib.closing(TCPClient()) as client,
    ):
        client.setup(HOST, server.address[1], **setup)
        failure = failed(client)
        assert type(failure) is kind
        assert text in str(failure)
        assert not client.event.is_connected
        with pytest.raises(kind):
            client.open()
        wait_until(lambda: len(server.event.exception.list) == 2)
        for record in server.return_exceptions():
            assert isinstance(record.exception, ssl.SSLError)
        assert witness.saw_nobody()
    assert "the TLS handshake with 127.0.0.1" in caplog.text


def test_the_name_to_verify_can_be_another_than_the_address() -> None:
    with running_server(ssl_context=server_side(ELSEWHERE), on_receive=echo) as server:
        with tls_client(server, server_hostname="elsewhere.example") as client:
            client.send_data(b"hello")
            assert client.recv_data(timeout=PATIENCE) == b"hello"


@pytest.mark.parametrize("text", [b"GET / HTTP/1.0\r\n\r\n", b"hello", bytes(100), b"\x16\x03\x01" + b"\xff" * 50])
def test_plain_text_at_a_tls_port_is_refused_with_a_reason(text: bytes) -> None:
    witness = Witness()
    with tls_server(**witness.setup()) as server, raw_client(server) as sock:
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while sock.recv(1000):  # the alert
                pass
        wait_until(lambda: server.event.exception.occurred)
        (record,) = server.return_exceptions()
        assert isinstance(record.exception, ssl.SSLError)
        with tls_client(server) as client:
            client.send_data(b"hello")
            assert client.recv_data(timeout=PATIENCE) == b"hello"
        assert len(witness.connected) == 1


def test_who_hangs_up_in_the_handshake_is_forgotten() -> None:
    witness = Witness()
    with tls_server(max_connections=1, **witness.setup()) as server:
        for how in (socket.socket.close, reset):
            with raw_client(server) as sock:
                wait_until(lambda: len(server._connected) == 1)
                how(sock)
            wait_until(lambda: not server._connected)
        wait_until(lambda: len(server.return_exceptions(delete=False)) == 2)
    assert witness.saw_nobody()


def test_tls_at_a_plain_port_is_an_error_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with (
        running_server(on_receive=lambda client, address, data: client.send(b"what?")) as server,
        contextlib.closing(TCPClient()) as client,
    ):
        client.setup(HOST, server.address[1], ssl_context=client_side())
        assert isinstance(failed(client), ssl.SSLError)
    assert "does the other end speak TLS?" in caplog.text


def test_the_handshake_is_a_part_of_connect_timeout(peer: Peer, client: TCPClient) -> None:
    client.setup(HOST, peer.port, ssl_context=client_side(), connect_timeout=0.1)
    assert isinstance(failed(client), TimeoutError)


def test_a_client_that_is_closed_in_the_handshake_stops_connecting(peer: Peer, client: TCPClient) -> None:
    client.setup(HOST, peer.port, ssl_context=client_side(), connect_timeout=None)
    thread, results = in_thread(client.connect)
    assert peer.accept().recv(1)  # its first words
    client.close()
    thread.join(PATIENCE)
    assert results == [False]


def test_ctrl_c_ends_a_handshake(peer: Peer, client: TCPClient) -> None:
    client.setup(HOST, peer.port, ssl_context=client_side(), connect_timeout=None)

    def interrupt() -> None:
        assert peer.accept().recv(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread, _ = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.connect()
    thread.join(PATIENCE)
    assert not client.event.is_connected
    thread, results = in_thread(client.connect)  # nothing is left of it
    accept_tls(peer)
    thread.join(PATIENCE)
    assert results == [True]


def test_a_server_can_be_closed_while_a_handshake_stalls() -> None:
    witness = Witness()
    with tls_server(handshake_timeout=None, **witness.setup()) as server, raw_client(server) as sock:
        wait_until(lambda: len(server._connected) == 1)
        server.close()
        assert sock.recv(1) == b""
        assert not server.return_exceptions()
    assert witness.saw_nobody()


def test_a_stalled_handshake_delays_nobody_and_is_dropped() -> None:
    witness = Witness()
    with (
        tls_server(handshake_timeout=0.3, **witness.setup()) as server,
        contextlib.ExitStack() as stack,
    ):
        mute = [stack.enter_context(raw_client(server)) for _ in range(20)]
        half = raw_client(server)
        stalled = stack.enter_context(half)
        stalled.sendall(b"\x16\x03\x01\x02\x00\x01")
        with tls_client(server) as client:
            client.send_data(b"hello")
            assert client.recv_data(timeout=PATIENCE) == b"hello"
            assert len(server.clients) == 1
        for sock in [*mute, stalled]:
            assert sock.recv(1) == b""
            sock.close()
        wait_until(lambda: len(server.event.exception.list) == 21)
        assert all(isinstance(record.exception, TimeoutError) for record in server.return_exceptions())
        assert len(witness.connected) == 1


def test_who_shakes_hands_takes_a_place_but_is_not_shown() -> None:
    with tls_server(max_connections=1, handshake_timeout=None, on_receive=echo) as server:
        with raw_client(server) as mute:
            wait_until(lambda: len(server._connected) == 1)
            assert not server.clients
            thread, results = in_thread(lambda: read_echo(server))
            assert not results
            mute.close()
        thread.join(PATIENCE)
        assert results == [b"my turn"]


def read_echo(server: TCPServer) -> bytes:
    with tls_client(server) as client:
        client.send_data(b"my turn")
        return client.recv_data(timeout=PATIENCE)


def test_on_connect_runs_after_the_handshake() -> None:
    gate = Gate()
    with tls_server(on_connect=gate) as server, raw_client(server) as mute, tls_client(server):
        gate.wait_arrived()
        assert mute.getsockname() not in server.clients
        assert len(server.clients) == 1
        gate.open()


def test_data_that_comes_with_the_end_of_the_handshake_is_received() -> None:
    # The client's last words of the handshake and its first data, in one segment.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = client_side().wrap_bio(incoming, outgoing, server_hostname=HOST)
    with tls_server() as server, raw_client(server) as sock:
        while True:
            try:
                end.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        end.write(b"early")
        sock.sendall(outgoing.read())
        wait_until(lambda: server.event.new_data)
        assert [item.response for item in server.return_recved_data()] == [b"early"]


# --------------------------------------------------------------------------------------------------- mutual TLS


def test_a_client_with_a_certificate_is_let_in_and_known() -> None:
    known: queue.Queue[Any] = queue.Queue()

    def greet(address: Any) -> None:
        known.put(address.client.getpeercert())

    with tls_server(ssl_context=server_side(mutual=True), on_connect=greet, on_receive=echo) as server:
        with tls_client(server, ssl_context=client_side(certificate=CLIENT)) as client:
            client.send_data(b"hello")
            assert client.recv_data(timeout=PATIENCE) == b"hello"
    assert known.get(timeout=PATIENCE)["subject"] == ((("commonName", "test client"),),)


def test_a_client_without_a_certificate_is_not_let_in() -> None:
    witness = Witness()
    with (
        tls_server(ssl_context=server_side(mutual=True), **witness.setup()) as server,
        contextlib.closing(TCPClient()) as client,
    ):
        client.setup(HOST, server.address[1], ssl_context=client_side())
        if client.connect():  # in TLS 1.3 the client is ready before the server looked
            assert client.recv_data(timeout=PATIENCE) == b""
            assert client.ending is not None
            assert client.ending.kind == "tls"
        (failure,) = [record.exception for record in client.return_exceptions() if "SSL" in repr(record.exception)]
        assert isinstance(failure, ssl.SSLError)
        wait_until(lambda: server.event.exception.occurred)
        assert witness.saw_nobody()


# ----------------------------------------------------------------------------------- the standard library's server


@pytest.mark.parametrize("autorecv", [True, False])
def test_our_client_talks_to_the_standard_librarys_server(peer: Peer, client: TCPClient, autorecv: bool) -> None:
    client.setup("localhost", peer.port, ssl_context=client_side())
    thread, results = in_thread(client.connect)
    sock = accept_tls(peer)
    thread.join(PATIENCE)
    assert results == [True]
    if autorecv:
        client.autorecv()
    for message in (b"hello", b"x" * MIB):
        sender, _ = in_thread(lambda message=message: client.send_data(message))  # type: ignore[misc]
        assert read_exactly(sock, len(message)) == message
        sender.join(PATIENCE)
        sender, _ = in_thread(lambda message=message: sock.sendall(message))  # type: ignore[misc]
        received = bytearray()
        while len(received) < len(message):
            received += client.recv_data(timeout=PATIENCE)
        assert received == message
        sender.join(PATIENCE)
    closer, _ = in_thread(client.disconnect)
    assert sock.recv(1) == b""  # with a goodbye, or it would be an SSLEOFError
    sock.close()
    closer.join(PATIENCE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the command openssl is not installed")
def test_a_peer_may_change_its_keys_in_the_middle() -> None:
    with tls_server(on_receive=echo) as server:
        place = f"{HOST}:{server.address[1]}"
        command = ["openssl", "s_client", "-connect", place, "-CAfile", str(CA), "-verify_return_error"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as peer:
            assert peer.stdin is not None
            assert peer.stdout is not None
            try:
                for turn in range(5):
                    told = b"turn %d\n" % turn
                    peer.stdin.write(told)
                    peer.stdin.flush()
                    while peer.stdout.readline() not in (told, b""):
                        pass
                    peer.stdin.write(b"K\n")  # new keys, and ask for the server's
                    peer.stdin.flush()
                    while (line := peer.stdout.readline()) != b"KEYUPDATE\n":
                        assert line
                assert len(server.clients) == 1
            finally:
                peer.kill()
        assert not server.return_exceptions()


# ----------------------------------------------------------------------------------------------- the stream itself


@contextlib.contextmanager
def stream_pair() -> Iterator[tuple[TLSStream, TLSStream]]:
    """Both ends of an encrypted connection: the server's, and the client's."""
    first, second = socket.socketpair()
    server = TLSStream(first, server_side(), server=True)
    client = TLSStream(second, client_side(), server=False, name=HOST)
    shaking = threading.Thread(target=lambda: server.handshake(Deadline(None, 0.0)))
    shaking.start()
    client.handshake(Deadline(None, 0.0))
    shaking.join()
    try:
        yield server, client
    finally:
        server.close()
        client.close()


def read_stream(stream: TLSStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (part := stream.receive_some(min(65536, size - len(received)))):
        received += part
    return bytes(received)


def test_what_send_now_counts_as_sent_is_sent_and_nothing_twice() -> None:
    parts = [bytes([number]) * 30_000 for number in range(200)]
    whole = b"".join(parts)
    with stream_pair() as (server, client):
        sent = 0
        with contextlib.suppress(BlockingIOError):  # nobody reads
            while True:
                sent += server.send_now([memoryview(whole)[sent : sent + 1000], memoryview(whole)[sent + 1000 :]])
        assert 0 < sent < len(whole)
        assert read_stream(client, sent) == whole[:sent]
        reader, results = in_thread(lambda: read_stream(client, len(whole) - sent))
        while sent < len(whole):
            with contextlib.suppress(BlockingIOError):
                sent += server.send_now([memoryview(whole)[sent:]])
            server.wait_hang_up(None, 0.001)
        reader.join(PATIENCE)
        (rest,) = results
        assert whole.endswith(rest)  # type: ignore[arg-type]
        assert isinstance(rest, bytes)


def test_an_outbox_over_tls_loses_nothing_and_waits_for_nobody() -> None:
    frames = [bytes([number % 256]) * (1 + number * 997 % 150_000) for number in range(150)]
    overflows: list[int] = []
    with stream_pair() as (server, client):
        courier = Courier("simplesockets-test")
        outbox = Outbox(server, courier, 1 << 30, lambda: overflows.append(1))
        for frame in frames:
            assert outbox.post(frame)  # nobody reads yet
        assert outbox.pending
        finished = threading.Event()
        outbox.finish(finished.set)
        assert not finished.is_set()
        assert read_stream(client, sum(map(len, frames))) == b"".join(frames)
        assert finished.wait(PATIENCE)
        courier.join(PATIENCE)
        assert outbox.pending == 0
        assert not overflows


def test_who_reads_leaves_what_tls_has_to_say_to_a_sender_that_is_stuck() -> None:
    # Whatever is left is sent by whoever lets go of the write lock.
    with stream_pair() as (server, client):
        with server.write_lock:
            ender, _ = in_thread(server.end_sending)
            ender.join(PATIENCE)
            assert not ender.is_alive()  # it did not wait
            assert not client.wait_readable(0.05)
            server._flush()
        assert client.wait_readable(PATIENCE)
        assert client.receive_some(1) == b""


def test_a_goodbye_that_the_system_does_not_take_yet_is_said_when_it_does() -> None:
    data = bytes(range(256)) * 40_000
    with stream_pair() as (server, client):
        sent = 0
        with contextlib.suppress(BlockingIOError):  # nobody reads
            while True:
                sent += server.send_now([memoryview(data)[sent:]])
        server.end_sending()  # does not wait
        received = bytearray()
        while part := client.receive_some(65536):
            received += part
        assert len(received) >= sent
        assert data.startswith(received)


def test_cutting_ends_whoever_waits_with_a_goodbye() -> None:
    with stream_pair() as (server, _):
        with contextlib.suppress(BlockingIOError):  # nobody reads
            while True:
                server.send_now([bytes(1_000_000)])
        server.end_sending()
        (waiting,) = [thread for thread in threading.enumerate() if thread.name == "simplesockets-goodbye"]
        server.cut()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_who_was_sending_says_the_goodbye_that_another_thread_left() -> None:
    gate = Gate()
    with stream_pair() as (server, client):
        send = server._send

        def hold(*arguments: Any) -> int:
            gate.arrive()
            return send(*arguments)

        server._send = hold
        sender, _ = in_thread(lambda: server.send_all(b"the last"))
        gate.wait_arrived()
        server.end_sending()
        gate.open()
        sender.join(PATIENCE)
        assert client.receive_some(100) == b"the last"
        assert client.receive_some(100) == b""


def test_part_of_a_record_is_nothing_to_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[bytes] = []
    with stream_pair() as (server, client):
        send = server._send

        def keep(data: Any, *_: Any) -> int:
            records.append(bytes(data))
            return len(data)

        server._send = keep
        server.send_all(b"whole")
        (record,) = records
        rest = [record[:10], record[10:]]

        def arriving(*arguments: Any, **options: Any) -> bool:
            if rest:  # while one waits
                send(rest.pop(0))
            return wait_ready(*arguments, **options)

        monkeypatch.setattr(tls, "wait_ready", arriving)
        assert client.wait_readable(PATIENCE)
        assert client.receive_some(100, NO_WAIT) == b"whole"
        server._send = send


def test_a_stream_without_a_goodbye_ends_like_any_other() -> None:
    with stream_pair() as (server, client):
        server.send_all(b"cut off")
        socket.socket.shutdown(server.socket, socket.SHUT_WR)
        assert client.receive_some(100) == b"cut off"
        assert client.receive_some(100) == b""
        assert client.at_end()


def test_reads_that_do_not_wait() -> None:
    with stream_pair() as (server, client):
        with pytest.raises(BlockingIOError):
            client.receive_some(10, NO_WAIT)
        assert client.receive_waiting(10) == b""
        assert not client.wait_readable(0)
        assert not client.at_end()
        server.send_all(b"abcdef")
        assert client.wait_readable(PATIENCE)
        assert client.receive_some(2, NO_WAIT) == b"ab"
        assert client.wait_readable(0)  # which the socket does not know
        assert not client.at_end()
        assert client.receive_waiting(100) == b"cdef"
        server.end_sending()
        wait_until(client.at_end)
        assert client.wait_readable(0)
        assert client.receive_some(10, NO_WAIT) == b""
        client.send_all(b"back")
        assert server.receive_some(10) == b"back"
        with pytest.raises(BrokenPipeError):
            server.send_all(b"more")


@pytest.mark.parametrize("turn", range(20))
def test_readers_answers_and_senders_go_together(turn: int) -> None:
    # Both ends change keys and say goodbye while four threads of each send; the standard library cannot ask for new
    # keys, so what the reader would answer is stood in for by "something is left".
    message = bytes([turn]) * 5000
    with stream_pair() as (server, client):
        received = {server: bytearray(), client: bytearray()}

        def read(stream: TLSStream) -> None:
            while data := stream.receive_some(3000):
                received[stream] += data
                stream._left = True
                stream._flush()

        def send(stream: TLSStream) -> None:
            for _ in range(25):
                stream.send_all(message)

        readers = [threading.Thread(target=read, args=(stream,)) for stream in (server, client)]
        senders = [threading.Thread(target=send, args=(stream,)) for stream in (server, client) for _ in range(4)]
        for thread in [*readers, *senders]:
            thread.start()
        for thread in senders:
            thread.join(PATIENCE)
        server.end_sending()
        client.end_sending()
        for thread in readers:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert received == {server: message * 100, client: message * 100}


def test_the_socket_alone_neither_reads_nor_writes() -> None:
    with stream_pair() as (server, _):
        for name in ("send", "sendall", "recv", "recv_into", "makefile", "sendmsg", "detach"):
            with pytest.raises(TypeError, match="encrypted"):
                getattr(server.socket, name)(b"in clear")


# -------------------------------------------------------------------------------------------------------- set up


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"ssl_context": "server.pem"}, TypeError, "create_default_context"),
        ({"ssl_context": True}, TypeError, "create_default_context"),
        ({"ssl_context": certificates.client_side()}, ValueError, "for a client"),
        ({"handshake_timeout": 0}, ValueError, "more than 0"),
        ({"handshake_timeout": "soon"}, TypeError, "seconds"),
    ],
)
def test_a_server_that_cannot_be_set_up_says_why(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with contextlib.closing(TCPServer()) as server, pytest.raises(error, match=text):
        server.setup(HOST, 0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"ssl_context": "ca.pem"}, TypeError, "create_default_context"),
        ({"ssl_context": certificates.server_side()}, ValueError, "for a server"),
        ({"ssl_context": certificates.client_side(), "server_hostname": b"name"}, TypeError, "example.com"),
        ({"ssl_context": certificates.client_side(), "server_hostname": ""}, TypeError, "example.com"),
    ],
)
def test_a_client_that_cannot_be_set_up_says_why(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with contextlib.closing(TCPClient()) as client, pytest.raises(error, match=text):
        client.setup(HOST, 1, **arguments)


# ------------------------------------------------------------------------------------- SecureServer, SecureClient


@pytest.mark.parametrize("mutual", [True, False])
def test_the_secure_classes_speak_tls_with_files(mutual: bool) -> None:
    with contextlib.closing(SecureServer(5)) as server, contextlib.closing(SecureClient()) as client:
        server.setup(HOST, 0, on_receive=echo, certfile=SERVER, cafile=CA if mutual else None)
        server.start()
        client.setup(HOST, server.address[1], cafile=CA, certfile=CLIENT if mutual else None)
        assert client.connect()
        client.send_data(b"hello")
        assert client.recv_data(False, timeout=PATIENCE) == b"hello"
        with raw_client(server) as sock:
            sock.sendall(b"in clear")
            assert b"in clear" not in sock.recv(100)


def test_the_secure_classes_speak_tls_with_contexts() -> None:
    with contextlib.closing(SecureServer()) as server, contextlib.closing(SecureClient()) as client:
        server.setup(HOST, 0, ssl_context=server_side(), on_receive=echo)
        server.start()
        client.setup(HOST, server.address[1], ssl_context=client_side())
        assert client.connect()
        client.send_data(b"hello")
        assert client.recv_data(timeout=PATIENCE) == b"hello"


def test_a_secure_client_trusts_only_whom_the_system_trusts() -> None:
    with tls_server() as server, contextlib.closing(SecureClient()) as client:
        client.setup(HOST, server.address[1])
        assert isinstance(failed(client), ssl.SSLCertVerificationError)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "certfile"),
        ({"certfile": "missing.pem"}, "missing.pem"),
        ({"certfile": CA}, "ca.pem"),
        ({"certfile": SERVER, "cafile": "nobody.pem"}, "nobody.pem"),
        ({"ssl_context": certificates.server_side(), "certfile": SERVER}, "not both"),
    ],
)
def test_a_secure_server_never_does_without_a_certificate(arguments: dict[str, Any], text: str) -> None:
    with contextlib.closing(SecureServer()) as server, pytest.raises(SetupError, match=text):
        server.setup(HOST, 0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cafile": "missing.pem"}, "missing.pem"),
        ({"certfile": CA}, "ca.pem"),
        ({"ssl_context": certificates.client_side(), "cafile": CA}, "not both"),
    ],
)
def test_a_secure_client_says_which_file_is_of_no_use(arguments: dict[str, Any], text: str) -> None:
    with contextlib.closing(SecureClient()) as client, pytest.raises(SetupError, match=text):
        client.setup(HOST, 1, **arguments)


def test_who_says_goodbye_while_another_thread_sends_ends_the_sending_with_a_connection_error() -> None:
    with (
        running_server(ssl_context=server_side()) as server,
        running_client(server, ssl_context=client_side()) as client,
    ):
        (entry,) = wait_until(lambda: list(server.clients.values()))
        stream: Any = entry._connection.stream
        stream.end_sending()
        with pytest.raises(BrokenPipeError, match="this end of the connection is over"):
            stream._encrypt(b"the sender was past its look whether the connection is over")
        assert client.recv_data(timeout=PATIENCE) == b""
