"""A client's other end, and waiting for what a client gets. The fixtures are in conftest.py."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from simplesockets import TCPClient

from .waiting import PATIENCE, wait_until


class Peer:
    """The other end: a plain listener, and the sockets that it accepted."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.port: int = listener.getsockname()[1]
        self.accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        """The socket of the next connection."""
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        self.accepted.append(sock)
        return sock

    def nobody_else_came(self) -> bool:
        """Whether no further connection waits."""
        return not select.select([self.listener], [], [], 0)[0]


def next_item(client: TCPClient) -> Any:
    """The next received item, which must come alone."""
    wait_until(lambda: client.event.new_data, "received data")
    (item,) = client.return_recved_data()
    return item


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run something in a thread; gives the thread and the list that its result will be put in."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    return thread, results
