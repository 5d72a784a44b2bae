"""Answerer: a trained model, a question, a context -> answers.

A question takes the same path as in evaluation: the same windows, the same batches, the same spans,
so that an answer here is the one that `predict` writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from qa_lightning.data.tables import tables_from_texts
from qa_lightning.data.window_settings import (
    EVAL_BATCH_SIZE,
    MAX_ANSWER_TOKENS,
    N_BEST,
    WindowSettings,
)
from qa_lightning.data.windows import make_windows
from qa_lightning.errors import UserError
from qa_lightning.evaluation.spans import Candidate, candidates
from qa_lightning.inference.defaults import TOP_K
from qa_lightning.model.answers import answers_of_batches, scored_batches
from qa_lightning.model.logits import Logits, model_logits
from qa_lightning.model.onnx_session import onnx_logits
from qa_lightning.model.trained_model import InferenceSettings, TrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast as FastTokenizer


@dataclass(frozen=True)
class Answer(Candidate):
    """The model's answer to a question, and what else it considered.

    Attributes:
        text: The answer; "" when the context holds none.
        start: Its first character in the context; None without an answer.
        end: One past its last character; None without an answer.
        score: Sum of start and end logit; without an answer, the null score.
        probability: Softmax over all candidates of the question, "no answer" among them, whose
            score counts less the threshold: the verdict is the likelier one of it and the best
            span.
        no_answer_probability: The same for "no answer".
        null_odds: Null score minus the best span's score: above `threshold` means no answer.
        threshold: The null threshold that counted.
        candidates: The best spans, best first, whatever the verdict is.
        question_tokens_cut: Tokens of the question that the model did not read: a question that is
            too long for it loses its middle.
    """

    no_answer_probability: float
    null_odds: float
    threshold: float
    candidates: tuple[Candidate, ...]
    question_tokens_cut: int = 0


@dataclass(eq=False)
class Answerer:
    """Answers questions about contexts.

        >>> answerer = Answerer.from_pretrained("lightning_logs/version_0")
        >>> answerer("Who wrote it?", "It was written by Ada Lovelace.").text

    Several threads may use it at once, if they may call its logits at once, as a model's.
    """

    logits: Logits
    tokenizer: FastTokenizer
    windows: WindowSettings = field(default_factory=WindowSettings)
    _: KW_ONLY
    threshold: float = 0.0  # the null threshold
    temperature: float = 1.0  # of probabilities
    batch_size: int = EVAL_BATCH_SIZE  # windows
    max_answer_tokens: int = MAX_ANSWER_TOKENS

    def __post_init__(self) -> None:
        """Refuse sizes below 1."""
        for name in ("batch_size", "max_answer_tokens"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{name} must be at least 1, not {value}")

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str | None = None,
        precision: str | None = None,
        threshold: float | None = None,
        unanswerable_share: float | None = None,
        **options: Any,
    ) -> Answerer:
        """Load a model.

        Args:
            model: A run's folder, a checkpoint, an exported folder or the name of a model on the
                hub; see `TrainedModel.load`. Or an ONNX model, as `export --onnx` writes it, with
                tokenizer and config.json beside it.
            device: As torch names it; the best that there is by default.
            precision: "32-true", "bf16-mixed" or "16-mixed"; by default what `fit` and `predict`
                choose on this hardware.
            threshold: The null threshold; by default the one tuned with the model, else 0.
            unanswerable_share: The share of unanswerable questions, 0 to 1, that is expected: it
                moves that threshold. 0 answers every question.
            options: `batch_size` and `max_answer_tokens`.

        Raises:
            UserError: there is no such model or device.
        """
        if str(model).endswith(".onnx"):
            if device not in (None, "cpu") or precision is not None:
                raise UserError(f"{model}: an ONNX model runs on the CPU, at its own precision")
            path = Path(model).expanduser()
            logits, settings = onnx_logits(path), InferenceSettings.of_folder(str(path.parent))
        else:
            trained = TrainedModel.load(model)
            logits, settings = model_logits(trained.encoder, device, precision), trained.settings
        if threshold is None:
            threshold = settings.threshold_for(unanswerable_share)
        options = {"threshold": threshold, "temperature": settings.temperature} | options
        return cls(logits, settings.tokenizer, settings.windows, **options)

    @overload  # a str is a Sequence[str] too, which the second would take for questions
    def __call__(  # type: ignore[overload-overlap]
        self, question: str, context: str, *, top_k: int = ..., threshold: float | None = ...
    ) -> Answer: ...

    @overload
    def __call__(
        self,
        question: Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = ...,
        threshold: float | None = ...,
    ) -> list[Answer]: ...

    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = TOP_K,
        threshold: float | None = None,
    ) -> Answer | list[Answer]:
        """Answer one question, or many at once.

        Args:
            question: A question, or a list of them.
            context: The text to find the answer in; for a list of questions one for all of them,
                or a list of as many.
            top_k: How many candidates to give beside each answer, at most `N_BEST`.
            threshold: The null threshold, if another than the answerer's.

        Raises:
            UserError: an empty question or context, lists of different lengths, or a `top_k` out of
                range.
        """
        if isinstance(question, str):
            if not isinstance(context, str):
                raise UserError("one question has one context; give a list of questions too")
            return self([question], context, top_k=top_k, threshold=threshold)[0]
        contexts = [context] * len(question) if isinstance(context, str) else list(context)
        *_, answers = self.steps(question, contexts, top_k=top_k, threshold=threshold)
        return answers

    def steps(
        self,
        question: Sequence[str],
        contexts: Sequence[str],
        *,
        top_k: int = TOP_K,
        threshold: float | None = None,
    ) -> Iterator[list[Answer]]:
        """Answer in steps: an empty list after every batch of windows, all answers in the end.

        Between two steps the caller may do other work, or stop.
        """
        if not 0 <= top_k <= N_BEST:
            raise UserError(f"top_k must be from 0 to {N_BEST}, not {top_k}")
        if len(contexts) != len(question):
            raise UserError(f"{len(question)} questions, but {len(contexts)} contexts")
        if not contexts:
            yield []
            return
        for number, texts in enumerate(zip(question, contexts, strict=True), start=1):
            for name, text in zip(("question", "context"), texts, strict=True):
                check_text(f"{name} {number}" if len(contexts) > 1 else f"the {name}", text)
        windows = make_windows(tables_from_texts(question, contexts), self.tokenizer, self.windows)
        batches = []
        for batch in scored_batches(self.logits, windows, self.batch_size, self.max_answer_tokens):
            batches.append(batch)
            yield []
        found = answers_of_batches(batches)
        threshold = self.threshold if threshold is None else threshold
        cut = (windows.question_tokens - windows.question_ids.lengths).tolist()
        verdicts, null_odds = found.unanswered(threshold).tolist(), found.null_odds.tolist()
        answers = []
        every_candidate = candidates(contexts, found, threshold, self.temperature)
        for row, every in enumerate(every_candidate):
            nothing = next(one for one in every if one.start is None)
            spans = [one for one in every if one.start is not None]
            chosen = nothing if verdicts[row] else spans[0]
            answer = Answer(
                **vars(chosen),
                no_answer_probability=nothing.probability,
                null_odds=null_odds[row],
                threshold=threshold,
                candidates=tuple(spans[:top_k]),
                question_tokens_cut=cut[row],
            )
            answers.append(answer)
        yield answers


def check_text(which: str, text: object) -> None:
    """Check that a question or a context, called `which`, can be asked.

    Raises:
        UserError: it is empty, or no text.
    """
    if not isinstance(text, str):
        raise UserError(f"{which} is not a text, but {type(text).__name__}")
    if not text.strip():
        raise UserError(f"{which} is empty")
    if re.search("[\ud800-\udfff]", text):
        raise UserError(f"{which} holds half a character (a lone surrogate)")
