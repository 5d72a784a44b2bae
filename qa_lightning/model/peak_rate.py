"""The peak rate of a device in matrix products, measured: what training is compared with."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from qa_lightning.model.linear import linear

MEASURING = 0.2  # seconds that a measurement takes


@dataclass(frozen=True)
class PeakRate:
    """The highest rate that a device was seen to reach."""

    flops: float  # floating-point operations per second; a multiplication and an addition are two
    source: str  # how it was measured, in words


def compute_dtype(precision: str) -> torch.dtype:
    """The type in which matrix products are computed under one of Lightning's precisions."""
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return next((dtype for part, dtype in kinds.items() if part in precision), torch.float32)


def measure_peak(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> PeakRate:
    """Measure the rate in large matrix products: the best of those that fit in `MEASURING`.

    On a CPU torch's threads are used; `dtype` is that of the factors, `clock` gives seconds.
    """
    threads = torch.get_num_threads()
    # On a CPU products are short, so that some of them fall between the work of other processes.
    # A GPU needs large ones to fill it, and ever more of them in a row to hide the time of a wait.
    on_cpu = device.type == "cpu"
    rows, width, products = (512 * threads, 512, 1) if on_cpu else (16384, 8192, 1)
    generator = torch.Generator().manual_seed(0)  # leaves the training's random numbers alone
    left = torch.randn(rows, width, generator=generator).to(device, dtype)
    right = torch.randn(width, width, generator=generator).to(device, dtype)
    best = float("inf")
    begin = clock()
    with torch.no_grad():
        linear(left, right)  # the first prepares kernels
        while best == float("inf") or clock() - begin < MEASURING:
            wait_for(device)
            at = clock()
            for _ in range(products):
                linear(left, right)
            wait_for(device)
            best = min(best, (clock() - at) / products)
            products *= 1 if on_cpu else 2
    kind = str(dtype).removeprefix("torch.")
    where = f"CPU (threads: {threads})" if on_cpu else str(device)
    flops = 2 * rows * width * width / best
    return PeakRate(flops, f"{where}, {kind}, measured in a matrix product")


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all its work; a CPU always has."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
