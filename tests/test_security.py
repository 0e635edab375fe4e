"""SECURITY.md: what its table of limits says is so, and each line has its test."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pathlib
import re

import pytest

import simplesockets

TESTS = pathlib.Path(__file__).resolve().parent
LINE = re.compile(
    r"\| `(?P<name>\w+)` \| `(?P<of>[\w.]+)` \| `(?P<default>[^`]+)`[^|]* \| [^|]+ \| `(?P<test>[\w/.]+::\w+)` \|"
)
ROWS = [line for line in (TESTS.parent / "SECURITY.md").read_text().splitlines() if "::test_" in line]
LIMITS = [pytest.param(row, id=" of ".join(row.split("`")[1:4:2])) for row in ROWS]


def parts(row: str) -> re.Match[str]:
    found = LINE.fullmatch(row)
    assert found is not None, row
    return found


def find(path: str) -> object:
    """What a dotted name in the package means."""
    found: object = simplesockets
    for name in path.split("."):
        if not hasattr(found, name):
            assert inspect.ismodule(found)
            importlib.import_module(f"{found.__name__}.{name}")
        found = getattr(found, name)
    return found


def default_of(name: str, of: object) -> object:
    """A constant of a module, or the default of a parameter."""
    if inspect.ismodule(of):
        return getattr(of, name)
    assert callable(of)
    return inspect.signature(of).parameters[name].default


def value_of(text: str) -> object:
    """Numbers, perhaps multiplied, or None."""
    factors = [ast.literal_eval(factor) for factor in text.split(" * ")]
    return functools.reduce(lambda one, other: one * other, factors)


@functools.cache
def functions_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_there_are_limits() -> None:
    assert len(LIMITS) > 30


@pytest.mark.parametrize("row", LIMITS)
def test_defaults_are_as_the_document_says(row: str) -> None:
    limit = parts(row)
    assert default_of(limit["name"], find(limit["of"])) == value_of(limit["default"])


@pytest.mark.parametrize("row", LIMITS)
def test_each_limit_has_its_test(row: str) -> None:
    file, test = parts(row)["test"].split("::")
    assert test in functions_in(file)


def limits_in(of: object) -> set[str]:
    assert callable(of)
    names = set(inspect.signature(of).parameters)
    return {name for name in names if name.endswith("_timeout") or name.startswith("max_") or name == "limit"}


@pytest.mark.parametrize(
    "of", ["TCPServer", "TCPServer.setup", "hisock.HiSockServer", "hpx.Server", "LengthPrefixFramer", "DelimiterFramer"]
)
def test_no_limit_is_left_out(of: str) -> None:
    told = {limit["name"] for limit in map(parts, ROWS) if limit["of"] == of}
    assert limits_in(find(of)) <= told
