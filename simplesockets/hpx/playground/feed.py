"""The live channel: what changed on the bench, as server-sent events, for every page that is open.

Nothing is queued for a page. A change only wakes it, and it fetches what it does not know yet. So a page that is slow,
or a server that floods, costs no more memory than the history has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

from ..protocol import Json
from .bench import Bench, News

MOST_PAGES = 32
"""Pages that listen at a time."""


class Feed:
    """What changed, for pages.

    Args:
        bench: where it changes.
        loop: in which :meth:`listen` is called.
    """

    def __init__(self, bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
        self._bench = bench
        self._loop = loop
        self._pages: set[asyncio.Event] = set()  # one for each; the loop's thread alone
        self._due = False  # a wake-up is on its way
        self._closed = False
        bench.on_change = self.changed

    @property
    def full(self) -> bool:
        """Whether no further page may listen."""
        return len(self._pages) >= MOST_PAGES

    def changed(self) -> None:
        """Something changed. May be called from any thread."""
        if not self._due:
            self._due = True
            with contextlib.suppress(RuntimeError):  # the loop is over
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._due = False
        for page in self._pages:
            page.set()

    def close(self) -> None:
        """Tell all pages that it is over. May be called from any thread."""
        self._closed = True
        self.changed()

    async def listen(self, after: int) -> AsyncIterator[str]:
        """All that a page has to know, from now on, until :meth:`close`. Nothing, if too many listen.

        Args:
            after: number of the latest exchange that it knows.
        """
        if self.full:  # since it was asked
            return
        page = asyncio.Event()
        self._pages.add(page)
        revision = (0, 0)
        try:
            while not self._closed:
                page.clear()
                news = self._bench.news(revision, after)
                revision = news.revision
                for event in _events(news):
                    yield event
                after = news.exchanges[-1].number if news.exchanges else after
                await page.wait()
            yield _event("end", None)
        finally:
            self._pages.discard(page)


def _events(news: News) -> Iterator[str]:
    if news.functions is not None:
        yield _event("functions", [each.shown() for each in news.functions])
    for exchange in news.exchanges:
        yield _event("exchange", exchange.shown(), exchange.number)
    if news.state is not None:
        yield _event("state", news.state)


def _event(kind: str, data: Json, number: int | None = None) -> str:
    # In ASCII, and without line ends: those would end the event.
    identity = "" if number is None else f"id: {number}\n"
    return f"{identity}event: {kind}\ndata: {json.dumps(data)}\n\n"
