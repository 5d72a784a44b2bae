"""Counts what makes a training step wait for the device, or for the other processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
COLLECTIVES = ("all_reduce", "barrier", "broadcast", "broadcast_object_list", "all_gather_object")


class CountSyncs(Callback):
    """Notes, by optimizer steps that are complete, which reads and collectives were called.

    At the end of training they are in `syncs-RANK.json` in a folder.
    """

    def __init__(self, folder: str) -> None:
        """Count nothing yet."""
        self.folder = Path(folder)
        self.counts: dict[int, Counter[str]] = {}
        self.patches: list[Any] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        places = [(torch.Tensor, name) for name in READS]
        places += [(torch.distributed, name) for name in COLLECTIVES]
        for place, name in places:
            counted = self._counted(trainer, name, getattr(place, name))
            self.patches.append(mock.patch.object(place, name, counted))
            self.patches[-1].start()

    def _counted(self, trainer: Any, name: str, original: Callable[..., Any]) -> Any:
        inside = False  # reads that a read is made of count once

        def counted(*given: Any, **named: Any) -> Any:
            nonlocal inside
            if trainer.training and not inside:
                self.counts.setdefault(trainer.global_step, Counter())[name] += 1
            inside, before = True, inside
            try:
                return original(*given, **named)
            finally:
                inside = before

        return counted

    def on_train_end(self, trainer: Any, module: Any) -> None:
        for patch in self.patches:
            patch.stop()
        path = self.folder / f"syncs-{trainer.global_rank}.json"
        path.write_text(json.dumps(self.counts))


class ReadEveryLoss(Callback):
    """The mistake that is to be found: every step waits for its loss."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        outputs["loss"].item()
