"""Peak rates: by data sheet, else measured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qa_lightning.training.peak_rate import known_peak, measure_peak, training_dtype


class TestPeak:
    @pytest.mark.parametrize(
        ("name", "half", "tf32", "single"),
        [
            ("NVIDIA H200", 989.5, 494.5, 67),
            ("NVIDIA H200 NVL", 835.5, 417.5, 60),
            ("NVIDIA GH200 480GB", 989.5, 494.5, 67),
            ("NVIDIA H100 80GB HBM3", 989.5, 494.5, 67),
            ("NVIDIA H100 PCIe", 756, 378, 51),
            ("NVIDIA A100-SXM4-80GB", 312, 156, 19.5),
            ("NVIDIA A100 80GB PCIe", 312, 156, 19.5),
            ("NVIDIA A10G", 70, 35, 31.5),
            ("NVIDIA A10", 125, 62.5, 31.2),
            ("NVIDIA L40S", 362, 183, 91.6),
            ("NVIDIA L4", 121, 60, 30.3),
            ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
            ("Tesla V100-SXM2-16GB", 125, 15.7, 15.7),
            ("Tesla V100-PCIE-32GB", 112, 14, 14),
            ("Tesla T4", 65, 8.1, 8.1),
        ],
    )
    def test_of_known_devices(
        self,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        half: float,
        tf32: float,
        single: float,
    ) -> None:
        def rate(dtype: torch.dtype) -> float:
            peak = known_peak(name, dtype)
            assert peak is not None
            assert name in peak.source
            return peak.flops / 1e12

        assert rate(torch.float16) == rate(torch.bfloat16) == pytest.approx(half)
        for precision, wanted in (("highest", single), ("high", tf32)):
            monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda kind=precision: kind)
            assert rate(torch.float32) == pytest.approx(wanted)

    @pytest.mark.parametrize(
        "name",
        [
            "NVIDIA H200 MIG 1g.18gb",
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA GeForce RTX 4090 D",
            "NVIDIA GeForce GTX 1080",
            "Quadro T400",
        ],
    )
    def test_others_are_not_taken_for_known_ones(self, name: str) -> None:
        assert known_peak(name, torch.bfloat16) is None

    def test_measured_is_the_best_of_several(self) -> None:
        def ticks() -> Iterator[float]:
            now = 0.0
            yield now  # the beginning
            for seconds in (0.05, 0.02, 0.2):
                yield now
                now += seconds
                yield now
                yield now  # is there time for another?

        threads = torch.get_num_threads()
        times = ticks()
        peak = measure_peak(torch.device("cpu"), torch.float32, clock=lambda: next(times))
        assert peak.flops == pytest.approx(2 * 512**3 * threads / 0.02)
        assert "float32" in peak.source
        assert "measured" in peak.source

    def test_measuring_leaves_the_random_numbers_of_the_training(self) -> None:
        before = torch.get_rng_state()
        assert measure_peak(torch.device("cpu"), torch.float32).flops > 0
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("precision", "dtype"),
        [
            ("bf16-mixed", torch.bfloat16),
            ("bf16-true", torch.bfloat16),
            ("16-mixed", torch.float16),
            ("32-true", torch.float32),
            ("64-true", torch.float64),
        ],
    )
    def test_training_dtype(self, precision: str, dtype: torch.dtype) -> None:
        assert training_dtype(precision) == dtype
