"""QuestionAnsweringModule: the steps, the optimizer, what is logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from qa_lightning.data.token_checks import rare_answers
from qa_lightning.data.windows import IGNORED, NO_ANSWER_HERE, no_answer_share
from qa_lightning.errors import UserError, require_valid
from qa_lightning.evaluation.calibration import Tuned, threshold_for_share
from qa_lightning.evaluation.metric import SquadMetric
from qa_lightning.evaluation.predictions import WindowPrediction, window_predictions
from qa_lightning.evaluation.spans import spans_of_windows
from qa_lightning.model.attention import (
    AttentionBackend,
    choose_backend,
)
from qa_lightning.model.encoder import (
    NULL_THRESHOLD,
    TUNED,
    build_encoder,
    drops_attention,
    load_encoder,
    max_positions,
)
from qa_lightning.model.encoder import encoder_config as describe_encoder
from qa_lightning.model.logits import (
    PACKING,
    has_token_types,
    packed_logits,
    packs,
    padded_logits,
    prepare_encoder,
)
from qa_lightning.model.tokenizer import check_vocabulary, tokenizer_files
from qa_lightning.training import lightning_private
from qa_lightning.training.compilation import check_compiler, compile_encoder
from qa_lightning.training.loss import class_weights, window_losses
from qa_lightning.training.optimizer import adamw_with_schedule, clip_gradients

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from qa_lightning.data.batches import Batch, Packing
    from qa_lightning.training.datamodule import Split, SquadDataModule

COLLAPSED = 99.0
"""Percent of questions with the same verdict (answered or not) that is worth a warning."""

ENOUGH_TO_TELL = 10
"""Answerable questions that must be there before leaving nearly all unanswered says something."""

NOT_A_HYPERPARAMETER = (
    *("null_threshold", "expected_share", "n_best", "max_answer_tokens", "compile"),
)
"""What a user may change after training stays out of the checkpoint's hyperparameters, which would
otherwise win over the command line."""


class QuestionAnsweringModule(LightningModule):
    """A question-answering encoder with the steps and the optimizer to fine-tune it."""

    def __init__(
        self,
        pretrained: str = "distilbert-base-uncased",
        weights_sha256: str | None = None,
        as_distilbert: bool = False,
        encoder_config: dict[str, Any] | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.01,
        layer_decay: float = 1.0,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: float = 0.1,
        null_threshold: float | None = None,
        expected_share: float | None = None,
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
            as_distilbert: Move a BERT-shaped encoder, such as MiniLM, exactly into DistilBERT's
                architecture, which has no token types.
            encoder_config: Build the encoder from these settings of its configuration with random
                weights, instead of loading `pretrained`. Checkpoints carry it, so that restoring
                one downloads nothing.
            dropout: Share of hidden values, also before the answer head, that are zeroed in
                training; null keeps the encoder's own.
            attention_dropout: The same for attention weights.
            learning_rate: Peak learning rate of AdamW.
            weight_decay: Weight decay of AdamW; biases and LayerNorms have none.
            layer_decay: Every layer learns at so many times the rate of the one above it, the
                answer head at the full rate, the embeddings at the lowest; 1 is off.
            schedule: Learning-rate schedule after the warm-up, step by step: linearly or along a
                half cosine down to zero, or constant.
            warmup: Share of all steps in which the learning rate rises from zero, 0 to 1.
            null_threshold: A question counts as unanswerable when its null score exceeds the score
                of its best answer by more than this. By default the threshold that was tuned with
                the model (see `--data.holdout`) and travels with it, else 0.
            expected_share: The share of unanswerable questions, 0 to 1, that is expected where the
                model is used: moves the tuned threshold accordingly. 0 answers every question.
            n_best: How many candidate answers are kept for a question.
            max_answer_tokens: Longest answer, in tokens.
            unanswerable_share: Share of the training loss that windows without an answer carry,
                0 to 1; null leaves it as it is in the data. For questions of which another share
                is unanswerable than of the training questions: half of SQuAD 2.0's dev set is, and
                a third of its training set. The null threshold is tuned for the same share.
            compile: Compile the encoder for training with torch.compile: it starts slowly, and its
                steps may be faster. Evaluation is not compiled.
        """
        super().__init__()
        require_valid(
            "model",
            locals(),
            dropout=dropout is None or 0 <= dropout < 1,
            attention_dropout=attention_dropout is None or 0 <= attention_dropout < 1,
            unanswerable_share=unanswerable_share is None or 0 < unanswerable_share < 1,
            learning_rate=learning_rate > 0,
            weight_decay=weight_decay >= 0,
            layer_decay=0 < layer_decay <= 1,
            warmup=0 <= warmup <= 1,
            null_threshold=null_threshold is None or null_threshold == null_threshold,
            expected_share=expected_share is None or 0 <= expected_share <= 1,
            n_best=n_best >= 1,
            max_answer_tokens=max_answer_tokens >= 1,
        )
        self.save_hyperparameters(ignore=NOT_A_HYPERPARAMETER)
        self.null_threshold = null_threshold
        self.expected_share = expected_share
        self.n_best = n_best
        self.max_answer_tokens = max_answer_tokens
        rates: Any = {"dropout": dropout, "attention_dropout": attention_dropout}
        if encoder_config is not None:
            self.encoder = build_encoder(encoder_config, **rates)
        else:
            self.encoder = load_encoder(
                pretrained, sha256=weights_sha256, as_distilbert=as_distilbert, **rates
            )
        self.hparams["encoder_config"] = describe_encoder(self.encoder)
        prepare_encoder(self.encoder)
        given = self.encoder.config
        self.tuned_threshold: float | None = getattr(given, NULL_THRESHOLD, None)
        self.temperature: float = getattr(given, TUNED[1], 1.0)  # of probabilities
        self.tuned_share: float | None = getattr(given, TUNED[2], None)
        self.metric = SquadMetric()
        self.holdout_metric = SquadMetric()
        self.compile_encoder = compile
        self._class_weights = (1.0, 1.0)  # of windows with an answer, and without
        self._labelled_per_batch: float | None = None  # labelled windows in an average batch
        self._packed_backend: AttentionBackend | None = None

    @property
    def effective_null_threshold(self) -> float:
        """The null threshold that counts: the one asked for, else the tuned one, else 0.

        With `expected_share`, the tuned one as it is for that share of unanswerable questions.
        """
        if self.null_threshold is not None:
            return self.null_threshold
        threshold = 0.0 if self.tuned_threshold is None else self.tuned_threshold
        if self.expected_share is None:
            return threshold
        share = (self.expected_share, self.tuned_share, self.temperature)
        return threshold_for_share(threshold, *share)

    @property
    def takes_token_types(self) -> bool:
        """Whether the encoder tells token types apart."""
        return has_token_types(self.encoder)

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
            check_compiler(self.trainer.strategy.root_device)
        if self.hparams["unanswerable_share"] is not None:
            self.datamodule.setup("fit")
            self._weigh_classes()

    def setup(self, stage: str) -> None:
        """Check that the data fit the encoder."""
        prepare_encoder(self.encoder)  # a process that was spawned has registered nothing yet
        self.check_data(self.datamodule)

    def check_data(self, data: SquadDataModule) -> None:
        """Check that the data's tokenizer and windows fit the encoder.

        Raises:
            UserError: they do not.
        """
        check_vocabulary(self.encoder, data.tokenizer)
        positions = max_positions(self.encoder.config.to_dict())
        window = data.window_settings.window
        if window > positions:
            raise UserError(
                f"--data.window is {window}, but the encoder has {positions} positions; "
                f"set --data.window {positions} or less"
            )
        if data.hparams["batching"] == "packed" and not packs(self.encoder):
            raise UserError(
                f"--data.batching packed is not for {self.encoder.config.model_type}, whose "
                f"attention looks beyond a window ({', '.join(PACKING)} can); take grouped"
            )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Start and end logits, see `padded_logits`.

        With `packing` and the mask, the windows are computed in one row, without the padding.
        """
        # Calling the encoder runs its compiled form, which is for training alone: evaluation has
        # batches of many more shapes, and its figures should not depend on a compiler.
        call = self.encoder if self.training else self.encoder.forward
        windows = (input_ids, attention_mask, token_type_ids)
        if packing is None:
            return padded_logits(self.encoder, *windows, call)
        if attention_mask is None:
            raise ValueError("packed windows come with an attention mask")
        backend = self._attention_backend(input_ids.device)
        return packed_logits(
            self.encoder, input_ids, attention_mask, token_type_ids, packing, backend, call
        )

    def _attention_backend(self, device: torch.device) -> AttentionBackend:
        """How packed windows attend on this device; announced when it is chosen."""
        half = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if half else self.encoder.dtype
        config = self.encoder.config
        backend = choose_backend(device, dtype, config.hidden_size // config.num_attention_heads)
        if backend != self._packed_backend:
            self._packed_backend = backend
            rank_zero_info(f"packed windows: attention backend {backend}")
            if backend == "varlen" and self.training and drops_attention(self.encoder.config):
                rank_zero_warn(
                    "varlen attention has no dropout of attention weights; set "
                    "--model.attention_dropout 0, or keep the dropout with --data.batching grouped"
                )
        return backend

    def on_fit_start(self) -> None:
        """Weigh windows as `unanswerable_share` asks, or warn if it should; compile if asked."""
        if not self.datamodule.hparams["holdout"]:
            self._use(None)  # it belongs to the model that training starts from
        if self.hparams["unanswerable_share"] is None:
            for finding in rare_answers(self.datamodule.windows("train").label_start):
                rank_zero_warn(f"train: {finding.message}")
        if self.compile_encoder:
            compile_encoder(
                self.encoder,
                packed=self.datamodule.hparams["batching"] == "packed",
                float32_on_cpu=self.device.type == "cpu" and self.trainer.precision == "32-true",
            )
        self._weigh_classes()

    def _weigh_classes(self) -> None:
        if (share := self.hparams["unanswerable_share"]) is not None:
            labels = self.datamodule.windows("train").label_start
            self._class_weights = class_weights(labels, share)

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
        logits = self(batch.input_ids, batch.attention_mask, batch.packing, batch.token_type_ids)
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
        """Show the loss in the progress bar when it is logged."""
        if lightning_private.logs_now(self.trainer):
            loss = self.trainer.logged_metrics["train/loss"]
            self.trainer.progress_bar_metrics["train/loss"] = float(loss)

    def _evaluate(self, batch: Batch, metric: SquadMetric) -> None:
        """Keep the best spans and the null score of every window of the batch."""
        if batch.offsets is None or batch.word_starts is None:
            raise ValueError("evaluation needs batches with offsets")
        logits = self(batch.input_ids, batch.attention_mask, None, batch.token_type_ids)
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

    def predict_step(self, batch: Batch, batch_idx: int) -> list[WindowPrediction]:
        """Evaluate a batch of windows to predict on; gives the best span of every window.

        A question's windows may lie in several batches; the callback `EvaluationFiles` writes the
        answers to questions.
        """
        self._evaluate(batch, self.metric)
        windows = self.datamodule.windows("predict")
        return window_predictions(self.metric.newest(), windows.questions, windows.contexts)

    def on_validation_epoch_start(self) -> None:
        """Empty the metrics."""
        self._empty(self.metric, "val")
        if self._tunes():
            self._empty(self.holdout_metric, "holdout")

    def on_test_epoch_start(self) -> None:
        """Empty the metric."""
        self._empty(self.metric, "test")

    def on_predict_epoch_start(self) -> None:
        """Empty the metric."""
        self._empty(self.metric, "predict")

    def _empty(self, metric: SquadMetric, split: Split) -> None:
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
            tuned = self.holdout_metric.tune(share)
            self._use(tuned)
            if tuned is None:
                rank_zero_warn(
                    "the null threshold was not tuned: of the questions of the held-out articles "
                    "all, or none, are answerable. Hold out more (--data.holdout)"
                )
            self.holdout_metric.reset()
        self._log_figures("val")

    def _use(self, tuned: Tuned | None) -> None:
        """Keep what was tuned on the articles held out; None if nothing could be."""
        self.tuned_threshold = tuned.threshold if tuned else None
        self.temperature = tuned.temperature if tuned else 1.0
        self.tuned_share = tuned.unanswerable_share if tuned else None

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
        if not self.trainer.sanity_checking:
            self._warn_of_collapse(figures)

    def _warn_of_collapse(self, figures: Mapping[str, float]) -> None:
        """Warn of a model that wrongly says the same to nearly every question."""
        rate = figures["no_answer_rate"]
        answered = f"{rate:.1f} % of the questions were answered with 'no answer'"
        if rate >= COLLAPSED and figures.get("HasAns_total", 0) >= ENOUGH_TO_TELL:
            trained_on = ""
            if self.trainer.state.fn == "fit":
                share = no_answer_share(self.datamodule.windows("train").label_start)
                trained_on = f", {100 * share:.1f} % of those trained on,"
            rank_zero_warn(
                f"{answered}: the model has learned little beyond how common that is. Train "
                "longer, change the learning rate (--model.learning_rate), or let windows without "
                f"an answer{trained_on} weigh less (--model.unanswerable_share)."
            )
        elif rate <= 100.0 - COLLAPSED and "NoAns_total" in figures:
            rank_zero_warn(
                f"{answered}, although the data hold unanswerable ones. Do the training data hold "
                "any?"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and a learning rate that changes with every optimizer step."""
        return adamw_with_schedule(self)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as `--trainer.gradient_clip_val` says, also for a fused optimizer and with FSDP."""
        if gradient_clip_val:
            clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm or "norm")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what the model is used with: the tokenizer, as text, and the tuned threshold."""
        checkpoint["tokenizer"] = tokenizer_files(
            self.datamodule.tokenizer, token_types=self.takes_token_types
        )
        values = (self.tuned_threshold, self.temperature, self.tuned_share)
        checkpoint.update(zip(TUNED, values, strict=True))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what was tuned."""
        self.tuned_threshold, temperature, self.tuned_share = map(checkpoint.get, TUNED)
        self.temperature = temperature or 1.0
