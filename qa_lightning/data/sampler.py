"""Which windows go together: grouped by length or packed, and divided among processes."""

import heapq
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
from torch.utils.data import DistributedSampler, SequentialSampler

from qa_lightning.data.batches import PAD_TO_MULTIPLE, round_up

# Batches whose randomly drawn windows are sorted by length together. More would pad less, but would
# make neighbours in length ever less random.
GROUPED_AT_ONCE = 64
# Rows that randomly drawn windows are assigned to together: enough to fill them evenly.
ASSIGNED_AT_ONCE = 64
# Positions of a row beyond the average number of tokens, so that uneven rows have one size.
SPARE_TOKENS = 8


@dataclass(eq=False, repr=False)
class WindowSampler(DistributedSampler[np.ndarray]):
    """Batches of window rows for one process, the same on every run with the same seed and epoch.

    An epoch gives every window once, and all processes the same number of batches. In training, the
    batch of a step is drawn for all processes together and then divided, so that a step is the same
    windows however many processes share it; sizes differ by one at most. In evaluation ("sorted")
    whole batches are assigned, the same ones however many processes there are: a matrix product may
    round differently in another batch, and scores must not. Processes that would get one batch less
    get a duplicate of the last one; its windows are recognised by their key. Packed batches hold
    about the same number of tokens, not of windows, and are assigned whole.

    It is a DistributedSampler so that Lightning, which looks for one, does not add its own.
    """

    lengths: np.ndarray  # tokens of every window
    batch_size: int  # windows of a batch on one process at most; with "packed", on average
    _: KW_ONLY
    # "grouped": windows of like length together, batches in random order. "random": no grouping.
    # "packed": batches of as many tokens as fill a row (`row_tokens`). "sorted": by falling length,
    # the same in every epoch, for evaluation.
    order: Literal["grouped", "random", "packed", "sorted"]
    seed: int = 0  # fixes the random orders, together with the epoch
    rank: int = 0  # this process
    world_size: int = 1  # how many processes share the windows
    epoch: int = field(default=0, init=False)
    _done: tuple[int, int] = field(default=(0, 0), init=False)  # epoch; batches of it to leave out

    def start_at(self, epoch: int, batches: int) -> None:
        """Leave out the first batches of an epoch: a resumed run has trained on them already."""
        self.epoch = epoch
        self._done = (epoch, batches)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    @property
    def row_tokens(self) -> int:
        """Positions of a row of packed windows, the same for all rows of all epochs."""
        tokens = int(self.lengths.sum()) / (self.steps * self.world_size)
        return round_up(tokens + SPARE_TOKENS, PAD_TO_MULTIPLE)

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same on every process."""
        if self.order == "sorted":
            return -(-self._sorted_batches // self.world_size)
        shared = self.batch_size * self.world_size
        needed = -(-len(self.lengths) // shared)
        # With very few windows, rather fewer and larger batches than an empty one somewhere.
        return max(1, min(needed, len(self.lengths) // self.world_size))

    @property
    def _sorted_batches(self) -> int:
        """Batches of an evaluation, on all processes together."""
        return -(-len(self.lengths) // self.batch_size)

    def __len__(self) -> int:
        return self.steps if len(self.lengths) else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Give this process's share of every batch to come: int64 arrays of window rows."""
        if not len(self.lengths):
            return
        if self.order == "sorted":
            batches = self._sorted()
        else:
            random = np.random.default_rng([self.seed, self.epoch])
            rows = random.permutation(len(self.lengths))
            batches = (self._packed if self.order == "packed" else self._divided)(rows, random)
        epoch, done = self._done
        yield from islice(batches, done if epoch == self.epoch else 0, None)

    def _sorted(self) -> Iterator[np.ndarray]:
        rows = np.argsort(-self.lengths, kind="stable")
        bounds = np.linspace(0, len(rows), self._sorted_batches + 1).astype(np.int64)
        for step in range(self.steps):
            batch = min(step * self.world_size + self.rank, self._sorted_batches - 1)
            yield rows[bounds[batch] : bounds[batch + 1]]

    def _divided(self, rows: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
        """Cut randomly ordered windows into batches for all processes; give this one's share."""
        bounds = np.linspace(0, len(rows), self.steps + 1).astype(np.int64)
        batches = np.arange(self.steps)
        if self.order == "grouped":
            for at in range(0, self.steps, GROUPED_AT_ONCE):
                part = slice(bounds[at], bounds[min(at + GROUPED_AT_ONCE, self.steps)])
                rows[part] = rows[part][np.argsort(self.lengths[rows[part]], kind="stable")]
            random.shuffle(batches)
        for batch in batches:
            shared = rows[bounds[batch] : bounds[batch + 1]]
            if len(shared) < self.world_size:  # fewer windows than processes: duplicate some
                shared = np.resize(shared, self.world_size)
            yield shared[self.rank :: self.world_size]

    def _packed(self, rows: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
        """Assign randomly ordered windows to rows of packed windows; give this process's."""
        batches = self.steps * self.world_size
        if len(rows) < batches:  # fewer windows than processes: duplicate some
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


class FixedSampler(WindowSampler, SequentialSampler):  # type: ignore[misc]
    """The order of the first epoch in every epoch, for `Trainer(overfit_batches=...)`.

    It is a SequentialSampler so that Lightning, which wants one then, keeps it.
    """

    def set_epoch(self, epoch: int) -> None:
        """Keep the order."""


def _assign(lengths: np.ndarray, batches: int) -> list[list[int]]:
    """Assign windows to batches of nearly the same number of tokens.

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
