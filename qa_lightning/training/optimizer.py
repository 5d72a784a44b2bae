"""AdamW, the learning-rate schedule and gradient clipping."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed.fsdp import MixedPrecision

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.utilities.types import OptimizerLRScheduler


def check_schedule_ends(steps: float) -> None:
    """Raise UserError if a run's optimizer steps are infinite: the schedule needs an end."""
    if steps == float("inf"):
        raise UserError(
            "the learning-rate schedule needs an end: set --trainer.max_epochs or "
            "--trainer.max_steps"
        )


_LAYER = re.compile(r"\.(?:\w+_)?layers?(?:_groups)?\.(\d+)\.")  # its number in a parameter's name


def parameter_groups(
    module: LightningModule, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trained parameters in groups for AdamW: biases and norms have no weight decay.

    With a `layer_decay` below 1 each layer has so many times the rate of what is above it, from the
    answer head downwards; what belongs to no layer, as the embeddings, has the lowest rate.

    Raises:
        UserError: `layer_decay` is below 1, but the encoder's layers are not numbered.
    """
    depths = _depths(module) if layer_decay < 1 else {}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {(0, False): [], (0, True): []}
    for path, submodule in module.named_modules():
        for name, parameter in submodule.named_parameters(recurse=False):
            # Not told apart by their dimensions: the shards that FSDP makes have but one.
            spared = name == "bias" or "Norm" in type(submodule).__name__
            if parameter.requires_grad:
                group = (depths.get(f"{path}.{name}", 0), spared)
                groups.setdefault(group, []).append(parameter)
    return [
        {
            "params": groups[depth, spared],
            "lr": learning_rate * layer_decay**depth,
            "weight_decay": 0.0 if spared else weight_decay,
        }
        for depth, spared in sorted(groups)  # a checkpoint knows them by their order
    ]


def _depths(module: LightningModule) -> dict[str, int]:
    """How far below the answer head each parameter of the encoder is: 1 in the top layer."""
    encoder: Any = module.encoder
    below = [
        name for name, _ in module.named_parameters() if f".{encoder.base_model_prefix}." in name
    ]
    numbers = {name: int(found[1]) for name in below if (found := _LAYER.search(name))}
    if not numbers:
        raise UserError(
            f"--model.layer_decay is not for {encoder.config.model_type}: the names of its "
            "weights do not tell its layers apart. Leave it at 1"
        )
    count = max(numbers.values()) + 1
    return {name: count - numbers.get(name, -1) for name in below}


def adamw_with_schedule(module: LightningModule) -> OptimizerLRScheduler:
    """AdamW, and a learning rate that changes with every step, by the module's hyperparameters."""
    from transformers import get_scheduler

    hparams, trainer = module.hparams, module.trainer
    check_schedule_ends(trainer.estimated_stepping_batches)
    optimizer = torch.optim.AdamW(
        parameter_groups(
            module, hparams["learning_rate"], hparams["weight_decay"], hparams["layer_decay"]
        ),
        # With a loss scaler the fused step would unscale by itself, after clipping.
        fused=trainer.precision != "16-mixed" and module.device.type in ("cpu", "cuda"),
    )
    steps = int(trainer.estimated_stepping_batches)
    name = hparams["schedule"]
    scheduler = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=round(hparams["warmup"] * steps),
        num_training_steps=steps,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def compute_as_ddp(trainer: Trainer) -> None:
    """With FSDP in mixed precision, keep weights and the sums of gradients in float32.

    As with DDP: autocast alone chooses what is computed in half precision. Lightning would have all
    weights and sums in half precision. A strategy that was given a `MixedPrecision` keeps it.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy) and "mixed" in str(trainer.precision):
        full = torch.float32
        kept = MixedPrecision(param_dtype=full, reduce_dtype=full, buffer_dtype=full)
        strategy.mixed_precision = strategy.mixed_precision or kept


def clip_gradients(
    module: LightningModule, optimizer: torch.optim.Optimizer, limit: float, algorithm: str
) -> None:
    """Scale gradients down to a norm ("norm"), or cut each of their values off ("value").

    Lightning refuses to clip for a fused optimizer, since that could undo loss scaling by itself;
    without a loss scaler (bfloat16, float32) there is nothing to undo. With FSDP a process has
    shards of the gradients, and only the wrapped model can compute their norm.
    """
    by_norm = algorithm == "norm"
    if by_norm and isinstance(module.trainer.strategy, FSDPStrategy):
        module.trainer.model.clip_grad_norm_(limit)  # type: ignore[union-attr,operator]
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        clip = torch.nn.utils.clip_grad_norm_ if by_norm else torch.nn.utils.clip_grad_value_
        clip(module.parameters(), limit)
    else:
        module.clip_gradients(optimizer, limit, algorithm)
