"""The HTTP service: a JSON API that answers questions, and a page for the browser.

Whatever a client sends, it gets a status from 200 to 499 and, if something is wrong with it, a
sentence that says what. Only two things are the service's fault: 503 when it cannot answer now, and
500 for an error in this program.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from qa_lightning import __version__
from qa_lightning.errors import UserError
from qa_lightning.inference.answerer import Answer
from qa_lightning.inference.batcher import Batcher, ClosedError, TooManyWaitingError
from qa_lightning.inference.defaults import Limits
from qa_lightning.inference.guard import Guard
from qa_lightning.inference.schemas import (
    PROBLEMS,
    Health,
    describe_fields,
    question_schema,
    read_question,
)

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


REFUSED = {
    TooManyWaitingError: "too many questions wait; ask again in a second",
    TimeoutError: "the answer took too long; ask again later, or about a shorter text",
    ClosedError: "the service is ending; ask again later",
}
"""Why a question gets no answer although nothing is wrong with it."""


def create_app(
    batcher: Batcher, limits: Limits | None = None, host_names: Sequence[str] = ()
) -> FastAPI:
    """The service as an ASGI application.

    Besides `localhost` and IP addresses, clients may call it by `host_names`.
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
        exception_handlers=dict.fromkeys(
            (HTTPException, UserError, *REFUSED, ClientDisconnect, Exception), _problem
        ),
    )
    app.add_middleware(Guard, host_names=host_names)
    _add_api(app, batcher, limits)
    for address, (name, kind) in FILES.items():
        app.add_route(address, partial(_file, WEB / name, kind))
    for schema in app.openapi()["components"]["schemas"].values():
        describe_fields(schema)
    return app


def _add_api(app: FastAPI, batcher: Batcher, limits: Limits) -> None:
    @app.post(
        "/answer",
        summary="Answer a question about a text",
        response_description="The answer, which may be that there is none.",
        responses=PROBLEMS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": question_schema(limits)}},
            }
        },
    )
    async def answer(request: Request) -> Answer:
        asked = await read_question(request, limits)
        return await _answered(batcher.submit(**asked.model_dump()), request, limits.seconds)

    @app.get(
        "/health",
        summary="Ask whether the service is up",
        response_description="It is.",
        responses={status: PROBLEMS[status] for status in (400, 408, 421, 503)},
    )
    async def health() -> Health:
        return Health(waiting=batcher.waiting)


async def _answered(coming: Future[Answer], request: Request, seconds: float) -> Answer:
    """Wait for an answer as long as the client does, but no longer than some seconds.

    Raises:
        ClientDisconnect: the client has left.
        TimeoutError: it took too long.
        ClosedError: the service is ending.
    """
    answer = asyncio.wrap_future(coming)
    # The body has been read: the only other message is that the client has left.
    left = asyncio.ensure_future(request.receive())
    try:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait((answer, left), timeout=seconds, return_when=first)
        if answer.cancelled():
            raise ClosedError
        if not answer.done():
            raise ClientDisconnect if left.done() else TimeoutError
        return answer.result()
    finally:
        left.cancel()
        answer.cancel()  # with it the batcher's


async def _file(path: Path, kind: str, request: Request) -> Response:
    return Response(path.read_bytes(), media_type=kind)


async def _problem(request: Request, error: Exception) -> Response:
    """Turn what was raised into a status and a sentence."""
    headers: dict[str, str] = {}
    match error:
        case HTTPException():
            status, headers = error.status_code, dict(error.headers or {})
            message = {
                404: "there is nothing at this address; /docs describes the service",
                405: f"this address does not take {request.method}; /docs describes the service",
            }.get(status, error.detail)
        case UserError():
            status, message = 422, str(error)
        case TooManyWaitingError() | TimeoutError() | ClosedError():
            status, message = 503, REFUSED[type(error)]
            headers = {"Retry-After": "1"}
        case ClientDisconnect():
            status, message = 400, "the client has left"
        case _:
            status, message = 500, "an error in the service; its log says more"
    return JSONResponse({"error": message}, status, headers)
