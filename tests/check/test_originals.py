"""No false alarm over the originals' own programs: what they are told is known, line by line, and true."""

from __future__ import annotations

import functools
import pathlib
import re

import pytest

from simplesockets.check import check_source

from ..support.peers import PeerUnavailable, peer_python
from ..support.programs import running_program

DATA = pathlib.Path(__file__).parents[1] / "data"
HISOCK_DATA = pathlib.Path(__file__).parents[1] / "hisock"


@functools.cache
def installed(*requirements: str) -> pathlib.Path:
    """The directory in which a release is installed."""
    try:
        python = peer_python(*requirements)
    except PeerUnavailable as reason:
        pytest.skip(str(reason))
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    with running_program(show, python=python, ours=False) as program:
        assert program.wait_end() == 0, program
        return pathlib.Path(program.lines[-1].strip())


def wrong(path: pathlib.Path) -> list[tuple[int, str]]:
    return [(each.line, each.fact.partition(":")[2]) for each in check_source(path.read_bytes()) if each.level != "ok"]


@pytest.mark.parametrize("name", ["manual_server.py", "manual_client.py"])
def test_the_manuals_programs_need_nothing(name: str) -> None:
    assert wrong(DATA / name) == []
    assert any(finding.level == "ok" for finding in check_source((DATA / name).read_bytes()))


SIMPLESOCKETS = {
    "simplesockets/example/echo_client.py": [],
    "simplesockets/example/echo_server.py": [],
    "tests/test_simple_sockets.py": [(14, "default-ip"), (38, "default-ip")],
    "tests/test_secure_sockets.py": [
        (13, "default-ip"),
        (13, "secure-server"),
        (14, "secure-client"),
        (37, "default-ip"),
    ],
    "tests/test_PyCryptodome_Socket.py": [
        *[(1, "module")] * 2,
        *[(15, "default-ip"), (15, "secure-server"), (16, "secure-client")],
        *[(50, "default-ip"), (50, "secure-server"), (51, "secure-client")],
    ],
}
"""The programs of release 0.4.0, and what is to be said about them."""


@pytest.mark.peer
@pytest.mark.parametrize("name", SIMPLESOCKETS)
def test_the_programs_of_simplesockets_are_told_what_is_so(name: str) -> None:
    assert sorted(wrong(installed("simplesockets==0.4.0", "pycryptodome") / name)) == SIMPLESOCKETS[name]


HISOCK = {
    "basic/example_client.py": [],
    "basic/example_server.py": [],
    "connectfour/connectfour_client.py": [],
    "connectfour/connectfour_server.py": [],
    "tictactoe/shared.py": [],
    "tictactoe/tictactoe_pygame_client.py": [],
    "tictactoe/tictactoe_server.py": [(327, "error-handler")],  # after a handler's exception it shuts down
}
"""The programs of release 2.0.2, and what is to be said about them, beside their import."""


@pytest.mark.peer
@pytest.mark.parametrize("name", HISOCK)
def test_the_programs_of_hisock_need_another_import_and_hardly_more(name: str) -> None:
    path = installed("hisock==2.0.2") / "examples" / name
    imports = re.findall(r"^(?:import|from) hisock\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    told = wrong(path)
    assert [fact for _, fact in told].count("import") == len(imports) > 0
    assert [each for each in told if each[1] != "import"] == HISOCK[name]


def test_a_program_that_runs_on_both_packages_is_told_hardly_anything() -> None:
    # It imports "hisock" by its name after install_as_hisock(), and sends to groups; who is in them cannot be seen.
    told = check_source((HISOCK_DATA / "scenario_server.py").read_bytes())
    assert {finding.fact for finding in told if finding.level != "ok"} == {"hisock:empty-group"}
    assert sum(finding.level == "ok" for finding in told) > 10


FRONTEND = """
import happypandax_client as hpxclient

client = hpxclient.Client(name="test", session_id="")
client.connect(host="localhost", port=7007)
try:
    client.handshake(user=None, password=None)
except hpxclient.exceptions.AuthError:
    client.request_handshake("user", "password")
if client.alive() and client.ready() and client.accepted:
    print(client.send([{"fname": "get_version"}])["data"], client.version, client.session)
client.close()
"""


def test_a_frontend_needs_another_import() -> None:
    assert [(each.line, each.fact) for each in check_source(FRONTEND) if each.level != "ok"] == [
        (2, "happypandax_client:import")
    ]
    assert sum(finding.level == "ok" for finding in check_source(FRONTEND)) == 10
