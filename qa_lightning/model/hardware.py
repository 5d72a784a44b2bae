"""What the hardware computes fast, and settings that use it."""

import ctypes
import functools
import os
import re
import sys
from pathlib import Path

import torch

CUDA_13_DRIVER = 580
"""Branch of the NVIDIA driver from which on torch's builds for CUDA 13 work; those for CUDA 12 work
from 525 on."""


def best_device() -> str:
    """The kind of device to compute on: a GPU if there is one that torch can use."""
    if torch.cuda.is_available() and unusable_gpu() is None:
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@functools.cache
def mkl_leaves_width_unused() -> bool:
    """Whether MKL leaves half of the vector width unused: on AMD CPUs with AVX-512, in float32."""
    return (
        "AuthenticAMD" in _read("/proc/cpuinfo")
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
    )


def _read(path: str) -> str:
    """What Linux says about the machine in a file; "" elsewhere."""
    try:
        return Path(path).read_text(encoding="ascii", errors="ignore")
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


def unusable_gpu() -> str | None:
    """Why torch cannot use this machine's NVIDIA GPU, and what to do about it.

    None if there is no such GPU, if it is hidden on purpose, or if torch can use it.
    """
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if _compiled_for(major, minor, torch.cuda.get_arch_list()):
            return None
        name = torch.cuda.get_device_name()
        problem = f"it was not compiled for {name} (compute capability {major}.{minor})"
        # CUDA 13 left out what is older than 7.5; CUDA 12.6 knows nothing newer than 9.0.
        index = "cu126" if (major, minor) < (7, 5) else "cu130"
    else:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if hidden or not list(Path("/dev").glob("nvidia[0-9]*")):
            return None
        driver = _nvidia_driver()
        index = "cu130" if driver >= CUDA_13_DRIVER else "cu126"
        if torch.version.cuda is None:
            problem = "it was compiled without CUDA"
        elif torch.version.cuda >= "13" and driver < CUDA_13_DRIVER:
            problem = f"the driver {driver} is too old for its CUDA {torch.version.cuda}"
        else:
            return f"torch {torch.__version__} finds no usable NVIDIA GPU: see what nvidia-smi says"
    return (
        f"torch {torch.__version__} cannot use the NVIDIA GPU: {problem}. Install another: "
        f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index}"
    )


def _compiled_for(major: int, minor: int, architectures: list[str]) -> bool:
    """Whether one of torch's architectures (sm_80, compute_120) runs on a compute capability."""
    for name in architectures:
        kind, _, number = name.rstrip("af").partition("_")
        theirs, least = int(number[:-1]), int(number[-1])
        if kind == "compute" and (theirs, least) <= (major, minor):
            return True
        if theirs == major and least <= minor:
            return True
    return False


def _nvidia_driver() -> int:
    """The branch of the NVIDIA driver, such as 535; 0 if it cannot be told."""
    found = re.search(r"Kernel Module.*?\s(\d+)\.\d", _read("/proc/driver/nvidia/version"))
    return int(found[1]) if found else 0
