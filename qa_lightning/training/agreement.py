"""Agreement: what several processes have to do together, asked about seldom."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

SECONDS = 1.0
"""About so much time lies between two questions."""

MOST_STEPS = 50
"""So many batches lie between two questions at most."""


class Agreement:
    """Finds out whether any process has a wish that all of them have to follow.

    A signal may reach one process alone, and clocks differ; but all have to stop, or to save,
    between the same two steps. The question waits for the device and for the slowest process, so it
    is asked once in some batches: as many as take `SECONDS`. That number is agreed upon in the same
    exchange, so that every process asks at the same batch.
    """

    def __init__(self) -> None:
        """Ask at the first batch."""
        self._batches = self._left = 1
        self._asked_at = time.monotonic()

    def any_of(self, trainer: Trainer, *wishes: bool) -> tuple[bool, ...]:
        """Whether any process has each of these wishes; all processes call it at every batch.

        Several processes are told of no wish at the batches at which nothing is asked.
        """
        if trainer.world_size == 1:
            return wishes
        self._left -= 1
        if self._left > 0:
            return (False,) * len(wishes)
        now = time.monotonic()
        own = [*map(float, wishes), (now - self._asked_at) / self._batches]
        largest = torch.tensor(own, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        *wished, seconds = largest.tolist()
        self._asked_at = now
        in_time = int(SECONDS / max(seconds, SECONDS / MOST_STEPS))
        self._batches = self._left = max(1, min(in_time, 2 * self._batches))
        return tuple(map(bool, wished))
