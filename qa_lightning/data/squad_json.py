"""SQuAD's JSON, question by question: the one reader of training, checking and scoring.

A mistake in a file becomes a UserError that names the place. Whoever wants to know all mistakes of
a file collects them with an `ErrorCollector`, and reading continues after each.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Hashable, Iterable, Iterator
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
READABLE = "SQuAD's JSON, or JSON lines of rows with id, context, question and answers"
"""What is read, for messages."""

_KEYS_OF_ITEMS = {"paragraphs", "qas", "context", "question"}
_OTHER_DATASETS = {  # by a key that no other has
    "positive_ctxs": "DPR's",
    "long_answer_candidates": "Natural Questions'",
    "supporting_facts": "HotpotQA's",
    "header": "MRQA's",
}
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
    """The questions of a file, in its order; messages call the file `name`.

    It is SQuAD's JSON, `{"data": [articles]}`, or such a list alone, or JSON lines, which are
    recognised by their content. An item of the list may also be a paragraph (`context` and `qas`)
    or a row of SQuAD's columns (`id`, `title`, `context`, `question`, `answers`).

    `errors` takes what is wrong with a line, an article, a paragraph or a question. Contexts must
    be there, unless `contexts` is false, as for scoring: then they are "".
    """
    return questions_of(_items(path, name, errors), errors, contexts=contexts)


def questions_of(
    items: Iterable[tuple[str, Any]], errors: ErrorCollector, *, contexts: bool = True
) -> Iterator[RawQuestion]:
    """The questions of articles, paragraphs and rows, each of which comes after its location."""
    articles: dict[int | str, int] = {}
    for n, (where, item) in enumerate(items):
        with errors:
            title = optional_field(item, "title", str, where) or ""
            for p, (place, paragraph) in enumerate(_paragraphs(item, where)):
                with errors:
                    context = field(paragraph, "context", str, place) if contexts else ""
                    records = _records(paragraph, place)
                    # No title says nothing about what belongs together: then each context is one.
                    own = n if "paragraphs" in item else title or context
                    article = articles.setdefault(own, len(articles))
                    key = (n, p) if "qas" in paragraph else context
                    for at, record in records:
                        with errors:
                            record = _official(record, at)
                            yield RawQuestion(record, at, context, key, article, title)


def _items(path: Path, name: str, errors: ErrorCollector) -> Iterator[tuple[str, Any]]:
    """The articles, paragraphs or rows that a file lists, each after its location."""
    text = _read_text(path, name)
    if _is_json_lines(text):
        for number, line in enumerate(io.StringIO(text), start=1):
            with errors:
                if line.strip():
                    yield f"{name}: line {number}", _parsed(line.rstrip(), name, number)
        return
    content, where = _parsed(text, name), ""
    del text  # memory that is wanted while the questions are read
    if type(content) is dict:
        alone = "data" not in content and _KEYS_OF_ITEMS & content.keys()
        content, where = ([content], "") if alone else (content.get("data"), "data")
    if type(content) is not list:
        raise UserError(f'{name}: there is no list "data" at the top level; give {READABLE}')
    for n, item in enumerate(content):
        content[n] = None  # so that its memory is free again when it has been read
        yield f"{name}: {where}[{n}]", item


def _is_json_lines(text: str) -> bool:
    """Whether the first line is a value by itself, and more lines follow."""
    first, newline, _ = text.strip().partition("\n")
    try:
        return bool(newline) and json.loads(first) is not None
    except (ValueError, RecursionError):
        return False


def _paragraphs(item: Any, where: str) -> list[tuple[str, Any]]:
    """The paragraphs of an article, each after its location; a paragraph or row is its own."""
    others = _OTHER_DATASETS.keys() & item.keys()
    if others and "paragraphs" not in item and type(item.get("context")) is not str:
        raise UserError(
            f"{where}: {_OTHER_DATASETS[min(others)]} data are not read; give {READABLE}"
        )
    if "paragraphs" not in item and _KEYS_OF_ITEMS & item.keys():
        return [(where, item)]
    paragraphs = enumerate(field(item, "paragraphs", list, where))
    return [(f"{where}.paragraphs[{p}]", one) for p, one in paragraphs]


def _records(paragraph: Any, where: str) -> list[tuple[str, Any]]:
    """The questions of a paragraph, each after its location; a row is one itself."""
    if "qas" not in paragraph and {"id", "question", "answers"} & paragraph.keys():
        return [(where, paragraph)]
    records = enumerate(field(paragraph, "qas", list, where))
    return [(f"{where}.qas[{q}]", one) for q, one in records]


def _official(record: Any, location: str) -> Any:
    """A question with its id as a string, and its answers as a list of objects."""
    if type(record) is dict:
        if type(record.get("id")) is int:
            record["id"] = str(record["id"])
        for key in ("answers", "plausible_answers"):
            if type(record.get(key)) is dict:
                record[key] = _answer_records(record[key], location)
    return record


def _answer_records(columns: dict[str, Any], location: str) -> list[dict[str, Any]]:
    """The hub's form, a list of texts and one of starts, as the list of records of SQuAD's JSON."""
    texts = field(columns, "text", list, location)
    starts = optional_field(columns, "answer_start", list, location)
    if starts is None:
        return [{"text": text} for text in texts]
    if len(texts) != len(starts):
        raise UserError(f"{location}: {len(texts)} answer texts but {len(starts)} answer starts")
    pairs = zip(texts, starts, strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


def read_json(path: Path, name: str) -> Any:
    """The value that a JSON file holds; it is in UTF-8, gzipped or not.

    Raises:
        UserError: The file cannot be read, is too large, damaged, cut off, empty, not JSON, or has
            "data" twice in an object. The message calls it `name`.
    """
    return _parsed(_read_text(path, name), name)


def _parsed(text: str, name: str, number: int | None = None) -> Any:
    """The value that a file holds, or its line of that number."""
    try:
        return json.loads(text, object_pairs_hook=_one_data)
    except json.JSONDecodeError as error:
        line = number or error.lineno
        problem = f"not valid JSON at line {line}, column {error.colno}: {error.msg}"
        if not text.strip():
            problem = "the file is empty"
        elif number:
            pass  # a line of several, which may be cut off by itself
        elif error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            problem = "the file is cut off: it ends in the middle of its JSON, at line "
            problem += f"{line}. Fetch it again."
    except RecursionError:
        problem = "not valid JSON: nested too deeply"
    except ValueError as error:  # "data" twice, or a number of thousands of digits
        problem = f"not valid JSON: {error}"
    raise UserError(f"{name}: {problem}")


def _read_text(path: Path, name: str) -> str:
    if path.suffix in (".csv", ".tsv", ".parquet"):
        hint = f'datasets.Dataset.from_parquet("{name}").to_json("rows.jsonl") writes them'
        hint = f" ({hint})" if path.suffix == ".parquet" else ""
        raise UserError(f"{name}: {path.suffix} files are not read; give {READABLE}{hint}")
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
    """The value of `key`, which must be of exactly that type where it is given and not null."""
    if type(record) is dict and record.get(key) is None:
        return None
    return field(record, key, kind, location)


def shown(value: Any) -> str:
    """A value for a message, in JSON's words and kept short."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
