"""Programs whose own speed is measured, clients and a loop that draws frames, and one that takes a file from a
server. Each prints one JSON object.

`python -m tests.benchmarks.clients NAME …`. Like `servers.py`, this file imports only the standard library
before it has to, and is also run as a plain script by the interpreter of an older release.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
FRAME = 1 / 60
RECEIVE = 65536
SINK = 256 * 1024
OLD_RECEIVE = 65536 + 1  # of the old release no message may fill the buffer, or it waits for more

clock = time.perf_counter


def percentile(ordered: list[float], fraction: float) -> float:
    return ordered[int((len(ordered) - 1) * fraction)]


# Round trips.


def bare_client(port: int, message: bytes) -> Callable[[], None]:
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def round_trip() -> None:
        connection.sendall(message)
        missing = len(message)
        while missing > 0:
            data = connection.recv(RECEIVE)
            if not data:
                raise ConnectionError("the server closed the connection")
            missing -= len(data)

    return round_trip


def connected_client(port: int, receive: int) -> Any:
    client: Any = importlib.import_module("simplesockets").TCPClient()
    client.setup(target_ip=HOST, target_port=port, recv_buffer=receive)
    if not client.connect():
        raise ConnectionError("no connection to the echo server")
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.autorecv()
    return client


def polling_client(port: int, message: bytes, receive: int) -> Callable[[], None]:
    client = connected_client(port, receive)

    def round_trip() -> None:
        if not client.send_data(message):
            raise ConnectionError("the message was not sent")
        missing = len(message)
        while missing > 0:
            if client.event.new_data:
                missing -= sum(len(data) for data in client.return_recved_data())

    return round_trip


def measure_round_trips(round_trip: Callable[[], None], seconds: float) -> dict[str, float]:
    warm = clock() + min(0.25, seconds / 4)
    while clock() < warm:
        round_trip()
    latencies: list[float] = []
    start = began = clock()
    while began < start + seconds:
        round_trip()
        ended = clock()
        latencies.append(ended - began)
        began = ended
    latencies.sort()
    return {
        "per_second": len(latencies) / (began - start),
        "p50_us": percentile(latencies, 0.5) * 1e6,
        "p99_us": percentile(latencies, 0.99) * 1e6,
    }


# A file.


def measure_file(port: int, size: int) -> dict[str, float]:
    """Take so many bytes from a server, as fast as plain receiving gets."""
    buffer = bytearray(SINK)
    with socket.create_connection((HOST, port)) as connection:
        start, missing = clock(), size
        while missing > 0:
            count = connection.recv_into(buffer)
            if not count:
                raise ConnectionError(f"the server closed the connection with {missing} bytes missing")
            missing -= count
        return {"mib_per_second": size / (clock() - start) / (1 << 20)}


# Frames.


def read_nothing() -> None:
    """What a frame that looks at no flag does."""


def connected_pair() -> tuple[Any, Any]:
    """A server and a client of it in this process, both silent."""
    server: Any = importlib.import_module("simplesockets").TCPServer()
    server.setup(ip=HOST, port=0)
    server.start()
    return server, connected_client(server.address[1], RECEIVE)


def flags_ignorer() -> Callable[[], None]:
    pair = connected_pair()

    def ignore(_kept: object = pair) -> None:
        read_nothing()

    return ignore


def flags_reader() -> Callable[[], None]:
    """What a game does once per frame."""
    server, client = connected_pair()

    def read() -> None:
        if server.event.new_data:
            server.return_recved_data()
        if client.event.new_data:
            client.return_recved_data()

    return read


def measure_frames(read: Callable[[], None], seconds: float) -> dict[str, float]:
    frames: list[float] = []
    reads: list[float] = []
    start = began = clock()
    for number in range(1, int(seconds / FRAME) + 2):
        before = clock()
        read()
        reads.append(clock() - before)
        time.sleep(max(start + number * FRAME - clock(), 0.0))
        ended = clock()
        frames.append(ended - began)
        began = ended
    frames.sort()
    reads.sort()
    return {
        "p50_ms": percentile(frames, 0.5) * 1e3,
        "p99_ms": percentile(frames, 0.99) * 1e3,
        "max_ms": frames[-1] * 1e3,
        "read_p50_us": percentile(reads, 0.5) * 1e6,
        "read_max_us": reads[-1] * 1e6,
    }


CLIENTS: dict[str, Callable[[int, bytes], Callable[[], None]]] = {
    "bare-client": bare_client,
    "ours-client-polled": lambda port, message: polling_client(port, message, RECEIVE),
    "simplesockets-0.4.0-client-polled": lambda port, message: polling_client(port, message, OLD_RECEIVE),
}

FRAMES: dict[str, Callable[[], Callable[[], None]]] = {
    "sleep-only": lambda: read_nothing,
    "ours-flags-unread": flags_ignorer,
    "ours-flags-read": flags_reader,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="One client or frame loop; prints what it measured as JSON.")
    parser.add_argument("name", choices=[*CLIENTS, *FRAMES, "file-sink"])
    parser.add_argument("--port", type=int, default=0, help="of an echo server, or one that sends a file")
    parser.add_argument("--bytes", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    if arguments.name in CLIENTS:
        round_trip = CLIENTS[arguments.name](arguments.port, b"x" * arguments.bytes)
        figures = measure_round_trips(round_trip, arguments.seconds)
    elif arguments.name == "file-sink":
        figures = measure_file(arguments.port, arguments.bytes)
    else:
        figures = measure_frames(FRAMES[arguments.name](), arguments.seconds)
    print(json.dumps(figures), flush=True)
    os._exit(0)  # it is measured: nobody waits for the threads that are left


if __name__ == "__main__":
    main()
