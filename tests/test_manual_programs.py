"""Programs that were written for the old package run verbatim: only the port is changed."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from .support.peers import PeerUnavailable, peer_python
from .support.programs import (
    LIFETIME,
    OURS,
    free_port,
    is_free,
    is_listening,
    running_command,
    running_program,
    with_port,
)
from .support.running import raw_client, running_server
from .support.waiting import wait_until

DATA = pathlib.Path(__file__).parent / "data"
MANUALS_PORT = 9999
WHEELS_PORT = 25567

# ------------------------------------------------------------------------------------------------------ the manual


def manual_program(name: str, port: int) -> str:
    """The program after the ruled line in a file of tests/data, with its port changed."""
    _, _, program = (DATA / name).read_text(encoding="utf-8").partition("# " + "-" * 108 + "\n")
    assert program, f"no ruled line in {name}"
    return with_port(program, MANUALS_PORT, port)


def test_manuals_server_and_client_talk_to_each_other() -> None:
    port = free_port()
    with running_program(manual_program("manual_server.py", port)) as server:
        server.wait_listening(port)
        with running_program(manual_program("manual_client.py", port)) as client:
            assert client.wait_for_line("Test") == "b'Test'\n"
            assert client.running
        assert server.running
        assert not client.errors
    assert not server.errors


def test_manuals_server_echoes_to_any_number_of_clients_and_drops_each() -> None:
    port = free_port()
    with running_program(manual_program("manual_server.py", port)) as server:
        server.wait_listening(port)
        for number in range(3):
            with running_program(CONVERSATION.format(port=port, text=f"hello {number}")) as client:
                client.wait_end()
            assert client.lines == [f"b'hello {number}'\n", "b''\n"]
        assert server.running
    assert not server.errors


CONVERSATION = """
import socket
with socket.create_connection(("127.0.0.1", {port}), timeout=20) as sock:
    sock.sendall(b"{text}")
    print(sock.recv(100))
    print(sock.recv(100))
"""


def test_manuals_client_prints_what_any_server_answers() -> None:
    with (
        running_server(on_receive=lambda client, address, data: client.send(data[::-1])) as server,
        running_program(manual_program("manual_client.py", server.address[1])) as client,
    ):
        assert client.wait_for_line("seT") == "b'tseT'\n"


def test_manuals_client_outlives_a_server_that_is_gone() -> None:
    with running_program(manual_program("manual_client.py", free_port())) as client:
        wait_until(lambda: any("could not connect" in line for line in client.errors), "the logged warning")
        assert client.running


# ------------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel() -> pathlib.Path:
    """The directory in which release 0.4.0 is installed."""
    try:
        python = peer_python("simplesockets==0.4.0", "pycryptodome")
    except PeerUnavailable as reason:
        pytest.skip(str(reason))
    where = [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    told = subprocess.run(where, check=True, capture_output=True, text=True, timeout=LIFETIME)
    return pathlib.Path(told.stdout.strip())


def example(wheel: pathlib.Path, name: str, port: int) -> str:
    """A program of the wheel's, with its port changed."""
    text = (wheel / "simplesockets" / "example" / name).read_text(encoding="utf-8")
    return with_port(text, WHEELS_PORT, port)


@pytest.mark.peer
def test_wheels_example_programs_talk_to_each_other_on_our_package(wheel: pathlib.Path) -> None:
    port = free_port()
    with running_program(example(wheel, "echo_server.py", port)) as server:
        server.wait_listening(port)
        for _ in range(2):
            with running_program(example(wheel, "echo_client.py", port)) as client:
                assert client.wait_end() == 0, client
            assert client.lines == ["b'Test'\n"]
            assert not client.errors
        assert server.running
    assert not server.errors


@pytest.mark.peer
def test_wheels_example_server_and_the_manuals_client_talk_to_each_other(wheel: pathlib.Path) -> None:
    port = free_port()
    with running_program(example(wheel, "echo_server.py", port)) as server:
        server.wait_listening(port)
        with running_program(manual_program("manual_client.py", port)) as client:
            assert client.wait_for_line("Test") == "b'Test'\n"


@pytest.mark.peer
def test_manuals_server_and_the_wheels_example_client_talk_to_each_other(wheel: pathlib.Path) -> None:
    port = free_port()
    with running_program(manual_program("manual_server.py", port)) as server:
        server.wait_listening(port)
        with running_program(example(wheel, "echo_client.py", port)) as client:
            assert client.wait_end() == 0, client
        assert client.lines == ["b'Test'\n"]


@pytest.mark.peer
def test_wheels_own_tests_pass_on_our_package(wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # They use the default port and the default addresses. Whoever else does (another run of this test, say) is waited
    # for; somebody who stays makes it skip.
    shutil.copy(wheel / "tests" / "test_simple_sockets.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "conftest.py").write_text(TELL_WHOSE, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_simple_sockets.py"]
    for _ in range(3):
        wait_for_wheels_port()
        with running_command(command, str(tmp_path)) as program:
            code = program.wait_end()
        if code == 0 or is_free(WHEELS_PORT):
            break
    assert code == 0, program
    printed = "".join(program.lines)
    assert "2 passed" in printed
    assert f"tested: {OURS}" in printed


TELL_WHOSE = """
import pathlib, simplesockets
def pytest_report_header():
    return f"tested: {pathlib.Path(simplesockets.__file__).resolve().parents[1]}"
"""


def wait_for_wheels_port() -> None:
    """Wait until nobody has the port; skip if somebody does not let go of it."""
    try:
        wait_until(lambda: is_free(WHEELS_PORT), patience=10.0)
    except AssertionError:
        user = "a server" if is_listening(WHEELS_PORT) else "something"
        pytest.skip(f"port {WHEELS_PORT}, which these tests cannot change, is in use by {user} on this machine")


# ------------------------------------------------------------------------------------------ how programs are run


def test_a_program_that_ends_early_fails_the_wait_with_its_output() -> None:
    with running_program("print('before'); raise SystemExit('the reason')") as program:
        with pytest.raises(AssertionError, match=re.compile("before.*the reason", re.DOTALL)):
            program.wait_for_line("never printed")
        with pytest.raises(AssertionError, match="never listened"):
            program.wait_listening(free_port())
        assert program.wait_end() == 1


def test_a_program_is_ended_with_its_block_however_busy_it_is() -> None:
    with running_program("import signal; signal.signal(15, signal.SIG_IGN)\nprint('up')\nwhile True: pass") as program:
        program.wait_for_line("up")
        assert program.running
    assert not program.running


def test_probing_for_a_listener_makes_no_connection() -> None:
    seen: list[object] = []
    with running_server(on_connect=seen.append) as server:
        port = server.address[1]
        assert is_listening(port)
        with raw_client(server) as sock:
            wait_until(lambda: seen)
            assert seen == [sock.getsockname()]
    assert not is_listening(port)
