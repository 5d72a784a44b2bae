"""SquadMetric: the official figures, the same on one process and on many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from qa_lightning.errors import UserError
from qa_lightning.evaluation.scoring import evaluate, score_answers, tune_threshold
from qa_lightning.evaluation.spans import (
    Answers,
    WindowScores,
    answers_of_questions,
    best_texts,
)

if TYPE_CHECKING:
    import pyarrow as pa


class SquadMetric(Metric):
    """Collects the best spans of windows and scores questions as the official evaluator does.

    Every process adds its windows with `update`; `compute` gathers them from all processes, drops
    windows that were evaluated twice and gives every process the same figures. Only questions of
    which a window was seen are scored, so a partial run (sanity check, `limit_val_batches`) is
    scored on what it saw.
    """

    full_state_update = False
    key: list[Tensor]
    null: list[Tensor]
    spans: list[Tensor]
    scores: list[Tensor]
    loss: list[Tensor]
    token_hits: list[Tensor]

    def __init__(self) -> None:
        """Start with nothing seen."""
        super().__init__()
        self.null_threshold = 0.0
        self.tuned_threshold: float | None = None
        for name in ("key", "null", "spans", "scores", "loss", "token_hits"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._ids: list[str] = []
        self._contexts: list[str] = []
        self._context_of: np.ndarray = np.zeros(0, np.int64)
        self._golds: list[list[str]] = []

    def attach(self, questions: pa.Table, contexts: pa.Table) -> None:
        """Say which questions the windows to come belong to.

        Args:
            questions: Arrow table, see `qa_lightning.data.tables.QUESTIONS`.
            contexts: Arrow table, see `qa_lightning.data.tables.CONTEXTS`.
        """
        self._ids = questions.column("id").to_pylist()
        self._contexts = contexts.column("text").to_pylist()
        self._context_of = questions.column("context").to_numpy()
        answers = questions.column("answers").to_pylist()
        self._golds = [[answer["text"] for answer in all_of_one] for all_of_one in answers]

    def use_thresholds(self, in_force: float, tuned: float | None) -> None:
        """Say from which null score on a question counts as unanswered.

        Args:
            in_force: A question counts as unanswered when its null score exceeds its best span's
                score by more than this.
            tuned: The threshold that was tuned on held-out questions, to report beside it.
        """
        self.null_threshold, self.tuned_threshold = in_force, tuned

    def update(
        self,
        key: Tensor,
        null: Tensor,
        spans: Tensor,
        scores: Tensor,
        loss: Tensor,
        token_hits: Tensor,
    ) -> None:
        """Add windows.

        Args:
            key: Question row and window number, int64 `[windows, 2]`.
            null: Null scores, float32 `[windows]`.
            spans: Characters of the best spans, int32 `[windows, n, 2]`.
            scores: Their scores, float32 `[windows, n]`.
            loss: Loss of each window, float32 `[windows]`; nan where the label is ignored.
            token_hits: Whether the likeliest start and end token are the labelled ones, float32
                `[windows, 2]`; nan where the label is ignored.
        """
        self.key.append(key)
        self.null.append(null)
        self.spans.append(spans)
        self.scores.append(scores)
        self.loss.append(loss)
        self.token_hits.append(token_hits)

    def answers(self) -> Answers:
        """Answers of the questions seen by this process (by all, inside `compute`)."""
        return answers_of_questions(
            WindowScores(
                *(
                    dim_zero_cat(state).cpu().numpy()
                    for state in (self.key, self.null, self.spans, self.scores)
                )
            )
        )

    def texts(self, answers: Answers) -> list[str]:
        """Text of every question's best non-null span."""
        contexts = [self._contexts[self._context_of[row]] for row in answers.question]
        return best_texts(answers, contexts)

    def ids(self, answers: Answers) -> Sequence[str]:
        """Question ids in the order of the answers."""
        return [self._ids[row] for row in answers.question]

    def tune(self, unanswerable_share: float | None) -> float | None:
        """The null threshold with the highest exact match on what all processes saw.

        Args:
            unanswerable_share: Share of unanswerable questions where it will be used, see
                `qa_lightning.evaluation.scoring.tune_threshold`.

        Returns:
            The threshold; None where nothing can be told from what was seen: nothing, or, with a
            share, questions of one kind only.

        Raises:
            UserError: the model's logits are not numbers.
        """
        if not len(self.key):
            return None
        with self.sync_context():
            answers = self._checked_answers()
        golds = [self._golds[row] for row in answers.question]
        answerable = np.array([len(texts) > 0 for texts in golds], bool)
        if unanswerable_share is not None and answerable.all() | ~answerable.any():
            return None
        texts = self.texts(answers)
        empty = np.array([not text for text in texts])
        exact, _ = score_answers(golds, texts)
        return tune_threshold(exact, answers.null_odds, answerable, empty, unanswerable_share)

    def _checked_answers(self) -> Answers:
        answers = self.answers()
        if not np.isfinite(answers.null).all():
            raise UserError(
                "the model's logits are not numbers: training diverged. Lower "
                "--model.learning_rate, or set --trainer.precision 32-true"
            )
        return answers

    def compute(self) -> dict[str, float]:
        """Score what was seen.

        Returns:
            The official figures at the threshold in force, by their official names (percentages,
            `total` counts and thresholds), and: `zero_exact` and `zero_f1` at threshold 0,
            `tuned_exact` and `tuned_f1` at the tuned threshold if there is one; `loss`, the mean
            over windows; `token_accuracy`, the mean over windows of "start token right" and "end
            token right", 0 to 1, as the starting notebook reports it; `no_answer_rate`, the
            percentage of questions answered with "".

        Raises:
            UserError: the model's logits are not numbers.
        """
        if not len(self.key):
            return {}
        answers = self._checked_answers()
        odds = answers.null_odds
        also_at = {"zero": 0.0}
        if self.tuned_threshold is not None:
            also_at["tuned"] = self.tuned_threshold
        figures = evaluate(
            [self._golds[row] for row in answers.question],
            self.texts(answers),
            null_odds=odds,
            threshold=self.null_threshold,
            also_at=also_at,
        )
        figures["no_answer_rate"] = 100.0 * float(np.mean(odds > self.null_threshold))
        # A window lent to two processes counts once, and sums run in one order: the same figure
        # to the last digit on any number of processes.
        _, kept = np.unique(dim_zero_cat(self.key).cpu().numpy(), axis=0, return_index=True)
        loss = dim_zero_cat(self.loss).cpu().double().numpy()[kept]
        hits = dim_zero_cat(self.token_hits).cpu().double().numpy()[kept]
        known = ~np.isnan(loss)
        if known.any():
            figures["loss"] = float(loss[known].mean())
            figures["token_accuracy"] = float(hits[known].mean())
        return figures
