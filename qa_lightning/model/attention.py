"""Attention over padded and over packed windows, in the backend that is fastest on the device.

Of packed windows each attends to itself alone. All ways give the same numbers but for rounding:

- "varlen": `torch.nn.attention.varlen.varlen_attn`, on CUDA in half precision. It skips what is not
  there, and knows no dropout of attention weights.
- "pad": the queries, keys and values of every window are padded for this one operation. On other
  devices; it never waits for them.
- "loop": one window after the other, on a CPU. Starting an operation costs little there, and a
  window's attention stays in the processor's cache (see `benchmarks/attention.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qa_lightning.data.batches import Packing

NAME = "windows"
"""What transformers knows this attention by."""

AttentionBackend = Literal["varlen", "pad", "loop"]
"""How packed windows attend."""


def use_window_attention(encoder: PreTrainedModel) -> None:
    """Make a transformers encoder attend as this module says.

    Padded batches are given as before. For packed ones give `position_ids` that start anew in each
    window and the result of `packed_arguments`.

    Args:
        encoder: A model of transformers that takes its attention from the library's registry and
            hands keyword arguments on to it, such as DistilBERT.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    encoder.set_attn_implementation(NAME)


def choose_backend(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """Choose how packed windows attend.

    Args:
        device: Where.
        dtype: Of queries, keys and values.
    """
    if device.type == "cpu":
        return "loop"
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return "pad"
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401  (torch 2.10 on)
    except ImportError:
        return "pad"
    # The flash kernels want an Ampere GPU or a later one.
    return "varlen" if torch.cuda.get_device_capability(device) >= (8, 0) else "pad"


def packed_arguments(backend: AttentionBackend, packing: Packing, mask: Tensor) -> dict[str, Any]:
    """What the encoder's attention needs to know of a packed batch, as keyword arguments.

    No more than the backend needs: code that is compiled for some of these values would be compiled
    again for others.

    Args:
        backend: How to attend.
        packing: Where the windows are.
        mask: True where a token of the padded windows is real, bool `[windows, tokens]`.
    """
    if backend == "pad":
        return {
            "backend": backend,
            "indices": packing.indices,
            "attention_mask": mask[:, None, None, :],
        }
    return {"backend": backend, "cu_seqlens": packing.cu_seqlens, "max_seqlen": packing.max_seqlen}


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    backend: AttentionBackend | None = None,
    indices: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int = 0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend, as transformers calls it in every layer; weights are scaled by the head's size.

    Args:
        module: The layer.
        query: `[windows, heads, tokens, size]`; packed `[1, heads, slots, size]`.
        key: The same.
        value: The same.
        attention_mask: True where a key counts, bool `[windows, 1, 1, tokens]`; None for all.
        dropout: Share of attention weights that are zeroed.
        backend: How packed windows attend; None when they are padded.
        indices: See `Packing`.
        cu_seqlens: See `Packing`.
        max_seqlen: See `Packing`.
        others: What this attention has no use for.

    Returns:
        `[windows, tokens, heads, size]`, and no weights.
    """
    if backend == "varlen":
        assert cu_seqlens is not None
        return _varlen(query, key, value, cu_seqlens, max_seqlen), None
    if backend == "loop":
        assert cu_seqlens is not None
        return _loop(query, key, value, cu_seqlens, dropout), None
    if backend == "pad":
        assert indices is not None and attention_mask is not None
        return _pad(query, key, value, indices, attention_mask, dropout), None
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

    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    attended = varlen_attn(
        query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen
    )  # [slots, heads, size]
    assert isinstance(attended, Tensor)
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
        spread = spread.index_copy(0, indices, part[0].transpose(0, 1))
        return spread[:-1].view(windows, width, heads, size).transpose(1, 2)

    attended = _attend(padded(query), padded(key), padded(value), mask, dropout)
    # Slots that are left over find zeros in the cell after the last.
    flat = nn.functional.pad(attended.reshape(windows * width, heads, size), (0, 0, 0, 0, 0, 1))
    return flat[indices].unsqueeze(0)
