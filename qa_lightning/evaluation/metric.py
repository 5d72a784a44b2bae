"""SquadMetric: the official figures, the same on one process and on many."""

import numpy as np
import pyarrow as pa
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from qa_lightning.errors import UserError
from qa_lightning.evaluation.calibration import Tuned, fit_temperature
from qa_lightning.evaluation.scoring import (
    apply_threshold,
    question_weights,
    score_answers,
    score_questions,
    tune_threshold,
)
from qa_lightning.evaluation.spans import Answers, WindowScores, answers_of_questions, best_texts

STATES = ("key", "null", "spans", "scores", "loss", "token_hits")


class SquadMetric(Metric):
    """Collects the best spans of windows and scores questions as the official evaluator does.

    Every process adds its windows with `update`; `compute` gathers them from all processes, drops
    windows that were evaluated twice and gives every process the same figures. Only questions of
    which a window was seen are scored, so a partial run (sanity check, `limit_val_batches`) is
    scored on what it saw.
    """

    full_state_update = False
    key: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.null_threshold = 0.0
        self.tuned_threshold: float | None = None
        for name in STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._contexts: list[str] = []
        self._context_of: list[int] = []
        self._golds: list[list[str]] = []

    def attach(self, questions: pa.Table, contexts: pa.Table) -> None:
        """Set the questions of the windows to come, tables as in `qa_lightning.data.tables`."""
        self._contexts = contexts.column("text").to_pylist()
        self._context_of = questions.column("context").to_pylist()
        answers = questions.column("answers").to_pylist()
        self._golds = [[answer["text"] for answer in all_of_one] for all_of_one in answers]

    def use_thresholds(self, effective: float, tuned: float | None) -> None:
        """Set the null threshold to score at, and the tuned one to report beside it."""
        self.null_threshold, self.tuned_threshold = effective, tuned

    def update(self, **windows: Tensor) -> None:
        """Add windows.

        `key`, `null`, `spans` and `scores` are as in `WindowScores`. `loss` is the loss of each
        window, float32 `[windows]`, and `token_hits` whether the likeliest start and end token are
        the labelled ones, float32 `[windows, 2]`; both are nan where the label is ignored.
        """
        for name in STATES:
            getattr(self, name).append(windows[name])

    def _seen(self, name: str) -> np.ndarray:
        """The windows' values of a state: this process's, or inside `compute` those of all."""
        return dim_zero_cat(getattr(self, name)).cpu().numpy()

    def newest(self) -> WindowScores:
        """The windows of the last `update`."""
        return WindowScores(*(getattr(self, name)[-1].cpu().numpy() for name in STATES[:4]))

    def answers(self) -> Answers:
        """Answers of the questions seen by this process (by all, inside `compute`)."""
        return answers_of_questions(WindowScores(*map(self._seen, STATES[:4])))

    def texts(self, answers: Answers) -> list[str]:
        """Text of every question's best span."""
        contexts = [self._contexts[self._context_of[row]] for row in answers.question]
        return best_texts(answers, contexts)

    def tune(self, unanswerable_share: float | None) -> Tuned | None:
        """Tune the null threshold for exact match on what all processes saw, then the temperature.

        See `tune_threshold` and `fit_temperature`.

        Returns:
            What was tuned; None if nothing was seen or, with a share, questions of one kind only.

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
        odds = answers.null_odds
        threshold = tune_threshold(exact, odds, answerable, empty, unanswerable_share)
        right = apply_threshold(exact, odds, answerable, threshold)
        weights = question_weights(answerable, unanswerable_share)
        temperature = fit_temperature(answers, right, threshold, weights)
        share = float(np.mean(~answerable)) if unanswerable_share is None else unanswerable_share
        return Tuned(threshold, temperature, share)

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
            What `qa_lightning.evaluation.scoring.score_questions` returns, and, averaged over the
            labelled windows: `loss`, and `token_accuracy`, the mean of "start token right" and "end
            token right", 0 to 1, as the starting notebook reports it.

        Raises:
            UserError: the model's logits are not numbers.
        """
        if not len(self.key):
            return {}
        answers = self._checked_answers()
        figures = score_questions(
            [self._golds[row] for row in answers.question],
            self.texts(answers),
            answers.null_odds,
            self.null_threshold,
            self.tuned_threshold,
        )
        # Each window counts once and sums run in a fixed order, so that the figures are equal to
        # the last digit on any number of processes.
        _, kept = np.unique(self._seen("key"), axis=0, return_index=True)
        labelled = kept[~np.isnan(self._seen("loss")[kept])]
        if len(labelled):
            loss, hits = (self._seen(name)[labelled] for name in ("loss", "token_hits"))
            figures["loss"] = float(loss.astype(np.float64).mean())
            figures["token_accuracy"] = float(hits.astype(np.float64).mean())
        return figures
