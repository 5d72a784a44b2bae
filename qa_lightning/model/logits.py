"""Windows -> logits: the one forward pass that training, evaluation and use share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import DistilBertForQuestionAnswering


def padded_logits(
    encoder: DistilBertForQuestionAnswering,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    encode: Callable[..., Any] | None = None,
) -> Tensor:
    """Start and end logits of padded windows.

    Args:
        encoder: The model.
        input_ids: Token ids, int64 `[windows, tokens]`.
        attention_mask: True where a token is real, bool `[windows, tokens]`; None for all.
        encode: What to call in place of `encoder.distilbert`, such as its compiled form.

    Returns:
        float32 `[windows, tokens, 2]`; -inf at padding.
    """
    # A mask of four dimensions is used as it is. One of two would be inspected, which waits for the
    # device, and would be expanded in every forward pass.
    mask = None if attention_mask is None else attention_mask[:, None, None, :]
    hidden = (encode or encoder.distilbert)(input_ids=input_ids, attention_mask=mask)[0]
    logits = head_logits(encoder, hidden)
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask.unsqueeze(2), float("-inf"))
    return logits


def head_logits(encoder: DistilBertForQuestionAnswering, hidden: Tensor) -> Tensor:
    """What the answer head makes of hidden states.

    Args:
        encoder: The model.
        hidden: `[..., dim]`.

    Returns:
        float32 `[..., 2]`.
    """
    hidden = encoder.dropout(hidden)
    # In half precision two good spans would often tie: the head costs next to nothing in full.
    with torch.autocast(hidden.device.type, enabled=False):
        head = encoder.qa_outputs
        return nn.functional.linear(hidden.float(), head.weight.float(), head.bias.float())
