"""Attention over padded and over packed windows, in the backend that is fastest on the device.

Each packed window attends to itself alone. All backends give the same numbers up to rounding:

- "varlen": `torch.nn.attention.varlen.varlen_attn`, on CUDA in half precision. It skips padding,
  and has no dropout of attention weights.
- "pad": the queries, keys and values of every window are padded for this one operation. Used on
  other devices; it never waits for them.
- "loop": one window at a time, on a CPU. Starting an operation costs little there, and a window's
  attention stays in the processor's cache (see `benchmarks/attention.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qa_lightning.data.batches import Packing

NAME = "windows"  # of this attention in transformers' registry
AttentionBackend = Literal["varlen", "pad", "loop"]


FLASH_HEAD_SIZE = 256
"""Largest head that the flash kernels take; sizes are multiples of 8."""


def use_window_attention(encoder: PreTrainedModel) -> None:
    """Make a transformers encoder attend with this module.

    Padded batches are passed as before. With packed ones pass `position_ids` that restart in each
    window and the result of `packed_arguments`. The encoder must take its attention from
    transformers' registry and pass keyword arguments on to it, as DistilBERT does.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    encoder.set_attn_implementation(NAME)


def choose_backend(device: torch.device, dtype: torch.dtype, head_size: int) -> AttentionBackend:
    """Choose how packed windows attend, for queries, keys and values of this type and size."""
    if device.type == "cpu":
        return "loop"
    half = dtype in (torch.float16, torch.bfloat16)
    if device.type != "cuda" or not half or head_size % 8 or head_size > FLASH_HEAD_SIZE:
        return "pad"
    # The flash kernels need an Ampere GPU or a later one.
    return "varlen" if torch.cuda.get_device_capability(device) >= (8, 0) else "pad"


def packed_arguments(backend: AttentionBackend, packing: Packing, mask: Tensor) -> dict[str, Any]:
    """The keyword arguments that the encoder's attention needs with a packed batch.

    No more than the backend needs: compiled code is specialised to some of these values, and would
    be compiled again when they change. `mask` is True where a token of the padded windows is real,
    bool `[windows, tokens]`.
    """
    if backend == "pad":
        mask = mask[:, None, None, :]
        return {"backend": backend, "indices": packing.indices, "attention_mask": mask}
    return {"backend": backend, "cu_seqlens": packing.cu_seqlens, "max_seqlen": packing.max_seqlen}


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    backend: AttentionBackend | None = None,
    **packed: Any,
) -> tuple[Tensor, None]:
    """Attend, as transformers calls it in every layer; weights are scaled by the head's size.

    Queries, keys and values are `[windows, heads, tokens, size]`, those of a packed row
    `[1, heads, positions, size]`.
    `attention_mask` is True where a key counts, bool `[windows, 1, 1, tokens]`, or None for all.
    `backend` is None for padded windows; for packed ones, `packed_arguments` gives the rest.

    Returns:
        `[windows, tokens, heads, size]`, and no weights.
    """
    if backend == "varlen":
        return _varlen(query, key, value, packed["cu_seqlens"], packed["max_seqlen"]), None
    if backend == "loop":
        return _loop(query, key, value, packed["cu_seqlens"], dropout), None
    if backend == "pad":
        assert attention_mask is not None
        return _pad(query, key, value, packed["indices"], attention_mask, dropout), None
    return _attend(query, key, value, attention_mask, dropout), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """`[windows, heads, tokens, size]` to `[windows, tokens, heads, size]`."""
    attend = nn.functional.scaled_dot_product_attention
    if query.device.type == "cpu" and query.dtype != torch.float32:
        # In half precision torch takes about twice as long on a CPU (benchmarks/attention.py).
        with torch.autocast("cpu", enabled=False):
            parts = (query.float(), key.float(), value.float())
            attended = attend(*parts, attn_mask=mask, dropout_p=dropout).to(query.dtype)
    else:
        attended = attend(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attended.transpose(1, 2)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Not part[0]: its backward pass fills a tensor with zeros and copies into it.
    query, key, value = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
    attended = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    assert isinstance(attended, Tensor)  # [positions, heads, size]
    return attended.unsqueeze(0)


@torch.compiler.disable
def _loop(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, dropout: float) -> Tensor:
    lengths = [length for length in cu_seqlens.diff().tolist() if length]
    queries, keys, values = (part.split(lengths, dim=2) for part in (query, key, value))
    windows = zip(queries, keys, values, strict=True)
    return torch.cat([_attend(*window, None, dropout) for window in windows], dim=1)


def _pad(
    query: Tensor, key: Tensor, value: Tensor, indices: Tensor, mask: Tensor, dropout: float
) -> Tensor:
    windows, width = mask.shape[0], mask.shape[3]
    heads, size = query.shape[1], query.shape[3]

    def padded(part: Tensor) -> Tensor:
        spread = part.new_zeros(windows * width + 1, heads, size)
        spread = spread.index_copy(0, indices, part.squeeze(0).transpose(0, 1))
        return spread[:-1].view(windows, width, heads, size).transpose(1, 2)

    attended = _attend(padded(query), padded(key), padded(value), mask, dropout)
    # Unused positions have the index one past the last token, where they find zeros.
    flat = nn.functional.pad(attended.reshape(windows * width, heads, size), (0, 0, 0, 0, 0, 1))
    # Not flat[indices]: its backward pass sorts the indices.
    return flat.index_select(0, indices).unsqueeze(0)
