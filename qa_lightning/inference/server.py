"""The HTTP server: uvicorn, with bounds on what a client may hold and for how long.

uvicorn lets a client keep a connection for ever that sends half a request, or reads no response,
and accepts connections until the process may open no more files. Here the connections have a
number, and each has so much time to send a request and to take a response. When the number is
reached, whoever has been sending a request for the longest gives way to the next.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from functools import cache
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 20.0
"""Time for a request to arrive, header and body, and for a response to be taken."""

LAST_SECONDS = 5.0
"""Time for questions that wait when the service is told to end; then they are refused."""

LISTEN_BACKLOG = 2048
"""Connections that wait to be accepted."""

ACCEPT_AT_ONCE = 16
"""Connections accepted before the event loop does something else, so before one can be closed."""

INCOMPLETE = (h11.IDLE, h11.SEND_BODY)
"""States of a client that has not sent its request, or not all of it."""


@cache
def max_connections() -> int:
    """Connections at once: half as many as there may be files, at most 1,000."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 1000
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1000 if files == resource.RLIM_INFINITY else min(files // 2, 1000)


class Connection(H11Protocol):
    """One connection of a client."""

    connections: set[Connection]  # type: ignore[assignment]  # all of the server
    _deadline: asyncio.TimerHandle | None = None  # only while the service waits for the client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, in place of another if need be."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > max_connections():
            given_up = min(self.connections, key=Connection.gives_way)
            given_up.refuse(503, "there are too many connections; try again in a second")
            self.connections.discard(given_up)

    def gives_way(self) -> float:
        """When the client's time ends; infinity while it is the client who waits."""
        return float("inf") if self._deadline is None else self._deadline.when()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_watching()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Take in what has come."""
        super().handle_events()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._watch()

    def shutdown(self) -> None:
        """Finish the request that is being answered, and no other."""
        if self.cycle is not None and self.conn.their_state is h11.SEND_BODY:
            self.refuse(503, "the service is ending")
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self.refuse(400, "this is not a valid HTTP request")

    def refuse(self, status: int, error: str) -> None:
        """Close the connection, if possible with a response."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": error}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            head = h11.Response(status_code=status, headers=[*headers, ("Connection", "close")])
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        if self.transport.get_write_buffer_size():  # whoever does not read would keep it open
            self.transport.abort()
        else:
            self.transport.close()

    def _watch(self) -> None:
        """Let a deadline run while the service waits for the client, and only then."""
        if self.conn.their_state not in INCOMPLETE and not self.flow.write_paused:
            self._stop_watching()
        elif self._deadline is None and not self.transport.is_closing():
            late = "the request did not arrive in time"
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.refuse, 408, late)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """Serves an application; `stop` refuses the questions that wait, when it is to end."""

    def __init__(self, app: ASGIApp, stop: Callable[[], Any]) -> None:
        self.stop = stop
        config = uvicorn.Config(
            app,
            http=Connection,
            loop="asyncio",
            backlog=ACCEPT_AT_ONCE,
            log_level="error",  # what clients do wrong would fill the log
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=int(LAST_SECONDS) + 5,  # the batch at work takes its time
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        for listener in sockets or []:  # asyncio takes one number for both
            listener.listen(LISTEN_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer those that wait for some seconds, and refuse the rest."""
        asyncio.get_running_loop().call_later(LAST_SECONDS, self.stop)
        await super().shutdown(sockets)
