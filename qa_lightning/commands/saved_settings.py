"""Settings that a command takes from the model or from the run that it uses, unless given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from qa_lightning.errors import UserError
from qa_lightning.model.trained_model import windows_of_folder, windows_of_values

if TYPE_CHECKING:
    from jsonargparse import Namespace

FREE_ON_RESUME = {
    *("test", "predict", "eval_batch_size", "padding", "num_workers", "cache_dir"),
    "tokenizer",  # the checkpoint holds it
}
"""Options of `--data` that may be others when a run is resumed."""

COMPARED_BY_CONTENT = {"train", "val", "batch_size"}
"""Options of `--data` that `check_resumable` compares: a file may have moved, and two processes
with half the batch size train alike."""


def take_from_run(options: Namespace, given: Mapping[str, Any], checkpoint: dict[str, Any]) -> None:
    """Set model and data of a run that is resumed as they were.

    Args:
        options: The command's options with their defaults; changed in place.
        given: Those of them that are on the command line or in a configuration file.
        checkpoint: What `read_checkpoint` gave.

    Raises:
        UserError: an option was given another value than it had.
    """
    for section, key in (("model", "hyper_parameters"), ("data", "datamodule_hyper_parameters")):
        saved = checkpoint.get(key) or {}
        for name in saved.keys() & vars(options[section]):
            old, new = saved[name], given.get(section, {}).get(name)
            if section == "data" and name in FREE_ON_RESUME:
                continue
            if name not in given.get(section, {}):
                options[section][name] = old
            elif section == "data" and name in COMPARED_BY_CONTENT:
                continue
            elif name == "encoder_config" and (new or {}).items() <= old.items():
                options[section][name] = old  # complete, where a part of it was given
            elif new != old:
                raise UserError(
                    f"--{section}.{name} is {new}, but the run to be resumed has {old}: leave the "
                    "option out, or start a new run (without --ckpt_path; --model.pretrained "
                    "RUN/model starts from this one's weights)"
                )


def take_from_model(
    options: Namespace,
    given: Mapping[str, Any],
    ckpt_path: str | None,
    checkpoint: dict[str, Any] | None,
) -> None:
    """Evaluate with the window settings that a checkpoint or an exported model was trained with.

    What was given wins, and is announced where it differs.

    Args:
        options: The command's options with their defaults; changed in place.
        given: Those of them that are on the command line or in a configuration file.
        ckpt_path: Where the checkpoint lies; None for the model `--model.pretrained`.
        checkpoint: What `read_checkpoint` gave for it.
    """
    source = ckpt_path or options["model"]["pretrained"]
    if checkpoint is not None:
        for name in checkpoint["hyper_parameters"].keys() & vars(options["model"]):
            options["model"][name] = checkpoint["hyper_parameters"][name]
        windows = windows_of_values(checkpoint.get("datamodule_hyper_parameters") or {}, source)
    elif options["model"]["encoder_config"] is not None:
        return
    else:
        windows = windows_of_folder(source)
    changed = []
    for name, trained in windows.items():
        if name not in given.get("data", {}):
            if options["data"][name] != trained:
                changed.append(f"{name} {trained}")
            options["data"][name] = trained
        elif options["data"][name] != trained:
            rank_zero_warn(
                f"--data.{name} is {options['data'][name]}, as given; {source} was trained with "
                f"{trained}"
            )
    if changed:
        rank_zero_info(f"data settings of {source}: {', '.join(changed)}")
