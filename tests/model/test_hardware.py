"""What the hardware is good at, on hardware that is not here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qa_lightning.model import hardware


class TestPrecision:
    @pytest.fixture(autouse=True)
    def no_accelerator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(hardware, "cpu_has_fast_bfloat16", lambda: False)

    @pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
    @pytest.mark.parametrize(("bfloat16", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
    def test_on_cuda(
        self, monkeypatch: pytest.MonkeyPatch, accelerator: str, bfloat16: bool, expected: str
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: bfloat16)
        precision, reason = hardware.choose_precision(accelerator)
        assert precision == expected
        assert reason.startswith("Some GPU computes in")

    @pytest.mark.parametrize("accelerator", ["auto", "cpu"])
    @pytest.mark.parametrize(("bfloat16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
    def test_on_a_cpu(
        self, monkeypatch: pytest.MonkeyPatch, accelerator: str, bfloat16: bool, expected: str
    ) -> None:
        monkeypatch.setattr(hardware, "cpu_has_fast_bfloat16", lambda: bfloat16)
        precision, reason = hardware.choose_precision(accelerator)
        assert precision == expected
        assert "CPU" in reason

    def test_a_cpu_asked_for_beside_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert hardware.choose_precision("cpu")[0] == "32-true"

    @pytest.mark.parametrize("accelerator", ["auto", "gpu", "mps"])
    def test_on_apples(self, monkeypatch: pytest.MonkeyPatch, accelerator: str) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(hardware, "cpu_has_fast_bfloat16", lambda: True)
        assert hardware.choose_precision(accelerator)[0] == "32-true"

    def test_on_anything_else(self) -> None:
        precision, reason = hardware.choose_precision("tpu")
        assert precision == "32-true"
        assert "'tpu'" in reason

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("flags\t\t: fpu sse avx512_bf16 amx_tile", True),
            ("flags\t\t: fpu amx_bf16", True),
            ("Features\t: fp asimd bf16", True),
            ("flags\t\t: fpu sse avx512f", False),
            ("model name\t: bf16", False),
        ],
    )
    def test_reading_the_cpus_flags(
        self, monkeypatch: pytest.MonkeyPatch, line: str, expected: bool
    ) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(Path, "read_text", lambda self, **kwargs: f"processor\t: 0\n{line}\n")
        assert hardware.cpu_has_fast_bfloat16() is expected


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
