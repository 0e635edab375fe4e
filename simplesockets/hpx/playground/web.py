"""What the page asks for: its files, the live channel, and what a person wants done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from ...errors import SimpleSocketsError
from ..protocol import Json, ServerCommand
from .bench import Bench, sentence
from .feed import Feed
from .forms import BadInput, call_of, free_call, message_of
from .guard import Guard
from .worker import Task, Worker

MOST_BODY = 8 * 1024 * 1024
"""Bytes of a request at most."""

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_TOKEN_PLACE = "{{token}}"

Body = dict[str, Json]
Action = Callable[[Body], Task]
"""Reads what was asked for; gives what has to be done, which may wait."""


class Refused(Exception):
    """A request is not answered as it was meant.

    Args:
        status: of the answer.
        what: why, in a sentence.
        fields: what is wrong, by field of the form.
    """

    def __init__(self, status: int, what: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(what)
        self.status = status
        self.content = {"error": what, "fields": fields or {}}


class Web:
    """The playground's web application.

    Args:
        bench: what it works with.
        feed: its live channel.
        worker: does what may wait.
        port: where it listens.
        token: what requests have to bring.
    """

    def __init__(self, bench: Bench, feed: Feed, worker: Worker, port: int, token: str) -> None:
        self._bench = bench
        self._feed = feed
        self._worker = worker
        self._token = token
        actions: dict[str, Action] = {
            "connect": lambda body: bench.connect,
            "disconnect": lambda body: bench.disconnect,
            "clear": lambda body: bench.clear,
            "functions": lambda body: bench.ask_functions,
            "handshake": self._handshake,
            "session": self._session,
            "command": self._command,
            "call": self._call,
            "send": self._send,
        }
        routes = [
            Route("/", self._file("playground.html")),
            *(Route(f"/page/{name}", self._file(name)) for name in ("playground.css", "playground.js", "icon.svg")),
            Route("/events", self._events),
            Route("/exchanges/{number:int}", self._exchange),
            *(Route(f"/do/{name}", self._endpoint(action), methods=["POST"]) for name, action in actions.items()),
        ]
        self.app: ASGIApp = Guard(Starlette(routes=routes, exception_handlers={Refused: _refused}), port, token)
        """The ASGI application."""

    # --------------------------------------------------------------------------------------------------- reading

    def _file(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        content = (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")
        content = content.replace(_TOKEN_PLACE, self._token)

        async def give(_: Request) -> Response:
            return Response(content, media_type=_KINDS[name[name.rindex(".") :]])

        return give

    async def _events(self, request: Request) -> Response:
        if self._feed.full:
            raise Refused(503, "Too many pages of the playground are open")
        after = request.headers.get("last-event-id", "")
        number = int(after) if after.isascii() and after.isdigit() and len(after) < 20 else 0
        return StreamingResponse(self._feed.listen(number), media_type="text/event-stream")

    async def _exchange(self, request: Request) -> Response:
        found = self._bench.exchange(request.path_params["number"])
        if found is None:
            raise Refused(404, "This exchange is not kept any more")
        return JSONResponse(found.shown(most=None))

    # ---------------------------------------------------------------------------------------------------- acting

    def _endpoint(self, action: Action) -> Callable[[Request], Awaitable[Response]]:
        async def act(request: Request) -> Response:
            body = await _body(request)
            try:
                await asyncio.wrap_future(self._worker.run(action(body)))
            except BadInput as failure:
                raise Refused(400, "Please look at what was typed", failure.fields) from failure
            except SimpleSocketsError as failure:
                raise Refused(502, sentence(failure)) from failure
            except OverflowError as failure:
                raise Refused(503, str(failure)) from failure
            return JSONResponse({})

        return act

    def _handshake(self, body: Body) -> Task:
        user, password = _text(body, "user"), _text(body, "password")
        if not user and password:
            raise BadInput({"user": "The user's name is missing"})
        return lambda: self._bench.shake_hands(user or None, password)

    def _session(self, body: Body) -> Task:
        session = _text(body, "session")
        return lambda: self._bench.use_session(session)

    def _command(self, body: Body) -> Task:
        word = _text(body, "command")
        if word not in [each.word for each in ServerCommand]:
            raise Refused(400, "That is no server command")
        return lambda: self._bench.ask(word)

    def _call(self, body: Body) -> Task:
        fname, more = _text(body, "fname"), _text(body, "more")
        typed = body.get("arguments", {})
        if not isinstance(typed, dict):
            raise Refused(400, "'arguments' has to be an object of texts")
        function = None if body.get("free") is True else self._bench.function(fname)
        if function is None:
            call = free_call(fname, more)
        else:
            call = call_of(function, {name: _text(typed, name) for name in typed}, more)
        return lambda: self._bench.ask([call])

    def _send(self, body: Body) -> Task:
        message = message_of(_text(body, "text"))
        return lambda: self._bench.send(message)


def _text(body: Body, name: str) -> str:
    text = body.get(name, "")
    if not isinstance(text, str):
        raise Refused(400, f"'{name}' has to be text")
    return text


async def _body(request: Request) -> Body:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "A request has to be JSON (content-type: application/json)")
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MOST_BODY:
            raise Refused(413, f"That is too long: {MOST_BODY >> 20} MiB at most")
    try:
        body = json.loads(received or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "The request is no JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "The request is no JSON object")
    return body


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return JSONResponse(refused.content, refused.status)
