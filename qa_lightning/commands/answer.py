"""python -m qa_lightning answer: ask a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from jsonargparse.typing import restricted_number_type

from qa_lightning.commands.parser import CommandParser, add_model_options, load_answerer
from qa_lightning.data.window_settings import N_BEST
from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from qa_lightning.inference.answerer import Answer, Answerer

EXAMPLES = """\
exit status: 0 if every question was answered; 1 if a line of --input was left out, which standard
error names; 2 after another mistake

examples:
  python -m qa_lightning answer lightning_logs/version_0 --context notes.txt
  python -m qa_lightning answer MODEL --question "Who wrote it?" --context "It was Ada Lovelace."
  cat notes.txt | python -m qa_lightning answer MODEL --question "Who wrote it?" --context -
  python -m qa_lightning answer MODEL --input dev.json > answers.jsonl
"""

Candidates = restricted_number_type("Candidates", int, [(">=", 0), ("<=", N_BEST)])


def run(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    if (options.input is None) == (options.context is None):
        raise UserError("give either --context, or a file of questions with --input")
    if options.input is not None and options.question is not None:
        raise UserError("--question goes with --context; the questions of --input are its own")
    if options.input is None and options.question is None and options.context == "-":
        raise UserError("--context - reads the context where questions would be typed: give one")
    context = None if options.context is None else _context(options.context)
    answerer = load_answerer(options)
    if context is None:
        return _answer_file(answerer, options.input, options.top_k)
    if options.question is None:
        _converse(answerer, context, options)
    else:
        for question in options.question:
            _show(question, answerer(question, context, top_k=options.top_k), options)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "answer", "Answer questions about a text, or say that the text holds no answer.", EXAMPLES
    )
    add = parser.add_argument
    add("--question", action="append", help="what to ask; may be given several times")
    add(
        "--context",
        metavar="FILE|TEXT|-",
        help="the text to find the answer in: a file, the text itself, or - for standard input; "
        "without --question, questions are asked for one by one",
    )
    add(
        "--input",
        metavar="FILE",
        help="a file of questions: SQuAD's format (.json, .json.gz), or JSON lines with the keys "
        "question, context and, if wanted, id (- for standard input); answers come as JSON lines",
    )
    add("--json", action="store_true", help="print answers as JSON lines")
    add("--top_k", type=Candidates, default=1, metavar="N", help="show so many candidates")
    add_model_options(parser)
    return parser


def _context(given: str) -> str:
    """The text that is meant: of a file, of standard input, or as it stands."""
    if given == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    path = Path(given)
    with suppress(OSError, RuntimeError, ValueError):  # no file can have such a name: it is a text
        path = path.expanduser()
        if path.is_file():
            return _decoded(path.read_bytes(), given)
    looks_like_a_path = not any(character.isspace() for character in given)
    if looks_like_a_path and ("/" in given or path.suffix):
        raise UserError(f"--context {given}: there is no such file")
    return given


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not text in UTF-8: {error}") from error


def _converse(answerer: Answerer, context: str, options: Namespace) -> None:
    """Ask for questions until there are no more."""
    if _typed(options):
        print("Ask about the text; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            question = input("? " if _typed(options) else "")
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError as error:
            raise UserError(f"standard input is not text in UTF-8: {error}") from error
        if not question.strip():
            return
        try:
            _show(question, answerer(question, context, top_k=options.top_k), options)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


def _typed(options: Namespace) -> bool:
    """Whether the question is on the screen already."""
    return sys.stdin.isatty() if options.question is None else len(options.question) == 1


def _show(question: str, answer: Answer, options: Namespace) -> None:
    _warn_if_cut(f"the question {json.dumps(question[:40], ensure_ascii=False)}", answer)
    if options.json:
        print(json.dumps({"question": question, **asdict(answer)}, ensure_ascii=False), flush=True)
        return
    if not _typed(options):
        print(f"? {question}")
    print(f"{answer.text or 'no answer'}   ({answer.probability:.0%} sure)", flush=True)
    if options.top_k > 1:
        for one in answer.candidates:
            print(f"  {one.probability:4.0%}  {one.text}  [{one.start}:{one.end}]", flush=True)
        print(f"  {answer.no_answer_probability:4.0%}  no answer", flush=True)


Asked = tuple[str, Any, str, str]  # place in the file, id (whatever JSON knows), question, context


def _answer_file(answerer: Answerer, name: str, top_k: int) -> int:
    """Answer the questions of a file, in its order, as JSON lines; returns the exit status."""
    left_out: list[str] = []
    if name.endswith((".json", ".gz")):
        asked, at_once = _squad(name, left_out), None  # as a whole, as by `predict`
    else:
        asked, at_once = _json_lines(name, left_out), 1000
    while batch := list(islice(asked, at_once)):
        places, ids, questions, contexts = zip(*batch, strict=True)
        found = answerer(questions, contexts, top_k=top_k)
        for place, identity, question, answer in zip(places, ids, questions, found, strict=True):
            line = {"id": identity, "question": question, **asdict(answer)}
            print(json.dumps(line, ensure_ascii=False))
            _warn_if_cut(place, answer)
    return int(bool(left_out))


def _warn_if_cut(place: str, answer: Answer) -> None:
    """Tell of a question that the model did not read whole."""
    if answer.question_tokens_cut:
        print(
            f"warning: {place} is too long for this model: {answer.question_tokens_cut} tokens in "
            "its middle were not read. Ask it in fewer words",
            file=sys.stderr,
        )


def _squad(name: str, left_out: list[str]) -> Iterator[Asked]:
    from qa_lightning.data.checks import reading_findings
    from qa_lightning.data.squad import read_squad

    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"--input {name}: there is no such file")
    tables = read_squad(path, labels=False)
    for finding in reading_findings(tables.report):
        print(f"warning: {name}: {finding}", file=sys.stderr)
    left_out += tables.report.empty
    contexts = tables.contexts.column("text").to_pylist()
    for row in tables.questions.select(["id", "text", "context"]).to_pylist():
        place = f"{name}: question {row['id']}"
        yield place, row["id"], row["text"], contexts[row["context"]]


def _json_lines(name: str, left_out: list[str]) -> Iterator[Asked]:
    """Questions of a file line by line; a line without one is told, and added to `left_out`."""
    try:
        file = sys.stdin.buffer if name == "-" else Path(name).expanduser().open("rb")
    except OSError as error:
        raise UserError(f"--input {name}: {error.strerror}") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield _record(line, f"{'standard input' if name == '-' else name}: line {number}")
            except UserError as error:
                print(f"error: {error}; left out", file=sys.stderr)
                left_out.append(str(error))


def _record(line: bytes, place: str) -> Asked:
    """The question in a line."""
    from qa_lightning.inference.answerer import check_text

    text = _decoded(line, place)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {error}") from error
    if not isinstance(record, dict) or not {"question", "context"} <= record.keys():
        raise UserError(f'{place}: give an object with the texts "question" and "context"')
    identity = record.get("id")
    if identity is not None:
        place = f"{place} (id {json.dumps(identity)})"
    for key in ("question", "context"):
        check_text(f"{place}: the {key}", record[key])
    return place, identity, record["question"], record["context"]
