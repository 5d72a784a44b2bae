"""Question + context -> overlapping token windows; answer characters -> answer tokens.

Every context and every question is tokenised once. A window is then five integers: which question,
which part of the context's tokens, and the label. The token ids of a window are put together from
those arrays when a batch is made, so a context that seven questions share is stored once, and no
step here loops over tokens in Python.

A window reads ``[CLS] question [SEP] piece of context [SEP]`` (or context first). Consecutive
windows of a question share ``overlap`` context tokens (fast tokenizers call this number `stride`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from qa_lightning.data.squad import SquadTables

SPECIAL_TOKENS = 3
"""[CLS] and two [SEP]: the tokens of a window that belong to neither question nor context."""

NO_ANSWER_HERE = 0
"""Label of a window that does not hold the whole answer: the position of [CLS]."""

IGNORED = -1
"""Label of a window that must not count in a loss: nothing is known about its answer."""

TOKENISE_AT_ONCE = 1000


@dataclass(frozen=True)
class WindowSettings:
    """How questions and contexts become windows.

    Attributes:
        window: Tokens in a window at most, special tokens included.
        overlap: Context tokens that a window shares with the one before it.
        max_question_tokens: A longer question is cut to its first tokens.
        context_first: Put the context before the question.
        first_window_only: Keep a question's first window only: the rest of a long context is cut
            away, and an answer that lies there is ignored by the loss.
        every_answer: Label a window for each answer of its question, not for the first alone.
    """

    window: int = 384
    overlap: int = 128
    max_question_tokens: int = 64
    context_first: bool = False
    first_window_only: bool = False
    every_answer: bool = False

    def __post_init__(self) -> None:
        """Refuse settings with which the windows of a long context could not advance.

        Raises:
            UserError: when a size is not positive or the overlap leaves no room.
        """
        if self.max_question_tokens < 1 or self.overlap < 0:
            raise UserError(
                f"max_question_tokens must be at least 1 and overlap at least 0, not "
                f"{self.max_question_tokens} and {self.overlap}"
            )
        room = self.window - self.max_question_tokens - SPECIAL_TOKENS
        if self.overlap >= room:
            raise UserError(
                f"windows cannot advance: window {self.window} less a question of up to "
                f"{self.max_question_tokens} tokens and {SPECIAL_TOKENS} special ones leaves "
                f"{room} tokens for context, and the overlap is {self.overlap}. Make "
                f"--data.window larger, or --data.overlap smaller than {max(room, 0)}"
            )


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is ``values[bounds[i]:bounds[i + 1]]``."""

    values: np.ndarray
    bounds: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of values of every row, int64."""
        return np.diff(self.bounds)


@dataclass(frozen=True)
class Special:
    """The three special token ids that a window needs."""

    cls: int
    sep: int
    pad: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Special:
        """Read them from a tokenizer."""
        return cls(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)


@dataclass(frozen=True)
class Windows:
    """All windows of one data set, with what is needed to build and to decode them.

    Attributes:
        questions: Arrow table, see `qa_lightning.data.squad.QUESTIONS`.
        contexts: Arrow table, see `qa_lightning.data.squad.CONTEXTS`.
        question_ids: Token ids of every question, int32.
        context_ids: Token ids of every context, int32.
        char_starts: First character of every context token, int32; rows as in `context_ids`.
        char_ends: One past its last character, int32.
        word_starts: Whether the token begins a word, bool.
        question: Row in `questions`, int32 `[windows]`. The arrays below have that shape too.
        context: Row in `contexts`, int32.
        index: 0 for a question's first window, then counting up, int32.
        context_start: Index of its first token among the context's tokens, int32.
        context_length: How many context tokens it holds, int32.
        label_start: Token position in the window of the answer's first token, int32;
            `NO_ANSWER_HERE` or `IGNORED` otherwise.
        label_end: The same for the answer's last token (inclusive).
        special: Ids of the special tokens.
        settings: What they were made with.
        untokenizable_answers: How many answers hold no token at all (white space, control
            characters).
    """

    questions: pa.Table
    contexts: pa.Table
    question_ids: Ragged
    context_ids: Ragged
    char_starts: Ragged
    char_ends: Ragged
    word_starts: Ragged
    question: np.ndarray
    context: np.ndarray
    index: np.ndarray
    context_start: np.ndarray
    context_length: np.ndarray
    label_start: np.ndarray
    label_end: np.ndarray
    special: Special
    settings: WindowSettings
    untokenizable_answers: int = 0
    lengths: np.ndarray = field(init=False)
    """Tokens of every window, special ones included, int32 `[windows]`."""

    def __post_init__(self) -> None:
        """Work out the lengths, which grouping and padding need again and again."""
        lengths = self.context_length + self.question_ids.lengths[self.question] + SPECIAL_TOKENS
        object.__setattr__(self, "lengths", lengths.astype(np.int32))

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.question)


Progress = Callable[[int], Any]
"""Called with the number of texts done since the last call."""


def make_windows(
    tables: SquadTables,
    tokenizer: PreTrainedTokenizerFast,
    settings: WindowSettings,
    progress: Progress = lambda done: None,
) -> Windows:
    """Tokenise every text once and lay the windows over them.

    Args:
        tables: Contexts and questions.
        tokenizer: A fast tokenizer; it is left without truncation and padding.
        settings: Sizes and ways.
        progress: Told how many texts were tokenised.

    Returns:
        The windows, ordered by question, then by window number.
    """
    # A fast tokenizer goes on cutting and padding as in its last call, or as its file says.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    context_ids, char_starts, char_ends, word_starts = _tokenise_contexts(
        tokenizer, tables.contexts.column("text").to_pylist(), progress
    )
    question_ids = _tokenise_questions(
        tokenizer,
        tables.questions.column("text").to_pylist(),
        settings.max_question_tokens,
        progress,
    )
    context_of = tables.questions.column("context").to_numpy().astype(np.int64)
    rows, first_char, end_char, labelled = _labelled_rows(tables.questions, settings.every_answer)
    answer_first, answer_last = tokens_of_characters(
        char_starts, char_ends, context_of[rows], first_char, end_char
    )
    has_answer = first_char >= 0
    lost = has_answer & (answer_first > answer_last)

    # How many windows each row needs: the first one, and a step further for what is left over.
    capacity = settings.window - SPECIAL_TOKENS - question_ids.lengths[rows]
    step = capacity - settings.overlap
    context_length = context_ids.lengths[context_of[rows]]
    left_over = np.maximum(context_length - capacity, 0)
    count = 1 + -(-left_over // step)
    if settings.first_window_only:
        count = np.ones_like(count)

    row = np.repeat(np.arange(len(rows)), count)
    order = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    begin = order * step[row]
    size = np.minimum(capacity[row], context_length[row] - begin)

    inside = (answer_first[row] >= begin) & (answer_last[row] < begin + size)
    inside &= has_answer[row] & ~lost[row]
    lead = 1 if settings.context_first else 2 + question_ids.lengths[rows][row]
    outside = np.where(labelled[row], NO_ANSWER_HERE, IGNORED)
    if settings.first_window_only:  # where the answer stands is known, but it was cut away
        outside = np.where(has_answer[row], IGNORED, outside)
    outside = np.where(lost[row], IGNORED, outside)
    label_start = np.where(inside, answer_first[row] - begin + lead, outside)
    label_end = np.where(inside, answer_last[row] - begin + lead, outside)

    # Rows of one question (one for each of its answers) are numbered on, so that a question and a
    # window index name one window.
    first_of_question = np.searchsorted(rows[row], rows[row], side="left")
    index = np.arange(len(row)) - first_of_question
    return Windows(
        questions=tables.questions,
        contexts=tables.contexts,
        question_ids=question_ids,
        context_ids=context_ids,
        char_starts=char_starts,
        char_ends=char_ends,
        word_starts=word_starts,
        question=rows[row].astype(np.int32),
        context=context_of[rows][row].astype(np.int32),
        index=index.astype(np.int32),
        context_start=begin.astype(np.int32),
        context_length=size.astype(np.int32),
        label_start=label_start.astype(np.int32),
        label_end=label_end.astype(np.int32),
        special=Special.of(tokenizer),
        settings=settings,
        untokenizable_answers=int(lost.sum()),
    )


def tokens_of_characters(
    char_starts: Ragged,
    char_ends: Ragged,
    context: np.ndarray,
    first_char: np.ndarray,
    end_char: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the tokens that cover character spans, for many spans at once.

    Args:
        char_starts: First character of every context token.
        char_ends: One past its last character.
        context: Row of the context of every span, int64 `[spans]`.
        first_char: First character of every span, `[spans]`.
        end_char: One past its last character.

    Returns:
        First and last token (inclusive) that share a character with the span, counted from the
        context's first token, int64 `[spans]` each. First is larger than last where no token does.
    """
    # One search over all contexts: the row stands in the high bits, the character in the low ones.
    # Within a context both character arrays never fall, so the keys are sorted.
    high = np.int64(1) << 32
    token_row = np.repeat(np.arange(len(char_starts.lengths)), char_starts.lengths) * high
    base = char_starts.bounds[context]
    first = np.searchsorted(token_row + char_ends.values, context * high + first_char, "right")
    last = np.searchsorted(token_row + char_starts.values, context * high + end_char, "left") - 1
    return first - base, last - base


def _tokenise_contexts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], progress: Progress
) -> tuple[Ragged, Ragged, Ragged, Ragged]:
    ids, starts, ends, words, lengths = [], [], [], [], []
    backend = tokenizer.backend_tokenizer
    for at in range(0, len(texts), TOKENISE_AT_ONCE):
        batch = texts[at : at + TOKENISE_AT_ONCE]
        encodings = backend.encode_batch(batch, add_special_tokens=False)
        length = np.array([len(encoding) for encoding in encodings])
        offsets = _flat(chain.from_iterable(encoding.offsets for encoding in encodings), np.int32)
        word = np.array(list(chain.from_iterable(e.word_ids for e in encodings)), np.float32)
        begins = np.ones(len(word), bool)
        begins[1:] = word[1:] != word[:-1]  # None became nan: a new word
        begins[(np.cumsum(length) - length)[length > 0]] = True
        ids.append(_flat((encoding.ids for encoding in encodings), np.int32))
        starts.append(offsets[::2])
        ends.append(offsets[1::2])
        words.append(begins)
        lengths.append(length)
        progress(len(batch))
    bounds = _bounds(lengths)
    return (
        Ragged(_join(ids, np.int32), bounds),
        Ragged(_join(starts, np.int32), bounds),
        Ragged(_join(ends, np.int32), bounds),
        Ragged(_join(words, np.uint8), bounds),
    )


def _tokenise_questions(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], most: int, progress: Progress
) -> Ragged:
    ids, lengths = [], []
    backend = tokenizer.backend_tokenizer
    for at in range(0, len(texts), TOKENISE_AT_ONCE):
        # Some SQuAD questions begin with many spaces, which some tokenizers keep as tokens.
        batch = [text.lstrip() for text in texts[at : at + TOKENISE_AT_ONCE]]
        encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        ids.append(_flat((encoding.ids[:most] for encoding in encodings), np.int32))
        lengths.append(np.array([min(len(encoding), most) for encoding in encodings]))
        progress(len(batch))
    return Ragged(_join(ids, np.int32), _bounds(lengths))


def _flat(rows: Iterable[Iterable[int]], dtype: type) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype)


def _bounds(lengths: list[np.ndarray]) -> np.ndarray:
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)


def _join(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _labelled_rows(
    questions: pa.Table, every_answer: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows to window: question, first and end character of its answer (-1: none), labelled."""
    answers = questions.column("answers").combine_chunks()
    if isinstance(answers, pa.ChunkedArray):
        answers = answers.chunk(0)
    count = np.diff(answers.offsets.to_numpy())
    flat = answers.values
    starts = flat.field("start").to_numpy(zero_copy_only=False).astype(np.int64)
    ends = starts + pc.utf8_length(flat.field("text")).to_numpy(zero_copy_only=False)
    taken = np.maximum(count, 1) if every_answer else np.ones_like(count)
    rows = np.repeat(np.arange(len(count)), taken)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(taken) - taken, taken)
    answer = answers.offsets.to_numpy()[:-1][rows] + nth
    has = (count > 0)[rows]
    first = np.full(len(rows), -1, np.int64)
    end = np.full(len(rows), -1, np.int64)
    first[has], end[has] = starts[answer[has]], ends[answer[has]]
    labelled = questions.column("labelled").to_numpy()[rows]
    return rows, first, end, labelled
