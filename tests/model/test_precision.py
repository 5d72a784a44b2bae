"""The precision that is chosen, on hardware that is not here."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from qa_lightning.model import precision
from qa_lightning.model.encoder import build_encoder
from qa_lightning.model.logits import model_logits
from qa_lightning.model.precision import choose_precision, cpu_rates
from tests.helpers.encoders import TINY

SIZES = (384, 1536)
XEON_WITHOUT_AMX, AMX = (158e9, 83e9), (158e9, 700e9)


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(precision, "_has_bfloat16_kernels", lambda: True)
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)


def rates_are(monkeypatch: pytest.MonkeyPatch, rates: tuple[float, float]) -> None:
    monkeypatch.setattr(precision, "cpu_rates", lambda *sizes: rates)


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
@pytest.mark.parametrize(("bfloat16", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_on_cuda(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: bfloat16)
    chosen, reason = choose_precision(accelerator, *SIZES)
    assert chosen == expected
    assert reason.startswith("Some GPU computes in")


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "mps"])
def test_on_apples(monkeypatch: pytest.MonkeyPatch, accelerator: str) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_precision(accelerator, *SIZES)[0] == "32-true"


def test_on_anything_else() -> None:
    chosen, reason = choose_precision("tpu", *SIZES)
    assert chosen == "32-true"
    assert "'tpu'" in reason


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (XEON_WITHOUT_AMX, "32-true"),
        (AMX, "bf16-mixed"),
        ((100e9, 119e9), "32-true"),  # not clearly faster
        ((100e9, 120e9), "bf16-mixed"),
    ],
)
def test_on_a_cpu_it_is_measured(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, rates: tuple[float, float], expected: str
) -> None:
    rates_are(monkeypatch, rates)
    chosen, reason = choose_precision(accelerator, *SIZES)
    assert chosen == expected
    full, half = (f"{rate / 1e9:.0f}" for rate in rates)
    assert reason == f"this CPU multiplies at {half} GFLOP/s in bfloat16, {full} in float32"


def test_a_cpu_asked_for_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rates_are(monkeypatch, XEON_WITHOUT_AMX)
    assert choose_precision("cpu", *SIZES)[0] == "32-true"


def test_a_cpu_without_kernels_is_not_kept_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16_kernels", lambda: False)
    monkeypatch.setattr(precision, "cpu_rates", None)
    chosen, reason = choose_precision("cpu", *SIZES)
    assert (chosen, reason) == ("32-true", "torch only imitates bfloat16 on this CPU")


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "2"), ("SLURM_NTASKS", "4"), ("NODE_RANK", "0")]
)
def test_processes_that_cannot_agree_do_not_measure(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    rates_are(monkeypatch, AMX)
    monkeypatch.setenv(name, value)
    assert choose_precision("cpu", *SIZES)[0] == "32-true"
    monkeypatch.setenv(name, "1")
    if name != "NODE_RANK":
        assert choose_precision("cpu", *SIZES)[0] == "bf16-mixed"


class TestMeasuring:
    def test_it_times_the_encoders_own_products_in_both_types(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a clock that the products advance: 2 ms each in float32, 8 in bfloat16."""
        now, shapes = 0.0, set()

        def linear(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += 0.002 if weight.dtype == torch.float32 else 0.008
            shapes.add(tuple(weight.shape))
            return states.new_empty(len(states), len(weight))

        monkeypatch.setattr(precision, "linear", linear)
        monkeypatch.setattr(time, "perf_counter", lambda: now)
        full, half = cpu_rates.__wrapped__(6, 10, 1)
        assert shapes == {(10, 6), (6, 10)}
        assert full == pytest.approx(2 * 2 * precision.TOKENS * 6 * 10 / 0.004)
        assert half == pytest.approx(full / 4)

    def test_it_leaves_the_random_numbers_of_the_training(self) -> None:
        before = torch.get_rng_state()
        assert min(cpu_rates.__wrapped__(16, 32, 1)) > 0
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("rates", "dtype"), [(XEON_WITHOUT_AMX, None), (AMX, torch.bfloat16)])
def test_a_model_in_use_goes_by_it_too(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rates: tuple[float, float],
    dtype: torch.dtype | None,
) -> None:
    """What `Answerer`, `answer` and `serve` compute with."""
    rates_are(monkeypatch, rates)
    with caplog.at_level(logging.INFO, "qa_lightning.model"):
        logits = model_logits(build_encoder(TINY), "cpu")
    assert "GFLOP/s in bfloat16" in caplog.text
    cells = dict(zip(logits.__code__.co_freevars, logits.__closure__ or (), strict=True))
    assert cells["dtype"].cell_contents == dtype
