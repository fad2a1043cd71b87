"""The server from its first connection to its last: uvicorn, less patient with slow clients and gentler when it ends.

uvicorn times nothing before a request's head is whole, so a connection that sends a byte now and then would be kept
for ever: `TimedProtocol` ends it. And on SIGTERM uvicorn closes silent connections at once, on which a client may
just be sending its next request: `DrainingServer` first answers for a moment longer, and ends each connection with
its response, so that no request is lost.
"""

from __future__ import annotations

import asyncio
import socket
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from finetune.serve.app import Served, make_app
from finetune.serve.gate import Gate, State

DRAIN_SECONDS, LAST_SECONDS = 1.0, 0.3
"""After a signal: how long new connections are still taken, and how long then the last of them have to ask."""

LAST_ANSWERS = 30
"""Seconds in which answers that have begun must have ended."""

LINGER = 5.0
"""Seconds in which a client whose request was refused may go on sending it."""

SILENT_SECONDS = 20
"""A connection between two requests."""


class TimedProtocol(H11Protocol):
    """A connection that must bring its next request, or the rest of a body that nobody wants, within a time."""

    head_seconds = 20.0
    _timer: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows the type, too
        """A client has connected."""
        super().connection_made(transport)
        self._start()

    def on_response_complete(self) -> None:
        """A request is answered; another may follow."""
        self._start()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes; once a request has been refused for not being HTTP, they are dropped."""
        if not self._refused:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, and hear the client out: closed at once, it might never read the answer."""
        self._refused = True
        headers = [(b"connection", b"close"), (b"content-length", str(len(msg)).encode())]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        self.transport.write((self.conn.send(response) or b"") + msg.encode("ascii"))
        self.transport.write_eof()
        self._start(LINGER)

    def _start(self, seconds: float | None = None) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.head_seconds if seconds is None else seconds, self._time_is_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _time_is_up(self) -> None:
        """Unless a request is being answered, in which case `Intake` watches its body."""
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            if not self._refused and self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE:
                headers = [(b"connection", b"close"), (b"content-length", b"0")]
                response = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
                self.transport.write(self.conn.send(response) or b"")
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """Ends without losing a request: the first signal drains, the second does not wait for connections."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state
        self._since = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self._state.draining:
            self.should_exit = self.force_exit = True
        self._state.draining, self._since = True, self._since or time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        drained = time.monotonic() - self._since if self._state.draining else 0.0
        if drained > DRAIN_SECONDS:
            for server in self.servers:
                server.close()
        self.should_exit = self.should_exit or drained > DRAIN_SECONDS + LAST_SECONDS
        return await super().on_tick(counter)


def serve(served: Served, listening: socket.socket, *, token: str | None = None) -> None:
    """Answer until a SIGTERM or SIGINT, then drain.

    Args:
        served: what answers.
        listening: a socket of `listen`; closed in the end.
        token: that requests must bear.
    """
    app = make_app(served)
    served.metrics.watch_queue(lambda: served.batcher.inside)
    paths = {str(getattr(route, "path", "")) for route in app.routes}
    gate = Gate(app, metrics=served.metrics, state=served.state, token=token, paths=paths)
    server = DrainingServer(_config(gate, served), served.state)
    try:
        server.run(sockets=[listening])
    finally:
        served.batcher.close()


def _config(app: Any, served: Served) -> uvicorn.Config:
    protocol = type("Protocol", (TimedProtocol,), {"head_seconds": served.limits.head_seconds})
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
        timeout_keep_alive=SILENT_SECONDS,
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
