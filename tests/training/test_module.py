"""The steps and the optimizer, against transformers' own arithmetic and by hand."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from qa_lightning.data.batches import Batch, BatchSize, WindowDataset
from qa_lightning.errors import UserError
from qa_lightning.training.compilation import check_compiler
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.loss import window_losses
from qa_lightning.training.module import NOT_A_HYPERPARAMETER, QuestionAnsweringModule

WINDOWS, TOKENS = 5, 20


@pytest.fixture
def module(tiny_encoder: Path) -> QuestionAnsweringModule:
    seed_everything(1, verbose=False)
    return QuestionAnsweringModule(str(tiny_encoder))


def random_ids(windows: int = WINDOWS, tokens: int = TOKENS) -> Tensor:
    return torch.randint(5, 60, (windows, tokens), generator=torch.Generator().manual_seed(3))


def batch_of(ids: Tensor, start: Tensor, end: Tensor, mask: Tensor | None = None) -> Batch:
    key = torch.stack([torch.arange(len(ids)), torch.zeros(len(ids), dtype=torch.int64)], 1)
    slots = ids.numel()
    size = BatchSize(len(ids), slots if mask is None else int(mask.sum()), slots, attention_pairs=0)
    return Batch(ids, mask, start, end, key, None, None, size)


class TestLoss:
    @pytest.mark.parametrize("ignored", [0, 2], ids=["all labelled", "two ignored"])
    def test_equals_transformers_own(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch, ignored: int
    ) -> None:
        module.eval()
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        ids = random_ids()
        start = torch.tensor([0, 3, 7, 19, 4])
        end = torch.tensor([0, 5, 7, 19, 9])
        start[:ignored] = end[:ignored] = -1
        ours = module.training_step(batch_of(ids, start, end), 0)
        # transformers ignores the position one past the last token.
        theirs = module.encoder(
            input_ids=ids,
            start_positions=torch.where(start < 0, TOKENS, start),
            end_positions=torch.where(end < 0, TOKENS, end),
        ).loss
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)

    def test_a_batch_without_labels_has_no_loss(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        nothing = torch.full((WINDOWS,), -1)
        loss = module.training_step(batch_of(random_ids(), nothing, nothing), 0)
        assert loss.item() == 0.0
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)

    def test_padding_changes_neither_logits_nor_loss(self, module: QuestionAnsweringModule) -> None:
        module.eval()
        ids = random_ids()
        start, end = torch.tensor([0, 3, 7, 19, 4]), torch.tensor([0, 5, 7, 19, 9])
        bare = module(ids)
        padded_ids = torch.nn.functional.pad(ids, (0, 12))
        mask = torch.arange(TOKENS + 12).expand(WINDOWS, -1) < TOKENS
        padded = module(padded_ids, mask)
        torch.testing.assert_close(padded[:, :TOKENS], bare, rtol=0, atol=1e-6)
        assert torch.isneginf(padded[:, TOKENS:]).all()
        torch.testing.assert_close(
            window_losses(padded, start, end), window_losses(bare, start, end), rtol=0, atol=1e-6
        )


class TestEveryWindowWeighsTheSame:
    """However many are in its batch, and in however many batches and processes a step is cut."""

    START, END = torch.tensor([0, 3, 7, -1, 4, 0, 11]), torch.tensor([0, 5, 7, -1, 9, 0, 19])

    def gradients(
        self, module: QuestionAnsweringModule, cuts: list[int], per_batch: float, processes: int = 1
    ) -> list[Tensor]:
        """Mean gradients of the batches between the cuts, as accumulation and DDP take it."""
        ids = random_ids(7)
        module._labelled_per_batch = per_batch
        module.zero_grad()
        parts = list(zip([0, *cuts], [*cuts, 7], strict=True))
        for number, (begin, end) in enumerate(parts):
            rows = slice(begin, end)
            batch = batch_of(ids[rows], self.START[rows], self.END[rows])
            (module.training_step(batch, number) / len(parts)).backward()
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    @pytest.mark.parametrize("cuts", [[3], [1], [2, 3, 6]], ids=["halves", "unequal", "four"])
    def test_accumulated_gradients_are_those_of_one_large_batch(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
    ) -> None:
        module.eval()
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        whole = self.gradients(module, [], per_batch=6)
        parted = self.gradients(module, cuts, per_batch=6 / (len(cuts) + 1))
        for one, other in zip(whole, parted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    def test_what_is_logged_is_the_mean_over_the_batch(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module.eval()
        logged: dict[str, Tensor] = {}
        monkeypatch.setattr(
            module, "log", lambda name, value, **kwargs: logged.update({name: value})
        )
        ids = random_ids(7)
        module._labelled_per_batch = 2.5
        loss = module.training_step(batch_of(ids, self.START, self.END), 0)
        losses = window_losses(module(ids), self.START, self.END)
        assert logged["train/loss"].item() == pytest.approx(losses.sum().item() / 6, rel=1e-5)
        assert loss.item() == pytest.approx(losses.sum().item() / 2.5, rel=1e-5)
        assert not logged["train/loss"].requires_grad

    @pytest.mark.parametrize("batching", ["grouped", "packed"])
    def test_an_epochs_losses_add_up_to_the_mean_over_its_windows(
        self, tiny_encoder: Path, data: SquadDataModule, tmp_path: Path, batching: str
    ) -> None:
        data.hparams.update(batching=batching, batch_size=10)
        module = QuestionAnsweringModule(
            str(tiny_encoder), dropout=0.0, attention_dropout=0.0, learning_rate=1e-30
        )
        losses = Losses()
        trainer = trainer_of(tmp_path, max_steps=-1, max_epochs=1, callbacks=[losses])
        trainer.fit(module, datamodule=data)
        windows = data.windows("train")
        assert len(set(losses.windows)) > 1
        batch = WindowDataset(windows, with_offsets=False)[np.arange(len(windows))]
        with torch.no_grad():
            logits = module.eval()(batch.input_ids, batch.attention_mask)
        expected = window_losses(logits, batch.label_start, batch.label_end).sum()
        labelled = (batch.label_start >= 0).sum()
        assert np.mean(losses.seen) == pytest.approx((expected / labelled).item(), rel=1e-4)


class TestUnanswerableShare:
    def with_labels(self, tiny_encoder: Path, labels: list[int]) -> QuestionAnsweringModule:
        module = QuestionAnsweringModule(str(tiny_encoder), unanswerable_share=0.5, dropout=0.0)
        windows = SimpleNamespace(label_start=np.array(labels))
        data = SimpleNamespace(windows=lambda split: windows, hparams={"holdout": 0.0})
        module._trainer = SimpleNamespace(datamodule=data)
        return module

    def test_windows_without_an_answer_carry_that_share_of_the_loss(
        self, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels = [0, 3, 7, 19, -1]  # one window of four has no answer
        module = self.with_labels(tiny_encoder, labels)
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        module.on_fit_start()
        answered, unanswered = module._class_weights
        assert (unanswered, 3 * answered) == pytest.approx((2.0, 2.0))

        ids, start = random_ids(), torch.tensor(labels)
        one_by_one = window_losses(module.eval()(ids), start, start).tolist()
        by_hand = 2.0 * one_by_one[0] + 2 / 3 * sum(one_by_one[1:4])
        loss = module.training_step(batch_of(ids, start, start), 0)
        assert loss.item() == pytest.approx(by_hand / 4, rel=1e-5)

    def test_it_needs_both_kinds_of_windows(self, tiny_encoder: Path) -> None:
        with pytest.raises(UserError, match="unanswerable_share needs"):
            self.with_labels(tiny_encoder, [3, 7]).on_fit_start()


@pytest.mark.parametrize(("rate", "attention"), [(0.0, 0.3), (0.25, None)])
def test_dropout_rates_take_the_place_of_the_encoders_own(
    tiny_encoder: Path, rate: float, attention: float | None
) -> None:
    module = QuestionAnsweringModule(str(tiny_encoder), dropout=rate, attention_dropout=attention)
    rates = {
        name: part.p
        for name, part in module.encoder.named_modules()
        if isinstance(part, torch.nn.Dropout)
    }
    in_attention = {p for name, p in rates.items() if "attention" in name}
    elsewhere = {p for name, p in rates.items() if "attention" not in name}
    assert in_attention == {0.1 if attention is None else attention}
    assert elsewhere == {rate}
    restored = QuestionAnsweringModule(encoder_config=module.hparams["encoder_config"])
    assert restored.encoder.config.dropout == rate


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("warmup", 1.5),
        ("n_best", 0),
        ("max_answer_tokens", 0),
    ],
)
def test_impossible_settings_are_refused(tiny_encoder: Path, option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--model.{option} cannot be {value}"):
        QuestionAnsweringModule(str(tiny_encoder), **{option: value})


class GradientNorm(Callback):
    """Keeps the norm of the gradients that the optimizer was given."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        parts = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.norm = torch.stack(parts).norm().item()
        self.fused = trainer.optimizers[0].defaults["fused"]


class Losses(Callback):
    """Keeps the loss and the number of windows of every batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.windows: list[int] = []

    def on_train_batch_end(self, *given: Any) -> None:
        outputs, batch = given[2:4]
        self.seen.append(outputs["loss"].item())
        self.windows.append(batch.size.windows)


@pytest.fixture
def data(tiny_encoder: Path, squad_files: dict[str, Path]) -> SquadDataModule:
    return SquadDataModule(
        tokenizer=str(tiny_encoder),
        train=str(squad_files["train"]),
        val=str(squad_files["val"]),
        window=64,
        overlap=16,
        max_question_tokens=16,
        batch_size=8,
    )


def trainer_of(folder: Path, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, "max_steps": 1, "limit_val_batches": 0, **settings},
    )


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*mixed precision.*")
        yield


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("most", [1e-3, None])
def test_gradients_are_clipped_for_the_fused_optimizer(
    module: QuestionAnsweringModule,
    data: SquadDataModule,
    tmp_path: Path,
    precision: Any,
    most: float | None,
) -> None:
    seen = GradientNorm()
    trainer = trainer_of(tmp_path, precision=precision, gradient_clip_val=most, callbacks=[seen])
    trainer.fit(module, datamodule=data)
    assert seen.fused
    if most is None:
        assert seen.norm > 0.01
    else:
        assert seen.norm == pytest.approx(most, rel=1e-2)


def test_gradients_are_clipped_by_value_where_asked(
    module: QuestionAnsweringModule, data: SquadDataModule, tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path, gradient_clip_val=1e-5, gradient_clip_algorithm="value")
    trainer.fit(module, datamodule=data)
    largest = max(p.grad.abs().max().item() for p in module.parameters() if p.grad is not None)
    assert largest == pytest.approx(1e-5)


class TestCompile:
    @pytest.fixture
    def counter(self, monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
        """Count what would be compiled; making machine code of it would take a minute."""
        torch.compiler.reset()
        counter = CompileCounter()
        compiled = torch.nn.Module.compile

        def counted(self: torch.nn.Module, **settings: Any) -> None:
            compiled(self, backend=counter, **settings)

        monkeypatch.setattr(torch.nn.Module, "compile", counted)
        return counter

    def fit(
        self, encoder: Path, files: dict[str, Path], folder: Path, batching: Any, compile: bool
    ) -> tuple[list[float], int, QuestionAnsweringModule]:
        seed_everything(1, verbose=False)
        module = QuestionAnsweringModule(
            str(encoder), dropout=0.0, attention_dropout=0.0, compile=compile
        )
        data = SquadDataModule(
            tokenizer=str(encoder),
            train=str(files["train"]),
            val=str(files["val"]),
            window=48,
            overlap=8,
            max_question_tokens=16,
            batch_size=6,
            batching=batching,
        )
        losses = Losses()
        trainer = trainer_of(
            folder, max_steps=-1, max_epochs=2, limit_val_batches=2, callbacks=[losses]
        )
        trainer.fit(module, datamodule=data)
        assert trainer.train_dataloader is not None
        batches = [
            trainer.train_dataloader.dataset[rows] for rows in data.train_dataloader().sampler
        ]
        return losses.seen, len({batch.input_ids.shape for batch in batches}), module

    def test_padded_batches_of_all_shapes_take_two_graphs(
        self,
        tiny_encoder: Path,
        squad_files: dict[str, Path],
        tmp_path: Path,
        counter: CompileCounter,
    ) -> None:
        """One with a mask and one without."""
        expected, _, plain = self.fit(tiny_encoder, squad_files, tmp_path, "grouped", False)
        assert counter.frame_count == 0
        losses, shapes, module = self.fit(tiny_encoder, squad_files, tmp_path, "grouped", True)
        assert shapes > 2
        assert 1 <= counter.frame_count <= 2
        assert losses == pytest.approx(expected, rel=1e-4)
        assert module.state_dict().keys() == plain.state_dict().keys()
        assert "compile" not in module.hparams

    def test_packed_rows_are_one_shape(
        self,
        tiny_encoder: Path,
        squad_files: dict[str, Path],
        tmp_path: Path,
        counter: CompileCounter,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # The way that a CPU takes is not compiled; a GPU's is given the same arguments.
        monkeypatch.setattr("qa_lightning.training.module.choose_backend", lambda *given: "varlen")
        monkeypatch.setattr("qa_lightning.model.attention._varlen", plain_varlen)
        expected, _, _ = self.fit(tiny_encoder, squad_files, tmp_path, "packed", False)
        losses, shapes, _ = self.fit(tiny_encoder, squad_files, tmp_path, "packed", True)
        assert shapes > 1
        assert 1 <= counter.frame_count <= 2  # the number of segments is a power of two
        assert losses == pytest.approx(expected, rel=1e-4)

    def test_a_missing_compiler_is_said_before_a_run_folder_is_made(
        self,
        tiny_encoder: Path,
        data: SquadDataModule,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda name: None)
        module = QuestionAnsweringModule(str(tiny_encoder), compile=True)
        with pytest.raises(UserError, match=r"--model.compile needs a C\+\+ compiler"):
            trainer_of(tmp_path, logger=TensorBoardLogger(tmp_path)).fit(module, datamodule=data)
        assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize(
    ("device", "language", "compiler"), [("cpu", r"C\+\+", "clang++"), ("cuda", "C", "gcc")]
)
def test_a_device_needs_a_compiler_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, language: str, compiler: str
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name if name == compiler else None)
    check_compiler(torch.device(device))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=f"needs a {language} compiler .*{compiler[:3]}"):
        check_compiler(torch.device(device))
    check_compiler(torch.device("mps"))


def plain_varlen(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> Tensor:
    """Variable-length attention on any device, with a mask and no Python loop."""
    slots = torch.arange(query.shape[2], dtype=ends.dtype)
    segment = torch.searchsorted(ends, slots, right=True)
    mask = segment[:, None] == segment
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2)


@pytest.mark.parametrize("every", [1, 3])
def test_the_loss_is_shown_as_often_as_it_is_logged(
    module: QuestionAnsweringModule, data: SquadDataModule, tmp_path: Path, every: int
) -> None:
    """Lightning's own way to the progress bar would wait for the device in every step."""
    shown: list[float] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, *given: Any) -> None:
            shown.append(trainer.progress_bar_metrics.get("train/loss", math.nan))
            assert trainer._results is not None
            assert not any(metric.meta.prog_bar for metric in trainer._results.values())

    trainer = trainer_of(tmp_path, max_steps=7, log_every_n_steps=every, callbacks=[Watch()])
    trainer.fit(module, datamodule=data)
    # Every batch but the first ones begins with the loss of the last step that was logged.
    assert all(map(math.isnan, shown[:every]))
    assert len(set(shown[every:])) == (6 if every == 1 else 2)
    assert len(set(shown[every : 2 * every])) == 1
    assert all(isinstance(value, float) for value in shown)


class TestCheckpoint:
    @pytest.fixture
    def saved(self, module: QuestionAnsweringModule, data: SquadDataModule, tmp_path: Path) -> Path:
        trainer = trainer_of(tmp_path)
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        return tmp_path / "saved.ckpt"

    def test_hyperparameters_are_plain_and_only_the_models_own(self, saved: Path) -> None:
        content = torch.load(saved, weights_only=True)
        hyperparameters = content["hyper_parameters"]
        assert json.loads(json.dumps(hyperparameters)) == hyperparameters
        assert not set(NOT_A_HYPERPARAMETER) & set(hyperparameters)
        assert hyperparameters["encoder_config"]["dim"] == 32
        assert hyperparameters["learning_rate"] == 5e-5
        assert {"tokenizer.json", "tokenizer_config.json"} == set(content["tokenizer"])

    def test_it_is_restored_alone_and_a_changed_threshold_counts(
        self, saved: Path, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("the encoder was fetched")

        monkeypatch.setattr("qa_lightning.training.module.load_encoder", unreachable)
        restored = QuestionAnsweringModule.load_from_checkpoint(
            saved, map_location="cpu", weights_only=True, null_threshold=2.5
        )
        assert restored.null_threshold == 2.5
        ids = random_ids()
        assert torch.equal(restored.eval()(ids), module.eval()(ids))


BOTH = {"HasAns_total": 10, "NoAns_total": 10}


class TestCollapse:
    @staticmethod
    def warned(
        module: QuestionAnsweringModule,
        monkeypatch: pytest.MonkeyPatch,
        sanity_checking: bool = False,
        **figures: float,
    ) -> list[str]:
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        monkeypatch.setattr(module.metric, "compute", lambda: figures)
        state = SimpleNamespace(fn="validate")
        module._trainer = SimpleNamespace(sanity_checking=sanity_checking, state=state)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module.on_validation_epoch_end()
        module._trainer = None
        return [str(warning.message) for warning in caught]

    def test_all_null_is_warned_of(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (warning,) = self.warned(module, monkeypatch, no_answer_rate=99.5, **BOTH)
        assert warning.startswith("99.5 % of the questions were answered with 'no answer'")
        assert "--model.learning_rate" in warning

    def test_no_null_is_warned_of(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (warning,) = self.warned(module, monkeypatch, no_answer_rate=0.5, **BOTH)
        assert "although the data hold unanswerable ones" in warning

    def test_nothing_is_said_otherwise(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not self.warned(module, monkeypatch, no_answer_rate=50.0, **BOTH)
        assert not self.warned(module, monkeypatch, True, no_answer_rate=100.0, **BOTH)
        assert not self.warned(module, monkeypatch, no_answer_rate=0.0, HasAns_total=10)
        assert not self.warned(module, monkeypatch, no_answer_rate=100.0, NoAns_total=10)
        assert not self.warned(module, monkeypatch, no_answer_rate=100.0, HasAns_total=1)

    def test_without_unanswerable_questions_it_is_warned_of_too(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (warning,) = self.warned(module, monkeypatch, no_answer_rate=100.0, HasAns_total=10)
        assert "weigh less (--model.unanswerable_share)" in warning


def test_without_a_datamodule_it_says_so(module: QuestionAnsweringModule, tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader([0], batch_size=None)
    with pytest.raises(UserError, match="SquadDataModule"):
        trainer_of(tmp_path).fit(module, train_dataloaders=loader)
