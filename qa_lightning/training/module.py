"""QuestionAnsweringModule: the steps, the optimizer, what is logged."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from qa_lightning.data.windows import IGNORED, NO_ANSWER_HERE
from qa_lightning.errors import UserError
from qa_lightning.evaluation.metric import SquadMetric
from qa_lightning.evaluation.spans import spans_of_windows
from qa_lightning.model import hardware
from qa_lightning.model.attention import (
    AttentionBackend,
    choose_backend,
    packed_arguments,
    use_window_attention,
)
from qa_lightning.model.encoder import NULL_THRESHOLD, build_encoder, load_encoder
from qa_lightning.model.encoder import encoder_config as describe_encoder
from qa_lightning.model.linear import use_fast_linear
from qa_lightning.model.logits import head_logits, padded_logits
from qa_lightning.model.tokenizer import check_vocabulary, tokenizer_files

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from qa_lightning.data.batches import Batch, Packing
    from qa_lightning.training.datamodule import SquadDataModule

COLLAPSED = 99.0
"""Percent of questions with the same verdict (answered or not) that is worth a warning."""

NOT_A_HYPERPARAMETER = ("null_threshold", "n_best", "max_answer_tokens", "compile")
"""What a user may change after training stays out of the checkpoint's hyperparameters, which would
otherwise win over the command line."""


def window_losses(logits: Tensor, label_start: Tensor, label_end: Tensor) -> Tensor:
    """Loss of every window: the mean of the cross-entropies of its start and of its end.

    The mean over windows is the loss of `DistilBertForQuestionAnswering`, when nothing is padded.
    Its softmax runs over padding too; ours does not (give logits of -inf there), so that the loss
    of a window does not depend on its neighbours in the batch.

    Args:
        logits: Start and end logits, float32 `[windows, tokens, 2]`.
        label_start: int64 `[windows]`; -1 is ignored.
        label_end: int64 `[windows]`; -1 is ignored.

    Returns:
        float32 `[windows]`; 0 where both labels are ignored.
    """
    start, end = logits.unbind(2)
    start_loss = nn.functional.cross_entropy(start, label_start, ignore_index=-1, reduction="none")
    end_loss = nn.functional.cross_entropy(end, label_end, ignore_index=-1, reduction="none")
    return (start_loss + end_loss) / 2


class QuestionAnsweringModule(LightningModule):
    """DistilBertForQuestionAnswering with the steps and the optimizer to fine-tune it."""

    def __init__(
        self,
        pretrained: str = "distilbert-base-uncased",
        weights_sha256: str | None = None,
        encoder_config: dict[str, Any] | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.01,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: float = 0.1,
        null_threshold: float | None = None,
        n_best: int = 20,
        max_answer_tokens: int = 30,
        unanswerable_share: float | None = None,
        compile: bool = False,
    ) -> None:
        """Load the encoder.

        Args:
            pretrained: Where the encoder comes from: a name on the Hugging Face hub, a local
                folder, or `package:NAME/PATH`, a folder inside an installed Python package. A
                DistilBERT or BERT-shaped checkpoint (BERT, MiniLM).
            weights_sha256: SHA-256 that the encoder's weight file must have; not checked if null.
            encoder_config: Build the encoder from these settings of DistilBertConfig with random
                weights, instead of loading `pretrained`. Checkpoints carry it, so that restoring
                one downloads nothing.
            dropout: Share of hidden values, also before the answer head, that are zeroed in
                training; null keeps the encoder's own.
            attention_dropout: The same for attention weights.
            learning_rate: Peak learning rate of AdamW.
            weight_decay: Weight decay of AdamW; biases and LayerNorms have none.
            schedule: Course of the learning rate after the warm-up, step by step: down to zero in
                a line or a half cosine, or constant.
            warmup: Share of all steps in which the learning rate rises from zero, 0 to 1.
            null_threshold: A question counts as unanswerable when its null score exceeds the score
                of its best answer by more than this. By default the threshold that was tuned with
                the model (see `--data.holdout`) and travels with it, else 0.
            n_best: How many candidate answers are kept for a question.
            max_answer_tokens: Longest answer, in tokens.
            unanswerable_share: Share of the training loss that windows without an answer carry,
                0 to 1; null leaves it as it is in the data. For questions of which another share
                is unanswerable than of the training questions: half of SQuAD 2.0's dev set is, and
                a third of its training set. The null threshold is tuned for the same share.
            compile: Compile the encoder for training with torch.compile: a slow start, for steps
                that may be faster. Evaluation runs it as it is.
        """
        super().__init__()
        for name, value, legal in (
            ("dropout", dropout, dropout is None or 0 <= dropout < 1),
            (
                "attention_dropout",
                attention_dropout,
                attention_dropout is None or 0 <= attention_dropout < 1,
            ),
            (
                "unanswerable_share",
                unanswerable_share,
                unanswerable_share is None or 0 < unanswerable_share < 1,
            ),
            ("learning_rate", learning_rate, learning_rate > 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("warmup", warmup, 0 <= warmup <= 1),
            ("null_threshold", null_threshold, null_threshold == null_threshold),
            ("n_best", n_best, n_best >= 1),
            ("max_answer_tokens", max_answer_tokens, max_answer_tokens >= 1),
        ):
            if not legal:
                raise UserError(f"--model.{name} cannot be {value}")
        self.save_hyperparameters(ignore=NOT_A_HYPERPARAMETER)
        self.null_threshold = null_threshold
        self.n_best = n_best
        self.max_answer_tokens = max_answer_tokens
        rates = {"dropout": dropout, "qa_dropout": dropout, "attention_dropout": attention_dropout}
        changes = {name: rate for name, rate in rates.items() if rate is not None}
        if encoder_config is not None:
            self.encoder = build_encoder({**encoder_config, **changes})
        else:
            self.encoder = load_encoder(pretrained, sha256=weights_sha256, changes=changes)
        self.hparams["encoder_config"] = describe_encoder(self.encoder)
        use_window_attention(self.encoder)
        use_fast_linear(self.encoder.distilbert)
        self.tuned_threshold: float | None = getattr(self.encoder.config, NULL_THRESHOLD, None)
        self.metric = SquadMetric()
        self.holdout_metric = SquadMetric()
        self.compile_encoder = compile
        self._class_weights = (1.0, 1.0)  # of windows with an answer, and without
        self._labelled_per_batch: float | None = None  # labelled windows in an average batch
        self._packed_backend: AttentionBackend | None = None

    @property
    def effective_null_threshold(self) -> float:
        """The null threshold that counts: the one asked for, else the tuned one, else 0."""
        if self.null_threshold is not None:
            return self.null_threshold
        return 0.0 if self.tuned_threshold is None else self.tuned_threshold

    @property
    def datamodule(self) -> SquadDataModule:
        """The datamodule that the trainer was given."""
        data: SquadDataModule | None = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise UserError("give the Trainer a SquadDataModule: trainer.fit(model, datamodule)")
        return data

    def prepare_data(self) -> None:
        """Refuse what training cannot start with, before the run's folder is made."""
        if self.trainer.state.fn != "fit":
            return
        if self.compile_encoder:
            self._check_compiler()
        if self.hparams["unanswerable_share"] is not None:
            self.datamodule.setup("fit")
            self._share_without_answer()

    def setup(self, stage: str) -> None:
        """Check that the data fit the encoder."""
        self.check_data(self.datamodule)

    def check_data(self, data: SquadDataModule) -> None:
        """Check that the data's tokens and windows fit the encoder.

        Args:
            data: The datamodule; nothing is read of it but the tokenizer.

        Raises:
            UserError: they do not.
        """
        check_vocabulary(self.encoder, data.tokenizer)
        positions = self.encoder.config.max_position_embeddings
        window = data.window_settings.window
        if window > positions:
            raise UserError(
                f"--data.window is {window}, but the encoder has {positions} positions; "
                f"set --data.window {positions} or less"
            )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Start and end logits.

        Args:
            input_ids: Token ids, int64 `[windows, tokens]`.
            attention_mask: True where a token is real, bool `[windows, tokens]`; None for all.
            packing: How to put the windows into one row, to compute no padding; it needs the mask.
                None computes them padded.

        Returns:
            float32 `[windows, tokens, 2]`; -inf at padding.
        """
        # The compiled encoder is the one that is called, and for training alone: evaluation has
        # batches of many more shapes, and its figures should not depend on a compiler.
        encode = self.encoder.distilbert if self.training else self.encoder.distilbert.forward
        if packing is None:
            return padded_logits(self.encoder, input_ids, attention_mask, encode)
        if attention_mask is None:
            raise ValueError("packed windows come with an attention mask")
        windows, width = input_ids.shape
        row = nn.functional.pad(input_ids.flatten(), (0, 1))[packing.indices]
        hidden = encode(
            input_ids=row.unsqueeze(0),
            position_ids=(packing.indices % width).unsqueeze(0),
            **packed_arguments(self._attention_backend(row.device), packing, attention_mask),
        )[0]
        padded = hidden.new_full((windows * width + 1, 2), float("-inf"), dtype=torch.float32)
        logits = head_logits(self.encoder, hidden)[0]
        return padded.index_copy(0, packing.indices, logits)[:-1].view(windows, width, 2)

    def _attention_backend(self, device: torch.device) -> AttentionBackend:
        """How packed windows attend on this device; announced when it is chosen."""
        half = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if half else self.encoder.dtype
        backend = choose_backend(device, dtype)
        if backend != self._packed_backend:
            self._packed_backend = backend
            names = {
                "varlen": "variable-length attention (varlen_attn)",
                "pad": "attention that is padded",
                "loop": "attention window by window",
            }
            rank_zero_info(f"packed windows: {names[backend]}")
            if backend == "varlen" and self.training and self.encoder.config.attention_dropout:
                rank_zero_warn(
                    "variable-length attention has no dropout of attention weights: they are "
                    "trained without. --model.attention_dropout 0 says so; "
                    "--data.batching grouped keeps it"
                )
        return backend

    def on_fit_start(self) -> None:
        """Weigh windows as `unanswerable_share` asks, and compile the encoder if that is asked."""
        if not self.datamodule.hparams["holdout"]:
            self.tuned_threshold = None  # of the model that training starts from
        if self.compile_encoder:
            self._compile()
        self._weigh_classes()

    def _check_compiler(self) -> None:
        """Refuse to compile for a CPU without a compiler."""
        compilers = (os.environ.get("CXX", "g++"), "clang++")
        if (
            self.trainer.strategy.root_device.type == "cpu"
            and os.name == "posix"
            and not any(map(shutil.which, compilers))
        ):
            raise UserError(
                "--model.compile needs a C++ compiler (g++ or clang++), and none was found; "
                "install one, or set --model.compile false"
            )

    def _compile(self) -> None:
        """Let the encoder be compiled when it is first called in training.

        In place, so that the weights keep their names. Rows of packed windows have one shape, and
        the code is made for it; that for padded batches takes any.
        """
        single = self.device.type == "cpu" and self.trainer.precision == "32-true"
        if single and hardware.mkl_leaves_width_unused():
            rank_zero_warn(
                "compiled code multiplies float32 with MKL, which leaves half of this CPU unused; "
                "with --model.compile false oneDNN does it"
            )
        packed = self.datamodule.hparams["batching"] == "packed"
        self.encoder.distilbert.compile(dynamic=not packed)

    def _share_without_answer(self) -> float:
        labels = self.datamodule.windows("train").label_start
        share = float((labels == NO_ANSWER_HERE).sum() / max((labels != IGNORED).sum(), 1))
        if not 0 < share < 1:
            raise UserError(
                "--model.unanswerable_share needs training windows with an answer and windows "
                f"without one; {share:.0%} of these are without"
            )
        return share

    def _weigh_classes(self) -> None:
        wanted = self.hparams["unanswerable_share"]
        if wanted is None:
            return
        share = self._share_without_answer()
        # Importance weights of a label shift; their mean over the data is 1.
        self._class_weights = ((1 - wanted) / (1 - share), wanted / share)

    def on_train_start(self) -> None:
        """Count the labelled windows in an average batch."""
        labelled = int((self.datamodule.windows("train").label_start != IGNORED).sum())
        batches = len(self.trainer.train_dataloader) * self.trainer.world_size  # type: ignore[arg-type]
        self._labelled_per_batch = max(labelled, 1) / max(batches, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch: the sum over its windows, divided by how many an average batch has.

        Batches have unlike numbers of labelled windows. Divided by its own, a window would weigh
        less in a large batch than in a small one; so all weigh the same, also where gradients of
        several batches or processes are averaged. What is logged is the mean over the batch.
        """
        logits = self(batch.input_ids, batch.attention_mask, batch.packing)
        losses = window_losses(logits, batch.label_start, batch.label_end)
        answered, unanswered = self._class_weights
        if answered != unanswered:
            without = (batch.label_start == NO_ANSWER_HERE).float()
            losses = losses * (answered + (unanswered - answered) * without)
        labelled = (batch.label_start >= 0).sum().clamp(min=1)
        total = losses.sum()
        mean = total / labelled
        # Not with prog_bar=True: Lightning would wait for the device in every step to show it.
        self.log("train/loss", mean.detach(), batch_size=batch.size.windows)
        return mean if self._labelled_per_batch is None else total / self._labelled_per_batch

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Show the loss in the progress bar, as often as it is logged."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and batch_idx % every == 0:
            loss = self.trainer.logged_metrics["train/loss"]
            self.trainer.progress_bar_metrics["train/loss"] = float(loss)

    def _evaluate(self, batch: Batch, metric: SquadMetric) -> None:
        """Keep the best spans and the null score of every window of the batch."""
        if batch.offsets is None or batch.word_starts is None:
            raise ValueError("evaluation needs batches with offsets")
        logits = self(batch.input_ids, batch.attention_mask)
        null, spans, scores = spans_of_windows(
            logits,
            batch.offsets,
            batch.word_starts,
            max_tokens=self.max_answer_tokens,
            count=self.n_best,
        )
        start, end = logits.unbind(2)
        unlabelled = batch.label_start < 0
        loss = window_losses(logits, batch.label_start, batch.label_end)
        hits = torch.stack(
            [start.argmax(1) == batch.label_start, end.argmax(1) == batch.label_end], dim=1
        )
        metric.update(
            key=batch.key,
            null=null,
            spans=spans,
            scores=scores,
            loss=loss.masked_fill(unlabelled, float("nan")),
            token_hits=hits.float().masked_fill(unlabelled.unsqueeze(1), float("nan")),
        )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch of validation windows, or of those held out from training."""
        self._evaluate(batch, self.holdout_metric if dataloader_idx else self.metric)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch of test windows."""
        self._evaluate(batch, self.metric)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch of windows to predict on."""
        self._evaluate(batch, self.metric)

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        self._begin("val", self.metric)
        if self._tunes():
            self._begin("holdout", self.holdout_metric)

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self._begin("test", self.metric)

    def on_predict_epoch_start(self) -> None:
        """Start counting anew."""
        self._begin("predict", self.metric)

    def _begin(
        self, split: Literal["val", "holdout", "test", "predict"], metric: SquadMetric
    ) -> None:
        windows = self.datamodule.windows(split)
        metric.reset()
        metric.attach(windows.questions, windows.contexts)

    def _tunes(self) -> bool:
        """Whether this validation tunes the null threshold: in `fit`, with articles held out."""
        return self.trainer.state.fn == "fit" and self.datamodule.hparams["holdout"] > 0

    def on_validation_epoch_end(self) -> None:
        """Tune the null threshold, log the figures of all processes' windows as `val/...`."""
        if self._tunes() and not self.trainer.sanity_checking:
            share = self.hparams["unanswerable_share"]
            self.tuned_threshold = self.holdout_metric.tune(share)
            if self.tuned_threshold is None:
                rank_zero_warn(
                    "the null threshold was not tuned: of the questions of the held-out articles "
                    "all, or none, are answerable. Hold out more (--data.holdout)"
                )
            self.holdout_metric.reset()
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures of all processes' windows as `test/...`."""
        self._log_figures("test")

    def _log_figures(self, split: Literal["val", "test"]) -> None:
        self.metric.use_thresholds(self.effective_null_threshold, self.tuned_threshold)
        figures = self.metric.compute()
        figures["null_threshold"] = self.effective_null_threshold
        # Every process has the same figures, so nothing is left to reduce; a figure logged on one
        # process alone would leave checkpointing waiting on the others.
        shown = {"exact", "f1"}
        for name, value in figures.items():
            self.log(f"{split}/{name}", value, prog_bar=name in shown, rank_zero_only=False)
        share = figures["no_answer_rate"]
        both_kinds = "HasAns_total" in figures and "NoAns_total" in figures
        if both_kinds and not self.trainer.sanity_checking:
            if share >= COLLAPSED:
                rank_zero_warn(
                    f"{share:.1f} % of the questions were answered with 'no answer': the model has "
                    "learned little beyond how common that is. Train longer, or change the "
                    "learning rate (--model.learning_rate)."
                )
            elif share <= 100.0 - COLLAPSED:
                rank_zero_warn(
                    f"{share:.1f} % of the questions were answered with 'no answer', although the "
                    "data hold unanswerable ones. Does the training data hold any?"
                )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and a learning rate that changes with every optimizer step."""
        from transformers import get_scheduler

        decay: list[nn.Parameter] = []
        no_decay: list[nn.Parameter] = []
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                # Not by their dimensions: the shards that FSDP makes have but one.
                is_no_decay = name == "bias" or isinstance(module, nn.LayerNorm)
                if parameter.requires_grad:
                    (no_decay if is_no_decay else decay).append(parameter)
        half_precision_scaler = self.trainer.precision == "16-mixed"
        optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": self.hparams["weight_decay"]},
                {"params": no_decay, "weight_decay": 0.0},
            ],
            lr=self.hparams["learning_rate"],
            # The fused step would undo the loss scaling by itself, after clipping.
            fused=not half_precision_scaler and self.device.type in ("cpu", "cuda"),
        )
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UserError(
                "the learning-rate schedule needs an end: set --trainer.max_epochs or "
                "--trainer.max_steps"
            )
        names = {"constant": "constant_with_warmup"}
        scheduler = get_scheduler(
            names.get(self.hparams["schedule"], self.hparams["schedule"]),
            optimizer,
            num_warmup_steps=round(self.hparams["warmup"] * int(steps)),
            num_training_steps=int(steps),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as `--trainer.gradient_clip_val` says.

        Lightning refuses to clip for an optimizer that could undo loss scaling by itself, as every
        fused one could; without a loss scaler (bfloat16, float32) there is nothing to undo. With
        FSDP a process has shards of the gradients, and only the whole model knows their norm.
        """
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        if not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif isinstance(self.trainer.strategy, FSDPStrategy):
            self.trainer.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[union-attr,operator]
        elif fused:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what the model is used with: the tokenizer, as text, and the tuned threshold."""
        checkpoint["tokenizer"] = tokenizer_files(self.datamodule.tokenizer)
        checkpoint[NULL_THRESHOLD] = self.tuned_threshold

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the tuned threshold."""
        self.tuned_threshold = checkpoint.get(NULL_THRESHOLD)
