"""``python -m simplesockets hpx``, the API that it serves, and the exchange that the demo shows."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from simplesockets import hpx
from simplesockets.__main__ import main
from simplesockets.hpx.command import demo
from simplesockets.hpx.notes import Notes, offer

from ..support.waiting import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def client(tmp_path: pathlib.Path) -> Iterator[hpx.Client]:
    server = hpx.Server(port=0)
    offer(server, Notes(str(tmp_path / "notes")))
    with server, hpx.Client("tester", *server.address) as client:
        client.handshake()
        yield client


def test_notes_are_kept(client: hpx.Client, tmp_path: pathlib.Path) -> None:
    assert client.call("list_notes") == []
    client.call("set_note", key="b", text="1")
    client.call("set_note", key="a", text="<EOF> ü\0")
    client.call("set_note", key="b", text="2")
    assert client.call("list_notes") == ["a", "b"]
    assert client.call("get_note", key="a") == "<EOF> ü\0"
    assert client.call("get_note", key="b") == "2"
    assert Notes(str(tmp_path / "notes")).get("b") == "2"
    assert client.call("delete_note", key="a") is True
    assert client.call("delete_note", key="a") is False
    with pytest.raises(hpx.APIError, match="'a'"):
        client.call("get_note", key="a")


@pytest.mark.parametrize("key", [None, 5, [], "\ud800"])
def test_keys_are_text(client: hpx.Client, key: object) -> None:
    with pytest.raises(hpx.InvalidMessage, match="'key' must be text"):
        client.call("get_note", key=key)
    with pytest.raises(hpx.InvalidMessage, match="'text' must be text"):
        client.call("set_note", key="a", text=key)


def test_notes_from_many_threads(client: hpx.Client, tmp_path: pathlib.Path) -> None:
    notes = Notes(str(tmp_path / "notes"))
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for step in range(10):
                notes.set(f"{number}", str(step))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    assert [notes.get(key) for key in notes.keys()] == ["9"] * 4  # noqa: SIM118 - it is no dict


def test_the_rest_of_the_api(client: hpx.Client) -> None:
    assert client.call("get_version") == client.version
    assert client.call("echo", value={"a": [1]}) == {"a": [1]}
    assert client.call("echo") is None
    assert client.call("who_am_i") == {"user": None, "name": "tester"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(client.call("get_time")))
    functions = client.call("list_functions")
    assert isinstance(functions, list)
    assert {"echo", "get_note", "list_functions"} <= {str(each) for each in functions}


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-m", "simplesockets", "hpx", "--port", "0", *arguments]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def address_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    found = re.search(r"(127\.0\.0\.1):(\d+)", process.stdout.readline())
    assert found is not None
    return found[1], int(found[2])


def test_the_command_serves_until_a_user_quits(tmp_path: pathlib.Path) -> None:
    with serving("--notes", str(tmp_path / "notes"), "--user", "me:pass:word", "--no-guests") as process:
        with hpx.Client("tester", *address_of(process)) as client:
            with pytest.raises(hpx.AuthMissingCredentials):
                client.handshake()
            client.handshake("me", "pass:word")
            client.call("set_note", key="a", text="b")
            assert client.send("serverquit")["data"] == "serverquit"
        assert process.wait(PATIENCE) == 0
    assert Notes(str(tmp_path / "notes")).get("a") == "b"


def test_ctrl_c_ends_the_command(tmp_path: pathlib.Path) -> None:
    with serving("--notes", str(tmp_path / "notes")) as process:
        with hpx.Client("tester", *address_of(process)) as client:
            assert client.handshake()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--user", "nobody"], "nobody"),
        (["--user", ":password"], ":password"),
        (["--port", "70000"], "70000"),
        (["--notes", "/no/such/directory/notes"], "/no/such/directory/notes"),
    ],
)
def test_options_of_no_use_are_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    assert main(["hpx", "--port", "0", "--notes", str(tmp_path / "notes"), *arguments]) == 1
    assert named in capsys.readouterr().err


def test_the_demo_shows_an_exchange() -> None:
    said: list[str] = []
    demo(lambda who, what: said.append(f"{who}: {what}"))
    text = "\n".join(said)
    assert "411" in text
    assert "Grüße <EOF>" in text
    assert "404" in text
    assert said[-1].endswith("serverquit")


def test_the_example_frontend(tmp_path: pathlib.Path) -> None:
    typed = "set a some text\nget a\nlist\nget b\ntime\nwhat\ndelete a\nquit\n"
    with serving("--notes", str(tmp_path / "notes")) as process:
        port = address_of(process)[1]
        frontend = [sys.executable, str(ROOT / "examples" / "hpx_frontend.py"), str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            frontend, env=environment, input=typed, capture_output=True, text=True, timeout=60, check=True
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    lines = done.stdout.splitlines()
    assert lines[1:3] == ["some text", "a"]
    assert lines[3].startswith("error 404")
    assert lines[-1] == "True"
