"""Files over a connection: whole or not at all, in both directions, with and without TLS."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import pathlib
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from simplesockets import (
    BusyError,
    ConnectionClosed,
    FileIncomplete,
    FileTimeout,
    FramedProtocol,
    LengthPrefixFramer,
    LifecycleError,
    Server_Client,
    TCPClient,
    TCPServer,
    UnknownClient,
    files,
    transport,
)
from simplesockets.transport import wait_ready

from .support.certificates import client_side, server_side
from .support.clients import Peer, in_thread
from .support.programs import Program, free_port, running_command
from .support.running import HOST, raw_client, read_exactly, running_client, running_server
from .support.waiting import PATIENCE, Gate, is_held, wait_until

pytestmark = pytest.mark.usefixtures("either_engine")

MIB = 1024 * 1024
BIG = 3 * MIB + 17  # several pieces, more than the sockets' buffers, and not a round number
DEAF = 64 * MIB  # more than the system takes for a peer that does not read


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    return a_file(tmp_path / "source", BIG)


def a_file(path: pathlib.Path, size: int) -> pathlib.Path:
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def a_sparse_file(path: pathlib.Path, size: int) -> pathlib.Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def written(path: pathlib.Path) -> list[str]:
    """The names in the file's directory."""
    return sorted(os.listdir(path.parent))


class Pair:
    """A client, and how its server sees it."""

    def __init__(self, server: TCPServer, client: TCPClient) -> None:
        self.server = server
        self.client = client
        self.seen: Server_Client = wait_until(lambda: next(iter(server.clients.values()), None))  # type: ignore[assignment]

    def ends(self, sender: str) -> tuple[Any, Any]:
        """Who sends and who receives."""
        return (self.client, self.seen) if sender == "client" else (self.seen, self.client)


@contextlib.contextmanager
def pair(kind: str = "plain", *, autorecv: bool = False, **setup: Any) -> Iterator[Pair]:
    server_setup, client_setup = (
        ({}, {}) if kind == "plain" else ({"ssl_context": server_side()}, {"ssl_context": client_side()})
    )
    with running_server(**{**server_setup, **setup}) as server:
        with running_client(server, autorecv=autorecv, **client_setup) as client:
            both = Pair(server, client)
            try:
                yield both
            finally:  # else the client waits for the server, which would still answer
                both.seen.close()


kinds = pytest.mark.parametrize("kind", ["plain", "tls"])
senders = pytest.mark.parametrize("sender", ["client", "server"])


def stream_of(end: Any) -> Any:
    return end._connection.stream


def says_the_send_worked(result: object, size: int) -> bool:
    return result is True or (type(result) is int and result == size)


# ------------------------------------------------------------------------------------------------ whole files


@kinds
@senders
@pytest.mark.parametrize("autorecv", [False, True], ids=["direct", "autorecv"])
@pytest.mark.parametrize("size", [0, 1, BIG])
def test_a_file_arrives_whole(kind: str, sender: str, autorecv: bool, size: int, tmp_path: pathlib.Path) -> None:
    source, target = a_file(tmp_path / "source", size), tmp_path / "target"
    with pair(kind, autorecv=autorecv) as both:
        sending, receiving = both.ends(sender)
        thread, results = in_thread(lambda: sending.send_file(source))
        assert receiving.receive_file(target, size, timeout=PATIENCE) == size
        thread.join(PATIENCE)
        assert says_the_send_worked(results[0], size)
        assert target.read_bytes() == source.read_bytes()
        assert written(target) == ["source", "target"]
        # and the connection goes on
        both.client.send_data(b"to the server")
        assert both.seen.recv(timeout=PATIENCE) == b"to the server"
        both.seen.send(b"to the client")
        assert both.client.recv_data(timeout=PATIENCE) == b"to the client"


@kinds
@pytest.mark.parametrize("style", ["on_receive", "handle_client"])
def test_callbacks_receive_files(kind: str, style: str, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"
    further: list[bytes] = []

    def take(client: Any, address: Any, data: bytes) -> None:
        if further:
            client.send(data)
            return
        further.append(data)
        client.receive_file(target, BIG, head=data, timeout=PATIENCE)
        client.send(b"thanks")

    def handle(client: Any) -> None:
        client.receive_file(target, BIG, timeout=PATIENCE)
        client.send(b"thanks")
        client.send(client.recv(timeout=PATIENCE))

    with pair(kind, **({"on_receive": take} if style == "on_receive" else {"handle_client": handle})) as both:
        assert both.client.send_file(source)
        assert both.client.recv_data(timeout=PATIENCE) == b"thanks"
        both.client.send_data(b"further")
        assert both.client.recv_data(timeout=PATIENCE) == b"further"
    assert target.read_bytes() == source.read_bytes()


@kinds
def test_a_clients_callback_receives_a_file(kind: str, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    received = threading.Event()

    def take(data: bytes) -> None:
        both.client.receive_file(tmp_path / "target", BIG, head=bytes(data), timeout=PATIENCE)
        received.set()

    with pair(kind, autorecv=True) as both:
        both.client.on_receive = take
        both.seen.send_file(source)
        assert received.wait(PATIENCE), both.client.return_exceptions()
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@kinds
@senders
def test_until_the_end_of_the_stream(kind: str, sender: str, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    told: list[tuple[int, int | None]] = []
    with pair(kind) as both:
        sending, receiving = both.ends(sender)

        def send() -> None:
            sending.send_file(source)
            sending.close()

        thread, _ = in_thread(send)
        size = receiving.receive_file(tmp_path / "target", None, lambda *so_far: told.append(so_far), timeout=PATIENCE)
        thread.join(PATIENCE)
        assert size == BIG
        assert (told[0], told[-1]) == ((0, None), (BIG, None))
        if sender == "server":
            assert not both.client.event.is_connected
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_client_that_finished_sending_can_be_answered_with_a_file(source: pathlib.Path) -> None:
    with running_server() as server, raw_client(server) as sock:
        sock.sendall(b"please")
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: server.event.new_data)
        ((client, _, _),) = server.return_recved_data()
        wait_until(lambda: client.ending)
        thread, results = in_thread(lambda: server.send_file(source, client))
        assert read_exactly(sock, BIG) == source.read_bytes()
        thread.join(PATIENCE)
        assert results == [True]


def test_a_client_is_named_by_object_socket_or_address(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pair() as both:
        seen, server = both.seen, both.server
        names: list[Server_Client | socket.socket | tuple[str, int]] = [seen, seen.socket, seen.address]
        for number, name in enumerate(names):
            thread, results = in_thread(partial(server.send_file, source, name, offset=BIG - 10))
            assert both.client.receive_file(tmp_path / f"{number}", 10, timeout=PATIENCE) == 10
            thread.join(PATIENCE)
            assert results == [True]
            both.client.send_data(b"0123456789")
            assert server.receive_file(tmp_path / "back", 10, name, timeout=PATIENCE) == 10


# ------------------------------------------------------------------------------------------- how they are sent


def answering(failure: int) -> Callable[..., int]:
    def sendfile(*_: object) -> int:
        raise OSError(failure, os.strerror(failure))

    return sendfile


@pytest.mark.skipif(not transport.Stream.sends_files, reason="the system has no sendfile")
def test_the_system_sends_where_it_can(
    source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    original = os.sendfile

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        sent.append(original(out, fd, offset, count))
        return sent[-1]

    with pair() as both:
        monkeypatch.setattr(os, "sendfile", sendfile)
        thread, _ = in_thread(lambda: both.seen.send_file(source))
        both.client.receive_file(tmp_path / "target", BIG, timeout=PATIENCE)
        thread.join(PATIENCE)
    assert sum(sent) == BIG


@pytest.mark.parametrize("how", [errno.EINVAL, errno.ENOSYS, errno.EIO, None], ids=["EINVAL", "ENOSYS", "EIO", "none"])
def test_where_the_system_cannot_send_files_they_are_read(
    how: int | None, source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how is None:
        monkeypatch.setattr(transport.Stream, "sends_files", False)
    else:
        monkeypatch.setattr(os, "sendfile", answering(how), raising=False)
    with pair() as both:
        thread, results = in_thread(lambda: both.seen.send_file(source))
        both.client.receive_file(tmp_path / "target", BIG, timeout=PATIENCE)
        thread.join(PATIENCE)
        assert results == [BIG]
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@kinds
@pytest.mark.parametrize("timeout", [0.0, 0.001])
def test_a_socket_that_does_not_wait_sends_all_the_same(
    kind: str, timeout: float, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pair(kind, handle_client=lambda client: ended.wait(PATIENCE)) as both:
        both.seen.socket.settimeout(timeout)
        with raising_in_thread(lambda: both.seen.send_file(source)) as failures:
            assert both.client.receive_file(tmp_path / "target", BIG, timeout=PATIENCE) == BIG
        assert not failures
        ended.set()
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    ended.clear()


ended = threading.Event()


@contextlib.contextmanager
def raising_in_thread(function: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run something in a thread, joined at the end. Gives the list that its exception will be put in."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield failures
    thread.join(PATIENCE)
    assert not thread.is_alive()


def plain_file(path: pathlib.Path) -> Any:
    return path.open("rb")


def unbuffered_file(path: pathlib.Path) -> Any:
    return path.open("rb", buffering=0)


def memory_file(path: pathlib.Path) -> Any:
    return io.BytesIO(path.read_bytes())


def packed_file(path: pathlib.Path) -> Any:
    packed = path.with_name("packed")
    with gzip.open(packed, "wb", compresslevel=1) as file:
        file.write(path.read_bytes())
    return gzip.open(packed)


def file_with_unwritten_data(path: pathlib.Path) -> Any:
    file = path.with_name("copy").open("w+b", buffering=2 * BIG)
    file.write(path.read_bytes())
    return file


FILES = [plain_file, unbuffered_file, memory_file, packed_file, file_with_unwritten_data]


PARTS = [(0, None), (5, None), (5, MIB + 1), (BIG, None), (BIG - 1, 1), (7, 0)]
FILES_AND_PARTS = [(opened, 5, MIB + 1) for opened in FILES] + [(plain_file, *part) for part in PARTS]


@kinds
@pytest.mark.parametrize(("opened", "offset", "count"), FILES_AND_PARTS)
def test_open_files_and_parts_of_them(
    kind: str, opened: Callable[[pathlib.Path], Any], offset: int, count: int | None, source: pathlib.Path
) -> None:
    size = BIG - offset if count is None else count
    target = source.with_name("target")
    with pair(kind) as both, opened(source) as file:
        with raising_in_thread(lambda: both.seen.send_file(file, offset=offset, count=count)) as failures:
            both.client.receive_file(target, size, timeout=PATIENCE)
        assert not failures
        assert file.tell() == offset + size
    assert target.read_bytes() == source.read_bytes()[offset : offset + size]


# --------------------------------------------------------------------------------------------------- progress


class BarDouble:
    """As tqdm's bars: callable only by its method."""

    def __init__(self) -> None:
        self.n = 0

    def update(self, n: int = 1) -> None:
        assert n > 0
        self.n += n


@kinds
@senders
def test_progress_is_told_at_both_ends(kind: str, sender: str, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    sent: list[tuple[int, int]] = []
    received: list[tuple[int, int | None]] = []
    bars = BarDouble(), BarDouble()
    with pair(kind) as both:
        sending, receiving = both.ends(sender)
        with raising_in_thread(lambda: sending.send_file(source, lambda *so_far: sent.append(so_far))) as failures:
            receiving.receive_file(tmp_path / "target", BIG, lambda *so_far: received.append(so_far), timeout=PATIENCE)
        with raising_in_thread(lambda: sending.send_file(source, bars[0])):
            receiving.receive_file(tmp_path / "target", BIG, bars[1], timeout=PATIENCE)
    assert not failures
    for told in (sent, received):
        assert told == sorted(set(told))
        assert (told[0], told[-1], len(told) > 3) == ((0, BIG), (BIG, BIG), True)
    assert [bar.n for bar in bars] == [BIG, BIG]


def test_the_progress_of_an_empty_file_is_told_once(tmp_path: pathlib.Path) -> None:
    told: list[tuple[int, int]] = []
    with pair() as both:
        assert both.client.send_file(a_file(tmp_path / "empty", 0), lambda *so_far: told.append(so_far))
    assert told == [(0, 0)]


class Mistake(Exception):
    """Of the program's."""


def failing_after(count: int) -> Callable[[int, int | None], None]:
    def progress(done: int, total: int | None) -> None:
        if done >= count:
            raise Mistake

    return progress


@kinds
@senders
@pytest.mark.parametrize("size", [BIG, None], ids=["sized", "until the end"])
def test_progress_that_raises_ends_the_sending_and_the_receiver_notices(
    kind: str, sender: str, size: int | None, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pair(kind) as both:
        sending, receiving = both.ends(sender)
        with raising_in_thread(lambda: sending.send_file(source, failing_after(MIB))) as failures:
            with pytest.raises(FileIncomplete) as caught:
                receiving.receive_file(tmp_path / "target", size, timeout=PATIENCE)
        assert type(failures[0]) is Mistake
        assert failures[0].__traceback__ is not None
        assert caught.value.expected == size
        assert written(source) == ["source"]
        wait_until(lambda: not both.server.clients)
        assert sending.ending is not None
        assert sending.ending.kind == "closed here"
        with pytest.raises(ConnectionError):
            both.seen.send(b"more")
        assert not both.client.send_data(b"more")


@kinds
@senders
def test_progress_that_raises_ends_the_receiving_and_the_sender_notices(
    kind: str, sender: str, tmp_path: pathlib.Path
) -> None:
    source = a_sparse_file(tmp_path / "source", DEAF)
    with pair(kind) as both:
        sending, receiving = both.ends(sender)
        results: list[object] = []
        with raising_in_thread(lambda: results.append(sending.send_file(source))) as failures:
            with pytest.raises(Mistake):
                receiving.receive_file(tmp_path / "target", DEAF, failing_after(MIB), timeout=PATIENCE)
        if sender == "client":
            assert results == [False]
        else:
            assert isinstance(failures[0], ConnectionError), failures
        assert written(source) == ["source"]
        wait_until(lambda: not both.server.clients)


@senders
@pytest.mark.parametrize("what", ["sending", "receiving"])
def test_progress_that_raises_before_the_first_byte_does_no_harm(
    sender: str, what: str, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pair() as both:
        sending, receiving = both.ends(sender)
        target = tmp_path / "target"
        with pytest.raises(Mistake):
            sending.send_file(source, failing_after(0)) if what == "sending" else receiving.receive_file(
                target, 5, failing_after(0)
            )
        assert written(source) == ["source"]
        with raising_in_thread(lambda: sending.send_file(source)) as failures:
            assert receiving.receive_file(tmp_path / "target", BIG, timeout=PATIENCE) == BIG
        assert not failures


@pytest.mark.parametrize("progress", [5, object(), "bar"])
def test_progress_that_cannot_be_told_is_refused(progress: Any, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pair() as both:
        with pytest.raises(TypeError, match="progress"):
            both.client.send_file(source, progress)
        with pytest.raises(TypeError, match="progress"):
            both.client.receive_file(tmp_path / "target", 1, progress)
        assert written(source) == ["source"]


# --------------------------------------------------------------------------------------- what else is being sent


@kinds
@senders
@pytest.mark.parametrize("times", [1, 2])
def test_what_others_send_comes_after_the_file(
    kind: str, sender: str, times: int, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    gate = Gate()
    with pair(kind) as both:
        sending, receiving = both.ends(sender)
        send: Any = both.client.send_data if sender == "client" else both.seen.send
        stream: Any = stream_of(sending)

        def progress(done: int, total: int) -> None:
            if MIB <= done < 2 * MIB:
                gate.arrive()

        with raising_in_thread(lambda: sending.send_file(source, progress)) as failures:
            gate.wait_arrived()
            with contextlib.ExitStack() as others:
                for _ in range(times):
                    others.enter_context(raising_in_thread(lambda: send(b"after")))
                wait_until(lambda: len(stream._turn._waiters) == times, "they wait for their turn")
                gate.open()
                receiving.receive_file(tmp_path / "target", BIG, timeout=PATIENCE)
        received = b""
        while len(received) < 5 * times:
            received += (
                receiving.recv_data(timeout=PATIENCE) if sender == "server" else receiving.recv(timeout=PATIENCE)
            )
        assert received == b"after" * times
        assert not failures
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@kinds
def test_two_files_at_once_do_not_mix(kind: str, tmp_path: pathlib.Path) -> None:
    sources = [a_file(tmp_path / f"source{number}", BIG + number) for number in range(2)]
    with pair(kind) as both:
        with raising_in_thread(lambda: both.seen.send_file(sources[0])) as first:
            with raising_in_thread(lambda: both.seen.send_file(sources[1])) as second:
                both.client.receive_file(tmp_path / "target", 2 * BIG + 1, timeout=PATIENCE)
        assert not first
        assert not second
    content = [source.read_bytes() for source in sources]
    assert (tmp_path / "target").read_bytes() in (content[0] + content[1], content[1] + content[0])


@kinds
@senders
@pytest.mark.parametrize("what", ["data", "file"])
def test_who_sends_a_file_cannot_send_in_the_middle_of_it(
    kind: str, sender: str, what: str, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    refused: list[BusyError] = []
    with pair(kind) as both:
        sending, receiving = both.ends(sender)
        send: Any = both.client.send_data if sender == "client" else both.seen.send

        def progress(done: int, total: int) -> None:
            if 0 < done < total:
                with pytest.raises(BusyError, match="afterwards") as caught:
                    send(b"in between") if what == "data" else sending.send_file(source, count=1)
                refused.append(caught.value)

        with raising_in_thread(lambda: sending.send_file(source, progress)) as failures:
            receiving.receive_file(tmp_path / "target", BIG, timeout=PATIENCE)
        assert not failures
        assert refused
        send(b"after")
        received = receiving.recv_data(timeout=PATIENCE) if sender == "server" else receiving.recv(timeout=PATIENCE)
        assert received == b"after"
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@kinds
def test_a_file_for_a_deaf_client_delays_nobody_else(kind: str, tmp_path: pathlib.Path) -> None:
    source = a_sparse_file(tmp_path / "source", DEAF)
    asked = threading.Event()

    def serve(client: Any, address: Any, data: bytes) -> None:
        if data == b"file":
            asked.set()
            client.send_file(source)
        else:
            client.send(data)

    with pair(kind, on_receive=serve) as deaf, contextlib.ExitStack() as stack:
        setup = {} if kind == "plain" else {"ssl_context": client_side()}
        others = [stack.enter_context(running_client(deaf.server, autorecv=False, **setup)) for _ in range(3)]
        for _ in range(8):  # so that all of them are served by the shared thread
            for each in [deaf.client, *others]:
                each.send_data(b"warm")
                assert each.recv_data(timeout=PATIENCE) == b"warm"
        deaf.client.send_data(b"file")
        assert asked.wait(PATIENCE)
        for _ in range(20):
            for other in others:
                other.send_data(b"echo")
                assert other.recv_data(timeout=PATIENCE) == b"echo"
        assert stream_of(deaf.seen)._alone  # it is at it all the time


# -------------------------------------------------------------------------------------------- ends and failures


@kinds
@senders
@pytest.mark.parametrize("end", ["close", "disconnect"])
def test_closing_ends_the_sending_to_a_deaf_receiver(kind: str, sender: str, end: str, tmp_path: pathlib.Path) -> None:
    source = a_sparse_file(tmp_path / "source", DEAF)
    gate = threading.Event()
    with pair(kind) as both:
        sending, _ = both.ends(sender)
        if sender == "client":  # a server reads for polling, unless it is told to do something else
            both.server.on_receive = lambda client, address, data: gate.wait(PATIENCE)
        results: list[object] = []
        began = threading.Event()

        def progress(done: int, total: int) -> None:
            if done:
                began.set()

        with raising_in_thread(lambda: results.append(sending.send_file(source, progress))) as failures:
            assert began.wait(PATIENCE)
            if sender == "client":
                getattr(both.client, end)()
            elif end == "close":
                both.server.close()
            else:
                both.server.disconnect(both.seen)
        gate.set()
        if sender == "client":
            assert results == [False]
            failures = [record.exception for record in both.client.return_exceptions()]
        assert isinstance(failures[0], ConnectionError)


class Interrupted(BaseException):
    """What a signal handler raises."""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no such signals")
@kinds
@pytest.mark.parametrize("what", ["close", "raise"])
def test_a_signal_handler_ends_the_sending_to_a_deaf_server(
    peer: Peer, kind: str, what: str, tmp_path: pathlib.Path
) -> None:
    source = a_sparse_file(tmp_path / "source", DEAF)
    main = threading.get_ident()
    with contextlib.closing(TCPClient()) as client:
        client.setup(HOST, peer.port, ssl_context=client_side() if kind == "tls" else None)
        socks: list[socket.socket] = []
        accepted, _ = in_thread(partial(accept, peer, kind, socks))
        assert client.connect()
        accepted.join(PATIENCE)
        stream = stream_of(client)

        def handle(*_: object) -> None:
            client.close()
            if what == "raise":
                raise Interrupted

        def interrupt() -> None:
            wait_until(lambda: not wait_ready(stream.socket, 0, writable=True) and is_held(stream.write_lock))
            signal.pthread_kill(main, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        interrupter, _ = in_thread(interrupt)
        try:
            if what == "raise":
                with pytest.raises(Interrupted):
                    client.send_file(source)
            else:
                assert not client.send_file(source)
        finally:
            interrupter.join(PATIENCE)
            signal.signal(signal.SIGUSR1, before)
        assert stream.closed
        with contextlib.closing(socks.pop()) as sock, pytest.raises(OSError, match=r"reset|EOF"):
            read_exactly(sock, DEAF)


def accept(peer: Peer, kind: str, socks: list[socket.socket]) -> None:
    sock = peer.accept()
    if kind == "tls":  # the standard library reports the reset as an end of the stream without a goodbye
        sock = server_side().wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
    socks.append(sock)


@kinds
@senders
@pytest.mark.parametrize("where", ["another thread", "progress"])
@pytest.mark.parametrize("size", [BIG, None], ids=["sized", "until the end"])
def test_a_file_that_was_closed_in_the_middle_is_not_taken_for_a_whole_one(
    kind: str, sender: str, where: str, size: int | None, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    gate = Gate()
    with pair(kind) as both:
        sending, receiving = both.ends(sender)

        def close() -> None:
            both.client.disconnect() if sender == "client" else both.seen.close()

        def progress(done: int, total: int) -> None:
            if MIB <= done < 2 * MIB:
                close() if where == "progress" else gate.arrive()

        results: list[object] = []
        with raising_in_thread(lambda: results.append(sending.send_file(source, progress))) as failures:
            with raising_in_thread(
                lambda: receiving.receive_file(tmp_path / "target", size, timeout=PATIENCE)
            ) as incomplete:
                if where == "another thread":
                    gate.wait_arrived()
                    close()
                    gate.open()
        assert type(incomplete[0]) is FileIncomplete
        assert results == [False] if sender == "client" else isinstance(failures[0], ConnectionClosed)
        assert written(source) == ["source"]


@kinds
def test_closing_right_after_a_file_lets_it_arrive(kind: str, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    gate = Gate()
    with pair(kind) as both:

        def progress(done: int, total: int) -> None:
            if done == total:
                gate.arrive()  # still inside

        with raising_in_thread(lambda: both.seen.send_file(source, progress)) as failures:
            with raising_in_thread(
                lambda: both.client.receive_file(tmp_path / "target", None, timeout=PATIENCE)
            ) as incomplete:
                gate.wait_arrived()
                both.seen.close()
                gate.open()
        assert not failures
        assert not incomplete
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("change", ["shrinks", "grows"])
@kinds
def test_a_file_that_changes_while_it_is_sent(
    kind: str, change: str, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    content = source.read_bytes()

    def progress(done: int, total: int) -> None:
        if MIB <= done < 2 * MIB:
            with source.open("r+b") as file:
                if change == "shrinks":
                    file.truncate(2 * MIB + 5)
                else:
                    file.seek(0, os.SEEK_END)
                    file.write(b"more")

    with pair(kind) as both:
        with raising_in_thread(lambda: both.server.send_file(source, both.seen, progress)) as failures:
            if change == "shrinks":
                with pytest.raises(FileIncomplete):
                    both.client.receive_file(tmp_path / "target", BIG, timeout=PATIENCE)
            else:
                both.client.receive_file(tmp_path / "target", BIG, timeout=PATIENCE)
        if change == "shrinks":
            failure = failures[0]
            assert isinstance(failure, FileIncomplete)
            assert (failure.done, failure.expected) == (2 * MIB + 5, BIG)
            assert "shorter" in str(failure)
            assert written(source) == ["source"]
        else:
            both.seen.send(b"after")
            assert both.client.recv_data(timeout=PATIENCE) == b"after"
            assert (tmp_path / "target").read_bytes() == content


@kinds
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_receiver_that_goes_away_is_recorded(kind: str, how: str, tmp_path: pathlib.Path) -> None:
    source = a_sparse_file(tmp_path / "source", DEAF)
    with pair(kind) as both:

        def progress(done: int, total: int) -> None:
            if done == MIB:
                if how == "reset":
                    stream_of(both.client).break_off()
                both.client.close()

        assert both.server.send_file(source, both.seen, progress) is False
        (record,) = both.server.return_exceptions()
        assert isinstance(record.exception, OSError)


@senders
@pytest.mark.parametrize("came", [0, 5])
@pytest.mark.parametrize(("size", "how"), [(BIG, "end"), (BIG, "reset"), (None, "reset")], ids=str)
def test_a_stream_that_ends_early_leaves_no_file(
    peer: Peer, sender: str, size: int | None, came: int, how: str, tmp_path: pathlib.Path
) -> None:
    target = a_file(tmp_path / "target", 3)
    before = target.read_bytes()
    with contextlib.ExitStack() as stack:
        if sender == "server":
            client = stack.enter_context(contextlib.closing(TCPClient()))
            client.setup(HOST, peer.port)
            assert client.connect()
            sock, receiving = peer.accept(), client
        else:
            server = stack.enter_context(running_server())
            sock = stack.enter_context(raw_client(server))
            receiving = wait_until(lambda: next(iter(server.clients.values()), None))  # type: ignore[assignment]
        came_so_far = threading.Event()

        def progress(done: int, total: int | None) -> None:
            if done == came:
                came_so_far.set()

        with raising_in_thread(lambda: receiving.receive_file(target, size, progress, timeout=PATIENCE)) as failures:
            sock.sendall(b"x" * came)
            assert came_so_far.wait(PATIENCE)
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        failure = failures[0]
        assert type(failure) is FileIncomplete
        assert (failure.done, failure.expected) == (came, size)
        assert f"after {came} " in str(failure)
        assert str(size or "bytes") in str(failure)
    assert target.read_bytes() == before
    assert written(target) == ["target"]


@kinds
@pytest.mark.parametrize("autorecv", [False, True], ids=["direct", "autorecv"])
def test_a_timeout_before_the_first_byte_changes_nothing(kind: str, autorecv: bool, tmp_path: pathlib.Path) -> None:
    with pair(kind, autorecv=autorecv) as both:
        for receiving in (both.client, both.seen):
            with pytest.raises(FileTimeout, match=r"within 0\.01 seconds after 0 of 4 bytes"):
                receiving.receive_file(tmp_path / "target", 4, timeout=0.01)
        assert os.listdir(tmp_path) == []
        both.client.send_data(b"here")
        both.seen.send(b"it is")
        assert both.seen.receive_file(tmp_path / "target", 4, timeout=PATIENCE) == 4
        assert both.client.receive_file(tmp_path / "target", 5, timeout=PATIENCE) == 5


@kinds
@senders
def test_a_timeout_in_the_middle_breaks_the_connection_off(kind: str, sender: str, tmp_path: pathlib.Path) -> None:
    with pair(kind) as both:
        sending, receiving = both.ends(sender)
        both.client.send_data(b"half") if sender == "client" else both.seen.send(b"half")
        with pytest.raises(TimeoutError) as caught:
            receiving.receive_file(tmp_path / "target", 8, timeout=0.05)
        assert isinstance(caught.value, FileTimeout)
        assert (caught.value.done, caught.value.expected) == (4, 8)
        assert os.listdir(tmp_path) == []
        assert receiving.ending is not None
        assert receiving.ending.kind == "closed here"
        data = sending.recv_data(timeout=PATIENCE) if sender == "client" else wait_until(lambda: sending.ending)
        assert not data if sender == "client" else data.kind == "reset"


@kinds
@senders
def test_close_ends_the_receiving(kind: str, sender: str, tmp_path: pathlib.Path) -> None:
    with pair(kind) as both:
        _, receiving = both.ends(sender)
        waiting = threading.Event()
        with raising_in_thread(
            lambda: receiving.receive_file(tmp_path / "target", None, lambda *_: waiting.set())
        ) as failures:
            assert waiting.wait(PATIENCE)
            both.server.close() if sender == "client" else both.client.close()
        assert type(failures[0]) is FileIncomplete
        assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_breaks_the_connection_off(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair() as both:
        both.seen.send(b"something")
        original = files._PartFile.__init__

        def make(part: files._PartFile, path: files.Path) -> None:
            original(part, path)
            part.write = answering(errno.ENOSPC)

        monkeypatch.setattr(files._PartFile, "__init__", make)
        with pytest.raises(OSError, match="space") as caught:
            both.client.receive_file(tmp_path / "target", 100, head=b"", timeout=PATIENCE)
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(tmp_path) == []
        wait_until(lambda: both.seen.ending)


# ------------------------------------------------------------------------------------- what comes first, and once


def test_what_was_received_for_polling_comes_first_and_once(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = source.read_bytes()
    with pair() as both, raw_client(both.server) as other:
        both.client.send_data(content[:10])
        wait_until(lambda: both.server.event.new_data)
        other.sendall(b"of another client")
        wait_until(lambda: len(both.server._mailbox._items) == 2)
        both.client.send_data(content[10:20])
        with raising_in_thread(lambda: both.client.send_file(source, offset=20)) as failures:
            both.seen.receive_file(tmp_path / "target", BIG - 5, timeout=PATIENCE)
            assert (tmp_path / "target").read_bytes() == content[:-5]
        assert not failures
        wait_until(lambda: sum(len(item.response) for item in both.server._mailbox._items) == 22)
        received = {item.response for item in both.server.return_recved_data()}
        assert received == {b"of another client", content[-5:]}


def test_what_a_stopped_reader_kept_comes_first_and_once(peer: Peer, client: TCPClient, tmp_path: pathlib.Path) -> None:
    # Receiving is turned off while its thread sleeps in the socket: what it wakes up with is kept.
    assert client.connect()
    sock = peer.accept()
    client.autorecv()
    connection = client._connection
    assert connection is not None
    client.autorecv()
    sock.sendall(b"kept")
    wait_until(lambda: connection.thread is None)
    sock.sendall(b"and more")
    assert client.receive_file(tmp_path / "target", 6, timeout=PATIENCE) == 6
    assert (tmp_path / "target").read_bytes() == b"keptan"
    assert client.recv_data(timeout=PATIENCE) == b"d more"


def test_the_head_comes_first(tmp_path: pathlib.Path) -> None:
    with pair() as both:
        both.seen.send(b"size 8\nhead")
        both.seen.send(b"tail")
        data = both.client.recv_data(timeout=PATIENCE)
        _, _, head = data.partition(b"\n")
        told: list[tuple[int, int | None]] = []
        both.client.receive_file(
            tmp_path / "target", 8, lambda *so_far: told.append(so_far), head=head, timeout=PATIENCE
        )
        assert told[:1] + told[-1:] == [(0, 8), (8, 8)]
    assert (tmp_path / "target").read_bytes() == b"headtail"


@senders
def test_a_file_is_not_received_beside_a_callback_that_gets_its_data(sender: str, tmp_path: pathlib.Path) -> None:
    with pair(autorecv=True) as both:
        _, receiving = both.ends(sender)
        owner: Any = both.server if sender == "client" else both.client
        owner.on_receive = lambda data: None
        with pytest.raises(LifecycleError, match="on_receive"):
            receiving.receive_file(tmp_path / "target", 5)
        assert os.listdir(tmp_path) == []


def test_a_file_is_not_received_beside_handle_client(tmp_path: pathlib.Path) -> None:
    gate = Gate()
    with pair(handle_client=lambda client: gate.arrive()) as both:
        gate.wait_arrived()
        with pytest.raises(LifecycleError, match="handle_client"):
            both.seen.receive_file(tmp_path / "target", 5)
        gate.open()


# ------------------------------------------------------------------------------------------------- what is refused


def text_file(path: pathlib.Path) -> Any:
    return path.open()


def closed_file(path: pathlib.Path) -> Any:
    with path.open("rb") as file:
        return file


def write_only_file(path: pathlib.Path) -> Any:
    return path.with_name("other").open("wb")


def pipe(path: pathlib.Path) -> pathlib.Path:
    os.mkfifo(path.with_name("pipe"))
    return path.with_name("pipe")


def text_reader(path: pathlib.Path) -> Any:
    class Reader:
        def seek(self, place: int, whence: int = 0) -> int:
            return 9

        def read(self, size: int) -> str:
            return "some text"

    return Reader()


BAD_FILES: dict[str, tuple[Callable[[pathlib.Path], Any], type[Exception]]] = {
    "missing": (lambda path: path.with_name("missing"), FileNotFoundError),
    "directory": (lambda path: path.parent, IsADirectoryError),
    "text": (text_file, TypeError),
    "text in memory": (lambda path: io.StringIO("text"), TypeError),
    "reader of text": (text_reader, TypeError),
    "closed": (closed_file, ValueError),
    "number": (lambda path: 5, TypeError),
    "pipe": (pipe, ValueError),
}


@kinds
@pytest.mark.parametrize("bad", BAD_FILES)
@pytest.mark.parametrize("who", ["server", "seen", "client"])
def test_files_that_cannot_be_sent(kind: str, bad: str, who: str, source: pathlib.Path) -> None:
    make, error = BAD_FILES[bad]
    with pair(kind) as both:
        file = make(source)
        with pytest.raises(error):
            both.server.send_file(file, both.seen) if who == "server" else getattr(both, who).send_file(file)
        assert not both.server.return_exceptions()
        both.seen.send(b"goes on")
        assert both.client.recv_data(timeout=PATIENCE) == b"goes on"
        if hasattr(file, "close"):
            file.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"offset": -1}, ValueError),
        ({"offset": BIG + 1}, ValueError),
        ({"offset": 1.0}, TypeError),
        ({"count": -1}, ValueError),
        ({"count": BIG + 1}, ValueError),
        ({"count": BIG, "offset": 1}, ValueError),
        ({"count": True}, TypeError),
    ],
    ids=str,
)
def test_parts_that_a_file_does_not_have(arguments: Any, error: type[Exception], source: pathlib.Path) -> None:
    with pair() as both:
        for send in (both.client.send_file, both.seen.send_file):
            with pytest.raises(error):
                send(source, **arguments)
        both.seen.send(b"goes on")
        assert both.client.recv_data(timeout=PATIENCE) == b"goes on"


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("target", {"size": -1}, ValueError),
        ("target", {"size": "5"}, TypeError),
        ("target", {"size": True}, TypeError),
        ("target", {"size": 3, "head": b"four"}, ValueError),
        ("target", {"size": 3, "head": "t"}, TypeError),
        ("target", {"size": 3, "timeout": "1"}, TypeError),
        (".", {"size": 3}, IsADirectoryError),
        ("missing/target", {"size": 3}, FileNotFoundError),
    ],
    ids=str,
)
def test_files_that_cannot_be_received(
    name: str, arguments: Any, error: type[Exception], tmp_path: pathlib.Path
) -> None:
    with pair() as both:
        for receive in (both.client.receive_file, both.seen.receive_file):
            with pytest.raises(error):
                receive(tmp_path / name, **arguments)
        with pytest.raises(TypeError):
            both.client.receive_file(5, 5)  # type: ignore[arg-type]
        assert os.listdir(tmp_path) == []
        both.seen.send(b"goes on")
        assert both.client.recv_data(timeout=PATIENCE) == b"goes on"


def test_messages_are_not_broken_by_files(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def messages() -> FramedProtocol:
        return FramedProtocol(LengthPrefixFramer())

    with running_server(protocol=messages) as server, running_client(server, protocol=messages) as client:
        both = Pair(server, client)
        calls: list[Callable[[], object]] = [
            lambda: client.send_file(source),
            lambda: both.seen.send_file(source),
            lambda: server.send_file(source, both.seen),
            lambda: client.receive_file(tmp_path / "target", 5),
            lambda: both.seen.receive_file(tmp_path / "target", 5),
        ]
        for call in calls:
            with pytest.raises(LifecycleError, match="protocol"):
                call()
        both.seen.send(b"goes on")
        assert client.recv_data(timeout=PATIENCE) == b"goes on"
    assert written(source) == ["source"]


def test_a_client_that_left_and_one_that_nobody_knows(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pair() as both:
        both.client.close()
        wait_until(lambda: not both.server.clients)
        assert both.server.send_file(source, ("127.0.0.1", 1)) is False
        both.seen.close()
        assert both.server.send_file(source, both.seen) is False
        kinds = [type(record.exception) for record in both.server.return_exceptions()]
        assert kinds == [UnknownClient, ConnectionClosed]
        with pytest.raises(ConnectionClosed):
            both.seen.send_file(source)
        with pytest.raises(UnknownClient):
            both.server.receive_file(tmp_path / "target", 5, ("127.0.0.1", 1))
        with pytest.raises(TypeError):
            both.server.send_file(source, 5)  # type: ignore[arg-type]
        assert not both.client.send_file(source)
        assert isinstance(both.client.return_exceptions()[-1].exception, ConnectionClosed)


def test_a_client_that_never_connected(bare: TCPClient, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert not bare.send_file(source)
    with pytest.raises(ConnectionClosed, match="connect"):
        bare.receive_file(tmp_path / "target", 5)
    assert written(source) == ["source"]


# ------------------------------------------------------------------------------------------------------- the example

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


@contextlib.contextmanager
def example(name: str, directory: pathlib.Path, port: int, *arguments: str) -> Iterator[Program]:
    program = directory / name
    program.write_text((EXAMPLES / name).read_text().replace("9999", str(port)))
    with running_command([sys.executable, str(program), *arguments], str(directory)) as running:
        yield running


def test_the_example_keeps_files_and_gives_them_back(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    port = free_port()
    with example("file_transfer_server.py", tmp_path, port, "kept") as server:
        server.wait_listening(port)
        for arguments in (["put", str(source)], ["get", "source", "back"]):
            with example("file_transfer_client.py", tmp_path, port, *arguments) as client:
                assert client.wait_end() == 0, client
                assert f"[{'#' * 40}] {BIG} of {BIG} bytes" in "".join(client.errors)
        for name, message in (("missing", "has no missing"), ("../source", "ended the connection")):
            with example("file_transfer_client.py", tmp_path, port, "get", name) as client:
                assert client.wait_end() == 1
                assert message in "".join(client.errors)
    assert (tmp_path / "kept" / "source").read_bytes() == source.read_bytes()
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
