"""The examples that are not run elsewhere: sensors, and the window of the chat. And that each says how to run it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import runpy
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .support.programs import Program, free_port, running_command
from .support.waiting import PATIENCE, wait_until

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def directory(tmp_path: pathlib.Path, port: int) -> pathlib.Path:
    """All examples, with a port of the test's."""
    for name in NAMES:
        code = (EXAMPLES / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(code.replace("9999", str(port)), encoding="utf-8")
    return tmp_path


@contextlib.contextmanager
def example(directory: pathlib.Path, name: str, *arguments: str) -> Iterator[Program]:
    with running_command([sys.executable, "-u", name, *arguments], str(directory)) as program:
        yield program


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    described = re.match(r'"""(.*?)"""', text, re.DOTALL)
    assert described is not None
    assert re.search(rf"^ *python {re.escape(name)}\b", described[1], re.MULTILINE)


TALKERS = ["group_chat_client.py", "chat_window.py", "tic_tac_toe_client.py", "sensor.py", "file_transfer_client.py"]


@pytest.mark.parametrize("name", TALKERS)
def test_an_example_without_its_arguments_shows_them(name: str, directory: pathlib.Path) -> None:
    if name == "chat_window.py":
        pytest.importorskip("tkinter", reason="this Python has no tkinter")
    with example(directory, name) as program:
        assert program.wait_end() == 1
        assert f"python {name} " in "".join(program.errors)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("polled_client.py", [], "start polled_echo_server.py"),
        ("group_chat_client.py", ["Ann", "red"], "start it first"),
        ("chat_window.py", ["Ann", "red"], "start it first"),
        ("tic_tac_toe_client.py", ["Ann"], "start it first"),
        ("file_transfer_client.py", ["get", "x"], "start file_transfer_server.py"),
        ("hpx_frontend.py", ["9999"], "is the server running"),
    ],
)
def test_an_example_without_its_server_says_so(
    name: str, arguments: list[str], told: str, directory: pathlib.Path, port: int
) -> None:
    if name == "chat_window.py":
        pytest.importorskip("tkinter", reason="this Python has no tkinter")
    with example(directory, name, *[each.replace("9999", str(port)) for each in arguments]) as program:
        assert program.wait_end() == 1
        assert told in program.errors[-1]
        assert "Traceback" not in "".join(program.errors)


# ----------------------------------------------------------------------------------------------------- sensors


def report(directory: pathlib.Path) -> list[str]:
    with example(directory, "sensor_logger.py", "report") as program:
        assert program.wait_end() == 0, program
        return program.lines


def test_what_sensors_measure_is_kept(directory: pathlib.Path, port: int) -> None:
    with example(directory, "sensor_logger.py") as logger:
        logger.wait_for_line("sensor logger on")
        with example(directory, "sensor.py", "kitchen", "0.01"), example(directory, "sensor.py", "cellar", "0.01"):
            for name in ("kitchen", "cellar"):
                wait_until(lambda name=name: sum(line.startswith(name) for line in logger.lines) >= 3)  # type: ignore[misc]
    printed = report(directory)
    assert [line.partition(":")[0] for line in printed] == ["cellar", "kitchen"]
    assert all(re.search(r"\d+ readings from 1\d|2\d.* to .* on average", line) for line in printed)


def test_nothing_is_lost_while_the_logger_is_away_and_nothing_stored_twice(directory: pathlib.Path) -> None:
    sensor = runpy.run_path(str(directory / "sensor.py"))["Sensor"]("attic")
    try:
        sensor.take(1.0)  # nobody is there yet
        for value in (2.0, 3.0):
            with example(directory, "sensor_logger.py") as logger:
                logger.wait_for_line("sensor logger on")
                wait_until(lambda: not sensor.waiting, "everything to be stored")
                sensor.send_again()
                sensor.take(value)
                wait_until(lambda: not sensor.waiting, "everything to be stored")
            sensor.take(value + 10)
            assert sensor.waiting
    finally:
        sensor.close()
    with contextlib.closing(sqlite3.connect(directory / "readings.db")) as database:
        stored = database.execute("SELECT value FROM readings ORDER BY time").fetchall()
    assert stored == [(1.0,), (2.0,), (12.0,), (3.0,)]


NONSENSE = [
    b"nonsense",
    b"[]",
    b"{}",
    b'{"sensor": "a", "time": 1}',
    b'{"sensor": "a", "time": null, "value": 1}',
    b'{"sensor": "a", "time": 1, "value": NaN}',
    b'{"sensor": "a", "time": 1, "value": 1' + b"0" * 900 + b"}",
    b"[" * 990,
    b"\xff",
]


def test_nonsense_is_answered_and_does_no_harm(directory: pathlib.Path, port: int) -> None:
    with example(directory, "sensor_logger.py") as logger:
        logger.wait_for_line("sensor logger on")
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock, sock.makefile("rwb") as stream:
            for line in NONSENSE:
                stream.write(line + b"\n")
                stream.flush()
                assert stream.readline().startswith(b"error"), line
            for _ in range(2):  # the same reading twice
                stream.write(json.dumps({"sensor": "a", "time": 1.5, "value": 2}).encode() + b"\n")
                stream.flush()
                assert stream.readline() == b"1.5\n"
        assert not logger.errors
    assert report(directory) == ["a: 1 readings from 2 to 2, 2.0 on average\n"]


# ---------------------------------------------------------------------------------------------------- the window

# The window itself, with a hand that types what comes on standard input, and an eye that prints what is to be seen.
DRIVEN = """
import sys, threading, tkinter
import chat_window
from simplesockets import hisock

def type_in(line):
    window.entry.focus_force()
    window.entry.insert(0, line)
    root.update()
    window.entry.event_generate("<Return>")

def type_all():
    for line in sys.stdin:
        root.after(0, type_in, line.rstrip())

def look(seen=0):
    lines = window.lines.get("1.0", "end").splitlines()[:-1]
    for line in lines[seen:]:
        print(line, flush=True)
    root.after(10, look, len(lines))

with hisock.connect(chat_window.ADDRESS, name="Ann", group="red", blocking=False) as client:
    root = tkinter.Tk()
    window = chat_window.Window(root, client)
    threading.Thread(target=type_all, daemon=True).start()
    look()
    root.mainloop()
print("closed", flush=True)
"""


def test_the_window_shows_the_chat_and_says_what_is_typed(directory: pathlib.Path, screen: str) -> None:
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    with example(directory, "group_chat_server.py") as server:
        server.wait_for_line("chat server on")
        with typed_program(directory, screen) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "* Ann came in\n"
            for line, seen in (("Grüße", "Ann: Grüße"), ("/who", "* in red: Ann"), ("/name Bea", "* Ann is Bea now")):
                process.stdin.write(line + "\n")
                process.stdin.flush()
                assert process.stdout.readline() == seen + "\n"
            process.stdin.write("/quit\n")
            process.stdin.flush()
            assert process.stdout.readline() == "closed\n"
            assert process.wait(PATIENCE) == 0


def test_the_window_says_that_the_server_has_gone(directory: pathlib.Path, screen: str) -> None:
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    with example(directory, "group_chat_server.py") as server:
        server.wait_for_line("chat server on")
        with typed_program(directory, screen) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "* Ann came in\n"
            server.end()
            assert process.stdout.readline() == "* the connection has ended; close the window\n"


@contextlib.contextmanager
def typed_program(directory: pathlib.Path, screen: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "DISPLAY": screen, "PYTHONPATH": str(EXAMPLES.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVEN],
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
