"""The migration guides: each row of each table is backed by a test, or is a fact of the checker's."""

from __future__ import annotations

import ast
import functools
import pathlib
import re

import pytest

from simplesockets import TCPServer
from simplesockets.check import FACTS, check_source
from simplesockets.events import EXCEPTIONS_KEPT

from ..hisock import running
from ..support.running import raw_client, read_exactly, running_client, running_server
from ..support.waiting import wait_until

TESTS = pathlib.Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
GUIDES = {
    "simplesockets": DOCS / "migration" / "simplesockets.md",
    "hisock": DOCS / "migration" / "hisock.md",
    "happypandax_client": DOCS / "migration" / "happypandax.md",
}
HEAD = "| in a program | there | here | what to do |"

Table = list[str]


def tables(path: pathlib.Path) -> list[Table]:
    """The tables of a document, each as its lines."""
    return [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)]


def rows(original: str) -> list[str]:
    """The rows that name the test behind them."""
    return [row for table in tables(GUIDES[original]) if table[0] != HEAD for row in table[2:]]


@functools.cache
def names_in(name: str) -> frozenset[str]:
    tree = ast.parse((TESTS / name).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("original", GUIDES)
def test_each_row_names_a_test_that_exists(original: str) -> None:
    assert len(rows(original)) > 10
    for row in rows(original):
        named = re.search(r"<!-- (\S+\.py)::(test_\w+) --> \|$", row)
        assert named is not None, row
        assert named[2] in names_in(named[1]), row


@pytest.mark.parametrize("original", GUIDES)
def test_the_differences_are_those_that_the_checker_knows(original: str) -> None:
    (differences,) = (table for table in tables(GUIDES[original]) if table[0] == HEAD)
    assert differences[2:] == [fact.row() for fact in FACTS.values() if fact.original == original]


def test_the_index_leads_to_every_guide() -> None:
    index = (DOCS / "migration.md").read_text(encoding="utf-8")
    for guide in (DOCS / "migration").glob("*.md"):
        assert f"(migration/{guide.name})" in index
    assert set((DOCS / "migration").glob("*.md")) == set(GUIDES.values())


def test_the_index_shows_what_the_checker_prints() -> None:
    (shown,) = re.findall(r"```text\n(.*)\n```", (DOCS / "migration.md").read_text(encoding="utf-8"))
    program = "from simplesockets import TCPServer\nserver = TCPServer()\nprint([len(e) for e in server.recved_data])\n"
    (finding,) = (each for each in check_source(program) if each.level != "ok")
    assert shown == f"server.py:9:13: differs: {finding.text}"


# ------------------------------------------------------------------------------- rows that no other test is about


def test_with_gives_the_server() -> None:
    server = TCPServer()
    server.setup("127.0.0.1", 0)
    with server as entered:
        assert entered is server


def test_exceptions_of_one_second_are_all_kept() -> None:
    with running_server() as server:
        collection = server.event.exception.exceptions
        for number in range(EXCEPTIONS_KEPT + 5):
            collection.add(ValueError(number))
        assert [str(record.exception) for record in server.return_exceptions()][:2] == ["5", "6"]


def test_text_is_sent_as_utf_8() -> None:
    with running_server() as server, raw_client(server) as sock, running_client(server) as client:
        wait_until(lambda: len(server.clients) == 2)
        assert server.send_data("grün", sock.getsockname())
        assert read_exactly(sock, 5) == "grün".encode()
        assert client.send_data("größer")
        wait_until(lambda: server.event.new_data)
        assert server.return_recved_data()[0].response == "größer".encode()


def test_no_handler_is_required() -> None:
    with running.server() as server, running.client(server, "ann", loop=False):
        running.wait_names(server, "ann")
    assert server.funcs == {}
