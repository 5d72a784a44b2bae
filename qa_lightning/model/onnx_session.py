"""An ONNX model that `export --onnx` wrote, run on the CPU with onnxruntime.

It takes `input_ids`, `attention_mask` and, if the model has token types, `token_type_ids`, int64
`[windows, tokens]`, and gives `start_logits` and
`end_logits`, float32 `[windows, tokens]`, -inf at padding.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qa_lightning.data.batches import Batch
from qa_lightning.errors import UserError
from qa_lightning.model.logits import Logits

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")


def check_installed(*packages: str) -> None:
    """Raise UserError unless these packages of the optional extra `onnx` can be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}, run pip install 'qa-lightning[onnx]'")


def onnx_logits(path: Path) -> Logits:
    """Make an ONNX model ready for use, and give the function that computes logits with it.

    It uses as many threads as torch does, and several threads may call it at once.

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
    inputs = tuple(one.name for one in session.get_inputs())
    outputs = tuple(one.name for one in session.get_outputs())
    if inputs not in (INPUTS, INPUTS[:2]) or outputs != OUTPUTS:
        raise UserError(
            f"{path} is an ONNX model, but not one that `export --onnx` wrote: it takes "
            f"{', '.join(inputs)} and gives {', '.join(outputs)}"
        )

    def logits(batch: Batch) -> Tensor:
        ids, mask = batch.input_ids, batch.attention_mask
        real = torch.ones_like(ids) if mask is None else mask.long()
        types = torch.zeros_like(ids) if batch.token_type_ids is None else batch.token_type_ids
        given = dict(zip(INPUTS, (ids, real, types), strict=True))
        values = {name: given[name].numpy() for name in inputs}
        return torch.from_numpy(np.stack(session.run(OUTPUTS, values), axis=2))

    return logits
