"""Released packages to test and measure against, each in a virtual environment of its own.

Their import names collide with ours and with each other, so they never share an interpreter with the tests:
a test starts `peer_python(...)` as a subprocess. Environments live under `.peers/` beside this repository's
`setup.cfg` and are kept between runs.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

PEERS_DIR = pathlib.Path(__file__).resolve().parents[2] / ".peers"

INSTALL_TIMEOUT = 300.0  # seconds, for one environment as a whole
_MARKER = "complete"  # written last, so that an environment without it is known to be half made
_IN_ENVIRONMENT = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")

_failures: dict[tuple[str, ...], str] = {}  # what did not install once is not tried again by this process


class PeerUnavailable(Exception):
    """A peer could not be installed; the message says which one and why.

    ``.ci/run`` looks for its last words among the reasons of skipped tests.
    """

    def __str__(self) -> str:
        return f"{self.args[0]} (a released package that cannot be installed)"


def peer_python(requirement: str, *extra: str) -> pathlib.Path:
    """Return the interpreter of an environment that has `requirement` (and `extra` requirements) installed.

    The first call makes the environment, within INSTALL_TIMEOUT seconds; later ones, of any process, find it.
    Several processes and threads may ask for the same one at once. Only `python -m …` is meant to be run from
    it: its scripts name the directory in which it was built.

    Raises PeerUnavailable where it cannot be made, for instance without a network.
    """
    wanted = (requirement, *extra)
    if wanted in _failures:
        raise PeerUnavailable(_failures[wanted])
    home = PEERS_DIR / _directory_name(wanted)
    if not _is_complete(home):
        try:
            _make(home, wanted)
        except PeerUnavailable as reason:
            _failures[wanted] = reason.args[0]
            raise
    return home.joinpath(*_IN_ENVIRONMENT)


def _directory_name(wanted: tuple[str, ...]) -> str:
    readable = "+".join(re.sub(r"[^A-Za-z0-9.]+", "-", each).strip("-") for each in wanted)
    return f"{readable}-{sys.implementation.cache_tag}"


def _is_complete(home: pathlib.Path) -> bool:
    # The interpreter is a link that dangles once the Python that made it is gone.
    return (home / _MARKER).exists() and home.joinpath(*_IN_ENVIRONMENT).exists()


def _make(home: pathlib.Path, wanted: tuple[str, ...]) -> None:
    """Build beside `home` and rename: nobody sees a half made environment, and the first to finish wins."""
    try:
        PEERS_DIR.mkdir(parents=True, exist_ok=True)
        building = pathlib.Path(tempfile.mkdtemp(prefix=f"{home.name}.building-", dir=PEERS_DIR))
    except OSError as error:
        raise PeerUnavailable(f"{wanted[0]}: no place for its environment: {error}") from error
    try:
        _install(building, wanted)
        _publish(building, home)
    except OSError as error:
        raise PeerUnavailable(f"{wanted[0]}: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _install(building: pathlib.Path, wanted: tuple[str, ...]) -> None:
    deadline = time.monotonic() + INSTALL_TIMEOUT
    python = building.joinpath(*_IN_ENVIRONMENT)
    _run([sys.executable, "-I", "-m", "venv", str(building)], building, wanted[0], deadline)
    pip = [str(python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    # One retry: a machine without a network should learn it in seconds.
    _run([*pip, "--retries", "1", *wanted], building, wanted[0], deadline)
    (building / _MARKER).write_text("\n".join(wanted) + "\n", encoding="utf-8")


def _run(command: list[str], cwd: pathlib.Path, peer: str, deadline: float) -> None:
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=cwd,  # not the repository, whose package must not be found in the peer's place
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(deadline - time.monotonic(), 0.0),
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"{peer}: not installed within {INSTALL_TIMEOUT:g} s") from error
    if done.returncode != 0:
        raise PeerUnavailable(f"{peer}: {_why(done.stdout)}")


def _why(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return " / ".join(errors or lines[-4:]) or "the installer failed without a word"


def _publish(building: pathlib.Path, home: pathlib.Path) -> None:
    """Give the finished environment its name, unless somebody else's is there already."""
    for _ in range(2):
        if _is_complete(home):
            return
        try:
            building.rename(home)
            return
        except OSError:
            _clear_away(home)
    if not _is_complete(home):
        building.rename(home)


def _clear_away(home: pathlib.Path) -> None:
    """Remove a broken environment by renaming it first, so that of several processes only one deletes it."""
    if _is_complete(home):
        return
    doomed = pathlib.Path(tempfile.mkdtemp(prefix=f"{home.name}.broken-", dir=PEERS_DIR))
    try:
        home.rename(doomed / "environment")
    except OSError:
        pass  # somebody else was faster
    finally:
        shutil.rmtree(doomed, ignore_errors=True)
