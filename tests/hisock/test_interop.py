"""The same programs print the same on this package, on release 2.0.2, and with one of each; generations mix.

``scenario_server.py`` and ``scenario_client.py`` are the programs, and the ``.txt`` files beside them what they print
when release 2.0.2 is on both ends.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import pytest

from simplesockets.hisock import ClientInfo, HiSockClient

from ..support.peers import PeerUnavailable, peer_python
from ..support.programs import Program, running_command, running_program
from .running import Notes, RawClient, client, server, wait_names

HERE = pathlib.Path(__file__).parent
RELEASE = "hisock==2.0.2"
END = "end\n"


def released_python() -> pathlib.Path:
    """The interpreter of the environment that has release 2.0.2."""
    try:
        return peer_python(RELEASE)
    except PeerUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def python() -> pathlib.Path:
    return released_python()


@contextlib.contextmanager
def scenario(name: str, whose: str, *arguments: str) -> Iterator[Program]:
    """One of the two programs, running with our package or with theirs."""
    ours = whose == "ours"
    command = [sys.executable if ours else str(released_python()), "-u", str(HERE / name), *arguments]
    with tempfile.TemporaryDirectory() as directory:
        with running_command([*command, *(["--ours"] if ours else [])], directory, ours=ours) as program:
            yield program


def transcript(program: Program) -> list[str]:
    return [line for line in program.lines if not line.startswith("listening")]


def expected(name: str) -> list[str]:
    return (HERE / name).read_text(encoding="utf-8").splitlines(keepends=True)


# ------------------------------------------------------------------------------------------------- the scenario


@pytest.mark.parametrize(
    ("one_server", "one_client"),
    [
        ("ours", "ours"),
        pytest.param("ours", "theirs", marks=pytest.mark.peer),
        pytest.param("theirs", "ours", marks=pytest.mark.peer),
        pytest.param("theirs", "theirs", marks=pytest.mark.peer),
    ],
)
def test_the_scenario_has_one_transcript_whoever_plays_it(one_server: str, one_client: str) -> None:
    with scenario("scenario_server.py", one_server) as serving:
        port = serving.wait_for_line("listening").split()[1]
        with scenario("scenario_client.py", one_client, port) as clients:
            assert clients.wait_end() == 0, f"{clients}\n{serving}"
            assert transcript(clients) == expected("scenario_client.txt")
        serving.wait_for_line(END)
        assert transcript(serving) == expected("scenario_server.txt")
        if one_server == "ours":
            assert not serving.errors, serving


def test_the_transcripts_cover_what_they_have_to() -> None:
    told = "".join(expected("scenario_server.txt") + expected("scenario_client.txt"))
    for what in [
        *("join", "leave", "name_change", "group_change", "message", '"*"', "client_connect", "client_disconnect"),
        *("force_disconnect", "世", "dict", "int", "float", "no arguments", "null", "kick"),
    ]:
        assert what in told, what


# --------------------------------------------------------------------------------------- both generations at once

THEIR_CLIENT = """
import hisock

client = hisock.connect(("127.0.0.1", {port}), name="theirs", group="mixed")

@client.on("client_connect")
def on_connect(info):
    print("came", info.name, info.group, flush=True)

@client.on("client_disconnect")
def on_disconnect(info):
    print("went", info.name, flush=True)

@client.on("force_disconnect")
def on_force_disconnect():
    print("out", flush=True)

@client.on("news")
def on_news(message: str):
    print("news", message, flush=True)
    client.send("got", message)

client.start()
"""


def answer_news(ours: HiSockClient, name: str, news: Notes) -> None:
    @ours.on("news")
    def on_news(message: str) -> None:
        news(name, message)
        ours.send("got", message)


@pytest.mark.peer
def test_clients_of_both_generations_share_one_server_and_one_group(python: pathlib.Path) -> None:
    got = Notes()
    news = Notes()
    with server() as serving, contextlib.ExitStack() as leave_last:

        @serving.on("got")
        def on_got(info: ClientInfo, message: str) -> None:
            got(info.name, message)

        text = THEIR_CLIENT.format(port=serving.get_addr()[1])
        theirs = leave_last.enter_context(running_program(text, python=python, ours=False))
        assert theirs.wait_for_line("came") == "came theirs mixed\n"
        for name, dialect in [("ours 0.x", "0.x"), ("ours 2.x", "2.x")]:
            answer_news(leave_last.enter_context(client(serving, name, "mixed", dialect=dialect)), name, news)
            theirs.wait_for_line(f"came {name} mixed")
        with (
            RawClient(serving.get_addr(), "raw 0.x", "mixed", dialect="0.x") as old,
            RawClient(serving.get_addr(), "raw 2.x", "mixed") as new,
            RawClient(serving.get_addr(), "outsider", "others", dialect="0.x") as outsider,
        ):
            wait_names(serving, "theirs", "ours 0.x", "ours 2.x", "raw 0.x", "raw 2.x", "outsider")
            serving.send_group("mixed", "news", "für alle")
            serving.send_client("outsider", "last")
            assert theirs.wait_for_line("news") == "news für alle\n"
            assert sorted(news.wait(2)) == [("ours 0.x", "für alle"), ("ours 2.x", "für alle")]
            for raw in (old, new):
                assert raw.read_command("news") == "für alle".encode()
                raw.send_command("got", "für alle".encode())
            assert sorted(got.wait(5)) == [
                (name, "für alle") for name in ("ours 0.x", "ours 2.x", "raw 0.x", "raw 2.x", "theirs")
            ]
            assert outsider.read_until(lambda body: not body.startswith(b"$CLT")).split() == [b"last"]
        for gone in ("raw 0.x", "raw 2.x", "outsider"):
            theirs.wait_for_line(f"went {gone}")
        serving.disconnect_client("theirs")
        theirs.wait_for_line("out")
        assert theirs.wait_end() == 0, theirs


THEIR_LOOKUP = """
import threading, hisock
from hisock.utils import ClientNotFound

client = hisock.connect(("127.0.0.1", {port}), name="theirs")

def look_up(who):
    try:
        info = client.get_client(who)
        print("found", info.name, info.group, info.ip[1], flush=True)
    except ClientNotFound:
        print("unknown", flush=True)

# An answer that comes before recv() waits for it is lost there, so nothing is read until it does.
for who in ["somebody", ("127.0.0.1", {other}), "nobody"]:
    asking = threading.Thread(target=look_up, args=(who,))
    asking.start()
    while not client._recv_on_events:
        pass
    while not all(each["thread_event"].is_set() for each in list(client._recv_on_events.values())):
        client._update()
    asking.join()
client.close()
"""


@pytest.mark.peer
def test_a_client_of_the_release_looks_up_others(python: pathlib.Path) -> None:
    with server() as serving, RawClient(serving.get_addr(), "somebody", "a group") as other:
        wait_names(serving, "somebody")
        port = other.address[1]
        text = THEIR_LOOKUP.format(port=serving.get_addr()[1], other=port)
        with running_program(text, python=python, ours=False) as theirs:
            assert theirs.wait_end() == 0, theirs
        found = f"found somebody a group {port}\n"
        assert theirs.lines == [found, found, "unknown\n"]
