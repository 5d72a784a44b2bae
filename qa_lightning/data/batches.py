"""Which windows go together: length grouping, shards for several processes, padding."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
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


ASSIGNED_AT_ONCE = 64
"""Rows that randomly drawn windows are assigned to together: enough to fill them evenly."""

SPARE_TOKENS = 8
"""Slots of a row beyond the average of the tokens in it, so that uneven rows have the same size."""


class BatchSize(NamedTuple):
    """How much work a batch is: plain numbers, known without asking the device."""

    windows: int
    """Windows in it."""
    tokens: int
    """Real tokens, special ones included."""
    padded_tokens: int
    """Token positions computed, padding included."""
    attention_pairs: int
    """Sum over windows of the square of their real tokens: the pairs that attend to each other."""


class Packing(NamedTuple):
    """How the windows of a batch stand behind each other in one row, without the padding.

    The number of slots is the same in nearly every batch, and the number of segments comes from a
    short list, so that code compiled for these shapes fits the next batch too.
    """

    indices: Tensor
    """Where each slot's token is in `Batch.input_ids`, row after row: int64 `[slots]`.

    Slots that are left over have the cell after the last.
    """
    cu_seqlens: Tensor
    """Ends of the windows in the row, behind a 0: int32 `[segments + 1]`.

    What is left over makes segments of its own, of `max_seqlen` positions at most. Further segments
    are empty.
    """
    max_seqlen: int
    """Slots of a segment at most."""


class Batch(NamedTuple):
    """Windows of one step, padded to a common length; `packing` tells how to go without padding.

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
    packing: Packing | None = None
    """Where the tokens go in a row of packed windows; None when padding is computed too."""


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
        row_tokens: int | None = None,
    ) -> None:
        """Keep the windows.

        Args:
            windows: All windows.
            with_offsets: Give characters and word starts too, which decoding needs.
            padding: Pad to the longest window of the batch ("batch") or to the longest that a
                window may be ("window").
            row_tokens: Pack the windows of a batch into one row of so many slots, or of the next
                multiple of `PAD_TO_MULTIPLE` that has room for them; None does not pack.
        """
        self.windows = windows
        self.with_offsets = with_offsets
        self.padding = padding
        self.row_tokens = row_tokens

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
        size = windows.context_length[rows].astype(np.int64)
        question = windows.question[rows].astype(np.int64)
        context = windows.context[rows].astype(np.int64)
        question_size = windows.question_ids.lengths[question]
        if self.padding == "window":
            width = windows.settings.window
        else:
            width = min(_round_up(length.max(), PAD_TO_MULTIPLE), windows.settings.window)

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
        from_context = _ranges(
            windows.context_ids.bounds[context] + windows.context_start[rows], size
        )
        ids.ravel()[to_context] = windows.context_ids.values[from_context]

        offsets = word_starts = None
        if self.with_offsets:
            offsets = np.full((len(rows), width, 2), -1, dtype=np.int32)
            flat = offsets.reshape(-1, 2)
            flat[to_context, 0] = windows.char_starts.values[from_context]
            flat[to_context, 1] = windows.char_ends.values[from_context]
            word_starts = np.zeros((len(rows), width), dtype=bool)
            word_starts.ravel()[to_context] = windows.word_starts.values[from_context]

        packing = None
        if self.row_tokens is not None:
            packing = _pack(length, width, windows.settings.window, self.row_tokens)
        mask = None
        if packing is not None or (length != width).any():
            mask = torch.from_numpy(np.arange(width) < length[:, None])
        return Batch(
            input_ids=torch.from_numpy(ids),
            attention_mask=mask,
            label_start=torch.from_numpy(windows.label_start[rows].astype(np.int64)),
            label_end=torch.from_numpy(windows.label_end[rows].astype(np.int64)),
            key=torch.from_numpy(np.stack([question, windows.index[rows].astype(np.int64)], 1)),
            offsets=None if offsets is None else torch.from_numpy(offsets),
            word_starts=None if word_starts is None else torch.from_numpy(word_starts),
            size=BatchSize(
                windows=len(rows),
                tokens=int(length.sum()),
                padded_tokens=len(rows) * width if packing is None else len(packing.indices),
                attention_pairs=int((length * length).sum()),
            ),
            packing=packing,
        )


def _pack(length: np.ndarray, width: int, longest: int, row_tokens: int) -> Packing:
    """Place windows of these lengths, padded to `width` before, behind each other in one row."""
    tokens = int(length.sum())
    slots = max(row_tokens, _round_up(tokens, PAD_TO_MULTIPLE))
    cells = np.full(slots, len(length) * width, dtype=np.int64)
    cells[:tokens] = _slots(np.zeros_like(length), length, width)
    left_over = np.arange(tokens + longest, slots + longest, longest).clip(max=slots)
    ends = np.concatenate([[0], np.cumsum(length), left_over])
    segments = 1 << (len(ends) - 2).bit_length()
    ends = np.pad(ends, (0, segments + 1 - len(ends)), constant_values=slots)
    return Packing(torch.from_numpy(cells), torch.from_numpy(ends.astype(np.int32)), longest)


def _round_up(number: float, multiple: int) -> int:
    """The smallest multiple that is not below a number."""
    return int(-(-number // multiple)) * multiple


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
    whole batches are assigned out instead, the same ones however many processes there are: a matrix
    product may round differently in another batch, and scores are not to. Processes that would
    get one batch less are lent the last one; its windows are told apart by their key.
    Packed batches hold about the same number of tokens, not of windows, and are assigned out whole.
    `set_epoch` changes the order; Lightning calls it.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        order: Literal["grouped", "random", "packed", "sorted"],
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Set up the order.

        Args:
            lengths: Tokens of every window.
            batch_size: Windows of a batch on one process at most; with "packed", on average.
            order: "grouped": windows of like length together, batches in random order. "random":
                no grouping. "packed": batches of as many tokens as fill a row (`row_tokens`).
                "sorted": by falling length, the same in every epoch, for evaluation.
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
        self._behind = (0, 0)

    def start_at(self, epoch: int, batches: int) -> None:
        """Leave out the first batches of an epoch: a resumed run has them behind it."""
        self.epoch = epoch
        self._behind = (epoch, batches)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    @property
    def row_tokens(self) -> int:
        """Slots of a row of packed windows, the same for all rows of all epochs."""
        tokens = int(self.lengths.sum()) / (self.steps * self.world_size)
        return _round_up(tokens + SPARE_TOKENS, PAD_TO_MULTIPLE)

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
        """Give this process's share of every batch to come: int64 arrays of window rows."""
        epoch, batches = self._behind
        yield from islice(self._shares(), batches if epoch == self.epoch else 0, None)

    def _shares(self) -> Iterator[np.ndarray]:
        """This process's share of every batch of the epoch."""
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
        if self.order == "packed":
            yield from self._packed(rows, random)
            return
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

    def _packed(self, rows: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
        """Deal randomly ordered windows to rows of packed windows; give those of this process."""
        batches = self.steps * self.world_size
        if len(rows) < batches:  # fewer windows than processes: lend some twice
            rows = np.resize(rows, batches)
        # Cut where the tokens are shared out evenly among the batches, as long as every batch of a
        # part and of those to come can have a window.
        at = np.linspace(0, batches, -(-batches // ASSIGNED_AT_ONCE) + 1).astype(np.int64)
        tokens = np.append(0, np.cumsum(self.lengths[rows], dtype=np.int64))
        bounds = np.searchsorted(tokens, tokens[-1] * (at / batches)) - at
        bounds = np.minimum(np.maximum.accumulate(bounds), len(rows) - batches) + at
        for part in range(len(at) - 1):
            drawn = rows[bounds[part] : bounds[part + 1]]
            assigned = _assign(self.lengths[drawn], int(at[part + 1] - at[part]))
            for batch in random.permutation(len(assigned)):
                if (at[part] + batch) % self.world_size == self.rank:
                    yield drawn[assigned[batch]]


def _assign(lengths: np.ndarray, batches: int) -> list[list[int]]:
    """Deal windows to batches of nearly the same number of tokens.

    The longest goes first, and each to the batch with the fewest tokens (Graham 1969, "Bounds on
    multiprocessing timing anomalies"). With as many windows as batches, each batch has one. Then
    the fullest and the emptiest batch exchange the two windows that make them most alike.
    """
    heap = [(0, batch) for batch in range(batches)]
    assigned: list[list[int]] = [[] for _ in range(batches)]
    for window in np.argsort(-lengths, kind="stable").tolist():
        tokens, batch = heap[0]
        assigned[batch].append(window)
        heapq.heapreplace(heap, (tokens + int(lengths[window]), batch))
    loads = np.array([lengths[batch].sum() for batch in assigned])
    for _ in range(2 * batches):
        full, empty = int(loads.argmax()), int(loads.argmin())
        gap = loads[full] - loads[empty]
        gains = lengths[assigned[full]][:, None] - lengths[assigned[empty]]
        one, other = np.unravel_index(np.abs(gains - gap / 2).argmin(), gains.shape)
        gain = gains[one, other]
        if not 0 < gain < gap:
            break
        assigned[full][one], assigned[empty][other] = assigned[empty][other], assigned[full][one]
        loads[full] -= gain
        loads[empty] += gain
    return assigned
