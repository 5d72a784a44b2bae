"""Which weights decay, how the rate changes and differs by layer, when AdamW is fused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import MixedPrecision

from qa_lightning.errors import UserError
from qa_lightning.training.module import QuestionAnsweringModule
from qa_lightning.training.optimizer import compute_as_ddp
from tests.helpers.families import save_family


@pytest.fixture
def module(tiny_encoder: Path) -> QuestionAnsweringModule:
    return QuestionAnsweringModule(str(tiny_encoder))


def optimizer_of(
    module: QuestionAnsweringModule, steps: float = 10, precision: str = "32-true"
) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    module._trainer = SimpleNamespace(estimated_stepping_batches=steps, precision=precision)
    try:
        made: Any = module.configure_optimizers()
    finally:
        module._trainer = None
    return made["optimizer"], made["lr_scheduler"]


class TestOptimizer:
    def test_decay_spares_biases_and_layer_norms(self, module: QuestionAnsweringModule) -> None:
        optimizer, _ = optimizer_of(module)
        decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay)
        for name, parameter in module.named_parameters():
            spared = name.endswith(".bias") or "norm" in name.lower()
            assert decay.pop(id(parameter)) == (0.0 if spared else 0.01), name
        assert not decay

    def test_adamw_is_fused_unless_a_loss_scaler_is_at_work(
        self, module: QuestionAnsweringModule
    ) -> None:
        for precision, fused in (("32-true", True), ("bf16-mixed", True), ("16-mixed", False)):
            optimizer, _ = optimizer_of(module, precision=precision)
            assert isinstance(optimizer, torch.optim.AdamW)
            assert bool(optimizer.defaults["fused"]) is fused

    @pytest.mark.parametrize(
        ("schedule", "shape"),
        [
            ("linear", lambda share: 1 - share),
            ("constant", lambda share: 1.0),
            ("cosine", lambda share: (1 + math.cos(math.pi * share)) / 2),
        ],
    )
    def test_rate_rises_in_the_warm_up_then_follows_its_schedule(
        self, tiny_encoder: Path, schedule: Any, shape: Any
    ) -> None:
        module = QuestionAnsweringModule(
            str(tiny_encoder), learning_rate=0.5, schedule=schedule, warmup=0.2
        )
        optimizer, plan = optimizer_of(module, steps=10)
        assert plan["interval"] == "step"
        rates = []
        for _ in range(11):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            plan["scheduler"].step()
        expected = [step / 2 if step < 2 else shape((step - 2) / 8) for step in range(11)]
        assert rates == pytest.approx([0.5 * share for share in expected])

    def test_no_warm_up_starts_at_the_peak(self, tiny_encoder: Path) -> None:
        module = QuestionAnsweringModule(str(tiny_encoder), learning_rate=0.5, warmup=0.0)
        optimizer, _ = optimizer_of(module)
        assert optimizer.param_groups[0]["lr"] == 0.5

    def test_a_shape_without_end_is_refused(self, module: QuestionAnsweringModule) -> None:
        with pytest.raises(UserError, match="--trainer.max_epochs"):
            optimizer_of(module, steps=float("inf"))


@pytest.mark.parametrize("given", [None, MixedPrecision(reduce_dtype=torch.bfloat16)])
def test_fsdp_keeps_weights_and_sums_in_float32_as_ddp_does(given: MixedPrecision | None) -> None:
    strategy = FSDPStrategy(mixed_precision=given)
    strategy.precision_plugin = FSDPPrecision("bf16-mixed")
    assert strategy.mixed_precision_config.reduce_dtype == torch.bfloat16
    compute_as_ddp(SimpleNamespace(strategy=strategy, precision="bf16-mixed"))
    config = strategy.mixed_precision_config
    if given is not None:
        assert config is given
        return
    kept = {config.param_dtype, config.reduce_dtype, config.buffer_dtype}
    assert kept == {torch.float32}
    context = strategy.precision_plugin.forward_context()
    assert context.fast_dtype == torch.bfloat16  # autocast still computes in half precision


class TestLayerDecay:
    @pytest.mark.parametrize(
        ("family", "layers", "no_layer"),
        [
            ("distilbert", "encoder.distilbert.transformer.layer", ".embeddings."),
            ("deberta-v2", "encoder.deberta.encoder.layer", ".encoder.rel_embeddings."),
            ("modernbert", "encoder.model.layers", ".final_norm."),
        ],
    )
    def test_the_rate_falls_from_the_head_to_the_embeddings(
        self, family: str, layers: str, no_layer: str, tmp_path: Path
    ) -> None:
        encoder = save_family(family, tmp_path)
        module = QuestionAnsweringModule(str(encoder), learning_rate=0.5, layer_decay=0.8)
        optimizer, _ = optimizer_of(module, steps=10)
        rates = {id(p): g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
        seen: dict[str, set[float]] = {}
        assert any(no_layer in name for name, _ in module.named_parameters())
        for name, parameter in module.named_parameters():
            place = name[: len(layers) + 2] if name.startswith(layers) else "no layer"
            if f".{module.encoder.base_model_prefix}." not in name:
                place = "head"
            seen.setdefault(place, set()).add(rates.pop(id(parameter)))
        assert not rates
        assert seen == {
            "head": {0.5},
            f"{layers}.1": {0.5 * 0.8},
            f"{layers}.0": {0.5 * 0.8**2},
            "no layer": {0.5 * 0.8**3},
        }

    def test_weights_decay_as_without_it(self, module: QuestionAnsweringModule) -> None:
        plain, _ = optimizer_of(module)
        module.hparams["layer_decay"] = 0.9
        layered, _ = optimizer_of(module)
        decays = (
            {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
            for optimizer in (plain, layered)
        )
        assert next(decays) == next(decays)
        assert [len(optimizer.param_groups) for optimizer in (plain, layered)] == [2, 8]

    def test_layers_without_numbers_are_refused(self, module: QuestionAnsweringModule) -> None:
        module.hparams["layer_decay"] = 0.9
        del module.encoder.distilbert.transformer
        with pytest.raises(UserError, match="layer_decay is not for distilbert.*Leave it at 1"):
            optimizer_of(module)

    @pytest.mark.parametrize("value", [0.0, 1.1, float("nan")])
    def test_only_shares_are_taken(self, value: float, tiny_encoder: Path) -> None:
        with pytest.raises(UserError, match="--model.layer_decay cannot be"):
            QuestionAnsweringModule(str(tiny_encoder), layer_decay=value)
