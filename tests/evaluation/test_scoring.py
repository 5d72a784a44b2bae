"""The official figures, by hand and against loops; tests/commands/test_score.py has real files."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.evaluation.scoring import (
    average_precision,
    evaluate,
    last_of_ties,
    normalize_answer,
    score_answers,
    score_questions,
    sweep,
)

# ---- by hand: texts


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Quick, brown FOX!", "quick brown fox"),
        ("an apple a day", "apple day"),
        ("a-b the.end", "ab theend"),  # punctuation goes before articles are looked for
        ("theatre, banana", "theatre banana"),
        ("tab\tno-break\u00a0space \n", "tab nobreak space"),
        ("“Ångström” – Über", "“ångström” – über"),  # only ASCII punctuation is dropped
        ("à la carte", "à la carte"),
        ("第 a 一", "第 一"),
        ("The", ""),
        ("?! a ...", ""),
        ("", ""),
    ],
)
def test_normalize_answer(text: str, normalised: str) -> None:
    assert normalize_answer(text) == normalised


def exact_match(gold: str, predicted: str) -> float:
    return score_answers([[gold]], [predicted])[0].item()


def f1(gold: str, predicted: str) -> float:
    return score_answers([[gold]], [predicted])[1].item()


def test_exact_match_and_f1_of_two_texts() -> None:
    assert exact_match("The Beatles", "beatles.") == 1
    assert exact_match("Beatles", "Beetles") == 0
    assert f1("the big red dog", "a red dog barks loudly") == pytest.approx(2 * 2 / (3 + 4))
    assert f1("no no yes", "no yes yes") == pytest.approx(2 / 3)  # repeated words count once each
    assert f1("one", "two") == 0.0
    assert f1("", "the") == 1.0  # neither has words
    assert f1("", "word") == f1("word", "") == 0.0


def test_the_best_gold_answer_counts() -> None:
    exact, overlap = score_answers(
        [["Paris", "in Paris", "The Paris"], ["Paris", "Paris in France"], [], [], ["the", "Rome"]],
        ["paris", "France", "", "France", ""],
    )
    assert exact.dtype == overlap.dtype == np.float64
    assert exact.tolist() == [1, 0, 1, 0, 0]  # "the" is no gold answer beside "Rome"
    assert overlap.tolist() == pytest.approx([1, 0.5, 1, 0, 0])


def test_answers_that_normalise_to_nothing_still_make_a_question_answerable() -> None:
    figures = evaluate([["the", "?"], ["a"], []], ["", "word", "The"], null_odds=[0.2, 0.3, 0.1])
    assert figures["HasAns_total"] == 2 and figures["NoAns_total"] == 1
    assert figures["HasAns_exact"] == 50.0  # "" is right where no gold answer has words
    assert figures["NoAns_exact"] == 100.0  # and so is "The" where there is no gold answer
    # The sweep asks whether the prediction is empty as given, and "The" is not: it costs a point,
    # which the right "" wins back, so that answering nothing stays best.
    assert figures["best_exact"] == pytest.approx(100 / 3)
    assert figures["best_exact_thresh"] == 0.0


# ---- by hand: figures


def test_groups_without_questions_are_left_out() -> None:
    assert evaluate([["x"], ["y"]], ["x", "z"]) == {
        "exact": 50.0,
        "f1": 50.0,
        "total": 2,
        "HasAns_exact": 50.0,
        "HasAns_f1": 50.0,
        "HasAns_total": 2,
    }
    unanswerable = evaluate([[], []], ["", "z"], null_odds=[0.5, 0.5])
    assert list(unanswerable) == [
        *("exact", "f1", "total", "NoAns_exact", "NoAns_f1", "NoAns_total"),
        *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
    ]
    assert unanswerable["best_exact"] == 100.0 and unanswerable["best_exact_thresh"] == 0.0


def test_average_precision_by_hand() -> None:
    # In order of odds: right; unanswerable, tied with half right; wrong. Three are answerable.
    golds = [["green"], ["blue"], [], ["red"]]
    predictions = ["grey", "blue sky bird", "noise", "red"]
    figures = evaluate(golds, predictions, null_odds=[0.9, 0.2, 0.2, 0.1])
    # Cuts after 1, 3 and 4 questions. Precision x gain in recall at each:
    exact = 1 / 1 * 1 / 3 + 1 / 3 * 0 + 1 / 4 * 0
    half = 1 / 1 * 1 / 3 + 1.5 / 3 * 0.5 / 3 + 1.5 / 4 * 0
    oracle = 1 / 1 * 1 / 3 + 2 / 3 * 1 / 3 + 3 / 4 * 1 / 3
    assert figures["pr_exact_ap"] == pytest.approx(100 * exact, abs=1e-12)
    assert figures["pr_f1_ap"] == pytest.approx(100 * half, abs=1e-12)
    assert figures["pr_oracle_ap"] == pytest.approx(100 * oracle, abs=1e-12)
    assert half == pytest.approx(5 / 12) and oracle == pytest.approx(29 / 36)


def test_average_precision_without_ties_and_with_nothing_but_ties() -> None:
    answerable = [True, False, True]
    assert average_precision([1, 1, 1], [1.0, 2.0, 3.0], answerable) == pytest.approx(
        100 * (1 * 1 / 2 + 2 / 3 * 1 / 2)
    )
    # One cut, after everything: precision 2/3, recall from 0 to 1.
    assert average_precision([1, 1, 1], [0.0, 0.0, 0.0], answerable) == pytest.approx(200 / 3)
    # A score won on an unanswerable question is no true positive.
    assert average_precision([0, 1, 0], [1.0, 2.0, 3.0], answerable) == 0.0


def test_sweep_by_hand() -> None:
    thresholds, totals = sweep(
        scores=[1.0, 0.5, 1.0, 0.0, 1.0],
        null_odds=[3.0, -1.0, 3.0, 0.0, 5.0],
        answerable=[True, True, False, False, True],
        predicted_empty=[False, False, False, True, False],
    )
    assert thresholds.tolist() == [-math.inf, -1.0, 0.0, 3.0, 3.0, 5.0]
    assert totals.tolist() == [2.0, 2.5, 2.5, 3.5, 2.5, 3.5]
    assert last_of_ties(thresholds).tolist() == [True, True, True, False, True, True]


def test_best_threshold_follows_the_official_evaluator_through_ties() -> None:
    golds, predictions, odds = [["x"], []], ["x", "y"], [0.5, 0.5]
    # Between the two tied questions no threshold can stop; the official sweep does, in the order
    # of the questions.
    assert evaluate(golds, predictions, null_odds=odds)["best_exact"] == 100.0
    turned = evaluate(golds[::-1], predictions[::-1], null_odds=odds)
    assert turned["best_exact"] == 50.0 and turned["best_exact_thresh"] == 0.0
    # Of equal totals the lowest threshold is kept.
    assert evaluate([["x"], ["y"]], ["x", "z"], null_odds=[-2.0, 7.0])["best_exact_thresh"] == -2.0


def test_threshold_counts_odds_above_it_as_no_answer() -> None:
    golds, predictions, odds = [["x"], ["x"], [], []], ["x", "x", "y", "y"], [0.5, 0.6, 0.5, 0.6]
    figures = evaluate(golds, predictions, null_odds=odds, threshold=0.5)
    assert (figures["HasAns_exact"], figures["NoAns_exact"]) == (50.0, 50.0)
    default = evaluate(golds, predictions, null_odds=odds)
    assert (default["HasAns_exact"], default["NoAns_exact"]) == (100.0, 0.0)
    raw = [name for name in default if name.startswith(("best_", "pr_"))]
    assert len(raw) == 7
    assert [figures[name] for name in raw] == [default[name] for name in raw]


def test_reported_figures_compare_three_thresholds() -> None:
    golds, texts, odds = [["x"], ["x"], [], []], ["x", "x", "y", ""], [-1.0, 0.5, 0.6, 3e38]
    figures = score_questions(golds, texts, odds, 1.0, 0.5)
    assert (figures["exact"], figures["zero_exact"], figures["tuned_exact"]) == (75.0, 75.0, 100.0)
    assert figures["no_answer_rate"] == 25.0
    # No odds exceed an infinite threshold, though the last question has no answer to give.
    without = score_questions(golds, texts, odds, math.inf)
    assert "tuned_exact" not in without and without["no_answer_rate"] == 0.0
    rest = ("no_answer_rate", "zero_exact", "zero_f1")
    official = evaluate(golds, texts, null_odds=odds, threshold=math.inf)
    assert {name: value for name, value in without.items() if name not in rest} == official


def test_arguments_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="no questions"):
        evaluate([], [])
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        evaluate([[], []], [""])
    with pytest.raises(ValueError, match="3 null_odds for 2 questions"):
        evaluate([[], []], ["", ""], null_odds=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"question 1 .* NaN"):
        evaluate([[], []], ["", ""], null_odds=[0.0, math.nan])


# ---- against plain loops


def plain_words(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    result = word = ""
    for letter in kept + " ":
        if letter.isalnum():
            word += letter
        else:
            result += (" " if word in ("a", "an", "the") else word) + letter
            word = ""
    return result.split()


def plain_evaluate(questions: list[dict[str, Any]], threshold: float) -> dict[str, float]:
    """The whole evaluation, one question at a time."""
    for question in questions:
        golds = [words for words in map(plain_words, question["golds"]) if words] or [[]]
        predicted = plain_words(question["predicted"])
        question["exact"] = max(int(gold == predicted) for gold in golds)
        overlaps = []
        for gold in golds:
            left, same = list(gold), 0
            for word in predicted:
                if word in left:
                    left.remove(word)
                    same += 1
            if not gold or not predicted:
                overlaps.append(float(gold == predicted))
            elif same == 0:
                overlaps.append(0.0)
            else:
                precision, recall = same / len(predicted), same / len(gold)
                overlaps.append(2 * precision * recall / (precision + recall))
        question["f1"] = max(overlaps)
        question["oracle"] = 1
        question["has"] = len(question["golds"]) > 0

    figures: dict[str, float] = {}
    groups: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
        ("", lambda question: True),
        ("HasAns_", lambda question: question["has"]),
        ("NoAns_", lambda question: not question["has"]),
    ]
    for prefix, belongs in groups:
        members = [question for question in questions if belongs(question)]
        if not members:
            continue
        for name in ("exact", "f1"):
            total = 0.0
            for question in members:
                dropped = question["odds"] > threshold
                total += (not question["has"]) if dropped else question[name]
            figures[prefix + name] = 100 * total / len(members)
        figures[prefix + "total"] = len(members)

    ordered = sorted(questions, key=lambda question: question["odds"])
    answerable = sum(question["has"] for question in questions)
    for name in ("exact", "f1"):
        total = best = float(len(questions) - answerable)
        best_threshold = 0.0
        for question in ordered:
            if question["has"]:
                total += question[name]
            elif question["predicted"] != "":
                total -= 1
            if total > best:
                best, best_threshold = total, question["odds"]
        figures[f"best_{name}"] = 100 * best / len(questions)
        figures[f"best_{name}_thresh"] = best_threshold
    for name in ("exact", "f1", "oracle") if answerable else ():
        won = recall_before = area = 0.0
        for place, question in enumerate(ordered, start=1):
            won += question[name] if question["has"] else 0
            if place == len(ordered) or ordered[place]["odds"] > question["odds"]:
                area += won / place * (won / answerable - recall_before)
                recall_before = won / answerable
        figures[f"pr_{name}_ap"] = 100 * area
    return figures


pieces = st.sampled_from(
    [
        "the",
        "a",
        "An",
        "red",
        "Red",
        "dog",
        "dogs",
        "ß",
        "é",
        "第",
        " ",
        "\u00a0",
        "-",
        ".",
        "'",
        "“",
    ]
)
texts = st.one_of(
    st.just(""),
    st.lists(pieces, max_size=5).map(" ".join),
    st.lists(pieces, max_size=5).map("".join),
)
odds = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 1.0, math.inf]), st.floats(-20, 20, allow_nan=False)
)
questions = st.fixed_dictionaries(
    {"golds": st.lists(texts, max_size=3), "predicted": texts, "odds": odds}
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(questions, min_size=1, max_size=12), st.sampled_from([-1.0, 0.0, 0.25, 1.0]))
def test_figures_equal_plain_loops(asked: list[dict[str, Any]], threshold: float) -> None:
    golds = [question["golds"] for question in asked]
    predictions = [question["predicted"] for question in asked]
    null_odds = [question["odds"] for question in asked]
    figures = evaluate(golds, predictions, null_odds=null_odds, threshold=threshold)
    expected = plain_evaluate(asked, threshold)
    assert list(figures) == list(expected)
    for name, value in expected.items():
        if name.endswith("_thresh"):
            assert figures[name] == value, name
        else:
            assert figures[name] == pytest.approx(value, rel=0, abs=1e-9), name


@settings(deadline=None)  # a busy machine is no failure
@given(texts, texts)
def test_two_texts_score_alike_either_way(gold: str, predicted: str) -> None:
    assert exact_match(gold, predicted) == exact_match(predicted, gold)
    assert f1(gold, predicted) == f1(predicted, gold) >= exact_match(gold, predicted)
