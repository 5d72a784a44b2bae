"""Question + context -> overlapping token windows; answer characters -> answer tokens.

Every context and every question is tokenised once. A window is then five integers: which question,
which part of the context's tokens, and the label. The token ids of a window are put together from
those arrays when a batch is made, so a context that seven questions share is stored once, and no
step here loops over tokens in Python.

A window reads ``[CLS] question [SEP] piece of context [SEP]`` (or context first), with the special
tokens of the tokenizer's own pairs. Consecutive
windows of a question share ``overlap`` context tokens (fast tokenizers call this number `stride`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.data.pair import PairLayout
from qa_lightning.data.tables import NO_PLACE, ReadReport, SquadTables
from qa_lightning.data.tokens import (
    Progress,
    Ragged,
    tokenise_contexts,
    tokenise_questions,
    tokens_of_characters,
)
from qa_lightning.data.window_settings import WindowSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NO_ANSWER_HERE = 0
"""Label of a window that does not hold the whole answer: the position of [CLS]."""

IGNORED = -1
"""Label of a window that must not count in a loss: nothing is known about its answer."""


def no_answer_share(label_start: np.ndarray) -> float:
    """Share of the windows with these labels that hold no answer, 0 to 1; unknown ones left out."""
    labelled = int((label_start != IGNORED).sum())
    return int((label_start == NO_ANSWER_HERE).sum()) / max(labelled, 1)


@dataclass(frozen=True)
class Windows:
    """All windows of one data set, with what is needed to build and to decode them."""

    questions: pa.Table  # see `qa_lightning.data.tables.QUESTIONS`
    contexts: pa.Table  # see CONTEXTS there
    question_ids: Ragged  # token ids of every question, int32
    question_tokens: np.ndarray  # how many it had before it was cut, int32 `[questions]`
    context_ids: Ragged  # token ids of every context, int32; the next three have the same rows
    char_starts: Ragged  # first character of every context token, int32
    char_ends: Ragged  # one past its last character, int32
    word_starts: Ragged  # whether an answer may begin here: at a word, or at any token; uint8
    question: np.ndarray  # row in `questions`, int32 `[windows]`; all arrays below have that shape
    context: np.ndarray  # row in `contexts`
    index: np.ndarray  # 0 for a question's first window, then counting up
    context_start: np.ndarray  # index of its first token among the context's tokens
    context_length: np.ndarray  # how many context tokens it holds
    label_start: np.ndarray  # position of the answer's first token, or NO_ANSWER_HERE or IGNORED
    label_end: np.ndarray  # the same for the answer's last token (inclusive)
    layout: PairLayout
    settings: WindowSettings  # what they were made with
    report: ReadReport  # on the tables that they were made from
    untokenizable_answers: int = 0  # answers without a token (white space, control characters)

    @property
    def cut_questions(self) -> np.ndarray:
        """Questions that were longer than `max_question_tokens`, bool `[questions]`."""
        return self.question_tokens > self.settings.max_question_tokens

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every window, special ones included, int32 `[windows]`."""
        lengths = self.context_length + self.question_ids.lengths[self.question] + self.layout.size
        return lengths.astype(np.int32)

    def __len__(self) -> int:
        return len(self.question)


def make_windows(
    tables: SquadTables,
    tokenizer: PreTrainedTokenizerFast,
    settings: WindowSettings,
    progress: Progress = lambda done: None,
) -> Windows:
    """Tokenise every text once and split the contexts into windows.

    The windows are ordered by question, then by window index. The tokenizer is left without
    truncation and padding: it would keep those of its last call, or of its file.
    """
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    texts, questions = tables.contexts["text"].to_pylist(), tables.questions["text"].to_pylist()
    tokens = tokenise_contexts(tokenizer, texts, progress)
    most = settings.max_question_tokens
    question_ids, question_tokens = tokenise_questions(tokenizer, questions, most, progress)

    if settings.answer_boundaries == "token":
        tokens["word_starts"].values[:] = 1
    targets = answer_targets(tables.questions, settings.every_answer)
    context = tables.questions["context"].to_numpy().astype(np.int64)[targets.question]
    spans = targets.first_char, targets.end_char
    first, last = tokens_of_characters(tokens["char_starts"], tokens["char_ends"], context, *spans)
    question_length = question_ids.lengths[targets.question]
    layout = PairLayout.of(tokenizer)
    settings.check_room(layout.size)
    capacity = settings.window - layout.size - question_length
    target, start, length = _split(tokens["context_ids"].lengths[context], capacity, settings)
    tokenless = first > last
    inside = ~tokenless[target] & (first[target] >= start) & (last[target] < start + length)
    lead: Any = len(layout.before)
    if not settings.context_first:
        lead = lead + question_length[target] + len(layout.between)
    ignored = ~targets.labelled | (targets.has_answer & (~targets.placed | tokenless))
    if settings.first_window_only:  # where the answer stands is known, but it was cut away
        ignored |= targets.has_answer
    outside = np.where(ignored, IGNORED, NO_ANSWER_HERE)[target]
    question = targets.question[target]
    # Targets of one question (one for each of its answers) are numbered on, so that a question and
    # an index name one window.
    index = np.arange(len(target)) - np.searchsorted(question, question, side="left")
    return Windows(
        questions=tables.questions,
        contexts=tables.contexts,
        question_ids=question_ids,
        question_tokens=question_tokens,
        **tokens,
        question=question.astype(np.int32),
        context=context[target].astype(np.int32),
        index=index.astype(np.int32),
        context_start=start.astype(np.int32),
        context_length=length.astype(np.int32),
        label_start=np.where(inside, first[target] - start + lead, outside).astype(np.int32),
        label_end=np.where(inside, last[target] - start + lead, outside).astype(np.int32),
        layout=layout,
        settings=settings,
        report=tables.report,
        untokenizable_answers=int((targets.placed & tokenless).sum()),
    )


@dataclass(frozen=True)
class Targets:
    """What windows are labelled with: each question's first placed answer, or each placed answer.

    All arrays have the shape `[targets]`; a question without a placed answer is one target.
    """

    question: np.ndarray  # row in the questions
    first_char: np.ndarray  # of the answer in its context; -1 without a placed answer
    end_char: np.ndarray  # one past its last character
    has_answer: np.ndarray  # whether the question has answers
    placed: np.ndarray  # whether the place of one is known
    labelled: np.ndarray


def answer_targets(questions: pa.Table, every_answer: bool) -> Targets:
    """The targets of some questions, in their order."""
    answers = questions["answers"].combine_chunks()
    offsets = answers.offsets.to_numpy()
    starts = answers.values.field("start").to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = pc.utf8_length(answers.values.field("text")).to_numpy(zero_copy_only=False)
    placed_answers = np.flatnonzero(starts != NO_PLACE)
    bounds = np.searchsorted(placed_answers, offsets)  # of each question's placed answers
    count = np.diff(bounds)
    taken = np.maximum(count, 1) if every_answer else np.ones_like(count)
    question = np.repeat(np.arange(len(count)), taken)
    nth = np.arange(len(question)) - np.repeat(np.cumsum(taken) - taken, taken)
    has_answer, placed = (np.diff(offsets) > 0)[question], (count > 0)[question]
    answer = placed_answers[(bounds[:-1][question] + nth)[placed]]
    first_char, end_char = np.full((2, len(question)), -1, np.int64)
    first_char[placed] = starts[answer]
    end_char[placed] = starts[answer] + lengths[answer]
    labelled = questions["labelled"].to_numpy()[question]
    return Targets(question, first_char, end_char, has_answer, placed, labelled)


def _split(
    context_length: np.ndarray, capacity: np.ndarray, settings: WindowSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split contexts of these lengths, int64 `[targets]`, into windows with room for `capacity`.

    Returns:
        Each window's target, first context token and number of context tokens, int64 `[windows]`.
    """
    step = capacity - settings.overlap
    left_over = np.maximum(context_length - capacity, 0)
    count = 1 + -(-left_over // step)
    if settings.first_window_only:
        count = np.ones_like(count)
    target = np.repeat(np.arange(len(count)), count)
    order = np.arange(len(target)) - np.repeat(np.cumsum(count) - count, count)
    start = order * step[target]
    return target, start, np.minimum(capacity[target], context_length[target] - start)
