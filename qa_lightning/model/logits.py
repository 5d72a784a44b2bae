"""Windows -> logits: the one forward pass that training, evaluation and use share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qa_lightning.data.batches import Batch, Packing
from qa_lightning.errors import UserError
from qa_lightning.model.attention import AttentionBackend, packed_arguments, use_window_attention
from qa_lightning.model.hardware import best_device, choose_precision
from qa_lightning.model.linear import use_fast_linear

if TYPE_CHECKING:
    from transformers import DistilBertForQuestionAnswering

Logits = Callable[[Batch], Tensor]
"""A model in use: gives the start and end logits of a batch.

They are float32 `[windows, tokens, 2]` on the CPU, -inf at padding.
"""


def model_logits(
    encoder: DistilBertForQuestionAnswering,
    device: str | None = None,
    precision: str | None = None,
) -> Logits:
    """Make a model ready for use, and give the function that computes logits with it.

    Several threads may call that function at once.

    Args:
        encoder: The model; it is moved to the device.
        device: As torch names it; by default the best there is.
        precision: "32-true", "bf16-mixed" or "16-mixed"; by default what suits the device.

    Raises:
        UserError: no such device or precision.
    """
    try:
        target = torch.device(device or best_device())
        encoder.eval().to(target)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {error}") from error
    precision = precision or choose_precision(target.type)[0]
    half = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if precision not in half:
        raise UserError(f"precision must be one of {', '.join(half)}, not {precision!r}")
    dtype = half[precision]
    use_window_attention(encoder)
    use_fast_linear(encoder.distilbert)

    def logits(batch: Batch) -> Tensor:
        mask = None if batch.attention_mask is None else batch.attention_mask.to(target)
        autocast = torch.autocast(target.type, dtype=dtype) if dtype else nullcontext()
        with torch.inference_mode(), autocast:
            return padded_logits(encoder, batch.input_ids.to(target), mask).cpu()

    return logits


def padded_logits(
    encoder: DistilBertForQuestionAnswering,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    encode: Callable[..., Any] | None = None,
) -> Tensor:
    """Start and end logits of padded windows, float32 `[windows, tokens, 2]`; -inf at padding.

    Args:
        encoder: The model.
        input_ids: Token ids, int64 `[windows, tokens]`.
        attention_mask: True where a token is real, bool `[windows, tokens]`; None for all.
        encode: What to call in place of `encoder.distilbert`, such as its compiled form.
    """
    # A mask of four dimensions is used as it is. One of two would be inspected, which waits for the
    # device, and expanded in every forward pass.
    mask = None if attention_mask is None else attention_mask[:, None, None, :]
    hidden = (encode or encoder.distilbert)(input_ids=input_ids, attention_mask=mask)[0]
    logits = head_logits(encoder, hidden)
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask.unsqueeze(2), float("-inf"))
    return logits


def packed_logits(
    encoder: DistilBertForQuestionAnswering,
    input_ids: Tensor,
    attention_mask: Tensor,
    packing: Packing,
    backend: AttentionBackend,
    encode: Callable[..., Any],
) -> Tensor:
    """Logits as `padded_logits` gives them, computed in one row without the padding."""
    windows, width = input_ids.shape
    row = nn.functional.pad(input_ids.flatten(), (0, 1))[packing.indices]
    hidden = encode(
        input_ids=row.unsqueeze(0),
        position_ids=(packing.indices % width).unsqueeze(0),
        **packed_arguments(backend, packing, attention_mask),
    )[0]
    padded = hidden.new_full((windows * width + 1, 2), float("-inf"), dtype=torch.float32)
    logits = head_logits(encoder, hidden)[0]
    return padded.index_copy(0, packing.indices, logits)[:-1].view(windows, width, 2)


def head_logits(encoder: DistilBertForQuestionAnswering, hidden: Tensor) -> Tensor:
    """Logits of the answer head, float32 `[..., 2]`, from hidden states `[..., dim]`."""
    hidden = encoder.dropout(hidden)
    # In half precision two good spans would often tie: the head costs next to nothing in full.
    with torch.autocast(hidden.device.type, enabled=False):
        head = encoder.qa_outputs
        if head.weight.dtype == torch.float32:
            return head(hidden.float())  # by a call, since hooks and pruning act there
        return nn.functional.linear(hidden.float(), head.weight.float(), head.bias.float())
