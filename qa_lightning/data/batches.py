"""Windows put together into batches: padded to a common length, or packed into one row."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from qa_lightning.data.windows import Windows

PAD_TO_MULTIPLE = 8
"""Padded lengths are multiples of this: matrix units like it, and shapes repeat more often."""


class BatchSize(NamedTuple):
    """How much work a batch is: plain numbers, known without asking the device."""

    windows: int
    tokens: int  # real ones, special tokens included
    padded_tokens: int  # token positions computed, padding included
    attention_pairs: int  # sum over windows of the square of their real tokens


class Packing(NamedTuple):
    """How the windows of a batch stand behind each other in one row, without the padding.

    The number of positions is the same in nearly every batch, and the number of segments comes from
    a short list, so that code compiled for these shapes fits the next batch too. The first segments
    are the windows; positions left over make segments of at most `max_seqlen`; further ones are
    empty.
    """

    # Where the token of each position is in the flat `Batch.input_ids`, int64 `[padded_tokens]`;
    # positions left over have the index after the last.
    indices: Tensor
    cu_seqlens: Tensor  # ends of the segments in the row, behind a 0: int32 `[segments + 1]`
    max_seqlen: int  # positions of a segment at most


class Batch(NamedTuple):
    """Windows of one step, padded to a common length.

    A named tuple, because Lightning moves it and the DataLoader pins it without help.
    """

    input_ids: Tensor  # int64 `[windows, tokens]`
    attention_mask: Tensor | None  # True for real tokens, bool `[windows, tokens]`; None for all
    label_start: Tensor  # position of the answer's first token, int64 `[windows]`; 0 is [CLS],
    label_end: Tensor  # and of its last (inclusive); -1 is ignored
    key: Tensor  # question row and window index, int64 `[windows, 2]`: what identifies a window
    # First character of every context token in its context, and one past the last, int32
    # `[windows, tokens, 2]`; -1 outside the context. None in training.
    offsets: Tensor | None
    # True where a context token begins a word, bool `[windows, tokens]`. None in training.
    word_starts: Tensor | None
    size: BatchSize
    packing: Packing | None = None  # None when padding is computed too
    token_type_ids: Tensor | None = None  # int64 `[windows, tokens]`; None if the model has none


@dataclass(eq=False, repr=False)
class WindowDataset(Dataset[Batch]):
    """Hands out whole batches: the item of a list of window rows is their `Batch`.

    Meant for `DataLoader(dataset, sampler=WindowSampler(...), batch_size=None)`: putting a batch
    together from arrays at once is far quicker than collating windows one by one.
    """

    windows: Windows
    _: KW_ONLY
    with_offsets: bool  # give characters and word starts too, which decoding needs
    # Pad to the longest window of the batch, or to the longest that a window may be.
    padding: Literal["batch", "window"] = "batch"
    # Pack the windows of a batch into one row of so many positions, or of the next multiple of
    # `PAD_TO_MULTIPLE` that has room for them; None does not pack.
    row_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, rows: np.ndarray | list[int]) -> Batch:
        """Build the batch of these window rows."""
        windows = self.windows
        rows = np.asarray(rows, dtype=np.int64)
        if rows.ndim != 1:
            raise TypeError("this data set gives whole batches, by a list of window rows")
        length = windows.lengths[rows].astype(np.int64)
        width = windows.settings.window
        if self.padding == "batch":
            width = min(round_up(length.max(), PAD_TO_MULTIPLE), width)
        packing = mask = None
        if self.row_tokens is not None:
            packing = _pack(length, width, windows.settings.window, self.row_tokens)
        if packing is not None or (length != width).any():
            mask = torch.from_numpy(np.arange(width) < length[:, None])
        input_ids, types, to_context, from_context = self._token_ids(rows, length, width)
        offsets = word_starts = None
        if self.with_offsets:
            offsets, word_starts = self._offsets(to_context, from_context, input_ids.shape)
        key = np.stack([windows.question[rows], windows.index[rows]], 1)
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=mask,
            label_start=torch.from_numpy(windows.label_start[rows].astype(np.int64)),
            label_end=torch.from_numpy(windows.label_end[rows].astype(np.int64)),
            key=torch.from_numpy(key.astype(np.int64)),
            offsets=offsets,
            word_starts=word_starts,
            size=BatchSize(
                windows=len(rows),
                tokens=int(length.sum()),
                padded_tokens=len(rows) * width if packing is None else len(packing.indices),
                attention_pairs=int((length * length).sum()),
            ),
            packing=packing,
            token_type_ids=None if types is None else torch.from_numpy(types),
        )

    def _token_ids(
        self, rows: np.ndarray, length: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
        """Token ids `[windows, width]` of window rows.

        Returns:
            The ids, their token types, if there are any, where the context's tokens are in the ids
            once flat, and where these come from in the flat arrays of all contexts.
        """
        windows = self.windows
        question, context = windows.question[rows], windows.context[rows]
        question_length = windows.question_ids.lengths[question]
        context_length = windows.context_length[rows].astype(np.int64)
        layout = windows.layout
        context_first = windows.settings.context_first
        first_length = context_length if context_first else question_length
        first = np.full_like(first_length, len(layout.before))
        between = first + first_length
        second = between + len(layout.between)
        after = length - len(layout.after)
        question_column, context_column = (second, first) if context_first else (first, second)
        to_question = _positions(question_column, question_length, width)
        from_question = _ranges(windows.question_ids.bounds[question], question_length)
        to_context = _positions(context_column, context_length, width)
        context_begin = windows.context_ids.bounds[context] + windows.context_start[rows]
        from_context = _ranges(context_begin, context_length)
        ids = np.full((len(rows), width), layout.pad, dtype=np.int64)
        each = np.arange(len(rows))
        for column, special in (
            (0, layout.before),
            (between, layout.between),
            (after, layout.after),
        ):
            for nth, token in enumerate(special):
                ids[each, column + nth] = token
        ids.ravel()[to_question] = windows.question_ids.values[from_question]
        ids.ravel()[to_context] = windows.context_ids.values[from_context]
        types = None
        if layout.types is not None:
            ends = np.stack([first, between, second, after, length], 1)
            part = (np.arange(width)[:, None] >= ends[:, None]).sum(2)
            types = np.array(layout.types, np.int64)[part]
        return ids, types, to_context, from_context

    def _offsets(
        self, to_context: np.ndarray, from_context: np.ndarray, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Offsets and word starts of a batch, see `Batch`; the places are those of `_token_ids`."""
        windows = self.windows
        offsets = np.full((*shape, 2), -1, dtype=np.int32)
        flat = offsets.reshape(-1, 2)
        flat[to_context, 0] = windows.char_starts.values[from_context]
        flat[to_context, 1] = windows.char_ends.values[from_context]
        word_starts = np.zeros(shape, dtype=bool)
        word_starts.ravel()[to_context] = windows.word_starts.values[from_context]
        return torch.from_numpy(offsets), torch.from_numpy(word_starts)


def _pack(length: np.ndarray, width: int, max_seqlen: int, row_tokens: int) -> Packing:
    """Place windows of these lengths, padded to `width` before, behind each other in one row."""
    tokens = int(length.sum())
    padded_tokens = max(row_tokens, round_up(tokens, PAD_TO_MULTIPLE))
    indices = np.full(padded_tokens, len(length) * width, dtype=np.int64)
    indices[:tokens] = _positions(np.zeros_like(length), length, width)
    left_over = np.arange(tokens + max_seqlen, padded_tokens + max_seqlen, max_seqlen)
    ends = np.concatenate([[0], np.cumsum(length), left_over.clip(max=padded_tokens)])
    segments = 1 << (len(ends) - 2).bit_length()
    ends = np.pad(ends, (0, segments + 1 - len(ends)), constant_values=padded_tokens)
    cu_seqlens = torch.from_numpy(ends.astype(np.int32))
    return Packing(torch.from_numpy(indices), cu_seqlens, max_seqlen)


def round_up(number: float, multiple: int) -> int:
    """The smallest multiple that is not below a number."""
    return int(-(-number // multiple)) * multiple


def _ranges(begin: np.ndarray, size: np.ndarray) -> np.ndarray:
    """``begin[0], ..., begin[0] + size[0] - 1, begin[1], ...`` as one int64 array."""
    shift = begin - (np.cumsum(size) - size)
    return np.arange(int(size.sum())) + np.repeat(shift, size)


def _positions(column: np.ndarray, size: np.ndarray, width: int) -> np.ndarray:
    """Flat positions of ``size[i]`` tokens from column ``column[i]`` on in every row i."""
    return _ranges(np.arange(len(column)) * width + column, size)
