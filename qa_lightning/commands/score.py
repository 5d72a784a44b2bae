"""python -m qa_lightning score: the official figures of a predictions file."""

import json
import sys
from pathlib import Path
from typing import Any

from qa_lightning.commands.parser import CommandParser, Number
from qa_lightning.data.squad_json import (
    ErrorCollector,
    field,
    iter_questions,
    optional_field,
    read_json,
)
from qa_lightning.errors import UserError

EXAMPLES = """\
examples:
  python -m qa_lightning score dev.json answers.json
  python -m qa_lightning score dev.json predictions.json -n null_odds.json -t 0.22
"""


def run(arguments: list[str]) -> int:
    """Print the figures as JSON; returns the exit status."""
    options = _parser().parse_args(arguments)
    files = (options.data, options.predictions, options.na_prob_file)
    print(json.dumps(_score(*files, options.na_prob_thresh), indent=2))
    return 0


def _parser() -> CommandParser:
    what = "Print the official SQuAD 2.0 figures of a predictions file. Every file may be gzipped."
    parser = CommandParser("score", what, EXAMPLES)
    parser.add_argument("data", metavar="DATA", help="labelled questions in SQuAD format")
    what = "JSON object: question id to text"
    parser.add_argument("predictions", metavar="PREDICTIONS", help=what)
    what = "JSON object: question id to null odds"
    parser.add_argument("-n", "--na-prob-file", metavar="FILE", help=what)
    what = 'null odds above this mean "no answer"; used with --na-prob-file'
    parser.add_argument("-t", "--na-prob-thresh", type=Number, default=1.0, metavar="T", help=what)
    return parser


def _score(data: str, predicted: str, odds: str | None, threshold: float) -> dict[str, float]:
    """Score the questions of a file that have a prediction."""
    from qa_lightning.evaluation.scoring import evaluate

    golds = _golds(data)
    predictions = _by_id(predicted, str, "a text")
    scored = [key for key in golds if key in predictions]
    if not scored:
        raise UserError(f"{predicted} has no prediction for any question of {data}")
    if len(scored) < len(golds):
        missing = next(key for key in golds if key not in predictions)
        print(
            f"warning: {len(golds) - len(scored)} of {len(golds)} questions have no prediction "
            f"and are left out of every figure (the first: {missing})",
            file=sys.stderr,
        )
    if odds is None and all(predictions[key] for key in scored) and not all(map(golds.get, scored)):
        print(
            "warning: every question is answered, also those without a gold answer. Best texts "
            "(predictions.json) are scored with --na-prob-file and --na-prob-thresh; answers at "
            "the null threshold are in answers.json",
            file=sys.stderr,
        )
    null_odds = None
    if odds is not None:
        by_id = _by_id(odds, (int, float), "a number")
        if without := [key for key in scored if key not in by_id]:
            raise UserError(f"{odds} has no value for question {without[0]}")
        # The official evaluator sweeps equal odds in the order of this file, not of the data.
        scored = [key for key in by_id if key in golds and key in predictions]
        null_odds = [by_id[key] for key in scored]
    texts = [predictions[key] for key in scored]
    return evaluate([golds[key] for key in scored], texts, null_odds=null_odds, threshold=threshold)


def _golds(path: str) -> dict[str, list[str]]:
    """Gold answers by question id, in the order of a SQuAD-format file."""
    golds: dict[str, list[str]] = {}
    for raw in iter_questions(Path(path), path, ErrorCollector(), contexts=False):
        identity = field(raw.record, "id", str, raw.location)
        location = f"{path}: question {identity}"
        if (answers := optional_field(raw.record, "answers", list, location)) is None:
            raise UserError(f"{location} has no 'answers'; only a labelled file can be scored")
        golds[identity] = [field(answer, "text", str, location) for answer in answers]
    if not golds:
        raise UserError(f"{path} holds no questions")
    return golds


def _by_id(path: str, kind: type | tuple[type, ...], what: str) -> dict[str, Any]:
    """A JSON object from question id to values of one kind; NaN is no value."""
    values = read_json(Path(path), path)
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a JSON object from question id to {what}")
    for key, value in values.items():
        if not isinstance(value, kind) or isinstance(value, bool) or value != value:
            raise UserError(f"{path}: question {key} must have {what}, not {value!r}")
    return values
