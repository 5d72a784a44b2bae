"""Texts as tokens: ids and characters of all tokens in flat arrays, every text tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

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
    for at in range(0, len(texts), TOKENISE_AT_ONCE):
        batch = texts[at : at + TOKENISE_AT_ONCE]
        encodings = tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False)
        length = np.array([len(encoding) for encoding in encodings])
        offsets = _flat(chain.from_iterable(encoding.offsets for encoding in encodings))
        word = np.array(list(chain.from_iterable(e.word_ids for e in encodings)), np.float32)
        begins = np.ones(len(word), np.uint8)
        begins[1:] = word[1:] != word[:-1]  # None became nan: a new word
        begins[(np.cumsum(length) - length)[length > 0]] = 1
        ids = _flat(encoding.ids for encoding in encodings)
        ends = _with_dropped_characters(batch, length, offsets[::2], offsets[1::2])
        columns.append((ids, offsets[::2], ends, begins))
        lengths.append(length)
        progress(len(batch))
    bounds = _bounds(lengths)
    whole = [Ragged(np.concatenate(parts), bounds) for parts in zip(*columns, strict=True)]
    names = ("context_ids", "char_starts", "char_ends", "word_starts")
    return dict(zip(names, whole, strict=True))


def _with_dropped_characters(
    texts: Sequence[str], length: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Ends of tokens, taking in the characters behind them that the tokenizer dropped.

    A tokenizer that strips accents drops combining marks (and vowel signs of Devanagari or Thai,
    variation selectors, control characters), so that no token covers them, although the answer ends
    with them. They belong to the token before them, up to the next token or white space.

    Args:
        texts: Texts one after the other.
        length: Number of tokens of each.
        starts: First character of every token in its text, int32 `[tokens]`.
        ends: One past its last, likewise.
    """
    whole = "".join(texts)
    size = np.array([len(text) for text in texts])
    shift = np.repeat(np.cumsum(size) - size, length)
    stop = np.append(starts[1:] + shift[1:], len(whole))
    last = np.cumsum(length)[length > 0] - 1
    stop[last] = np.cumsum(size)[length > 0]
    characters = np.frombuffer(whole.encode("utf-32-le"), np.uint32)
    spaces = np.flatnonzero(np.isin(characters, _SPACES))
    first_space = np.append(spaces, len(whole))[np.searchsorted(spaces, ends + shift)]
    return np.maximum(np.minimum(stop, first_space) - shift, ends).astype(np.int32)


_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


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
