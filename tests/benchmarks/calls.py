"""Remote calls: servers that offer one function, and clients that call it, by HPX and by what it is compared with.

`python -m tests.benchmarks.calls serve NAME` prints its port and serves until its standard input ends;
`… call NAME --port PORT` prints what it measured as JSON. The function is `repeat(text, times)`; with HPX it is also
called many times in one message. Like `servers.py`, this file imports only the standard library before it has to, and
is run as a plain script by the interpreters of released packages.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import socketserver
import threading
import time
import xmlrpc.client
import xmlrpc.server
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
BATCH = 20
WARM_UP = 0.25
TEXT = "All calls get this text."

clock = time.perf_counter
Call = Callable[[int], str]


def repeat(text: str, times: int) -> str:
    """What is called."""
    return text * times


def announce(port: int) -> None:
    """Say where we are, and end with whoever asked for us."""
    print(port, flush=True)
    while os.read(0, 4096):
        pass
    os._exit(0)


# Servers.


def serve_hpx(engine: str) -> None:
    server: Any = importlib.import_module("simplesockets.hpx").Server(port=0, engine=engine)
    server.function(repeat)
    server.start()
    announce(server.address[1])


class _Keeping(xmlrpc.server.SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"  # so the connection is kept


class _Threaded(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    daemon_threads = True
    request_queue_size = 1024


def serve_xmlrpc() -> None:
    server = _Threaded((HOST, 0), requestHandler=_Keeping, logRequests=False, allow_none=True)
    function: Any = repeat  # whatever the stubs say of what can be registered
    server.register_function(function)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce(server.server_address[1])


def serve_rpyc() -> None:
    rpyc: Any = importlib.import_module("rpyc")
    threaded: Any = importlib.import_module("rpyc.utils.server").ThreadedServer
    service = type("Repeating", (rpyc.Service,), {"exposed_repeat": staticmethod(repeat)})
    server = threaded(service, hostname=HOST, port=0)
    threading.Thread(target=server.start, daemon=True).start()
    announce(server.port)


# Clients: each makes a function that makes one call.


def hpx_client(module: str, port: int) -> Any:
    client: Any = importlib.import_module(module).Client("caller", HOST, port)
    client.connect()
    client.handshake()
    return client


def call_hpx(module: str, port: int) -> Call:
    client = hpx_client(module, port)

    def call(times: int) -> str:
        entry = client.send([{"fname": "repeat", "text": TEXT, "times": times}])["data"][0]
        assert "error" not in entry, entry
        return str(entry["data"])

    return call


def call_hpx_in_batches(module: str, port: int) -> Call:
    client = hpx_client(module, port)

    def call(times: int) -> str:
        calls = [{"fname": "repeat", "text": TEXT, "times": times}] * BATCH
        return str(client.send(calls)["data"][-1]["data"])

    return call


def call_xmlrpc(port: int) -> Call:
    proxy = xmlrpc.client.ServerProxy(f"http://{HOST}:{port}/RPC2", allow_none=True)
    return lambda times: str(proxy.repeat(TEXT, times))


def call_rpyc(port: int) -> Call:
    root = importlib.import_module("rpyc").connect(HOST, port).root
    return lambda times: str(root.repeat(TEXT, times))


def measure(make: Callable[[int], Call], port: int, clients: int, times: int, seconds: float) -> dict[str, float]:
    """Let that many clients, a thread each, call at the same time."""
    latencies: list[list[float]] = [[] for _ in range(clients)]
    ready = threading.Barrier(clients + 1)
    failures: list[BaseException] = []

    def work(mine: list[float]) -> None:
        try:
            call = make(port)
            assert call(times) == repeat(TEXT, times)
            ready.wait()
            start = clock() + WARM_UP
            began = clock()
            while began < start + seconds:
                call(times)
                ended = clock()
                if began >= start:
                    mine.append(ended - began)
                began = ended
        except BaseException as failure:
            failures.append(failure)
            ready.abort()

    threads = [threading.Thread(target=work, args=(mine,)) for mine in latencies]
    for thread in threads:
        thread.start()
    if not failures:
        ready.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    ordered = sorted(latency for mine in latencies for latency in mine)
    return {
        "per_second": len(ordered) / seconds,
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
    }


OURS, RELEASE = "simplesockets.hpx", "happypandax_client"

SERVERS: dict[str, Callable[[], None]] = {
    "hpx": lambda: serve_hpx("threads"),
    "hpx-pool": lambda: serve_hpx("pool"),
    "xmlrpc": serve_xmlrpc,
    "rpyc": serve_rpyc,
}

CLIENTS: dict[str, tuple[str, Callable[[int], Call], int]] = {
    "ours-hpx": ("hpx", functools.partial(call_hpx, OURS), 1),
    "ours-hpx-pool": ("hpx-pool", functools.partial(call_hpx, OURS), 1),
    "ours-hpx-batches": ("hpx", functools.partial(call_hpx_in_batches, OURS), BATCH),
    "ours-hpx-happypandax-client-1.0.0": ("hpx", functools.partial(call_hpx, RELEASE), 1),
    "xmlrpc": ("xmlrpc", call_xmlrpc, 1),
    "rpyc": ("rpyc", call_rpyc, 1),
}
"""By name: the server it calls, what makes a client, how many calls are in a message."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A server with one function, or clients that call it.")
    parser.add_argument("role", choices=["serve", "call"])
    parser.add_argument("name", choices=[*SERVERS, *CLIENTS])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--times", type=int, default=1, help="how often the text is repeated")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    if options.role == "serve":
        SERVERS[options.name]()
        return
    _, make, batch = CLIENTS[options.name]
    figures = measure(make, options.port, options.clients, options.times, options.seconds)
    figures["per_second"] *= batch
    print(json.dumps(figures), flush=True)
    os._exit(0)  # it is measured: nobody waits for the threads that are left


if __name__ == "__main__":
    main()
