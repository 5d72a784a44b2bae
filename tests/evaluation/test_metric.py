"""The metric's figures equal those of plain loops, on part of the data and on several processes."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, distributed

from qa_lightning.data.tables import CONTEXTS, QUESTIONS
from qa_lightning.evaluation.metric import SquadMetric
from qa_lightning.evaluation.scoring import evaluate
from qa_lightning.evaluation.spans import NO_SPAN

N_BEST = 3
PORTIONS = 7  # windows of one update


@dataclass(frozen=True)
class Evaluated:
    """One window as the model would hand it to the metric."""

    key: tuple[int, int]
    null: float
    spans: list[tuple[int, int]]
    scores: list[float]
    loss: float
    hits: tuple[float, float]


def made_up(questions: int, seed: int) -> tuple[pa.Table, pa.Table, list[Evaluated]]:
    """Questions, contexts and windows: some questions unanswerable, some rows of loss unknown."""
    draw = random.Random(seed)
    words = "the river was an old bridge to paris and rome in 1920".split()
    contexts = [" ".join(draw.choices(words, k=draw.randrange(5, 15))) for _ in range(questions)]

    def a_span(context: str) -> tuple[int, int]:
        borders = [0, *(at + 1 for at, letter in enumerate(context) if letter == " ")]
        begin = draw.choice(borders)
        ends = [border - 1 for border in borders if border > begin] + [len(context)]
        return begin, draw.choice(ends[:3])

    rows, windows = [], []
    for number in range(questions):
        context = contexts[number // 2]
        spans = [a_span(context) for _ in range(draw.randrange(4))]
        rows.append(
            {
                "id": f"id {number}",
                "context": number // 2,
                "text": "what?",
                "labelled": True,
                "answers": [{"text": context[a:b], "start": a} for a, b in spans],
                "plausible_answers": [],
            }
        )
        for nth in range(draw.randrange(1, 4)):
            # The answer is often among the spans; a few windows have no legal span at all.
            found = {a_span(context) for _ in range(draw.randrange(N_BEST + 1))} | {*spans[:1]}
            found = set(draw.sample(sorted(found), min(len(found), N_BEST)))
            scores = sorted((round(draw.gauss(1, 4), 1) for _ in found), reverse=True)
            unknown = draw.random() < 0.2
            windows.append(
                Evaluated(
                    (number, nth),
                    draw.gauss(1, 4),
                    sorted(found, key=lambda _: draw.random()),
                    scores,
                    math.nan if unknown else draw.expovariate(1),
                    (math.nan, math.nan)
                    if unknown
                    else (float(draw.random() < 0.4), float(draw.random() < 0.6)),
                )
            )
    questions_table = pa.Table.from_pylist(rows, QUESTIONS)
    contexts_table = pa.Table.from_pylist(
        [{"article": 0, "title": "", "text": text} for text in contexts], CONTEXTS
    )
    return questions_table, contexts_table, windows


def tensors_of(windows: list[Evaluated]) -> dict[str, Tensor]:
    def filled(values: list[Any], nothing: Any) -> list[Any]:
        return values + [nothing] * (N_BEST - len(values))

    return {
        "key": torch.tensor([window.key for window in windows]),
        "null": torch.tensor([window.null for window in windows]),
        "spans": torch.tensor(
            [filled(window.spans, (NO_SPAN, NO_SPAN)) for window in windows], dtype=torch.int32
        ),
        "scores": torch.tensor([filled(window.scores, -math.inf) for window in windows]),
        "loss": torch.tensor([window.loss for window in windows]),
        "token_hits": torch.tensor([window.hits for window in windows]),
    }


def updated(metric: SquadMetric, windows: list[Evaluated]) -> SquadMetric:
    for at in range(0, len(windows), PORTIONS):
        metric.update(**tensors_of(windows[at : at + PORTIONS]))
    return metric


def metric_for(questions: pa.Table, contexts: pa.Table, threshold: float = 0.0) -> SquadMetric:
    metric = SquadMetric()
    metric.use_thresholds(threshold, tuned=1.5)
    metric.attach(questions, contexts)
    return metric


def by_plain_loops(
    questions: pa.Table, contexts: pa.Table, windows: list[Evaluated], threshold: float
) -> dict[str, float]:
    """Question by question, with dictionaries."""
    golds, texts, odds = [], [], []
    for number, question in enumerate(questions.to_pylist()):
        mine = [window for window in windows if window.key[0] == number]
        if not mine:
            continue
        context = contexts["text"][question["context"]].as_py()
        ranked = sorted(
            (-score, span)
            for window in mine
            for span, score in zip(window.spans, window.scores, strict=True)
        )
        best, (begin, end) = ranked[0] if ranked else (math.inf, (0, 0))
        golds.append([answer["text"] for answer in question["answers"]])
        texts.append(context[begin:end])
        odds.append(
            float(np.float32(min(window.null for window in mine))) + float(np.float32(best))
        )
    also_at = {"zero": 0.0, "tuned": 1.5}
    figures = evaluate(golds, texts, null_odds=odds, threshold=threshold, also_at=also_at)
    figures["no_answer_rate"] = 100 * sum(odd > threshold for odd in odds) / len(odds)
    known = [window for window in windows if not math.isnan(window.loss)]
    figures["loss"] = sum(window.loss for window in known) / len(known)
    hits = [hit for window in known for hit in window.hits]
    figures["token_accuracy"] = sum(hits) / len(hits)
    return figures


@pytest.mark.parametrize("threshold", [0.0, -3.5, 2.0, math.inf])
def test_figures_equal_plain_loops(threshold: float) -> None:
    questions, contexts, windows = made_up(60, seed=1)
    metric = updated(metric_for(questions, contexts, threshold), windows)
    figures = metric.compute()
    expected = by_plain_loops(questions, contexts, windows, threshold)
    assert list(figures) == list(expected)
    assert figures == pytest.approx(expected, rel=1e-6)
    assert figures["total"] == 60
    if threshold == 0.0:  # the data are such that nothing here is trivial
        assert 10 < figures["HasAns_f1"] < 90 and 10 < figures["no_answer_rate"] < 90
        assert figures["HasAns_exact"] < figures["HasAns_f1"]


def test_answers_and_texts_go_together() -> None:
    questions, contexts, windows = made_up(20, seed=2)
    seen = [window for window in windows if window.key[0] % 3 == 0]
    metric = updated(metric_for(questions, contexts), random.Random(0).sample(seen, len(seen)))
    answers = metric.answers()
    rows = list(range(0, 20, 3))
    assert answers.question.tolist() == rows
    for row, text, (begin, end) in zip(
        rows, metric.texts(answers), answers.spans[:, 0].tolist(), strict=True
    ):
        assert text == (contexts["text"][row // 2].as_py()[begin:end] if begin >= 0 else "")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.75])
def test_part_of_the_data_is_scored_on_what_was_seen(share: float) -> None:
    """As in the sanity check and with `limit_val_batches`: longest windows first, then a stop."""
    questions, contexts, windows = made_up(60, seed=3)
    seen = random.Random(0).sample(windows, math.ceil(share * len(windows)))
    figures = updated(metric_for(questions, contexts), seen).compute()
    assert figures == pytest.approx(by_plain_loops(questions, contexts, seen, 0.0), rel=1e-6)
    assert figures["total"] == len({window.key[0] for window in seen})


def test_order_and_portions_change_nothing_to_the_last_digit() -> None:
    questions, contexts, windows = made_up(40, seed=4)
    expected = updated(metric_for(questions, contexts), windows).compute()
    shuffled = random.Random(0).sample(windows, len(windows))
    duplicated = shuffled + shuffled[:5]
    assert updated(metric_for(questions, contexts), duplicated).compute() == expected
    at_once = metric_for(questions, contexts)
    at_once.update(**tensors_of(shuffled))
    assert at_once.compute() == expected


def test_unknown_labels_stay_out_of_loss_and_token_accuracy() -> None:
    questions, contexts, _ = made_up(4, seed=5)
    nan = math.nan
    windows = [
        Evaluated((0, 0), 0.0, [(0, 3)], [1.0], 0.5, (1.0, 0.0)),
        Evaluated((1, 0), 0.0, [(0, 3)], [1.0], nan, (nan, nan)),
        Evaluated((2, 0), 0.0, [(0, 3)], [1.0], 2.0, (1.0, 1.0)),
        Evaluated((2, 0), 0.0, [(0, 3)], [1.0], 2.0, (1.0, 1.0)),  # a duplicate
    ]
    figures = updated(metric_for(questions, contexts), windows).compute()
    assert figures["loss"] == 1.25
    assert figures["token_accuracy"] == 0.75
    assert figures["total"] == 3

    unknown = updated(metric_for(questions, contexts), windows[1:2]).compute()
    assert "loss" not in unknown and "token_accuracy" not in unknown
    assert unknown["total"] == 1


def test_a_question_without_any_legal_span_is_unanswered() -> None:
    questions, contexts, _ = made_up(4, seed=6)
    windows = [Evaluated((row, 0), -9.0, [], [], 1.0, (0.0, 0.0)) for row in range(4)]
    figures = updated(metric_for(questions, contexts), windows).compute()
    unanswerable = sum(not question["answers"] for question in questions.to_pylist())
    assert figures["no_answer_rate"] == 100.0
    assert figures["exact"] == 100.0 * unanswerable / 4


def test_reset_forgets_the_windows_but_not_the_questions() -> None:
    questions, contexts, windows = made_up(30, seed=7)
    metric = metric_for(questions, contexts)
    first = updated(metric, windows[:20]).compute()
    metric.reset()
    again = updated(metric, windows[20:]).compute()
    assert again == updated(metric_for(questions, contexts), windows[20:]).compute() != first
    metric.reset()
    assert updated(metric, windows[:20]).compute() == first


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_seen_gives_no_figures() -> None:
    questions, contexts, windows = made_up(4, seed=7)
    metric = metric_for(questions, contexts)
    assert metric.compute() == {}
    updated(metric, windows).reset()
    assert metric.compute() == {}


def test_a_new_threshold_counts_after_reset() -> None:
    questions, contexts, windows = made_up(30, seed=8)
    metric = updated(metric_for(questions, contexts), windows)
    metric.compute()
    metric.reset()
    metric.use_thresholds(-100.0, None)
    figures = updated(metric, windows).compute()
    assert figures["no_answer_rate"] == 100.0
    assert "tuned_exact" not in figures


def test_the_tuned_threshold_is_the_best_for_the_share_asked_for() -> None:
    questions, contexts, windows = made_up(80, seed=10)
    metric = updated(metric_for(questions, contexts), windows)
    before = metric.compute()

    def weighted_exact(threshold: float, share: float) -> float:
        metric.use_thresholds(threshold, None)
        metric._computed = None
        figures = metric.compute()
        return (1 - share) * figures["HasAns_exact"] + share * figures["NoAns_exact"]

    places = [odds + shift for odds in metric.answers().null_odds for shift in (-1e-9, 0.0, 1e-9)]
    for share in (0.05, 0.5, 0.9):
        tuned = metric.tune(share)
        assert tuned is not None
        best = max(weighted_exact(place, share) for place in places)
        assert weighted_exact(tuned.threshold, share) == pytest.approx(best)
        assert tuned.unanswerable_share == share
    as_it_is = metric.tune(None)
    assert as_it_is is not None
    metric.use_thresholds(as_it_is.threshold, as_it_is.threshold)
    metric._computed = None
    figures = metric.compute()
    assert figures["exact"] == figures["tuned_exact"] == pytest.approx(before["best_exact"])
    assert figures["zero_exact"] == before["exact"]


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_is_tuned_on_nothing_or_for_a_share_on_questions_of_one_kind() -> None:
    questions, contexts, windows = made_up(30, seed=11)
    metric = metric_for(questions, contexts)
    assert metric.tune(None) is None
    answered = [row for row, given in enumerate(questions["answers"].to_pylist()) if given]
    updated(metric, [window for window in windows if window.key[0] in answered])
    assert metric.tune(0.5) is None
    assert metric.tune(None) is not None


# ---- several processes

DISTRIBUTED = {"questions": 50, "seed": 9}


def shard(windows: list[Evaluated], rank: int, world_size: int) -> list[Evaluated]:
    """Uneven shares; two processes have duplicates of windows that another has too."""
    cut = [0, len(windows) // 5, len(windows) // 2, len(windows)]
    if world_size == 2:
        cut = [0, 8, len(windows)]
    mine = windows[cut[rank] : cut[rank + 1]]
    return mine + (windows[:3] if rank == world_size - 1 else windows[-2:] if rank == 0 else [])


def compute_on_a_process(rank: int, folder: Path) -> None:
    """Of three processes all compute together, then the first two."""
    torch.set_num_threads(1)
    questions, contexts, windows = made_up(**DISTRIBUTED)
    for world_size in (3, 2):
        if rank >= world_size:
            continue
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meet-{world_size}",
            rank=rank,
            world_size=world_size,
        )
        metric = updated(metric_for(questions, contexts), shard(windows, rank, world_size))
        figures = metric.compute()
        seen_here = sum(len(key) for key in metric.key)  # its own again, once computed
        result = {"figures": figures, "here": seen_here}
        (folder / f"{world_size}-{rank}.json").write_text(json.dumps(result))
        distributed.barrier()
        distributed.destroy_process_group()


def test_two_and_three_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    questions, contexts, windows = made_up(**DISTRIBUTED)
    alone = updated(metric_for(questions, contexts), windows).compute()
    # The slow imports happen once, in the process that the three are forked from.
    multiprocessing.set_forkserver_preload(["torchmetrics", "qa_lightning.data.tables"])
    torch.multiprocessing.start_processes(
        compute_on_a_process, args=(tmp_path,), nprocs=3, start_method="forkserver"
    )
    for world_size in (2, 3):
        shards = [shard(windows, rank, world_size) for rank in range(world_size)]
        assert len({len(mine) for mine in shards}) == world_size
        assert sum(map(len, shards)) > len(windows)
        for rank in range(world_size):
            result = json.loads((tmp_path / f"{world_size}-{rank}.json").read_text())
            assert result["figures"] == alone  # to the last digit
            assert result["here"] == len(shards[rank])
