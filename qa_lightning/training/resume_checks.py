"""A run is resumed on the data, and in the steps, that it was started with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import FSDPStrategy

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from qa_lightning.training.datamodule import Split, SquadDataModule

STEPS = "steps"
"""Key of a checkpoint under which it says what its steps are made of, see `what_steps_are_made_of`.

A position counts steps, and means nothing to a run whose steps hold other windows."""

POSITION = "position"
"""Key under which it says how far training had come."""

# The best model is chosen among figures of the same validation questions.
SPLITS: tuple[Split, ...] = ("train", "val")


def what_steps_are_made_of(trainer: Trainer, data: SquadDataModule) -> dict[str, Any]:
    """The windows, which of them make a step, and how the optimizer's state is numbered."""
    return {
        "windows": {split: data.windows_digest(split) for split in SPLITS},
        "step": data.hparams["batch_size"] * trainer.world_size,
        # Rows are packed for so many processes; otherwise a step is divided among any number.
        "processes": trainer.world_size if data.hparams["batching"] == "packed" else None,
        "sharded": isinstance(trainer.strategy, FSDPStrategy),
    }


def check_resumable(checkpoint: dict[str, Any], trainer: Trainer, data: SquadDataModule) -> None:
    """Refuse to resume a run with other steps than it had, which would skip windows or repeat them.

    Args:
        checkpoint: What it is to be resumed from.
        trainer: The trainer that is to resume it.
        data: Its data; they may lie in another place, as long as they are the same.

    Raises:
        UserError: something differs.
    """
    saved = checkpoint.get(STEPS)
    if POSITION not in checkpoint:
        return  # not of `fit`, whose checkpoints alone continue in mid-epoch
    if saved is None:
        raise UserError(
            "this checkpoint was written by an earlier version: it can be used "
            "(--model.pretrained with its model folder), but not resumed"
        )
    now = what_steps_are_made_of(trainer, data)
    if saved["sharded"] != now["sharded"]:
        raise UserError(
            f"--ckpt_path: this run was started {'with' if saved['sharded'] else 'without'} "
            "--trainer.strategy fsdp, and can only be resumed so"
        )
    for split in SPLITS:
        if saved["windows"][split] != now["windows"][split]:
            old = checkpoint["datamodule_hyper_parameters"][split]
            raise UserError(
                f"--data.{split} {data.source(split).name} does not hold the windows that the run "
                f"to be resumed has ({old}): give the file that it was started with, unchanged, or "
                "start a new run (without --ckpt_path)"
            )
    if saved["step"] != now["step"] or saved["processes"] != now["processes"]:
        old = checkpoint["datamodule_hyper_parameters"]["batch_size"]
        alike = "" if saved["processes"] else ", or any with the same product"
        raise UserError(
            f"--data.batch_size {data.hparams['batch_size']} on {trainer.world_size} devices, but "
            f"the run to be resumed has {old} on {saved['step'] // old}: give these{alike}, or "
            "start a new run (without --ckpt_path)"
        )
