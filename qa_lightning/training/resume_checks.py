"""A run is resumed on the windows, and in the steps, that it was started with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import FSDPStrategy

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from qa_lightning.training.datamodule import Split, SquadDataModule

POSITION = "position"
"""Key of a checkpoint under which it says how far training had come, in steps."""

STEPS = "steps"
"""Key under which it says what those steps are made of."""

# The best model is chosen among figures of the same validation questions.
SPLITS: tuple[Split, ...] = ("train", "val")


def what_steps_are_made_of(trainer: Trainer, data: SquadDataModule) -> dict[str, Any]:
    """The windows, how many of them make a step, how the optimizer's state is numbered."""
    return {
        **{split: data.windows_digest(split) for split in SPLITS},
        "windows": data.hparams["batch_size"] * trainer.world_size,
        # Rows are packed for so many processes; otherwise a step is divided among any number.
        "processes": trainer.world_size if data.hparams["batching"] == "packed" else None,
        "sharded": isinstance(trainer.strategy, FSDPStrategy),
    }


def check_resumable(checkpoint: dict[str, Any], trainer: Trainer, data: SquadDataModule) -> None:
    """Refuse to resume a run with other steps than it had: windows would be skipped or repeated.

    Raises:
        UserError: something differs; files may have moved, but must hold the same.
    """
    if POSITION not in checkpoint:
        return  # not of `fit`, whose checkpoints alone continue in mid-epoch
    if STEPS not in checkpoint:
        raise UserError(
            "this checkpoint was written by an earlier version: it can be used "
            "(--model.pretrained with its model folder), but not resumed"
        )
    saved, now = checkpoint[STEPS], what_steps_are_made_of(trainer, data)
    hparams = checkpoint["datamodule_hyper_parameters"]
    if saved["sharded"] != now["sharded"]:
        raise UserError(
            f"--ckpt_path: this run was started {'with' if saved['sharded'] else 'without'} "
            "--trainer.strategy fsdp, and can only be resumed so"
        )
    for split in SPLITS:
        if saved[split] != now[split]:
            raise UserError(
                f"--data.{split} {data.source(split).name} does not hold the windows that the run "
                f"to be resumed has ({hparams[split]}): give the file that it was started with, "
                "unchanged, or start a new run (without --ckpt_path)"
            )
    if (saved["windows"], saved["processes"]) != (now["windows"], now["processes"]):
        size = hparams["batch_size"]
        alike = "" if saved["processes"] else ", or any with the same product"
        raise UserError(
            f"--data.batch_size {data.hparams['batch_size']} on {trainer.world_size} devices, but "
            f"the run to be resumed has {size} on {saved['windows'] // size}: give these{alike}, "
            "or start a new run (without --ckpt_path)"
        )
