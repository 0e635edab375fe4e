"""Watching a server: the picture in a terminal, lines elsewhere, and from another process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from simplesockets import ConnectionClosed, SetupError, hisock, hpx, statsservice
from simplesockets.__main__ import main
from simplesockets.monitor import Monitor, line, picture, size
from simplesockets.stats import Rates, Snapshot
from simplesockets.statsservice import StatsSource
from simplesockets.watching import Attendants

from .support.clients import in_thread
from .support.running import HOST, raw_client, raw_listener, read_exactly, running_server
from .support.waiting import PATIENCE, wait_until
from .test_ledger import sample

if os.name == "posix":
    import pty
    import termios

ROOT = pathlib.Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------------------------------------------- shown


def drawn(snapshot: Snapshot) -> str:
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(picture(snapshot))
    return console.export_text()


def test_the_picture_has_all_that_was_counted() -> None:
    rates = Rates(5.0, 0.5, 1500.0, 2_500_000.0, 7.25, 8.0)
    text = drawn(sample(rates=rates, connections=12, refused=34, errors=56, queued=78, queued_bytes=9000))
    for part in ("TCPServer 127.0.0.1:1", "12", "34", "56", "78 (9.0 kB)", "1.5 kB", "2.5 MB", "7.2", "greet", "0 B"):
        assert part in text
    (client,) = [row for row in text.splitlines() if "127.0.0.1:2" in row]
    assert client.split()[2:-1] == ["0", "B", "1", "B", "2", "B", "3", "4"]


def test_a_picture_of_nothing_has_no_empty_tables() -> None:
    snapshot = Snapshot("nobody", sample(commands={}).stats, ())
    assert "busiest" not in drawn(snapshot)
    assert "command" not in drawn(snapshot)


@pytest.mark.parametrize("show", [drawn, line], ids=["picture", "line"])
def test_names_move_no_cursor_and_are_no_markup(show: Callable[[Snapshot], str]) -> None:
    shown = show(Snapshot("\x1b[2J[red]server[/red]\n", sample(since=-1e17, time=1e17).stats, ()))
    assert "?[2J[red]server[/red]?" in shown
    assert "\x1b[2J" not in shown


def test_a_line_says_the_same_in_short() -> None:
    rates = Rates(5.0, 0.5, 1500.0, 2_500_000.0, 7.25, 8.0)
    text = line(sample(rates=rates, connections=12, connections_total=99, refused=34, errors=56, queued=78))
    assert "12 connected (99 in total, 34 refused), in 1.5 kB/s 7 msg/s, out 2.5 MB/s 8 msg/s, 78 queued" in text
    assert text.endswith("56 errors")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.9, "1.0 kB"),
        (1500, "1.5 kB"),
        (123_456, "123 kB"),
        (999_900, "1.0 MB"),
        (5e9, "5.0 GB"),
        (5e12, "5.0 TB"),
        (5e16, "50000 TB"),
    ],
)
def test_sizes_as_people_say_them(count: float, text: str) -> None:
    assert size(count) == text


class Lines(io.StringIO):
    """Output that tells when there are so many lines."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count
        self.enough = threading.Event()

    def write(self, text: str) -> int:
        self._left -= text.count("\n")
        if self._left <= 0:
            self.enough.set()
        return super().write(text)


def test_elsewhere_than_in_a_terminal_there_are_lines_until_it_is_closed() -> None:
    out = Lines(3)
    monitor = Monitor(sample, 0.001, out)
    runner, _ = in_thread(monitor.run)
    assert out.enough.wait(PATIENCE)
    monitor.close()
    runner.join(PATIENCE)
    assert not runner.is_alive()
    assert set(out.getvalue().splitlines()) == {line(sample())}
    monitor.close()


def test_what_the_outputs_encoding_does_not_have_ends_nothing() -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, "ascii")

    def look() -> Snapshot:
        monitor.close()
        return dataclasses.replace(sample(), title="Gr\u00fc\u00dfe")

    monitor = Monitor(look, 3600.0, out)
    monitor.run()
    assert b"Gr??e" in written.getvalue()
    assert out.errors == "strict"


def test_without_an_output_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SetupError, match="no standard output"):
        Monitor(sample)


def test_a_long_interval_does_not_keep_it_from_ending() -> None:
    out = Lines(1)
    monitor = Monitor(sample, 3600.0, out)
    runner, _ = in_thread(monitor.run)
    assert out.enough.wait(PATIENCE)
    monitor.close()
    runner.join(PATIENCE)
    assert not runner.is_alive()


@pytest.mark.parametrize("interval", [-1.0, float("nan"), None, "1"])
def test_an_interval_of_no_use_is_named(interval: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="interval"):
        Monitor(sample, interval)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_rich_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.live", None)
    with pytest.raises(SetupError, match=r'pip install "simplesockets\[monitor\]"'):
        Monitor(sample, 1.0, Terminal())
    Monitor(sample, 1.0, io.StringIO()).close()


@pytest.mark.parametrize("make", [lambda: hisock.HiSockServer((HOST, 0)), lambda: hpx.Server(port=0), None])
def test_closing_a_server_ends_all_who_watch_it(make: Callable[[], Any] | None, monkeypatch: Any) -> None:
    out = Lines(1)
    monkeypatch.setattr(sys, "stdout", out)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server() if make is None else make())
        places = [server.serve_stats(), server.serve_stats()]
        sources = [stack.enter_context(contextlib.closing(StatsSource(*place))) for place in places]
        assert {source.look().title for source in sources} == {sources[0].look().title}
        runner, _ = in_thread(lambda: server.monitor(3600.0))
        assert out.enough.wait(PATIENCE)
        server.close()
        runner.join(PATIENCE)
        assert not runner.is_alive()
        assert not any(runs(place) for place in places)


def runs(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, PATIENCE).close()
    except OSError:
        return False
    return True


def test_who_comes_while_the_server_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Attendants.add
    with running_server() as server, raw_client(server):
        wait_until(lambda: server.stats().connections == 1)

        def close_first(self: Attendants, attendant: Any) -> None:
            monkeypatch.undo()
            server.close()
            add(self, attendant)

        monkeypatch.setattr(Attendants, "add", close_first)
        with pytest.raises(SetupError):
            server.monitor()
        server.setup(HOST, 0)
        monkeypatch.setattr(Attendants, "add", close_first)
        with pytest.raises(SetupError):
            server.serve_stats()


# -------------------------------------------------------------------------------------------------- in a terminal

PROGRAM = """
import sys, threading
from simplesockets import TCPServer
server = TCPServer()
server.setup("127.0.0.1", 0)
with server:
    if "close" in sys.argv:
        threading.Timer(0.5, server.close).start()
    server.monitor(0.05)
print("after it")
"""


@contextlib.contextmanager
def in_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int, list[Any]]]:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process, ours, before
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def read_until(descriptor: int, what: bytes) -> bytes:
    read = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while what not in read:
            assert selector.select(PATIENCE), read
            read += os.read(descriptor, 65536)
    return read


@pytest.mark.skipif(os.name != "posix", reason="pseudo terminals are for POSIX")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("end", ["q", "Ctrl-C", "close"])
def test_the_terminal_is_as_before_when_it_ended(end: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    with in_terminal("-c", PROGRAM, end) as (process, keys, _):
        shown = read_until(keys, b"\x1b[?25l")  # no cursor
        shown += read_until(keys, b"connections")
        if end == "q":
            os.write(keys, b"x")  # which changes nothing
            shown += read_until(keys, b"connections")
            os.write(keys, b"q")
        elif end == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        shown += read_until(keys, b"after it")
        assert process.wait(PATIENCE) == 0
    assert shown.index(b"\x1b[?1049h") < shown.index(b"\x1b[?1049l")  # the other screen, and back
    assert shown.index(b"\x1b[?25l") < shown.rindex(b"\x1b[?25h") < shown.index(b"after it")


@pytest.mark.skipif(os.name != "posix", reason="pseudo terminals are for POSIX")
@pytest.mark.parametrize("end", ["q", "SIGTERM"])
def test_top_draws_a_server_of_another_process(end: str) -> None:
    with running_server() as server, raw_client(server) as sock:
        sock.sendall(b"x" * 1234)
        wait_until(lambda: server.stats().bytes_in == 1234)
        host, port = server.serve_stats()
        with in_terminal("-m", "simplesockets", "top", f"{host}:{port}", "--interval", "0.05") as (process, keys, _):
            shown = read_until(keys, b"busiest")
            assert b"1.2 kB" in shown
            if end == "q":
                os.write(keys, b"q")
            else:
                process.terminate()
            read_until(keys, b"\x1b[?1049l")
            assert process.wait(PATIENCE) == 0


@pytest.mark.skipif(os.name != "posix", reason="what a broken pipe is differs")
def test_who_reads_one_line_of_top_may_go() -> None:
    with running_server() as server:
        command = [
            sys.executable,
            "-m",
            "simplesockets",
            "top",
            "{}:{}".format(*server.serve_stats()),
            "--interval",
            "0.01",
        ]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert b"connected" in process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(PATIENCE) == 0


# ----------------------------------------------------------------------------------------- from another process


def ask(sock: socket.socket, request: bytes = b"stats\n") -> dict[str, Any]:
    sock.sendall(request)
    answer: dict[str, Any] = json.loads(sock.makefile("rb").readline())
    return answer


@contextlib.contextmanager
def offered(server: Any) -> Iterator[socket.socket]:
    with socket.create_connection(server.serve_stats(), PATIENCE) as sock:
        yield sock


def test_one_line_asks_for_one_line() -> None:
    with running_server() as server, raw_client(server) as sock, offered(server) as watcher:
        sock.sendall(b"abc")
        wait_until(lambda: Snapshot.from_dict(ask(watcher)["snapshot"]).stats.bytes_in == 3)
        snapshot = Snapshot.from_dict(ask(watcher)["snapshot"])
        assert snapshot.title == f"TCPServer {HOST}:{server.address[1]}"
        assert [each.client for each in snapshot.clients] == ["{}:{}".format(*sock.getsockname())]
        assert "send the line 'stats'" in ask(watcher, b"quit\n")["error"]
        assert "snapshot" in ask(watcher, b"stats\r\n")
        assert server.stats().messages_in == 1  # who watches is no client


def test_a_request_that_is_too_long_ends_that_watcher_alone() -> None:
    with running_server() as server:
        place = server.serve_stats()
        with socket.create_connection(place, PATIENCE) as rude, socket.create_connection(place, PATIENCE) as polite:
            rude.sendall(b"x" * 1000)
            with contextlib.suppress(ConnectionError):
                assert rude.recv(100) == b""
            assert "snapshot" in ask(polite)
        assert server.stats().errors == 0


def test_asking_without_pause_counts_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsservice, "FRESH", 3600.0)
    with running_server() as server:
        count, real = [0], server.stats

        def counted() -> Any:
            count[0] += 1
            return real()

        monkeypatch.setattr(server, "stats", counted)
        with offered(server) as watcher:
            watcher.sendall(b"stats\n" * 200)
            answers = watcher.makefile("rb")
            assert len({answers.readline() for _ in range(200)}) == 1
        assert count == [1]


def test_what_the_network_can_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with running_server() as server:
        server.serve_stats(host="0.0.0.0")
    assert "can be read from the network, by anybody" in caplog.text


def test_watchers_have_a_limit_and_take_no_place_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsservice, "MAX_WATCHERS", 1)
    with running_server(max_connections=1) as server, raw_client(server):
        wait_until(lambda: server.stats().connections == 1)
        place = server.serve_stats()
        with socket.create_connection(place, PATIENCE) as first, socket.create_connection(place, PATIENCE) as second:
            assert "snapshot" in ask(first)
            second.sendall(b"stats\n")
            first.close()
            assert read_exactly(second, 1) == b"{"


def test_who_asks_seldom_is_let_go_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsservice, "SILENCE", 0.1)
    with running_server() as server, contextlib.closing(StatsSource(*server.serve_stats())) as source:
        (service,) = server._attendants._all
        watchers = service._tcp.clients  # type: ignore[attr-defined]
        for _ in range(2):
            assert source.look().stats.connections == 0
            wait_until(lambda: not watchers)
    with pytest.raises(ConnectionClosed, match="nothing listens"):
        source.look()


# ------------------------------------------------------------------------------------------------------------ top


def top(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["top", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_top_where_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with raw_listener() as listener:
        port = listener.getsockname()[1]
    code, _, errors = top(f"{HOST}:{port}", capsys=capsys)
    assert code == 1
    assert f"nothing listens at {HOST}:{port}" in errors
    assert "serve_stats" in errors


ANSWERS: dict[str, bytes] = {
    "http": b"HTTP/1.1 400 Bad Request\r\n",
    "other json": b'{"hello": 1}\n',
    "a list": b"[1]\n",
    "an error": b'{"simplesockets": 1, "error": "no"}\n',
    "no text": b"\xff\xfe\n",
    "deep": b"[" * 500_000 + b"\n",
    "too long": b"x" * 1_100_000,
    "nothing": b"",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_top_where_something_else_listens(
    answer: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not answer:
        monkeypatch.setattr(statsservice, "PATIENCE", 0.05)
    with raw_listener() as listener:
        done = threading.Event()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                with contextlib.suppress(OSError):
                    sock.sendall(answer)
                done.wait(PATIENCE)

        thread, _ = in_thread(serve)
        try:
            port = listener.getsockname()[1]
            code, _, errors = top(f"{HOST}:{port}", capsys=capsys)
        finally:
            done.set()
            thread.join(PATIENCE)
    assert code == 1
    assert f"what listens at {HOST}:{port} serves no statistics" in errors


def test_top_ends_well_when_the_server_does(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    out = Lines(2)
    with running_server() as server:
        place = server.serve_stats()
        monkeypatch.setattr(sys, "stdout", out)
        runner, results = in_thread(lambda: main(["top", "{}:{}".format(*place), "--interval", "0.01"]))
        assert out.enough.wait(PATIENCE)
        server.close()
        runner.join(PATIENCE)
    assert results == [0]
    assert "TCPServer" in out.getvalue()


@pytest.mark.parametrize("place", ["", "x", "host:", "host:x", "host:0", "host:99999", "host:²"])
def test_top_names_a_place_of_no_use(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", place])
    assert ended.value.code == 2
    assert "should be HOST:PORT" in capsys.readouterr().err
