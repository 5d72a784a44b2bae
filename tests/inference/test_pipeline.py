"""The calls of transformers' dropped pipeline: arguments, dictionaries, scores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import qa_lightning
from qa_lightning.errors import UserError
from qa_lightning.inference.pipeline import QuestionAnsweringPipeline, pipeline
from tests.helpers.data import squad_data
from tests.helpers.families import save_family

ARTICLE = squad_data(6, seed=3)["data"][0]["paragraphs"]
PAIRS = [(p["qas"][0]["question"], " ".join([p["context"]] * 3)) for p in ARTICLE]
(Q1, C1), (Q2, C2) = PAIRS[0], ("Where is it?", "It is in Paris.")


@pytest.fixture(scope="module", params=["distilbert", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> QuestionAnsweringPipeline:
    return pipeline(save_family("distilbert", tmp_path_factory.mktemp("model")), device="cpu")


def plainly(
    folder: Path, question: str, context: str, window: int, overlap: int
) -> tuple[dict[tuple[int, int], float], float]:
    """Scores of all spans of whole words, and of "no answer", by the definition."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    windows = tokenizer(
        *(question, context),
        max_length=window,
        stride=overlap,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert len(windows["input_ids"]) > 2
    spans: dict[tuple[int, int], float] = {}
    nulls = []
    for number, ids in enumerate(windows["input_ids"]):
        given: dict[str, Any] = {"input_ids": torch.tensor([ids])}
        if "token_type_ids" in windows:
            given["token_type_ids"] = torch.tensor([windows["token_type_ids"][number]])
        with torch.no_grad():
            output = model(**given)
        owner, words = windows.sequence_ids(number), windows.word_ids(number)
        possible = torch.tensor([part == 1 for part in owner])
        possible[0] = True
        start, end = (
            logits[0].masked_fill(~possible, float("-inf")).softmax(0)
            for logits in (output.start_logits, output.end_logits)
        )
        nulls.append(float(start[0] * end[0]))
        context_tokens = [token for token, part in enumerate(owner) if part == 1]
        for first in context_tokens:
            for last in range(first, min(first + 15, context_tokens[-1] + 1)):
                inside = first > context_tokens[0] and words[first - 1] == words[first]
                cut = last < context_tokens[-1] and words[last + 1] == words[last]
                if not inside and not cut:
                    offsets = windows["offset_mapping"][number]
                    place = (offsets[first][0], offsets[last][1])
                    score = float(start[first] * end[last])
                    spans[place] = max(score, spans.get(place, 0.0))
    return spans, min(nulls)


@pytest.mark.parametrize(("question", "context"), PAIRS[:3])
def test_scores_are_products_of_the_windows_probabilities(
    folder: Path, question: str, context: str
) -> None:
    spans, null = plainly(folder, question, context, 40, 12)
    ask = pipeline(folder, device="cpu")
    limits = {"max_seq_len": 40, "doc_stride": 12, "max_question_len": 20}
    best = sorted(spans, key=spans.__getitem__, reverse=True)[:5]
    given = ask(question=question, context=context, top_k=5, **limits)
    assert [(one["start"], one["end"]) for one in given] == best
    scores = [spans[place] for place in best]
    assert [one["score"] for one in given] == pytest.approx(scores, rel=1e-4)
    assert all(one["answer"] == context[one["start"] : one["end"]] for one in given)

    given = ask(question=question, context=context, handle_impossible_answer=True, **limits)
    if null > spans[best[0]]:
        assert given == {"score": pytest.approx(null, rel=1e-4), "start": 0, "end": 0, "answer": ""}
    else:
        assert (given["start"], given["end"]) == best[0]
    every = ask(question=question, context=context, handle_impossible_answer=True, top_k=20)
    assert [one["score"] for one in every] == sorted((o["score"] for o in every), reverse=True)


def test_no_answer_takes_its_place_among_the_answers(ask: QuestionAnsweringPipeline) -> None:
    spans = ask(question=Q2, context=C2, top_k=20)
    every = ask(question=Q2, context=C2, top_k=20, handle_impossible_answer=True)
    nothing = next(one for one in every if one["answer"] == "")
    assert (nothing["start"], nothing["end"]) == (0, 0)
    assert sorted([*spans, nothing], key=lambda one: -one["score"])[:20] == every
    best = ask(question=Q2, context=C2, handle_impossible_answer=True)
    assert best == every[0]


def test_every_form_of_a_call_is_understood(ask: QuestionAnsweringPipeline) -> None:
    first, second = ask(question=Q1, context=C1), ask(question=Q2, context=C2)
    assert list(first) == ["score", "start", "end", "answer"]
    one = {"question": Q1, "context": C1, "id": "more keys do not matter"}
    example = SimpleNamespace(question_text=Q1, context_text=C1)
    for given in (ask(Q1, C1), ask(one), ask([one]), ask(example), ask([example])):
        assert given == first
    assert ask(question=[Q1], context=[C1]) == first
    other = {"question": Q2, "context": C2}
    for several in (
        ask(question=[Q1, Q2], context=[C1, C2]),
        ask([one, other]),
        ask(one, other),
        ask([example, other]),
        ask(each for each in (one, other)),
    ):
        for given, alone in zip(several, (first, second), strict=True):
            assert given["score"] == pytest.approx(alone["score"])
            assert given["answer"] == alone["answer"]
    assert len(ask(question=[Q1, Q2], context=C1)) == 2
    assert ask([]) == []


def test_one_answer_is_a_dictionary_and_several_are_a_list(ask: QuestionAnsweringPipeline) -> None:
    three = ask(question=Q2, context=C2, top_k=3)
    assert len(three) == 3
    assert ask(question=Q2, context=C2, topk=3) == three
    assert ask(question=Q2, context="Paris", top_k=3) == ask(question=Q2, context="Paris")
    assert [len(one) for one in ask(question=[Q2, Q2], context=C2, top_k=3)] == [3, 3]
    assert ask(question=Q2, context="\u200b") == {
        "score": pytest.approx(1.0),
        "start": 0,
        "end": 0,
        "answer": "",
    }


def test_answers_are_as_long_as_allowed(ask: QuestionAnsweringPipeline) -> None:
    words = [len(one["answer"].split()) for one in ask(Q1, C1, top_k=20, max_answer_len=1)]
    assert set(words) == {1}
    longest = max(len(one["answer"]) for one in ask(Q1, C1, top_k=20))
    assert longest > max(len(one["answer"]) for one in ask(Q1, C1, top_k=20, max_answer_len=1))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"question": Q1}, "give a question and a context"),
        ({}, "give a question and a context"),
        ({"question": Q1, "context": [C1]}, "one question has one context"),
        ({"question": [Q1, Q2], "context": [C1]}, "2 questions, but 1 contexts"),
        ({"question": " ", "context": C1}, "the question is empty"),
        (
            {"question": Q1, "context": C1, "top_k": 0},
            "top_k and max_answer_len must be at least 1",
        ),
        ({"question": Q1, "context": C1, "topk": 21}, "top_k must be from 0 to 20, not 21"),
        ({"question": Q1, "context": C1, "max_answer_len": 0}, "max_answer_len.* at least 1"),
        ({"question": Q1, "context": C1, "max_seq_len": 0}, "max_seq_len.* must be at least 1"),
        ({"question": Q1, "context": C1, "max_seq_len": 513}, "513, but the model has 512 pos"),
        (
            {"question": Q1, "context": C1, "max_seq_len": 64, "doc_stride": 60},
            "max_seq_len, doc_stride, max_question_len: windows cannot advance.*overlap is 60$",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(
    ask: QuestionAnsweringPipeline, call: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        ask(**call)


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        (["a question alone"], "example 1 lacks a question or a context"),
        ([{"question": Q1}], "example 1 lacks a question or a context"),
        ([[{"question": Q1, "context": C1}, 3]], "example 2 lacks a question or a context: '3'"),
        ([3], "example 1 lacks a question or a context: '3'"),
        ([[{"question": Q1, "context": C1}, {"question": Q1, "context": None}]], "example 2 lacks"),
    ],
)
def test_examples_of_another_kind_are_refused(
    ask: QuestionAnsweringPipeline, examples: list[Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        ask(*examples)


def test_sizes_are_those_of_training_unless_given(ask: QuestionAnsweringPipeline) -> None:
    own = ask.answerer.windows
    assert ask._windows(None, None, None) == own
    assert (own.window, own.overlap, own.max_question_tokens) == (384, 128, 64)
    smaller = ask._windows(100, None, None)
    assert (smaller.window, smaller.overlap, smaller.max_question_tokens) == (100, 50, 25)
    given = ask._windows(512, 200, 30)
    assert (given.window, given.overlap, given.max_question_tokens) == (512, 200, 30)


def test_it_is_at_hand(folder: Path) -> None:
    assert qa_lightning.pipeline is pipeline
    with pytest.raises(UserError, match="precision must be one of"):
        pipeline(folder, precision="8")
