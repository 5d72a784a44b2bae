"""The precision that is fastest here: known of GPUs, measured on CPUs.

What a CPU's flags promise says little: on some that have bfloat16 instructions (AVX512-BF16 without
AMX), products in bfloat16 take twice as long as in float32.
"""

import functools
import os
import time

import torch

from qa_lightning.model.linear import linear

CLEARLY_FASTER = 1.2
"""So many times as fast products in bfloat16 must be for the encoder to compute in it."""

TOKENS = 512
"""Rows of the products that are timed: enough to reach the rate of a batch."""

Rates = tuple[float, float]
"""Floating-point operations per second in float32 and in bfloat16."""


def choose_precision(accelerator: str, dim: int, hidden_dim: int) -> tuple[str, str]:
    """Choose a precision for an encoder on an accelerator.

    Args:
        accelerator: By Lightning's name; "auto" is the best there is.
        dim: Size of the encoder's hidden states.
        hidden_dim: Size of its feed-forward layers.

    Returns:
        The precision by Lightning's name, and the reason in words, with both figures if it was
        measured.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"{name} computes in bfloat16"
        return "16-mixed", f"{name} computes in float16, but not in bfloat16"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true", "mixed precision is not faster on Apple's GPUs"
    if accelerator not in ("auto", "cpu"):
        return "32-true", f"nothing better is known for accelerator {accelerator!r}"
    if _started_together():
        return "32-true", "processes that were started one by one could measure differently"
    if not _has_bfloat16_kernels():
        return "32-true", "torch only imitates bfloat16 on this CPU"
    full, half = cpu_rates(dim, hidden_dim, torch.get_num_threads())
    precision = "bf16-mixed" if half >= CLEARLY_FASTER * full else "32-true"
    figures = f"{half / 1e9:,.0f} GFLOP/s in bfloat16, {full / 1e9:,.0f} in float32"
    return precision, f"this CPU multiplies at {figures}"


def _started_together() -> bool:
    """Whether torchrun, SLURM or a person started this process as one of several."""
    counts = (os.environ.get(name) or "1" for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    return "NODE_RANK" in os.environ or any(int(count) > 1 for count in counts)


def _has_bfloat16_kernels() -> bool:
    """Whether torch has kernels for bfloat16 on this CPU: without, timing them takes seconds."""
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@functools.cache
def cpu_rates(dim: int, hidden_dim: int, threads: int) -> Rates:
    """Measure the CPU in an encoder's largest products, those of its feed-forward layers.

    The best of three attempts, in some ten milliseconds; `threads` are torch's own.
    """
    generator = torch.Generator().manual_seed(0)  # leaves the training's random numbers alone
    sizes = (TOKENS, dim), (hidden_dim, dim), (dim, hidden_dim)
    parts = [torch.randn(size, generator=generator) for size in sizes]
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode():
        for attempt in range(4):  # the first prepares kernels; by turns, as load comes and goes
            for dtype in best:
                states, up, down = (part.to(dtype) for part in parts)
                begin = time.perf_counter()
                linear(linear(states, up), down)
                if attempt:
                    best[dtype] = min(best[dtype], time.perf_counter() - begin)
    operations = 4 * TOKENS * dim * hidden_dim
    return operations / best[torch.float32], operations / best[torch.bfloat16]
