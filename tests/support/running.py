"""Servers and clients for tests, on loopback and on free ports."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

from simplesockets import TCPClient, TCPServer

from .waiting import PATIENCE

HOST = "127.0.0.1"


@contextlib.contextmanager
def running_server(max_connections: int | None = None, start: bool = True, **setup: Any) -> Iterator[TCPServer]:
    """A server on a free port; closed at the end."""
    server = TCPServer(max_connections)
    server.setup(**{"ip": HOST, "port": 0, **setup})
    try:
        if start:
            server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def running_client(server: TCPServer, *, autorecv: bool = True, **setup: Any) -> Iterator[TCPClient]:
    """A client that is connected to the server; closed at the end."""
    client = TCPClient()
    client.setup(HOST, server.address[1], **setup)
    try:
        assert client.connect(), client.return_exceptions()
        if autorecv:
            client.autorecv()
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def raw_client(server: TCPServer) -> Iterator[socket.socket]:
    """A plain socket that is connected to the server."""
    with socket.create_connection(server.address, timeout=PATIENCE) as sock:
        yield sock


@contextlib.contextmanager
def raw_listener(backlog: int = 8) -> Iterator[socket.socket]:
    """A plain listening socket."""
    with socket.create_server((HOST, 0), backlog=backlog) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@contextlib.contextmanager
def echo_poller(server: TCPServer, threads: int = 1) -> Iterator[None]:
    """Threads that echo everything, as the manual's loop does."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            if server.event.new_data:
                for client, _, data in server.return_recved_data():
                    server.send_data(data, client)

    pollers = [threading.Thread(target=poll) for _ in range(threads)]
    for poller in pollers:
        poller.start()
    try:
        yield
    finally:
        stop.set()
        for poller in pollers:
            poller.join(PATIENCE)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if the stream ends before."""
    parts = []
    while size > 0 and (part := sock.recv(min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """End a connection with a reset instead of an orderly close."""
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()


def sees_reset(sock: socket.socket) -> bool:
    """Whether the stream breaks, instead of ending in good order. What came before is dropped."""
    sock.settimeout(PATIENCE)
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionError:
        return True
    return False


def is_refused(address: tuple[str, int]) -> bool:
    """Whether a connection is reset before it is of any use."""
    try:
        with socket.create_connection(address, PATIENCE) as sock:
            return sees_reset(sock)
    except ConnectionError:
        return True


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))
