"""The examples, played by programs: the group chat, on one node and on three, and the game."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from simplesockets import Reconnect
from simplesockets.hisock import HiSockClient

from ..support.programs import free_port, is_listening
from ..support.redis import RedisServer
from ..support.waiting import PATIENCE, wait_until
from .running import looping

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


@contextlib.contextmanager
def balancer(port: int, nodes: list[int], directory: pathlib.Path) -> Iterator[None]:
    """haproxy, as the example has it."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy, or whatever puts it on the PATH here")
    text = (EXAMPLES / "group_chat_haproxy.cfg").read_text().replace("9999", str(port))
    for number, node in enumerate(nodes, 9001):
        text = text.replace(str(number), str(node))
    settings = directory / "haproxy.cfg"
    settings.write_text(text)
    with subprocess.Popen(["haproxy", "-db", "-f", str(settings)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: is_listening(port), "haproxy to listen")
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def three_nodes(redis: RedisServer, port: int, directory: pathlib.Path) -> Iterator[list[Terminal]]:
    ports = [free_port() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        nodes = []
        for each in ports:
            node = stack.enter_context(terminal("group_chat_server.py", 9999, str(each), redis.tcp_url))
            node.wait_for(f"chat server on 127.0.0.1:{each}")
            nodes.append(node)
        stack.enter_context(balancer(port, ports, directory))
        yield nodes


def test_the_group_chat_on_three_nodes(port: int, redis_server: RedisServer, tmp_path: pathlib.Path) -> None:
    names = ["Ann", "Bob", "Eve"]
    with three_nodes(redis_server, port, tmp_path), contextlib.ExitStack() as stack:
        people = {}
        for name in names:  # one after the other, so each is on another node
            people[name] = stack.enter_context(terminal("group_chat_client.py", port, name, "red"))
            for each in people.values():
                each.wait_for(f"* {name} came in")
        people["Eve"].type("/who")
        people["Eve"].wait_for("* in red: Ann, Bob, Eve")
        for name in names:
            people[name].type(f"from {name}")
        for each in people.values():
            for name in names:
                each.wait_for(f"{name}: from {name}")
        people["Bob"].type("/name Rob")
        people["Ann"].wait_for("* Bob is Rob now")
        people["Bob"].type("/quit")
        for name in ("Ann", "Eve"):
            people[name].wait_for("* Rob left")
            assert len(people[name].lines) == len(set(people[name].lines))


def test_who_was_on_a_node_that_died_is_in_the_chat_again(
    port: int, redis_server: RedisServer, tmp_path: pathlib.Path
) -> None:
    said: dict[str, list[str]] = {"Ann": [], "Bob": [], "Eve": []}
    again = Reconnect(first=0.1, most=1.0, initially=True)
    with three_nodes(redis_server, port, tmp_path) as nodes, contextlib.ExitStack() as stack:
        clients = {}
        for name, lines in said.items():
            client = HiSockClient(("127.0.0.1", port), name, "red", reconnect=again)
            client.on("said")(lambda message, lines=lines: lines.append(message.decode()))
            client.on("told")(lambda message, lines=lines: lines.append(message.decode()))
            stack.enter_context(looping(client))
            clients[name] = client
            wait_until(lambda lines=lines, name=name: f"{name} came in" in lines, f"{name} to come in")  # type: ignore[misc]
        nodes[0].process.kill()
        wait_until(lambda: any(lines.count(f"{name} came in") == 2 for name, lines in said.items()), "one to come back")
        for client in clients.values():
            wait_until(lambda client=client: not client.reconnecting)  # type: ignore[misc]
        clients["Eve"].send("say", "all here?")
        for name, lines in said.items():
            wait_until(lambda lines=lines: any("all here?" in line for line in lines), f"{name} to hear it")  # type: ignore[misc]
            assert sum("all here?" in line for line in lines) == 1


def test_the_group_chat_remembers_what_was_said_in_a_room_while_somebody_is_there(port: int) -> None:
    with terminal("group_chat_server.py", port) as server:
        server.wait_for(f"chat server on 127.0.0.1:{port}")
        with terminal("group_chat_client.py", port, "Ann", "red") as ann:
            for number in range(51):
                ann.type(f"line {number}")
            ann.wait_for("Ann: line 50")
            with terminal("group_chat_client.py", port, "Bob", "red") as bob:
                bob.wait_for("* Bob came in")
                assert bob.lines == [*(f"Ann: line {number}" for number in range(1, 51)), "* Bob came in"]
                bob.type("/room blue")
                ann.wait_for("* Bob went to blue")
                bob.type("/room red")
                bob.wait_for("* Bob came in", 3)
                assert bob.lines.count("Ann: line 50") == 2
                bob.type("/quit")
                ann.wait_for("* Bob left")
            ann.type("/room blue")
            ann.wait_for("* Ann came in", 2)  # so nobody is in the other room any more
            with terminal("group_chat_client.py", port, "Eve", "red") as eve:
                eve.wait_for("* Eve came in")
                assert eve.lines == ["* Eve came in"]


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
