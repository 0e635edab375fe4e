"""The programs of the API reference and of the tutorial run, each in a process of its own.

Where the text has a fragment (``server = ...``), the lines that it leaves out are put before and behind it. Only the
import is another than in the text.
"""

from __future__ import annotations

import sys

import pytest

from ..support.programs import free_port, running_program
from .running import RawClient

HOST = "127.0.0.1"

# ----------------------------------------------------------------------------------------------------- the tutorial

PROLOGUE = """
import builtins
from random import choice, randint
{how_imported}

builtins.input = lambda question="": print(question) or "this is what I say"
"""

WAYS_TO_IMPORT = {
    "from": "from simplesockets import hisock",
    "installed": "import simplesockets.hisock; simplesockets.hisock.install_as_hisock(); import hisock",
}

A_SERVER = 'server = hisock.start_server(("127.0.0.1", {port}))'
A_CLIENT = 'client = hisock.connect(("127.0.0.1", {port}), name="ann", group="red")'


def completed(fragment: str, port: int, how: str = "from") -> str:
    """The fragment as a program."""
    text = fragment.replace("server = ...", A_SERVER).replace("client = ...", A_CLIENT)
    return (PROLOGUE + text).replace("{port}", str(port)).replace("{how_imported}", WAYS_TO_IMPORT[how])


OVERRIDE = """
server = ...

@server.on("leave", override=True)
def on_leave(client: hisock.ClientInfo, reason: str):
    print(f"{client.name} left because {reason}")
    server.disconnect_client(client, force=True)

while True:
    server.run()
"""


def test_overriding_a_reserved_event() -> None:
    port = free_port()
    with running_program(completed(OVERRIDE, port)) as serving:
        serving.wait_listening(port)
        with RawClient((HOST, port), "ann") as raw:
            raw.send_command("leave", b"it is late")
            assert raw.at_end()
        with RawClient((HOST, port), "bob") as raw:
            raw.read_body()
        with RawClient((HOST, port), "cyd") as raw:
            raw.read_body()
        serving.wait_for_line("ann left")
        assert serving.lines == ["ann left because it is late\n"]
        assert serving.running
    assert not serving.errors


ASKING_SERVER = """
server = ...

@server.on("join")
def on_join(client: hisock.ClientInfo):
    server.send_client(client, "start")

@server.on("*")
def on_wildcard(client: hisock.ClientInfo, command: str, data: str):
    server.send_client(client, "response", f"{client.name} said: {command}")

server.start()
"""

WITHOUT_RECV = """
client = ...

@client.on("start")
def on_start():
    client.send(input("What would you like to say?"))
    print("Waiting for a response...")

@client.on("response")
def on_response(response: str):
    print(f"The server said: {response}")
    client.close()

client.start()
"""

WITH_RECV = """
client = ...

@client.on("start", threaded=True)
def on_start():
    client.send(input("What would you like to say?"))
    print("Waiting for a response...")
    response = client.recv("response", str)
    print(f"The server said: {response}")
    client.close()

client.start()
"""

IN_A_THREAD = WITHOUT_RECV.replace("client = ...", A_CLIENT.replace("connect(", "threaded_connect("))
IN_A_THREAD_BY_CLASS = WITHOUT_RECV.replace(
    "client = ...", A_CLIENT.replace("connect(", "client.ThreadedHiSockClient(")
)


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        (WITHOUT_RECV, "from"),
        (WITH_RECV, "from"),
        (WITH_RECV, "installed"),
        (IN_A_THREAD, "from"),
        (IN_A_THREAD_BY_CLASS, "from"),
    ],
    ids=["handler", "recv", "installed", "threaded_connect", "ThreadedHiSockClient"],
)
def test_waiting_for_a_response(asked: str, how: str) -> None:
    port = free_port()
    with running_program(completed(ASKING_SERVER, port, how)) as serving:
        serving.wait_listening(port)
        with running_program(completed(asked, port, how)) as asking:
            assert asking.wait_end() == 0, asking
            assert asking.lines == [
                "What would you like to say?\n",
                "Waiting for a response...\n",
                "The server said: ann said: this is what I say\n",
            ]
            assert not asking.errors
        assert serving.running
    assert not serving.errors


THREADED_SERVER = ASKING_SERVER.replace("server = ...", A_SERVER.replace("start_server", "start_threaded_server"))


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2), reason="3.12.0 and 3.12.1 start no threads once the main one has ended"
)
def test_a_server_in_a_thread() -> None:
    port = free_port()
    text = completed(THREADED_SERVER, port) + "\nprint('the main thread goes on')\n"
    with running_program(text) as serving:
        serving.wait_for_line("the main thread goes on")
        with running_program(completed(WITH_RECV, port)) as asking:
            assert asking.wait_end() == 0, asking
            assert asking.lines[-1] == "The server said: ann said: this is what I say\n"
        assert serving.running, "the thread keeps the program"


WILDCARD_CLIENT = """
client = ...

client.send(
   "hello i am an uncaught command",
   f"Random data: "
   + "".join(
      [
            chr(choice((randint(65, 90), randint(97, 122))))
            for _ in range(100)
      ]
   ),
)

@client.on("client_connect")
def on_connect(client: hisock.ClientInfo):
    ...

@client.on("client_disconnect")
def on_disconnect(client: hisock.ClientInfo):
    ...

@client.on("*")
def on_wildcard(command: str, data: str):
    print(f"The server sent some uncaught data: {command=}, {data=}")

client.start()
"""

WILDCARD_SERVER = """
server = ...

@server.on("join")
def on_join(client: hisock.ClientInfo):
   ...

@server.on("leave")
def on_leave(client: hisock.ClientInfo):
   ...

@server.on("*")
def on_wildcard(client: hisock.ClientInfo, command: str, data: str):
    print(
        f"There was some unhandled data from {client.name}. "
        f"{command=}, {data=}"
    )

    server.send_client(client, "i am also an uncaught command", data.replace("a", "ඞ"))

server.start()
"""


def test_the_wildcard_on_both_sides() -> None:
    port = free_port()
    with running_program(completed(WILDCARD_SERVER, port)) as serving:
        serving.wait_listening(port)
        with running_program(completed(WILDCARD_CLIENT, port)) as playing:
            there = serving.wait_for_line("unhandled data")
            back = playing.wait_for_line("uncaught data")
            assert playing.running
        start = "There was some unhandled data from ann. command='hello i am an uncaught command', data='Random data: "
        assert there.startswith(start)
        data = there[len(start) : -2]
        assert len(data) == 100
        answer = ("Random data: " + data).replace("a", "ඞ")
        assert back == f"The server sent some uncaught data: command='i am also an uncaught command', data='{answer}'\n"
        assert not playing.errors
    assert not serving.errors


INFOS = """
server = ...

@server.on("join")
def on_join(client: dict):
    print("as a dict:", client["name"], client["group"], ":".join(map(str, client["ip"])))

@server.on("leave")
def on_leave(client: hisock.ClientInfo):
    print("as an object:", client.name, client.group, str(client.ip))
    server.close()

server.start()
"""


def test_client_info_is_a_dict_and_an_object() -> None:
    port = free_port()
    with running_program(completed(INFOS, port)) as serving:
        serving.wait_listening(port)
        with RawClient((HOST, port)) as raw:
            host, its_port = raw.address
            serving.wait_for_line("as a dict")
        assert serving.wait_end() == 0, serving
        assert serving.lines == [
            f"as a dict: None None {host}:{its_port}\n",
            f"as an object: None None {host}:{its_port}\n",
        ]
    assert not serving.errors


# ---------------------------------------------------------------------------------------------------- the reference

REFERENCE_SERVER = """
from simplesockets.hisock import *

server = start_server(("127.0.0.1", {port}), True, 0, 16)
print("serving at", server.get_addr())

@server.on("join")
def joined(client_data):
    print("joined:", client_data["name"], client_data["group"])
    server.send_client(client_data["ip"], "hello", b"Hello " + client_data["name"].encode())

@server.on("leave")
def left(client_data):
    print("left:", client_data["name"])

@server.on("message")
def every_message(client_data, message):
    print("message:", client_data["name"], message)

@server.on("add one")
def add_one(client_data, number: int):
    server.send_client(iptup_to_str(client_data["ip"]), "added", str(number + 1).encode())

@server.on("say")
def say(client_data, text: str):
    server.send_group(client_data["group"], "said", f"{client_data['name']}: {text}".encode())
    server.send_all_clients("heard", b"something")

@server.on("raw please")
def raw_please(client_data, _):
    server.send_client_raw(client_data["name"], b"raw for one")
    server.send_group_raw("red", b"raw for the group")

@server.on("who")
def who(client_data, _):
    print("everybody:", sorted(server.get_all_clients("name")), [each["name"] for each in server.get_group("red")])
    info = server.get_client(client_data["name"])
    assert info["ip"] == client_data["ip"] and info["socket"].fileno() > 0
    server.send_client(info["name"], "done", b"")

while True:
    server.run()
"""

REFERENCE_CLIENT = """
import sys
from simplesockets import hisock

s = hisock.connect(("127.0.0.1", {port}), name="ann", group="red"{more})

@s.on("client_connect")
def connected(client_data):
    print("connected:", client_data["name"])

@s.on("client_disconnect")
def disconnected(client_data):
    print("disconnected:", client_data["name"])

@s.on("hello")
def hello(message: str):
    print(message)
    s.send("add one", b"41")

@s.on("added")
def added(number: int):
    print("added:", number)
    s.send("say", "Grüße".encode())

@s.on("said")
def said(text: str):
    print("said:", text)

@s.on("heard")
def heard(data):
    print("heard:", data)
    s.send("raw please", b"now")
    print(s.recv_raw())
    print(s.recv_raw())
    s.raw_send(b"raw from the client")
    s.send("who", b"")

@s.on("done")
def done(_):
    s.close()
    s.update()
    print("end")
    sys.exit()

while True:
    s.update()
"""


@pytest.mark.parametrize("more", ["", ', dialect="0.x"', ", blocking=False"], ids=["2.x", "0.x", "not blocking"])
def test_every_method_of_the_reference(more: str) -> None:
    port = free_port()
    with running_program(REFERENCE_SERVER.replace("{port}", str(port))) as serving:
        serving.wait_for_line("serving at")
        text = REFERENCE_CLIENT.replace("{port}", str(port)).replace("{more}", more)
        with running_program(text) as playing:
            assert playing.wait_end() == 0, f"{playing}\n{serving}"
        assert [line for line in playing.lines if line != "connected: ann\n"] == [
            "Hello ann\n",
            "added: 42\n",
            "said: ann: Grüße\n",
            "heard: b'something'\n",
            "b'raw for one'\n",
            "b'raw for the group'\n",
            "end\n",
        ]
        assert ("connected: ann\n" in playing.lines) == ("0.x" not in more), "own notices are of the second generation"
        assert not playing.errors
        serving.wait_for_line("left: ann")
        old = "0.x" in more

        def body(command: str, content: str) -> bytes:
            return (f"{command} {content}" if old else f"$CMD${command}$MSG${content}").encode()

        told = [line.rstrip() for line in serving.lines[1:]]
        assert [line for line in told if not line.startswith("message")] == [
            "joined: ann red",
            "everybody: ['ann'] ['ann']",
            "left: ann",
        ]
        messages = [line for line in told if line.startswith("message")]
        assert messages[:4] == [
            f"message: ann {each!r}"
            for each in (body("add one", "41"), body("say", "Grüße"), body("raw please", "now"), b"raw from the client")
        ]
        assert len(messages) == 5
        assert serving.running
    assert not serving.errors
