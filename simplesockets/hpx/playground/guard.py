"""Who may talk to the playground: its own page, in a browser on this machine, and nobody else.

Any page on the Internet can make a browser send requests to 127.0.0.1. Three things keep it out:

* the *Host* has to be this machine's address, by number or as ``localhost``: so a name of a stranger's that leads here
  (DNS rebinding) is refused;
* an *Origin*, which browsers send with what other pages ask for, has to be our own;
* a *token*, new at each start, which stands in the page, where other pages cannot read it, has to come with everything
  but the page itself.

The answers tell browsers to run no script but ours, to load nothing from elsewhere, and to let nobody frame the page.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "x-playground-token"
OPEN_PATHS = ("/", "/page/playground.css", "/page/playground.js", "/page/icon.svg")
"""What needs no token."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Stands before an application, and refuses with 403 who may not talk to it.

    Args:
        app: the application.
        port: where it listens.
        token: what has to come with requests: in a header, or as ``?token=`` where a browser cannot set one.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app = app
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if port == 80:  # browsers leave it out
            self._hosts |= {"127.0.0.1", "localhost"}
        self._origins = {f"http://{host}" for host in self._hosts}
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)
        app = JSONResponse({"error": refused}, 403) if refused else self._app

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return "The playground is for this machine alone: open it by the address that it printed"
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            return "Another page may not talk to the playground"
        if scope["path"] not in OPEN_PATHS and not self._is_right(scope, headers):
            return "The playground was started anew: reload the page"
        return ""

    def _is_right(self, scope: Scope, headers: Headers) -> bool:
        token = headers.get(TOKEN_HEADER) or QueryParams(scope["query_string"]).get("token", "")
        return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token)
