"""Throughput: how fast training is, and what share of the hardware's peak rate that is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from qa_lightning.data.batches import BatchSize
from qa_lightning.model.peak_rate import PeakRate, compute_dtype, measure_peak, wait_for

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.data.batches import Batch

WARM_UP = 5
"""Batches at the start of every `fit` that are not counted: compilation, memory, caches."""


@dataclass(frozen=True)
class TrainingCost:
    """Floating-point operations of a model's forward and backward pass, per token and per pair.

    A product with a weight matrix takes 2 operations per weight and token forward, and twice that
    backward: 6 (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). A window of n tokens has n x n
    pairs that attend to each other; in every layer, queries times keys and weights times values
    each take 2 x dim operations per pair forward, and twice that backward: 12 x dim (Chowdhery et
    al. 2022, arXiv:2204.02311, appendix B). Embeddings, LayerNorms, activations, the optimizer,
    padding and what is computed again in the backward pass are not counted: MFU falls with them.
    """

    per_token: int
    per_pair: int

    @classmethod
    def of(cls, encoder: nn.Module) -> TrainingCost:
        """The cost of an encoder, all weights of which are trained."""
        config: Any = encoder.config
        layers = (module for module in encoder.modules() if isinstance(module, nn.Linear))
        return cls(
            # Not the weight's own size: with FSDP it is a shard.
            per_token=6 * sum(module.in_features * module.out_features for module in layers),
            per_pair=12 * config.num_hidden_layers * config.hidden_size,
        )

    def flops(self, size: BatchSize) -> int:
        """Operations for this much work."""
        return self.per_token * size.tokens + self.per_pair * size.attention_pairs


@dataclass(frozen=True)
class Rates:
    """How fast training was over some time, on all processes together.

    Attributes:
        windows_per_s: Windows per second.
        tokens_per_s: Real tokens per second.
        padding: Share of the computed token positions that was padding, percent.
        tflops: Operations of the model (see `TrainingCost`), in 10^12 per second.
        mfu: The same as a share of the hardware's peak rate, percent: model FLOPs utilization.
    """

    windows_per_s: float
    tokens_per_s: float
    padding: float
    tflops: float
    mfu: float

    @classmethod
    def over(
        cls, size: BatchSize, seconds: float, cost: TrainingCost, peak: PeakRate, processes: int = 1
    ) -> Rates:
        """Rates of `processes` processes that each did this much work (at least one token)."""
        flops = cost.flops(size) / seconds
        return cls(
            windows_per_s=processes * size.windows / seconds,
            tokens_per_s=processes * size.tokens / seconds,
            padding=100 * (1 - size.tokens / size.padded_tokens),
            tflops=processes * flops / 1e12,
            mfu=100 * flops / peak.flops,
        )


class Throughput(Callback):
    """Measures how fast training goes.

    At the trainer's logging interval it logs the `Rates` of the batches since the last time as
    `throughput/...`, and shows windows per second in the progress bar. At the end of training it
    prints the rates of all batches, which `overall` then holds.

    Waiting for data counts. The first batches of every `fit` (`WARM_UP`) do not, nor does the time
    of evaluations, of saving checkpoints and between epochs. A resumed run starts counting anew.

    The work of a batch is known without asking the device (`Batch.size`). The device is waited for
    at the end of an interval, and when an evaluation or a checkpoint interrupts one; never in
    between. Several processes exchange no figures: their batches are alike (sizes differ by a
    window at most), so a process's rates are multiplied by their number.
    """

    def __init__(
        self, warm_up: int = WARM_UP, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start with nothing counted; `clock` gives the time in seconds."""
        self.warm_up = warm_up
        self.clock = clock
        self.overall: Rates | None = None
        self._peak: PeakRate | None = None
        self._cost = TrainingCost(0, 0)
        self._begin()

    def _begin(self) -> None:
        self._to_skip = self.warm_up
        self._since: float | None = None  # when the clock was started; None while it is stopped
        self._size, self._seconds = BatchSize(0, 0, 0, 0), 0.0  # of this interval
        self._total_size, self._total_seconds = self._size, 0.0  # of the intervals before it
        self._logged_step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find out what the work costs and what the device could do."""
        self._begin()
        self._logged_step = trainer.global_step
        self.overall = None
        self._cost = TrainingCost.of(module.encoder)  # type: ignore[arg-type]
        dtype = compute_dtype(str(trainer.precision))
        self._peak = measure_peak(trainer.strategy.root_device, dtype)

    def on_train_batch_start(self, *_: Any) -> None:
        """Go on after an interruption."""
        self._start_clock()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch; log the rates when the trainer logs."""
        if self._to_skip > 0:
            self._to_skip -= 1
            if self._to_skip == 0:
                wait_for(trainer.strategy.root_device)
                self._start_clock()
            return
        self._size = BatchSize(*map(sum, zip(self._size, batch.size, strict=True)))
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        # The step stays the same while gradients are accumulated: log once, when it is reached.
        if every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._stop_clock(trainer)
            self._log(trainer, module)
            self._close_interval()
            self._start_clock()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Do not count the time of an evaluation."""
        self._stop_clock(trainer)

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        """Do not count the time of saving."""
        self._stop_clock(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Do not count the time between epochs."""
        self._stop_clock(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Print the rates of all batches."""
        self._stop_clock(trainer)
        self._close_interval()
        size, seconds = self._total_size, self._total_seconds
        if self._peak is None or not size.tokens or seconds <= 0:
            return
        self.overall = Rates.over(size, seconds, self._cost, self._peak, trainer.world_size)
        rank_zero_info(
            summary(self.overall, trainer.world_size * size.windows, seconds, self._peak)
        )

    def _start_clock(self) -> None:
        if self._since is None and self._to_skip == 0:
            self._since = self.clock()

    def _stop_clock(self, trainer: Trainer) -> None:
        if self._since is not None:
            wait_for(trainer.strategy.root_device)
            self._seconds += self.clock() - self._since
            self._since = None

    def _close_interval(self) -> None:
        self._total_size = BatchSize(*map(sum, zip(self._total_size, self._size, strict=True)))
        self._total_seconds += self._seconds
        self._size, self._seconds = BatchSize(0, 0, 0, 0), 0.0

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        if self._peak is None or not self._size.tokens or self._seconds <= 0:
            return
        rates = Rates.over(self._size, self._seconds, self._cost, self._peak, trainer.world_size)
        module.log_dict({f"throughput/{name}": value for name, value in vars(rates).items()})
        shown = float(f"{rates.windows_per_s:.3g}")  # the bar has little room
        # Not with prog_bar=True: Lightning would ask the device in every later step to show it.
        trainer.progress_bar_metrics["windows/s"] = shown


def summary(rates: Rates, windows: int, seconds: float, peak: PeakRate) -> str:
    """Rates in one line: those of `windows` windows in `seconds` seconds."""
    return (
        f"trained {windows:,} windows in {seconds:,.1f} s: "
        f"{_short(rates.windows_per_s)} windows/s, {_short(rates.tokens_per_s)} tokens/s, "
        f"padding {rates.padding:.1f} %, {rates.tflops:.3g} TFLOP/s, MFU {rates.mfu:.1f} % of "
        f"{peak.flops / 1e12:.3g} TFLOP/s ({peak.source})"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
