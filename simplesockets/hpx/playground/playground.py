"""The playground itself: a web server for one page, on this machine alone."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from types import TracebackType

import uvicorn
from typing_extensions import Self

from ...errors import SetupError
from ...timing import Deadline
from ...transport import check_port, listen
from ..protocol import Json
from .bench import Bench, Place
from .feed import Feed
from .web import Web
from .worker import Worker

log = logging.getLogger("simplesockets.hpx.playground")

HOST = "127.0.0.1"
"""Where it listens: nowhere else."""
PORT = 7008
"""Its default port."""

_BACKLOG = 16
_LAST_ANSWERS = 1  # seconds for them, when it ends


class Playground:
    """A web page that shows what an HPX server and a client say to each other, and lets a person try calls::

        with Playground(("127.0.0.1", 7007)) as playground:
            print(playground.url)
            input("Enter ends it")

    Args:
        server: the HPX server's address, or a function that gives it, asked before each attempt to connect.
        port: of the page, on 127.0.0.1; 0 takes a free one.
        name: what the client calls itself in messages.
        functions: the server's ``describe_functions()``, where that is at hand; otherwise the page can ask for it.
        ssl_context: for TLS to the server.

    Raises:
        TypeError, ValueError: the port is none.

    Needs the extra ``simplesockets[playground]``. Everything may be called from any thread.
    """

    def __init__(
        self,
        server: tuple[str, int] | Place,
        port: int = PORT,
        *,
        name: str = "playground",
        functions: Iterable[dict[str, Json]] = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        check_port(port, zero=True)
        if callable(server):
            place, shown = server, "the server"
        else:
            address = server
            check_port(address[1], zero=False)
            place, shown = lambda: address, "{}:{}".format(*address)
        self._port = port
        self._bench = Bench(place, name, shown, functions=functions, ssl_context=ssl_context)
        self._lock = (
            threading.RLock()
        )  # a signal handler may close; protects what follows, not held while anybody is waited for
        self._state = "new"
        self._workers: tuple[Worker, ...] = ()
        self._thread: threading.Thread | None = None
        self._serving: tuple[uvicorn.Server, Feed] | None = None
        self._begun = threading.Event()

    @property
    def url(self) -> str:
        """The page's address.

        Raises:
            SetupError: it is not running.
        """
        if self._state != "running":
            raise SetupError("the playground is not running; start() it first")
        return f"http://{HOST}:{self._port}/"

    # ------------------------------------------------------------------------------------------------- lifecycle

    def start(self) -> None:
        """Serve the page in the background, and begin to connect to the server, which need not be there yet.

        Raises:
            BindError: the port is in use; the message says what to try.
            SetupError: it was started before.
        """
        with self._lock:
            if self._state != "new":
                raise SetupError(f"this playground is {self._state} already; make a new one")
            listener = listen(HOST, self._port, _BACKLOG)
            self._port = listener.getsockname()[1]
            self._state = "running"
            name = f"simplesockets-playground-{self._port}"
            worker, aside = self._workers = Worker(f"{name}-talk"), Worker(f"{name}-aside")
            self._thread = threading.Thread(target=self._run, args=(listener, worker, aside), name=name, daemon=True)
            self._thread.start()
        self._begun.wait()
        worker.run(self._bench.connect)

    def _run(self, listener: socket.socket, worker: Worker, aside: Worker) -> None:
        try:
            asyncio.run(self._serve(listener, worker, aside))
        except Exception:
            log.exception("the playground's web server failed")
        finally:
            self._begun.set()
            listener.close()

    async def _serve(self, listener: socket.socket, worker: Worker, aside: Worker) -> None:
        feed = Feed(self._bench, asyncio.get_running_loop())
        web = Web(self._bench, feed, worker, aside, self._port, secrets.token_urlsafe(32))
        config = uvicorn.Config(
            web.app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS,
        )
        server = uvicorn.Server(config)
        self._serving = (server, feed)
        self._begun.set()
        await server.serve(sockets=[listener])

    def close(self, timeout: float = 5.0) -> None:
        """End the page, the connection to the server, and all threads. May be repeated.

        Args:
            timeout: seconds that it takes at most. A thread that looks a host name up for longer is left behind, with
                a logged warning.
        """
        deadline = Deadline(timeout, time.monotonic())
        with self._lock:
            self._state = "closed"
            workers, thread = self._workers, self._thread
        self._bench.close()
        if thread is None:
            return
        self._begun.wait()
        if self._serving is not None:
            server, feed = self._serving
            feed.close()
            server.should_exit = True
        for worker in workers:
            worker.close(deadline.left(time.monotonic()))
        thread.join(deadline.left(time.monotonic()))
        busy = [each.name for each in (*(worker.thread for worker in workers), thread) if each.is_alive()]
        if busy:
            log.warning("close() left a thread behind that is busy (or looks a host name up): %s", ", ".join(busy))

    def __enter__(self) -> Self:
        try:
            self.start()
        except KeyboardInterrupt:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
