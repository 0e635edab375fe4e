"""The load generator for machines without a C compiler or without epoll: arguments and output of `loadgen.c`.

One thread over `selectors`. It is slower than the faster servers, so their figures come out alike: compare
only what was measured with the same generator. Only the standard library; runs as a plain script.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import string
import sys
import threading
import time
from collections.abc import Callable

CONNECT_SECONDS = 5.0  # how long a connection is tried again
ANSWER_SECONDS = 5.0  # how long a blocking call waits for the server
GRACE_SECONDS = 30.0  # past the asked for duration, after which the process ends whatever happens
SERVE_SECONDS = 3600.0  # the longest life of `serve`
MAX_SAMPLES = 1 << 20
MAX_CYCLES = 25_000  # of `rate`: each leaves a port in TIME_WAIT, and those run out
CHUNK = 256 * 1024

clock = time.perf_counter


def end_after(seconds: float) -> None:
    """End the process then, even where a system call hangs."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def connect_to(port: int) -> socket.socket:
    """Connect, trying again for a while: the server may be about to listen, or its backlog be full."""
    deadline = clock() + CONNECT_SECONDS
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
        except OSError as error:
            if clock() > deadline:
                sys.exit(f"loadgen: connect to port {port}: {error}")
            time.sleep(0.02)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection


class Samples:
    """Latencies in seconds, and what went wrong."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors = 0

    def summary(self, seconds: float) -> dict[str, float]:
        ordered = sorted(self.latencies)
        return {
            "seconds": round(seconds, 4),
            "count": len(ordered),
            "per_second": round(len(ordered) / seconds, 2),
            "p50_us": round(percentile(ordered, 0.5) * 1e6, 1),
            "p99_us": round(percentile(ordered, 0.99) * 1e6, 1),
            "errors": self.errors,
        }


def percentile(ordered: list[float], fraction: float) -> float:
    return ordered[int((len(ordered) - 1) * fraction)] if ordered else -1e-6


@dataclasses.dataclass
class Client:
    connection: socket.socket
    message: bytes
    sent: int = 0
    received: int = 0
    started: float = 0.0
    answered: int = 0
    waits_to_write: bool = False


class Echo:
    """Round trips of many clients, each with one message under way."""

    def __init__(self, port: int, count: int, size: int) -> None:
        self.size = size
        self.samples = Samples()
        self.selector = selectors.DefaultSelector()
        self.alive = count
        self.clients = [Client(connect_to(port), self._message(number)) for number in range(count)]
        for client in self.clients:
            client.connection.setblocking(False)
            self.selector.register(client.connection, selectors.EVENT_READ, client)

    def _message(self, number: int) -> bytes:
        # Different letters, so that an answer to somebody else is noticed.
        return string.ascii_lowercase[number % 26].encode() * self.size

    def start(self, client: Client) -> None:
        client.sent = client.received = 0
        client.started = clock()
        self.send_rest(client)

    def send_rest(self, client: Client) -> None:
        try:
            client.sent += client.connection.send(memoryview(client.message)[client.sent :])
        except BlockingIOError:
            pass
        except OSError:
            self.give_up(client)
            return
        waits = client.sent < self.size
        if waits is not client.waits_to_write:
            client.waits_to_write = waits
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)
            self.selector.modify(client.connection, events, client)

    def receive_some(self, client: Client) -> None:
        try:
            data = client.connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        theirs = data.count(client.message[:1]) == len(data) > 0
        if not theirs or client.received + len(data) > client.sent:
            self.give_up(client)  # closed, not theirs, or more than was sent
            return
        client.received += len(data)
        if client.received == self.size:
            self.samples.latencies.append(clock() - client.started)
            client.answered += 1
            self.start(client)

    def give_up(self, client: Client) -> None:
        self.selector.unregister(client.connection)
        client.connection.close()
        self.samples.errors += 1
        self.alive -= 1

    def run_until(self, deadline: float) -> None:
        latencies = self.samples.latencies
        while self.alive and clock() < deadline and len(latencies) < MAX_SAMPLES:
            for key, events in self.selector.select(0.05):
                if events & selectors.EVENT_WRITE:
                    self.send_rest(key.data)
                if events & selectors.EVENT_READ and key.data.connection.fileno() >= 0:
                    self.receive_some(key.data)

    def forget_warmup(self) -> None:
        self.samples.latencies.clear()
        for client in self.clients:
            client.answered = 0


def run_echo(port: str, clients: str, size: str, seconds: str, warmup: str) -> dict[str, object]:
    end_after(float(seconds) + float(warmup) + GRACE_SECONDS)
    echo = Echo(int(port), int(clients), int(size))
    for client in echo.clients:
        echo.start(client)
    echo.run_until(clock() + float(warmup))
    echo.forget_warmup()
    start = clock()
    echo.run_until(start + float(seconds))
    elapsed = clock() - start
    served = sum(client.answered > 0 for client in echo.clients)
    shape = {"mode": "echo", "clients": int(clients), "bytes": int(size), "served": served}
    return shape | echo.samples.summary(elapsed)


def round_trip(connection: socket.socket, message: bytes) -> bool:
    connection.sendall(message)
    received = b""
    while len(received) < len(message):
        data = connection.recv(len(message) - len(received))
        if not data:
            return False
        received += data
    return received == message


def run_rate(port: str, size: str, seconds: str) -> dict[str, object]:
    end_after(float(seconds) + GRACE_SECONDS)
    samples, message, start = Samples(), b"x" * int(size), clock()
    while clock() < start + float(seconds) and len(samples.latencies) + samples.errors < MAX_CYCLES:
        began, answered = clock(), False
        with contextlib.suppress(OSError), connect_to(int(port)) as connection:
            answered = round_trip(connection, message)
        if answered:
            samples.latencies.append(clock() - began)
        else:
            samples.errors += 1
    return {"mode": "rate", "bytes": int(size)} | samples.summary(clock() - start)


def run_bulk(port: str, block_size: str, total: str, seconds: str) -> dict[str, object]:
    end_after(float(seconds) + GRACE_SECONDS)
    block, left = bytes(int(block_size)), int(total)
    with connect_to(int(port)) as connection:
        connection.settimeout(float(seconds))
        start = clock()
        while left > 0:
            connection.sendall(block if left >= len(block) else block[:left])
            left -= len(block)
            if clock() > start + float(seconds):
                sys.exit("loadgen: the server did not read all in time")
        if not connection.recv(1):
            sys.exit("loadgen: the server closed the connection")
        elapsed = clock() - start
    figures = {"seconds": round(elapsed, 4), "mib_per_second": round(int(total) / elapsed / (1 << 20), 2)}
    return {"mode": "bulk", "bytes": int(total)} | figures


def answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(CHUNK):
            connection.sendall(data)


def accept_forever(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def run_serve() -> None:
    end_after(SERVE_SECONDS)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=accept_forever, args=(listener,), daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)  # the accepting thread is still at it


MODES: dict[str, tuple[Callable[..., dict[str, object] | None], str]] = {
    "echo": (run_echo, "PORT CLIENTS BYTES SECONDS WARMUP"),
    "rate": (run_rate, "PORT BYTES SECONDS"),
    "bulk": (run_bulk, "PORT BLOCK TOTAL SECONDS"),
    "serve": (run_serve, ""),
}


def main(arguments: list[str]) -> int:
    mode, values = (arguments[0], arguments[1:]) if arguments else ("", [])
    run, usage = MODES.get(mode, (None, "echo|rate|bulk|serve ARGUMENTS..."))
    if run is None or len(values) != len(usage.split()):
        print(f"loadgen: usage: loadgen {mode if run else ''} {usage}", file=sys.stderr)
        return 2
    try:
        outcome = run(*values)
    except ValueError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return 1
    if outcome is not None:
        print(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
