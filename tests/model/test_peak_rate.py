"""Peak rates are the best of several measurements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qa_lightning.model import peak_rate
from qa_lightning.model.peak_rate import compute_dtype, measure_peak


def test_measured_is_the_best_of_several() -> None:
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


def test_a_gpu_has_ever_more_products_to_do_before_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On "meta", where nothing is computed, a product takes 1 ms and a wait 1 ms more."""
    now, waits = 0.0, []

    def linear(*factors: torch.Tensor) -> None:
        nonlocal now
        now += 0.001

    def wait_for(device: torch.device) -> None:
        nonlocal now
        now += 0.001
        waits.append(now)

    monkeypatch.setattr(peak_rate, "linear", linear)
    monkeypatch.setattr(peak_rate, "wait_for", wait_for)
    peak = measure_peak(torch.device("meta"), torch.float32, clock=lambda: now)
    # 1, 2, 4, ... 128 products in a row: the wait is nearly lost among them.
    assert len(waits) == 2 * 8
    assert peak.flops == pytest.approx(2 * 16384 * 8192 * 8192 / (0.001 * 129 / 128))


def test_measuring_leaves_the_random_numbers_of_the_training() -> None:
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
def test_compute_dtype(precision: str, dtype: torch.dtype) -> None:
    assert compute_dtype(precision) == dtype
