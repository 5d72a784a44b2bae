"""Which requests the service lets in, and the headers of every response."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Cache-Control": "no-store",  # texts are private
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Adds the headers, and refuses requests that a foreign page made a browser send.

    A page of another site may have its own host name point to this machine (DNS rebinding), and
    then counts as this service's own page. Its requests still carry its name in the header Host.
    An IP address, or no name at all, cannot come about in this way.

    A request that tells its length in two ways may be read as two requests by a proxy in front of
    the service, or by the service behind it. It is refused, and its connection closed.
    """

    def __init__(self, app: ASGIApp, host_names: Sequence[str]) -> None:
        """Guard `app`, which clients may call by these names besides `localhost`."""
        self.app = app
        self.host_names = {"localhost", *(name.lower() for name in host_names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self.app
        if scope["type"] == "http":
            app = self._refusal(Headers(scope=scope)) or app
        await app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        """What to respond to a request that is not let in."""
        if "content-length" in headers and "transfer-encoding" in headers:
            message = "send Content-Length or Transfer-Encoding, not both"
            return JSONResponse({"error": message}, 400, {"Connection": "close"})
        if not self._is_known(headers.get("host")):
            message = (
                "this service is not known by the name in the header Host: use its IP address, or "
                "start it with --allow_host NAME"
            )
            return JSONResponse({"error": message}, 421)
        return None

    def _is_known(self, host: str | None) -> bool:
        if host is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.host_names or bool(ipaddress.ip_address(name))
        except ValueError:  # of either: no host, no address
            return False
