"""How many tokens texts have, what is too long, and what a model cannot read or learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from qa_lightning.data.findings import Finding, findings
from qa_lightning.data.tokens import tokens_of_characters
from qa_lightning.data.windows import Windows, answer_targets, no_answer_share

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MANY_UNKNOWN = 0.05
"""Share of tokens outside the vocabulary that is told. SQuAD has 0.03 % with BERT's."""

MOSTLY_WITHOUT = 0.75
"""Share of windows without an answer that is told. SQuAD 2.0's dev set has 52 %."""


@dataclass(frozen=True)
class Lengths:
    """How many tokens texts have."""

    median: int
    percentile_95: int
    longest: int


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens, special ones not counted, and how many windows they make."""

    questions: Lengths  # before long ones are cut
    contexts: Lengths  # each counted once
    answers: Lengths | None  # of all answers of all questions
    windows: int
    windows_with_answer: int  # those that hold the first answer of their question


def check_tokens(
    windows: Windows, tokenizer: PreTrainedTokenizerFast, max_answer_tokens: int
) -> tuple[Tokens, list[Finding]]:
    """Lengths, and what is too long for a window, a question or an answer."""
    ids = windows.questions["id"]
    question, answer_tokens = _answers_in_tokens(windows)[:2]
    answered, held, blank = np.zeros((3, len(ids)), bool)
    answered[question] = True
    with_answer = windows.label_start > 0
    held[windows.question[with_answer]] = True
    first_answer = np.searchsorted(question, np.flatnonzero(answered))
    blank[answered] = answer_tokens[first_answer] == 0
    tokens = Tokens(
        questions=_lengths(windows.question_tokens),
        contexts=_lengths(windows.context_ids.lengths),
        answers=_lengths(answer_tokens) if len(answer_tokens) else None,
        windows=len(windows),
        windows_with_answer=int(with_answer.sum()),
    )

    def found(kind: str, which: np.ndarray, rest: str) -> Iterator[Finding]:
        return findings(kind, ids.filter(pa.array(which)).to_pylist(), "question", rest)

    too_long = [*unread(windows, tokenizer.unk_token_id), *rare_answers(windows.label_start)]
    rest = "with an answer that no window holds whole: learnt as unanswerable (--data.window, "
    rest += "--data.overlap)"
    too_long += found("answers_in_no_window", answered & ~held & ~blank, rest)
    too_long += answers_never_given(windows, max_answer_tokens)
    rest = "with an answer that holds no token (white space or control characters): not learnt from"
    too_long += found("answers_without_tokens", blank, rest)
    return tokens, too_long


def answers_never_given(windows: Windows, max_answer_tokens: int) -> Iterator[Finding]:
    """Questions of which no answer can be given as it stands, although it is learnt."""
    question, tokens, inside_word = _answers_in_tokens(windows)
    ids = windows.questions["id"]

    def found(kind: str, never: np.ndarray, rest: str) -> Iterator[Finding]:
        which = np.zeros(len(ids), bool)
        which[question] = True
        which[question[~never]] = False
        return findings(kind, ids.filter(pa.array(which)).to_pylist(), "question", rest)

    rest = f"with all answers longer than {max_answer_tokens} tokens: learnt, but never given "
    rest += "(--model.max_answer_tokens)"
    yield from found("long_answers", tokens > max_answer_tokens, rest)
    unit, remedy = "word", "--data.answer_boundaries token lets answers begin and end at any token"
    if windows.settings.answer_boundaries == "token":
        unit, remedy = "token", "a tokenizer with smaller tokens would help"
    rest = f"with all answers beginning or ending inside a {unit}: never given like that ({remedy})"
    yield from found("answers_inside_words", inside_word, rest)


def unread(windows: Windows, unknown: int | None) -> Iterator[Finding]:
    """What a model does not get to read: tokens outside the vocabulary, and parts of questions.

    `unknown` is the id of the unknown token, None for a tokenizer that needs none.
    """
    shares = [
        100 * float((tokens.values == unknown).mean()) if len(tokens.values) else 0.0
        for tokens in (windows.context_ids, windows.question_ids)
    ]
    if unknown is not None and max(shares) > 100 * MANY_UNKNOWN:
        yield Finding(
            "unknown_tokens",
            f"{shares[0]:.1f} % of the contexts' tokens and {shares[1]:.1f} % of the questions' "
            "are not in the vocabulary: a model cannot tell them apart. Take an encoder made for "
            "this language (--model.pretrained)",
        )
    cut = windows.questions["id"].filter(pa.array(windows.cut_questions)).to_pylist()
    rest = f"longer than {windows.settings.max_question_tokens} tokens: the middle is cut out "
    yield from findings("cut_questions", cut, "question", rest + "(--data.max_question_tokens)")


def rare_answers(label_start: np.ndarray) -> Iterator[Finding]:
    """Whether so few training windows hold an answer that a model may learn to give none."""
    share = no_answer_share(label_start)
    if MOSTLY_WITHOUT < share < 1:
        yield Finding(
            "few_windows_with_answer",
            f"{100 * share:.1f} % of the windows hold no answer: a model trained on them may come "
            "to say 'no answer' to everything. Let them weigh less (--model.unanswerable_share "
            "0.5), or make windows longer (--data.window)",
        )


def _answers_in_tokens(windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every answer whose place is known: arrays `[answers]`.

    Returns:
        Row of its question and number of its tokens, int64, and whether it begins or ends inside
        the first or last of its words (of its tokens, where answers may begin at any), bool.
    """
    targets = answer_targets(windows.questions, every_answer=True)
    question = targets.question[targets.placed]
    first_char, end_char = targets.first_char[targets.placed], targets.end_char[targets.placed]
    context = windows.questions["context"].to_numpy().astype(np.int64)[question]
    starts, ends = windows.char_starts, windows.char_ends
    first, last = tokens_of_characters(starts, ends, context, first_char, end_char)
    tokens = np.maximum(last - first + 1, 0)
    # The text that would be given instead is that of the whole words.
    word = np.append(np.flatnonzero(windows.word_starts.values), len(starts.values))
    base, covered = starts.bounds[context], tokens > 0
    begin, end = first_char.copy(), end_char.copy()
    place = np.searchsorted(word, (base + first)[covered], "right") - 1
    begin[covered] = starts.values[word[place]]
    place = np.searchsorted(word, (base + last)[covered], "right")
    end[covered] = ends.values[word[place] - 1]
    inside = (begin < first_char) | (end > end_char)
    texts = windows.contexts["text"]
    for row in np.flatnonzero(inside).tolist():  # a bracket or a quotation mark more does no harm
        text = texts[int(context[row])].as_py()
        more = text[begin[row] : first_char[row]] + text[end_char[row] : end[row]]
        inside[row] = any(map(str.isalnum, more))
    return question, tokens, inside


def _lengths(tokens: np.ndarray) -> Lengths:
    median, percentile = np.percentile(tokens, [50, 95], method="inverted_cdf")
    return Lengths(int(median), int(percentile), int(tokens.max()))
