"""What the original stumbles over, against a server in a process of its own, with plain sockets at the other end."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ..support.programs import Program, running_program
from ..support.running import HOST
from ..support.waiting import PATIENCE, wait_until
from .running import HEADER, RawClient, framed

HELLO_TIMEOUT = 1.5
MAX_PENDING = 4 << 20

PROGRAM = f"""
import logging
from simplesockets import hisock

logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
server = hisock.HiSockServer(("{HOST}", 0), hello_timeout={HELLO_TIMEOUT}, max_pending={MAX_PENDING})

# There is no handler for join, and none for any other reserved event but the wildcard.

@server.on("echo")
def on_echo(client, message: bytes):
    server.send_client(client, "echo", message)

@server.on("number")
def on_number(client, message: int):
    server.send_client(client, "number", message + 1)

@server.on("structure")
def on_structure(client, message: list):
    server.send_client(client, "structure", message)

@server.on("fail")
def on_fail(client, message: str):
    raise RuntimeError("told to fail: " + message)

@server.on("news")
def on_news(client, message: int):
    server.send_all_clients("news", b"n" * message)
    server.send_client(client, "told")

@server.on("count")
def on_count(client):
    server.send_client(client, "count", len(server))

@server.on("*")
def on_anything(client, command: str, data: bytes):
    server.send_client(client, "unknown", command.encode() + b" " + data)

print("listening", server.get_addr()[1], flush=True)
server.start()
"""


class Serving(NamedTuple):
    """The server's process."""

    program: Program
    address: tuple[str, int]

    def connect(self, name: str | None = None, *, dialect: str = "2.x", hello: bool = True) -> RawClient:
        return RawClient(self.address, name, dialect=dialect, hello=hello)

    def wait_error(self, *parts: str) -> None:
        """Wait for a logged line with all of these."""
        wait_until(
            lambda: any(all(part in line for part in parts) for line in list(self.program.errors)),
            f"a logged line with {parts} from {self.program}",
        )


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with running_program(PROGRAM) as program:
        yield Serving(program, (HOST, int(program.wait_for_line("listening").split()[1])))


def echoes(raw: RawClient, content: bytes = b"are you there") -> None:
    raw.send_command("echo", content)
    assert raw.read_command("echo") == content


@contextlib.contextmanager
def nobody_else_suffers(serving: Serving) -> Iterator[None]:
    """A client that is there already is served during and after the block, and one that comes afterwards, too."""
    with serving.connect("witness") as witness:
        echoes(witness)
        yield
        echoes(witness)
        with serving.connect("another") as another:
            echoes(another)
    assert serving.program.running


def ends(serving: Serving, raw: RawClient) -> None:
    """The server ends this connection and says why."""
    began = time.monotonic()
    assert raw.at_end(), "the server kept it"
    assert time.monotonic() - began < HELLO_TIMEOUT, "it was ended, but by the timeout"
    serving.wait_error("simplesockets", str(raw.address[1]))


# ------------------------------------------------------------------------------------------------ sizes and splits


def test_a_mebibyte_comes_back_whole(serving: Serving) -> None:
    content = random.Random(1).randbytes(1 << 20)
    with serving.connect() as raw:
        echoes(raw, content)


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_everything_may_come_byte_by_byte(serving: Serving, dialect: str) -> None:
    with serving.connect(dialect=dialect, hello=False) as raw:
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = b'$CLTHELLO$%s{"name": "slow", "group": null}' % (b" " if dialect == "0.x" else b"")
        for byte in framed(hello) + framed(raw.command("echo", b"one") if dialect == "0.x" else b"$CMD$echo$MSG$one"):
            raw.socket.sendall(bytes([byte]))
        wanted = b"echo one" if dialect == "0.x" else b"$CMD$echo$MSG$one"
        raw.read_until(lambda body: body == wanted)


def test_messages_may_share_a_segment(serving: Serving) -> None:
    with serving.connect(hello=False) as raw:
        hello = b'$CLTHELLO${"name": "quick", "group": null}'
        first, second, third = (raw.command("echo", content) for content in (b"one", b"", b"three"))
        raw.socket.sendall(framed(hello) + framed(first) + framed(second) + framed(third)[:-2])
        assert raw.read_command("echo") == b"one"
        assert raw.read_body() in (b"$CMD$echo", b"$CMD$echo$MSG$")
        raw.socket.sendall(third[-2:])
        assert raw.read_command("echo") == b"three"


def test_what_a_client_sent_before_it_left_is_handled(serving: Serving) -> None:
    with serving.connect("stays") as stays:
        stays.read_body()
        with serving.connect("leaves") as leaves:
            leaves.send_command("news", b"5")
        assert stays.read_command("news") == b"nnnnn"


# ---------------------------------------------------------------------------------------------- who says nothing


def test_connections_that_say_nothing_delay_nobody_and_are_dropped_at_the_hello_timeout(serving: Serving) -> None:
    began = time.monotonic()
    with nobody_else_suffers(serving), contextlib.ExitStack() as idlers:
        silent = [idlers.enter_context(serving.connect(hello=False)) for _ in range(20)]
        half = idlers.enter_context(serving.connect(hello=False))
        half.socket.sendall(framed(b'$CLTHELLO${"name": "half", "group": null}')[:-9])
        with serving.connect("in between") as raw:
            echoes(raw)
            raw.send_command("count")
            assert int(raw.read_command("count")) >= 2
            assert time.monotonic() - began < HELLO_TIMEOUT / 2, "they delayed somebody"
            half.socket.sendall(b"p")  # a little more does not prolong its time
            assert all(each.at_end() for each in [*silent, half])
            assert HELLO_TIMEOUT * 0.9 < time.monotonic() - began < HELLO_TIMEOUT * 2.5
            echoes(raw)
        for each in (silent[0], silent[-1], half):
            serving.wait_error("simplesockets", str(each.address[1]))


# ----------------------------------------------------------------------------------------------------- garbage

BAD_HEADERS = [
    *(b"not a number", b"-5", b"9" * HEADER, b"0x10", b"", b"1.5", b"1_0", b"12 34", b"+5", "٣".encode(), b"\x005"),
    str(10**9).encode(),
]


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_a_bad_header_ends_that_client_alone(serving: Serving, header: bytes) -> None:
    with nobody_else_suffers(serving), serving.connect() as greeted, serving.connect(hello=False) as stranger:
        for raw in (greeted, stranger):
            raw.socket.sendall(header.ljust(HEADER) + b"and a body")
            ends(serving, raw)


@pytest.mark.parametrize(
    "hello",
    [
        *(b"", b"{", b"[]", b'"ann"', b"5", b"null", b"{'name': 'ann', 'group': 'red'}", b"\xff\xfe", b"[" * 100_000),
        b'{"name": 5, "group": null}',
        b'{"name": "ann", "group": ["red"]}',
        b'{"name": {"a": 1}, "group": null}',
        b'{"name": null, "group": true}',
        b'{"name": "ann\xff", "group": null}',
        b'{"name": ' + b"9" * 10_000 + b', "group": null}',
    ],
    ids=lambda hello: hello[:30].decode(errors="replace"),
)
def test_a_bad_hello_ends_that_client_alone(serving: Serving, hello: bytes) -> None:
    with nobody_else_suffers(serving):
        for space in (b"", b" "):
            with serving.connect(hello=False) as raw:
                raw.send_body(b"$CLTHELLO$" + space + hello)
                ends(serving, raw)


@pytest.mark.parametrize("body", [b"", b"$CMD$echo$MSG$too early", b"$USRCLOSE", b"hello", b"\x00" * 100])
def test_something_else_in_place_of_the_hello_ends_that_client_alone(serving: Serving, body: bytes) -> None:
    with nobody_else_suffers(serving), serving.connect(hello=False) as raw:
        raw.send_body(body)
        ends(serving, raw)


@pytest.mark.parametrize(
    "body", [b"$CMD$\xff\xfe$MSG$content", b"$CHNAME$\xff", b"$CHGROUP$\xc3", b"$GETCLT$\xff"], ids=repr
)
def test_what_has_to_be_text_and_is_not_ends_that_client_alone(serving: Serving, body: bytes) -> None:
    with nobody_else_suffers(serving), serving.connect() as raw:
        raw.send_body(body)
        ends(serving, raw)


@pytest.mark.parametrize("greeted", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_end_that_client_alone(serving: Serving, seed: int, greeted: bool) -> None:
    with nobody_else_suffers(serving), serving.connect(hello=greeted) as raw:
        raw.socket.sendall(b"\xfe" + random.Random(seed).randbytes(4095))
        ends(serving, raw)


@pytest.mark.parametrize(
    "part",
    [b"", b"1", framed(b"$CLTHELLO$"), framed(b'$CLTHELLO${"name": null, "group": null}')[:-3]],
    ids=["nothing", "header", "body", "hello"],
)
@pytest.mark.parametrize("greeted", [True, False])
def test_a_reset_in_the_middle_ends_that_client_alone(serving: Serving, part: bytes, greeted: bool) -> None:
    with nobody_else_suffers(serving):
        with serving.connect("observer") as observer:
            observer.read_until(lambda body: b"observer" in body)
            raw = serving.connect("the one that resets", hello=greeted)
            if greeted:
                echoes(raw)
                raw.socket.sendall(part and framed(raw.command("echo", b"half of it"))[: -len(part)])
            else:
                raw.socket.sendall(part)
            raw.reset()
            if greeted:
                observer.read_until(lambda body: body.startswith(b"$CLTDISCONN$") and b"resets" in body)


# ------------------------------------------------------------------------------------------------- who never reads


def test_a_peer_that_never_reads_stalls_no_broadcast_and_is_dropped(serving: Serving) -> None:
    with serving.connect("reader") as reader:
        reader.read_until(lambda body: b"reader" in body)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(PATIENCE)
            deaf.connect(serving.address)
            deaf.sendall(framed(b'$CLTHELLO${"name": "deaf", "group": null}'))
            reader.read_until(lambda body: b"deaf" in body)
            began = time.monotonic()
            size, rounds = 1 << 20, 16
            assert size * rounds > 2 * MAX_PENDING + (4 << 20), "more than what systems hold, and the limit"
            gone = False
            for _ in range(rounds):
                reader.send_command("news", str(size).encode())
                while not (body := reader.read_body()).startswith(b"$CMD$told"):
                    gone = gone or (body.startswith(b"$CLTDISCONN$") and b"deaf" in body)
                    assert body.startswith((b"$CLTDISCONN$", b"$CMD$news$MSG$nnn"))
            assert time.monotonic() - began < PATIENCE / 2
            if not gone:
                reader.read_until(lambda body: body.startswith(b"$CLTDISCONN$") and b"deaf" in body)
            serving.wait_error("simplesockets", str(deaf.getsockname()[1]))
        echoes(reader)
    with nobody_else_suffers(serving):
        pass


# ------------------------------------------------------------------------------------------------------- user code


@pytest.mark.parametrize("content", [b"abc", b"\xff", b"[]", b"__import__('os')", b"1" * 5000, b"(" * 5000])
def test_a_cast_that_fails_is_the_error_of_that_message_alone(serving: Serving, content: bytes) -> None:
    with nobody_else_suffers(serving), serving.connect() as raw:
        raw.send_command("number", content)
        raw.send_command("number", b"41")
        assert raw.read_command("number") == b"42"
        serving.wait_error("InvalidTypeCast")


@pytest.mark.parametrize(
    "text",
    ["1+" * 10**6 + "1", "[" * 10**6, "[-" * 10**5, "[" + "-" * 10**6 + "1]", "[" + "1if 1else " * 10**5 + "1]"],
    ids=lambda text: text[:6],
)
def test_a_literal_that_parsers_choke_on_is_refused(serving: Serving, text: str) -> None:
    # Such text makes some parsers crash, and others print a warning for each of its parts.
    with nobody_else_suffers(serving), serving.connect() as raw:
        raw.send_command("structure", text.encode())
        raw.send_command("structure", b"[1, 'zwei']")
        assert raw.read_command("structure") == b'[1, "zwei"]'
    assert not [line for line in serving.program.errors if "Warning" in line]


def test_what_is_logged_of_a_message_is_short(serving: Serving) -> None:
    with serving.connect() as raw:
        for command in ("number", "structure"):
            raw.send_command(command, b"never short" * 10_000)
            echoes(raw)
        serving.wait_error("InvalidTypeCast", "never short", "int")
        serving.wait_error("InvalidTypeCast", "never short", "list")
        assert max(map(len, serving.program.errors)) < 1000


def test_an_exception_in_a_handler_leaves_the_loop_alive(serving: Serving) -> None:
    with nobody_else_suffers(serving), serving.connect() as raw:
        raw.send_command("fail", b"with this text")
        echoes(raw)
    serving.wait_error("told to fail: with this text")


@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
@pytest.mark.parametrize("command", ["$", "C", "M", "D", "CMD", "MD5", "$C", "DCM$", "$D", "MSG", "$CMD", "ünïcode"])
def test_a_command_that_begins_like_the_prefix_arrives_whole(serving: Serving, command: str, dialect: str) -> None:
    with serving.connect(dialect=dialect) as raw:
        raw.send_command(command, b"DMC$ content")
        start = "unknown " if dialect == "0.x" else "$CMD$unknown$MSG$"
        body = raw.read_until(lambda body: body.startswith(start.encode()))
        assert body[len(start) :] == command.encode() + b" DMC$ content"


def test_the_server_logged_nothing_but_what_it_should(serving: Serving) -> None:
    """Last in this file: no traceback but of the handlers' errors."""
    with serving.connect() as raw:
        echoes(raw)
    told = "".join(serving.program.errors)
    raised = set(re.findall(r"^([A-Za-z_.]+(?:Error|Exception|Cast)): ", told, re.M))
    assert not {each.rpartition(".")[2] for each in raised} - {"RuntimeError", "InvalidTypeCast", *CAUSES}


CAUSES = {
    "ValueError",
    "JSONDecodeError",
    "OverflowError",
    "SyntaxError",
    "UnicodeDecodeError",
    "MemoryError",
    "RecursionError",
    "TypeError",
}
"""What a failed cast may name as its cause."""
