"""What the documents say runs: their code blocks, the examples, the command line."""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from simplesockets import hisock

from .support.waiting import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.S)):
            found.append((f"{document.name}-{number}", code))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(code: str, port: int) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-c", code.replace("9999", str(port))]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def connected(process: subprocess.Popen[str], port: int) -> socket.socket:
    for _ in range(2000):
        assert process.poll() is None, process.stderr and process.stderr.read()
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), PATIENCE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    raise AssertionError("it does not listen")


def ends_well(process: subprocess.Popen[str]) -> None:
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told


def is_server(code: str) -> bool:
    return ("TCPServer" in code and "TCPClient" not in code) or "start_server(" in code


PYTHON = blocks("python")
HISOCK_SERVER = next(code for _, code in PYTHON if "hisock.start_server(" in code)
SERVERS = [pytest.param(code, id=name) for name, code in PYTHON if is_server(code)]
OTHERS = [pytest.param(code, id=name) for name, code in PYTHON if not is_server(code)]


@pytest.mark.parametrize("code", SERVERS)
def test_servers_in_the_documents_serve(code: str) -> None:
    port = free_port()
    # A server block that ends would end its process before anybody can connect.
    with (
        running(code + "\nimport threading\nthreading.Event().wait()", port) as process,
        connected(process, port) as sock,
    ):
        if "start_server(" in code:
            with hisock.connect(("127.0.0.1", port)) as client:
                client.send("greet", "world")
                assert client.recv("greeting", str, timeout=PATIENCE) == "Hello world"
        elif "on_receive" in code or "while True" in code:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=name) for name, code in blocks("python") if not is_server(code)]
)
def test_clients_in_the_documents_talk(code: str) -> None:
    port = free_port()
    echo = (ROOT / "examples" / "callback_echo_server.py").read_text()
    with running(HISOCK_SERVER if "hisock" in code else echo, port) as server:
        connected(server, port).close()
        with running(code, port) as client:
            ends_well(client)


@pytest.mark.parametrize("name", ["polled_echo_server.py", "callback_echo_server.py"])
def test_the_example_client_talks_to_the_example_servers(name: str) -> None:
    port = free_port()
    with running((ROOT / "examples" / name).read_text(), port) as server:
        connected(server, port).close()
        with running((ROOT / "examples" / "polled_client.py").read_text(), port) as client:
            output, errors = client.communicate(timeout=PATIENCE)
            assert (output, client.returncode) == ("Hello, server!\n", 0), errors


def test_the_line_server_answers_line_by_line() -> None:
    port = free_port()
    code = (ROOT / "examples" / "line_server.py").read_text()
    with running(code, port) as process, connected(process, port) as sock:
        for byte in b"abc\ndef\n":
            sock.sendall(bytes([byte]))
        received = b""
        while len(received) < 8:
            received += sock.recv(100)
        assert received == b"cba\nfed\n"


def command(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "simplesockets", *arguments]
    return subprocess.run(program, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=60, check=False)


def test_the_demo_shows_each_style_and_ends_well() -> None:
    done = command("demo")
    assert done.returncode == 0, done.stderr
    assert "Polled" in done.stdout
    assert "Callbacks" in done.stdout
    assert "HiSock" in done.stdout


def test_connect_talks_to_echo_through_a_pipe_and_ctrl_c_ends_it() -> None:
    program = [sys.executable, "-m", "simplesockets", "echo", "--port", "0"]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        where = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())
        assert where is not None
        talk = command("connect", "127.0.0.1", where[1], typed="one\ntwo\nlast")
        assert (talk.stdout, talk.returncode) == ("one\ntwo\nlast", 0)
        taken = command("echo", "--port", where[1])
        assert taken.returncode == 1
        assert "port is in use" in taken.stderr
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 130


def test_connect_says_why_it_cannot() -> None:
    done = command("connect", "127.0.0.1", str(free_port()))
    assert done.returncode == 1
    assert "is the server running" in done.stderr
