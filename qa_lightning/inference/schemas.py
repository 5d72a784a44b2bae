"""What the service takes and gives, checked by pydantic and described in /openapi.json."""

import re
from typing import Annotated, Any

from fastapi import HTTPException, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qa_lightning import __version__
from qa_lightning.data.window_settings import N_BEST
from qa_lightning.inference.defaults import TOP_K, Limits


def _whole(number: Any) -> Any:
    """In JSON, 3.0 is an integer too."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


class Question(BaseModel):
    """A question about a text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(description="What to ask.", examples=["Who wrote it?"])
    context: str = Field(
        description="The text to find the answer in.",
        examples=["It was written by Ada Lovelace."],
    )
    top_k: Annotated[int, BeforeValidator(_whole)] = Field(
        default=TOP_K, ge=0, le=N_BEST, description="How many candidates to give beside the answer."
    )
    threshold: float | None = Field(
        default=None,
        allow_inf_nan=False,
        ge=-1e9,
        le=1e9,
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
        (400, "The body is not JSON, or the request is not valid HTTP."),
        (408, "The request did not arrive in time."),
        (413, "The body, the context or the question is too long."),
        (415, "The body is not declared as application/json."),
        (421, "The header Host has a name by which the service is not known."),
        (422, "A field is missing, unknown, empty or not what it must be."),
        (503, "The service cannot answer now; ask again after the seconds in Retry-After."),
    )
}
"""Responses of /answer that are not an answer, for OpenAPI."""


def question_schema(limits: Limits) -> dict[str, Any]:
    """The JSON schema of a question, with the lengths that a service takes."""
    schema = Question.model_json_schema()
    for name, most in (("question", limits.question), ("context", limits.context)):
        schema["properties"][name] |= {"minLength": 1, "maxLength": most, "pattern": r"\S"}
    return schema


def describe_fields(schema: dict[str, Any]) -> None:
    """Move what a docstring says of its attributes to where OpenAPI has it."""
    schema["description"], _, attributes = schema["description"].partition("\n\nAttributes:\n")
    for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE):
        schema["properties"][name]["description"] = " ".join(text.split())


async def read_question(request: Request, limits: Limits) -> Question:
    """Read a body as far as is allowed, and check all that can be checked without a model.

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
    if mistakes[0]["type"] == "json_invalid":
        return HTTPException(400, mistakes[0]["msg"])
    if not mistakes[0]["loc"]:
        return HTTPException(422, 'send an object: {"question": "...", "context": "..."}')
    # A field's name is the client's: it may be long, and there may be many wrong ones.
    shown = [f"{str(one['loc'][0])[:60]}: {one['msg']}" for one in mistakes[:3]]
    return HTTPException(422, "; ".join(shown))
