"""The shape of the package: who may import whom, and that everything public says what it does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import simplesockets

PACKAGE = Path(simplesockets.__file__).parent

ORDER = [
    "errors",
    "hints",
    "events",
    "stats",
    "framing",
    "timing",
    "locking",
    "hotpath",
    "redis_url",
    "protocol",
    "transport",
    "readiness",
    "tls",
    "certificates",
    "mailbox",
    "outbox",
    "dispatch",
    "connection",
    "files",
    "crew",
    "leader",
    "engine",
    "pool",
    "endpoint",
    "reconnection",
    "client",
    "workers",
    "monitor",
    "statsservice",
    "watching",
    "server",
    "secure",
]
"""A file imports only from those before it."""
EXTRAS = ["prometheus"]
"""Files that programs alone import."""
OLD_PATHS = ["simple_sockets", "simplesockets", "secure_sockets", "typehints"]
"""Import paths of earlier releases; they hold no code."""
PROGRAMS = ["__init__", "__main__"]
"""Files that may import everything."""
PURE = [
    "events",
    "framing",
    "timing",
    "protocol",
    "hisock/errors",
    "hisock/casting",
    "hisock/protocol",
    "hisock/groups",
    "hisock/backplane",
    "hisock/neighbours",
    "check/vocabulary",
    "check/facts",
    "check/reader",
    "check/signatures",
    "check/rules",
]
IMPURE_MODULES = {"socket", "select", "selectors", "threading", "time", "random", "secrets", "ssl", "asyncio", "os"}
SOCKET_USERS = ["errors", "transport", "tls", "engine", "client", "server"]
LAYERS = ["hisock", "hpx"]
"""Protocols in packages of their own, built on the client and the server."""
TOOLS = ["check"]
"""Packages that stand alone."""
HPX_ORDER = [
    "exceptions",
    "codec",
    "protocol",
    "sessions",
    "functions",
    "redis_link",
    "redis_sessions",
    "redis_commands",
    "redis_node",
    "conversation",
    "service",
    "server",
    "client",
    "notes",
    "command",
    "playing",
]
"""Likewise, in the hpx package."""
HPX_PURE = ["exceptions", "codec", "protocol", "sessions", "functions", "conversation"]
PLAYGROUND_ORDER = ["history", "forms", "line", "bench", "worker", "feed", "guard", "web", "playground"]
"""Likewise, in the playground's, which nothing imports before it is used: it needs an extra."""
PLAYGROUND_PURE = ["history", "forms"]

FILES = sorted(PACKAGE.rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from running(node)


def imports(path: Path) -> set[str]:
    """The full names of the modules that a file imports, and of what it imports from packages."""
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in running(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def internal(path: Path) -> set[str]:
    """The parts of this package that a file imports, such as ``events`` or ``hisock``."""
    parts = {name.split(".")[1] for name in imports(path) if name.startswith(f"{PACKAGE.name}.")}
    return {part for part in parts if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()}


def external(path: Path) -> set[str]:
    """The top-level modules of others that a file imports."""
    return {name.split(".")[0] for name in imports(path)} - {PACKAGE.name}


def file(name: str) -> Path:
    return PACKAGE / f"{name}.py"


def test_every_file_has_its_place() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*ORDER, *EXTRAS, *OLD_PATHS, *PROGRAMS}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= {*LAYERS, *TOOLS}


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way_only(name: str) -> None:
    assert internal(file(name)) <= set(ORDER[: ORDER.index(name)])


def test_the_order_is_no_longer_than_it_has_to_be() -> None:
    # else the test above could not tell a file that imports nothing from one whose imports it does not see
    imported = set[str]().union(*(internal(path) for path in FILES if path.stem not in PROGRAMS))
    assert imported >= {*ORDER}


@pytest.mark.parametrize("name", PURE)
def test_pure_files_know_no_socket_no_thread_no_clock_and_no_chance(name: str) -> None:
    assert not external(file(name)) & IMPURE_MODULES


@pytest.mark.parametrize("name", ORDER)
def test_few_files_know_sockets(name: str) -> None:
    assert ("socket" in external(file(name))) <= (name in SOCKET_USERS)


@pytest.mark.parametrize("name", ["client", "server"])
def test_clients_and_servers_know_the_socket_type_and_none_of_its_functions(name: str) -> None:
    names = {each.removeprefix("socket.") for each in imports(file(name)) if each.startswith("socket")}
    assert names <= {"socket", "AF_INET", "SOCK_STREAM"}


@pytest.mark.parametrize("name", OLD_PATHS)
def test_old_import_paths_hold_no_code(name: str) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    assert all(isinstance(node, allowed) for node in parsed(file(name)).body)


def test_every_file_of_hpx_has_its_place() -> None:
    assert {path.stem for path in (PACKAGE / "hpx").glob("*.py")} == {*HPX_ORDER, "__init__"}


@pytest.mark.parametrize("name", HPX_ORDER)
def test_imports_of_hpx_point_one_way_only(name: str) -> None:
    path = PACKAGE / "hpx" / f"{name}.py"
    own = {each.split(".")[2] for each in imports(path) if each.startswith(f"{PACKAGE.name}.hpx.")} & {*HPX_ORDER}
    assert own <= set(HPX_ORDER[: HPX_ORDER.index(name)])
    assert (name in HPX_PURE) <= (not external(path) & IMPURE_MODULES)
    assert ("socket" in external(path)) <= (name in ("server", "playing"))  # an option's number; Ctrl-C


def test_every_file_of_the_playground_has_its_place() -> None:
    assert {path.stem for path in (PACKAGE / "hpx" / "playground").glob("*.py")} == {*PLAYGROUND_ORDER, "__init__"}


@pytest.mark.parametrize("name", PLAYGROUND_ORDER)
def test_imports_of_the_playground_point_one_way_only(name: str) -> None:
    path = PACKAGE / "hpx" / "playground" / f"{name}.py"
    prefix = f"{PACKAGE.name}.hpx.playground."
    own = {each.removeprefix(prefix).split(".")[0] for each in imports(path) if each.startswith(prefix)}
    assert own <= set(PLAYGROUND_ORDER[: PLAYGROUND_ORDER.index(name)])
    assert (name in PLAYGROUND_PURE) <= (not external(path) & IMPURE_MODULES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers_are_built_on_the_engine_and_not_on_each_other(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0]
    if own != "__main__.py":
        assert internal(path) & {*LAYERS, *TOOLS} <= {own}
    if own in TOOLS:
        assert internal(path) <= {own}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_says_what_it_does(path: Path) -> None:
    assert list(undocumented(parsed(path), "")) == []


def undocumented(scope: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    """The names in a module or class that lack a docstring."""
    if not ast.get_docstring(scope):
        yield prefix or "the module"
    for node in scope.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node, f"{prefix}{node.name}.")
        elif not decorators & {"setter", "deleter", "overload"} and not ast.get_docstring(node):
            yield f"{prefix}{node.name}"
