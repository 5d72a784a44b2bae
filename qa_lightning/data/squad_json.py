"""SQuAD's JSON, question by question: the one reader of training, checking and scoring.

A mistake in a file becomes a UserError that names the place. Whoever wants to know all mistakes of
a file collects them with an `ErrorCollector`, and reading continues after each.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from qa_lightning.errors import UserError

MAX_BYTES = 512 * 2**20
"""Largest file that is read, in bytes after decompression: twelve times SQuAD 2.0.

The whole file is parsed at once. Reading takes at most 10 bytes of memory for each byte of the file
(`python benchmarks/memory.py`), and so 5 GB at the most.
"""

_T = TypeVar("_T")
_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list"}


class RawQuestion(NamedTuple):
    """A question as its source gives it, unchecked.

    A named tuple, because a frozen dataclass takes three times as long to make.
    """

    record: Any
    location: str  # of the question, for messages
    context: str
    context_key: Hashable  # equal for questions that share a row of contexts
    article: int
    title: str


def iter_questions(
    path: Path, name: str, errors: ErrorCollector, *, contexts: bool = True
) -> Iterator[RawQuestion]:
    """The questions of a SQuAD-format file, in its order; messages call the file `name`.

    `errors` takes what is wrong with an article or a paragraph. Contexts must be there, unless
    `contexts` is false, as for scoring: then they are "".
    """
    content = read_json(path, name)
    if type(content) is not dict or type(content.get("data")) is not list:
        raise UserError(f'{name}: there is no list "data" at the top level')
    articles = content["data"]
    for a, article in enumerate(articles):
        articles[a] = None  # so that its memory is free again when it has been read
        where = f"{name}: data[{a}]"
        with errors:
            title = optional_field(article, "title", str, where) or ""
            for p, paragraph in enumerate(field(article, "paragraphs", list, where)):
                where = f"{name}: data[{a}].paragraphs[{p}]"
                with errors:
                    context = field(paragraph, "context", str, where) if contexts else ""
                    for q, record in enumerate(field(paragraph, "qas", list, where)):
                        yield RawQuestion(record, f"{where}.qas[{q}]", context, (a, p), a, title)


def read_json(path: Path, name: str) -> Any:
    """The value that a JSON file holds; it is in UTF-8, gzipped or not.

    Raises:
        UserError: The file cannot be read, is too large, damaged, cut off, empty, not JSON, or has
            "data" twice in an object. The message calls it `name`.
    """
    text = _read_text(path, name)
    try:
        return json.loads(text, object_pairs_hook=_one_data)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        if not text.strip():
            problem = "the file is empty"
        elif error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            problem = "the file is cut off: it ends in the middle of its JSON, at line "
            problem += f"{error.lineno}. Fetch it again."
    except RecursionError:
        problem = "not valid JSON: nested too deeply"
    except ValueError as error:  # "data" twice, or a number of thousands of digits
        problem = f"not valid JSON: {error}"
    raise UserError(f"{name}: {problem}")


def _read_text(path: Path, name: str) -> str:
    content = bytearray()
    try:
        with path.open("rb") as file:
            gzipped = file.peek(2)[:2] == b"\x1f\x8b"
            stream = gzip.GzipFile(fileobj=file) if gzipped else file
            while piece := stream.read(1 << 20):
                content += piece
                if len(content) > MAX_BYTES:
                    raise UserError(
                        f"{name}: larger than {MAX_BYTES >> 20} MiB, which would take too much "
                        "memory; split it into several files"
                    )
        return content.decode("utf-8-sig")  # some editors put a byte order mark in front
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"a damaged or truncated gzip file ({error}). Fetch it again."
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text ({error.reason})"
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error})"
    raise UserError(f"{name}: {problem}")


def _one_data(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file; with two lists of articles, one would be lost without a word."""
    if [key for key, _ in pairs].count("data") > 1:
        raise ValueError('the key "data" appears twice in one object')
    return dict(pairs)


class ErrorCollector(AbstractContextManager[object]):
    """A context that notes a UserError's message and suppresses it, if there is a list for that."""

    def __init__(self, problems: list[str] | None = None) -> None:
        self._problems = problems

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if self._problems is None or not isinstance(error, UserError):
            return False
        self._problems.append(str(error))
        return True


def field(record: Any, key: str, kind: type[_T], location: str) -> _T:
    """The value of `key`, which must be there and of exactly that type (a bool is not an int)."""
    if type(record) is not dict:
        raise UserError(f"{location}: expected an object, found {shown(record)}")
    if key not in record:
        raise UserError(f'{location}: the key "{key}" is missing')
    value = record[key]
    if type(value) is not kind:
        raise UserError(f'{location}: "{key}" must be {_KINDS[kind]}, but is {shown(value)}')
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f'{location}: "{key}" holds half of a surrogate pair '
                f"({value[error.start]!r} at character {error.start}), which is no character"
            ) from None
    return value  # type: ignore[no-any-return]


def optional_field(record: Any, key: str, kind: type[_T], location: str) -> _T | None:
    """The value of `key`, which must be of exactly that type where it is given."""
    if type(record) is dict and key not in record:
        return None
    return field(record, key, kind, location)


def shown(value: Any) -> str:
    """A value for a message, in JSON's words and kept short."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
