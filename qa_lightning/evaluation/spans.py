"""Logits -> best spans and null score of a window; windows -> answers of a question.

The null score of a window is the score of the span that is [CLS] alone: its start logit plus its
end logit there. A question's null score is the lowest over its windows, since one window without
an answer says little; its answer is the best span of any window. The best non-null span is chosen
first and compared with the null score afterwards: ``null - best > threshold`` means no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from qa_lightning.evaluation.scoring import unanswered

NO_SPAN = -1
"""Character position of a span that does not exist: the window had fewer legal ones."""


def best_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    legal_start: Tensor,
    legal_end: Tensor,
    *,
    max_tokens: int,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the highest-scoring legal spans of every window, exactly, in one batched operation.

    A span is legal when it begins at a legal start, ends at a legal end, does not end before it
    begins and is at most `max_tokens` long. All such pairs are compared, not only those of the
    best starts with the best ends. The tensors are `[windows, tokens]`, the legal ones bool.

    Returns:
        First tokens and last tokens (inclusive), int64, and scores (sum of the two logits),
        `[windows, count]` each, best first. The score is -inf where there are fewer spans.
    """
    tokens = start_logits.shape[1]
    max_tokens = min(max_tokens, tokens)
    nothing = float("-inf")
    starts = start_logits.masked_fill(~legal_start, nothing)
    ends = end_logits.masked_fill(~legal_end, nothing)
    ends = pad(ends, (0, max_tokens - 1), value=nothing)
    # For every start, the best of the ends that are 0, 1, ... max_tokens - 1 tokens further on.
    # Rounding keeps the order of sums, so this is the score of its best span to the last bit.
    best_of_start = starts + max_pool1d(ends.unsqueeze(1), max_tokens, stride=1).squeeze(1)
    # The best `count` spans begin at the `count` starts whose best spans score highest, so only
    # the spans of these starts are enumerated.
    kept = min(count, tokens)
    start = best_of_start.topk(kept, dim=1).indices
    within_reach = start.unsqueeze(2) + torch.arange(max_tokens, device=start.device)
    end_scores = ends.gather(1, within_reach.flatten(1)).view_as(within_reach)
    candidates = starts.gather(1, start).unsqueeze(2) + end_scores
    taken = min(count, kept * max_tokens)
    score, at = candidates.flatten(1).topk(taken, dim=1)
    first = start.gather(1, at // max_tokens)
    last = first + at % max_tokens
    missing = (0, count - taken)
    return pad(first, missing), pad(last, missing), pad(score, missing, value=nothing)


def characters_of(offsets: Tensor, first: Tensor, last: Tensor, score: Tensor) -> Tensor:
    """Turn spans of tokens, as `best_spans` returns them, into spans of characters.

    Returns:
        First character and one past the last, int32 `[windows, spans, 2]`; `NO_SPAN` twice where
        the score is -inf, since there is no span.
    """
    last = last.clamp(max=offsets.shape[1] - 1)
    begin = offsets[..., 0].gather(1, first)
    end = offsets[..., 1].gather(1, last)
    spans = torch.stack([begin, end], dim=2)
    return spans.masked_fill(score.isneginf().unsqueeze(2), NO_SPAN).to(torch.int32)


def word_boundaries(offsets: Tensor, word_starts: Tensor) -> tuple[Tensor, Tensor]:
    """Where an answer may begin and end, at whole words of the context: bool `[windows, tokens]`.

    `offsets` and `word_starts` are those of a `Batch`. A window's piece of context may begin inside
    a word; its first token is a legal start all the same.
    """
    context = (offsets[..., 0] >= 0) & (offsets[..., 1] > offsets[..., 0])  # no white space alone
    before, after = pad(context, (1, 0))[:, :-1], pad(context, (0, 1))[:, 1:]
    next_starts = pad(word_starts, (0, 1))[:, 1:]
    return context & (word_starts | ~before), context & (next_starts | ~after)


def spans_of_windows(
    logits: Tensor, offsets: Tensor, word_starts: Tensor, *, max_tokens: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode start and end logits `[windows, tokens, 2]` into spans of whole words.

    `offsets` and `word_starts` are those of a `Batch`; `count` spans of at most `max_tokens` tokens
    are kept per window.

    Returns:
        Null scores, characters of the spans and their scores, see `WindowScores`.
    """
    start, end = logits.unbind(2)
    legal_start, legal_end = word_boundaries(offsets, word_starts)
    first, last, scores = best_spans(
        start, end, legal_start, legal_end, max_tokens=max_tokens, count=count
    )
    return start[:, 0] + end[:, 0], characters_of(offsets, first, last, scores), scores


@dataclass(frozen=True)
class WindowScores:
    """Null scores and best spans of evaluated windows: arrays with one row per window."""

    key: np.ndarray  # question row and window index, int64 `[windows, 2]`
    null: np.ndarray  # null score, float32 `[windows]`
    spans: np.ndarray  # characters of the best ones, int32 `[windows, n, 2]`; `NO_SPAN` for none
    scores: np.ndarray  # theirs, float32 `[windows, n]`, best first; -inf where there is no span


@dataclass(frozen=True)
class Answers:
    """Best spans and null scores of questions: arrays with one row per question, in data order."""

    question: np.ndarray  # question row, int64 `[questions]`
    null: np.ndarray  # lowest null score over the question's windows, float32 `[questions]`
    spans: np.ndarray  # its best different spans, int32 `[questions, n, 2]`, as in `WindowScores`
    scores: np.ndarray  # theirs, float32 `[questions, n]`

    @property
    def null_odds(self) -> np.ndarray:
        """Null score minus the best span's score, float64: above the threshold means no answer.

        Without any legal span they exceed all others, yet are finite: JSON has no infinity.
        """
        best = np.maximum(self.scores[:, 0], np.finfo(np.float32).min)
        return self.null.astype(np.float64) - best.astype(np.float64)

    def unanswered(self, threshold: float) -> np.ndarray:
        """Questions whose null odds exceed the threshold or that have no legal span, bool."""
        return unanswered(self.null_odds, threshold) | (self.spans[:, 0, 0] == NO_SPAN)

    def take(self, rows: np.ndarray) -> Answers:
        """The answers in some rows, int64 `[rows]`."""
        return Answers(self.question[rows], self.null[rows], self.spans[rows], self.scores[rows])


def answers_of_questions(windows: WindowScores) -> Answers:
    """Join the windows of every question that has some, whatever the order of the windows.

    Duplicated windows (a distributed sampler gives some to two processes) count once.
    """
    key, kept = np.unique(windows.key, axis=0, return_index=True)
    null, spans, scores = windows.null[kept], windows.spans[kept], windows.scores[kept]
    question, first = np.unique(key[:, 0], return_index=True)
    if not len(question):
        return Answers(question, null, spans, scores)
    lowest = np.minimum.reduceat(null, first)

    # All spans of all windows, by question and falling score. Equal scores are ordered by place in
    # the text, so that the order in which windows were evaluated does not matter.
    count = scores.shape[1]
    owner = np.repeat(key[:, 0], count)
    flat, flat_scores = spans.reshape(-1, 2), scores.reshape(-1)
    real = ~np.isneginf(flat_scores)
    owner, flat, flat_scores = owner[real], flat[real], flat_scores[real]
    order = np.lexsort((flat[:, 1], flat[:, 0], -flat_scores, owner))
    owner, flat, flat_scores = owner[order], flat[order], flat_scores[order]
    # Overlapping windows propose the same characters: of each span the best score is kept.
    named = np.column_stack([owner, flat])
    _, once = np.unique(named, axis=0, return_index=True)
    once.sort()
    owner, flat, flat_scores = owner[once], flat[once], flat_scores[once]
    row = np.searchsorted(question, owner)
    place = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left")
    top = place < count
    best = np.full((len(question), count, 2), NO_SPAN, np.int32)
    best_scores = np.full((len(question), count), -np.inf, np.float32)
    best[row[top], place[top]] = flat[top]
    best_scores[row[top], place[top]] = flat_scores[top]
    return Answers(question, lowest, best, best_scores)


def candidate_probabilities(
    answers: Answers, threshold: float = 0.0, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax over the candidates of each question, which are "no answer" and its best spans.

    The null score counts less the threshold, so that "no answer" is likelier than the best span
    exactly where it is the verdict. Scores are divided by the temperature (Guo et al. 2017).

    Returns:
        Probability of "no answer", float64 `[questions]`, and of every span, float64
        `[questions, n]`, 0 where there is none.
    """
    null = answers.null.astype(np.float64) - np.clip(threshold, -FAR, FAR)
    scores = np.column_stack([null, answers.scores]).astype(np.float64) / temperature
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    return likely[:, 0], likely[:, 1:]


FAR = 1e6  # beyond all differences of scores: in the place of an infinite threshold


def best_texts(
    answers: Answers, contexts: Sequence[str], threshold: float = float("inf")
) -> list[str]:
    """Text of every question's answer, "" for "no answer", given the context of each.

    By default a question is answered whenever it has a span, whatever its null odds.
    """
    rows = zip(
        contexts, answers.spans[:, 0].tolist(), answers.unanswered(threshold).tolist(), strict=True
    )
    return ["" if nothing else text[begin:end] for text, (begin, end), nothing in rows]


@dataclass(frozen=True)
class Candidate:
    """One of the possible answers to a question."""

    text: str  # "" for "no answer"
    start: int | None  # its first character in the context; None for "no answer"
    end: int | None  # one past its last character; None for "no answer"
    score: float  # sum of start and end logit
    probability: float  # softmax over the candidates of the question


def candidates(
    contexts: Sequence[str], answers: Answers, threshold: float = 0.0, temperature: float = 1.0
) -> Iterator[list[Candidate]]:
    """Candidates of every question by falling probability, "no answer" among them."""
    null, likely = candidate_probabilities(answers, threshold, temperature)
    columns = (answers.null, null, answers.spans, answers.scores, likely)
    rows = zip(contexts, *(column.tolist() for column in columns), strict=True)
    for context, null_score, null_probability, spans, scores, probabilities in rows:
        found = [
            Candidate(context[start:end], start, end, score, probability)
            for (start, end), score, probability in zip(spans, scores, probabilities, strict=True)
            if start != NO_SPAN
        ]
        nothing = Candidate("", None, None, null_score, null_probability)
        yield sorted([nothing, *found], key=lambda one: -one.probability)
