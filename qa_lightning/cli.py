"""LightningCLI: defaults, forced callbacks, links between arguments."""

from __future__ import annotations

import hashlib
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from qa_lightning.callbacks import PredictionWriter, SaveBestModel
from qa_lightning.data.datamodule import SquadDataModule, default_cache_dir
from qa_lightning.errors import UserError
from qa_lightning.model.module import QuestionAnsweringModule

TRAINER_DEFAULTS = {
    "max_epochs": 3,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
}

CHECKPOINT_DEFAULTS = {
    "checkpoint.filename": "best",
    "checkpoint.monitor": "val/exact",
    "checkpoint.mode": "max",
    "checkpoint.save_top_k": 1,
    "checkpoint.save_last": True,
    "checkpoint.enable_version_counter": False,
}


def choose_precision(accelerator: str) -> tuple[str, str]:
    """Choose the trainer's precision from the hardware.

    Args:
        accelerator: The trainer's accelerator, "auto" for the best that there is.

    Returns:
        A precision that Lightning knows, and the reason in words.
    """
    wants_cuda = accelerator in ("auto", "gpu", "cuda")
    if wants_cuda and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"{name} computes in bfloat16"
        return "16-mixed", f"{name} computes in float16, but not in bfloat16"
    mps = torch.backends.mps.is_available()
    if accelerator == "mps" or (accelerator in ("auto", "gpu") and mps):
        return "32-true", "mixed precision is not faster on Apple's GPUs"
    if accelerator in ("auto", "cpu"):
        if cpu_has_fast_bfloat16():
            return "bf16-mixed", "this CPU multiplies bfloat16 in hardware"
        return "32-true", "this CPU has no fast bfloat16"
    return "32-true", f"nothing better is known for accelerator {accelerator!r}"


def cpu_has_fast_bfloat16() -> bool:
    """Whether the CPU has instructions that multiply bfloat16 (AVX512-BF16, AMX, Arm BF16)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))
    return False


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint of this project without reading its weights into memory.

    Args:
        path: A file that `fit` wrote.

    Raises:
        UserError: it does not exist, is damaged, holds code, or is not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--ckpt_path: there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--ckpt_path: {path} cannot be loaded as a checkpoint: damaged, or not one of ours "
            f"({reason})"
        ) from error
    ours = isinstance(checkpoint, dict) and "tokenizer" in checkpoint
    if not ours or "encoder_config" not in checkpoint.get("hyper_parameters", {}):
        raise UserError(
            f"--ckpt_path: {path} is a checkpoint, but not of a QuestionAnsweringModule: it holds "
            "no encoder_config and no tokenizer"
        )
    return checkpoint


def unpack_tokenizer(files: dict[str, str]) -> Path:
    """Write a checkpoint's tokenizer to the cache, where the datamodule can load it.

    Args:
        files: File names and contents, see `qa_lightning.model.encoder.tokenizer_files`.

    Returns:
        The folder, named after its content.
    """
    from qa_lightning.model.encoder import restore_tokenizer

    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    folder = default_cache_dir() / "tokenizers" / digest
    if not folder.is_dir():
        restore_tokenizer(files).save_pretrained(folder)
    return folder


class QuestionAnsweringCLI(LightningCLI):
    """The commands fit, validate, test and predict."""

    def __init__(self, args: list[str] | None = None) -> None:
        """Parse the arguments and run the command.

        Args:
            args: The command and its options; by default those of the process.
        """
        self._checkpoint: dict[str, Any] | None = None
        super().__init__(
            QuestionAnsweringModule,
            SquadDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=dict(TRAINER_DEFAULTS),
            seed_everything_default=42,
            auto_configure_optimizers=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of checkpointing."""
        parser.add_class_arguments(ModelCheckpoint, "checkpoint")
        parser.set_defaults(CHECKPOINT_DEFAULTS)

    def _parse_ckpt_path(self) -> None:
        """Take the model's hyperparameters from the checkpoint, once it is known to be ours."""
        options = self.config[self.config["subcommand"]]
        path = options.get("ckpt_path")
        if not path or path in ("last", "best", "hpc", "registry"):
            return
        self._checkpoint = read_checkpoint(path)
        hyperparameters = dict(self._checkpoint["hyper_parameters"])
        for name, value in hyperparameters.items():
            if name in options["model"]:
                options["model"][name] = value

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on the hardware, on the encoder or on the checkpoint."""
        options = self.config[self.subcommand]
        trainer, data = options["trainer"], options["data"]
        if trainer["precision"] is None:
            trainer["precision"], reason = choose_precision(trainer["accelerator"])
            rank_zero_info(f"precision: {trainer['precision']} ({reason})")
        if data["tokenizer"] is None:
            if self._checkpoint is not None:
                data["tokenizer"] = str(unpack_tokenizer(self._checkpoint["tokenizer"]))
            else:
                data["tokenizer"] = options["model"]["pretrained"]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the callbacks that every run has."""
        options = self._get(self.config_init, "trainer")
        fitting = self.subcommand == "fit"
        with_bar = options["enable_progress_bar"] is not False
        callbacks: list[Callback] = [_progress_bar()] if with_bar else []
        if options["logger"] in (None, True):
            kwargs["logger"] = TensorBoardLogger(
                options["default_root_dir"] or ".",
                name="lightning_logs" if fitting else f"lightning_logs/{self.subcommand}",
                default_hp_metric=False,
            )
            if fitting:
                callbacks.append(LearningRateMonitor("step"))
        elif not options["logger"]:
            self.save_config_callback = None  # it would be written into the working folder
        if fitting and options["enable_checkpointing"] is not False:
            checkpoint = self._get(self.config_init, "checkpoint")
            if options["limit_val_batches"] == 0:
                checkpoint.monitor = None  # nothing is validated: keep the newest
            callbacks += [checkpoint, SaveBestModel()]
        if self.subcommand == "predict":
            callbacks.append(PredictionWriter())
        self.trainer_defaults["callbacks"] = callbacks
        # Sharding and shuffling are the datamodule's own; Lightning's would not know its sampler.
        return super().instantiate_trainer(use_distributed_sampler=False, **kwargs)


def _progress_bar() -> Callback:
    if sys.stderr.isatty() and sys.stdout.isatty():
        return RichProgressBar()
    return TQDMProgressBar(refresh_rate=50)  # a line each time, in a file


def run(args: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    A user's mistake is told in one message, without a traceback, with status 2.

    Args:
        args: The command and its options; by default those of the process.
    """
    # Batches are put together from arrays in well under a millisecond: workers would not help.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    try:
        QuestionAnsweringCLI(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
