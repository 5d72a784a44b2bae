"""What the hardware is good at, on hardware that is not here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

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
