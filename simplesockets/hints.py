"""What a program seems to have forgotten: said in the log, once, where it would otherwise wait in vain or end silently.

Nothing here changes what a program does. Hints are for mistakes that raise nothing, because each call by itself is
right: a server that is polled and was never started, say.
"""

from __future__ import annotations

import atexit
import difflib
import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger("simplesockets")

PATIENCE = 1.0
"""Seconds for which a program polls in vain before it is told what it forgot."""
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
        self._since: float | None = None  # when it was missing first
        self._told = False

    def __call__(self) -> None:
        """Look once. Called by threads that wait, so it costs them nothing."""
        missing = None if self._told else self._missing()
        what = None if missing is None else missing()
        if what is None:
            self._since = None
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > PATIENCE:
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


def warn_of_misspelt(given: Mapping[str, object], callbacks: Iterable[str], owner: object) -> None:
    """Tell which attributes of a program's are nearly callbacks. They are never called.

    Args:
        given: the program's own attributes of the server or client.
        callbacks: the names that are called.
        owner: the server or client.
    """
    known = list(callbacks)
    for name in given:
        meant = alike(name, known)
        if name.startswith("on_") and meant is not None:
            log.warning("%s of %r is never called; its name should be %s", name, owner, meant)


# ------------------------------------------------------------------------------------------------- at the end

_waiting: weakref.WeakSet[object] = weakref.WeakSet()  # servers that accept, and to which nobody came yet


def expect_clients(server: object) -> None:
    """This server accepts clients from now on. If the program ends before one came, it is told."""
    _waiting.add(server)


def expect_none(server: object) -> None:
    """Somebody came to this server, or it was closed."""
    _waiting.discard(server)


def _tell_at_the_end() -> None:
    if getattr(sys, "last_type", None) is not None:  # an exception ended it, and that was told; Ctrl-C is one
        return
    for server in list(_waiting):
        log.warning(
            "the program ends, and with it %r, to which nobody came. A server works in the background: keep the "
            "program running, with threading.Event().wait() for example, or close() the server where it may end",
            server,
        )


atexit.register(_tell_at_the_end)
