"""The written files: their shapes, their order, and that nothing of the answers is lost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from qa_lightning.evaluation.predictions import write_predictions
from qa_lightning.evaluation.spans import NO_SPAN, Answers, candidates

CONTEXTS = ["Zoë lives in Rome.", "line\u2028break — “quoted”", "nothing here"]
IDS = ['b "quoted"', "a\n", "ü"]


def answers() -> Answers:
    return Answers(
        question=np.array([0, 1, 2]),
        null=np.array([1.0, 3.0, 0.5], np.float32),
        spans=np.array(
            [[[0, 3], [13, 17]], [[4, 5], [NO_SPAN] * 2], [[NO_SPAN] * 2] * 2], np.int32
        ),
        scores=np.array([[4.0, 2.0], [2.5, -np.inf], [-np.inf] * 2], np.float32),
    )


def read(folder: Path, name: str) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_files_keep_the_order_and_the_answers_obey_the_threshold(tmp_path: Path) -> None:
    write_predictions(tmp_path / "new" / "folder", IDS, CONTEXTS, answers(), threshold=0.0)
    folder = tmp_path / "new" / "folder"
    odds = read(folder, "null_odds.json")
    given, best = read(folder, "answers.json"), read(folder, "predictions.json")
    assert list(given.items()) == [(IDS[0], "Zoë"), (IDS[1], ""), (IDS[2], "")]
    assert list(best.items()) == [(IDS[0], "Zoë"), (IDS[1], "\u2028"), (IDS[2], "")]
    assert list(odds) == IDS
    assert odds[IDS[0]] == -3.0 and odds[IDS[1]] == 0.5
    assert isinstance(odds[IDS[2]], float) and odds[IDS[2]] > 1e30  # no span at all
    write_predictions(folder, IDS, CONTEXTS, answers(), threshold=0.5)
    assert read(folder, "answers.json")[IDS[1]] == "\u2028"
    assert read(folder, "predictions.json") == best


def test_candidates_rank_no_answer_among_the_spans(tmp_path: Path) -> None:
    write_predictions(tmp_path, IDS, CONTEXTS, answers(), threshold=0.0)
    found = read(tmp_path, "nbest_predictions.json")
    assert list(found) == IDS
    assert list(found.values()) == [
        [asdict(one) for one in of_one] for of_one in candidates(CONTEXTS, answers())
    ]
    first, second, third = found.values()
    assert [one["text"] for one in first] == ["Zoë", "Rome", ""]
    assert [(one["start"], one["end"]) for one in first] == [(0, 3), (13, 17), (None, None)]
    weights = np.exp([4.0, 2.0, 1.0])
    assert [one["probability"] for one in first] == pytest.approx(weights / weights.sum())
    assert [one["text"] for one in second] == ["", "\u2028"]
    assert [(one["text"], one["probability"]) for one in third] == [("", 1.0)]
    for all_of_one in found.values():
        assert sum(one["probability"] for one in all_of_one) == pytest.approx(1.0)
