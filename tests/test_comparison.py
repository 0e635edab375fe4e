"""docs/comparison.md: each of its facts about other packages is one."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import pathlib
import re
import socketserver

import pytest

from .support.peers import PeerUnavailable, peer_python

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "comparison.md"
ROW = re.compile(r"^\| `(?P<package>[^`]+)` \| `?(?P<where>[^`|]+?)`? \| `(?P<what>[^`]+)` \|", re.MULTILINE)
ROWS = list(ROW.finditer(PAGE.read_text()))
OF_PYTHON = [row for row in ROWS if row["package"] == "python"]
OF_PACKAGES = [row for row in ROWS if row["package"] != "python"]


def what(fact: re.Match[str]) -> str:
    return fact["what"]


def test_there_are_facts() -> None:
    assert len(ROWS) == PAGE.read_text().split("## Facts")[1].count("\n| `")
    assert len(ROWS) > 20


@pytest.mark.parametrize("fact", OF_PYTHON, ids=what)
def test_facts_of_the_standard_library(fact: re.Match[str]) -> None:
    modules = {"asyncio": asyncio, "inspect": inspect, "socketserver": socketserver}
    assert eval(fact["what"], modules) is True


@pytest.mark.peer
@pytest.mark.parametrize("fact", OF_PACKAGES, ids=what)
def test_facts_of_packages(fact: re.Match[str]) -> None:
    home = home_of(fact["package"])
    files = [*(home / fact["package"].removeprefix("python-").partition("=")[0]).rglob("*")]
    if fact["where"] == "nowhere":
        assert not [path for path in files if path.suffix == ".py" and fact["what"] in path.read_text()]
    elif fact["where"] == "no file":
        assert fact["what"] not in {path.name for path in files}
    else:
        assert fact["what"] in (home / fact["where"]).read_text()


def home_of(package: str) -> pathlib.Path:
    """The directory in which a package is installed."""
    if package == "python-socketio":
        found = importlib.util.find_spec("socketio")
        if found is None or found.origin is None:
            pytest.skip('of the extra for benchmarks: pip install -e ".[benchmark]"')
        return pathlib.Path(found.origin).parents[1]
    others = {"simplesockets==0.4.0": ["pycryptodome"]}  # as elsewhere in the tests: one environment for all
    try:
        python = peer_python(package, *others.get(package, []))
    except PeerUnavailable as reason:
        pytest.skip(str(reason))
    (home,) = python.parents[1].glob("[Ll]ib/**/site-packages")
    return home
