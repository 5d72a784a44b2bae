"""`score` prints the official evaluator's own figures, and refuses what it cannot score."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qa_lightning.commands.score import run
from qa_lightning.errors import UserError
from qa_lightning.evaluation.scoring import evaluate
from tests.helpers.data import REPOSITORY


@pytest.mark.parametrize(
    ("folder", "expected", "options"),
    [
        ("bert", "expected.json", []),
        ("nlnet", "expected.json", []),
        ("sweep", "expected.json", ["--na-prob-file"]),
        ("sweep", "expected-threshold-0.5.json", ["--na-prob-thresh", "0.5", "--na-prob-file"]),
    ],
)
def test_official_figures_on_real_predictions(
    shared: Path,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    expected: str,
    options: list[str],
) -> None:
    reference = shared / "scoring" / folder
    arguments = [str(shared / "squad2/dev-v2.0.json"), str(reference / "predictions.json")]
    if options:
        arguments += [*options, str(reference / "na_prob.json")]
    assert run(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    wanted = json.loads((reference / expected).read_text())
    # The evaluator prints average precisions only when it also draws the curves.
    precisions = ["pr_exact_ap", "pr_f1_ap", "pr_oracle_ap"] if options else []
    assert list(figures) == [*wanted, *precisions]
    for name, value in wanted.items():
        assert figures[name] == pytest.approx(value, rel=0, abs=1e-9), name


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], str]:
    """Writes a value as a JSON file (gzipped for .gz), or text as it is; gives the path."""

    def write(name: str, content: Any) -> str:
        raw = (content if isinstance(content, str) else json.dumps(content)).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return str(path)

    return write


def squad(golds: dict[str, list[str]]) -> dict[str, Any]:
    rows = [
        {"id": key, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in own]}
        for key, own in golds.items()
    ]
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"qas": rows}]}]}


def test_scores_what_has_a_prediction(
    write: Callable[[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write("data.json.gz", squad({"q1": ["x"], "q2": [], "q3": ["y"]}))
    predictions = write("predictions.json", {"q2": "", "q1": "z", "other": "ignored"})
    assert run([data, predictions]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == evaluate([["x"], []], ["z", ""])
    assert "1 of 3 questions have no prediction" in printed.err and "q3" in printed.err


def test_files_of_other_tools(
    write: Callable[[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    cases = REPOSITORY / "tests" / "cases"
    assert run([str(cases / "int_ids.json"), str(cases / "int_ids.predictions.json")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["exact"], figures["total"]) == (100.0, 2)
    predictions = write("predictions.json", {"a": "Tom Ashe", "b": "1840"})
    for file, exact in (
        ("hub_rows.jsonl", 50.0),
        ("flat_answers.json", 100.0),
        ("nulls.json", 100.0),
    ):
        assert run([str(cases / file), predictions]) == 0
        assert json.loads(capsys.readouterr().out)["exact"] == exact


def test_best_texts_taken_for_answers_are_told(
    write: Callable[[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write("data.json", squad({"q1": ["x"], "q2": []}))
    predictions = write("predictions.json", {"q1": "x", "q2": "y"})
    assert run([data, predictions]) == 0
    assert "--na-prob-file" in capsys.readouterr().err
    assert run([data, predictions, "-n", write("odds.json", {"q1": 0.5, "q2": 0.5})]) == 0
    assert run([data, write("answers.json", {"q1": "x", "q2": ""})]) == 0
    assert run([write("all.json", squad({"q1": ["x"]})), predictions]) == 0
    assert capsys.readouterr().err == ""


def test_sweeps_ties_in_the_order_of_the_odds_file(
    write: Callable[[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write("data.json", squad({"q1": ["x"], "q2": []}))
    predictions = write("predictions.json", {"q1": "x", "q2": "y"})
    best = []
    for order in (["q1", "q2"], ["q2", "q1"]):
        null_odds = write("odds.json", {"unknown": 0, **{key: 0.5 for key in order}})
        assert run([data, predictions, "--na-prob-file", null_odds]) == 0
        best.append(json.loads(capsys.readouterr().out)["best_exact"])
    assert best == [100.0, 50.0]


GOOD = squad({"q1": ["x"]})


@pytest.mark.parametrize(
    ("data", "predictions", "null_odds", "message"),
    [
        ("{", {"q1": "x"}, {"q1": 0}, "data.json: the file is cut off"),
        ({"q1": "x"}, {"q1": "x"}, {"q1": 0}, 'data.json: there is no list "data"'),
        ([1], {"q1": "x"}, {"q1": 0}, r"data.json: \[0\]: expected an object, found 1"),
        ({"data": []}, {"q1": "x"}, {"q1": 0}, "data.json holds no questions"),
        (
            {"data": [{"paragraphs": [{"qas": [{"id": "q1"}]}]}]},
            {"q1": "x"},
            {"q1": 0},
            "question q1 has no 'answers'",
        ),
        (
            squad({"q1": [None]}),
            {"q1": "x"},
            {"q1": 0},
            'question q1: "text" must be a string, but is null',
        ),  # type: ignore[list-item]
        (GOOD, "nonsense", {"q1": 0}, "predictions.json: not valid JSON"),
        (GOOD, ["x"], {"q1": 0}, "predictions.json must be a JSON object"),
        (GOOD, {"q1": None}, {"q1": 0}, "predictions.json: question q1 must have a text"),
        (GOOD, {"q2": "x"}, {"q1": 0}, "has no prediction for any question"),
        (GOOD, {"q1": "x"}, {}, "odds.json has no value for question q1"),
        (GOOD, {"q1": "x"}, {"q1": "0"}, "odds.json: question q1 must have a number"),
        (GOOD, {"q1": "x"}, {"q1": math.nan}, "odds.json: question q1 must have a number"),
    ],
)
def test_refuses_bad_files(
    write: Callable[[str, Any], str],
    capsys: pytest.CaptureFixture[str],
    data: Any,
    predictions: Any,
    null_odds: Any,
    message: str,
) -> None:
    arguments = [write("data.json", data), write("predictions.json", predictions)]
    with pytest.raises(UserError, match=message):
        run([*arguments, "--na-prob-file", write("odds.json", null_odds)])
    assert capsys.readouterr().out == ""


def test_refuses_files_it_cannot_open(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.json: cannot be read"):
        run([str(tmp_path / "absent.json"), "predictions.json"])
    (tmp_path / "broken.json.gz").write_bytes(b"not gzipped")
    with pytest.raises(UserError, match="broken.json.gz: not valid JSON"):
        run([str(tmp_path / "broken.json.gz"), "predictions.json"])


def test_short_options_are_the_official_ones(
    write: Callable[[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write("data.json", GOOD), write("predictions.json", {"q1": "x"})]
    assert run([*files, "-n", write("odds.json", {"q1": 0.5}), "-t", "0.25"]) == 0
    assert json.loads(capsys.readouterr().out)["exact"] == 0.0
    with pytest.raises(UserError, match="Did you mean --na-prob-thresh?"):
        run([*files, "--na-prob-tresh", "0.25"])
