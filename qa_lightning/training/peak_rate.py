"""The peak rate of a device in matrix products: by its data sheet, else measured."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from qa_lightning.model.linear import linear

MEASURING = 0.2
"""Seconds in which the peak rate of an unknown device is measured."""


class _Peaks(NamedTuple):
    """Dense matrix rates of a device in TFLOP/s, as its vendor states them."""

    half: float
    """float16 and bfloat16, sums in float32."""
    tf32: float
    """float32 that may be rounded to TF32; the float32 rate where there is no TF32."""
    single: float
    """float32."""


_DATA_SHEETS = {
    r"\bB200\b": _Peaks(2250, 1125, 75),
    r"\bH200 NVL\b": _Peaks(835.5, 417.5, 60),
    r"\b(H200|GH200)\b": _Peaks(989.5, 494.5, 67),
    r"\bH100 PCIe\b": _Peaks(756, 378, 51),
    r"\bH100 NVL\b": _Peaks(835.5, 417.5, 60),
    r"\bH100\b": _Peaks(989.5, 494.5, 67),
    r"\bA100\b": _Peaks(312, 156, 19.5),
    r"\bA40\b": _Peaks(149.7, 74.8, 37.4),
    r"\bA30\b": _Peaks(165, 82, 10.3),
    r"\bA10G\b": _Peaks(70, 35, 31.5),
    r"\bA10\b": _Peaks(125, 62.5, 31.2),
    r"\bL40S\b": _Peaks(362, 183, 91.6),
    r"\bL40\b": _Peaks(181, 90.5, 90.5),
    r"\bL4\b": _Peaks(121, 60, 30.3),
    r"\bRTX 5090$": _Peaks(209.5, 104.8, 104.8),
    r"\bRTX 4090$": _Peaks(165.2, 82.6, 82.6),
    r"\bRTX 3090$": _Peaks(71, 35.6, 35.6),
    r"\bRTX A6000\b": _Peaks(154.8, 77.4, 38.7),
    r"\bV100S\b": _Peaks(130, 16.4, 16.4),
    r"\bV100-PCIE\b": _Peaks(112, 14, 14),
    r"\bV100\b": _Peaks(125, 15.7, 15.7),
    r"\bT4\b": _Peaks(65, 8.1, 8.1),
}
"""Rates by the device's name; the first pattern that is found in it counts.

From NVIDIA's data sheets and white papers, without sparsity: half of what a sheet states "with
sparsity". Consumer cards sum half-precision products in float32 at half the rate of sums in
float16; training uses the former. A part of a device (MIG) or a laptop's version is not the same.
"""


@dataclass(frozen=True)
class PeakRate:
    """What a device can do at most in dense matrix products.

    Attributes:
        flops: Floating-point operations per second; a multiplication and an addition are two.
        source: Where the figure comes from, in words.
    """

    flops: float
    source: str


def training_dtype(precision: str) -> torch.dtype:
    """The type in which matrix products are computed under one of Lightning's precisions."""
    if "bf16" in precision:
        return torch.bfloat16
    if "16" in precision:
        return torch.float16
    return torch.float64 if "64" in precision else torch.float32


def known_peak(device_name: str, dtype: torch.dtype) -> PeakRate | None:
    """The peak rate of a GPU by its vendor's data sheet; None if it is not in the table.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it.
        dtype: Type of the factors. For float32 the answer depends on whether torch may use TF32.
    """
    if re.search(r"\b(MIG|Laptop|Max-Q)\b", device_name) or dtype == torch.float64:
        return None
    fitting = (peaks for name, peaks in _DATA_SHEETS.items() if re.search(name, device_name))
    peaks = next(fitting, None)
    if peaks is None:
        return None
    rate, kind = peaks.half, str(dtype).removeprefix("torch.")
    if dtype == torch.float32:
        rate = peaks.single
        if torch.get_float32_matmul_precision() != "highest":
            rate, kind = peaks.tf32, "TF32"
    return PeakRate(rate * 1e12, f"{device_name}, {kind}, data sheet")


def measure_peak(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> PeakRate:
    """Measure a device's rate in a matrix product: the best of those that fit in `MEASURING`.

    Args:
        device: Where to measure; on a CPU with the threads that torch uses.
        dtype: Type of the factors.
        clock: Gives the time in seconds.
    """
    threads = torch.get_num_threads()
    # On a CPU products are short, so that some of them fall between the work of other processes.
    rows, width = (512 * threads, 512) if device.type == "cpu" else (4096, 4096)
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
            linear(left, right)
            wait_for(device)
            best = min(best, clock() - at)
    kind = str(dtype).removeprefix("torch.")
    where = f"CPU (threads: {threads})" if device.type == "cpu" else str(device)
    return PeakRate(
        2 * rows * width * width / best, f"{where}, {kind}, measured in a matrix product"
    )


def peak_rate(device: torch.device, dtype: torch.dtype) -> PeakRate:
    """The peak rate of a device: its data sheet's if known, else a measured one."""
    if device.type == "cuda":
        known = known_peak(torch.cuda.get_device_name(device), dtype)
        if known is not None:
            return known
    return measure_peak(device, dtype)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all its work; a CPU always has."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
