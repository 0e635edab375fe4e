"""The server of the scenario: a program that runs under either package.

Without arguments it imports whatever ``hisock`` the interpreter has; with ``--ours`` that is this package. It prints
``listening <port>``, then a line for each handler that ran, and ``end`` when the last client has left.

It steers around what release 2.0.2 does wrong:

* it needs a handler for ``join``, ``name_change`` and ``group_change``: without one the event ends its loop;
* so does anything that a handler raises, and any cast that fails (so ``message`` takes bytes);
* of a command it strips the letters ``$ C M D`` at the front, so the commands here are in lower case;
* its ``bool`` cast fails for everything but no content; 0, 0.0, ``{}`` and ``[]`` are sent as no content;
* its lookup (``get_client`` of a client) answers with an error, whatever is asked for;
* ``send_group`` to an empty group says nothing, here that is an error; an empty new name changes nothing;
* it reads a header, or a body, with one call, and comes to grief when that gives a part;
* a client that is dropped with ``force=True`` spins for ever, as does one whose server is gone.
"""

# mypy: ignore-errors
# Written as such programs are: without types, but where they ask for a cast.
import faulthandler
import importlib
import json
import sys


def tell(*words):
    """Print a line of the transcript."""
    print(json.dumps(words, ensure_ascii=False, sort_keys=True), flush=True)


def shown(value):
    """The value as text, shortened."""
    text = repr(value)
    return text if len(text) < 200 else f"{text[:20]}…{text[-20:]} of {len(text)}"


def imported():
    """The package that plays."""
    if "--ours" in sys.argv:
        importlib.import_module("simplesockets.hisock").install_as_hisock()
    return importlib.import_module("hisock")


def add_events(server):
    """Handlers of reserved events."""

    @server.on("join")
    def on_join(client):
        tell("join", client.name, client.group, len(server))
        server.send_client(client, "welcome", f"you are number {len(server)}")

    @server.on("leave")
    def on_leave(client):
        tell("leave", client.name, client.group, len(server))
        if not len(server):
            print("end", flush=True)

    @server.on("name_change")
    def on_name_change(client, old: str, new: str):
        tell("name_change", client.name, old, new)
        server.send_all_clients("renamed", [old, new])

    @server.on("group_change")
    def on_group_change(client, old: str, new: str):
        tell("group_change", client.name, client.group, old, new)
        server.send_all_clients("regrouped", [old, new])

    @server.on("message")
    def on_message(client, command: str, message: bytes):
        # How JSON is spelled is each package's own affair.
        tell("message", client.name, command, "JSON" if command in ("dict", "list") else shown(message))

    @server.on("*")
    def on_anything(client, command: str, data: str):
        tell("*", client.name, command, data)
        server.send_client(client.ip, f"no {command}", data[::-1])


def add_echoes(server):
    """Handlers that cast what they get and send it back."""

    def answer(client, kind, message):
        tell(kind, client.name, shown(message))
        server.send_client(client, kind, message)

    @server.on("text")
    def on_text(client, message: str):
        answer(client, "text", message)

    @server.on("bytes")
    def on_bytes(client, message: bytes):
        answer(client, "bytes", message)

    @server.on("uncast")
    def on_uncast(client, message):
        answer(client, "uncast", message)

    @server.on("dict")
    def on_dict(client, message: dict):
        answer(client, "dict", message)

    @server.on("list")
    def on_list(client, message: list):
        answer(client, "list", message)

    @server.on("int")
    def on_int(client, message: int):
        answer(client, "int", message)

    @server.on("float")
    def on_float(client, message: float):
        answer(client, "float", message)

    @server.on("who alone")
    def on_who_alone(client):
        answer(client, "uncast", client.name)

    @server.on("no arguments")
    def on_no_arguments():
        tell("no arguments")
        server.send_all_clients("no arguments")


def add_sends(server):
    """Handlers that send to others."""

    @server.on("to group")
    def on_to_group(client, message: str):
        server.send_group(message, "news", f"to {message}")

    @server.on("to my group")
    def on_to_my_group(client, message: str):
        server.send_group(client, "news", message)

    @server.on("to name")
    def on_to_name(client, message: str):
        server.send_client(message, "news", "by name")

    @server.on("to address")
    def on_to_address(client, message: str):
        info = server.get_client(message)
        host, port = info["ip"]
        server.send_client((host, port), "news", "by tuple")
        server.send_client(f"{host}:{port}", "news", "by text")

    @server.on("who")
    def on_who(client):
        everybody = sorted(str(name) for name in server.get_all_clients("name"))
        reds = sorted(each["name"] for each in server.get_group("red"))
        blues = server.get_all_clients(lambda each: each["group"] == "blue")
        server.send_client(client, "list", [everybody, reds, len(blues), server.get_client("cyd")["group"]])

    @server.on("kick")
    def on_kick(client, message: str):
        server.disconnect_client(message, call_func=True)
        server.send_client(client, "uncast", f"{message} is out")

    @server.on("kick quietly")
    def on_kick_quietly(client, message: str):
        server.disconnect_client(message)
        server.send_client(client, "uncast", f"{message} is out")


def main():
    """Serve until ended."""
    faulthandler.dump_traceback_later(60, exit=True)
    server = imported().start_server(("127.0.0.1", 0))
    add_events(server)
    add_echoes(server)
    add_sends(server)
    # The release gives the address it was told, so with port 0 the socket has to be asked.
    port = server.get_addr()[1] or server.socket.getsockname()[1]
    print("listening", port, flush=True)
    server.start()


if __name__ == "__main__":
    main()
