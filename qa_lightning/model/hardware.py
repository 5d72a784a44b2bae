"""What the hardware computes fast, and settings that use it."""

import ctypes
import functools
import sys
from pathlib import Path

import torch


def best_device() -> str:
    """The kind of device to compute on: a GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@functools.cache
def mkl_leaves_width_unused() -> bool:
    """Whether MKL leaves half of the vector width unused: on AMD CPUs with AVX-512, in float32."""
    return (
        "AuthenticAMD" in _cpu_info()
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
    )


def _cpu_info() -> str:
    """Linux's description of the CPU; "" elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return ""


def keep_freed_memory() -> None:
    """Tell the C library to keep large freed blocks for the next step.

    glibc returns every large block to the system at once, which then clears the same memory again
    for each step's activations. Other C libraries are left alone.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
