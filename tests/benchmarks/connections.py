"""Connections that the benchmark itself holds while others are measured: silent ones, and ones that keep callbacks
asleep."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from .load import Failed
from .servers import HOST, SLEEPY

ANSWER_LIMIT = 10.0  # seconds a server has for one answer
SERVED_LIMIT = 20.0  # seconds in which all silent connections have to be answered again
SIZE = 64


def round_trip(connection: socket.socket, message: bytes = b"x" * SIZE) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(message)
    missing = len(message)
    while missing > 0:
        data = connection.recv(missing)
        if not data:
            raise ConnectionError("the server closed the connection")
        missing -= len(data)


def connect(port: int) -> socket.socket:
    try:
        return socket.create_connection((HOST, port), timeout=ANSWER_LIMIT)
    except OSError as error:
        raise Failed(f"no connection: {error}") from error


@contextlib.contextmanager
def idle_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """That many clients, silent after a round trip: the server has made all that it makes for each."""
    with contextlib.ExitStack() as stack:
        connections: list[socket.socket] = []
        try:
            for _ in range(count):
                connections.append(stack.enter_context(connect(port)))
                round_trip(connections[-1])
        except OSError as error:
            raise Failed(f"no round trip before the silence: {error}") from error
        yield connections


def served_of(connections: Sequence[socket.socket]) -> int:
    """How many are still answered, all together within SERVED_LIMIT."""
    deadline, served = time.perf_counter() + SERVED_LIMIT, 0
    for connection in connections:
        connection.settimeout(max(0.01, min(SERVED_LIMIT / 4, deadline - time.perf_counter())))
        with contextlib.suppress(OSError):
            round_trip(connection)
            served += 1
    return served


class Sleepers:
    """Clients whose messages the server's callback sleeps over, each with one under way all the time.

    A thread for each that blocks: together they send a few messages a second. Use it in a `with`.
    """

    def __init__(self, port: int, count: int) -> None:
        self._answers = [0] * count
        self._connections = [connect(port) for _ in range(count)]
        self._threads = [threading.Thread(target=self._keep_asking, args=(number,)) for number in range(count)]

    def __enter__(self) -> Sleepers:
        self._began = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):  # the server may have closed it
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    def rate(self) -> float:
        """Answers a second until now: at most one for each nap of the callback and client."""
        return sum(self._answers) / (time.perf_counter() - self._began)

    def _keep_asking(self, number: int) -> None:
        connection = self._connections[number]
        with contextlib.suppress(OSError):
            while True:
                round_trip(connection, SLEEPY * SIZE)
                self._answers[number] += 1
