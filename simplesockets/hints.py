"""What a program seems to have forgotten: said in the log, once, where it would otherwise wait in vain or end silently.

Nothing here changes what a program does. Hints are for mistakes that raise nothing, because each call by itself is
right: a server that is polled and was never started, say.
"""

from __future__ import annotations

import atexit
import difflib
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger("simplesockets")

PATIENCE = 1.0
"""Seconds for which a program polls in vain before it is told what it forgot."""
AT_ONCE = 3.0
"""Seconds after a server's start in which a program that ends seems not to know that it has to wait."""
ALIKE = 0.8
"""How much alike two names are, from 0 to 1, if one may be the other with a slip in it."""


class Forgotten:
    """Looks, while a thread polls, whether something is missing without which nothing can come.

    Args:
        missing: a method that gives what to do first, as a sentence; None while nothing is missing. Its object is not
            kept alive.
    """

    def __init__(self, missing: Callable[[], str | None]) -> None:
        self._missing = weakref.WeakMethod(missing)
        self._since = 0.0  # when it was missing first, in this waiting
        self._looked: float | None = None  # when it was missing at the latest look
        self._told = False

    def __call__(self) -> None:
        """Look once. Called by threads that wait, so it costs them nothing."""
        missing = None if self._told else self._missing()
        what = None if missing is None else missing()
        if what is None:
            self._looked = None
            return
        now = time.monotonic()
        if self._looked is None or now - self._looked > PATIENCE:  # it did something else than wait
            self._since = now
        self._looked = now
        if now - self._since > PATIENCE:
            self._told = True
            log.warning("the program waits for data, but %s", what)


_compared = False  # whether the program was told that bytes are no text


def text_is_no_bytes(text: str) -> None:
    """Received data was compared with text."""
    global _compared
    if not _compared:
        _compared = True
        shown = text[:40].encode(errors="replace")
        log.warning("received data is bytes and never equals text: compare it with %r, or compare data.decode()", shown)


def alike(name: str, names: Iterable[str]) -> str | None:
    """Which of the names was meant by another one that has a slip in it; None if none was."""
    known = list(names)
    found = [] if name in known else difflib.get_close_matches(name, known, 1, ALIKE)
    return found[0] if found else None


def warn_of_misspelt(
    given: Iterable[str], callbacks: Mapping[str, object | None], owner: object, told: set[str]
) -> None:
    """Tell which attributes of a program's are nearly callbacks. They are never called.

    Args:
        given: the names of the program's own attributes of the server or client.
        callbacks: what is called, by the name; None where nothing is yet. Where something is, a name that is nearly the
            same is the program's own affair.
        owner: the server or client.
        told: the names of which the program was told already. This function adds to them.
    """
    for name in given:
        if not name.startswith("on_") or name in told:
            continue
        meant = alike(name, callbacks)
        if meant is not None and callbacks[meant] is None:
            told.add(name)
            log.warning("%s of %r is never called; its name should be %s", name, owner, meant)


# ------------------------------------------------------------------------------------------------- at the end

# Servers that accept, and to which nobody came yet: by identity, as a program may say what equals what; and since when.
_waiting: dict[int, tuple[weakref.ref[object], float]] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)  # they are the other process's


def expect_clients(server: object) -> None:
    """This server accepts clients from now on. If the program ends at once, before one came, it is told."""
    _waiting[id(server)] = weakref.ref(server), time.monotonic()


def expect_none(server: object) -> None:
    """Somebody came to this server, or it was closed, or nobody has to come."""
    _waiting.pop(id(server), None)


def _tell_at_the_end() -> None:
    if getattr(sys, "last_type", None) is not None:  # an exception ended it, and that was told; Ctrl-C is one
        return
    now = time.monotonic()
    for reference, since in list(_waiting.values()):
        server = reference()
        if server is not None and now - since < AT_ONCE:
            log.warning(
                "the program ends, and with it %r, to which nobody came. A server works in the background: keep the "
                "program running, with threading.Event().wait() for example, or close() the server where it may end",
                server,
            )


atexit.register(_tell_at_the_end)
