"""The meter: what it counts, what it leaves out, and whether its arithmetic is right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from torch.utils.flop_counter import FlopCounterMode

from qa_lightning.data.batches import BatchSize
from qa_lightning.model.encoder import build_encoder, load_encoder
from qa_lightning.model.peak_rate import PeakRate
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QuestionAnsweringModule
from qa_lightning.training.throughput import Rates, Throughput, TrainingCost, summary
from tests.helpers.command import call, options_of, scalars

COST = TrainingCost(per_token=1000, per_pair=10)
PEAK = PeakRate(1e6, "made up")
SIZE = BatchSize(windows=4, tokens=80, padded_tokens=100, attention_pairs=2000)


class Clock:
    """A clock that stands still unless it is advanced."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Run:
    """Calls the meter's hooks as a Trainer does, with a clock of its own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, warm_up: int = 2, every: int = 3, processes: int = 1
    ) -> None:
        self.clock = Clock()
        self.meter = Throughput(warm_up=warm_up, clock=self.clock)
        self.logged: list[dict[str, float]] = []
        self.printed: list[str] = []
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            log_every_n_steps=every,
            world_size=processes,
            precision="32-true",
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            progress_bar_metrics={},
        )
        self.module: Any = SimpleNamespace(encoder=None, log_dict=self.logged.append)
        monkeypatch.setattr(
            "qa_lightning.training.throughput.measure_peak", lambda device, dtype: PEAK
        )
        monkeypatch.setattr(TrainingCost, "of", lambda encoder: COST)
        monkeypatch.setattr("qa_lightning.training.throughput.rank_zero_info", self.printed.append)
        self.meter.on_train_start(self.trainer, self.module)

    def batch(self, seconds: float, waiting: float = 0.0, step: bool = True) -> None:
        self.clock.now += waiting  # for data
        batch: Any = SimpleNamespace(size=SIZE)
        self.meter.on_train_batch_start(self.trainer, self.module, batch, 0)
        self.clock.now += seconds
        self.trainer.global_step += step
        self.meter.on_train_batch_end(self.trainer, self.module, None, batch, 0)

    def end(self) -> Rates:
        self.meter.on_train_end(self.trainer, self.module)
        assert self.meter.overall is not None
        return self.meter.overall


def test_rates() -> None:
    rates = Rates.over(SIZE, 0.5, COST, PEAK)
    assert rates == Rates(
        windows_per_s=8,
        tokens_per_s=160,
        padding=pytest.approx(20),
        tflops=pytest.approx((80 * 1000 + 2000 * 10) / 0.5 / 1e12),
        mfu=pytest.approx(20),
    )


@given(
    tokens=st.lists(st.integers(1, 512), min_size=1, max_size=8),
    padding=st.integers(0, 512),
    seconds=st.floats(1e-3, 1e3),
    processes=st.integers(1, 8),
)
def test_more_padding_or_processes_change_what_they_should(
    tokens: list[int], padding: int, seconds: float, processes: int
) -> None:
    real = sum(tokens)
    plain = BatchSize(len(tokens), real, real, sum(n * n for n in tokens))
    padded = plain._replace(padded_tokens=real + padding)
    one = Rates.over(plain, seconds, COST, PEAK)
    many = Rates.over(padded, seconds, COST, PEAK, processes)
    assert one.padding == 0
    assert 0 <= many.padding < 100
    assert (many.padding > 0) == (padding > 0)
    assert many.mfu == one.mfu  # a share: padding is no work, and every process has its own peak
    for name in ("windows_per_s", "tokens_per_s", "tflops"):
        assert getattr(many, name) == pytest.approx(processes * getattr(one, name))


class TestCost:
    @pytest.mark.parametrize(("windows", "tokens"), [(1, 16), (3, 40), (2, 128)])
    def test_equals_torchs_count_without_padding(
        self, tiny_encoder: Path, windows: int, tokens: int
    ) -> None:
        """With plain attention: flash attention computes the products of queries and keys again
        in the backward pass, which torch counts and this does not."""
        module = QuestionAnsweringModule(str(tiny_encoder))
        module.encoder.set_attn_implementation("eager")
        ids = torch.randint(5, 100, (windows, tokens))
        with FlopCounterMode(display=False) as counter:
            module(ids).sum().backward()
        size = BatchSize(windows, windows * tokens, windows * tokens, windows * tokens * tokens)
        assert TrainingCost.of(module.encoder).flops(size) == counter.get_total_flops()

    def test_of_distilbert_base(self) -> None:
        with torch.device("meta"):
            encoder = build_encoder({})
        cost = TrainingCost.of(encoder)
        layer = 4 * 768 * 768 + 2 * 768 * 3072
        assert cost == TrainingCost(per_token=6 * (6 * layer + 2 * 768), per_pair=12 * 6 * 768)

    def test_a_shard_of_the_weights_counts_as_the_whole(self, tiny_encoder: Path) -> None:
        """FSDP leaves a process with flat pieces of the weights."""
        encoder = load_encoder(str(tiny_encoder))
        whole = TrainingCost.of(encoder)
        for parameter in encoder.parameters():
            parameter.data = parameter.data.flatten()[: parameter.numel() // 2]
        assert TrainingCost.of(encoder) == whole

    def test_embeddings_cost_nothing(self, tiny_encoder: Path) -> None:
        small = load_encoder(str(tiny_encoder))
        config = {**small.config.to_diff_dict(), "vocab_size": 5000}
        config = {k: v for k, v in config.items() if k in ("vocab_size", "dim", "hidden_dim")}
        large = build_encoder({**config, "n_layers": 2, "n_heads": 2})
        assert TrainingCost.of(large) == TrainingCost.of(small)


class TestMeter:
    def test_logs_each_interval_without_the_warm_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(monkeypatch, warm_up=2, every=3)
        for seconds in (50, 50, 1, 2, 2, 2):
            run.batch(seconds)
        first, second = run.logged
        assert first["throughput/windows_per_s"] == 4
        assert second["throughput/windows_per_s"] == 2
        assert second["throughput/tokens_per_s"] == 40
        assert first["throughput/padding"] == pytest.approx(20)
        assert first["throughput/mfu"] == pytest.approx(10)
        assert first["throughput/tflops"] == pytest.approx(1e5 / 1e12)
        assert run.trainer.progress_bar_metrics == {"windows/s": 2}

    def test_nothing_is_logged_during_the_warm_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(monkeypatch, warm_up=3, every=1)
        for _ in range(3):
            run.batch(1)
        assert run.logged == []
        run.meter.on_train_end(run.trainer, run.module)
        assert run.meter.overall is None
        assert run.printed == []

    def test_waiting_for_data_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(monkeypatch, warm_up=1, every=2)
        run.batch(1, waiting=7)
        run.batch(1, waiting=3)
        assert run.logged[0]["throughput/windows_per_s"] == 1

    @pytest.mark.parametrize("hook", ["on_validation_start", "on_train_epoch_end"])
    def test_interruptions_do_not_count(self, monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
        run = Run(monkeypatch, warm_up=1, every=4)
        run.batch(1)
        run.batch(1)
        getattr(run.meter, hook)(run.trainer, run.module)
        run.meter.on_save_checkpoint(run.trainer, run.module, {})
        run.clock.now += 1000
        run.batch(1)
        run.batch(1)
        assert [rates["throughput/windows_per_s"] for rates in run.logged] == [4]
        assert run.end().windows_per_s == 4

    def test_saving_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(monkeypatch, warm_up=0, every=10)
        run.batch(2)
        run.meter.on_save_checkpoint(run.trainer, run.module, {})
        run.clock.now += 1000
        run.batch(2)
        assert run.end().windows_per_s == 2

    def test_accumulated_batches_are_all_counted_and_logged_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Run(monkeypatch, warm_up=0, every=1)
        for number in range(1, 9):
            run.batch(1, step=number % 4 == 0)
        assert [rates["throughput/windows_per_s"] for rates in run.logged] == [4, 4]
        assert run.end().windows_per_s == 4

    def test_overall_is_the_mean_over_time_with_the_last_part(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Run(monkeypatch, warm_up=1, every=2)
        for seconds in (9, 1, 3, 3, 1):
            run.batch(seconds)
        assert run.end().windows_per_s == 4 * 4 / 8
        (line,) = run.printed
        assert line.startswith("trained 16 windows in 8.0 s: 2 windows/s, 40 tokens/s, ")
        assert "padding 20.0 %" in line
        assert "MFU 5.0 %" in line
        assert "made up" in line

    def test_a_second_fit_starts_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(monkeypatch, warm_up=1, every=2)
        for _ in range(3):
            run.batch(100)
        run.end()
        run.clock.now += 5000
        run.meter.on_train_start(run.trainer, run.module)
        assert run.meter.overall is None
        run.batch(100)
        run.batch(1)
        assert run.end().windows_per_s == 4

    def test_several_processes_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(monkeypatch, warm_up=0, every=1, processes=2)
        run.batch(1)
        rates = run.end()
        assert rates.windows_per_s == 8
        assert rates.mfu == pytest.approx(10)
        assert run.printed[0].startswith("trained 8 windows in 1.0 s")

    def test_a_logging_interval_of_zero_logs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run(monkeypatch, warm_up=0, every=0)
        run.batch(1)
        assert run.logged == []
        assert run.end().windows_per_s == 4


class Counter(Callback):
    """What the trainer really gave the meter: the work of every batch."""

    def __init__(self) -> None:
        self.sizes: list[BatchSize] = []

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, _: int
    ) -> None:
        self.sizes.append(batch.size)


def test_in_a_real_trainer(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    """With a clock that advances by a second in every batch, and by far more in an evaluation."""
    data = SquadDataModule(
        train=str(squad_files["train"]),
        val=str(squad_files["val"]),
        tokenizer=str(tiny_encoder),
        window=64,
        overlap=16,
        max_question_tokens=16,
        batch_size=8,
    )
    clock = Clock()

    class Ticking(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += 1

        def on_validation_start(self, *_: Any) -> None:
            clock.now += 1000

    meter, counter = Throughput(warm_up=2, clock=clock), Counter()
    Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        callbacks=[meter, counter, Ticking()],
    ).fit(QuestionAnsweringModule(str(tiny_encoder)), data)
    counted = counter.sizes[2:]
    assert len(counted) > 8
    assert meter.overall is not None
    assert meter.overall.tokens_per_s == sum(size.tokens for size in counted) / len(counted)
    slots = sum(size.padded_tokens for size in counted)
    real = sum(size.tokens for size in counted)
    assert meter.overall.padding == pytest.approx(100 * (1 - real / slots))


def test_fit_shows_it(tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path) -> None:
    outcome = call(
        "fit",
        *options_of(tiny_encoder, squad_files, tmp_path),
        *("--data.batch_size", 4, "--trainer.log_every_n_steps", 4),
    )
    assert outcome.status == 0, outcome.err
    curves = scalars(tmp_path / "lightning_logs" / "version_0")
    names = {name for name in curves if name.startswith("throughput/")}
    assert names == {
        f"throughput/{name}"
        for name in ("windows_per_s", "tokens_per_s", "padding", "tflops", "mfu")
    }
    assert len(curves["throughput/mfu"]) == 16 // 4 - 1  # the first four are warm-up
    assert 0 <= curves["throughput/padding"][-1] < 60
    assert "windows/s" not in curves
    assert "trained 44 windows in " in outcome.out
    assert "windows/s" in outcome.out


def test_summary() -> None:
    rates = Rates(25.36, 43_412.2, 2.14, 0.4123, 55.27)
    peak = PeakRate(7.46e11, "CPU (threads: 2), bfloat16, measured in a matrix product")
    assert summary(rates, 16_000, 63.09, peak) == (
        "trained 16,000 windows in 63.1 s: 25.4 windows/s, 43,412 tokens/s, padding 2.1 %, "
        "0.412 TFLOP/s, MFU 55.3 % of 0.746 TFLOP/s "
        "(CPU (threads: 2), bfloat16, measured in a matrix product)"
    )
