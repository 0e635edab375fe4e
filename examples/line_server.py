"""Messages instead of a stream: each line is one message, however the network cut it. Answers with the line reversed.

    python line_server.py

Try it with ``python -m simplesockets connect 127.0.0.1 9999``; Ctrl-C ends it.
"""

import threading

from simplesockets import DelimiterFramer, FramedProtocol, TCPServer


def received(client, address, line):
    client.send(line[::-1])


server = TCPServer()
server.setup(
    ip="127.0.0.1",
    port=9999,
    on_receive=received,
    protocol=lambda: FramedProtocol(DelimiterFramer(b"\n", limit=65536)),
)
with server:
    print("line server on 127.0.0.1:9999", flush=True)
    threading.Event().wait()  # until Ctrl-C
