"""Texts as tokens: ids and characters of all tokens in flat arrays, every text tokenised once."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers.pre_tokenizers import BertPreTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENISE_AT_ONCE = 1000

Progress = Callable[[int], Any]
"""Called with the number of texts done since the last call."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array: row i is ``values[bounds[i]:bounds[i + 1]]``."""

    values: np.ndarray
    bounds: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of values of every row, int64."""
        return np.diff(self.bounds)


def tokenise_contexts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], progress: Progress
) -> dict[str, Ragged]:
    """Tokens of every context: four arrays, by their names in `qa_lightning.data.windows.Windows`.

    The names are context_ids, char_starts, char_ends and word_starts.
    """
    columns, lengths = [], []
    # Other tokenizers than BERT's count the space before a word to it, and marks behind it too.
    backend = tokenizer.backend_tokenizer
    as_bert = isinstance(backend.pre_tokenizer, BertPreTokenizer)
    for at in range(0, len(texts), TOKENISE_AT_ONCE):
        batch = texts[at : at + TOKENISE_AT_ONCE]
        encodings = backend.encode_batch(batch, add_special_tokens=False)
        length = np.array([len(encoding) for encoding in encodings])
        offsets = _flat(chain.from_iterable(encoding.offsets for encoding in encodings))
        characters, starts, ends = Characters(batch, length), offsets[::2], offsets[1::2]
        if not as_bert:
            starts, ends = characters.without_leading_spaces(starts, ends)
        ends = characters.with_dropped(starts, ends)
        word = np.array(list(chain.from_iterable(e.word_ids for e in encodings)), np.float32)
        begins = np.ones(len(word), np.uint8)
        begins[1:] = word[1:] != word[:-1]  # None became nan: a new word
        begins[(np.cumsum(length) - length)[length > 0]] = 1
        if not as_bert:
            begins = characters.begin_words(starts, ends)
        ids = _flat(encoding.ids for encoding in encodings)
        columns.append((ids, starts, ends, begins))
        lengths.append(length)
        progress(len(batch))
    bounds = _bounds(lengths)
    whole = [Ragged(np.concatenate(parts), bounds) for parts in zip(*columns, strict=True)]
    names = ("context_ids", "char_starts", "char_ends", "word_starts")
    return dict(zip(names, whole, strict=True))


class Characters:
    """The characters of texts one behind the other, and their tokens.

    Starts and ends of tokens, int32 `[tokens]`, count in the token's own text.
    """

    def __init__(self, texts: Sequence[str], length: np.ndarray) -> None:
        """Join the texts; `length` is the number of tokens of each."""
        whole = "".join(texts)
        size = np.array([len(text) for text in texts])
        self._codes = np.frombuffer(whole.encode("utf-32-le"), np.uint32)
        self._shift = np.repeat(np.cumsum(size) - size, length)  # of every token's text
        self._text_end = np.repeat(np.cumsum(size), length)
        self._is_space = np.isin(self._codes, _SPACES)

    def without_leading_spaces(
        self, starts: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Starts and ends without the space before a word, which some tokenizers count to it.

        A token of white space alone becomes empty, and so does one that stands for the space but
        was given the first letter of the word behind it.
        """
        letters = np.append(np.flatnonzero(~self._is_space), len(self._codes))
        first = letters[np.searchsorted(letters, starts + self._shift)] - self._shift
        starts = np.minimum(first, ends).astype(np.int32)
        for_space = self._same_start(starts)
        for_space[:-1] &= ends[:-1] < ends[1:]
        return starts, np.where(for_space, starts, ends).astype(np.int32)

    def _same_start(self, starts: np.ndarray) -> np.ndarray:
        """Whether the next token has the same start, bool `[tokens]`."""
        at = starts + self._shift
        return np.append(at[:-1] == at[1:], False) & (starts + self._shift < self._text_end)

    def with_dropped(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Ends of tokens, taking in the characters behind them that the tokenizer dropped.

        A tokenizer that strips accents drops combining marks (and vowel signs of Devanagari or
        Thai, variation selectors, control characters), so that no token covers them, although the
        answer ends with them. They belong to the token before, up to the next one or white space.
        """
        following = np.append(starts[1:] + self._shift[1:], len(self._codes))
        stop = np.minimum(following, self._text_end)
        spaces = np.append(np.flatnonzero(self._is_space), len(self._codes))
        first_space = spaces[np.searchsorted(spaces, ends + self._shift)]
        return np.maximum(np.minimum(stop, first_space) - self._shift, ends).astype(np.int32)

    def begin_words(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Whether a token begins a word, uint8: as BERT has words, at a space or a mark."""
        if not len(self._codes):
            return np.ones_like(starts, np.uint8)
        at = np.minimum(starts + self._shift, len(self._codes) - 1)
        before = np.maximum(at - 1, 0)
        marks = _punctuation()[self._codes]
        begins = (starts == 0) | marks[at] | marks[before] | self._is_space[before]
        # Of several tokens that are bytes of one character, the first one begins the word.
        begins[1:] &= ~(self._same_start(starts) & (ends > starts))[:-1]
        return begins.astype(np.uint8)


_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


@cache
def _punctuation() -> np.ndarray:
    """Whether each code point is a punctuation mark or an ASCII symbol, bool."""
    marks = (unicodedata.category(chr(code)).startswith("P") for code in range(0x110000))
    table = np.fromiter(marks, bool, 0x110000)
    table[[ord(mark) for mark in string.punctuation]] = True
    return table


def tokenise_questions(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], most: int, progress: Progress
) -> tuple[Ragged, np.ndarray]:
    """Token ids of every question, of which `most` are kept, and how many it had, int32.

    A longer question loses its middle: people put what they ask behind a long preamble, or explain
    it afterwards, so either end may hold it.
    """
    head, tail = most - most // 2, most // 2
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for at in range(0, len(texts), TOKENISE_AT_ONCE):
        # Some SQuAD questions begin with many spaces, which some tokenizers keep as tokens.
        batch = [text.lstrip() for text in texts[at : at + TOKENISE_AT_ONCE]]
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        cut = (row[:head] + row[len(row) - tail :] if len(row) > most else row for row in rows)
        ids.append(_flat(cut))
        lengths.append(np.array([len(row) for row in rows], np.int32))
        progress(len(batch))
    kept = [np.minimum(length, most) for length in lengths]
    return Ragged(np.concatenate(ids), _bounds(kept)), np.concatenate(lengths)


def _flat(rows: Iterable[Iterable[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.int32)


def _bounds(lengths: list[np.ndarray]) -> np.ndarray:
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)


def tokens_of_characters(
    char_starts: Ragged,
    char_ends: Ragged,
    context: np.ndarray,
    first_char: np.ndarray,
    end_char: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the tokens that cover character spans, for many spans at once.

    The first two arguments are as in `Windows`. The others are `[spans]`: row of the context of
    every span, int64, its first character, and one past its last.

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
