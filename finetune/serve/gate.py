"""The middleware that every request and every response passes."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune.serve.metrics import ServerMetrics

POLICY = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
"""Content security policy of the pages: nothing but what this server serves, and no inline script or style."""

SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
OPEN = ("/", "/docs", "/openapi.json", "/health", "/ready")
"""What needs no token: the page, which asks for it, how to use the rest, and what a supervisor looks at."""


@dataclass
class State:
    """What the server and its gate tell each other."""

    draining: bool = False


class Gate:
    """The token is checked, safe headers are set, and everything is counted and timed.

    Args:
        app: what answers.
        metrics: count here.
        state: while it drains, every response closes its connection.
        token: that requests must bear; None for none.
        paths: that are counted under their own names.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: ServerMetrics, state: State, token: str | None, paths: set[str]
    ) -> None:
        self.app, self.metrics, self.state, self.paths = app, metrics, state, paths
        self._expected = f"Bearer {token}".encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SAFE.items():
                    headers[name] = value
                if self.state.draining:
                    headers["connection"] = "close"
            await send(message)

        try:
            await (self._refusal(scope) or self.app)(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if "url" in QueryParams(scope["query_string"]):
            return refusal(404, "this server fetches nothing from elsewhere: send the picture itself")
        path: str = scope["path"]
        if self._expected is None or path in OPEN or path.startswith("/page/"):
            return None
        given = Headers(scope=scope).get("authorization", "")
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._expected):
            return None
        return refusal(401, "send the token: 'Authorization: Bearer TOKEN'", {"www-authenticate": "Bearer"})


def refusal(status: int, reason: str, headers: dict[str, Any] | None = None) -> JSONResponse:
    """A response that says in one line why there is no answer."""
    return JSONResponse({"error": reason}, status, headers)
