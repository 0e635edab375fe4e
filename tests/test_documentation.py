"""What the documents say runs: their code blocks, the examples, the command line."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest

from simplesockets import hisock
from simplesockets.__main__ import parser

from .support.certificates import CA, SERVER
from .support.programs import free_port
from .support.waiting import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
QUICK_PYTEST = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
LINK = re.compile(r"\]\((?P<path>[^)#\s:]+)")


def blocks(language: str) -> list[tuple[str, str]]:
    """Code that stands for itself. What has a title is a file, see :func:`files_of`."""
    found = []
    for document in DOCUMENTS:
        name = document.relative_to(ROOT).as_posix().removeprefix("docs/")
        fences = [fence for fence in FENCE.finditer(document.read_text()) if fence["language"] == language]
        found += [(f"{name}-{number}", fence["code"]) for number, fence in enumerate(fences) if not fence["title"]]
    return found


@contextlib.contextmanager
def running(code: str, port: int, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a file of its own, beside certificates; it is killed with the block, if it goes on."""
    with tempfile.TemporaryDirectory() as directory:
        program = pathlib.Path(directory, "program.py")
        program.write_text(code.replace("9999", str(port)))
        for certificate in (CA, SERVER):
            shutil.copy(certificate, directory)
        with subprocess.Popen(
            [sys.executable, *(["-m", "pytest", "-q"] if "def test_" in code else []), program, *arguments],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **QUICK_PYTEST, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
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
    output, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + told


def prints(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Its next lines are these."""
    assert process.stdout is not None
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    printed = [process.stdout.readline().rstrip("\n") for _ in lines]
    timer.cancel()
    assert printed == lines, process.poll() is not None and process.stderr and process.stderr.read()


def is_server(code: str) -> bool:
    return ("TCPServer" in code and "TCPClient" not in code) or "start_server(" in code


def needs_a_screen(code: str) -> bool:
    return "import tkinter" in code or "import pygame" in code


PYTHON = blocks("python")
HISOCK_SERVER = next(code for _, code in PYTHON if "hisock.start_server(" in code)
ECHO_SERVER = (ROOT / "examples" / "callback_echo_server.py").read_text()
SERVERS = [pytest.param(code, id=name) for name, code in PYTHON if is_server(code)]
OTHERS = [pytest.param(code, id=name) for name, code in PYTHON if not is_server(code) and not needs_a_screen(code)]


def test_all_python_in_the_documents_is_marked_as_such() -> None:
    for document in DOCUMENTS:
        languages = {fence["language"] for fence in FENCE.finditer(document.read_text())}
        assert languages.isdisjoint({"", "py", "python3"}), document


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in (*DOCUMENTS, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"):
        for link in LINK.finditer(FENCE.sub("", document.read_text())):
            assert (document.parent / link["path"]).exists(), f"{document.name}: {link['path']}"


COMMANDS = [
    words[3:]
    for _, code in blocks("console")
    for line in re.split("\n|&&", code)
    if (words := shlex.split(line, comments=True))[:3] == ["python", "-m", "simplesockets"]
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_in_the_documents_are_understood(arguments: list[str]) -> None:
    assert callable(parser().parse_args(arguments).run)


@pytest.mark.parametrize("code", SERVERS)
def test_servers_in_the_documents_serve(code: str) -> None:
    port = free_port()
    if "input(" not in code and "SIGTERM" not in code:  # it would end before anybody can connect
        code += "\nimport threading\nthreading.Event().wait()"
    with running(code, port) as process, connected(process, port) as sock:
        if "start_server(" in code:
            with hisock.connect(("127.0.0.1", port)) as client:
                client.send("greet", "world")
                assert client.recv("greeting", str, timeout=PATIENCE) == "Hello world"
        elif "on_receive" in code or "while True" in code:
            sock.sendall(b"hello")
            assert sock.recv(100).lower() == b"hello"
        if "SIGTERM" in code:
            process.terminate()
            ends_well(process)


def serving(code: str) -> Iterator[int]:
    port = free_port()
    with running(code, port) as server:
        connected(server, port).close()
        yield port


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    yield from serving(ECHO_SERVER)


@pytest.fixture(scope="module")
def hisock_port() -> Iterator[int]:
    yield from serving(HISOCK_SERVER)


@pytest.mark.parametrize("code", OTHERS)
def test_clients_in_the_documents_talk(code: str, echo_port: int, hisock_port: int) -> None:
    with running(code, hisock_port if "hisock" in code else echo_port) as program:
        ends_well(program)


@contextlib.contextmanager
def window(kind: str, **environment: str) -> Iterator[socket.socket]:
    """The program of the page for windows, connected to this socket. When that is closed, it has to end."""
    (code,) = (code for name, code in PYTHON if name.startswith("howto/gui.md") and f"import {kind}" in code)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with running(code, listener.getsockname()[1], **environment) as program:
            with listener.accept()[0] as sock:
                sock.settimeout(PATIENCE)
                yield sock
            ends_well(program)


def line_from(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as stream:
        return stream.readline()


def test_a_window_of_tkinter_shows_what_comes(screen: str) -> None:
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    with window("tkinter", DISPLAY=screen) as sock:
        for number in (1, 2):
            sock.sendall(b"hello\n")
            assert line_from(sock) == b"%d shown\n" % number


def test_a_game_of_pygame_moves_what_the_server_says() -> None:
    if importlib.util.find_spec("pygame") is None:
        pytest.skip('pygame-ce is not installed: pip install -e ".[test]"')
    with window("pygame", SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy") as sock:
        for place in (b"50 60\n", b"70 80\n"):
            sock.sendall(place)
            assert line_from(sock) == place


def files_of(page: str) -> dict[str, str]:
    """What a page of the first steps has you save, and says that you will see, by title."""
    fences = FENCE.finditer((DOCS / "start" / page).read_text())
    return {fence["title"]: fence["code"] for fence in fences if fence["title"]}


@pytest.mark.parametrize("page", ["polled.md", "callbacks.md", "hpx.md"])
def test_who_follows_the_first_steps_sees_what_the_page_says(page: str) -> None:
    port = free_port()
    files = files_of(page)
    with running(files["server.py"], port) as server:
        prints(server, files["server.py prints"].splitlines()[:1])
        connected_by_itself = files["server.py prints"].splitlines()[1:]
        with running(files["client.py"], port) as client:
            output, errors = client.communicate(timeout=PATIENCE)
        assert (output, client.returncode) == (files["client.py prints"], 0), errors
        prints(server, connected_by_itself)


def test_the_chat_of_the_first_steps() -> None:
    port = free_port()
    files = files_of("hisock.md")
    seen = files["client.py prints"].splitlines()
    with running(files["server.py"], port) as server, contextlib.ExitStack() as clients:
        connected(server, port).close()
        ann = clients.enter_context(running(files["client.py"], port, "Ann", "red"))
        prints(ann, seen[:1])
        cleo = clients.enter_context(running(files["client.py"], port, "Cleo", "blue"))
        prints(cleo, ["Cleo came in"])
        bob = clients.enter_context(running(files["client.py"], port, "Bob", "red"))
        prints(ann, seen[1:2])
        assert ann.stdin is not None
        ann.stdin.write("hello\n")
        ann.stdin.flush()
        prints(ann, seen[2:3])
        prints(bob, seen[1:3])
        ends_well(bob)
        prints(ann, seen[3:])
        assert cleo.communicate(timeout=PATIENCE) == ("", "")
        ends_well(ann)


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
