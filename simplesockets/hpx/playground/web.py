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
from starlette.types import ASGIApp, ExceptionHandler

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
        aside: does what has to be done while that waits: it may end the waiting.
        port: where it listens.
        token: what requests have to bring.
    """

    def __init__(self, bench: Bench, feed: Feed, worker: Worker, aside: Worker, port: int, token: str) -> None:
        self._bench = bench
        self._feed = feed
        self._token = token
        at_once: dict[str, Action] = {
            "disconnect": lambda body: bench.disconnect,
            "clear": lambda body: bench.clear,
            "session": self._session,
        }
        in_turn: dict[str, Action] = {
            "connect": lambda body: bench.connect,
            "functions": lambda body: bench.ask_functions,
            "handshake": self._handshake,
            "command": self._command,
            "call": self._call,
            "send": self._send,
        }
        routes = [
            Route("/", self._file("playground.html")),
            *(Route(f"/page/{name}", self._file(name)) for name in ("playground.css", "playground.js", "icon.svg")),
            Route("/events", self._events),
            Route("/exchanges/{number}", self._exchange),
            *(_deed(name, action, worker) for name, action in in_turn.items()),
            *(_deed(name, action, aside) for name, action in at_once.items()),
        ]
        handlers: dict[type[Exception], ExceptionHandler] = {Refused: _refused, Exception: _failed}
        self.app: ASGIApp = Guard(Starlette(routes=routes, exception_handlers=handlers), port, token)
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
        after = _number(request.headers.get("last-event-id", ""))
        return StreamingResponse(self._feed.listen(after), media_type="text/event-stream")

    async def _exchange(self, request: Request) -> Response:
        found = self._bench.exchange(_number(request.path_params["number"]))
        if found is None:
            raise Refused(404, "This exchange is not kept any more")
        return JSONResponse(found.shown(most=None))

    # ---------------------------------------------------------------------------------------------------- acting

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


def _deed(name: str, action: Action, worker: Worker) -> Route:
    async def act(request: Request) -> Response:
        body = await _body(request)
        try:
            await asyncio.wrap_future(worker.run(action(body)))
        except BadInput as failure:
            raise Refused(400, "Please look at what was typed", failure.fields) from failure
        except SimpleSocketsError as failure:
            raise Refused(502, sentence(failure)) from failure
        except OverflowError as failure:
            raise Refused(503, str(failure)) from failure
        except asyncio.CancelledError:
            raise Refused(503, "The playground ends") from None
        return JSONResponse({})

    return Route(f"/do/{name}", act, methods=["POST"])


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


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


async def _failed(_: Request, failure: Exception) -> Response:
    # It is logged as well.
    return JSONResponse({"error": f"The playground itself failed: {failure!r}", "fields": {}}, 500)


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return JSONResponse(refused.content, refused.status)
