"""Claim: on an AMD CPU with AVX-512, float32 products are faster as convolutions than as products.

Multiplies tokens with the weights of a layer of MiniLM-L6 and of DistilBERT in both variants, which
take turns: forward, and forward and backward. The error is against float64.

    python benchmarks/linear.py [--record]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from unittest.mock import patch

import torch
from report import record

from qa_lightning.model import hardware
from qa_lightning.model.linear import linear

TOKENS = 16 * 176
SHAPES = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))
VARIANTS = {"product": False, "convolution": True}


def seconds(features: int, outputs: int, backward: bool, rounds: int) -> dict[str, float]:
    """Median time of each variant."""
    inputs = torch.randn(TOKENS, features, requires_grad=backward)
    weight = torch.randn(outputs, features, requires_grad=backward)
    bias = torch.randn(outputs, requires_grad=backward)
    gradient = torch.randn(TOKENS, outputs)
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds + 1):
        for name, convolution in VARIANTS.items():
            with patch.object(
                hardware, "mkl_leaves_width_unused", lambda chosen=convolution: chosen
            ):
                begin = time.perf_counter()
                result = linear(inputs, weight, bias)
                if backward:
                    torch.autograd.grad(result, (inputs, weight, bias), gradient)
                taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found[1:]) for name, found in taken.items()}


def error(features: int, outputs: int, convolution: bool) -> float:
    """Largest difference to the product in float64, in units of the result's spread."""
    inputs, weight = torch.randn(TOKENS, features), torch.randn(outputs, features)
    right = inputs.double() @ weight.double().t()
    with patch.object(hardware, "mkl_leaves_width_unused", lambda: convolution):
        found = linear(inputs, weight)
    return float((found - right).abs().max() / right.std())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for features, outputs in SHAPES:
        row = {"features, outputs": f"{features}, {outputs}"}
        for title, backward in (("forward", False), ("forward and backward", True)):
            found = seconds(features, outputs, backward, given.rounds)
            operations = 2 * TOKENS * features * outputs * (3 if backward else 1)
            for name in VARIANTS:
                row[f"{title}: {name}, GFLOP/s"] = f"{operations / found[name] / 1e9:.0f}"
            row[f"{title}: times"] = f"{found['product'] / found['convolution']:.2f}"
        for name, convolution in VARIANTS.items():
            row[f"error of the {name}"] = f"{error(features, outputs, convolution):.0e}"
        rows.append(row)
    used = "convolution" if hardware.mkl_leaves_width_unused() else "product"
    note = f"{TOKENS:,} tokens, float32, medians of {given.rounds}. Used here: the {used}."
    record("Linear layers in float32", rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
