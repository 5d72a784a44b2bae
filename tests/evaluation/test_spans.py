"""Span decoding equals plain double loops; joining windows equals a plain dictionary."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qa_lightning.evaluation.spans import (
    NO_SPAN,
    WindowScores,
    answers_of_questions,
    best_spans,
    best_texts,
    characters_of,
    word_boundaries,
)

# ---- the best spans of a window


def legal_spans(
    starts: list[float],
    ends: list[float],
    legal_start: list[bool],
    legal_end: list[bool],
    max_tokens: int,
) -> dict[tuple[int, int], float]:
    """Every legal span of one window and its score."""
    return {
        (first, last): starts[first] + ends[last]
        for first in range(len(starts))
        for last in range(len(ends))
        if legal_start[first] and legal_end[last] and first <= last < first + max_tokens
    }


def assert_best(
    found: tuple[Tensor, Tensor, Tensor], window: int, legal: dict[tuple[int, int], float]
) -> None:
    """Scores are the highest ones, and every span is a legal one with its own score."""
    first, last, score = (tensor[window].tolist() for tensor in found)
    count = len(score)
    best = sorted(legal.values(), reverse=True)[:count]
    assert score == best + [-math.inf] * (count - len(best))
    spans = list(zip(first, last, strict=True))[: len(best)]
    assert len(set(spans)) == len(spans)
    assert [legal[span] for span in spans] == best  # ties may come in any order


# Quarters add up exactly in float32, and tie often.
LOGIT = st.integers(-12, 12).map(lambda n: n / 4)


@st.composite
def window(draw: st.DrawFn, tokens: int) -> tuple[list[float], list[float], list[bool], list[bool]]:
    """Logits and legal places; -inf logits at the padding, as the model gives them."""
    used = draw(st.integers(0, tokens))
    padding = tokens - used
    logits = [
        draw(st.lists(LOGIT, min_size=used, max_size=used)) + [-math.inf] * padding
        for _ in range(2)
    ]
    legal = [
        draw(st.lists(st.booleans(), min_size=used, max_size=used)) + [False] * padding
        for _ in range(2)
    ]
    return logits[0], logits[1], legal[0], legal[1]


@settings(max_examples=300, deadline=None)
@given(
    windows=st.integers(1, 9).flatmap(lambda n: st.lists(window(n), min_size=1, max_size=3)),
    max_tokens=st.integers(1, 11),
    count=st.integers(1, 100),
)
@example(windows=[([1.0], [2.0], [True], [True])], max_tokens=1, count=3)
@example(windows=[([-math.inf], [-math.inf], [False], [False])], max_tokens=5, count=2)
def test_best_spans_equal_a_double_loop(
    windows: list[tuple[list[float], list[float], list[bool], list[bool]]],
    max_tokens: int,
    count: int,
) -> None:
    starts, ends, legal_start, legal_end = zip(*windows, strict=True)
    found = best_spans(
        torch.tensor(starts),
        torch.tensor(ends),
        torch.tensor(legal_start),
        torch.tensor(legal_end),
        max_tokens=max_tokens,
        count=count,
    )
    assert all(tensor.shape == (len(windows), count) for tensor in found)
    for number, one in enumerate(windows):
        assert_best(found, number, legal_spans(*one, max_tokens))


def test_best_spans_on_real_sizes() -> None:
    """The best 20 of windows of 60 tokens, with logits that never tie."""
    torch.manual_seed(0)
    starts, ends = torch.randn(2, 4, 60).unbind(0)
    legal_start, legal_end = (torch.rand(2, 4, 60) < 0.6).unbind(0)
    first, last, score = best_spans(starts, ends, legal_start, legal_end, max_tokens=30, count=20)
    for row in range(4):
        legal = legal_spans(
            starts[row].tolist(),
            ends[row].tolist(),
            legal_start[row].tolist(),
            legal_end[row].tolist(),
            30,
        )
        best = sorted(legal, key=lambda span: -legal[span])[:20]
        assert list(zip(first[row].tolist(), last[row].tolist(), strict=True)) == best
        assert score[row].tolist() == pytest.approx([legal[span] for span in best], rel=1e-6)


def one_window(starts: list[float], ends: list[float], max_tokens: int) -> list[tuple[int, int]]:
    everywhere = torch.ones(1, len(starts), dtype=torch.bool)
    first, last, score = best_spans(
        torch.tensor([starts]),
        torch.tensor([ends]),
        everywhere,
        everywhere,
        max_tokens=max_tokens,
        count=1,
    )
    assert score.isfinite().all()
    return list(zip(first[0].tolist(), last[0].tolist(), strict=True))


def test_longest_span() -> None:
    starts, ends = [9.0, 0, 0, 0], [0.0, 0, 0, 9]
    assert one_window(starts, ends, 4) == [(0, 3)]
    assert one_window(starts, ends, 3) in (
        [(0, 0)],
        [(0, 1)],
        [(0, 2)],
        [(1, 3)],
        [(2, 3)],
        [(3, 3)],
    )
    assert one_window([0.0, 3, 0], [0.0, 0, 4], 1) == [(2, 2)]
    assert one_window([0.0, 3, 0], [0.0, 2, 4], 1) == [(1, 1)]
    # The best start and the best end are the wrong way round.
    assert one_window([0.0, 1, 9], [9.0, 2, 0], 9) in ([(0, 0)], [(2, 2)])


def test_a_window_without_any_legal_span_has_none() -> None:
    logits = torch.zeros(2, 4)
    here = torch.tensor([[False, False, True, False]] * 2)
    before = torch.tensor([[False, True, False, False], [False, False, True, False]])
    found = best_spans(logits, logits, here, before, max_tokens=4, count=2)
    assert found[2].tolist() == [[-math.inf] * 2, [0.0, -math.inf]]
    offsets = torch.tensor([[[-1, -1], [0, 1], [2, 5], [-1, -1]]] * 2, dtype=torch.int32)
    spans = characters_of(offsets, *found)
    assert spans.dtype == torch.int32
    nothing = [NO_SPAN, NO_SPAN]
    assert spans.tolist() == [[nothing, nothing], [[2, 5], nothing]]


def test_characters_reach_from_the_first_token_to_the_last() -> None:
    offsets = torch.tensor([[[-1, -1], [3, 5], [5, 9], [10, 11], [-1, -1]]], dtype=torch.int32)
    first, last = torch.tensor([[1, 1, 3, 4]]), torch.tensor([[1, 3, 3, 99]])
    score = torch.tensor([[3.0, 2.0, 1.0, -math.inf]])
    spans = characters_of(offsets, first, last, score)
    assert spans.tolist() == [[[3, 5], [3, 11], [10, 11], [NO_SPAN, NO_SPAN]]]


def test_answers_begin_and_end_at_whole_words() -> None:
    #         [CLS] q  [SEP] ##b  c    d ##e ##f   g  [SEP] [PAD]
    begins = [-1, -1, -1, 1, 3, 5, 6, 7, 9, -1, -1]
    words = [False, False, False, False, True, True, False, False, True, False, False]
    offsets = torch.tensor([[[at, at if at < 0 else at + 1] for at in begins]])
    legal_start, legal_end = word_boundaries(offsets, torch.tensor([words]))
    # The piece begins inside a word: its first token may begin an answer all the same.
    assert legal_start[0].nonzero().flatten().tolist() == [3, 4, 5, 8]
    assert legal_end[0].nonzero().flatten().tolist() == [3, 4, 7, 8]


def test_word_boundaries_at_the_edges_of_a_window() -> None:
    # Context first, cut inside a word; context up to the last token; no context at all.
    begins = [[-1, 0, 2, 3, -1, -1], [-1, -1, 4, 5, 7, 8], [-1] * 6]
    words = [
        [False, True, True, False, False, False],
        [False, False, True, False, True, False],
        [False] * 6,
    ]
    offsets = torch.tensor([[[at, at if at < 0 else at + 1] for at in row] for row in begins])
    legal_start, legal_end = word_boundaries(offsets, torch.tensor(words))
    assert [row.nonzero().flatten().tolist() for row in legal_start] == [[1, 2], [2, 4], []]
    assert [row.nonzero().flatten().tolist() for row in legal_end] == [[1, 3], [3, 5], []]


# ---- the answers of a question

Rows = list[tuple[tuple[int, int], float, list[tuple[tuple[int, int], float]]]]
"""Windows: key, null score, spans with their scores."""


def scores_of(rows: Rows, count: int) -> WindowScores:
    spans = np.full((len(rows), count, 2), NO_SPAN, np.int32)
    scores = np.full((len(rows), count), -np.inf, np.float32)
    for row, (_, _, found) in enumerate(rows):
        for place, (span, score) in enumerate(found):
            spans[row, place], scores[row, place] = span, score
    return WindowScores(
        np.array([key for key, _, _ in rows], np.int64).reshape(-1, 2),
        np.array([null for _, null, _ in rows], np.float32),
        spans,
        scores,
    )


def joined(rows: Rows, count: int) -> dict[int, tuple[float, list[tuple[tuple[int, int], float]]]]:
    """Null score and best different spans of every question, with dictionaries."""
    once = {key: (null, found) for key, null, found in rows}
    result = {}
    for question in sorted({key[0] for key in once}):
        mine = [window for key, window in once.items() if key[0] == question]
        best: dict[tuple[int, int], float] = {}
        for _, found in mine:
            for span, score in found:
                best[span] = max(score, best.get(span, -math.inf))
        order = sorted(best, key=lambda span: (-best[span], span))
        result[question] = (min(null for null, _ in mine), [(s, best[s]) for s in order[:count]])
    return result


def as_joined(
    scores: WindowScores,
) -> dict[int, tuple[float, list[tuple[tuple[int, int], float]]]]:
    answers = answers_of_questions(scores)
    assert answers.spans.shape == (*answers.scores.shape, 2)
    result = {}
    for row, question in enumerate(answers.question.tolist()):
        real = ~np.isneginf(answers.scores[row])
        assert not (np.diff(real.astype(int)) > 0).any()  # what is missing comes last
        assert (answers.spans[row][~real] == NO_SPAN).all()
        spans = [tuple(span) for span in answers.spans[row][real].tolist()]
        found = list(zip(spans, answers.scores[row][real].tolist(), strict=True))
        result[question] = (float(answers.null[row]), found)
    assert list(result) == sorted(result)
    return result


SPAN = st.tuples(st.integers(0, 4), st.integers(5, 8))  # few: windows often propose the same


@st.composite
def evaluated(draw: st.DrawFn, count: int) -> Rows:
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from([0, 1, 4, 70_000]), st.integers(0, 3)),
            min_size=1,
            max_size=10,
            unique=True,
        )
    )
    rows: Rows = []
    for key in keys:
        spans = draw(st.lists(SPAN, max_size=count))
        scores = sorted((draw(LOGIT) for _ in spans), reverse=True)
        rows.append((key, draw(LOGIT), list(zip(spans, scores, strict=True))))
    return rows


@settings(max_examples=200, deadline=None)
@given(data=st.data(), count=st.integers(1, 5))
def test_answers_equal_a_plain_dictionary_in_any_order(data: st.DataObject, count: int) -> None:
    rows = data.draw(evaluated(count))
    twice = data.draw(st.lists(st.sampled_from(rows), max_size=4))  # evaluated twice or more
    expected = joined(rows, count)
    assert as_joined(scores_of(rows, count)) == expected
    assert as_joined(scores_of(data.draw(st.permutations(rows + twice)), count)) == expected


def test_null_is_the_lowest_and_the_best_span_comes_from_any_window() -> None:
    rows: Rows = [
        ((3, 1), 2.0, [((10, 12), 5.0), ((0, 4), 1.0)]),
        ((3, 0), -1.0, [((0, 4), 3.0), ((5, 6), 2.0)]),
        ((8, 0), 4.0, []),
    ]
    answers = answers_of_questions(scores_of(rows, 2))
    assert answers.question.tolist() == [3, 8]
    assert answers.null.tolist() == [-1.0, 4.0]
    nothing = [NO_SPAN, NO_SPAN]
    assert answers.spans.tolist() == [[[10, 12], [0, 4]], [nothing, nothing]]
    assert answers.scores.tolist() == [[5.0, 3.0], [-math.inf, -math.inf]]
    # No span at all: whatever the threshold, there is no answer.
    assert answers.null_odds[0] == -6.0 and 1e38 < answers.null_odds[1] < math.inf
    assert answers.null_odds.dtype == np.float64
    assert best_texts(answers, ["the quick fox", "nothing here"]) == ["fo", ""]


def test_spans_in_overlapping_windows_count_once_with_the_best_score() -> None:
    rows: Rows = [
        ((0, 0), 0.0, [((5, 9), 2.0), ((5, 6), 1.5)]),
        ((0, 1), 0.0, [((5, 9), 4.0), ((7, 9), 3.0)]),
        ((0, 2), 0.0, [((5, 9), 3.5)]),
        ((1, 0), 0.0, [((5, 9), 9.0)]),  # another question's
    ]
    for order in itertools.permutations(rows):
        answers = answers_of_questions(scores_of(list(order), 3))
        assert answers.spans[0].tolist() == [[5, 9], [7, 9], [5, 6]]
        assert answers.scores[0].tolist() == [4.0, 3.0, 1.5]
        assert answers.scores[1, 0] == 9.0


def test_equal_scores_are_settled_by_place() -> None:
    rows: Rows = [((0, 0), 0.0, [((6, 8), 1.0)]), ((0, 1), 0.0, [((2, 9), 1.0), ((2, 4), 1.0)])]
    for order in (rows, rows[::-1]):
        answers = answers_of_questions(scores_of(order, 2))
        assert answers.spans[0].tolist() == [[2, 4], [2, 9]]


def test_no_windows_give_no_answers() -> None:
    answers = answers_of_questions(scores_of([], 3))
    assert len(answers.question) == len(answers.null) == len(answers.null_odds) == 0
    assert answers.spans.shape == (0, 3, 2)
    assert best_texts(answers, []) == []


def test_no_windows_have_no_spans() -> None:
    logits, legal = torch.zeros(0, 7), torch.ones(0, 7, dtype=torch.bool)
    found = best_spans(logits, logits, legal, legal, max_tokens=3, count=4)
    assert [part.shape for part in found] == [(0, 4)] * 3
