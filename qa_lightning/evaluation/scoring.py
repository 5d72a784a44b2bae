"""The official SQuAD 2.0 arithmetic: normalise, exact match, F1, threshold sweep, precision.

The figures are those of the official evaluator (evaluate-v2.0.py; Rajpurkar, Jia and Liang 2018),
under its names and in its order, its habits at the edges included.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, drop the articles, and collapse white space.

    The order matters: punctuation goes first and joins what it separated, so "a-b" is the word
    "ab" and loses no article. Punctuation outside ASCII stays.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _word_f1(gold: Counter[str], predicted: Counter[str]) -> float:
    """F1 of words, 0 to 1; a text without words matches no other."""
    shared = (gold & predicted).total()
    if not shared:
        return 0.0
    precision, recall = shared / predicted.total(), shared / gold.total()
    return 2 * precision * recall / (precision + recall)


def score_answers(
    golds: Sequence[Sequence[str]], predictions: Sequence[str]
) -> tuple[Floats, Floats]:
    """Exact match and F1 of each question, float64 `[questions]`, 0 to 1.

    Each is the best over the question's gold answers, of which an unanswerable one has none. Those
    that normalise to nothing ("the", "?") do not count; a question with none left has the one gold
    answer "". A prediction is "" for "no answer".

    Raises:
        ValueError: the two differ in length.
    """
    if len(predictions) != len(golds):
        raise ValueError(f"{len(predictions)} predictions for {len(golds)} questions")
    # Gold answers of a question mostly agree, and answers recur between questions.
    normal = cache(normalize_answer)
    words = cache(lambda normalised: Counter(normalised.split()))
    exact, overlap = np.zeros(len(golds)), np.zeros(len(golds))
    for row, (texts, prediction) in enumerate(zip(golds, predictions, strict=True)):
        wanted = {normal(text) for text in texts} - {""} or {""}
        predicted = normal(prediction)
        if predicted in wanted:
            exact[row] = overlap[row] = 1.0
        else:
            overlap[row] = max(_word_f1(words(gold), words(predicted)) for gold in wanted)
    return exact, overlap


def unanswered(null_odds: npt.ArrayLike, threshold: float) -> Bools:
    """The verdict "no answer", bool in the shape of the odds; both arguments are on one scale."""
    return np.asarray(null_odds, np.float64) > threshold


def apply_threshold(
    scores: Floats, null_odds: npt.ArrayLike, answerable: Bools, threshold: float
) -> Floats:
    """The scores `[questions]` once questions with null odds above the threshold are unanswered.

    Left unanswered, an unanswerable question scores 1 and an answerable one 0.
    """
    return np.where(unanswered(null_odds, threshold), ~answerable, scores).astype(np.float64)


def sweep(
    scores: npt.ArrayLike,
    null_odds: npt.ArrayLike,
    answerable: npt.ArrayLike,
    predicted_empty: npt.ArrayLike,
    weights: npt.ArrayLike = 1.0,
) -> tuple[Floats, Floats]:
    """The total score at each null threshold, as the official evaluator sweeps it.

    The first point answers no question, so its total is the number of unanswerable ones. Each
    further point answers one more, in the order of null odds (equal odds in the order given): an
    answerable question adds its score, an unanswerable one takes 1 away unless its prediction is
    empty. The official evaluator considers all points, although no threshold separates equal odds;
    to choose a threshold for use, keep those where `last_of_ties(thresholds)`.

    Args:
        scores: Score of each question when it is answered, `[questions]`.
        null_odds: How likely "no answer" is, on any scale, `[questions]`, no NaN.
        answerable: Whether the question has a gold answer, `[questions]`.
        predicted_empty: Whether its prediction is "", `[questions]`.
        weights: How much each question counts; the official evaluator counts all alike.

    Returns:
        Thresholds, rising from -inf, and totals (sums, not means), float64 `[questions + 1]`.
        Questions with null odds above the threshold are not answered.
    """
    odds = np.asarray(null_odds, np.float64)
    has_answer = np.asarray(answerable, np.bool_)
    penalty = np.where(np.asarray(predicted_empty, np.bool_), 0.0, -1.0)
    counted = np.broadcast_to(np.asarray(weights, np.float64), odds.shape)
    gains = np.where(has_answer, np.asarray(scores, np.float64), penalty) * counted
    order = np.argsort(odds, kind="stable")
    thresholds = np.concatenate([[-np.inf], odds[order]])
    # cumsum adds from left to right, so totals equal those of the official loop bit for bit.
    totals = np.cumsum(np.concatenate([[counted[~has_answer].sum()], gains[order]]))
    return thresholds, totals


def last_of_ties(ordered: Floats) -> Bools:
    """Where runs of equal values end in an ordered array, bool: a threshold can cut only there."""
    return np.concatenate([ordered[1:] != ordered[:-1], [True]])


def tune_threshold(
    scores: npt.ArrayLike,
    null_odds: npt.ArrayLike,
    answerable: npt.ArrayLike,
    predicted_empty: npt.ArrayLike,
    unanswerable_share: float | None = None,
) -> float:
    """The null threshold with the highest mean score, for use on other questions than these.

    Unlike the official evaluator's `best_*_thresh`, it is always finite and never lies between
    equal odds. It is halfway between the two neighbouring odds that it separates. The first four
    arguments are as for `sweep`; `unanswerable_share` is the share of unanswerable questions, above
    0 and below 1, where the threshold will be used, and None stands for the share among these.

    Raises:
        ValueError: no questions, or a share is given and either kind of question is missing.
    """
    has_answer = np.asarray(answerable, np.bool_)
    weights = question_weights(has_answer, unanswerable_share)
    thresholds, totals = sweep(scores, null_odds, has_answer, predicted_empty, weights)
    finite = np.isfinite(thresholds) & last_of_ties(thresholds)
    if not finite.any():
        raise ValueError("no question has finite null odds")
    # One candidate between every two neighbouring odds, and one beyond each of the outermost.
    below = thresholds[finite]
    above = np.append(below[1:], below[-1] + 2.0)
    middle = np.concatenate([[below[0] - 1.0], below + (above - below) / 2])
    # Halfway between two adjacent floats may round to the upper one, which would not separate them.
    middle[1:] = np.where(middle[1:] < above, middle[1:], below)
    reached = np.concatenate([totals[:1], totals[finite]])
    return float(middle[reached.argmax()])


def question_weights(answerable: Bools, unanswerable_share: float | None) -> Floats:
    """How much each question counts, so that unanswerable ones have this share; None counts all 1.

    Raises:
        ValueError: a share is given and either kind of question is missing.
    """
    if unanswerable_share is None:
        return np.ones(len(answerable))
    share = float(np.mean(~answerable))
    if not 0 < share < 1:
        raise ValueError("a share of unanswerable questions needs questions of both kinds")
    return np.where(answerable, (1 - unanswerable_share) / (1 - share), unanswerable_share / share)


def average_precision(
    scores: npt.ArrayLike, null_odds: npt.ArrayLike, answerable: npt.ArrayLike
) -> float:
    """Area under the precision-recall curve of answering questions in the order of null odds.

    After each question, precision is the score won so far per question answered, and recall the
    score won so far per answerable question (there is at least one). Questions with equal odds
    count as one step. Arguments are as for `sweep`; the result is in percent.
    """
    odds = np.asarray(null_odds, np.float64)
    has_answer = np.asarray(answerable, np.bool_)
    order = np.argsort(odds, kind="stable")
    won = np.cumsum(np.where(has_answer, np.asarray(scores, np.float64), 0.0)[order])
    cut = last_of_ties(odds[order])
    precision = (won / np.arange(1, len(won) + 1))[cut]
    recall = (won / np.count_nonzero(has_answer))[cut]
    return float(100.0 * np.sum(precision * np.diff(recall, prepend=0.0)))


def evaluate(
    golds: Sequence[Sequence[str]],
    predictions: Sequence[str],
    *,
    null_odds: npt.ArrayLike | None = None,
    threshold: float = 1.0,
    also_at: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Every figure of the official evaluator, under its names, in its order.

    - `exact`, `f1`, `total`, then the same with `HasAns_` and `NoAns_`; a group without questions
      is left out. A question counts as answerable when it has gold answers as given, even if
      they normalise to nothing.
    - With null odds: `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`, the best over
      all thresholds. Chosen on the very questions they are reported on, they are an oracle. When
      answering nothing is best, the threshold is 0.0 as in the official evaluator, whatever the
      scale of the odds. For a real sweep the predictions are the best non-empty texts.
    - With null odds and an answerable question: the average precisions `pr_exact_ap`, `pr_f1_ap`
      and `pr_oracle_ap` (every answer right), which do not depend on `threshold` either.

    Gold answers and predictions are as for `score_answers`. Null odds say how likely "no answer"
    is: null score minus best span score, or a probability, which the official default threshold,
    1.0, is for. Equal odds are swept in the order given. Thresholds in `also_at` are to compare:
    each adds `NAME_exact` and `NAME_f1`. Scores are in percent.

    Raises:
        ValueError: no questions, arguments of different lengths, or NaN among the odds.
    """
    if not golds:
        raise ValueError("no questions to score")
    exact, overlap = score_answers(golds, predictions)
    answerable = np.array([len(texts) > 0 for texts in golds])
    if null_odds is None:
        return _means(answerable, exact, overlap)

    odds = np.asarray(null_odds, np.float64)
    if len(odds) != len(golds):
        raise ValueError(f"{len(odds)} null_odds for {len(golds)} questions")
    if np.isnan(odds).any():
        raise ValueError(f"null odds of question {np.isnan(odds).argmax()} (from 0) are NaN")

    def means_at(cut: float) -> dict[str, float]:
        scores = (apply_threshold(each, odds, answerable, cut) for each in (exact, overlap))
        return _means(answerable, *scores)

    figures = means_at(threshold)
    for name, cut in (also_at or {}).items():
        there = means_at(cut)
        figures |= {f"{name}_{kind}": there[kind] for kind in ("exact", "f1")}
    empty = np.array([not prediction for prediction in predictions])
    return figures | _over_all_thresholds(exact, overlap, odds, answerable, empty)


def score_questions(
    golds: Sequence[Sequence[str]],
    texts: Sequence[str],
    null_odds: npt.ArrayLike,
    threshold: float,
    tuned_threshold: float | None = None,
) -> dict[str, float]:
    """The figures that are reported of a model, whose best spans have these texts ("" for none).

    Those of `evaluate` at the effective null threshold; `zero_exact` and `zero_f1` at threshold 0,
    `tuned_exact` and `tuned_f1` at the one tuned on held-out questions, if there is one; and
    `no_answer_rate`, the percentage of questions whose null odds exceed the effective threshold.
    """
    also_at = {"zero": 0.0} | ({} if tuned_threshold is None else {"tuned": tuned_threshold})
    figures = evaluate(golds, texts, null_odds=null_odds, threshold=threshold, also_at=also_at)
    figures["no_answer_rate"] = 100.0 * float(unanswered(null_odds, threshold).mean())
    return figures


def _over_all_thresholds(
    exact: Floats, overlap: Floats, odds: Floats, answerable: Bools, empty: Bools
) -> dict[str, float]:
    """The figures of `evaluate` that do not depend on its threshold."""
    figures = {}
    for name, scores in (("best_exact", exact), ("best_f1", overlap)):
        thresholds, totals = sweep(scores, odds, answerable, empty)
        best = int(totals.argmax())
        figures[name] = float(100.0 * totals[best] / len(odds))
        figures[f"{name}_thresh"] = float(thresholds[best]) if best else 0.0
    if answerable.any():
        oracle = np.ones(len(odds))
        for name, scores in (("exact", exact), ("f1", overlap), ("oracle", oracle)):
            figures[f"pr_{name}_ap"] = average_precision(scores, odds, answerable)
    return figures


def _means(answerable: Bools, exact: Floats, overlap: Floats) -> dict[str, float]:
    groups = {"": np.ones_like(answerable), "HasAns_": answerable, "NoAns_": ~answerable}
    figures: dict[str, float] = {}
    for prefix, members in groups.items():
        if members.any():
            figures[f"{prefix}exact"] = float(100.0 * exact[members].mean())
            figures[f"{prefix}f1"] = float(100.0 * overlap[members].mean())
            figures[f"{prefix}total"] = int(members.sum())
    return figures
