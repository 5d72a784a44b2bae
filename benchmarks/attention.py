"""Claim: on a CPU packed windows attend fastest one at a time, and in float32.

Times one layer's attention, forward and backward, over one row of packed windows with lengths like
SQuAD's. The variants take turns in one process; a block mask is the obvious first attempt.

    python benchmarks/attention.py [--heads 12 --size 32 --windows 32]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from report import record
from torch import Tensor, nn

from qa_lightning.data.batches import Packing, _pack
from qa_lightning.model.attention import _attend, _loop, _pad

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
LONGEST = 384


def packing_of(lengths: np.ndarray) -> tuple[Packing, Tensor]:
    """Where windows of these lengths stand in a row, and their mask when they are padded."""
    width = int(lengths.max())
    mask = torch.from_numpy(np.arange(width) < lengths[:, None])
    return _pack(lengths, width, LONGEST, 0), mask[:, None, None, :]


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Torch's attention in the type of its input."""
    attend = nn.functional.scaled_dot_product_attention
    return attend(query, key, value, attn_mask=mask).transpose(1, 2)


def variants(packing: Packing, mask: Tensor) -> dict[str, Attention]:
    """Every variant of attention, by name."""
    indices, ends = packing.indices, packing.cu_seqlens
    segment = torch.searchsorted(ends, torch.arange(len(indices), dtype=ends.dtype), right=True)
    block = segment[:, None] == segment
    lengths = [length for length in ends.diff().tolist() if length]

    def loop_in_input_type(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (part.split(lengths, dim=2) for part in (query, key, value))
        return torch.cat([plain(*window, None) for window in zip(*parts, strict=True)], dim=1)

    return {
        "loop": lambda *row: _loop(*row, ends, 0.0),
        "loop, in the input's type": loop_in_input_type,
        "pad": lambda *row: _pad(*row, indices, mask, 0.0),
        "block mask": lambda *row: _attend(*row, block, 0.0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--size", type=int, default=32, help="of a head")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(5.05, 0.4, given.windows), 60, LONGEST).astype(np.int64)
    packing, mask = packing_of(lengths)
    positions = len(packing.indices)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        shape = (1, positions, given.heads, given.size)
        row = [torch.randn(shape, dtype=dtype).requires_grad_() for _ in range(3)]
        grad = torch.randn(shape, dtype=dtype)
        seconds: dict[str, list[float]] = {}
        results = {}
        for turn in range(given.rounds + 1):
            for name, attend in variants(packing, mask).items():
                begin = time.perf_counter()
                out = attend(*(part.transpose(1, 2) for part in row))
                gradients = torch.autograd.grad(out, row, grad)
                if turn:  # the first warms up
                    seconds.setdefault(name, []).append(time.perf_counter() - begin)
                results[name] = torch.stack([out, *gradients]).float()
        base = statistics.median(seconds["loop"])
        for name, found in seconds.items():
            error = (results[name] - results["loop"]).abs().max().item()
            rows.append(
                {
                    "type": str(dtype).removeprefix("torch."),
                    "variant": name,
                    "ms": f"{1000 * statistics.median(found):.0f}",
                    "times loop": f"{statistics.median(found) / base:.2f}",
                    "largest difference": f"{error:.0e}",
                }
            )
    note = f"{given.windows} windows, {positions} positions, {given.heads} heads of {given.size}."
    record("Attention of packed windows", rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
