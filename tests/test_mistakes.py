"""What a beginner sees: docs/mistakes.md is the table, and every line of it is run.

Each section has a program, the line that it prints, and (after what that means) the program to write instead. Here the
first one has to print the line, and the other one has to end without any complaint.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from .support.programs import OURS, free_port, has_ipv6

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the programs are run in copies of one process")

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "mistakes.md"
PORT = "9999"

GIVEN = {
    "": "",
    "echo": """
server = TCPServer()
server.setup(ip="127.0.0.1", port=9999, on_receive=lambda client, address, data: client.send(data))
server.start()
""",
    "client": """
server = TCPServer()
server.setup(ip="127.0.0.1", port=9999, on_receive=lambda client, address, data: client.send(data))
server.start()
client = TCPClient()
client.setup("127.0.0.1", 9999)
assert client.connect() and client.send_data("hello") and client.recv_data(timeout=20)
""",
    "client left": """
gone = threading.Event()
server = TCPServer()
server.setup(ip="127.0.0.1", port=9999, on_disconnect=lambda address: gone.set())
server.start()
with socket.create_connection(("127.0.0.1", 9999)) as sock:
    address = sock.getsockname()
assert gone.wait(20)
""",
    "nobody special": "if os.geteuid() == 0: os.setuid(65534)\n",
    "deaf server": """
server = TCPServer()
server.setup(ip="127.0.0.1", port=9999)
""",
    "messages": """
def messages():
    return FramedProtocol(LengthPrefixFramer(header_size=16))
server = TCPServer()
server.setup(
    ip="127.0.0.1", port=9999, protocol=messages, on_receive=lambda client, address, data: client.send(data)
)
server.start()
""",
    "secure server": """
certificate = self_signed(".")
server = SecureServer()
server.setup(
    ip="127.0.0.1", port=9999, certfile=certificate.certfile, keyfile=certificate.keyfile,
    on_receive=lambda client, address, data: client.send(data),
)
server.start()
""",
    "echo and a certificate": """
certificate = self_signed(".")
server = TCPServer()
server.setup(ip="127.0.0.1", port=9999, on_receive=lambda client, address, data: client.send(data))
server.start()
""",
    "hisock server": 'server = hisock.start_server(("127.0.0.1", 9999))\n',
    "chat": """
server = hisock.start_threaded_server(("127.0.0.1", 9999))
server.start()
came = threading.Event()
server.on("join")(lambda client: came.set())
client = hisock.connect(("127.0.0.1", 9999), name="Ann")
assert came.wait(20)
""",
    "hpx server": """
server = hpx.Server(port=9999)
@server.function
def add(a, b):
    return a + b
server.start()
""",
    "hpx client": """
server = hpx.Server(port=9999)
@server.function
def add(a, b):
    return a + b
server.start()
client = hpx.Client("mine", port=9999)
client.connect()
client.handshake()
""",
}
"""What is there before a program begins, by the name that a comment on the page gives."""

# One process that has imported everything, and copies itself for each program: that takes milliseconds instead of
# seconds. It ends a program that printed what was looked for, since some of them go on for ever.
DRIVER = """
import contextlib, json, os, re, signal, socket, sys, threading, time
from simplesockets import *
from simplesockets import FramedProtocol, LengthPrefixFramer, Reconnect, SecureClient, SecureServer, self_signed
from simplesockets import hisock, hpx
import cryptography.x509, encodings.idna, ssl

def run(text, right):
    names = {**globals(), "__name__": "__main__"}
    before = set(names)
    exec(compile(text, "program", "exec"), names)
    if right:
        for each in [names[name] for name in reversed(names) if name not in before]:
            if hasattr(each, "close") and not isinstance(each, type):
                each.close()

def begin(text, right, output):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)
    os.dup2(output, 1), os.dup2(output, 2), os.close(output)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    run(text, right)
    sys.exit()

def printed(pid, source, wanted):
    lines = []
    with open(source, errors="replace") as output:
        for line in output:
            lines.append(line)
            if wanted is not None and re.search(wanted, line):
                os.kill(pid, signal.SIGKILL)
    return lines

for request in sys.stdin:
    text, wanted = json.loads(request)
    source, output = os.pipe()
    pid = begin(text, wanted is None, output)
    os.close(output)
    lines = printed(pid, source, wanted)
    print(json.dumps([lines, os.waitpid(pid, 0)[1]]), flush=True)
"""


class Driver:
    """The process that runs the programs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, program: str, wanted: str | None = None) -> tuple[list[str], int]:
        """The lines that it prints, and how it ends; it ends as soon as it printed what is wanted, a regular
        expression."""
        port = str(free_port())
        request = [program.replace(PORT, port), None if wanted is None else wanted.replace(PORT, port)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        lines, status = json.loads(self._process.stdout.readline())
        return [line.replace(port, PORT).rstrip("\n") for line in lines], status


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    environment = {**os.environ, "PYTHONPATH": str(OURS), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path_factory.mktemp("programs"),
    ) as process:
        yield Driver(process)


# ---------------------------------------------------------------------------------------------------- the page


PART = re.compile(
    r"<!-- given: (?P<given>.*?) -->"
    r"|```python title=\"What [^\n]*\n(?P<code>.*?)```(?:\n\n```text title=\"What you see\"\n(?P<line>.*?)\n```)?",
    re.DOTALL,
)


class Program(NamedTuple):
    """A program of the page; ``line`` is what it prints if it is one with a mistake."""

    title: str
    given: str
    text: str
    line: str | None


def programs() -> list[Program]:
    """All programs of the page, in its order."""
    found = []
    for section in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        title = section.partition("\n")[0]
        given = ""
        for part in PART.finditer(section):
            if part["given"]:
                given = part["given"]
            else:
                found.append(Program(title, given, part["code"], part["line"]))
    return found


PROGRAMS = programs()
MISTAKES = [pytest.param(each, id=each.title) for each in PROGRAMS if each.line]
REMEDIES = [
    pytest.param(each, id=each.title) for each in PROGRAMS if not each.line and "Event().wait()" not in each.text
]


def pattern(line: str) -> str:
    """The line as a regular expression: `…` stands for anything, and the modules of exceptions are left out."""
    return r"(^|\.)" + ".*?".join(map(re.escape, line.split("…"))) + "$"


def require(each: Program) -> None:
    if "::1" in each.text and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    unprivileged = pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if "port=80" in each.text and unprivileged.exists() and int(unprivileged.read_text()) <= 80:
        pytest.skip("here everybody may use every port")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_the_line_that_the_page_shows(driver: Driver, mistake: Program) -> None:
    require(mistake)
    assert mistake.line is not None
    lines, _ = driver.run(GIVEN[mistake.given] + mistake.text, pattern(mistake.line))
    assert any(re.search(pattern(mistake.line), line) for line in lines), "\n".join(lines)


@pytest.mark.parametrize("remedy", REMEDIES)
def test_what_the_page_says_to_write_instead_works(driver: Driver, remedy: Program) -> None:
    require(remedy)
    lines, status = driver.run(GIVEN[remedy.given] + remedy.text)
    complaints = [line for line in lines if re.search("Error|Exception|Warning|could not|never|close\\(\\)", line)]
    assert (complaints, status) == ([], 0), "\n".join(lines)


def test_every_mistake_has_a_remedy() -> None:
    titles = [each.title for each in PROGRAMS if each.line]
    assert len(set(titles)) >= 20
    assert set(titles) == {each.title for each in PROGRAMS if not each.line}
