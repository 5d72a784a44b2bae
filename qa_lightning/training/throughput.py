"""Throughput: how fast training goes, and what share of the hardware's peak rate that is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from qa_lightning.data.batches import BatchSize
from qa_lightning.model.linear import linear

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.data.batches import Batch

WARM_UP = 5
"""Batches at the start of every `fit` that are not counted: compilation, memory, caches."""

MEASURING = 0.2
"""Seconds in which the peak rate of an unknown device is measured."""


class _Peaks(NamedTuple):
    """Dense matrix rates of a device in TFLOP/s, as its vendor states them."""

    half: float
    """float16 and bfloat16, sums in float32."""
    tf32: float
    """float32 that may be rounded to TF32; the float32 rate where there is no TF32."""
    single: float
    """float32."""


_DATA_SHEETS = {
    r"\bB200\b": _Peaks(2250, 1125, 75),
    r"\bH200 NVL\b": _Peaks(835.5, 417.5, 60),
    r"\b(H200|GH200)\b": _Peaks(989.5, 494.5, 67),
    r"\bH100 PCIe\b": _Peaks(756, 378, 51),
    r"\bH100 NVL\b": _Peaks(835.5, 417.5, 60),
    r"\bH100\b": _Peaks(989.5, 494.5, 67),
    r"\bA100\b": _Peaks(312, 156, 19.5),
    r"\bA40\b": _Peaks(149.7, 74.8, 37.4),
    r"\bA30\b": _Peaks(165, 82, 10.3),
    r"\bA10G\b": _Peaks(70, 35, 31.5),
    r"\bA10\b": _Peaks(125, 62.5, 31.2),
    r"\bL40S\b": _Peaks(362, 183, 91.6),
    r"\bL40\b": _Peaks(181, 90.5, 90.5),
    r"\bL4\b": _Peaks(121, 60, 30.3),
    r"\bRTX 5090$": _Peaks(209.5, 104.8, 104.8),
    r"\bRTX 4090$": _Peaks(165.2, 82.6, 82.6),
    r"\bRTX 3090$": _Peaks(71, 35.6, 35.6),
    r"\bRTX A6000\b": _Peaks(154.8, 77.4, 38.7),
    r"\bV100S\b": _Peaks(130, 16.4, 16.4),
    r"\bV100-PCIE\b": _Peaks(112, 14, 14),
    r"\bV100\b": _Peaks(125, 15.7, 15.7),
    r"\bT4\b": _Peaks(65, 8.1, 8.1),
}
"""Rates by the device's name; the first pattern that is found in it counts.

From NVIDIA's data sheets and white papers, without sparsity: half of what a sheet states "with
sparsity". Consumer cards sum half-precision products in float32 at half the rate of sums in
float16; training uses the former. A part of a device (MIG) or a laptop's version is not the same.
"""


@dataclass(frozen=True)
class PeakRate:
    """What a device can do at most in dense matrix products.

    Attributes:
        flops: Floating-point operations a second; a multiplication and an addition are two.
        source: Where the figure comes from, in words.
    """

    flops: float
    source: str


@dataclass(frozen=True)
class TrainingCost:
    """Floating-point operations of a model's forward and backward pass.

    A product with a weight matrix takes a multiplication and an addition for every weight and
    token, forward; backward takes the same twice, for the gradients of its input and of the
    weights: 6 operations a weight and token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    A window of n tokens has n x n pairs that attend to each other. In every layer, queries times
    keys and weights times values each take 2 x dim operations a pair, forward, and twice that
    backward: 12 x dim operations a pair (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

    Only matrix products of real tokens are counted. Looking up embeddings, LayerNorms, activations
    and the optimizer are not, nor is what is computed for padding or computed again in the
    backward pass (flash attention): MFU falls with them.

    Attributes:
        per_token: Operations for every real token.
        per_pair: Operations for every pair of a window's tokens.
    """

    per_token: int
    per_pair: int

    @classmethod
    def of(cls, encoder: nn.Module) -> TrainingCost:
        """The cost of a `DistilBertForQuestionAnswering`, all weights of which are trained."""
        config: Any = encoder.config
        layers = (module for module in encoder.modules() if isinstance(module, nn.Linear))
        return cls(
            per_token=6 * sum(module.weight.numel() for module in layers),
            per_pair=12 * config.n_layers * config.dim,
        )

    def flops(self, size: BatchSize) -> int:
        """Operations for this much work."""
        return self.per_token * size.tokens + self.per_pair * size.attention_pairs


@dataclass(frozen=True)
class Rates:
    """How fast training went over some time, on all processes together.

    Attributes:
        windows_per_s: Windows a second.
        tokens_per_s: Real tokens a second.
        padding: Share of the computed token positions that was padding, percent.
        tflops: Operations of the model (see `TrainingCost`), in 10^12 a second.
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
        """Rates of one process's work, of which every process did as much.

        Args:
            size: Work that one process did; at least one token.
            seconds: Time it took, above 0.
            cost: What the work costs.
            peak: Peak rate of one process's device.
            processes: How many processes there are.
        """
        flops = cost.flops(size) / seconds
        return cls(
            windows_per_s=processes * size.windows / seconds,
            tokens_per_s=processes * size.tokens / seconds,
            padding=100 * (1 - size.tokens / size.padded_tokens),
            tflops=processes * flops / 1e12,
            mfu=100 * flops / peak.flops,
        )


def training_dtype(precision: str) -> torch.dtype:
    """The type in which matrix products are computed under one of Lightning's precisions."""
    if "bf16" in precision:
        return torch.bfloat16
    if "16" in precision:
        return torch.float16
    return torch.float64 if "64" in precision else torch.float32


def known_peak(device_name: str, dtype: torch.dtype) -> PeakRate | None:
    """The peak rate of a GPU by its vendor's data sheet; None if it is not in the table.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it.
        dtype: Type of the factors. For float32 the answer depends on whether torch may use TF32.
    """
    if re.search(r"\b(MIG|Laptop|Max-Q)\b", device_name) or dtype == torch.float64:
        return None
    fitting = (peaks for name, peaks in _DATA_SHEETS.items() if re.search(name, device_name))
    peaks = next(fitting, None)
    if peaks is None:
        return None
    rate, kind = peaks.half, str(dtype).removeprefix("torch.")
    if dtype == torch.float32:
        rate = peaks.single
        if torch.get_float32_matmul_precision() != "highest":
            rate, kind = peaks.tf32, "TF32"
    return PeakRate(rate * 1e12, f"{device_name}, {kind}, data sheet")


def measure_peak(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> PeakRate:
    """Measure a device's rate in a matrix product: the best of those that fit in `MEASURING`.

    Args:
        device: Where to measure; on a CPU with the threads that torch uses.
        dtype: Type of the factors.
        clock: Gives the time in seconds.
    """
    threads = torch.get_num_threads()
    # On a CPU short products, many of which fall between what else is going on there.
    rows, width = (512 * threads, 512) if device.type == "cpu" else (4096, 4096)
    generator = torch.Generator().manual_seed(0)  # the training's random numbers stay as they are
    left = torch.randn(rows, width, generator=generator).to(device, dtype)
    right = torch.randn(width, width, generator=generator).to(device, dtype)
    best = float("inf")
    begin = clock()
    with torch.no_grad():
        linear(left, right)  # the first prepares kernels
        while best == float("inf") or clock() - begin < MEASURING:
            _wait_for(device)
            at = clock()
            linear(left, right)
            _wait_for(device)
            best = min(best, clock() - at)
    kind = str(dtype).removeprefix("torch.")
    where = f"CPU (threads: {threads})" if device.type == "cpu" else str(device)
    return PeakRate(
        2 * rows * width * width / best, f"{where}, {kind}, measured in a matrix product"
    )


def peak_rate(device: torch.device, dtype: torch.dtype) -> PeakRate:
    """The peak rate of a device: its data sheet's if known, else a measured one."""
    if device.type == "cuda":
        known = known_peak(torch.cuda.get_device_name(device), dtype)
        if known is not None:
            return known
    return measure_peak(device, dtype)


def _wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


class Throughput(Callback):
    """Measures how fast training goes.

    At the trainer's logging interval it logs the `Rates` of the batches since the last time as
    `throughput/...`, and shows windows a second in the progress bar. At the end of training it
    prints the rates of all batches, which `overall` then holds.

    Time counts from batch to batch, waiting for data included. The first batches of every `fit`
    (`WARM_UP`) are left out, and so is the time of evaluations, of saved checkpoints and between
    epochs. Batches are counted, not optimizer steps. A resumed run starts anew.

    The work of a batch is known without asking the device (`Batch.size`). The device is waited for
    at the end of an interval, and when an evaluation or a checkpoint interrupts one; never in
    between. With several processes, no figures are exchanged: their batches are alike (sizes
    differ by a window at most), so a process's rates are multiplied by their number.
    """

    def __init__(
        self, warm_up: int = WARM_UP, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start with nothing counted.

        Args:
            warm_up: Batches at the start that are not counted.
            clock: Gives the time in seconds.
        """
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what the work costs and what the device could do."""
        self._begin()
        self._logged_step = trainer.global_step
        self.overall = None
        self._cost = TrainingCost.of(pl_module.encoder)  # type: ignore[arg-type]
        dtype = training_dtype(str(trainer.precision))
        self._peak = peak_rate(trainer.strategy.root_device, dtype)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Go on after an interruption."""
        self._start_clock()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch; log the rates when the trainer logs."""
        if self._to_skip > 0:
            self._to_skip -= 1
            if self._to_skip == 0:
                _wait_for(trainer.strategy.root_device)
                self._start_clock()
            return
        self._size = _sum(self._size, batch.size)
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        # The step stays the same while gradients are accumulated: log once, when it is reached.
        if every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._stop_clock(trainer)
            self._log(trainer, pl_module)
            self._close_interval()
            self._start_clock()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not count the time of an evaluation."""
        self._stop_clock(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Do not count the time of saving."""
        self._stop_clock(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not count the time between epochs."""
        self._stop_clock(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
            _wait_for(trainer.strategy.root_device)
            self._seconds += self.clock() - self._since
            self._since = None

    def _close_interval(self) -> None:
        self._total_size = _sum(self._total_size, self._size)
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


def _sum(one: BatchSize, other: BatchSize) -> BatchSize:
    return BatchSize(*(mine + theirs for mine, theirs in zip(one, other, strict=True)))


def summary(rates: Rates, windows: int, seconds: float, peak: PeakRate) -> str:
    """Rates in one line.

    Args:
        rates: The rates.
        windows: How many windows they are of.
        seconds: Time that these took.
        peak: What MFU is a share of.
    """
    return (
        f"trained {windows:,} windows in {seconds:,.1f} s: "
        f"{_short(rates.windows_per_s)} windows/s, {_short(rates.tokens_per_s)} tokens/s, "
        f"padding {rates.padding:.1f} %, {rates.tflops:.3g} TFLOP/s, MFU {rates.mfu:.1f} % of "
        f"{peak.flops / 1e12:.3g} TFLOP/s ({peak.source})"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
