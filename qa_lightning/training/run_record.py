"""What a run was: the command, the versions, the data. Enough to do it again."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from qa_lightning import __version__
from qa_lightning.errors import UserError
from qa_lightning.model.run_folder import RECORD
from qa_lightning.training import slurm
from qa_lightning.training.run_folder import leaves_files, run_folder

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

PACKAGES = (
    *("torch", "lightning", "transformers", "tokenizers", "datasets", "torchmetrics"),
    *("numpy", "pyarrow"),
)


class RunRecord(Callback):
    """Writes `run.json` into the run's folder when training starts.

    A list with one entry for every start, the last one last: a run that is resumed in its folder
    adds to it. An entry holds `command`, `started`, `versions`, `device`, `precision`, `batch`
    (sizes, and how many processes), `seed`, `slurm_job` if it is part of one, and SHA-256 digests
    of `data`, `tokenizer` and the `weights` that training started from, or the checkpoint that it
    resumed from. The configuration itself is in `config.yaml`.
    """

    def __init__(self) -> None:
        """Start without a digest."""
        self._weights = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the digest of the weights while they are whole and in main memory."""
        if stage == "fit" and trainer.is_global_zero:
            self._weights = weights_digest(pl_module.encoder)  # type: ignore[arg-type]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce the effective batch size where it is not `--data.batch_size`; write the file.

        Raises:
            UserError: it cannot be written.
        """
        folder = run_folder(trainer)  # a collective: every process asks
        if not trainer.is_global_zero:
            return
        entry = self._entry(trainer)
        batch = entry["batch"]
        if batch["effective"] != batch["batch_size"]:
            rank_zero_info(
                f"effective batch size: {batch['effective']} = {batch['batch_size']} "
                f"(--data.batch_size) x {batch['processes']} processes x "
                f"{batch['accumulated']} (--trainer.accumulate_grad_batches)"
            )
        if (processes := batch["processes"]) > 1:
            size, rate = batch["batch_size"], pl_module.hparams["learning_rate"]
            same = f"--data.batch_size {size // processes} keeps the recipe's batches, or "
            rank_zero_info(
                f"the learning rate stays {rate:g}, with batches {processes} times as large as on "
                f"one device; {same if size % processes == 0 else ''}--model.learning_rate "
                f"{rate * processes**0.5:.2g} follows the square-root rule for Adam"
            )
        if not leaves_files(trainer):
            return
        path = folder / RECORD
        try:
            folder.mkdir(parents=True, exist_ok=True)
            earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            text = json.dumps([*earlier, entry], indent=1, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be written: {error}") from error

    def _entry(self, trainer: Trainer) -> dict[str, Any]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        size = data.hparams["batch_size"]
        tokenizer = data.tokenizer.backend_tokenizer.to_str()
        splits = ("train", "val")
        return {
            "command": shlex.join(sys.orig_argv),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "device": f"{device.type}: {name}",
            "precision": trainer.precision,
            "batch": {
                "batch_size": size,
                "processes": trainer.world_size,
                "nodes": trainer.num_nodes,
                "accumulated": trainer.accumulate_grad_batches,
                "effective": size * trainer.world_size * trainer.accumulate_grad_batches,
            },
            "seed": {
                "seed_everything": int(os.environ.get("PL_GLOBAL_SEED", -1)),
                "data": data.hparams["seed"],
            },
            "slurm_job": slurm.job(),
            "data": {
                split: {
                    "name": data.source(split).name,
                    "sha256": data.source(split).digest,
                    "questions": data.windows(split).questions.num_rows,
                }
                for split in splits
            },
            "tokenizer": {"sha256": hashlib.sha256(tokenizer.encode()).hexdigest()},
            "weights": (
                {"checkpoint": str(trainer.ckpt_path)}
                if trainer.ckpt_path
                else {"sha256": self._weights}
            ),
        }


def is_of_job(run: Path, job: str) -> bool:
    """Whether a SLURM job (see `slurm.job`) started or resumed the run in a folder."""
    try:
        entries = json.loads((run / RECORD).read_text(encoding="utf-8"))
        return any(entry.get("slurm_job") == job for entry in entries)
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of its dependencies."""
    found = {"python": platform.python_version(), "qa_lightning": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # lightning, for one, also comes as another package
            continue
    return found


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of a module's weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
