"""The command line: ``python -m simplesockets COMMAND`` or ``simplesockets COMMAND``; ``--help`` lists them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from . import TCPClient, TCPServer, __version__, hisock, self_signed
from .certificates import DAYS, HOSTNAMES
from .check import command as check
from .errors import ConnectionClosed, SimpleSocketsError
from .hpx import command as hpx
from .hpx import playing
from .monitor import INTERVAL, Monitor
from .statsservice import StatsSource
from .timing import HEED

PATIENCE = 10_000
"""Milliseconds after which the demo gives up on an answer."""


def say(who: str, what: object) -> None:
    """Print one line of a conversation, at once."""
    print(f"  {who:<7} {what}", flush=True)


# -------------------------------------------------------------------------------------------------------- demo


def demo_polled() -> None:
    """The manual's style: a loop that looks at a flag."""
    print("Polled: the server's loop looks at server.event.new_data", flush=True)
    server = TCPServer()
    server.setup(ip="127.0.0.1", port=0)

    def poll() -> None:
        while not server.killed:
            if server.event.new_data:
                for client, address, data in server.return_recved_data():
                    say("server", f"{address} sent {short(data)}; echo it")
                    server.send_data(data, client)

    poller = threading.Thread(target=poll)
    with server:
        poller.start()
        say("server", f"listens on {server.address}")
        converse(server, [b"Hello", "Grüße".encode(), b"x" * 2048])
    poller.join()


def demo_callbacks() -> None:
    """Callbacks: functions that run when something happens."""
    print("Callbacks: on_connect, on_receive and on_disconnect", flush=True)
    gone = threading.Event()

    def left(address: object) -> None:
        say("server", f"{address} left")
        gone.set()

    server = TCPServer()
    server.setup(
        ip="127.0.0.1",
        port=0,
        on_connect=lambda address: say("server", f"{address} connected"),
        on_receive=lambda client, address, data: client.send(data.upper()),
        on_disconnect=left,
    )
    with server:
        converse(server, [b"hello", b"callback"])
        if not gone.wait(PATIENCE / 1000):
            raise SystemExit("demo: the server did not notice that the client left")


def demo_hisock() -> None:
    """Commands with typed content, names, groups and notices."""
    print("HiSock: commands with content, for clients with names and groups", flush=True)
    server = hisock.ThreadedHiSockServer(("127.0.0.1", 0))

    @server.on("join")
    def join(client: hisock.ClientInfo) -> None:
        say("server", f"{client.name} joined the group {client.group}")

    @server.on("add")
    def add(client: hisock.ClientInfo, numbers: list[int]) -> None:
        say("server", f"{client.name} asks to add {numbers}; tell the group")
        server.send_group(client, "sum", sum(numbers))

    with server:
        server.start()
        with hisock.connect(server.get_addr(), name="Ann", group="maths") as ann:
            ann.get_client("Ann", timeout=PATIENCE / 1000)  # the answer says that she has joined
            with hisock.connect(server.get_addr(), name="Bob", group="maths") as bob:
                bob.send("add", [1, 2, 39])
                for name, client in (("Ann", ann), ("Bob", bob)):
                    total = client.recv("sum", int, timeout=PATIENCE / 1000)
                    say("client", f"{name} received {total}")
                    if total != 42:
                        raise SystemExit("demo: that is not the sum")


def converse(server: TCPServer, messages: Sequence[bytes]) -> None:
    """Connect a client, send each message, and print what comes back."""
    client = TCPClient()
    client.setup("127.0.0.1", server.address[1])
    with client:
        for message in messages:
            client.send_data(message)
            answer = b""
            while len(answer) < len(message):
                event, items = client.await_event(timeout=PATIENCE, disable_on_functions=True)
                if event != client.EVENT_RECEIVED or items is None:
                    raise SystemExit(f"demo: instead of an answer the client got {event}, {items}")
                answer += b"".join(items)  # type: ignore[arg-type]
            say("client", f"sent {short(message)}, received {short(answer)}")
            if answer.lower() != message.lower():
                raise SystemExit("demo: that is not what was sent")


def short(data: bytes) -> str:
    """The data, or its size where it is long."""
    return repr(data) if len(data) < 60 else f"{len(data)} bytes"


def demo(_: argparse.Namespace) -> int:
    """Run every style once; 0 if all of them worked."""
    demo_polled()
    demo_callbacks()
    demo_hisock()
    print("HPX: functions that frontends call, with sessions and errors", flush=True)
    hpx.demo(say)
    print("Done. All of this ran over real sockets on this machine.", flush=True)
    return 0


# -------------------------------------------------------------------------------------------------------- echo


def echo(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C: what comes in goes back."""
    server = TCPServer()
    server.setup(
        ip=options.host,
        port=options.port,
        on_connect=lambda address: print(f"{address[0]}:{address[1]} connected", flush=True),
        on_receive=lambda client, address, data: client.send(data),
        on_disconnect=lambda address: print(f"{address[0]}:{address[1]} left", flush=True),
    )
    with server:
        where = " and ".join(f"{host}:{port}" for host, port in server.addresses)
        print(f"echo server on {where}; Ctrl-C ends it", flush=True)
        forever = threading.Event()
        while not forever.wait(HEED):
            pass
    return 0


# ----------------------------------------------------------------------------------------------------- connect


def connect(options: argparse.Namespace) -> int:
    """Send lines from standard input, print what comes back; ends with the input or the connection."""
    ended = threading.Event()

    def receive(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    client = TCPClient()
    client.setup(options.host, options.port, on_receive=receive, on_disconnect=ended.set)
    if not client.connect():
        return 1  # the reason was logged
    client.autorecv()
    print(f"connected to {options.host}:{options.port}; Ctrl-D (or Ctrl-C) ends it", file=sys.stderr, flush=True)
    threading.Thread(target=send_lines, args=(client,), daemon=True).start()
    ended.wait()
    client.close()
    return 0


def send_lines(client: TCPClient) -> None:
    """Send standard input, line by line, then say that there is no more, so that the last answers still come."""
    for line in sys.stdin.buffer:
        if not client.send_data(line):
            return
    client.end_sending()


# --------------------------------------------------------------------------------------------------------- top


def watch(options: argparse.Namespace) -> int:
    """Show what a server of another process counts, live; ends with it, with q, with Ctrl-C or by SIGTERM."""
    host, port = options.place
    source = StatsSource(host, port)
    try:
        monitor = Monitor(source.look, options.interval)
        with ended_by_sigterm(monitor):
            monitor.run()
    except ConnectionClosed as failure:  # it was there, so its end is no error
        print(f"simplesockets: {failure}", file=sys.stderr)
    except BrokenPipeError:  # who read the lines has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it ends
    finally:
        source.close()
    return 0


@contextlib.contextmanager
def ended_by_sigterm(monitor: Monitor) -> Iterator[None]:
    """Let the signal end the drawing, so that the terminal is as it was before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: monitor.close())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def place(text: str) -> tuple[str, int]:
    """The host and the port in ``HOST:PORT``, or in ``PORT`` alone.

    Raises:
        argparse.ArgumentTypeError: they are not there.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} should be HOST:PORT, such as 127.0.0.1:9000")
    return host.strip("[]") or "127.0.0.1", int(port)


# ------------------------------------------------------------------------------------------------- certificate


def certificate(options: argparse.Namespace) -> int:
    """Make a self-signed certificate, or find that a good one is there; say where it is and what to do with it."""
    files = self_signed(options.directory, options.host or HOSTNAMES, options.days, renew=options.renew)
    print(f"certificate  {files.certfile}")
    print(f"key          {files.keyfile}  (the server's alone)")
    print(f"server.setup(certfile={str(files.certfile)!r}, keyfile={str(files.keyfile)!r})")
    print(f"client.setup(…, cafile={str(files.certfile)!r})")
    return 0


# ---------------------------------------------------------------------------------------------------- arguments


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="simplesockets", description="TCP without an event loop.")
    top.add_argument("--version", action="version", version=f"simplesockets {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("demo", help="start servers and clients on this machine and show what they say")
    command.set_defaults(run=demo)

    command = commands.add_parser("echo", help="run a server that sends back what it gets")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=25567, help="port, 0 for a free one (default: 25567)")
    command.set_defaults(run=echo)

    command = commands.add_parser("connect", help="talk to a server, line by line")
    command.add_argument("host")
    command.add_argument("port", type=int)
    command.set_defaults(run=connect)

    command = commands.add_parser("top", help="show live what a server counts that offers it: serve_stats()")
    command.add_argument("place", type=place, metavar="HOST:PORT", help="what server.serve_stats() returned")
    command.add_argument("--interval", type=float, default=INTERVAL, help="seconds between two looks (default: 1)")
    command.set_defaults(run=watch)

    command = commands.add_parser("certificate", help="make a self-signed certificate for development")
    command.add_argument("directory", nargs="?", default=".", help="where to keep it (default: here)")
    names = f"name or IP address of the server; may be repeated (default: {' '.join(HOSTNAMES)})"
    command.add_argument("--host", action="append", help=names)
    command.add_argument("--days", type=int, default=DAYS, help=f"that it is good for (default: {DAYS})")
    command.add_argument("--renew", action="store_true", help="make another one even if that which is there is good")
    command.set_defaults(run=certificate)

    check.add_command(commands)
    hpx.add_command(commands)
    playing.add_command(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 1 after an error that was told, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (SimpleSocketsError, ValueError) as failure:
        print(f"simplesockets: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
