"""A service of several node processes, and a crowd of clients that notes all that each of them gets."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..hisock.running import HEADER, framed
from ..support.running import HOST
from ..support.waiting import PATIENCE

MESSAGE = b"$CMD$m$MSG$"
LEFT = b"$CLTDISCONN$"


class Node:
    """A node's process."""

    def __init__(self, url: str, lease: float) -> None:
        command = [sys.executable, "-m", "tests.scale.node", url, str(lease)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """End it, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def nodes(count: int, url: str, lease: float = 15.0) -> Iterator[list[Node]]:
    """So many nodes that run; they are killed with the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Node(url, lease))) for _ in range(count)]


class Client:
    """A connection, and what came by it."""

    def __init__(self, node: int, port: int, name: str, group: str | None) -> None:
        self.node = node
        self.group = group
        self.sock = socket.create_connection((HOST, port), PATIENCE)
        self.bodies: list[bytes] = []
        self.ended = False
        self._rest = b""
        self.send(b"$CLTHELLO$" + json.dumps({"name": name, "group": group}).encode())

    def send(self, body: bytes) -> None:
        self.sock.sendall(framed(body))

    def order(self, command: str, **content: object) -> None:
        """Send a command to its node."""
        self.send(f"$CMD${command}$MSG${json.dumps(content) if content else ''}".encode())

    def take(self) -> None:
        """Take what is there."""
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError:
            data = b""
        self.ended = self.ended or not data
        data = self._rest + data
        start = 0
        while len(data) >= start + HEADER:
            end = start + HEADER + int(data[start : start + HEADER])
            if len(data) < end:
                break
            body = data[start + HEADER : end]
            if body == b"$KEEPALIVE$":
                self.send(b"$KEEPACK$")
            self.bodies.append(body)
            start = end
        self._rest = data[start:]

    def messages(self, sender: str) -> list[int]:
        """The numbers of one sender's messages, in the order in which they came."""
        start = MESSAGE + sender.encode() + b":"
        return [int(body[len(start) :]) for body in self.bodies if body.startswith(start)]

    def answers(self, command: str) -> list[bytes]:
        """What came with a command."""
        start = f"$CMD${command}$MSG$".encode()
        return [body[len(start) :] for body in self.bodies if body.startswith(start)]

    def notices(self, word: bytes) -> list[bytes]:
        """Whom such notices were about."""
        return [body for body in self.bodies if body.startswith(word)]


class Crowd:
    """Clients, spread over nodes and groups; each node has one more, in no group, who gives orders."""

    def __init__(self, places: list[Node], clients: int, groups: int) -> None:
        self._selector = selectors.DefaultSelector()
        self.chiefs = [self._add(number, node, f"chief{number}", None) for number, node in enumerate(places)]
        self.clients = []
        for number in range(clients):
            place = number % len(places)
            group = f"g{number // len(places) % groups}"
            self.clients.append(self._add(place, places[place], f"c{number}", group))

    def _add(self, place: int, node: Node, name: str, group: str | None) -> Client:
        client = Client(place, node.port, name, group)
        self._selector.register(client.sock, selectors.EVENT_READ, client)
        return client

    def close(self) -> None:
        self._selector.close()
        for client in [*self.chiefs, *self.clients]:
            client.sock.close()

    def until(self, condition: Callable[[], object], what: str, patience: float = 60.0) -> None:
        """Read what comes until the condition is true; looked at whenever something came."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"waited {patience} s in vain for {what}"
            for key, _ in self._selector.select(0.2):
                key.data.take()
                if key.data.ended:
                    self._selector.unregister(key.fileobj)

    def ask(self, node: int, command: str) -> Any:
        """Have a node answer."""
        chief = self.chiefs[node]
        before = len(chief.answers(command))
        chief.order(command)
        self.until(lambda: len(chief.answers(command)) > before, f"node {node} to answer {command!r}")
        return json.loads(chief.answers(command)[-1])

    def until_all_know(self, alive: list[int], clients: int) -> None:
        """Wait until these nodes know so many clients."""
        for node in alive:
            self.until(lambda node=node: self.ask(node, "who") == clients, f"node {node} to know {clients} clients")  # type: ignore[misc]

    def burst(self, nodes: list[int], count: int, groups: int, first: int = 0) -> None:
        """Have nodes send so many messages each; their names are ``n0``, ``n1`` …"""
        for node in nodes:
            self.chiefs[node].order("burst", name=f"n{node}", first=first, count=count, groups=groups)


def expected(client: Client, count: int, groups: int) -> list[int]:
    """The numbers that a client has to get of each sender."""
    assert client.group is not None
    return list(range(int(client.group[1:]), count, groups))
