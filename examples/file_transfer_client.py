"""Put a file on file_transfer_server.py, which has to run already, or get one from it, with a progress bar.

python file_transfer_client.py put FILE
python file_transfer_client.py get NAME [FILE]
"""

import contextlib
import pathlib
import sys

from simplesockets import TCPClient


def bar(done, total):
    filled = 40 * done // total if total else 40
    end = "\n" if done == total else ""
    print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done} of {total} bytes", end=end, file=sys.stderr, flush=True)


def read_line():
    """A line, and what came of that which follows it."""
    data = b""
    while b"\n" not in data:
        piece = client.recv_data(timeout=10)
        if not piece:
            raise SystemExit("the server ended the connection")
        data += piece
    line, _, rest = data.partition(b"\n")
    return int(line), rest


def put(file):
    path = pathlib.Path(file)
    size = path.stat().st_size
    client.send_data(f"put {path.name} {size}\n")
    if not client.send_file(path, bar, count=size):
        raise SystemExit(client.return_exceptions()[-1].exception)
    read_line()  # it has it all


def get(name, file=None):
    client.send_data(f"get {name}\n")
    size, head = read_line()
    if size < 0:
        raise SystemExit(f"the server has no {name}")
    client.receive_file(file or name, size, bar, head=head, timeout=10)


if sys.argv[1:2] not in (["put"], ["get"]) or len(sys.argv) < 3:
    raise SystemExit(__doc__)
client = TCPClient()
client.setup(target_ip="127.0.0.1", target_port=9999)
if not client.connect():
    raise SystemExit("start file_transfer_server.py first")
with contextlib.closing(client):
    {"put": put, "get": get}[sys.argv[1]](*sys.argv[2:])
