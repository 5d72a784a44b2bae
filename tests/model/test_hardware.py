"""What the hardware is good at, on hardware that is not here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qa_lightning.model import hardware


class TestKeepingMemory:
    def asked_for(self, monkeypatch: pytest.MonkeyPatch, platform: str, library: Any) -> None:
        monkeypatch.setattr(hardware.sys, "platform", platform)
        monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: library)
        hardware.keep_freed_memory()

    def test_glibc_is_told_to_keep_large_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told: dict[int, int] = {}
        self.asked_for(monkeypatch, "linux", SimpleNamespace(mallopt=told.__setitem__))
        assert told[-4] == 0  # M_MMAP_MAX: no block is mapped on its own
        assert told[-1] >= 2**30  # M_TRIM_THRESHOLD: the heap is not given back

    @pytest.mark.parametrize("platform", ["darwin", "win32"])
    def test_other_systems_are_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, platform: str
    ) -> None:
        told: dict[int, int] = {}
        self.asked_for(monkeypatch, platform, SimpleNamespace(mallopt=told.__setitem__))
        assert not told


class TestUnusableGpu:
    """NVIDIA GPUs that torch cannot use, each with the torch that can."""

    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A GPU with driver 535, and a torch for CUDA 13 that cannot use it."""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / "nvidia0"])
        self.driver(monkeypatch, "535.183.01")

    def driver(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        line = f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release\n"
        monkeypatch.setattr(hardware, "_read", lambda path: line)

    def test_a_driver_that_is_too_old(self) -> None:
        problem = hardware.unusable_gpu() or ""
        assert "the driver 535 is too old for its CUDA 13.0" in problem
        assert problem.endswith("torch --index-url https://download.pytorch.org/whl/cu126")

    @pytest.mark.parametrize(
        ("driver", "index"), [("580.65.06", "cu130"), ("550.54.15", "cu126"), ("?", "cu126")]
    )
    def test_a_torch_without_cuda(
        self, monkeypatch: pytest.MonkeyPatch, driver: str, index: str
    ) -> None:
        self.driver(monkeypatch, driver)
        monkeypatch.setattr(torch.version, "cuda", None)
        problem = hardware.unusable_gpu() or ""
        assert "compiled without CUDA" in problem
        assert problem.endswith(index)

    def test_what_is_not_torchs_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver(monkeypatch, "580.65.06")
        problem = hardware.unusable_gpu() or ""
        assert "nvidia-smi" in problem and "pip" not in problem

    @pytest.mark.parametrize("hidden", ["", "-1"])
    def test_a_gpu_that_is_hidden_or_missing(
        self, monkeypatch: pytest.MonkeyPatch, hidden: str
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert hardware.unusable_gpu() is None
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(Path, "glob", lambda self, pattern: [])
        assert hardware.unusable_gpu() is None

    CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
    CUDA_12_6 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")

    @pytest.mark.parametrize(
        ("capability", "architectures", "index"),
        [
            ((7, 0), CUDA_13, "cu126"),  # Volta
            ((12, 0), CUDA_12_6, "cu130"),  # Blackwell
            ((7, 0), CUDA_12_6, None),
            ((8, 9), CUDA_13, None),  # Ada runs what was made for Ampere
            ((9, 0), CUDA_13, None),
            ((12, 1), (*CUDA_13, "compute_120"), None),
            ((13, 0), (*CUDA_13, "compute_120"), None),
            ((9, 0), ("sm_90a",), None),
        ],
    )
    def test_an_architecture_that_torch_was_not_compiled_for(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capability: tuple[int, int],
        architectures: tuple[str, ...],
        index: str | None,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))
        problem = hardware.unusable_gpu()
        if index is None:
            assert problem is None
            assert hardware.best_device() == "cuda"
        else:
            assert f"not compiled for Some GPU (compute capability {capability[0]}" in str(problem)
            assert str(problem).endswith(index)
            assert hardware.best_device() == "cpu"
