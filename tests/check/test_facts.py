"""Every row of the table of facts is true: shown here on this package, and on the release where that is cheap.

What a release does is told by one program for each, which runs in the environment that has it and prints what it finds.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import simplesockets
from simplesockets import (
    SecureClient,
    SecureServer,
    Server_Client,
    SetupError,
    Socket_Response,
    TCPClient,
    TCPServer,
    hpx,
)
from simplesockets import hisock as ours
from simplesockets.check import FACTS
from simplesockets.check.vocabulary import (
    CALLBACKS,
    FOREIGN,
    HANDLERS,
    INSTANCES,
    MODULES_GONE,
    NOT_CASTABLE,
    PRIVATE,
    PUBLIC,
    RENAMED,
    SETUP,
)
from simplesockets.hisock.casting import castable, to_content

from ..hisock import running
from ..support.peers import PeerUnavailable, peer_python
from ..support.programs import running_program
from ..support.running import HOST, raw_client, running_client, running_server
from ..support.waiting import wait_until

Test = Callable[..., None]
BACKED: set[str] = set()
"""The facts that a test below is about."""


def backs(*keys: str) -> Callable[[Test], Test]:
    """The test proves these facts."""

    def note(test: Test) -> Test:
        BACKED.update(keys)
        return test

    return note


def raised(function: Callable[[], object]) -> type[BaseException] | None:
    """The type of what a call raises."""
    try:
        function()
    except BaseException as failure:
        return type(failure)
    return None


def test_every_fact_is_backed_by_a_test() -> None:
    assert set(FACTS) == BACKED


def test_facts_say_what_is_there_what_is_here_and_what_to_write() -> None:
    for fact in FACTS.values():
        assert fact.there
        assert fact.here
        assert fact.write[0].isupper()
        assert not fact.write.endswith(".")
        assert fact.level in ("differs", "change")
        assert fact.row().count("|") == 5  # four cells


# ------------------------------------------------------------------------------------------- what the releases do

BEGINNING = """
import importlib, json, os

def attempt(function):
    try:
        function()
    except BaseException as failure:
        return type(failure).__name__

def public(thing):
    return [name for name in dir(thing) if not name.startswith("_")]

def private(thing):
    return [name for name in dir(thing) if name.startswith("_") and not name.startswith("__")]

def modules(names):
    return {name: [each for each in dir(importlib.import_module(name)) if not each.startswith("__")] for name in names}

found = {}
"""

ENDING = """
print(json.dumps(found), flush=True)
os._exit(0)  # its threads go on
"""

SIMPLESOCKETS = """
import socket, threading
from datetime import datetime
import simplesockets.simple_sockets as simple
from simplesockets import SecureClient, SecureServer

server, client = simple.TCPServer(), simple.TCPClient()
arrived, gone = threading.Event(), threading.Event()
came, arguments = [], []

def receive(*args):
    arguments.append(len(args))
    arrived.set()

server.setup(port=0, on_connect=came.append, on_receive=receive)
address = server.socket.getsockname()
found["default-ip"] = address[0]
found["never-started"] = server.event.accepting_thread.run
client.setup(*address)
client.connect()
client.send_data(b"abc")
arrived.wait(20)
(element,) = server.return_recved_data()
found["callback-open"] = arguments
found["len"] = len(element)
found["index"] = element[0]
found["isinstance"] = [isinstance(element, kind) for kind in (bytes, tuple, simple.Socket_Response)]
found["connect-isinstance"] = isinstance(came[0], simple.Server_Client)

collection = server.event.exception.exceptions
found["exceptions-truth"] = [bool(collection), collection.add(ValueError("why")) or bool(collection)]
exceptions = server.return_exceptions()
found["exceptions-iterate"] = [type(each).__name__ for each in exceptions]
found["exceptions-dict"] = [isinstance(exceptions, dict), server.return_exceptions() == {}]

late = simple.TCPClient()
late.setup(*address)
found["send-raises"] = attempt(lambda: late.send_data(b"x"))
found["killed"] = attempt(lambda: server.killed())
found["exception-flag"] = attempt(lambda: server.exception)
found["callback"] = attempt(lambda: simple.TCPServer().setup("127.0.0.1", 0, on_connect=lambda: 0))

class Sub(simple.TCPServer):
    def on_connect(self, client):
        pass

sub = Sub()
sub.setup("127.0.0.1", 0)
found["callback-method"] = sub.on_connect
secure, other = SecureServer(), SecureClient()
found["secure-server"] = attempt(lambda: secure.setup("127.0.0.1", 0, keysize=1024))
found["keysize"] = secure.privatekey.size_in_bits()
found["secure-keys"] = [len(other.key), hasattr(other, "cipher"), hasattr(secure, "publickey")]
found["private"] = {"TCPServer": private(server), "TCPClient": private(client)}
found["public"] = {"TCPServer": public(server), "TCPClient": public(client)}
found["foreign"] = modules(["simplesockets.simple_sockets", "simplesockets.secure_sockets"])
found["module"] = [attempt(lambda: importlib.import_module(name)) for name in GONE if name.startswith("simplesockets")]
"""

HISOCK = """
import threading, hisock, hisock.client, hisock.server, hisock.utils

server = hisock.HiSockServer(("127.0.0.1", 0), keepalive=False)
address = server.socket.getsockname()
client = hisock.HiSockClient(address, "ann", "red", cache_size=0)
found["cache-zero"] = attempt(client.get_cache)

@server.on("join")
def join(client):
    pass

server._run()  # connects it
found["empty-group"] = server.send_group("nobody", "x")
found["equal"] = server == hisock.HiSockServer(("127.0.0.1", 0), keepalive=False)
found["clients-table"] = server.clients is server.clients
found["funcs"] = sorted(server.funcs["join"])
info = hisock.utils.ClientInfo(("127.0.0.1", 5000), "ann", "red")
info.name = "bob"
found["info-assign"] = info.name
found["ip-text"] = str(info.ip)
found["handler"] = [
    attempt(lambda: server.on("x")(lambda a, b, c: 0)), attempt(lambda: server.on("join")(lambda: 0)),
]
given = []

@server.on("open")
def opened(*args):
    given.append(args)

def annotated(client, message: tuple):
    pass

found["annotation"] = [attempt(lambda: server.on("tuple")(annotated))]
found["empty-content"] = [len(server._send_type_cast(each)) for each in (0, [], {})]
found["bad-host"] = attempt(lambda: hisock.start_server(("no.such.host.invalid", 5000)))

@server.on("fail")
def fail(client):
    raise ZeroDivisionError

client.send("open", "x")
server._run()
found["handler-open"] = [len(args) for args in given]
client.send("tuple", "x")
found["annotation"].append(attempt(server._run))
client.send("fail")
failures = []
server.start(error_handler=lambda failure: failures.append(type(failure).__name__))
found["error-handler"] = [failures, server.closed]
found["private"] = {"HiSockServer": private(server), "HiSockClient": private(client)}
found["public"] = {"HiSockServer": public(server), "HiSockClient": public(client)}
found["foreign"] = modules(["hisock", "hisock.server", "hisock.client", "hisock.utils"])
found["module"] = [attempt(lambda: importlib.import_module(name)) for name in GONE if name == "hisock._shared"]
"""

HPX = """
import logging
from happypandax_client import *

found["star"] = TimeoutError is __import__("builtins").TimeoutError
found["logger"] = client.log.name
found["private"] = {"Client": private(Client("me"))}
found["public"] = {"Client": public(Client("me"))}
"""


@functools.cache
def told(requirements: tuple[str, ...], program: str) -> dict[str, Any]:
    """What a release's program prints."""
    try:
        python = peer_python(*requirements)
    except PeerUnavailable as reason:
        pytest.skip(str(reason))
    text = f"GONE = {MODULES_GONE!r}\n{BEGINNING}{program}{ENDING}"
    with running_program(text, python=python, ours=False) as process:
        assert process.wait_end() == 0, process
        found: dict[str, Any] = json.loads(process.lines[-1])
    return found


@pytest.fixture
def simple_release() -> dict[str, Any]:
    return told(("simplesockets==0.4.0", "pycryptodome"), SIMPLESOCKETS)


@pytest.fixture
def hisock_release() -> dict[str, Any]:
    return told(("hisock==2.0.2",), HISOCK)


@pytest.fixture
def hpx_release() -> dict[str, Any]:
    return told(("happypandax-client==1.0.0",), HPX)


SIMPLESOCKETS_DOES: dict[str, object] = {
    "default-ip": HOST,
    "never-started": True,
    "callback-open": [2],
    "len": 3,
    "index": ord("a"),
    "isinstance": [False, False, True],
    "connect-isinstance": True,
    "exceptions-truth": [True, False],
    "exceptions-iterate": ["str"],
    "exceptions-dict": [True, True],
    "send-raises": "BrokenPipeError",
    "killed": "TypeError",
    "exception-flag": "AttributeError",
    "callback": None,
    "callback-method": None,
    "secure-server": None,
    "keysize": 1024,
    "secure-keys": [32, True, True],
    "module": [None, None, None],
}
HISOCK_DOES: dict[str, object] = {
    "empty-group": None,
    "equal": True,
    "clients-table": True,
    "funcs": ["func", "name", "override", "threaded", "type_hint"],
    "info-assign": "bob",
    "ip-text": "('127.0.0.1', 5000)",
    "handler": ["TypeError", "TypeError"],
    "handler-open": [0],
    "annotation": [None, "InvalidTypeCast"],
    "cache-zero": "AttributeError",
    "empty-content": [0, 0, 0],
    "bad-host": "TypeError",
    "error-handler": [["ZeroDivisionError"], True],
    "module": [None],
}


@pytest.mark.peer
@pytest.mark.parametrize("key", SIMPLESOCKETS_DOES)
def test_simplesockets_does_what_the_fact_says_of_it(key: str, simple_release: dict[str, Any]) -> None:
    assert f"simplesockets:{key}" in FACTS
    assert simple_release[key] == SIMPLESOCKETS_DOES[key]


@pytest.mark.peer
@pytest.mark.parametrize("key", HISOCK_DOES)
def test_hisock_does_what_the_fact_says_of_it(key: str, hisock_release: dict[str, Any]) -> None:
    assert f"hisock:{key}" in FACTS
    assert hisock_release[key] == HISOCK_DOES[key]


@pytest.mark.peer
def test_happypandax_client_does_what_the_facts_say_of_it(hpx_release: dict[str, Any]) -> None:
    assert hpx_release["star"] is True
    assert hpx_release["logger"] == "happypandax-client"


# ------------------------------------------------------------------------------------------- the vocabulary is true


@pytest.fixture(params=["simple_release", "hisock_release", "hpx_release"])
def release(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


@pytest.mark.peer
@backs("simplesockets:private", "hisock:private", "hisock:underscore", "happypandax_client:private")
def test_the_insides_of_the_release_are_known_and_public_names_too(release: dict[str, Any]) -> None:
    for kind, names in release["private"].items():
        known = PRIVATE[kind] | set(RENAMED.get(kind, {})) | {"_stop_event", "_context"}
        assert set(names) <= known, kind
        assert known - set(names) <= {"_stop_event", "_context"}  # of the threaded ones; of those with TLS
    for kind, names in release["public"].items():
        attributes = {"cache", "event", *CALLBACKS.get(kind, ())}
        assert set(names) - attributes <= PUBLIC[kind], kind


@pytest.mark.peer
@backs("simplesockets:foreign", "hisock:foreign")
def test_what_the_releases_modules_merely_import_is_known(
    simple_release: dict[str, Any], hisock_release: dict[str, Any]
) -> None:
    for module, names in {**simple_release["foreign"], **hisock_release["foreign"]}.items():
        assert set(names) >= FOREIGN[module], module
        here = importlib.import_module(module.replace("hisock", "simplesockets.hisock", 1))
        star: dict[str, object] = {}
        exec(f"from {here.__name__} import *", star)
        assert not FOREIGN[module] & set(star), module
        assert set(names) - FOREIGN[module] - {"_shared", "annotations"} <= set(dir(here)), module


@pytest.fixture
def instances() -> Iterator[dict[str, object]]:
    with running.server() as chat, running.client(chat, loop=False) as ann:
        server, client, caller = TCPServer(), TCPClient(), hpx.Client("me")
        yield {"TCPServer": server, "TCPClient": client, "HiSockServer": chat, "HiSockClient": ann, "Client": caller}
        server.close()
        client.close()


def test_public_names_exist_here_and_underscored_ones_do_under_their_new_names(instances: dict[str, object]) -> None:
    threaded = {"start_server", "stop_server", "start_client", "stop_client", "join"}
    for kind, instance in instances.items():
        names = PUBLIC[kind] - (threaded if "HiSock" in kind else set())
        assert [name for name in names if not hasattr(instance, name)] == []
        for there, here in RENAMED.get(kind, {}).items():
            assert callable(getattr(instance, here))
            assert raised(getattr(instance, there, lambda: 1 / 0)) in (TypeError, ZeroDivisionError)
    for side, thread in (("start_server stop_server join", ours.ThreadedHiSockServer),):
        assert all(callable(getattr(thread, name)) for name in side.split())


BY_CHANCE = {
    "TCPServer": {"_recv_buffer"},
    "TCPClient": {"_recv_buffer"},
    "Client": {"_accepted", "_alive", "_closed", "_guest_allowed", "_last_user", "_ready", "_server", "_version"},
}
"""Insides that have the same names here."""


def test_most_insides_of_the_originals_do_not_exist_here(instances: dict[str, object]) -> None:
    for kind, instance in instances.items():
        assert {name for name in PRIVATE[kind] if hasattr(instance, name)} <= BY_CHANCE.get(kind, set()), kind


def test_callbacks_and_handlers_are_called_as_the_vocabulary_has_it() -> None:
    from simplesockets.dispatch import ClientDispatch, ServerDispatch

    for kind, dispatch in (("TCPServer", ServerDispatch), ("TCPClient", ClientDispatch)):
        forms = {name: tuple(each) for name, each in dispatch.FORMS.items()}
        assert {name: forms[name] for name in CALLBACKS[kind]} == CALLBACKS[kind]
        method = getattr(simplesockets, kind).setup
        assert tuple(inspect.signature(method).parameters)[1 : len(SETUP[kind]) + 1] == SETUP[kind]


@pytest.mark.parametrize("side", HANDLERS)
def test_handlers_take_as_many_arguments_as_the_vocabulary_has_it(side: str) -> None:
    with running.server(loop=False) as server, running.client(server, loop=False) as client:
        end = server if side == "HiSockServer" else client
        for command, forms in HANDLERS[side].items():
            for count in range(5):
                parameters = ", ".join(f"a{number}" for number in range(count))
                refused = raised(functools.partial(end.on(command or "anything"), eval(f"lambda {parameters}: 0")))
                assert (refused is None) == (count in forms), (command, count)


def test_the_makers_make_what_the_vocabulary_says() -> None:
    homes = {"simplesockets": simplesockets, "hisock": ours, "happypandax_client": hpx}
    for original, makers in INSTANCES.items():
        assert [name for name in makers if not callable(getattr(homes[original], name))] == []


# -------------------------------------------------------------------------------------- simplesockets, as it is here


@backs("simplesockets:module", "hisock:module")
@pytest.mark.parametrize("name", MODULES_GONE)
def test_modules_that_are_gone_are_gone(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name.replace("hisock", "simplesockets.hisock", 1))


@backs("simplesockets:secure-server", "simplesockets:keysize")
def test_a_secure_server_needs_a_certificate_whatever_the_keysize() -> None:
    server = SecureServer()
    with pytest.raises(SetupError, match="certfile"):
        server.setup(HOST, 0, keysize=1024)
    server.close()


@backs("simplesockets:secure-client")
def test_a_secure_client_trusts_only_what_the_system_trusts() -> None:
    from ..support.certificates import SERVER

    server, client = SecureServer(), SecureClient()
    server.setup(HOST, 0, certfile=str(SERVER))
    client.setup("localhost", server.address[1])
    with server:
        assert not client.connect()
        assert "verify failed" in str(client.return_exceptions()[-1].exception)
    client.close()


@backs("simplesockets:secure-keys")
@pytest.mark.parametrize("name", ["privatekey", "publickey", "key", "cipher"])
def test_keys_of_the_old_cipher_are_gone(name: str) -> None:
    for end in (SecureServer(), SecureClient()):
        assert not hasattr(end, name)
        end.close()


@backs(*(f"simplesockets:{key}" for key in ("len", "index", "isinstance", "connect-isinstance", "killed")))
def test_what_a_server_hands_out() -> None:
    came: list[Any] = []
    with running_server(on_connect=came.append) as server, raw_client(server) as sock:
        sock.sendall(b"abcd")
        (element,) = wait_until(server.return_recved_data)
        assert (len(element), len(element.response)) == (3, 4)
        assert (element[2], element.response[0]) == (b"abcd", ord("a"))
        assert isinstance(element, tuple)
        assert isinstance(element, Socket_Response)
        assert not isinstance(came[0], Server_Client)
        assert isinstance(came[0].client, Server_Client)
        assert server.killed is False
        assert raised(lambda: server.killed()) is TypeError  # type: ignore[operator]


@backs("simplesockets:exceptions-iterate", "simplesockets:exceptions-dict", "simplesockets:exceptions-truth")
def test_exceptions_are_a_list_that_answers_like_a_dictionary() -> None:
    with running_server() as server:
        collection = server.event.exception.exceptions
        assert not collection
        collection.add(ValueError("why"), "its traceback")
        assert collection
        exceptions: Any = server.return_exceptions()
        assert [type(each[1]) for each in exceptions] == [ValueError]
        ((time, record),) = exceptions.items()
        assert exceptions[time] is record
        assert not isinstance(exceptions, dict)
        empty: object = {}
        assert server.return_exceptions() != empty
        for call in (lambda: exceptions.pop(time), lambda: exceptions.popitem(), lambda: exceptions.setdefault(time)):
            assert raised(call) in (TypeError, AttributeError)
        assert raised(lambda: exceptions.update({})) is AttributeError
        assert dict(exceptions) == {time: record}


@backs("simplesockets:exception-flag")
def test_the_flag_of_exceptions_is_in_event() -> None:
    with running_server() as server:
        assert not hasattr(server, "exception")
        assert server.event.exception.occurred is False


@backs("simplesockets:callback")
def test_a_callback_that_cannot_be_called_is_refused_at_once() -> None:
    with running_server() as server, running_client(server) as client:
        for end, name, callback in (
            (server, "on_connect", lambda: 0),
            (server, "on_receive", lambda a, b, c, d: 0),
            (client, "on_connect", lambda a: 0),
            (client, "on_receive", lambda a, b: 0),
        ):
            with pytest.raises(TypeError, match=f"called as {name}"):
                setattr(end, name, callback)


@backs("simplesockets:callback-open")
def test_the_longest_form_of_a_callback_wins() -> None:
    given: list[int] = []

    def serve(*arguments: object) -> None:
        given.append(len(arguments))

    with running_server(on_receive=lambda *arguments: given.append(len(arguments))) as server:
        with raw_client(server) as sock:
            sock.sendall(b"x")
            wait_until(lambda: given)
    with running_server(handle_client=serve) as server, raw_client(server):
        wait_until(lambda: len(given) == 2)
    assert given == [3, 2]


@backs("simplesockets:callback-method")
def test_a_method_of_a_subclass_is_a_callback() -> None:
    came: list[object] = []

    class Sub(TCPServer):
        def on_connect(self, address: object) -> None:
            came.append(address)

    server = Sub()
    server.setup(HOST, 0)
    with server, raw_client(server) as sock:
        wait_until(lambda: came)
        assert came == [sock.getsockname()]


@backs("simplesockets:default-ip")
def test_without_ip_a_server_listens_on_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "127.0.0.5")  # a host name that resolves to another address
    server = TCPServer()
    server.setup(port=0)
    assert {host for host, _ in server.addresses} == {"127.0.0.1", "127.0.0.5"}
    server.close()


@backs("simplesockets:never-started")
def test_nobody_is_accepted_before_start() -> None:
    with running_server(start=False) as server, raw_client(server) as sock:
        assert server.event.accepting_thread.run is False
        sock.sendall(b"x")
        assert not server.event.new_data
        assert not server.clients
        server.start()
        wait_until(lambda: server.event.new_data)


@backs("simplesockets:send-raises")
def test_a_client_that_cannot_send_says_so_and_raises_nothing() -> None:
    with running_server() as server, running_client(server) as client:
        server.close()
        wait_until(lambda: client.event.disconnected)
        assert client.send_data(b"x") is False
        assert isinstance(client.return_exceptions()[-1].exception, ConnectionError)


# --------------------------------------------------------------------------------------------- hisock, as it is here


@backs("hisock:import", "happypandax_client:import")
def test_the_imports_to_write_instead_find_this_package() -> None:
    program = """
import simplesockets.hisock
simplesockets.hisock.install_as_hisock()
import hisock
from hisock.client import HiSockClient
from simplesockets import hpx as happypandax_client
print(hisock is simplesockets.hisock, HiSockClient.__module__, happypandax_client.Client.__module__)
"""
    with running_program(program) as process:
        assert process.wait_end() == 0, process
        assert process.lines == ["True simplesockets.hisock.client simplesockets.hpx.client\n"]
    with running_program("import hisock") as process:
        assert process.wait_end() == 1


@backs("hisock:empty-group", "hisock:equal", "hisock:clients-table", "hisock:funcs", "hisock:cache-zero")
def test_what_a_hisock_server_answers() -> None:
    with running.server(cache_size=0) as server, running.client(server, "ann", loop=False) as client:
        running.wait_names(server, "ann")
        with pytest.raises(TypeError):
            server.send_group("nobody", "x")
        assert raised(lambda: server.send_group("nobody", "x")) is ours.GroupNotFound
        with running.server() as other:
            assert server != other
            assert server in [server, other]
        server.clients.clear()
        server.clients_rev.clear()
        assert len(server) == 1
        function = server.on("x")(lambda: None)
        assert server.funcs["x"] is function
        server.funcs.clear()
        assert "x" in server.funcs
        client.send("x", b"1")
        wait_until(server.get_cache)


@backs("hisock:info-assign", "hisock:ip-text")
def test_a_client_info_is_read_and_its_address_is_text() -> None:
    info: Any = ours.ClientInfo(("127.0.0.1", 5000), "ann", "red")
    for name in ("ip", "name", "group"):
        with pytest.raises(AttributeError):
            setattr(info, name, "x")
    assert f"{info.ip}" == str(info.ip) == info.ip_as_str == "127.0.0.1:5000"
    assert tuple(info.ip) == ("127.0.0.1", 5000)


@backs("hisock:handler", "hisock:annotation")
def test_handlers_that_do_not_fit_are_refused_by_on() -> None:
    def annotated(client: object, message: tuple[int, ...]) -> None:
        pass

    with running.server(loop=False) as server:
        for command, function in (("join", lambda: 0), ("x", lambda a, b, c: 0), ("x", annotated)):
            assert raised(functools.partial(server.on(command), function)) is ours.InvalidHandler
    assert issubclass(ours.InvalidHandler, TypeError)
    names = {"tuple": tuple, "set": set, "frozenset": frozenset, "complex": complex, "bytearray": bytearray}
    typing = importlib.import_module("typing")
    for name in NOT_CASTABLE:
        assert castable(names.get(name) or getattr(typing, name)) is None


@backs("hisock:handler-open", "hisock:error-handler")
def test_handlers_get_what_they_can_take_and_their_errors_end_nothing() -> None:
    given, failures = running.Notes(), running.Notes()
    with running.server(loop=False) as server:

        @server.on("x")
        def open_ended(*arguments: object) -> None:
            given(len(arguments))
            raise ZeroDivisionError

        with (
            running.looping(server, error_handler=failures),
            running.client(server, "ann", loop=False) as client,
        ):
            client.send("x", b"1")
            client.send("x", b"2")
            assert given.wait(2) == [2, 2]
            assert [type(each) for each in failures.wait(2)] == [ZeroDivisionError] * 2
            assert not server.closed


@backs("hisock:empty-content")
def test_zero_and_empty_lists_are_content() -> None:
    values: tuple[object, ...] = (0, [], {})
    assert [to_content(each) for each in (*values, None)] == [b"0", b"[]", b"{}", b""]
    for value in values:
        cast = castable(type(value))
        assert cast is not None
        assert cast(to_content(value)) == cast(None) == value


@backs("hisock:bad-host")
def test_an_address_that_does_not_resolve_is_an_os_error() -> None:
    failure = raised(lambda: ours.start_server(("no.such.host.invalid", 5000)))
    assert failure is not None
    assert issubclass(failure, socket.gaierror)
    assert not issubclass(failure, TypeError)


# ------------------------------------------------------------------------------------------------ hpx, as it is here


@backs("happypandax_client:star")
def test_the_star_import_brings_a_timeout_error() -> None:
    names: dict[str, Any] = {}
    exec("from simplesockets.hpx import *", names)
    assert names["TimeoutError"] is not builtins.TimeoutError
    assert issubclass(names["TimeoutError"], builtins.TimeoutError)


@backs("happypandax_client:logger")
def test_the_client_logs_under_its_own_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "simplesockets.hpx"):
        hpx.Client("me").close()
    assert {record.name for record in caplog.records} == {"simplesockets.hpx"}
