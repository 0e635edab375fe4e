"""The load generator for machines without a C compiler or without epoll: arguments and output of `loadgen.c`.

One thread over `selectors`. It is slower than the faster servers, so their figures come out alike: compare
only what was measured with the same generator. Only the standard library; runs as a plain script.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import selectors
import socket
import string
import sys
import threading
import time
from collections.abc import Callable, Sequence

CONNECT_SECONDS = 5.0  # how long a connection is tried again
ANSWER_SECONDS = 5.0  # how long a blocking call waits for the server
JOIN_SECONDS = 40.0  # in which all clients have to have their first answer, or to be welcomed by HiSock
ANSWERS_SECONDS = 3.0  # that the last messages of `paced` have to be answered in
QUIET_SECONDS = 0.3  # without a byte, after which nobody is told of those who joined any more
GRACE_SECONDS = 30.0  # past the asked for duration, after which the process ends whatever happens
SERVE_SECONDS = 3600.0  # the longest life of `serve`
MAX_SAMPLES = 1 << 20
HEADER = 16  # bytes of a header of HiSock: the length in decimal, padded with blanks
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


def answered(connection: socket.socket, message: bytes) -> bool:
    """Whether a round trip on a blocking socket went well."""
    try:
        connection.sendall(message)
        received = b""
        while len(received) < len(message):
            data = connection.recv(len(message) - len(received))
            if not data:
                return False
            received += data
    except OSError:
        return False
    return received == message


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
    request: bytes
    sent: int = 0
    received: int = 0
    started: float = 0.0
    answered: int = 0
    waits_to_write: bool = False


class Echo:
    """Round trips of many clients, each with one message under way."""

    def __init__(self, port: int, count: int, size: int) -> None:
        # Different letters, so that an answer to somebody else is noticed.
        self.messages = [self.message(letter.encode() * size) for letter in string.ascii_lowercase]
        self.requests = [self.request(letter.encode() * size) for letter in string.ascii_lowercase]
        self.size, self.request_size = len(self.messages[0]), len(self.requests[0])
        self.samples = Samples()
        self.selector = selectors.DefaultSelector()
        self.alive = count
        self.clients: list[Client] = []
        self.connect_all(port, count)

    def message(self, content: bytes) -> bytes:
        """What the server answers to `request(content)`."""
        return content

    def request(self, content: bytes) -> bytes:
        return self.message(content)

    def connect_all(self, port: int, count: int) -> None:
        # One after the other, each with a round trip: the server has accepted everybody then.
        deadline = clock() + JOIN_SECONDS
        for number in range(count):
            client = self.connect(port, number)
            client.connection.settimeout(ANSWER_SECONDS)
            if not answered(client.connection, client.message):
                self.give_up(client)
            else:
                client.connection.setblocking(False)
            if clock() > deadline:
                sys.exit(f"loadgen: {number} of {count} clients had a first answer in time")

    def connect(self, port: int, number: int) -> Client:
        letter = number % len(self.messages)
        client = Client(connect_to(port), self.messages[letter], self.requests[letter])
        client.connection.setblocking(False)
        self.selector.register(client.connection, selectors.EVENT_READ, client)
        self.clients.append(client)
        return client

    def start(self, client: Client) -> None:
        client.sent = client.received = 0
        client.started = clock()
        self.send_rest(client)

    def send_rest(self, client: Client) -> None:
        try:
            client.sent += client.connection.send(memoryview(client.request)[client.sent :])
        except BlockingIOError:
            pass
        except OSError:
            self.give_up(client)
            return
        waits = client.sent < self.request_size
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
        received = client.received + len(data)
        if not data or received > min(client.sent, self.size) or data != client.message[client.received : received]:
            self.give_up(client)  # closed, more than was sent, or not theirs
            return
        client.received = received
        if received == self.size:
            self.complete(client)

    def complete(self, client: Client) -> None:
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
            self.serve_events(self.receive_some)

    def serve_events(self, read: Callable[[Client], None], timeout: float = 0.05) -> None:
        for key, events in self.selector.select(timeout):
            if events & selectors.EVENT_WRITE:
                self.send_rest(key.data)
            if events & selectors.EVENT_READ and key.data.connection.fileno() >= 0:
                read(key.data)

    def forget_warmup(self) -> None:
        self.samples.latencies.clear()
        for client in self.clients:
            client.answered = 0

    def served(self) -> int:
        return sum(client.answered > 0 for client in self.clients)


class Paced(Echo):
    """Messages at a rate, whether or not the answers keep up: number n of all is due at n / rate.

    A client that waits for an answer sends it as soon as it has that, but it was due when it was due.
    """

    def keep_pace(self, rate: float, seconds: float, warmup: float) -> None:
        self.begun = [0] * len(self.clients)  # of each client: how many messages it began to send
        self.due = [0] * len(self.clients)  # and how many it should have
        self.number = {id(client): number for number, client in enumerate(self.clients)}
        self.interval, self.began = 1 / rate, clock()
        self.counted = self.began + warmup  # those due earlier were the warm-up
        end, following = self.counted + seconds, 0
        while self.alive and clock() < end:
            following = self.begin_due(following, end)
            wait = self.due_time(following) - clock()
            # Selectors wait for whole milliseconds: what is due before the next one ends is waited for awake.
            self.serve_events(self.receive_some, max(0.0, min(wait, 0.05) - 0.001))
        while self.any_unanswered() and clock() < end + ANSWERS_SECONDS:
            self.serve_events(self.receive_some)

    def due_time(self, number: int) -> float:
        return self.began + number * self.interval

    def begin_due(self, following: int, end: float) -> int:
        while self.due_time(following) <= min(clock(), end):
            number = following % len(self.clients)
            client = self.clients[number]
            self.due[number] += 1
            if client.answered == self.begun[number] and client.connection.fileno() >= 0:
                self.begin(client, number)
            following += 1
        return following

    def begin(self, client: Client, number: int) -> None:
        self.start(client)
        client.started = self.due_time(self.begun[number] * len(self.clients) + number)
        self.begun[number] += 1

    def keep(self, due: float) -> None:
        if due >= self.counted:
            self.samples.latencies.append(clock() - due)

    def complete(self, client: Client) -> None:
        number = self.number[id(client)]
        self.keep(client.started)
        client.answered += 1
        if self.begun[number] < self.due[number]:
            self.begin(client, number)

    def any_unanswered(self) -> bool:
        return any(
            client.answered < due and client.connection.fileno() >= 0
            for client, due in zip(self.clients, self.due, strict=True)
        )

    def keep_unanswered(self) -> int:
        """With the time that they have waited: leaving them out would make slow servers fast."""
        count = 0
        for number, client in enumerate(self.clients):
            for turn in range(client.answered, self.due[number]):
                self.keep(self.due_time(turn * len(self.clients) + number))
                count += 1
        return count


def framed(body: bytes) -> bytes:
    return str(len(body)).encode().ljust(HEADER) + body


class Commands(Echo):
    """Round trips of clients of HiSock: a command that comes back.

    All are told of each that joins, which is read and dropped before anything is measured.
    """

    command = b"echo"
    last_arrival = 0.0

    def message(self, content: bytes) -> bytes:
        return framed(b"$CMD$" + self.command + b"$MSG$" + content)

    def connect_all(self, port: int, count: int) -> None:
        # One after the other: each is told of itself, too, and with that the server has it.
        deadline = clock() + JOIN_SECONDS
        for number in range(count):
            client = self.connect(port, number)
            client.connection.sendall(framed(b'$CLTHELLO${"name": null, "group": null}'))
            while not client.received:
                self.serve_events(self.discard_some)
                if clock() > deadline:
                    sys.exit(f"loadgen: {number} of {count} clients were welcomed in time")
        while clock() < self.last_arrival + QUIET_SECONDS:
            self.serve_events(self.discard_some)
            if clock() > deadline:
                sys.exit("loadgen: the server never stopped telling who joined")

    def discard_some(self, client: Client) -> None:
        try:
            data = client.connection.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            sys.exit("loadgen: the server closed a connection while the clients joined")
        client.received += len(data)
        self.last_arrival = clock()


class Fanout(Commands):
    """Rounds: one client sends a command, and all have to receive it."""

    command = b"all"
    ports: Sequence[int] = ()  # of several nodes, over which the clients are spread
    missing = 0  # clients that have not received it yet
    number = 0
    round_started = 0.0

    def connect(self, port: int, number: int) -> Client:
        return super().connect(self.ports[number % len(self.ports)] if self.ports else port, number)

    def start_round(self) -> None:
        # Another letter each time, so that one which comes late or twice is noticed.
        letter = self.number % len(self.messages)
        self.number += 1
        for client in self.clients:
            client.message, client.request, client.received = self.messages[letter], self.requests[letter], 0
            client.sent = self.size  # by the first, which is the only one to send
        self.missing = len(self.clients)
        self.round_started = clock()
        self.start(self.clients[0])

    def complete(self, client: Client) -> None:
        client.answered += 1
        self.missing -= 1
        if not self.missing:
            self.samples.latencies.append(clock() - self.round_started)
            self.start_round()


TEXT_FRAME = 0x81
MASKED = 0x80
LONG_FRAME = 126  # stands for: the length is in the next two bytes
UPGRADE = b"\r\n".join(
    (
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
    )
)


def frame_of(payload: bytes, masked: int = 0) -> bytes:
    """A text frame of WebSocket. Where it has a mask that is zero, which changes nothing."""
    size = len(payload)
    length = bytes((masked | size,)) if size < LONG_FRAME else bytes((masked | LONG_FRAME, size >> 8, size & 255))
    return bytes((TEXT_FRAME,)) + length + (bytes(4) if masked else b"") + payload


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = connection.recv(size - len(data))
        if not received:
            sys.exit("loadgen: the server closed a connection while the clients joined")
        data += received
    return data


class SocketIO(Fanout):
    """The same over WebSocket, with the event "all"."""

    def message(self, content: bytes) -> bytes:
        return frame_of(b'42["all","' + content + b'"]')

    def request(self, content: bytes) -> bytes:
        return frame_of(b'42["all","' + content + b'"]', MASKED)

    def connect_all(self, port: int, count: int) -> None:
        deadline = clock() + JOIN_SECONDS
        for number in range(count):
            connection = self.connect(port, number).connection
            connection.settimeout(ANSWER_SECONDS)
            self.upgrade(connection)
            self.expect_packet(connection, b"0")  # of Engine.IO: open
            connection.sendall(frame_of(b"40", MASKED))
            self.expect_packet(connection, b"40")  # of Socket.IO: connected
            connection.setblocking(False)
            if clock() > deadline:
                sys.exit(f"loadgen: {number + 1} of {count} clients were welcomed in time")

    def upgrade(self, connection: socket.socket) -> None:
        connection.sendall(UPGRADE)
        headers = b""
        while not headers.endswith(b"\r\n\r\n"):
            headers += read_exactly(connection, 1)  # what follows is a frame, so no byte more than the headers
        if not headers.startswith(b"HTTP/1.1 101 "):
            sys.exit(f"loadgen: the server does not speak WebSocket: {headers[:40]!r}")

    def expect_packet(self, connection: socket.socket, beginning: bytes) -> None:
        kind, size = read_exactly(connection, 2)
        if size == LONG_FRAME:
            size = int.from_bytes(read_exactly(connection, 2), "big")
        if kind != TEXT_FRAME or not read_exactly(connection, size).startswith(beginning):
            sys.exit(f"loadgen: the server did not say {beginning.decode()} while the clients joined")


def measure_round_trips(kind: type[Echo], mode: str, *arguments: str) -> dict[str, object]:
    port, clients, size, seconds, warmup = arguments
    end_after(float(seconds) + float(warmup) + JOIN_SECONDS + GRACE_SECONDS)
    echo = kind(int(port), int(clients), int(size))
    for client in echo.clients:
        if client.connection.fileno() >= 0:
            echo.start(client)
    echo.run_until(clock() + float(warmup))
    echo.forget_warmup()
    start = clock()
    echo.run_until(start + float(seconds))
    elapsed = clock() - start
    shape = {"mode": mode, "clients": int(clients), "bytes": int(size), "served": echo.served()}
    return shape | echo.samples.summary(elapsed)


def run_paced(port: str, clients: str, size: str, rate: str, seconds: str, warmup: str) -> dict[str, object]:
    end_after(float(seconds) + float(warmup) + JOIN_SECONDS + GRACE_SECONDS)
    paced = Paced(int(port), int(clients), int(size))
    paced.keep_pace(float(rate), float(seconds), float(warmup))
    unanswered = paced.keep_unanswered()
    shape = {"mode": "paced", "clients": int(clients), "bytes": int(size), "served": paced.served()}
    return shape | {"unanswered": unanswered} | paced.samples.summary(float(seconds))


def measure_fanout(
    kind: type[Fanout], mode: str, port: str, clients: str, size: str, seconds: str
) -> dict[str, object]:
    end_after(float(seconds) + JOIN_SECONDS + GRACE_SECONDS)
    kind.ports = [int(each) for each in port.split(",")]
    fanout = kind(kind.ports[0], int(clients), int(size))
    start = clock()
    fanout.start_round()
    fanout.run_until(start + float(seconds))
    elapsed = clock() - start
    deliveries = len(fanout.samples.latencies) * int(clients) / elapsed
    shape = {"mode": mode, "clients": int(clients), "bytes": int(size), "served": fanout.served()}
    return shape | {"deliveries_per_second": round(deliveries, 2)} | fanout.samples.summary(elapsed)


def run_rate(port: str, size: str, seconds: str) -> dict[str, object]:
    end_after(float(seconds) + GRACE_SECONDS)
    samples, message, start = Samples(), b"x" * int(size), clock()
    while clock() < start + float(seconds) and len(samples.latencies) + samples.errors < MAX_CYCLES:
        began = clock()
        with connect_to(int(port)) as connection:
            served = answered(connection, message)
        if served:
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
    "echo": (functools.partial(measure_round_trips, Echo, "echo"), "PORT CLIENTS BYTES SECONDS WARMUP"),
    "paced": (run_paced, "PORT CLIENTS BYTES RATE SECONDS WARMUP"),
    "command": (functools.partial(measure_round_trips, Commands, "command"), "PORT CLIENTS BYTES SECONDS WARMUP"),
    "fanout": (functools.partial(measure_fanout, Fanout, "fanout"), "PORT CLIENTS BYTES SECONDS"),
    "socketio": (functools.partial(measure_fanout, SocketIO, "socketio"), "PORT CLIENTS BYTES SECONDS"),
    "rate": (run_rate, "PORT BYTES SECONDS"),
    "bulk": (run_bulk, "PORT BLOCK TOTAL SECONDS"),
    "serve": (run_serve, ""),
}


def main(arguments: list[str]) -> int:
    mode, values = (arguments[0], arguments[1:]) if arguments else ("", [])
    run, usage = MODES.get(mode, (None, "echo|paced|command|fanout|socketio|rate|bulk|serve ARGUMENTS..."))
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
