"""What release 2.0.2, the API reference and the tutorial name exists here, and ``import hisock`` can mean this package.

The release is inspected by a program that runs in its own virtual environment and prints what it finds. What differs
here on purpose stands in the tables below, each entry with its reason.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from simplesockets import hisock
from simplesockets.hisock import HiSockClient, HiSockServer

from ..support.programs import LIFETIME, running_program
from . import running
from .test_interop import released_python

HERE = "simplesockets.hisock"

# -------------------------------------------------------------------------------------- what differs on purpose

EXAMPLES = "the release ships its example programs as a second top-level package, which its own modules import"

MISSING_NAMES = {"examples": EXAMPLES}
"""Public names of the release's own that do not exist here."""

OTHER_VALUES = {
    "__version__": "a release of this package has its own version",
    "__name__": "a module's name",
    "__author__": "somebody else",
    "__copyright__": "somebody else",
}
"""Constants that exist with another value."""

BLOCKING = "its second generation lacks blocking=, the first has it there; integers in this place are understood"

OTHER_PARAMETERS = {
    **{
        (owner, owner, name): BLOCKING
        for owner in ("HiSockServer", "ThreadedHiSockServer")
        for name in ("max_connections", "header_len", "cache_size", "keepalive")
    },
    **{
        (owner, owner, name): BLOCKING
        for owner in ("HiSockClient", "ThreadedHiSockClient")
        for name in ("header_len", "cache_size")
    },
    **{("", "start_server", name): BLOCKING for name in ("max_connections", "header_len")},
    **{("", "connect", name): BLOCKING for name in ("header_len", "cache_size")},
    ("", "start_threaded_server", "args"): "the parameters have names here",
    ("", "start_threaded_server", "kwargs"): "the parameters have names here",
    ("", "threaded_connect", "args"): "the parameters have names here",
    ("", "threaded_connect", "kwargs"): "the parameters have names here",
    **{
        (owner, owner, name): "the parameters have names here"
        for owner in ("ThreadedHiSockServer", "ThreadedHiSockClient")
        for name in ("args", "kwargs")
    },
    ("ThreadedHiSockClient", "close", "args"): "the parameters have names here",
    ("ThreadedHiSockClient", "close", "kwargs"): "the parameters have names here",
}
"""Parameters by class, function and name that may stand elsewhere. That all of them are taken by keyword and by
position is tested in test_server_api.py and test_client_api.py."""

OTHER_OPERATORS = {
    "__init__": "compared by its parameters",
    "__str__": "what __repr__ gives",
    "__eq__": "servers and clients are equal to nothing but themselves; the release's own is wrong on the server",
}
"""Special methods that are not asked for."""

# ------------------------------------------------------------------------------------ how the release is inspected

INSPECTION = """
import importlib, inspect, json, threading, types, typing

PACKAGE = "hisock"
MODULES = ["hisock", "hisock.server", "hisock.client", "hisock.utils", "hisock.constants"]

def is_own(thing):
    home = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", "")
    return str(home).split(".")[0] in (PACKAGE, "examples")

def plain(value):
    return value if value is None or isinstance(value, (bool, int, str)) else "<" + type(value).__name__ + ">"

def parameters(function):
    return [
        [p.name, p.kind.name, p.default is not p.empty, plain(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]

def methods(owner):
    found = {} if issubclass(owner, BaseException) else {owner.__name__: parameters(owner)}
    for name in dir(owner):
        if not name.startswith("_") and inspect.isfunction(inspect.getattr_static(owner, name)):
            found[name] = parameters(getattr(owner, name))
    return found

names, functions, classes, bases = {}, {}, {}, {}
for path in MODULES:
    module = importlib.import_module(path)
    names[path] = {}
    for name, thing in vars(module).items():
        if name.startswith("_"):
            continue
        # Unions and the like have no home; the modules' own are those that another module does not have.
        own = is_own(thing) or name in ("Sendable", "SendableTypes", "Client", "JSONSerializableValue")
        names[path][name] = own
        if own and isinstance(thing, type):
            classes[name] = methods(thing)
            bases[name] = [base.__name__ for base in thing.__mro__]
        elif own and inspect.isfunction(thing):
            functions[name] = parameters(thing)

server = importlib.import_module("hisock").HiSockServer(("127.0.0.1", 0), cache_size=2, keepalive=False)
address = server.socket.getsockname()
client = importlib.import_module("hisock").HiSockClient(address, "ann", "red", cache_size=2)
utils = importlib.import_module("hisock.utils")
objects = {
    "server": server,
    "client": client,
    "ClientInfo": utils.ClientInfo(("127.0.0.1", 5000), "ann", "red"),
    "MessageCacheMember": utils.MessageCacheMember(
        {"header": b"3", "content": b"abc", "called": True, "command": "x"}
    ),
}
print(json.dumps({
    "names": names,
    "functions": functions,
    "classes": classes,
    "bases": bases,
    "objects": {
        path: {name: "method" if callable(getattr(thing, name)) else "value"
               for name in dir(thing) if not name.startswith("_")}
        for path, thing in objects.items()
    },
    "dunders": {
        name: [each for each in vars(thing) if each.startswith("__") and callable(getattr(thing, each))]
        for name, thing in vars(importlib.import_module("hisock")).items()
        if isinstance(thing, type) and is_own(thing)
    },
    "constants": [name for name in vars(importlib.import_module("hisock.constants"))
                  if name in ("__version__", "__license__", "__author__", "__copyright__")],
}), flush=True)
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
    functions: dict[str, list[Parameter]]
    classes: dict[str, dict[str, list[Parameter]]]
    bases: dict[str, list[str]]
    objects: dict[str, dict[str, str]]
    dunders: dict[str, list[str]]
    constants: list[str]


def parameters(found: list[list[Any]]) -> list[Parameter]:
    return [Parameter(*each) for each in found]


@pytest.fixture(scope="module")
def release() -> Release:
    with running_program(INSPECTION, python=released_python(), ours=False) as program:
        assert program.wait_end() == 0, program
        found = json.loads(program.lines[-1])
    found["functions"] = {name: parameters(each) for name, each in found["functions"].items()}
    found["classes"] = {
        owner: {method: parameters(each) for method, each in methods.items()}
        for owner, methods in found["classes"].items()
    }
    return Release(**found)


def module_here(name: str) -> Any:
    return importlib.import_module(name.replace("hisock", HERE, 1))


def find_here(name: str) -> Any:
    """The class or function of that name, wherever it is."""
    for module in ("hisock", "hisock.server", "hisock.client", "hisock.utils"):
        with contextlib.suppress(AttributeError):
            return getattr(module_here(module), name)
    raise AssertionError(f"there is no {name} here")


# ------------------------------------------------------------------------------------------------ names of modules


@pytest.mark.peer
def test_every_public_name_of_the_releases_modules_exists_here(release: Release) -> None:
    assert set(release.names) == {"hisock", "hisock.server", "hisock.client", "hisock.utils", "hisock.constants"}
    missing = [
        f"{module}.{name}"
        for module, names in release.names.items()
        for name, its_own in names.items()
        if its_own and name not in MISSING_NAMES and not hasattr(module_here(module), name)
    ]
    assert not missing


@pytest.mark.peer
def test_the_inspection_finds_what_there_is(release: Release) -> None:
    assert set(MISSING_NAMES) <= set(release.names["hisock"])
    assert {name for name, its_own in release.names["hisock.utils"].items() if not its_own} >= {"json", "Union"}
    assert {"connect", "start_server", "get_local_ip", "make_header", "receive_message"} <= set(release.functions)
    assert {"HiSockServer", "ThreadedHiSockClient", "File", "MessageCacheMember"} <= set(release.classes)
    assert {"InvalidTypeCast", "NoHeaderWarning"} <= set(release.bases)
    assert release.constants


@pytest.mark.peer
def test_constants_exist(release: Release) -> None:
    constants = module_here("hisock.constants")
    assert [name for name in release.constants if not isinstance(getattr(constants, name, None), str)] == []
    assert hisock.__version__ == constants.__version__
    assert set(release.constants) - set(OTHER_VALUES) == {"__license__"}
    assert constants.__license__ == "MIT"


@pytest.mark.peer
def test_exceptions_and_warnings_have_the_releases_bases(release: Release) -> None:
    wrong = [
        f"{name} is no {base}"
        for name, bases in release.bases.items()
        if "BaseException" in bases
        for base in bases
        if base not in [each.__name__ for each in find_here(name).__mro__]
    ]
    assert not wrong


# ---------------------------------------------------------------------------------------------------- parameters


def differences(owner: str, name: str, theirs: list[Parameter], ours: Callable[..., object]) -> Iterator[str]:
    """What a call that the release takes would meet here, parameter by parameter."""
    here = dict(inspect.signature(ours).parameters)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in here.values())
    places = list(here)
    for place, wanted in enumerate(theirs):
        label = f"{owner}.{name}({wanted.name})"
        excused = (owner, name, wanted.name) in OTHER_PARAMETERS
        if wanted.kind in ("VAR_POSITIONAL", "VAR_KEYWORD"):
            if not excused and wanted.name not in here:
                yield f"{label}: any number of arguments is not taken"
            continue
        if wanted.name not in here:
            if not takes_any:
                yield f"{label}: there is no such parameter among {places}"
            continue
        if places.index(wanted.name) != place and not excused:
            yield f"{label}: it stands at place {places.index(wanted.name)}, not {place}"
        if here[wanted.name].kind.name != wanted.kind and not excused:
            yield f"{label}: it is {here[wanted.name].kind.name}, not {wanted.kind}"
        comparable = not (isinstance(wanted.default, str) and wanted.default.startswith("<"))
        if wanted.has_default and comparable and here[wanted.name].default != wanted.default:
            yield f"{label}: the default is {here[wanted.name].default!r}, not {wanted.default!r}"
    known = {wanted.name for wanted in theirs} | {"args", "kwargs"}
    open_ended = any(wanted.kind == "VAR_POSITIONAL" for wanted in theirs)
    for parameter in here.values():
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if parameter.name not in known and positional and parameter.default is parameter.empty and not open_ended:
            yield f"{owner}.{name}: {parameter.name} must be given here"


@pytest.mark.peer
def test_functions_take_the_releases_parameters(release: Release) -> None:
    found = [
        difference
        for name, theirs in release.functions.items()
        for difference in differences("", name, theirs, find_here(name))
    ]
    assert not found, "\n".join(found)


@pytest.mark.peer
def test_classes_have_the_releases_methods(release: Release) -> None:
    missing = [
        f"{owner}.{method}"
        for owner, methods in release.classes.items()
        for method in methods
        if method != owner and not callable(getattr(find_here(owner), method, None))
    ]
    assert not missing


@pytest.mark.peer
def test_methods_take_the_releases_parameters(release: Release) -> None:
    assert release.classes["HiSockServer"]["send_client"][1].name == "client"
    found = [
        difference
        for owner, methods in release.classes.items()
        for method, theirs in methods.items()
        for difference in differences(
            owner, method, theirs, find_here(owner) if method == owner else getattr(find_here(owner), method)
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.peer
def test_parameters_listed_as_different_are_in_the_release(release: Release) -> None:
    for owner, name, parameter in OTHER_PARAMETERS:
        theirs = release.classes[owner][name] if owner else release.functions[name]
        assert parameter in [each.name for each in theirs] or owner.startswith("Threaded"), (owner, name, parameter)


@pytest.mark.peer
def test_objects_have_the_releases_attributes_and_methods(release: Release) -> None:
    with (
        running.server(cache_size=2) as server,
        running.client(server, "ann", cache_size=2, loop=False) as client,
    ):
        ours: dict[str, Any] = {
            "server": server,
            "client": client,
            "ClientInfo": hisock.ClientInfo(("127.0.0.1", 5000), "ann", "red"),
            "MessageCacheMember": module_here("hisock.utils").MessageCacheMember(
                {"header": b"3", "content": b"abc", "called": True, "command": "x"}
            ),
        }
        assert set(ours) == set(release.objects)
        wrong = [
            f"{path}.{name} should be a {kind}"
            for path, members in release.objects.items()
            for name, kind in members.items()
            if not hasattr(ours[path], name) or callable(getattr(ours[path], name)) != (kind == "method")
        ]
    assert not wrong


@pytest.mark.peer
def test_classes_have_the_releases_operators(release: Release) -> None:
    wrong = [
        f"{owner}.{method}"
        for owner, methods in release.dunders.items()
        for method in methods
        if method
        not in ("__init__", "__hash__", "__eq__")  # there, all ends on one machine are equal; here only the same
        and getattr(find_here(owner), method, None) in (None, getattr(object, method, None))
    ]
    assert not wrong


def test_servers_and_clients_compare_by_address() -> None:
    with running.server() as server, running.client(server, loop=False) as client:
        for end in (server, client):
            assert end > "127.0.0.0:1"
            assert end >= "127.0.0.1:1"
            assert end < "127.0.0.2:1"
            assert end <= "127.0.0.1:1"
            assert not end > "127.0.0.1:1"
            with pytest.raises(TypeError):
                assert end > 5
            assert f"{server.get_addr()[0]}:{server.get_addr()[1]}" in str(end)
            assert str(end) == repr(end)


# -------------------------------------------------------------------------- the contract, the reference, the tutorial

NAMES = """
    HiSockServer HiSockClient ThreadedHiSockServer ThreadedHiSockClient start_server start_threaded_server connect
    threaded_connect ClientInfo get_local_ip input_server_config input_client_config ipstr_to_tup iptup_to_str
    server client utils constants install_as_hisock
"""

MEMBERS = {
    "HiSockServer": """
        get_addr get_all_clients get_client get_group on run send_all_clients send_client send_client_raw send_group
        send_group_raw send_all_clients_raw start close recv recv_raw disconnect_client disconnect_all_clients get_cache
        addr header_len
    """,
    "HiSockClient": """
        close on raw_send recv_raw update start send recv get_client change_name change_group get_cache
        get_server_addr get_client_addr name group original_name original_group connect_time connected addr
    """,
    "ThreadedHiSockServer": "start close start_server stop_server join",
    "ThreadedHiSockClient": "start close start_client stop_client join",
    "ClientInfo": "ip name group as_dict ipstr ip_as_str client_dict",
}

REFERENCE_PARAMETERS = {
    "server.HiSockServer": ["addr", "blocking", "max_connections", "header_len", "tls"],
    "server.HiSockServer.get_all_clients": ["self", "key"],
    "server.HiSockServer.get_client": ["self", "client"],
    "server.HiSockServer.get_group": ["self", "group"],
    "server.HiSockServer.on": ["self", "command", "threaded", "override"],
    "server.HiSockServer.send_all_clients": ["self", "command", "content"],
    "server.HiSockServer.send_client": ["self", "client", "command", "content"],
    "server.HiSockServer.send_client_raw": ["self", "client", "content"],
    "server.HiSockServer.send_group": ["self", "group", "command", "content"],
    "server.HiSockServer.send_group_raw": ["self", "group", "content"],
    "server.HiSockServer.disconnect_client": ["self", "client", "force", "call_func"],
    "server.HiSockServer.disconnect_all_clients": ["self", "force"],
    "server.HiSockServer.recv": ["self", "recv_on", "recv_as", "timeout"],
    "server.HiSockServer.start": ["self", "callback", "error_handler"],
    "client.HiSockClient": ["addr", "name", "group", "blocking", "header_len"],
    "client.HiSockClient.on": ["self", "command", "threaded", "override"],
    "client.HiSockClient.raw_send": ["self", "content"],
    "client.HiSockClient.close": ["self", "emit_leave"],
    "client.HiSockClient.recv": ["self", "recv_on", "recv_as", "timeout"],
    "client.HiSockClient.start": ["self", "callback", "error_handler"],
}
"""First parameters, in their order."""


def test_the_package_has_every_name() -> None:
    assert [name for name in NAMES.split() if not hasattr(hisock, name)] == []
    assert set(NAMES.split()) - {"install_as_hisock"} <= set(hisock.__all__), "the star import brings them"


def test_the_star_import_brings_nothing_private() -> None:
    space: dict[str, object] = {}
    exec(f"from {HERE} import *", space)
    assert set(NAMES.split()) - {"install_as_hisock"} <= set(space)
    assert [name for name in space if name.startswith("_") and name not in ("__builtins__", "__version__")] == []


def test_objects_have_every_member() -> None:
    with running.server() as server, running.client(server, loop=False) as client:
        made: dict[str, object] = {
            "HiSockServer": server,
            "HiSockClient": client,
            "ThreadedHiSockServer": hisock.ThreadedHiSockServer,
            "ThreadedHiSockClient": hisock.ThreadedHiSockClient,
            "ClientInfo": hisock.ClientInfo(("127.0.0.1", 1), None, None),
        }
        assert set(made) == set(MEMBERS)
        missing = [
            f"{owner}.{member}"
            for owner, members in MEMBERS.items()
            for member in members.split()
            if not hasattr(made[owner], member)
        ]
    assert not missing


def test_parameters_stand_where_the_documents_have_them() -> None:
    for path, expected in REFERENCE_PARAMETERS.items():
        module, *rest = path.split(".")
        found: Any = module_here(f"hisock.{module}")
        for name in rest:
            found = getattr(found, name)
        assert list(inspect.signature(found).parameters)[: len(expected)] == expected, path


def test_modules_hold_the_same_objects_as_the_package() -> None:
    for module, members in {
        "server": ["HiSockServer", "ThreadedHiSockServer", "start_server", "start_threaded_server"],
        "client": ["HiSockClient", "ThreadedHiSockClient", "connect", "threaded_connect"],
        "utils": ["ClientInfo", "get_local_ip", "input_server_config", "input_client_config", "ipstr_to_tup"],
    }.items():
        for name in members:
            assert getattr(module_here(f"hisock.{module}"), name) is getattr(hisock, name)
    assert issubclass(hisock.ThreadedHiSockServer, HiSockServer)
    assert issubclass(hisock.ThreadedHiSockClient, HiSockClient)


# --------------------------------------------------------------------------------------------------- import hisock

INSTALLED = """
import simplesockets.hisock as ours
ours.install_as_hisock()
ours.install_as_hisock()

import hisock
import hisock.server, hisock.client, hisock.constants
from hisock.utils import ClientInfo, ipstr_to_tup
from hisock.client import connect
from hisock import *

assert hisock is ours, hisock
assert hisock.server is ours.server and hisock.utils is ours.utils and hisock.client is ours.client
assert ClientInfo is ours.ClientInfo and connect is ours.connect
assert HiSockServer is ours.HiSockServer
assert hisock.server.HiSockServer is ours.HiSockServer
print(hisock.utils.__name__)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    root = pathlib.Path(hisock.__file__).parents[2]
    return subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=LIFETIME)


def test_import_hisock_finds_this_package_once_it_is_installed() -> None:
    done = run(INSTALLED)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{HERE}.utils\n"


def test_import_hisock_finds_nothing_without() -> None:
    done = run("import simplesockets.hisock\ntry: import hisock\nexcept ImportError: print('not there')")
    assert done.stdout == "not there\n", done.stderr


# ------------------------------------------------------------------------------------------------------- utilities


@pytest.mark.parametrize(
    ("text", "pair"), [("127.0.0.1:5000", ("127.0.0.1", 5000)), ("10.1.2.3:65535", ("10.1.2.3", 65535))]
)
def test_addresses_as_text_and_as_tuple(text: str, pair: tuple[str, int]) -> None:
    assert hisock.ipstr_to_tup(text) == pair
    assert hisock.iptup_to_str(pair) == text


def test_text_that_is_no_address_is_refused() -> None:
    for text in ("", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "1.2.3:80", "127.0.0.1:70000", "a:b:c"):
        with pytest.raises(ValueError, match=r"address|port|IP"):
            hisock.ipstr_to_tup(text)


def test_make_header_pads_to_its_length() -> None:
    utils = module_here("hisock.utils")
    assert utils.make_header(b"12345", 8) == b"5       "
    assert utils.make_header("12345", 8, encode=False) == "5       "
    with pytest.raises(ValueError, match="header"):
        utils.make_header(b"x" * 100, 2)


def test_get_local_ip() -> None:
    assert isinstance(hisock.get_local_ip(), str)
    assert isinstance(hisock.get_local_ip(all_ips=True), list)


def ask(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Answer what input() asks; returns the questions."""
    asked: list[str] = []
    left = iter(answers)

    def answer(question: str = "") -> str:
        asked.append(question)
        return next(left)

    monkeypatch.setattr("builtins.input", answer)
    return asked


def test_input_server_config_asks_until_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(monkeypatch, "nonsense", "127.0.0.1", "99999", "port", "5000")
    assert hisock.input_server_config("IP? ", "Port? ") == ("127.0.0.1", 5000)
    assert asked == ["IP? ", "IP? ", "Port? ", "Port? ", "Port? "]


def test_input_client_config_leaves_out_what_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(monkeypatch, "127.0.0.1", "5000", "ann", "red")
    assert hisock.input_client_config() == (("127.0.0.1", 5000), "ann", "red")
    assert len(asked) == 4
    ask(monkeypatch, "127.0.0.1", "5000")
    assert hisock.input_client_config(name_prompt=None, group_prompt=None) == (("127.0.0.1", 5000),)
