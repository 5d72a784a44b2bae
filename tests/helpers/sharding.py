"""FSDP on CPUs, where neither Lightning nor torch does it: what a test can see without GPUs.

torch takes it for granted that what it moves to the CPU was elsewhere before, and is a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, _optim_utils
from torch.distributed.fsdp._flat_param import FlatParamHandle

_unflatten = _optim_utils._unflatten_orig_param_states


def _unflatten_copies(info: Any, states: dict[str, Any], name: str, *settings: Any) -> None:
    _unflatten(info, states, name, *settings)
    for state in states.values():
        state[name] = state[name].clone()


@contextmanager
def _stay(self: FlatParamHandle) -> Iterator[None]:
    yield


class ShardedOnCpu(FSDPStrategy):
    """Lightning's strategy `fsdp`, but for the device that torch shards on."""

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        mock.patch.object(FlatParamHandle, "to_cpu", _stay).start()
        mock.patch.object(_optim_utils, "_unflatten_orig_param_states", _unflatten_copies).start()
        return FullyShardedDataParallel(
            model,
            sharding_strategy=self.sharding_strategy,
            mixed_precision=self.mixed_precision_config,
            device_id=torch.device("cpu"),
            **self.kwargs,
        )

    def _determine_device_ids(self) -> Any:
        return None
