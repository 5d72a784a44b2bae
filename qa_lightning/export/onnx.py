"""A model as ONNX: written, quantised to int8, compared with torch.

onnx, onnxscript and onnxruntime are the optional extra `onnx`; they are imported where they are
used. `qa_lightning.model.onnx_session` runs what is written here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.model.encoder import max_positions
from qa_lightning.model.logits import Logits, has_token_types, padded_logits
from qa_lightning.model.onnx_session import INPUTS, OUTPUTS, check_installed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qa_lightning.data.windows import Windows


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' remarks, which are meant for their developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


class _Graph(nn.Module):
    """A model as ONNX has it: tensors in, tensors out."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = padded_logits(self.encoder, input_ids, attention_mask.bool(), token_type_ids)
        return logits[..., 0], logits[..., 1]


def write_onnx(encoder: PreTrainedModel, path: Path) -> None:
    """Write a model as one ONNX file in float32, for any number of windows of any length.

    The encoder is the plain model, as `TrainedModel.load` gives it; it is left in evaluation mode.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    check_installed("onnx", "onnxscript")
    positions = max_positions(encoder.config.to_dict())
    windows, tokens = torch.export.Dim("windows"), torch.export.Dim("tokens", max=positions)
    # Example sizes must differ from each other and from 1, which the exporter takes for a constant.
    example = torch.zeros(2, min(8, positions), dtype=torch.int64)
    inputs = INPUTS if has_token_types(encoder) else INPUTS[:2]
    with _quiet():
        torch.onnx.export(
            _Graph(encoder).eval(),
            (example, torch.ones_like(example), example)[: len(inputs)],
            path,
            input_names=inputs,
            output_names=OUTPUTS,
            dynamic_shapes={name: {0: windows, 1: tokens} for name in inputs},
            opset_version=18,  # what the exporter writes without converting
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def quantise(path: Path, target: Path) -> None:
    """Write an ONNX model again, with the weights of matrix products and embeddings in 8 bits.

    Weights are rounded once, those of a product channel by channel. Activations are rounded as they
    come, by their range in the whole batch: a window's logits depend a little on its neighbours.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    check_installed("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        # Only seven of the eight bits are used: CPUs without instructions for int8 (VNNI) add up
        # 8-bit products in 16 bits, which would overflow.
        quantize_dynamic(
            path, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )


def largest_difference(one: Logits, other: Logits, windows: Windows) -> float:
    """How far the logits of two variants of a model differ at most, over all real tokens.

    They are compared in small batches, which have many shapes.
    """
    dataset = WindowDataset(windows, with_offsets=False)
    largest = 0.0
    for rows in WindowSampler(windows.lengths, 4, order="sorted"):
        batch = dataset[rows]
        first, second = one(batch), other(batch)
        # Padding is -inf in both. NaN equals nothing, and counts as an infinite difference.
        off = torch.where(first == second, 0.0, (first - second).abs())
        largest = max(largest, float(off.nan_to_num(nan=inf, posinf=inf).max()))
    return largest
