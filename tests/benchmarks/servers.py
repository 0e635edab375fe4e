"""The servers that are compared: `python -m tests.benchmarks.servers NAME [--sink BYTES | --file PATH | --sleepy]`
runs one.

It prints its port as a line and serves until its standard input ends. Without options it is an echo
server; with `--sink` it only counts, and answers one byte when that many have arrived on a connection; with
`--file` it sends the file to everybody who connects; with `--sleepy` an echo server sleeps over messages that begin
with SLEEPY.
Those of HiSock send the command `echo` back to whom it came from, and the command `all` to everybody, as that of
Socket.IO does with the event `all`.

Everybody listens on a free port of the loopback interface. All but those of HiSock and python-socketio, which are
taken as they are, do so with the same backlog, receive up to RECEIVE bytes at a time and have TCP_NODELAY set. Only the
standard library is imported here, and `simplesockets` not before it is needed: this file is also run as a
plain script by the interpreters of releases.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib
import logging
import os
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

BACKLOG = 1024
RECEIVE = 65536
MIB = 1 << 20
# The old release takes a full buffer for a sign of more and then blocks: it needs one that no message fills.
OLD_RECEIVE = 65536 + 1
HOST = "127.0.0.1"
RECEIPT = b"."
SLEEPY = b"!"
SLEEP = 0.2  # seconds, over a message that begins so


def announce(port: int) -> None:
    """Say where we are, and end with whoever asked for us."""
    print(port, flush=True)
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock the interpreter wants at its end
        pass
    os._exit(0)  # threads that serve or spin would outlive the interpreter's own way out


def wait_forever() -> None:
    threading.Event().wait()


def no_delay(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# A thread per client, blocking calls: as fast as plain threads get.


def echo_blocking(connection: socket.socket) -> None:
    no_delay(connection)
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(RECEIVE):
            connection.sendall(data)


def echo_sleepily(connection: socket.socket) -> None:
    no_delay(connection)
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(RECEIVE):
            if data.startswith(SLEEPY):
                time.sleep(SLEEP)
            connection.sendall(data)


def count_blocking(expect: int) -> Callable[[socket.socket], None]:
    def count(connection: socket.socket) -> None:
        no_delay(connection)
        missing = expect
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(RECEIVE):
                missing -= len(data)
                if missing == 0:
                    connection.sendall(RECEIPT)

    return count


def count_into_buffer(expect: int) -> Callable[[socket.socket], None]:
    """As fast as receiving gets: always the same memory."""

    def count(connection: socket.socket) -> None:
        no_delay(connection)
        missing, buffer = expect, bytearray(RECEIVE)
        with contextlib.suppress(OSError), connection:
            while size := connection.recv_into(buffer):
                missing -= size
                if missing == 0:
                    connection.sendall(RECEIPT)

    return count


def send_by_system(path: str) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        no_delay(connection)
        with contextlib.suppress(OSError), connection, open(path, "rb") as file:
            connection.sendfile(file)
            connection.recv(1)  # until the other end has it all

    return send


def send_by_reading(path: str) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        no_delay(connection)
        with contextlib.suppress(OSError), connection, open(path, "rb", buffering=0) as file:
            while data := file.read(MIB):
                connection.sendall(data)
            connection.recv(1)

    return send


def bare_thread(serve: Callable[[socket.socket], None]) -> None:
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    announce(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


class _ThreadingServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = BACKLOG


def with_socketserver(serve: Callable[[socket.socket], None]) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            serve(self.request)

    with _ThreadingServer((HOST, 0), Handler) as server:
        announce(server.server_address[1])
        server.serve_forever()


# The polled loop, over a flag whose read waits on a condition: what polling could cost at best.


class WaitingFlag:
    """A flag whose False read waits for a moment instead of burning a core."""

    def __init__(self) -> None:
        self.value = False
        self.changed = threading.Condition(threading.Lock())

    def set(self) -> None:
        with self.changed:
            self.value = True
            self.changed.notify()

    def read(self) -> bool:
        if not self.value:
            with self.changed:
                if not self.value:
                    self.changed.wait(0.05)
        return self.value


def bare_polled() -> None:
    received: deque[tuple[socket.socket, bytes]] = deque()
    flag = WaitingFlag()

    def store(connection: socket.socket) -> None:
        no_delay(connection)
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(RECEIVE):
                received.append((connection, data))
                flag.set()

    def poll() -> None:
        while True:
            if flag.read():
                flag.value = False
                while received:
                    connection, data = received.popleft()
                    with contextlib.suppress(OSError):
                        connection.sendall(data)

    threading.Thread(target=poll, daemon=True).start()
    bare_thread(store)


# An event loop.


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        no_delay(transport.get_extra_info("socket"))


class EchoProtocol(_Connection):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def counting_protocol(expect: int) -> type[_Connection]:
    class CountingProtocol(_Connection):
        missing = expect

        def data_received(self, data: bytes) -> None:
            self.missing -= len(data)
            if self.missing == 0:
                self.transport.write(RECEIPT)

    return CountingProtocol


async def _serve(protocol: type[_Connection]) -> None:
    server = await asyncio.get_running_loop().create_server(protocol, HOST, 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def with_asyncio(protocol: type[_Connection]) -> None:
    asyncio.run(_serve(protocol))


def with_uvloop(protocol: type[_Connection]) -> None:
    importlib.import_module("uvloop").new_event_loop().run_until_complete(_serve(protocol))


# This package. `Any`, because it is used as a program without types would.


def start_ours(**setup: object) -> Any:
    server: Any = importlib.import_module("simplesockets").TCPServer()
    server.setup(**{"ip": HOST, "port": 0, "listen": BACKLOG, "recv_buffer": RECEIVE} | setup)
    server.start()
    return server


def ours_callback(**setup: object) -> None:
    server = start_ours(on_receive=echo, **setup)
    announce(server.address[1])
    wait_forever()


def ours_in_python(**setup: object) -> None:
    os.environ["SIMPLESOCKETS_PURE_PYTHON"] = "1"  # without what is compiled
    ours_callback(**setup)


def echo(client: Any, address: Any, data: bytes) -> None:  # where worker processes find it
    client.send(data)


def ours_sleepy(**setup: object) -> None:
    def answer(client: Any, address: Any, data: bytes) -> None:
        if data.startswith(SLEEPY):
            time.sleep(SLEEP)
        client.send(data)

    server = start_ours(on_receive=answer, **setup)
    announce(server.address[1])
    wait_forever()


def ours_polled(pollers: int = 1, **setup: object) -> None:
    server = start_ours(**setup)
    announce(server.address[1])

    def poll() -> None:
        while True:
            if server.event.new_data:
                for client, _address, data in server.return_recved_data():
                    server.send_data(data, client)

    run_in_threads(poll, pollers)


def run_in_threads(poll: Callable[[], None], count: int) -> None:
    """Run `poll` in that many threads, this one included, as the programs that poll do."""
    for _ in range(count - 1):
        threading.Thread(target=poll, daemon=True).start()
    poll()


def ours_callback_sink(expect: int, **setup: object) -> None:
    missing = expect

    def count(client: Any, address: Any, data: bytes) -> None:
        nonlocal missing
        missing -= len(data)
        if missing == 0:
            client.send(RECEIPT)

    server = start_ours(on_receive=count, **setup)
    announce(server.address[1])
    wait_forever()


def ours_polled_sink(expect: int) -> None:
    server = start_ours()
    announce(server.address[1])
    missing = expect
    while True:
        if server.event.new_data:
            for client, _address, data in server.return_recved_data():
                missing -= len(data)
                if missing == 0:
                    server.send_data(RECEIPT, client)


def ours_file_server(path: str, progress: Callable[[int, int], object] | None = None) -> None:
    server = start_ours(on_connect=lambda address: address.client.send_file(path, progress))
    announce(server.address[1])
    wait_forever()


# Release 0.4.0 from the registry, by its own manual.


def start_old(**setup: object) -> Any:
    server: Any = importlib.import_module("simplesockets").TCPServer()
    server.setup(
        ip=HOST,
        port=0,
        listen=BACKLOG,
        recv_buffer=OLD_RECEIVE,
        on_connect=lambda client: no_delay(client.socket),
        **setup,
    )
    server.start()
    return server


def old_callback() -> None:
    server = start_old(on_receive=lambda client, received: client.send(received.response))
    announce(server.socket.getsockname()[1])
    wait_forever()


def old_polled(pollers: int = 1) -> None:
    server = start_old()
    announce(server.socket.getsockname()[1])

    def poll() -> None:
        while True:
            if server.event.new_data:
                for received in server.return_recved_data():
                    server.send_data(received, received.from_)

    run_in_threads(poll, pollers)


# Commands: this package and release 2.0.2 of hisock, by the same program.


def hisock_server(module: str, **setup: object) -> None:
    server: Any = importlib.import_module(module).HiSockServer((HOST, 0), keepalive=False, **setup)

    # The release looks every annotation up by its name, and `None` or `Any` is not among those that it finds.
    def echo(client, message: str):  # type: ignore[no-untyped-def]
        server.send_client(client, "echo", message)

    def to_all(client, message: str):  # type: ignore[no-untyped-def]
        server.send_all_clients("all", message)

    server.on("echo")(echo)
    server.on("all")(to_all)
    server.on("join")(lambda client: None)  # without it the release ends
    announce(server.socket.getsockname()[1])
    os.dup2(2, 1)  # the release prints, and nobody reads more than the port
    server.start()


# Events: python-socketio over WebSocket, with threads as ours are.


def with_socketio(backplane: str | None = None) -> None:
    socketio: Any = importlib.import_module("socketio")
    serving: Any = importlib.import_module("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each client
    manager = socketio.RedisManager(backplane) if backplane else None
    server: Any = socketio.Server(  # as HiSock here: no keepalive
        async_mode="threading", ping_interval=3600, client_manager=manager
    )
    server.on("all", lambda sid, message: server.emit("all", message))
    listening = serving.make_server(HOST, 0, socketio.WSGIApp(server), threaded=True)
    announce(listening.server_port)
    listening.serve_forever()


COMMANDS: dict[str, Callable[[], None]] = {
    "hisock-ours": lambda: hisock_server("simplesockets.hisock"),
    "hisock-ours-pool": lambda: hisock_server("simplesockets.hisock", engine="pool"),
    "python-socketio": with_socketio,
    "hisock-2.0.2": lambda: hisock_server("hisock"),
}

ECHO: dict[str, Callable[[], None]] = {
    "ours-callback": ours_callback,
    "ours-pool": lambda: ours_callback(engine="pool"),
    "ours-pool-python": lambda: ours_in_python(engine="pool"),
    "ours-workers": lambda: ours_callback(workers=2),
    "ours-polled": ours_polled,
    "ours-pool-polled": lambda: ours_polled(engine="pool"),
    "ours-2-pollers": lambda: ours_polled(2),
    "bare-thread": lambda: bare_thread(echo_blocking),
    "bare-polled": bare_polled,
    "socketserver": lambda: with_socketserver(echo_blocking),
    "asyncio": lambda: with_asyncio(EchoProtocol),
    "uvloop": lambda: with_uvloop(EchoProtocol),
    "simplesockets-0.4.0-callback": old_callback,
    "simplesockets-0.4.0-polled": old_polled,
    "simplesockets-0.4.0-2-pollers": lambda: old_polled(2),
}

NODES: dict[str, Callable[[str], None]] = {
    "hisock-ours": lambda url: hisock_server("simplesockets.hisock", backplane=url),
    "python-socketio": with_socketio,
}

SLEEPING: dict[str, Callable[[], None]] = {
    "ours-callback": ours_sleepy,
    "ours-pool": lambda: ours_sleepy(engine="pool"),
    "bare-thread": lambda: bare_thread(echo_sleepily),
}

SINK: dict[str, Callable[[int], None]] = {
    "ours-callback": ours_callback_sink,
    "ours-callback-2048": lambda expect: ours_callback_sink(expect, recv_buffer=2048),
    "ours-polled": ours_polled_sink,
    "bare-recv-into": lambda expect: bare_thread(count_into_buffer(expect)),
    "bare-thread": lambda expect: bare_thread(count_blocking(expect)),
    "socketserver": lambda expect: with_socketserver(count_blocking(expect)),
    "asyncio": lambda expect: with_asyncio(counting_protocol(expect)),
    "uvloop": lambda expect: with_uvloop(counting_protocol(expect)),
}


FILE: dict[str, Callable[[str], None]] = {
    "ours-send_file": ours_file_server,
    "ours-send_file-progress": lambda path: ours_file_server(path, lambda done, total: None),
    "bare-sendfile": lambda path: bare_thread(send_by_system(path)),
    "bare-read-send": lambda path: bare_thread(send_by_reading(path)),
}


def chosen(arguments: argparse.Namespace) -> Callable[[], None] | None:
    name = arguments.name
    if arguments.backplane:
        return functools.partial(NODES[name], arguments.backplane) if name in NODES else None
    if arguments.file:
        return functools.partial(FILE[name], arguments.file) if name in FILE else None
    if arguments.sink is not None:
        return functools.partial(SINK[name], arguments.sink) if name in SINK else None
    return (SLEEPING if arguments.sleepy else {**ECHO, **COMMANDS}).get(name)


def main() -> None:
    parser = argparse.ArgumentParser(description="One server, on a free port which it prints.")
    parser.add_argument("name", choices=sorted({*ECHO, *COMMANDS, *SINK, *FILE}))
    parser.add_argument("--sink", type=int, metavar="BYTES", help="only count, and say when so many have arrived")
    parser.add_argument("--file", metavar="PATH", help="send this file to everybody who connects")
    parser.add_argument("--backplane", metavar="URL", help="be one of several nodes that meet there")
    parser.add_argument("--sleepy", action="store_true", help="sleep over messages that begin with SLEEPY")
    arguments = parser.parse_args()
    serve = chosen(arguments)
    if serve is None:
        parser.error(f"{arguments.name} cannot do that")
    with contextlib.suppress(KeyboardInterrupt):
        serve()


if __name__ == "__main__":
    main()
