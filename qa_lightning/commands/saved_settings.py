"""Settings that a command takes from the model or from the run that it uses, unless given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from qa_lightning.errors import UserError
from qa_lightning.model.trained_model import windows_of_folder, windows_of_values

if TYPE_CHECKING:
    from jsonargparse import Namespace

FREE = {"test", "predict", "eval_batch_size", "padding", "num_workers", "cache_dir", "tokenizer"}
"""Options of `--data` that may change when a run is resumed; the checkpoint holds the tokenizer."""

CHECKED_LATER = {"train", "val", "batch_size"}
"""Those that `check_resumable` compares: files may move, and processes share a step."""


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
        for name in (saved.keys() & vars(options[section])) - FREE:
            old, new = saved[name], given.get(section, {}).get(name)
            if name not in given.get(section, {}):
                options[section][name] = old
            elif name == "encoder_config" and (new or {}).items() <= old.items():
                options[section][name] = old  # complete, where a part of it was given
            elif new != old and name not in CHECKED_LATER:
                raise UserError(
                    f"--{section}.{name} is {new}, but the run to be resumed has {old}: leave the "
                    "option out, or start a new run (without --ckpt_path; --model.pretrained "
                    "RUN/model starts from this one's weights)"
                )


def take_from_model(
    options: Namespace, given: Mapping[str, Any], checkpoint: dict[str, Any] | None
) -> None:
    """Evaluate with the windows that the model was trained with, unless others are given.

    The model is the checkpoint or, without one, `--model.pretrained`.
    """
    model = options["model"]
    source = options.get("ckpt_path") or model["pretrained"]
    if checkpoint is not None:
        for name in checkpoint["hyper_parameters"].keys() & vars(model):
            model[name] = checkpoint["hyper_parameters"][name]
        windows = windows_of_values(checkpoint.get("datamodule_hyper_parameters") or {}, source)
    else:
        windows = {} if model["encoder_config"] else windows_of_folder(source)
    for name, trained in windows.items():
        if name not in given.get("data", {}):
            options["data"][name] = trained
        elif options["data"][name] != trained:
            rank_zero_warn(
                f"--data.{name} is {options['data'][name]}, as given; {source} was trained with "
                f"{trained}"
            )
