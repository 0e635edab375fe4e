"""A server that keeps files in a directory. Run it, then file_transfer_client.py; Ctrl-C ends it.

    python file_transfer_server.py [DIRECTORY]

A stream has no messages, so each request and each answer begins with a line that says how many bytes follow:

    get NAME          answered by a line with the size (-1: there is none), and the file
    put NAME SIZE     and the file; answered by a line with the size
"""

import pathlib
import sys
import threading

from simplesockets import TCPServer

LONGEST_LINE = 1000
PATIENCE = 30  # seconds without a byte of a file that was announced


def read_line(client):
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        if not byte or len(line) > LONGEST_LINE:
            return None
        line += byte
    return line.decode().split()


def place_of(name):
    if name != pathlib.PurePath(name).name or name.startswith("."):  # nobody gets out of the directory
        raise ValueError(f"bad name {name!r}")
    return directory / name


def send(client, name):
    path = place_of(name)
    if not path.is_file():
        client.send("-1\n")
        return
    with path.open("rb") as file:
        size = file.seek(0, 2)
        client.send(f"{size}\n")
        client.send_file(file, count=size)  # exactly as many as announced, even if the file grows


def receive(client, name, size):
    client.receive_file(place_of(name), int(size), timeout=PATIENCE)
    client.send(f"{size}\n")


def serve(client, address):
    while request := read_line(client):
        print(f"{address[0]}:{address[1]}", *request, flush=True)
        command, *arguments = request
        {"get": send, "put": receive}[command](client, *arguments)


directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "files")
directory.mkdir(exist_ok=True)
server = TCPServer(max_connections=100)
server.setup(ip="127.0.0.1", port=9999, handle_client=serve)
with server:
    print(f"files of {directory} on 127.0.0.1:9999", flush=True)
    threading.Event().wait()  # until Ctrl-C
