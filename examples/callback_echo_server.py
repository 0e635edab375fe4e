"""An echo server with callbacks. Run it, then polled_client.py; Ctrl-C ends it.

    python callback_echo_server.py

Each client's callbacks run in a thread of its own, so they may block.
"""

import threading

from simplesockets import TCPServer


def connected(address):
    print(f"{address} connected", flush=True)


def received(client, address, data):
    client.send(data)


def left(address):
    print(f"{address} left", flush=True)


server = TCPServer(max_connections=100)
server.setup(ip="127.0.0.1", port=9999, on_connect=connected, on_receive=received, on_disconnect=left)
with server:
    print("echo server on 127.0.0.1:9999", flush=True)
    threading.Event().wait()  # until Ctrl-C
