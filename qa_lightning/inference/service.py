"""The HTTP service: a JSON API that answers questions, and a page for the browser.

Whatever a client sends, it gets a status from 200 to 499 and, if something is wrong with it, a
sentence that says what. Only two things are the service's fault: 503 when more questions wait than
it can take, and 500 for an error in this program.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qa_lightning import __version__
from qa_lightning.errors import UserError
from qa_lightning.inference.answerer import N_BEST, TOP_K, Answer
from qa_lightning.inference.batcher import Batcher, TooManyWaitingError

WEB = Path(__file__).with_name("web")
FILES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The page and the API's description: address, file, type."""

HEADERS = {
    "Cache-Control": "no-store",  # texts are private
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response."""

ERRORS_SHOWN = 3
"""Mistakes in one body that are told of."""

SHOWN = 60
"""Characters of a wrong field's name that are told of."""


@dataclass(frozen=True)
class Limits:
    """What a request may hold.

    Attributes:
        body: Bytes of a body.
        context: Characters of a context.
        question: Characters of a question.
    """

    body: int = 1_000_000
    context: int = 100_000
    question: int = 1_000


class Question(BaseModel):
    """A question about a text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(description="What to ask.", examples=["Who wrote it?"])
    context: str = Field(
        description="The text to find the answer in.",
        examples=["It was written by Ada Lovelace."],
    )
    top_k: int = Field(
        default=TOP_K, ge=0, le=N_BEST, description="How many candidates to give beside the answer."
    )
    threshold: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Null threshold, if another than the service's: higher answers more often.",
    )


class Health(BaseModel):
    """The service is up."""

    status: str = "ok"
    version: str = Field(default=__version__, description="Version of qa_lightning.")
    waiting: int = Field(description="Questions that wait to be answered.")


class Problem(BaseModel):
    """What is wrong with a request."""

    error: str = Field(description="What is wrong and what to do, for a person to read.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": what}
    for status, what in (
        (400, "The body is not JSON."),
        (413, "The body, the context or the question is too long."),
        (415, "The body is not declared as application/json."),
        (422, "A field is missing, unknown, empty or not what it must be."),
        (503, "Too many questions wait; ask again after the seconds in Retry-After."),
    )
}


def create_app(
    batcher: Batcher, limits: Limits | None = None, host_names: Sequence[str] = ()
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        batcher: What answers.
        limits: What a request may hold.
        host_names: Names under which the service may be called, besides `localhost` and IP
            addresses.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="qa_lightning",
        version=__version__,
        description=(
            "Finds the answer to a question in a text, or says that the text holds none. A context "
            f"may have {limits.context:,} characters, a question {limits.question:,}, a body "
            f"{limits.body:,} bytes. Positions count characters (Unicode code points), from 0. "
            'Whatever is wrong with a request, the response is {"error": "what is wrong"}.'
        ),
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere: see web/docs.html
        redoc_url=None,
        exception_handlers={
            AnyHTTPException: _http_problem,
            UserError: _user_error,
            TooManyWaitingError: _overload,
            ClientDisconnect: _nobody,
            Exception: _own_fault,
        },
    )
    app.add_middleware(_Guard, host_names=host_names)

    @app.post(
        "/answer",
        summary="Answer a question about a text",
        response_description="The answer, which may be that there is none.",
        responses=PROBLEMS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Question.model_json_schema()}},
            }
        },
    )
    async def answer(request: Request) -> Answer:
        asked = await _read_question(request, limits)
        coming = batcher.submit(
            asked.question, asked.context, top_k=asked.top_k, threshold=asked.threshold
        )
        return await asyncio.wrap_future(coming)

    @app.get("/health", summary="Ask whether the service is up", response_description="It is.")
    async def health() -> Health:
        return Health(waiting=batcher.waiting)

    for address, (name, kind) in FILES.items():
        app.add_api_route(
            address, _file(WEB / name, kind), methods=["GET", "HEAD"], include_in_schema=False
        )
    for schema in app.openapi()["components"]["schemas"].values():
        _describe_fields(schema)
    return app


def _describe_fields(schema: dict[str, Any]) -> None:
    """Take what a docstring says of attributes apart, to where OpenAPI has it."""
    schema["description"], _, attributes = schema["description"].partition("\n\nAttributes:\n")
    for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE):
        schema["properties"][name]["description"] = " ".join(text.split())


def _file(path: Path, kind: str) -> Callable[[], Awaitable[Response]]:
    """An endpoint that gives a file, which is read once."""
    content = path.read_bytes()

    async def endpoint() -> Response:
        return Response(content, media_type=kind)

    return endpoint


async def _read_question(request: Request, limits: Limits) -> Question:
    """Read a body as far as it is allowed to go, and check all that can be checked without a model.

    FastAPI would read a body of any length into memory first.

    Raises:
        HTTPException: 400, 413, 415 or 422, with what is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.body:
            raise HTTPException(
                413, f"the body is longer than the {limits.body:,} bytes that this service takes"
            )
    try:
        asked = Question.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _invalid(error) from error
    for name, text, limit in (
        ("context", asked.context, limits.context),
        ("question", asked.question, limits.question),
    ):
        if not text.strip():
            raise HTTPException(422, f"the {name} is empty")
        if len(text) > limit:
            raise HTTPException(
                413,
                f"the {name} has {len(text):,} characters, more than the {limit:,} that this "
                "service takes: send a shorter one",
            )
    return asked


def _invalid(error: ValidationError) -> HTTPException:
    """What pydantic found, in a sentence."""
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    first = mistakes[0]
    if first["type"] == "json_invalid":
        return HTTPException(400, first["msg"])
    if not first["loc"]:
        return HTTPException(422, 'send an object: {"question": "...", "context": "..."}')
    told = [f"{str(one['loc'][0])[:SHOWN]}: {one['msg']}" for one in mistakes[:ERRORS_SHOWN]]
    return HTTPException(422, "; ".join(told))


class _Guard:
    """Adds the headers, and turns away requests that a foreign page made a browser send.

    A page of another site may have its own host name point to this machine (DNS rebinding), and
    then counts as this service's own page. Its requests still carry its name in the header Host.
    An IP address, or no name at all, cannot come about in this way.
    """

    def __init__(self, app: ASGIApp, host_names: Sequence[str]) -> None:
        self.app = app
        self.host_names = {"localhost", *(name.lower() for name in host_names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] == "http" and not self._is_ours(Headers(scope=scope).get("host")):
            refusal = _problem(
                421,
                "this service is not known by the name in the header Host: use its IP address, or "
                "start it with --allow_host NAME",
            )
            await refusal(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def _is_ours(self, host: str | None) -> bool:
        if host is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.host_names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _problem(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error}, status, headers)


async def _http_problem(request: Request, error: AnyHTTPException) -> Response:
    told = {
        404: "there is nothing at this address; /docs describes the service",
        405: f"this address does not take {request.method}; /docs describes the service",
    }
    headers = dict(error.headers) if error.headers else None
    return _problem(error.status_code, told.get(error.status_code, error.detail), headers)


async def _user_error(request: Request, error: UserError) -> Response:
    return _problem(422, str(error))


async def _overload(request: Request, error: TooManyWaitingError) -> Response:
    return _problem(503, "too many questions wait; ask again in a second", {"Retry-After": "1"})


async def _nobody(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # the client has left: nobody reads it


async def _own_fault(request: Request, error: Exception) -> Response:
    return _problem(500, "an error in the service; its log says more")
