"""What happypandax-client 1.0.0 offers exists here, and the two programs work with each other.

The released package is inspected, and run, in its own virtual environment.
"""

from __future__ import annotations

import builtins
import inspect
import json
import pathlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import simplesockets.hpx
from simplesockets import hpx
from simplesockets.hpx import Server
from simplesockets.hpx.codec import pack

from ..support.peers import PeerUnavailable, peer_python
from ..support.programs import running_program
from ..support.waiting import wait_until
from .support import USERS, offer_functions, peer, running

pytestmark = pytest.mark.peer

FOREIGN = {"socket", "sys", "errno", "gzip", "logging", "json"}
"""What the release's modules merely import from the standard library."""

INSPECTION = """
import builtins, importlib, inspect, json, types

def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))

def parameters(function):
    return [
        [p.name, p.kind.name, p.default is not p.empty, p.default if p.default is not p.empty else None]
        for p in inspect.signature(function).parameters.values() if not p.name.startswith("_")
    ]

package = importlib.import_module("happypandax_client")
client, exceptions = package.client, package.exceptions
made = client.Client("name")
kinds = {name: each for name, each in vars(exceptions).items() if isinstance(each, type)}
print(json.dumps({
    "exported": sorted(package.__all__),
    "modules": {module.__name__.partition(".")[2]: public(module) for module in (package, client, exceptions)},
    "functions": {"finalize": parameters(client.finalize)},
    "methods": {"Client": parameters(client.Client), **{
        name: parameters(member) for name, member in vars(client.Client).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }},
    "properties": {name: member.fset is not None for name, member in vars(client.Client).items()
                   if isinstance(member, property)},
    "values": {name: getattr(made, name) for name in public(made) if not callable(getattr(made, name))},
    "exceptions": {name: [each.code, parameters(each), [base.__name__ for base in each.__mro__[1:]]]
                   for name, each in kinds.items()},
}))
"""


class Parameter(NamedTuple):
    """A parameter as the inspection prints it."""

    name: str
    kind: str
    has_default: bool
    default: object


@pytest.fixture(scope="module")
def python() -> pathlib.Path:
    """The interpreter of the environment that has the release."""
    try:
        return peer_python("happypandax-client==1.0.0")
    except PeerUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def release(python: pathlib.Path) -> dict[str, Any]:
    """What the inspection printed."""
    with running_program(INSPECTION, python=python, ours=False) as program:
        assert program.wait_end() == 0, program
        found: dict[str, Any] = json.loads(program.lines[-1])
    return found


def modules() -> dict[str, object]:
    return {"": simplesockets.hpx, "client": hpx.client, "exceptions": hpx.exceptions}


def test_every_public_name_of_the_release_exists_here(release: dict[str, Any]) -> None:
    assert {"Client", "finalize", "ClientError", "client", "exceptions"} <= set(release["exported"])
    assert set(release["exported"]) <= set(hpx.__all__)
    assert set(release["modules"]) == set(modules())
    missing = [
        f"{module}.{name}"
        for module, names in release["modules"].items()
        for name in names
        if name not in FOREIGN and not hasattr(modules()[module], name)
    ]
    assert not missing
    assert hpx.client.POSTFIX == b"<EOF>"


def check_parameters(function: Callable[..., object], theirs: list[list[Any]]) -> None:
    ours = list(inspect.signature(function).parameters.values())
    for place, wanted in enumerate(Parameter(*each) for each in theirs):
        assert ours[place].name == wanted.name, f"{function} at place {place}"
        assert ours[place].kind.name == wanted.kind
        if wanted.has_default:
            assert ours[place].default == wanted.default, f"{function}, {wanted.name}"
        else:
            assert ours[place].default is inspect.Parameter.empty
    for more in ours[len(theirs) :]:
        assert more.default is not more.empty, f"{function}: {more.name} must be given"
        assert more.kind is more.KEYWORD_ONLY


def test_methods_and_functions_take_the_releases_parameters(release: dict[str, Any]) -> None:
    check_parameters(hpx.finalize, release["functions"]["finalize"])
    assert len(release["methods"]) >= 10
    for name, theirs in release["methods"].items():
        function: Callable[..., object] = hpx.Client if name == "Client" else getattr(hpx.Client, name)
        ours = theirs if name == "Client" else theirs[1:]
        bound = function if name == "Client" else getattr(hpx.Client("name"), name)
        check_parameters(bound, ours)


def test_properties_and_first_values(release: dict[str, Any]) -> None:
    client = hpx.Client("name")
    for name, settable in release["properties"].items():
        ours = inspect.getattr_static(hpx.Client, name)
        assert isinstance(ours, property)
        assert (ours.fset is not None) >= settable
    assert {name: getattr(client, name) for name in release["values"]} == release["values"]
    assert set(release["values"]) >= {"name", "session", "host", "port", "version", "accepted", "guest_allowed"}


def test_exceptions_have_the_releases_codes_bases_and_parameters(release: dict[str, Any]) -> None:
    assert len(release["exceptions"]) == 8
    for name, (code, parameters, bases) in release["exceptions"].items():
        ours = getattr(hpx, name)
        assert ours is getattr(hpx.exceptions, name)
        assert ours.code == code
        check_parameters(ours, parameters)
        names = [base.__name__ for base in ours.__mro__[1:]]
        assert set(bases) <= set(names), name
        if "ConnectionError" in bases or name == "ConnectionError":
            assert issubclass(ours, builtins.ConnectionError)


# ----------------------------------------------------------------------------------------------- interoperability

CONVERSATION = """
import json, sys
import MODULE as hpxclient

host, port = HOST, PORT
said = []

def say(*things):
    said.append(json.loads(json.dumps(things)))

def without_session(answer):
    return {key: value for key, value in answer.items() if key != "session"}

guest = hpxclient.Client("frontend", host=host, port=port)
say(guest.alive(), guest.ready(), guest.accepted, guest.version, guest.guest_allowed)
say(guest.connect(), guest.alive(), guest.ready(), guest.accepted, guest.version, guest.guest_allowed)
try:
    guest.send([])
except hpxclient.AuthRequiredError as failure:
    say(type(failure).__name__, failure.code)
say(guest.handshake(), guest.accepted, len(guest.session) > 20)
say(without_session(guest.send([{"fname": "who"}, {"fname": "add", "a": 1, "b": 5}, {"fname": "echo", "value": None}])))
say(without_session(guest.send([
    {"fname": "add", "a": 1}, {"fname": "nothing"}, {"fname": "add"}, {"fname": "add", "a": 1, "x": 1},
    {"fname": "fail", "code": 404}, {"fname": "add", "a": 2},
])))
say(without_session(guest.send([{"fname": "crash"}])))
say(without_session(guest.send("nonsense")))
say(without_session(guest.send([{}])))
say(without_session(guest.send("serverquit")))
big = guest.send([{"fname": "long", "size": 300000}])["data"][0]["data"]
say(len(big), big == "<EOF>" * 60000)
for value in ("a<EOF>b", "\\u00e4\\u20ac", ["<EOF>"] * 100, {"a": {"b": [1.5, True, None]}}):
    say(guest.send([{"fname": "echo", "value": value}])["data"])

user = hpxclient.Client("frontend", host, port)
user.connect()
for credentials in (("admin", "wrong"), ("nobody", "secret"), ("admin", None)):
    try:
        user.handshake(*credentials)
    except hpxclient.AuthWrongCredentialsError as failure:
        say(type(failure).__name__, failure.code, str(failure))
say(user.handshake("admin", "wrong", ignore_err=True), user.accepted)
say(user.handshake(user="admin", password="secret"), user.send([{"fname": "who"}])["data"])
say(user.send([{"fname": "count"}])["data"])
other = hpxclient.Client("other", host=host, port=port, session_id=user.session)
say(other.connect(), other.accepted, other.send([{"fname": "who"}, {"fname": "count"}])["data"])
say(guest.send([{"fname": "count"}])["data"])
session = user.session
say(user.request_handshake(), user.session != session, user.send([{"fname": "who"}])["data"])
raw = guest.send_raw(hpxclient.finalize("me", "requestauth"))
say(raw)
text = guest.send_bytes(json.dumps(hpxclient.finalize("me", [{"fname": "add", "a": 3}], guest.session)).encode())
say(type(text).__name__, without_session(json.loads(text)))
say(without_session(other.send_raw(hpxclient.finalize("me", [], "made up"))))
say(without_session(other.send_raw({"session": "", "name": "x"})))
say(without_session(user.send("serverquit")))
for each in (guest, user, other):
    each.close()
print(json.dumps(said))
"""


def placed(program: str, server: Server) -> str:
    """The program, with the server's address."""
    return program.replace("HOST", repr(server.address[0])).replace("PORT", str(server.address[1]))


def talk(module: str, python: pathlib.Path | None) -> list[Any]:
    with running(version={"core": [1, 2, 3], "db": [0, 0, 0], "torrent": [0, 0, 0]}) as server:
        options: dict[str, Any] = {} if python is None else {"python": python, "ours": False}
        with running_program(placed(CONVERSATION.replace("MODULE", module), server), **options) as program:
            assert program.wait_end() == 0, program
            wait_until(lambda: not server.running)
            found: list[Any] = json.loads(program.lines[-1])
    return found


def test_the_release_talks_to_our_server_and_our_client_gets_the_same_answers(python: pathlib.Path) -> None:
    theirs = talk("happypandax_client", python)
    ours = talk("simplesockets.hpx", None)
    version = {"core": [1, 2, 3], "db": [0, 0, 0], "torrent": [0, 0, 0]}
    assert theirs[0] == [False, False, False, None, False]
    assert theirs[1] == [True, True, True, False, version, True]
    assert theirs[2] == ["AuthRequiredError", 407]
    assert theirs[3] == [True, True, True]
    assert [entry["data"] for entry in theirs[4][0]["data"]] == [[None, "frontend"], 6, None]
    errors = [entry.get("error", {}).get("code") for entry in theirs[5][0]["data"]]
    assert errors == [None, 403, 403, 403, 404, None]
    assert [each[0]["error"]["code"] for each in theirs[6:10]] == [100, 403, 403, 407]
    assert theirs[10] == [300_000, True]
    assert theirs[15] == ["AuthWrongCredentialsError", 411, "frontend: Wrong user or password"]
    assert theirs[15] == theirs[16] == theirs[17]
    assert theirs[18] == [False, False]
    assert theirs[19] == [True, [{"fname": "who", "data": ["admin", "frontend"]}]]
    assert theirs[21] == [True, True, [{"fname": "who", "data": ["admin", "frontend"]}, {"fname": "count", "data": 2}]]
    assert theirs[-1][0]["data"] == "serverquit"
    assert len(theirs) == len(ours)
    for their_line, our_line in zip(theirs, ours, strict=True):
        assert our_line == their_line


LISTENER = """
import sys
import happypandax_client as hpxclient

client = hpxclient.Client("frontend", HOST, PORT)
client.connect()
client.handshake()
print("ready", flush=True)
print("heard", client._recv()["data"], flush=True)
try:
    client._recv()
except hpxclient.ConnectionError:
    print("over", flush=True)
"""


def test_the_release_hears_that_a_user_quits(python: pathlib.Path) -> None:
    with running() as server, peer(server, "admin") as admin:
        text = placed(LISTENER, server)
        with running_program(text, python=python, ours=False) as program:
            program.wait_for_line("ready")
            assert admin.ask("serverquit")["data"] == "serverquit"
            program.wait_for_line("heard serverquit")
            program.wait_for_line("over")
            assert program.wait_end() == 0


READER = """
import sys
import happypandax_client as hpxclient

client = hpxclient.Client("frontend", HOST, PORT)
client.connect()
client.handshake()
for number in range(NUMBER):
    client.send([{"fname": "next"}])
print("all read", flush=True)
"""


def test_the_release_reads_answers_that_would_contain_the_delimiter(
    python: pathlib.Path,
) -> None:
    # Noise full of delimiters, which every level of compression leaves as it is.
    dice = random.Random(1)
    letters = [chr(number) for number in range(32, 127) if chr(number) not in '<>"\\']
    noise = ["<EOF>".join("".join(dice.choices(letters, k=9)) for _ in range(length)) for length in range(1, 400, 40)]
    waiting = list(noise)
    server = Server(port=0, users=USERS, level=0)
    offer_functions(server)
    server.function("next")(lambda: waiting.pop(0))
    assert all(pack(json.dumps(each).encode(), 0).count(b"<EOF>") == 1 for each in noise)
    with server:
        text = placed(READER, server)
        with running_program(text.replace("NUMBER", str(len(noise))), python=python, ours=False) as program:
            program.wait_for_line("all read")
            assert program.wait_end() == 0


def test_the_release_sees_an_expired_session_and_refused_guests(python: pathlib.Path) -> None:
    text = """
import happypandax_client as hpxclient
client = hpxclient.Client("frontend", HOST, PORT)
client.connect()
for call in (lambda: client.handshake(), lambda: client.handshake(user="admin")):
    try:
        call()
    except hpxclient.AuthError as failure:
        print(type(failure).__name__, failure.code)
print(client.guest_allowed, client.handshake("admin", "secret"), client.send([], raise_on_auth=False)["data"])
client.session = "unknown"
print(client.send([])["error"]["code"])
"""
    with running(guest_allowed=False) as server:
        text = placed(text, server)
        with running_program(text, python=python, ours=False) as program:
            assert program.wait_end() == 0, program
            assert [line.strip() for line in program.lines] == [
                "AuthMissingCredentials 412",
                "AuthWrongCredentialsError 411",
                "False True []",
                "408",
            ]


def test_a_program_of_the_release_needs_only_another_import() -> None:
    text = """
from simplesockets import hpx as hpxclient
c = hpxclient.Client("my-client")
c.connect(host=HOST, port=PORT)
c.handshake(user=None, password=None)
print(c.send([{"fname": "add", "a": 1}])["data"])
"""
    with running() as server:
        text = placed(text, server)
        with running_program(text) as program:
            assert program.wait_end() == 0, program
            assert program.lines == ["[{'fname': 'add', 'data': 3}]\n"]
