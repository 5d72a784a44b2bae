"""Windows -> logits: the one forward pass that training, evaluation and use share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qa_lightning.data.batches import Batch, Packing
from qa_lightning.errors import UserError
from qa_lightning.model.attention import AttentionBackend, packed_arguments, use_window_attention
from qa_lightning.model.encoder import first_position, layer_sizes
from qa_lightning.model.hardware import best_device, unusable_gpu
from qa_lightning.model.linear import replaced_linear, use_fast_linear
from qa_lightning.model.precision import choose_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKING = ("distilbert", "bert", "roberta", "camembert", "xlm-roberta", "electra")
"""Architectures whose attention goes through transformers' registry and takes positions as given.

Their attention looks at all tokens alike, so that windows behind each other can be kept apart.
"""

log = logging.getLogger(__name__)

Logits = Callable[[Batch], Tensor]
"""A model in use: gives the start and end logits of a batch.

They are float32 `[windows, tokens, 2]` on the CPU, -inf at padding.
"""


def model_logits(
    encoder: PreTrainedModel,
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
    if device is None and (problem := unusable_gpu()):
        log.warning("%s", problem)
    try:
        target = torch.device(device or best_device())
        encoder.eval().to(target)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {error}") from error
    if precision is None:
        sizes = layer_sizes(encoder.config)
        precision, reason = choose_precision(target.type, *sizes)
        log.info("precision: %s (%s)", precision, reason)
    half = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if precision not in half:
        raise UserError(f"precision must be one of {', '.join(half)}, not {precision!r}")
    dtype = half[precision]
    prepare_encoder(encoder)

    def logits(batch: Batch) -> Tensor:
        ids, mask, types = (
            None if part is None else part.to(target)
            for part in (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        )
        assert ids is not None
        autocast = torch.autocast(target.type, dtype=dtype) if dtype else nullcontext()
        with torch.inference_mode(), autocast:
            return padded_logits(encoder, ids, mask, types).cpu()

    return logits


def prepare_encoder(encoder: PreTrainedModel) -> PreTrainedModel:
    """Have a question-answering model compute with this project's attention and linear layers.

    Its answer head computes in float32 from then on: in half precision two good spans would often
    tie, and the head costs next to nothing.
    """
    if packs(encoder):
        use_window_attention(encoder)
    for name, child in encoder.named_children():
        if type(child) is nn.Linear:
            setattr(encoder, name, replaced_linear(child, Float32Linear))
    use_fast_linear(encoder.base_model)
    return encoder


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32, whatever precision is on."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs `[..., outputs]` of inputs `[..., features]`."""
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.float(), self.weight.float(), self.bias.float())


def padded_logits(
    encoder: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    call: Callable[..., Any] | None = None,
) -> Tensor:
    """Start and end logits of padded windows, float32 `[windows, tokens, 2]`; -inf at padding.

    Args:
        encoder: The model, as `prepare_encoder` gives it.
        input_ids: Token ids, int64 `[windows, tokens]`.
        attention_mask: True where a token is real, bool `[windows, tokens]`; None for all.
        token_type_ids: Types of the tokens, int64 `[windows, tokens]`, for models that have them.
        call: What to call in place of the model, such as its compiled form.
    """
    mask = attention_mask
    if mask is not None:
        # A mask of four dimensions is used as it is by our attention. One of two would be
        # inspected, which waits for the device, and expanded in every forward pass.
        mask = mask[:, None, None, :] if packs(encoder) else mask.long()
    types = {}
    if token_type_ids is not None and has_token_types(encoder):
        types["token_type_ids"] = token_type_ids
    output = (call or encoder)(input_ids=input_ids, attention_mask=mask, **types)
    logits = torch.stack([output.start_logits, output.end_logits], dim=2).float()
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask.unsqueeze(2), float("-inf"))
    return logits


def packed_logits(
    encoder: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None,
    packing: Packing,
    backend: AttentionBackend,
    call: Callable[..., Any],
) -> Tensor:
    """Logits as `padded_logits` gives them, computed in one row without the padding."""
    windows, width = input_ids.shape

    def row(values: Tensor) -> Tensor:
        flat = nn.functional.pad(values.flatten(), (0, 1))
        return flat.index_select(0, packing.indices).unsqueeze(0)

    types = {}
    if token_type_ids is not None and has_token_types(encoder):
        types["token_type_ids"] = row(token_type_ids)
    config = encoder.config
    positions = packing.indices % width + first_position(config.model_type, config.pad_token_id)
    output = call(
        input_ids=row(input_ids),
        position_ids=positions.unsqueeze(0),
        **types,
        **packed_arguments(backend, packing, attention_mask),
    )
    logits = torch.cat([output.start_logits, output.end_logits]).T.float()
    padded = logits.new_full((windows * width + 1, 2), float("-inf"))
    return padded.index_copy(0, packing.indices, logits)[:-1].view(windows, width, 2)


def packs(encoder: PreTrainedModel) -> bool:
    """Whether the model's windows can be packed: its attention is ours and knows no order."""
    return encoder.config.model_type in PACKING


def has_token_types(encoder: PreTrainedModel) -> bool:
    """Whether the model tells token types apart."""
    return getattr(encoder.config, "type_vocab_size", 0) > 1
