"""A step of training and one of evaluation on a CUDA device that is not there.

Run as `python -m tests.helpers.fake_cuda LIBRARY PRECISION BATCHING [planted]`, in a process of its
own: the library (`fake_cuda.cpp`) must be loaded before torch. Tensors are fake: every operation
checks devices and types, and one that reads a value of the device raises. `planted` adds such a
read to the training step. It prints the attention backend and the device of the results.
"""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

ctypes.CDLL(sys.argv[1])

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from qa_lightning.data.batches import Batch, BatchSize, Packing  # noqa: E402
from qa_lightning.training.module import QuestionAnsweringModule  # noqa: E402
from qa_lightning.training.optimizer import clip_gradients  # noqa: E402
from tests.helpers.encoders import TINY  # noqa: E402

CUDA = torch.device("cuda", 0)
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Reading(QuestionAnsweringModule):
    """The mistake that is to be found: every step waits for its loss."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        loss.item()
        return loss


def fake(tensor: Tensor) -> Tensor:
    """A fake tensor on CUDA like a real one on the CPU."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)


def move(module: nn.Module) -> None:
    """Give a module fake weights on CUDA in place of its own."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(fake(weight))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fake(buffer)


def fake_batch(packed: bool, evaluation: bool) -> Batch:
    """Three windows of 24 tokens."""
    windows, tokens = 3, 24

    def ints(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=CUDA)

    mask = ints(windows, tokens, dtype=torch.bool)
    packing = Packing(ints(64), ints(5, dtype=torch.int32), tokens)
    return Batch(
        input_ids=ints(windows, tokens),
        attention_mask=mask,
        label_start=ints(windows),
        label_end=ints(windows),
        key=ints(windows, 2),
        offsets=ints(windows, tokens, 2, dtype=torch.int32) if evaluation else None,
        word_starts=mask if evaluation else None,
        size=BatchSize(windows, 60, 72, 1200),
        packing=packing if packed else None,
    )


def main(precision: str, batching: str, planted: bool) -> None:
    """See above."""
    module: Any = (Reading if planted else QuestionAnsweringModule)(encoder_config=TINY)
    logged: dict[str, Tensor] = {}
    module.log = lambda name, value, **_: logged.update({name: value})
    found: dict[str, Tensor] = {}
    update = module.metric.update
    module.metric.update = lambda **given: (found.update(given), update(**given))
    module.train()
    dtype = HALF.get(precision, torch.bfloat16)
    # A non-fake tensor is refused, so that what stays behind on the CPU is seen too.
    with FakeTensorMode(allow_non_fake_inputs=False):
        move(module)
        module._device = CUDA
        half = torch.autocast("cuda", dtype, enabled=precision in HALF, cache_enabled=False)
        with half:
            loss = module.training_step(fake_batch(batching == "packed", False), 0)
        loss.backward()
        module._trainer = SimpleNamespace(
            precision=precision, estimated_stepping_batches=10, strategy=None
        )
        made = module.configure_optimizers()
        optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        # Lightning unscales float16's gradients first, and looks at them once a step by design.
        if precision == "16-mixed":
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        else:
            clip_gradients(module, optimizer, 1.0, "norm")
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        module.eval()
        with torch.no_grad(), half:
            module.validation_step(fake_batch(False, True), 0)
    results = {"loss": loss, **logged, **found}
    assert {value.device for value in results.values()} == {CUDA}, results
    assert {found[name].dtype for name in ("null", "scores", "loss")} == {torch.float32}
    print(module._packed_backend, *sorted(results))


if __name__ == "__main__":
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        mock.patch("torch.cuda.get_device_capability", lambda *_: (9, 0)),
    ):
        main(sys.argv[2], sys.argv[3], "planted" in sys.argv)
