"""What the worker processes of tests run; they import this file, and it imports little."""

from __future__ import annotations

import os
import signal
import ssl
import threading

from simplesockets import DelimiterFramer, FramedProtocol, Server_Client
from simplesockets.events import ClientAddress

from .certificates import server_side


def lines() -> FramedProtocol:
    """A protocol of lines."""
    return FramedProtocol(DelimiterFramer(b"\n"))


def greet(address: ClientAddress) -> None:
    """For on_connect: say which process this is."""
    address.client.send(b"%d" % os.getpid())


def obey(client: Server_Client, address: object, data: bytes) -> None:
    """For on_receive: do what a client says."""
    if data == b"raise":
        raise ValueError("as you said")
    if data == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if data == b"busy":
        client.send(b"now")
        threading.Event().wait()
    client.send(b"%d" % os.getpid() if data == b"pid" else data)


def upper(client: Server_Client) -> None:
    """For handle_client: one answer."""
    client.send(client.recv(100).upper())


def context() -> ssl.SSLContext:
    """Makes a context with the certificate of tests."""
    return server_side()


class Counter:
    """Has a method that cannot go to another process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def on_receive(self, data: bytes) -> None:
        """For on_receive."""
