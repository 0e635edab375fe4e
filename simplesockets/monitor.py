"""Shows what is counted, live: a picture in a terminal, a line a second elsewhere.

Nothing here runs beside the program: who calls :meth:`Monitor.run` draws, until a person, or another thread, ends it.
Drawing needs ``rich``, an extra; lines do not.
"""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from .errors import SetupError
from .stats import ClientStats, Snapshot, Stats
from .timing import Deadline, check_seconds
from .transport import Waker

try:
    import termios
    import tty
except ImportError:  # not POSIX: no key ends it but Ctrl-C
    _HAS_KEYS = False
else:
    _HAS_KEYS = True

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

INTERVAL = 1.0
"""Seconds from one look to the next, by default."""
COMMANDS = 5
"""How many of HiSock's commands are shown, the most frequent ones."""


class Monitor:
    """Shows snapshots, one after the other.

    Args:
        look: takes a snapshot.
        interval: seconds from one to the next.
        out: where to show them; not given: standard output.

    Raises:
        SetupError: ``out`` is a terminal, and ``rich``, which draws there, is not installed; or there is no standard
            output.
        TypeError, ValueError: the interval is no number of seconds.
    """

    def __init__(self, look: Callable[[], Snapshot], interval: float = INTERVAL, out: TextIO | None = None) -> None:
        check_seconds("interval", interval, unlimited=False)
        self._look = look
        self._interval = interval
        out = sys.stdout if out is None else out
        if out is None:  # a program without a console, or one whose output was closed
            raise SetupError("there is no standard output to show anything on")
        self._out = out
        self._draws = self._out.isatty()
        if self._draws:
            _require_rich()
        self._ended = False
        self._waker: Waker | None = None

    def run(self) -> None:
        """Show them until :meth:`close`, Ctrl-C or, in a terminal, the key q. The terminal is as before then.

        Raises:
            Whatever looking raises.
        """
        waker = self._waker = Waker()  # from here on close() wakes; before, it is seen in time
        try:
            with _lenient(self._out):
                if self._draws:
                    self._draw(waker)
                else:
                    self._print(waker)
        except KeyboardInterrupt:
            pass
        finally:
            waker.close()

    def close(self, timeout: float = 0.0) -> None:
        """End it. Any thread may call this, and a signal handler. Never waits, so the ``timeout`` is of no use."""
        self._ended = True
        waker = self._waker
        if waker is not None:
            waker.wake()

    def _print(self, waker: Waker) -> None:
        with _selector(waker, None) as selector:
            while not self._ended:
                print(line(self._look()), file=self._out, flush=True)
                self._wait(selector, None)

    def _draw(self, waker: Waker) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._out)
        with _keys() as keys, _selector(waker, keys) as selector:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while not self._ended:
                    live.update(picture(self._look()), refresh=True)
                    self._wait(selector, keys)

    def _wait(self, selector: selectors.BaseSelector, keys: int | None) -> None:
        # Until it is time for the next look; a key other than q changes nothing.
        deadline = Deadline(self._interval, time.monotonic())
        while not self._ended and (left := deadline.left(time.monotonic())):
            for key, _ in selector.select(left):
                if key.fd == keys:
                    typed = os.read(keys, 100)
                    self._ended = self._ended or not typed or b"q" in typed.lower()  # nothing: the terminal is gone


def _require_rich() -> None:
    try:
        import rich.live  # noqa: F401
    except ImportError as failure:
        raise SetupError(
            "drawing in a terminal needs the package rich, which is not installed: "
            'pip install "simplesockets[monitor]" (without it, a pipe or a file gets a line a second)'
        ) from failure


@contextlib.contextmanager
def _lenient(out: TextIO) -> Iterator[None]:
    # Characters that the output's encoding does not have become question marks: they end nothing.
    if not isinstance(out, io.TextIOWrapper):
        yield
        return
    before = out.errors
    out.reconfigure(errors="replace")
    try:
        yield
    finally:
        out.reconfigure(errors=before)


@contextlib.contextmanager
def _selector(waker: Waker, keys: int | None) -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        selector.register(waker.reader, selectors.EVENT_READ)
        if keys is not None:
            selector.register(keys, selectors.EVENT_READ)
        yield selector


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    # The descriptor that keys come from, each at once and unseen; None where there is none.
    if not _HAS_KEYS or sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


# ------------------------------------------------------------------------------------------------------ in words


_UNITS = ("kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """So many bytes, as people say it: ``"1.5 kB"``."""
    if count < 999.5:
        return f"{count:.0f} B"
    unit = -1
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.{0 if count >= 99.95 else 1}f} {_UNITS[unit]}"


def _printable(text: str) -> str:
    # What is sent by who knows whom moves no cursor.
    return "".join(each if each.isprintable() else "?" for each in text)


def _moment(form: str, seconds: float) -> str:
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, OSError, ValueError):  # somebody sent nonsense
        return "?"


def line(snapshot: Snapshot) -> str:
    """A snapshot in one line, without its clients."""
    stats, rates = snapshot.stats, snapshot.stats.rates
    return (
        f"{_moment('%H:%M:%S', stats.time)} {_printable(snapshot.title)}: "
        f"{stats.connections} connected ({stats.connections_total} in total, {stats.refused} refused), "
        f"in {size(rates.bytes_in)}/s {rates.messages_in:.0f} msg/s, "
        f"out {size(rates.bytes_out)}/s {rates.messages_out:.0f} msg/s, "
        f"{stats.queued} queued ({size(stats.queued_bytes)}), {size(stats.pending_out)} pending, {stats.errors} errors"
    )


def picture(snapshot: Snapshot) -> RenderableType:
    """A snapshot as something that rich draws."""
    from rich.console import Group
    from rich.panel import Panel

    since = _moment("%Y-%m-%d %H:%M:%S", snapshot.stats.since)
    parts: list[RenderableType] = [_overview(snapshot.stats)]
    if snapshot.stats.commands:
        parts += ["", _commands(snapshot.stats)]
    if snapshot.clients:
        parts += ["", _clients(snapshot.clients)]
    return Panel(
        Group(*parts),
        title=_plain(snapshot.title),
        title_align="left",
        subtitle=f"since {since} · q or Ctrl-C ends",
        subtitle_align="left",
    )


def _plain(text: str) -> str:
    # Brackets are no markup.
    from rich.markup import escape

    return escape(_printable(text))


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _overview(stats: Stats) -> RenderableType:
    rates = stats.rates
    table = _table("", "now", "per second", "in total")
    table.add_row("connections", f"{stats.connections}", f"{rates.connections:.1f}", f"{stats.connections_total}")
    table.add_row("refused", "", "", f"{stats.refused}")
    table.add_row("bytes in", "", size(rates.bytes_in), size(stats.bytes_in))
    table.add_row("bytes out", "", size(rates.bytes_out), size(stats.bytes_out))
    table.add_row("messages in", "", f"{rates.messages_in:.1f}", f"{stats.messages_in}")
    table.add_row("messages out", "", f"{rates.messages_out:.1f}", f"{stats.messages_out}")
    table.add_row("queued", f"{stats.queued} ({size(stats.queued_bytes)})", "", "")
    table.add_row("pending out", size(stats.pending_out), "", "")
    table.add_row("errors", "", "", f"{stats.errors}")
    return table


def _commands(stats: Stats) -> RenderableType:
    table = _table("command", "messages")
    for name, count in sorted(stats.commands.items(), key=lambda each: -each[1])[:COMMANDS]:
        table.add_row(_plain(name), f"{count}")
    return table


def _clients(clients: tuple[ClientStats, ...]) -> RenderableType:
    table = _table("busiest clients", "per second", "in", "out", "messages in", "messages out")
    for each in clients:
        sizes = [size(number) for number in (each.rate, each.bytes_in, each.bytes_out)]
        table.add_row(_plain(each.client), *sizes, f"{each.messages_in}", f"{each.messages_out}")
    return table
