"""The model as ONNX: written, compared with torch, quantised to int8, and run.

onnx, onnxscript and onnxruntime are the optional extra `onnx`; they are imported where they are
used. An ONNX model takes `input_ids` and `attention_mask`, int64 `[windows, tokens]`, and gives
`start_logits` and `end_logits`, float32 `[windows, tokens]`, -inf at padding.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from qa_lightning.data.batches import Batch, WindowDataset
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.errors import UserError
from qa_lightning.model.logits import padded_logits

if TYPE_CHECKING:
    from transformers import DistilBertForQuestionAnswering

    from qa_lightning.data.windows import Windows
    from qa_lightning.inference.answerer import Logits

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("start_logits", "end_logits")

OPSET = 18
"""Version of ONNX's operators: what torch's exporter writes without converting."""

COMPARED_AT_ONCE = 4
"""Windows in a batch when logits are compared: few, so that the batches have many shapes."""


def check_installed(*packages: str) -> None:
    """Refuse to go on without the optional packages.

    Args:
        packages: The names to import.

    Raises:
        UserError: one of them is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}, which is not installed: "
            "pip install 'qa-lightning[onnx]'"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks to those who develop them from those who use them."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Graph(nn.Module):
    """A model as ONNX has it: tensors in, tensors out."""

    def __init__(self, encoder: DistilBertForQuestionAnswering) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        logits = padded_logits(self.encoder, input_ids, attention_mask.bool())
        return logits[..., 0], logits[..., 1]


def write_onnx(encoder: DistilBertForQuestionAnswering, path: Path) -> None:
    """Write a model as ONNX in float32, for any number of windows of any length.

    Args:
        encoder: The plain model, as `TrainedModel.load` gives it; it is left in evaluation mode.
        path: The file; it holds the weights too.

    Raises:
        UserError: the packages for it are not installed.
    """
    check_installed("onnx", "onnxscript")
    positions = encoder.config.max_position_embeddings
    windows, tokens = torch.export.Dim("windows"), torch.export.Dim("tokens", max=positions)
    # Sizes of an example that differ from each other and from 1, which stands for itself.
    example = torch.zeros(2, min(8, positions), dtype=torch.int64)
    with _quiet():
        torch.onnx.export(
            _Graph(encoder).eval(),
            (example, torch.ones_like(example)),
            path,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes={name: {0: windows, 1: tokens} for name in INPUTS},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def quantise(path: Path, target: Path) -> None:
    """Write an ONNX model again with weights of 8 bits, of matrix products and embeddings.

    Weights are rounded once, those of a product channel by channel. Activations are rounded as they
    come, by their range in the whole batch: a window's logits depend a little on its neighbours.

    Args:
        path: What `write_onnx` wrote.
        target: The file to write.

    Raises:
        UserError: the packages for it are not installed.
    """
    check_installed("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        # Weights in seven of the eight bits: CPUs without instructions for int8 (VNNI) add products
        # of 8 bits up in 16, which overflow, and their answers would be others.
        quantize_dynamic(
            path, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )


def onnx_logits(path: Path) -> Logits:
    """Make an ONNX model ready for use on the CPU, and give the function that computes logits.

    It uses as many threads as torch does, and may be called by several threads at once.

    Args:
        path: What `write_onnx` or `quantise` wrote.

    Raises:
        UserError: onnxruntime is not installed, or the file is not such a model.
    """
    check_installed("onnxruntime")
    import onnxruntime

    if not path.is_file():
        raise UserError(f"there is no ONNX model {path}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of half a dozen kinds, none of which has a public name
        raise UserError(f"{path} cannot be loaded as an ONNX model: {error}") from error
    names = [[one.name for one in some()] for some in (session.get_inputs, session.get_outputs)]
    if names != [list(INPUTS), list(OUTPUTS)]:
        raise UserError(
            f"{path} is an ONNX model, but not one that `export --onnx` wrote: it takes "
            f"{', '.join(names[0])} and gives {', '.join(names[1])}"
        )

    def logits(batch: Batch) -> Tensor:
        ids, mask = batch.input_ids, batch.attention_mask
        real = torch.ones_like(ids) if mask is None else mask.long()
        given = {"input_ids": ids.numpy(), "attention_mask": real.numpy()}
        return torch.from_numpy(np.stack(session.run(OUTPUTS, given), axis=2))

    return logits


def largest_difference(one: Logits, other: Logits, windows: Windows) -> float:
    """How far the logits of two forms of a model differ at most, over all real tokens.

    Args:
        one: One of them.
        other: The other.
        windows: What to compare them on, in batches of a few, with padding and without.
    """
    dataset = WindowDataset(windows, with_offsets=False)
    largest = 0.0
    for rows in WindowSampler(windows.lengths, COMPARED_AT_ONCE, order="sorted"):
        batch = dataset[rows]
        first, second = one(batch), other(batch)
        # Padding has -inf in both. NaN equals nothing, and is as far off as can be.
        off = torch.where(first == second, 0.0, (first - second).abs())
        largest = max(largest, float(off.nan_to_num(nan=inf, posinf=inf).max()))
    return largest
