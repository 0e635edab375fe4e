"""The examples, played by programs: the group chat and the game."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ..support.programs import free_port
from ..support.waiting import PATIENCE, wait_until

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


class Terminal:
    """A program, what it printed, and a way to type."""

    def __init__(self, name: str, port: int, *arguments: str) -> None:
        code = (EXAMPLES / name).read_text(encoding="utf-8").replace("9999", str(port))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def wait_for(self, line: str, times: int = 1) -> None:
        wait_until(lambda: self.lines.count(line) >= times, f"{line!r} among {self.lines}")

    def wait_for_end(self) -> None:
        assert self.process.wait(PATIENCE) == 0, self.lines

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def port() -> int:
    return free_port()


@contextlib.contextmanager
def terminal(name: str, port: int, *arguments: str) -> Iterator[Terminal]:
    shown = Terminal(name, port, *arguments)
    try:
        yield shown
    finally:
        shown.close()


def test_the_group_chat(port: int) -> None:
    with terminal("group_chat_server.py", port) as server:
        server.wait_for(f"chat server on 127.0.0.1:{port}")
        with terminal("group_chat_client.py", port, "Ann", "red") as ann:
            ann.wait_for("* Ann came in")
            with terminal("group_chat_client.py", port, "Bob", "red") as bob:
                ann.wait_for("* Bob came in")
                ann.type("Grüße")
                bob.wait_for("Ann: Grüße")
                bob.type("/who")
                bob.wait_for("* in red: Ann, Bob")
                bob.type("/name Rob")
                ann.wait_for("* Bob is Rob now")
                bob.type("/room blue")
                ann.wait_for("* Rob went to blue")
                bob.wait_for("* Rob came in")
                bob.type("alone")
                bob.wait_for("Rob: alone")
                bob.type("/room red")
                ann.wait_for("* Rob came in")
                bob.type("/quit")
                bob.wait_for_end()
                ann.wait_for("* Rob left")
        assert "Rob: alone" not in ann.lines


@pytest.mark.parametrize(
    ("moves", "result"),
    [
        ([1, 4, 2, 5, 3], "X wins."),
        ([1, 4, 2, 5, 9, 6], "O wins."),
        ([1, 2, 3, 5, 4, 6, 8, 7, 9], "Nobody wins."),
    ],
)
def test_tic_tac_toe(port: int, moves: list[int], result: str) -> None:
    with terminal("tic_tac_toe_server.py", port) as server:
        server.wait_for(f"tic-tac-toe on 127.0.0.1:{port}")
        with terminal("tic_tac_toe_client.py", port, "Ann") as ann:
            with terminal("tic_tac_toe_client.py", port, "Bob") as bob:
                wait_until(lambda: "You are X." in ann.lines + bob.lines)
                first, second = (ann, bob) if "You are X." in ann.lines else (bob, ann)
                for number, move in enumerate(moves):
                    player = (first, second)[number % 2]
                    player.wait_for("Your move, 1 to 9:", number // 2 + 1)
                    player.type(str(move))
                for player in (ann, bob):
                    player.wait_for(result)
                    player.wait_for_end()


def test_tic_tac_toe_asks_again_and_notices_who_leaves(port: int) -> None:
    with terminal("tic_tac_toe_server.py", port) as server:
        server.wait_for(f"tic-tac-toe on 127.0.0.1:{port}")
        with terminal("tic_tac_toe_client.py", port, "Ann") as ann:
            with terminal("tic_tac_toe_client.py", port, "Bob") as bob:
                wait_until(lambda: "Your move, 1 to 9:" in ann.lines + bob.lines)
                first, second = (ann, bob) if "Your move, 1 to 9:" in ann.lines else (bob, ann)
                first.type("ten")
                first.wait_for("Choose a free place from 1 to 9.")
                first.wait_for("Your move, 1 to 9:", 2)
                second.process.kill()
                second.process.wait()
                left = "Bob" if second is bob else "Ann"
                first.wait_for(f"{left} left.")
