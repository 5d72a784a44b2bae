"""Ways to end a run at a chosen moment."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from lightning.pytorch import Callback


class Crash(Exception):
    """What a test breaks a run with."""


class StopAt(Callback):
    """Ends a run in the n-th call of a hook."""

    def __init__(self, hook: str, number: int, how: str, rank: int | None = None) -> None:
        """Choose the moment.

        Args:
            hook: Which hook.
            number: Which of its calls, from 1.
            how: "crash", "hang" (as a process that waits for one that crashed), "memory" (as if the
                device had none left), or the name of a signal.
            rank: The process that it happens to; None for all.
        """
        self.left = number
        self.how = how
        self.rank = rank
        setattr(self, hook, self._count)

    def _count(self, trainer: Any, *_: Any) -> None:
        if trainer.sanity_checking or self.rank not in (None, trainer.global_rank):
            return
        self.left -= 1
        if self.left != 0:
            return
        if self.how == "crash":
            raise Crash
        if self.how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.how == "hang":
            time.sleep(600)
        else:
            os.kill(os.getpid(), getattr(signal, self.how))
