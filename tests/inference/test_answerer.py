"""Answers of a trained model: those that evaluation gives, from wherever the model is taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DistilBertForQuestionAnswering

from qa_lightning.data.batches import Batch
from qa_lightning.errors import UserError
from qa_lightning.inference.answerer import Answerer
from qa_lightning.model.trained_model import TrainedModel
from tests.helpers.command import QUIET, TINY_WINDOWS, call
from tests.helpers.data import squad_data


@dataclass(frozen=True)
class Trained:
    """A run, and what `predict` wrote with its best checkpoint."""

    run: Path
    contexts: list[str]
    questions: list[str]
    ids: list[str]
    given: dict[str, str]
    null_odds: dict[str, float]
    n_best: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    train, asked = root / "train.json", root / "asked.json"
    train.write_text(json.dumps(squad_data(12, seed=1)))
    content = squad_data(12, seed=1, answers=False)
    asked.write_text(json.dumps(content))
    shared = [*QUIET, "--data.cache_dir", root / "cache", "--trainer.default_root_dir", root]
    fitted = call(
        "fit",
        *(*shared, *TINY_WINDOWS, "--model.pretrained", tiny_encoder),
        *("--data.train", train, "--data.val", train, "--data.holdout", 0.4),
        *("--model.learning_rate", 3e-3, "--data.batch_size", 8, "--trainer.max_epochs", 40),
        *("--trainer.check_val_every_n_epoch", 10),
    )
    assert fitted.status == 0, fitted.err
    run = root / "lightning_logs" / "version_0"
    output = root / "output"
    predicted = call(
        "predict",
        *(*shared, *TINY_WINDOWS, "--data.predict", asked, "--output", output),
        *("--ckpt_path", run / "checkpoints" / "best.ckpt"),
    )
    assert predicted.status == 0, predicted.err
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    each = [(paragraph["context"], qa) for paragraph in paragraphs for qa in paragraph["qas"]]
    return Trained(
        run,
        [context for context, _ in each],
        [qa["question"] for _, qa in each],
        [qa["id"] for _, qa in each],
        *(
            json.loads((output / f"{name}.json").read_text())
            for name in ("answers", "null_odds", "nbest_predictions")
        ),
    )


def answerer_of(model: Path, **options: Any) -> Answerer:
    return Answerer.from_pretrained(model, device="cpu", precision="32-true", **options)


@pytest.mark.parametrize("place", ["", "model", "checkpoints/best.ckpt"])
def test_answers_are_those_of_predict(trained: Trained, place: str) -> None:
    answers = answerer_of(trained.run / place)(trained.questions, trained.contexts, top_k=20)
    assert dict(zip(trained.ids, (answer.text for answer in answers), strict=True)) == (
        trained.given
    )
    for name, answer, context in zip(trained.ids, answers, trained.contexts, strict=True):
        assert answer.null_odds == trained.null_odds[name]
        written = trained.n_best[name]
        spans = [one for one in written if one["start"] is not None]
        assert [vars(one) for one in answer.candidates] == spans
        (nothing,) = (one for one in written if one["start"] is None)
        assert answer.no_answer_probability == nothing["probability"]
        said = nothing if answer.start is None else spans[0]
        assert {key: getattr(answer, key) for key in said} == said
        if answer.start is not None:
            assert context[answer.start : answer.end] == answer.text
    verdicts = {answer.start is None for answer in answers}
    assert verdicts == {True, False}  # the model learnt enough to tell both


def test_one_question_is_answered_like_many(trained: Trained) -> None:
    answerer = answerer_of(trained.run)
    many = answerer(trained.questions[:4], trained.contexts[0])
    for question, answer in zip(trained.questions[:4], many, strict=True):
        alone = answerer(question, trained.contexts[0])
        assert (alone.text, alone.start, alone.end) == (answer.text, answer.start, answer.end)
        assert alone.score == pytest.approx(answer.score, abs=1e-4)
    assert answerer([], []) == []


def test_the_threshold_is_the_tuned_one_unless_another_is_given(trained: Trained) -> None:
    tuned = torch.load(trained.run / "checkpoints" / "best.ckpt", weights_only=True)
    question, context = trained.questions[0], trained.contexts[0]
    answerer = answerer_of(trained.run)
    assert answerer.threshold == tuned["null_threshold"] != 0
    assert answerer_of(trained.run, threshold=1.5).threshold == 1.5
    assert answerer(question, context).threshold == answerer.threshold
    always = answerer(question, context, threshold=float("inf"))
    never = answerer(question, context, threshold=float("-inf"))
    assert always.text and always.candidates[0].text == always.text
    assert (never.text, never.start, never.end) == ("", None, None)
    # Probabilities follow the threshold, scores and places do not.
    never_spans, always_spans = (
        [(one.text, one.start, one.end, one.score) for one in answer.candidates]
        for answer in (never, always)
    )
    assert never_spans == always_spans
    assert never.probability == never.no_answer_probability


def test_long_contexts_are_windowed(trained: Trained) -> None:
    """An answer in the last of many windows is found, and counts more than their null scores."""
    model = TrainedModel.load(trained.run).settings
    first, last = (model.tokenizer.convert_tokens_to_ids(token) for token in ("9", "##8"))

    def logits(batch: Batch) -> torch.Tensor:
        wanted = torch.stack([batch.input_ids == first, batch.input_ids == last], dim=2)
        return wanted.float()

    context = "people built a small old bridge in the north. " * 60 + "paris was founded in 9998."
    answer = Answerer(logits, model.tokenizer, model.windows)("when?", context, top_k=1)
    assert answer.text == "9998"
    assert context[answer.start : answer.end] == "9998"
    assert (answer.score, answer.null_odds) == (2, -2)


def test_the_settings_travel_with_the_model(trained: Trained, tmp_path: Path) -> None:
    model = TrainedModel.load(trained.run)
    settings = model.settings
    assert (settings.windows.window, settings.windows.overlap) == (64, 16)
    model.save(tmp_path)
    again = TrainedModel.load(tmp_path).settings
    assert (again.windows, again.null_threshold) == (settings.windows, settings.null_threshold)
    DistilBertForQuestionAnswering.from_pretrained(tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(question=st.text(max_size=60), context=st.text(max_size=300))
def test_any_text_gets_an_answer_from_it_or_a_refusal(
    trained: Trained, question: str, context: str
) -> None:
    answerer = answerer_of(trained.run, threshold=float("inf"))
    try:
        answer = answerer(question, context, top_k=20)
    except UserError as error:
        assert not question.strip() or not context.strip() or "surrogate" in str(error)
        return
    for one in answer.candidates:
        assert one.text == context[one.start : one.end]
    total = answer.no_answer_probability + sum(one.probability for one in answer.candidates)
    assert total == pytest.approx(1)
    json.dumps(answer.null_odds, allow_nan=False)


@pytest.mark.parametrize(
    ("question", "context", "options", "told"),
    [
        (" ", "a", {}, "the question is empty"),
        ("a", "\n", {}, "the context is empty"),
        (["a", "b"], ["a", ""], {}, "context 2 is empty"),
        (["a", "b"], ["a"], {}, "2 questions, but 1 contexts"),
        ("a", ["a"], {}, "one question has one context"),
        ("a", 3, {}, "one question has one context"),
        (["a"], [3], {}, "the context is not a text, but int"),
        ("a \ud800", "a", {}, "the question holds half a character"),
        ("a", "a", {"top_k": 21}, "top_k must be from 0 to 20"),
        ("a", "a", {"top_k": -1}, "top_k must be from 0 to 20"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    trained: Trained, question: Any, context: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        answerer_of(trained.run)(question, context, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"device": "toaster"}, "device 'toaster' cannot be used"),
        ({"precision": "8-true"}, "precision must be one of 32-true, bf16-mixed, 16-mixed"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_answer_tokens": 0}, "max_answer_tokens must be at least 1"),
    ],
)
def test_options_that_are_not_possible(
    trained: Trained, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        Answerer.from_pretrained(trained.run, **options)
