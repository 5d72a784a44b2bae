"""Which windows go together: length grouping, shards for several processes, padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from qa_lightning.data.windows import Windows

PAD_TO_MULTIPLE = 8
"""Padded lengths are multiples of this: matrix units like it, and shapes repeat more often."""

GROUPED_AT_ONCE = 64
"""Batches' worth of randomly drawn windows that are sorted by length together.

More would pad less, but would make neighbours in length ever less random.
"""


class BatchSize(NamedTuple):
    """How much work a batch is: plain numbers, known without asking the device."""

    windows: int
    """Windows in it."""
    tokens: int
    """Real tokens, special ones included."""
    slots: int
    """Token positions computed, padding included."""
    squares: int
    """Sum over windows of the square of their real tokens: the pairs that attend to each other."""


class Batch(NamedTuple):
    """Windows of one step, padded to a common length.

    A named tuple, because Lightning moves it and the DataLoader pins it without help.
    """

    input_ids: Tensor
    """Token ids, int64 `[windows, tokens]`."""
    attention_mask: Tensor | None
    """True where a token is real, bool `[windows, tokens]`; None when nothing is padded."""
    label_start: Tensor
    """Position of the answer's first token, int64 `[windows]`; 0 is [CLS], -1 is ignored."""
    label_end: Tensor
    """Position of the answer's last token (inclusive), int64 `[windows]`."""
    key: Tensor
    """Question row and window number, int64 `[windows, 2]`: the name of a window."""
    offsets: Tensor | None
    """Characters of every context token in its context, int32 `[windows, tokens, 2]`.

    First character and one past the last; -1 outside the context. None in training batches.
    """
    word_starts: Tensor | None
    """True where a context token begins a word, bool `[windows, tokens]`. None in training."""
    size: BatchSize
    """How much work it is."""


class WindowDataset(Dataset[Batch]):
    """Hands out whole batches: the item of a list of window rows is their `Batch`.

    Meant for `DataLoader(dataset, sampler=WindowSampler(...), batch_size=None)`: putting a batch
    together from arrays at once is far quicker than collating windows one by one.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        with_offsets: bool,
        padding: Literal["batch", "window"] = "batch",
    ) -> None:
        """Keep the windows.

        Args:
            windows: All windows.
            with_offsets: Give characters and word starts too, which decoding needs.
            padding: Pad to the longest window of the batch ("batch") or to the longest that a
                window may be ("window").
        """
        self.windows = windows
        self.with_offsets = with_offsets
        self.padding = padding

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.windows)

    def __getitem__(self, rows: np.ndarray | list[int]) -> Batch:
        """Build the batch of these window rows."""
        windows = self.windows
        rows = np.asarray(rows, dtype=np.int64)
        if rows.ndim != 1:
            raise TypeError(
                "this data set gives whole batches, by a list of window rows; if Lightning asked "
                "for one window, make the Trainer with use_distributed_sampler=False"
            )
        length = windows.lengths[rows].astype(np.int64)
        size = windows.size[rows].astype(np.int64)
        question = windows.question[rows].astype(np.int64)
        context = windows.context[rows].astype(np.int64)
        question_size = windows.question_ids.lengths[question]
        if self.padding == "window":
            width = windows.settings.window
        else:
            width = -(-int(length.max()) // PAD_TO_MULTIPLE) * PAD_TO_MULTIPLE
            width = min(width, windows.settings.window)

        ids = np.full((len(rows), width), windows.special.pad, dtype=np.int64)
        ids[:, 0] = windows.special.cls
        ids[np.arange(len(rows)), length - 1] = windows.special.sep
        context_at = 2 + question_size
        question_at = np.ones_like(size)
        if windows.settings.context_first:
            context_at, question_at = question_at, 2 + size
        between = np.maximum(context_at, question_at) - 1
        ids[np.arange(len(rows)), between] = windows.special.sep

        to_question = _slots(question_at, question_size, width)
        from_question = _ranges(windows.question_ids.bounds[question], question_size)
        ids.ravel()[to_question] = windows.question_ids.values[from_question]
        to_context = _slots(context_at, size, width)
        from_context = _ranges(windows.context_ids.bounds[context] + windows.first[rows], size)
        ids.ravel()[to_context] = windows.context_ids.values[from_context]

        offsets = word_starts = None
        if self.with_offsets:
            offsets = np.full((len(rows), width, 2), -1, dtype=np.int32)
            flat = offsets.reshape(-1, 2)
            flat[to_context, 0] = windows.char_starts.values[from_context]
            flat[to_context, 1] = windows.char_ends.values[from_context]
            word_starts = np.zeros((len(rows), width), dtype=bool)
            word_starts.ravel()[to_context] = windows.word_starts.values[from_context]

        mask = None
        if (length != width).any():
            mask = torch.from_numpy(np.arange(width) < length[:, None])
        return Batch(
            input_ids=torch.from_numpy(ids),
            attention_mask=mask,
            label_start=torch.from_numpy(windows.label_start[rows].astype(np.int64)),
            label_end=torch.from_numpy(windows.label_end[rows].astype(np.int64)),
            key=torch.from_numpy(np.stack([question, windows.number[rows].astype(np.int64)], 1)),
            offsets=None if offsets is None else torch.from_numpy(offsets),
            word_starts=None if word_starts is None else torch.from_numpy(word_starts),
            size=BatchSize(
                windows=len(rows),
                tokens=int(length.sum()),
                slots=len(rows) * width,
                squares=int((length * length).sum()),
            ),
        )


def _ranges(begin: np.ndarray, size: np.ndarray) -> np.ndarray:
    """``begin[0], ..., begin[0] + size[0] - 1, begin[1], ...`` as one int64 array."""
    shift = begin - (np.cumsum(size) - size)
    return np.arange(int(size.sum())) + np.repeat(shift, size)


def _slots(column: np.ndarray, size: np.ndarray, width: int) -> np.ndarray:
    """Flat positions of ``size[i]`` cells from column ``column[i]`` on in every row i."""
    return _ranges(np.arange(len(column)) * width + column, size)


class WindowSampler(Sampler[np.ndarray]):
    """Batches of window rows for one process, the same on every run with the same seed and epoch.

    An epoch gives every window once. All processes get the same number of batches. In training
    they are cut from common ones, so that a step is the same windows however many processes share
    it; sizes differ by one at most, instead of a last batch of a few. In evaluation ("sorted")
    whole batches are dealt out instead, the same ones however many processes there are: a matrix
    product may round differently in another batch, and scores are not to. Processes that would
    get one batch less are lent the last one; its windows are told apart by their key.
    `set_epoch` changes the order; Lightning calls it.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        order: Literal["grouped", "random", "sorted"],
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Set up the order.

        Args:
            lengths: Tokens of every window.
            batch_size: Windows of a batch on one process at most.
            order: "grouped": windows of like length together, batches in random order. "random":
                no grouping. "sorted": by falling length, the same in every epoch, for evaluation.
            seed: Fixes the random orders, together with the epoch.
            rank: This process.
            world_size: How many processes share the windows.
        """
        self.lengths = lengths
        self.batch_size = batch_size
        self.order = order
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same on every process."""
        if self.order == "sorted":
            return -(-self._whole_batches // self.world_size)
        shared = self.batch_size * self.world_size
        needed = -(-len(self.lengths) // shared)
        # With very few windows, rather fewer and larger batches than an empty one somewhere.
        return max(1, min(needed, len(self.lengths) // self.world_size))

    @property
    def _whole_batches(self) -> int:
        """Batches of an evaluation, on all processes together."""
        return -(-len(self.lengths) // self.batch_size)

    def __len__(self) -> int:
        """Batches of an epoch on this process."""
        return self.steps if len(self.lengths) else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Give this process's share of every batch: int64 arrays of window rows."""
        if not len(self.lengths):
            return
        total = len(self.lengths)
        if self.order == "sorted":
            rows = np.argsort(-self.lengths, kind="stable")
            bounds = np.linspace(0, total, self._whole_batches + 1).astype(np.int64)
            for step in range(self.steps):
                mine = min(step * self.world_size + self.rank, self._whole_batches - 1)
                yield rows[bounds[mine] : bounds[mine + 1]]
            return
        random = np.random.default_rng([self.seed, self.epoch])
        rows = random.permutation(total)
        bounds = np.linspace(0, total, self.steps + 1).astype(np.int64)
        if self.order == "grouped":
            for at in range(0, self.steps, GROUPED_AT_ONCE):
                part = slice(bounds[at], bounds[min(at + GROUPED_AT_ONCE, self.steps)])
                by_length = np.argsort(self.lengths[rows[part]], kind="stable")
                rows[part] = rows[part][by_length]
        batches = np.arange(self.steps)
        if self.order == "grouped":
            random.shuffle(batches)
        for batch in batches:
            shared = rows[bounds[batch] : bounds[batch + 1]]
            if len(shared) < self.world_size:  # fewer windows than processes: lend some twice
                shared = np.resize(shared, self.world_size)
            yield shared[self.rank :: self.world_size]
