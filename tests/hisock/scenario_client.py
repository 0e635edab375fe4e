"""The clients of the scenario, all in one process: a program that runs under either package.

Its arguments are the server's port and, to play with this package instead of the interpreter's ``hisock``, ``--ours``.
It prints what each client's handlers got, in order. No step begins before everything that the step before had to bring
about has arrived, so two runs print the same.

What release 2.0.2 does wrong and this goes around, beside what scenario_server.py says:

* ``recv`` misses an answer that comes before it began to wait, so handlers collect the answers;
* a client that leaves may still be told that it was thrown out, so nothing is noted any more once it is leaving;
* ``change_name(None)`` fails for a client that came without a name.
"""

# mypy: ignore-errors
# Written as such programs are: without types, but where they ask for a cast.
import faulthandler
import importlib
import json
import queue
import sys

PATIENCE = 20.0


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


class Member:
    """A client that notes what its handlers get."""

    def __init__(self, label, client):
        self.label = label
        self.client = client
        self.leaving = False
        self.noted = queue.Queue()
        self.add_events()
        self.add_handlers()
        client.start()

    def note(self, *words):
        """What a handler got."""
        if not self.leaving:
            self.noted.put(words)

    def expect(self, count=1):
        """Print the next so many things that the handlers get."""
        for _ in range(count):
            tell(self.label, *self.noted.get(timeout=PATIENCE))

    def leave(self):
        """Say goodbye; there must be nothing left that nobody expected."""
        assert self.noted.empty(), (self.label, self.noted.get())
        self.leaving = True
        self.client.close()

    def add_events(self):
        """Handlers of reserved events."""

        @self.client.on("client_connect")
        def on_connect(client):
            self.note("client_connect", client.name, client.group)

        @self.client.on("client_disconnect")
        def on_disconnect(client):
            self.note("client_disconnect", client.name, client.group)

        @self.client.on("force_disconnect")
        def on_force_disconnect():
            self.note("force_disconnect")

        @self.client.on("*")
        def on_anything(command: str, data: str):
            self.note("*", command, data)

    def add_handlers(self):
        """Ordinary handlers, each with its cast."""
        for command, kind in {"text": str, "dict": dict, "list": list, "int": int, "float": float}.items():
            self.add_handler(command, kind)
        for command in ("bytes", "welcome", "news"):
            self.add_handler(command, bytes)
        for command in ("renamed", "regrouped"):
            self.add_handler(command, list)

        @self.client.on("uncast")
        def on_uncast(message):
            self.note("uncast", shown(message))

        @self.client.on("no arguments")
        def on_no_arguments():
            self.note("no arguments")

    def add_handler(self, command, kind):
        """A handler that takes its message as ``kind``."""

        def on_command(message):
            self.note(command, shown(message))

        on_command.__annotations__["message"] = kind
        self.client.on(command)(on_command)


def join(hisock, address):
    """Four clients come, one after the other: the last with neither name nor group."""
    members = []
    for label, who in [
        ("ann", {"name": "ann", "group": "red"}),
        ("bob", {"name": "bob", "group": "red"}),
        ("cyd", {"name": "cyd", "group": "blue"}),
        ("nemo", {}),
    ]:
        tell("step", "join", label)
        members.append(Member(label, hisock.threaded_connect(address, **who)))
        for member in members:
            member.expect()
        members[-1].expect()
    return members


ECHOES = [
    ("text", "plain"),
    ("text", "Grüße, 世界 🐍\u2028\n\ttab, and $MSG$ and $CMD$ inside "),
    ("text", None),
    ("text", ""),
    ("text", 12),
    ("bytes", b"\x00\xff$"),
    ("bytes", None),
    ("bytes", "x" * 5000),
    ("uncast", "as it came"),
    ("uncast", None),
    ("uncast", True),
    ("uncast", False),
    ("dict", {"ü": [1, 2.5, None, True, {"deep": "世"}], "b": ""}),
    ("dict", "{'python': 'literal'}"),
    ("dict", None),
    ("list", [1, "zwei", [3.0], {}]),
    ("int", -7),
    ("int", 2**70),
    ("int", "0x10"),
    ("int", None),
    ("float", 2.5),
    ("float", -1e300),
    ("float", 3),
    ("float", None),
    ("who alone", "an argument that nobody takes"),
]


def echo(ann):
    """Everything that can be sent, there and back."""
    for command, content in ECHOES:
        tell("step", command, shown(content))
        if content is None:
            ann.client.send(command)
        else:
            ann.client.send(command, content)
        ann.expect()


def send_to_others(ann, bob, cyd, nemo):
    """To everybody, to a group, to one."""
    tell("step", "no arguments")
    cyd.client.send("no arguments", "dropped")
    for member in (ann, bob, cyd, nemo):
        member.expect()
    tell("step", "groups")
    nemo.client.send("to group", "red")
    for member in (ann, bob):
        member.expect()
    bob.client.send("to my group", "mine, ß")
    for member in (ann, bob):
        member.expect()
    tell("step", "one")
    ann.client.send("to name", "cyd")
    ann.client.send("to address", "cyd")
    cyd.expect(3)


def speak_freely(ann):
    """Commands that nobody handles, on either side."""
    for command, content in [("what is this", "ätsch"), ("nothing", ""), ("UPPER at the end: $CMD", "$MSG$")]:
        tell("step", "*", command)
        ann.client.send(command, content)
        ann.expect()


def change(ann, bob, cyd, nemo):
    """New names and groups, and back."""
    everybody = (ann, bob, cyd, nemo)
    for member, what, new in [
        (ann, "name", "Änne"),
        (ann, "group", "blue"),
        (nemo, "name", "nemo"),
        (nemo, "group", "blue"),
    ]:
        tell("step", "change", what, new)
        (member.client.change_name if what == "name" else member.client.change_group)(new)
        for each in everybody:
            each.expect()
    tell("step", "under the new name, in the new group")
    cyd.client.send("to name", "Änne")
    ann.expect()
    cyd.client.send("to my group", "blues")
    for each in (ann, cyd, nemo):
        each.expect()
    bob.client.send("to group", "red")
    bob.expect()
    tell("step", "change back")
    ann.client.change_name(None)
    for each in everybody:
        each.expect()
    ann.client.change_group(None)
    for each in everybody:
        each.expect()
    cyd.client.send("to name", "ann")
    ann.expect()
    cyd.client.send("who")
    cyd.expect()


def part(ann, bob, cyd, nemo):
    """Two are thrown out, the others leave."""
    tell("step", "kick")
    ann.client.send("kick", "bob")
    bob.expect()
    for member in (cyd, nemo):
        member.expect()
    ann.expect(2)
    tell("step", "kick quietly")
    ann.client.send("kick quietly", "nemo")
    nemo.expect()
    cyd.expect()
    ann.expect(2)
    tell("step", "leave")
    cyd.leave()
    ann.expect()
    ann.leave()


def main():
    """Play the scenario."""
    faulthandler.dump_traceback_later(60, exit=True)
    members = join(imported(), ("127.0.0.1", int(sys.argv[1])))
    echo(members[0])
    send_to_others(*members)
    speak_freely(members[0])
    change(*members)
    part(*members)
    print("end", flush=True)


if __name__ == "__main__":
    main()
