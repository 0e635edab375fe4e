"""What release 0.4.0 and the manual offer exists here: names, parameters, flags; and the two releases interoperate.

The released package is inspected by a program that runs in its own virtual environment and prints what it finds. What
differs here on purpose stands in the tables below, each entry with its reason.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import pathlib
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import pytest

import simplesockets
from simplesockets import TCPClient, TCPServer
from simplesockets.simple_sockets import Event_System, Exception_Collection
from simplesockets.typehints import Better_Exception

from .support.peers import PeerUnavailable, peer_python
from .support.programs import free_port, running_program, with_port
from .support.running import HOST, raw_client, running_client, running_server
from .support.waiting import wait_until

WHEELS_PORT = 25567

# -------------------------------------------------------------------------------------- what differs on purpose

FOREIGN = "the release's module merely imports it from another package"
"""Why a name is not asked for: modules of the standard library, ``Callable``, ``AES``, ``RSA`` …"""

OTHER_PARAMETERS = {
    ("TCPServer", "setup", "ip"): "the default is the host name's address, as in the manual, and 127.0.0.1",
    ("TCPServer", "send_data", "client"): "at its place is the target, of whatever kind; client= is tested below",
    ("TCPServer", "disconnect", "address"): "the same; address= is tested below",
    ("Server_Client", "recv", "raw"): "the client works as a socket, so recv(n) comes first; recv(True) and raw=… work",
    ("Event", "Event", "time_"): "the default is the time of the call, which two signatures spell in different ways",
    ("Exception_Collection", "add", "args"): "the same one or two arguments, which have names here",
}
"""Parameters by class, method and name that stand elsewhere, or have another default."""
OTHER_PARAMETERS |= {
    ("SecureServer", method, name): why
    for (owner, method, name), why in OTHER_PARAMETERS.items()
    if owner == "TCPServer"
}

OTHER_VALUES = {
    "server.event.accepting_thread.run": "start() begins to accept; in the release setup() already does",
}
"""Flags that begin with another value."""


# ------------------------------------------------------------------------------------ how the release is inspected

INSPECTION = """
import importlib, inspect, json, socket, types
from datetime import datetime

PACKAGE = "simplesockets"
MODULES = ["simplesockets", "simplesockets.simple_sockets", "simplesockets.secure_sockets", "simplesockets.typehints"]

def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))

def is_own(thing):
    home = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", "")
    return home.split(".")[0] == PACKAGE

def plain(value):
    return value if value is None or isinstance(value, (bool, int, str)) else "<" + type(value).__name__ + ">"

def parameters(function):
    return [
        [p.name, p.kind.name, p.default is not p.empty, plain(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]

names, classes = {}, {}
for module in map(importlib.import_module, MODULES):
    names[module.__name__] = {name: is_own(getattr(module, name)) for name in public(module)}
    for name, thing in vars(module).items():
        if isinstance(thing, type) and is_own(thing):
            classes[name] = thing

def methods(owner):
    found = {} if issubclass(owner, BaseException) else {owner.__name__: parameters(owner)}
    for name in public(owner):
        if inspect.isfunction(inspect.getattr_static(owner, name)):
            found[name] = parameters(getattr(owner, name))
    return found

simple = importlib.import_module("simplesockets.simple_sockets")
hints = importlib.import_module("simplesockets.typehints")
server, client = simple.TCPServer(), simple.TCPClient()
objects = {
    "server": server,
    "server.event": server.event,
    "server.event.accepting_thread": server.event.accepting_thread,
    "server.event.exception": server.event.exception,
    "server.event.exception.exceptions": server.event.exception.exceptions,
    "client": client,
    "client.event": client.event,
    "client.event.exception": client.event.exception,
    "Server_Client": simple.Server_Client(socket.socket(), ("127.0.0.1", 1)),
    "Socket_Response": simple.Socket_Response(b"data", datetime.now()),
    "Event": simple.Event("name"),
    "Event_System": simple.Event_System(),
    "Better_Exception": hints.Better_Exception(ValueError("why"), "traceback"),
}
print(json.dumps({
    "names": names,
    "classes": {name: methods(owner) for name, owner in classes.items()},
    "objects": {
        path: {name: ["method" if callable(getattr(thing, name)) else "value", plain(getattr(thing, name))]
               for name in public(thing)}
        for path, thing in objects.items()
    },
}))
"""


class Parameter(NamedTuple):
    """A parameter as the inspection prints it."""

    name: str
    kind: str
    has_default: bool
    default: object


class Release(NamedTuple):
    """What the inspection printed."""

    names: dict[str, dict[str, bool]]
    classes: dict[str, dict[str, list[Parameter]]]
    objects: dict[str, dict[str, tuple[str, object]]]


@pytest.fixture(scope="module")
def python() -> pathlib.Path:
    """The interpreter of the environment that has release 0.4.0."""
    try:
        return peer_python("simplesockets==0.4.0", "pycryptodome")
    except PeerUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def release(python: pathlib.Path) -> Release:
    with running_program(INSPECTION, python=python, ours=False) as program:
        assert program.wait_end() == 0, program
        found = json.loads(program.lines[-1])
    classes = {
        owner: {method: [Parameter(*each) for each in parameters] for method, parameters in methods.items()}
        for owner, methods in found["classes"].items()
    }
    objects = {
        path: {name: (kind, value) for name, (kind, value) in members.items()}
        for path, members in found["objects"].items()
    }
    return Release(found["names"], classes, objects)


# ------------------------------------------------------------------------------------------------- names of modules


@pytest.mark.peer
def test_every_public_name_of_the_releases_modules_exists_here(release: Release) -> None:
    assert set(release.names) >= {"simplesockets", "simplesockets.simple_sockets", "simplesockets.typehints"}
    missing = [
        f"{module}.{name}"
        for module, names in release.names.items()
        for name, its_own in names.items()
        if its_own and not hasattr(importlib.import_module(module), name) and not is_submodule(f"{module}.{name}")
    ]
    assert not missing


def is_submodule(name: str) -> bool:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
        return True
    return False


@pytest.mark.peer
def test_the_inspection_tells_the_releases_own_names_from_foreign_ones(release: Release) -> None:
    names = release.names["simplesockets.secure_sockets"]
    own = {name for name, its_own in names.items() if its_own}
    assert own == {
        "SecureClient",
        "SecureServer",
        "Server_Client",
        "SetupError",
        "Socket_Response",
        "TCPClient",
        "TCPServer",
    }
    assert set(names) - own >= {"AES", "RSA", "Callable", "threading"}, FOREIGN


# ------------------------------------------------------------------------------------------ parameters of methods


def our_class(name: str) -> type[Any]:
    for module in ("simplesockets", "simplesockets.simple_sockets", "simplesockets.typehints"):
        found = getattr(importlib.import_module(module), name, None)
        if found is not None:
            assert isinstance(found, type)
            return found
    raise AssertionError(f"there is no class {name} here")


def our_parameters(owner: str, method: str) -> dict[str, inspect.Parameter]:
    found = our_class(owner)
    function: Callable[..., object] = found if method == owner else getattr(found, method)
    return dict(inspect.signature(function).parameters)


def differences(owner: str, method: str, theirs: list[Parameter]) -> Iterator[str]:
    """What a call that the release takes would meet here, parameter by parameter."""
    ours = our_parameters(owner, method)
    places = list(ours)
    for place, wanted in enumerate(theirs):
        here = f"{owner}.{method}({wanted.name})"
        if (owner, method, wanted.name) in OTHER_PARAMETERS:
            continue
        if wanted.name not in ours:
            yield f"{here}: there is no such parameter among {places}"
            continue
        if places.index(wanted.name) != place:
            yield f"{here}: it stands at place {places.index(wanted.name)}, not {place}"
        if ours[wanted.name].kind.name != wanted.kind:
            yield f"{here}: it is {ours[wanted.name].kind.name}, not {wanted.kind}"
        if wanted.has_default and ours[wanted.name].default != wanted.default:
            yield f"{here}: the default is {ours[wanted.name].default!r}, not {wanted.default!r}"
    names = {wanted.name for wanted in theirs}
    for name, parameter in ours.items():
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        listed = any(key[:2] == (owner, method) for key in OTHER_PARAMETERS)
        if name not in names and positional and parameter.default is parameter.empty and not listed:
            yield f"{owner}.{method}: {name} must be given here"


@pytest.mark.peer
def test_every_public_method_of_the_release_exists_here(release: Release) -> None:
    missing = [
        f"{owner}.{method}"
        for owner, methods in release.classes.items()
        for method in methods
        if method != owner and not callable(getattr(our_class(owner), method, None))
    ]
    assert not missing


@pytest.mark.peer
def test_methods_take_the_releases_parameters_by_keyword_and_by_position(release: Release) -> None:
    assert release.classes["TCPServer"]["setup"][1].name == "ip"
    found = [
        difference
        for owner, methods in release.classes.items()
        for method, theirs in methods.items()
        for difference in differences(owner, method, theirs)
    ]
    assert not found, "\n".join(found)


@pytest.mark.peer
def test_parameters_listed_as_different_are_in_the_release(release: Release) -> None:
    for owner, method, name in OTHER_PARAMETERS:
        assert name in [parameter.name for parameter in release.classes[owner][method]]


def test_exception_collection_adds_one_or_two_arguments() -> None:
    caught = ValueError("why")
    collection = Exception_Collection()
    collection.add(caught)
    collection.add(caught, "its traceback")
    collection.add(Better_Exception(caught, "another"))
    assert [(record.exception, record.traceback) for record in collection] == [
        (caught, None),
        (caught, "its traceback"),
        (caught, "another"),
    ]


# ----------------------------------------------------------------------------------------- attributes of objects


@contextlib.contextmanager
def our_objects() -> Iterator[dict[str, object]]:
    server, client = TCPServer(), TCPClient()
    with socket.socket() as sock:
        try:
            yield {
                "server": server,
                "server.event": server.event,
                "server.event.accepting_thread": server.event.accepting_thread,
                "server.event.exception": server.event.exception,
                "server.event.exception.exceptions": server.event.exception.exceptions,
                "client": client,
                "client.event": client.event,
                "client.event.exception": client.event.exception,
                "Server_Client": simplesockets.Server_Client(sock, (HOST, 1)),
                "Socket_Response": simplesockets.Socket_Response(b"data", datetime.now()),
                "Event": simplesockets.Event("name"),
                "Event_System": Event_System(),
                "Better_Exception": Better_Exception(ValueError("why"), "traceback"),
            }
        finally:
            server.close()
            client.close()


@pytest.mark.peer
def test_objects_have_the_releases_attributes_and_methods(release: Release) -> None:
    with our_objects() as ours:
        assert set(ours) == set(release.objects)
        wrong = [
            f"{path}.{name} should be a {kind}"
            for path, members in release.objects.items()
            for name, (kind, _) in members.items()
            if not hasattr(ours[path], name) or callable(getattr(ours[path], name)) != (kind == "method")
        ]
    assert not wrong


@pytest.mark.peer
def test_objects_begin_with_the_releases_values(release: Release) -> None:
    with our_objects() as ours:
        found = {
            f"{path}.{name}": (value, getattr(ours[path], name, "missing"))
            for path, members in release.objects.items()
            for name, (kind, value) in members.items()
            if kind == "value" and not (isinstance(value, str) and value.startswith("<"))
        }
    assert found.pop("Better_Exception.traceback") == ("traceback", "traceback")
    different = {path for path, (theirs, here) in found.items() if theirs != here}
    assert different == set(OTHER_VALUES)


# ------------------------------------------------------------------------------------------------------ the manual

MANUAL_SERVER = """
    setup start stop exit_accept recv_data killed restart return_exceptions return_recved_data disconnect send_data
    recved_data socket clients max_connections on_connect on_disconnect on_receive new_data_recved
    event.new_data event.accepting_thread.run event.exception.occurred event.exception.list
"""
MANUAL_CLIENT = """
    setup start connect autorecv send_data reconnect shutdown return_exceptions return_recved_data disconnect
    recved_data socket Address new_data_recved
    event.new_data event.connected event.is_connected event.disconnected event.exception.occurred event.exception.list
"""
MANUAL_PARAMETERS = {
    ("TCPServer", "setup"): "ip port listen recv_buffer handle_client on_connect on_disconnect on_receive",
    ("TCPServer", "return_exceptions"): "delete reset_exception",
    ("TCPClient", "setup"): "target_ip target_port recv_buffer on_connect on_disconnect on_receive",
}


def follow(start: object, path: str) -> object:
    for name in path.split("."):
        start = getattr(start, name)
    return start


@pytest.mark.parametrize("path", MANUAL_SERVER.split())
def test_server_has_what_the_manual_names(path: str) -> None:
    with running_server() as server:
        follow(server, path)


@pytest.mark.parametrize("path", MANUAL_CLIENT.split())
def test_client_has_what_the_manual_names(path: str) -> None:
    with running_server() as server, running_client(server) as client:
        follow(client, path)


@pytest.mark.parametrize(("owner", "method"), MANUAL_PARAMETERS)
def test_methods_take_the_manuals_parameters_in_its_order(owner: str, method: str) -> None:
    names = MANUAL_PARAMETERS[owner, method].split()
    assert list(our_parameters(owner, method))[1 : len(names) + 1] == names


@pytest.mark.parametrize("name", ["listen", "handle_client"])
def test_the_clients_setup_takes_what_the_manual_passes_in_vain(name: str) -> None:
    assert our_parameters("TCPClient", "setup")[name].default in (5, None)


TARGETS = [
    ("send_data", "client_socket"),  # the manual's names
    ("recv_data", "client_socket"),
    ("disconnect", "address"),  # both have this one
    ("send_data", "client"),  # the release's names
    ("recv_data", "client"),
    ("send_data", "target"),  # the name it has here
    ("disconnect", "target"),
]


@pytest.mark.parametrize(("method", "name"), TARGETS)
def test_a_target_can_be_given_by_each_of_its_names(method: str, name: str) -> None:
    with running_server() as server, raw_client(server) as sock:
        (client,) = wait_until(server.clients.values)
        sock.sendall(b"received")
        wait_until(lambda: server.event.new_data)
        arguments: dict[str, Any] = {name: client.address if name == "address" else client}
        if method == "send_data":
            arguments["data"] = b"text"
        assert getattr(server, method)(**arguments) == (b"received" if method == "recv_data" else True)


# ------------------------------------------------------------------------------------------------ interoperability


@pytest.fixture(scope="module")
def example(python: pathlib.Path) -> Callable[[str, int], str]:
    """Gives the text of one of the release's example programs, with its port changed."""
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    with running_program(show, python=python, ours=False) as program:
        assert program.wait_end() == 0, program
        directory = pathlib.Path(program.lines[-1].strip(), "simplesockets", "example")
    return lambda name, port: with_port((directory / name).read_text(encoding="utf-8"), WHEELS_PORT, port)


@pytest.mark.peer
def test_the_releases_client_gets_its_text_back_from_our_server(
    python: pathlib.Path, example: Callable[[str, int], str]
) -> None:
    gone: list[object] = []
    with (
        running_server(on_receive=lambda client, received: client.send(received), on_disconnect=gone.append) as server,
        running_program(example("echo_client.py", server.address[1]), python=python, ours=False) as client,
    ):
        assert client.wait_end() == 0, client
        assert client.lines == ["b'Test'\n"]
        wait_until(lambda: gone)
        assert not server.event.exception.occurred


CLIENT_OF_THE_RELEASE = """
from simplesockets import TCPClient
client = TCPClient()
client.setup("127.0.0.1", 25567)
assert client.connect()
client.autorecv()
text = "größer ".encode() * 10000
client.send_data(text)
received = b""
while len(received) < len(text):
    event, items = client.await_event(5000, disable_on_functions=True)
    assert event == client.EVENT_RECEIVED, event
    received += b"".join(item.response for item in items)
print(received == text)
"""


@pytest.mark.peer
def test_the_releases_client_gets_a_long_text_back_from_our_server(python: pathlib.Path) -> None:
    with (
        running_server(on_receive=lambda client, received: client.send(received)) as server,
        running_program(
            with_port(CLIENT_OF_THE_RELEASE, WHEELS_PORT, server.address[1]), python=python, ours=False
        ) as client,
    ):
        assert client.wait_end() == 0, client
        assert client.lines == ["True\n"]


@pytest.mark.peer
def test_our_client_gets_its_text_back_from_the_releases_server(
    python: pathlib.Path, example: Callable[[str, int], str]
) -> None:
    port = free_port()
    with running_program(example("echo_server.py", port), python=python, ours=False) as server:
        server.wait_listening(port)
        client = TCPClient()
        client.setup("localhost", port)
        with client:
            assert client.event.is_connected
            assert client.send_data("Test")
            event, items = client.await_event(10000, disable_on_functions=True)
        assert (event, items) == (client.EVENT_RECEIVED, [b"Test"])


@pytest.mark.peer
def test_our_client_program_gets_its_text_back_from_the_releases_server(
    python: pathlib.Path, example: Callable[[str, int], str]
) -> None:
    port = free_port()
    with running_program(example("echo_server.py", port), python=python, ours=False) as server:
        server.wait_listening(port)
        with running_program(example("echo_client.py", port)) as client:
            assert client.wait_end() == 0, client
        assert client.lines == ["b'Test'\n"]
        assert not client.errors


@pytest.mark.peer
def test_the_release_is_not_ours(python: pathlib.Path) -> None:
    show = "import simplesockets; print(hasattr(simplesockets, 'UnknownClient'))"
    with running_program(show, python=python, ours=False) as theirs, running_program(show) as ours:
        assert (theirs.wait_end(), ours.wait_end()) == (0, 0)
        assert (theirs.lines, ours.lines) == (["False\n"], ["True\n"])
