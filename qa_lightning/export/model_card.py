"""The model card: what a stranger needs to judge a model by, and nothing that is not known.

The facts are those of the files that `fit` left (the checkpoint, `run.json`, `config.yaml`), of an
evaluation done when the model is exported, and of the person who exports it. What none of them says
is called unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from qa_lightning.export.provenance import UNKNOWN, Scores, Training
from qa_lightning.inference.answerer import MAX_ANSWER_TOKENS
from qa_lightning.model.trained_model import TrainedModel

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from qa_lightning.evaluation.report import Report


@dataclass(frozen=True)
class CardMetadata:
    """What only a person can say of a model; None where nothing was said.

    Attributes:
        name: What the model is called; the hub's name, if it goes there.
        license: The hub's name of its licence, such as "apache-2.0".
        language: Code of its language, such as "en".
        base_model: The hub's name of the encoder that training started from.
        notes: What else there is to say, such as how the data came about; Markdown.
    """

    name: str
    license: str | None = None
    language: str | None = None
    base_model: str | None = None
    notes: str | None = None


@dataclass(frozen=True)
class Variant:
    """One of the forms in which the model was written.

    Attributes:
        file: Name of the file.
        what: What it is.
        size: Bytes.
        figures: Exact match and F1 on the questions that all forms were scored on, if any were.
        same: To how many of them it gives the answer that the first form gives.
    """

    file: str
    what: str
    size: int
    figures: Mapping[str, float] | None = None
    same: int | None = None


@dataclass(frozen=True)
class ModelCard:
    """All that goes into a card.

    Attributes:
        stated: What the person who exports it says.
        trained: The model.
        training: What is known of its training.
        scores: What was scored when it was exported; None if nothing was.
        variants: The forms in which it was written, the first one the original.
    """

    stated: CardMetadata
    trained: TrainedModel
    training: Training
    scores: Scores | None = None
    variants: Sequence[Variant] = ()

    def to_markdown(self) -> str:
        """The text of README.md."""
        blocks = [
            f"---\n{self._front_matter()}\n---",
            f"# {self.stated.name}",
            "Extractive question answering: given a question and a text, it marks the words of the "
            "text that answer the question, or says that the text does not answer it. It writes no "
            "words of its own.",
            self._overview(),
            "## How to use",
            *self._usage(),
            "## Scores",
            *self._scores(),
            "## Training",
            *self._training(),
            *(["## Notes of the publisher", self.stated.notes] if self.stated.notes else []),
            "## Limits and biases",
            self._limits(),
            "## Files",
            self._files(),
            "## Licence",
            self._licence(),
        ]
        return "\n\n".join(blocks) + "\n"

    # ---- front matter

    def _front_matter(self) -> str:
        """What the hub reads: YAML, without the lines that mark its beginning and end."""
        from huggingface_hub import ModelCardData

        data = self.training.source("train")
        return ModelCardData(
            language=self._language,
            license=self.stated.license,
            library_name="transformers",
            pipeline_tag="question-answering",
            base_model=self._base_model,
            datasets=[data.hub_name] if data and data.hub_name else None,
            metrics=["exact_match", "f1"],
            tags=["extractive-qa", "qa-lightning"],
            model_name=self.stated.name,
            eval_results=self._eval_results() or None,
        ).to_yaml()

    @property
    def _language(self) -> str | None:
        data = self.training.source("train")
        return self.stated.language or ("en" if data and data.official else None)

    @property
    def _base_model(self) -> str | None:
        """The hub's name of the encoder that training started from, if it is sure."""
        name = self.training.model.get("pretrained")
        if self.stated.base_model or not name or self.training.random_weights:
            return self.stated.base_model
        return name if _is_in_hub_cache(name) else None

    def _scored(self) -> list[Scores]:
        """What was scored, the newest first; the same questions once."""
        given = [one for one in (self.scores, self.training.scores) if one is not None]
        if len(given) == 2 and given[0].data.sha256 == given[1].data.sha256 is not None:
            return given[:1]
        return given

    def _eval_results(self) -> list[EvalResult]:
        """The scores as the hub's model index has them, one of a kind for each set of questions."""
        results: dict[object, EvalResult] = {}
        for scores in self._scored():
            for one in _eval_results(scores):
                results.setdefault((one.unique_identifier, one.metric_type), one)
        return list(results.values())

    # ---- sections

    def _overview(self) -> str:
        config = self.trained.encoder.config
        size = sum(weight.numel() for weight in self.trained.encoder.parameters())
        return _table(
            ("", ""),
            [
                (
                    "architecture",
                    f"DistilBertForQuestionAnswering: {config.n_layers} layers, {config.dim} wide, "
                    f"{config.n_heads} heads, {size / 1e6:.1f} M parameters, "
                    f"{config.vocab_size:,} word pieces",
                ),
                ("trained from", self._origin()),
                ("language", self._language or UNKNOWN),
                ("null threshold", self._threshold()),
                (
                    "windows",
                    f"{self.trained.windows.window} tokens at most, "
                    f"{self.trained.windows.overlap} of them shared with the one before; questions "
                    f"are cut at {self.trained.windows.max_question_tokens} tokens",
                ),
            ],
        )

    def _origin(self) -> str:
        name = self.training.model.get("pretrained")
        if self.training.random_weights:
            return "random weights: no pretrained encoder"
        if self._base_model:
            return f"[{self._base_model}](https://huggingface.co/{self._base_model})"
        if not name:
            return UNKNOWN
        short = PureWindowsPath(name).name
        return f"`{short}`, as the run's settings name it; which model that is, is {UNKNOWN}"

    def _threshold(self) -> str:
        threshold = self.trained.null_threshold
        if threshold is None:
            return "0: none was tuned"
        share = self.training.data.get("holdout")
        how = (
            f"tuned on {100 * share:.3g} % of the training articles, which were not trained on"
            if share
            else "how it was tuned is not known"
        )
        return f"{threshold:.4f} ({how}); in config.json as `null_threshold`"

    def _usage(self) -> list[str]:
        name, windows = self.stated.name, self.trained.windows
        threshold = self.trained.null_threshold or 0.0
        order = ("context", "question") if windows.context_first else ("question", "context")
        part = order.index("context")
        with_package = f"""\
from qa_lightning.inference.answerer import Answerer

answerer = Answerer.from_pretrained("{name}")
answer = answerer("Who wrote it?", "It was written by Ada Lovelace in 1843.")
print(answer.text or "no answer", answer.probability, answer.no_answer_probability)"""
        alone = f"""\
import torch
from transformers import AutoTokenizer, DistilBertForQuestionAnswering

model = DistilBertForQuestionAnswering.from_pretrained("{name}").eval()
tokenizer = AutoTokenizer.from_pretrained("{name}")
question, context = "Who wrote it?", "It was written by Ada Lovelace in 1843."

inputs = tokenizer({order[0]}, {order[1]}, return_offsets_mapping=True, return_tensors="pt")
characters = inputs.pop("offset_mapping")[0].tolist()
of_context = torch.tensor([part == {part} for part in inputs.sequence_ids(0)])
with torch.inference_mode():
    outputs = model(**inputs)
start, end = outputs.start_logits[0], outputs.end_logits[0]

null_score = start[0] + end[0]
legal = (of_context[:, None] & of_context[None, :]).triu().tril({MAX_ANSWER_TOKENS - 1})
scores = (start[:, None] + end[None, :]).masked_fill(~legal, float("-inf"))
first, last = divmod(int(scores.argmax()), len(end))
if null_score - scores.max() > {threshold!r}:  # the null threshold
    print("no answer")
else:
    print(context[characters[first][0] : characters[last][1]])"""
        blocks = [
            "With the Python package `qa_lightning`, which cuts long texts into windows "
            "as in training and gives the answers that were scored here:",
            f"```python\n{with_package}\n```",
            "Without it, for a text that fits into one window:",
            f"```python\n{alone}\n```",
        ]
        onnx = [one.file for one in self.variants if one.file.endswith(".onnx")]
        if onnx:
            blocks.append(
                f"{' and '.join(f'`{one}`' for one in onnx)} take `input_ids` and `attention_mask` "
                "(int64, `[windows, tokens]`) and give `start_logits` and `end_logits` (float32, "
                "`[windows, tokens]`, minus infinity at padding). In a downloaded folder, "
                f'`Answerer.from_pretrained("FOLDER/{onnx[-1]}")` runs them with onnxruntime. '
                "With weights of 8 bits a window's logits depend a little on the others in its "
                "batch."
            )
        return blocks

    def _scores(self) -> list[str]:
        scored = self._scored()
        if not scored:
            return [
                "Not known: no score came with the model, and nothing was scored when it was "
                "exported. `python -m qa_lightning export ... --data FILE` scores it."
            ]
        blocks = [block for scores in scored for block in self._scores_on(scores)]
        blocks += self._variant_scores()
        blocks.append(
            "Definitions, those of the official SQuAD 2.0 evaluator, in percent:\n\n"
            "- **EM** (exact match): share of the questions with an answer that equals one of the "
            "gold answers, once both are lower-cased and stripped of ASCII punctuation, articles "
            "and extra spaces. Where there is no gold answer, answering nothing is right.\n"
            "- **F1**: harmonic mean of precision and recall of the words that an answer shares "
            "with a gold answer, the best over the gold answers, averaged over the questions; of "
            "an unanswerable question 100 for no answer, 0 for any.\n"
            "- **HasAns**, **NoAns**: the same over the answerable and over the unanswerable "
            "questions alone.\n"
            "- **Null threshold**: a question counts as unanswered when its null score (start plus "
            "end logit of [CLS], the lowest over its windows) exceeds the score of its best span "
            "by more than this."
        )
        return blocks

    def _scores_on(self, scores: Scores) -> list[str]:
        figures, data = scores.figures, scores.data
        heading = f"### {data.shown}"
        count = int(figures["total"])
        digest = f", SHA-256 `{data.sha256}`" if data.sha256 else ""
        about = f"{count:,} questions{digest}; scored {scores.when}."
        rows = [("0", figures["zero_exact"], figures["zero_f1"])] if "zero_exact" in figures else []
        if scores.threshold != 0 or not rows:
            rows.append((f"**{scores.threshold:.4g}, in force**", figures["exact"], figures["f1"]))
        if "best_exact" in figures:
            best = "the best for these very questions: an oracle, an upper bound, not a result"
            rows.append((best, figures["best_exact"], figures["best_f1"]))
        groups = [
            (name, f"{int(figures[f'{prefix}total']):,}", *_pair(figures, prefix))
            for name, prefix in (("all", ""), ("HasAns", "HasAns_"), ("NoAns", "NoAns_"))
            if f"{prefix}exact" in figures
        ]
        blocks = [
            heading,
            about,
            _table(("questions", "count", "EM", "F1"), groups),
            _table(
                ("null threshold", "EM", "F1"),
                [(name, f"{exact:.2f}", f"{f1:.2f}") for name, exact, f1 in rows],
            ),
            self._remarks(scores),
        ]
        if scores.report is not None:
            blocks += _weak_points(scores.report)
        return blocks

    def _remarks(self, scores: Scores) -> str:
        figures = scores.figures
        said = [
            f'{figures["no_answer_rate"]:.1f} % of the questions were answered with "no answer"; '
            "answering nothing at all would score "
            f"{100 * figures.get('NoAns_total', 0) / figures['total']:.2f}."
        ]
        said += scores.notes
        trained_on, validated = self.training.source("train"), self.training.source("val")
        digest = scores.data.sha256
        if digest and trained_on and trained_on.sha256 == digest:
            said.append(
                "**The model was trained on questions of this file: the scores say nothing about "
                "questions that it has not seen.**"
            )
        if digest and validated and validated.sha256 == digest and self.training.validations > 1:
            said.append(
                f"The best of {self.training.validations} checkpoints was chosen by exact match on "
                "this file, so that the scores flatter a little."
            )
        return " ".join(said)

    def _variant_scores(self) -> list[str]:
        rows = [
            (f"`{one.file}`", one.what, *_pair(one.figures), "" if one.same is None else one.same)
            for one in self.variants
            if one.figures is not None
        ]
        if len(rows) < 2 or self.scores is None:
            return []
        return [
            f"### ONNX beside the original, on {self.scores.data.shown}",
            _table(("file", "", "EM", "F1", "same answers"), rows),
        ]

    def _training(self) -> list[str]:
        training = self.training
        if not training.model:
            return ["Not known: the model was exported from a folder that says nothing of it."]
        rows = []
        for split, use in (("train", "training"), ("val", "validation")):
            data = training.source(split)
            rows.append(
                (
                    use,
                    UNKNOWN if data is None else data.shown,
                    f"{data.questions:,}" if data and data.questions else UNKNOWN,
                    f"`{data.sha256}`" if data and data.sha256 else UNKNOWN,
                )
            )
        blocks = [
            _table(("data", "name", "questions", "SHA-256 of the content"), rows),
            *self._selection(),
            _table(("recipe", ""), _recipe(training)),
        ]
        versions = training.record.get("versions")
        said = ", ".join(f"{name} {value}" for name, value in (versions or {}).items())
        blocks.append(f"Versions: {said or UNKNOWN}.")
        return blocks

    def _selection(self) -> list[str]:
        """What of the training file was trained on."""
        data = self.training.data
        said = []
        if most := data.get("max_train_questions"):
            said.append(
                f"At most {most:,} questions were drawn from the training file, by paragraph"
            )
        if share := data.get("holdout"):
            said.append(
                f"{100 * share:.3g} % of its articles were held out to tune the null threshold"
            )
        kinds = {
            "plausible": "its unanswerable questions were trained on with their plausible answers, "
            "as if these were right",
            "drop": "its unanswerable questions were left out",
        }
        if kind := kinds.get(data.get("train_unanswerable", "")):
            said.append(kind)
        return [f"{'; '.join(said)}."] if said else []

    def _limits(self) -> str:
        windows = self.trained.windows
        said = [
            "It can only mark words that stand in the text, in one piece of at most "
            f"{MAX_ANSWER_TOKENS} tokens. It cannot count, compare, reason over several places, "
            "or answer yes or no.",
            "It believes the text: it says what stands there, whether or not that is true.",
            f"A question is read up to {windows.max_question_tokens} tokens. A text longer than "
            f"{windows.window} tokens is read in overlapping windows, each on its own.",
            "The null threshold suits questions like those that it was tuned on: on other texts, "
            "choose it anew on questions of your own.",
            "Its probabilities are a softmax over the candidates of one question, not calibrated"
            + (
                "; how sure it was and how often right stands under the scores."
                if any(scores.report for scores in self._scored())
                else ", and how far they are off was not measured."
            ),
            "Questions and texts unlike the training data (another language, field or style, "
            "questions asked by people who do not know the text) were not measured, unless a score "
            "above says so.",
            "Biases of the pretrained encoder and of the training data (SQuAD's passages are from "
            "Wikipedia, its questions from crowd workers who had the passage before them) are "
            "likely to be in it, and were not measured. Do not decide about people with it.",
        ]
        return "\n".join(f"- {sentence}" for sentence in said)

    def _files(self) -> str:
        rows = [(f"`{one.file}`", one.what, f"{one.size / 1e6:,.1f} MB") for one in self.variants]
        rows.append(("`config.json`", "architecture, `null_threshold`, `windows`", ""))
        rows.append(("`tokenizer.json`, `tokenizer_config.json`", "the tokenizer", ""))
        return _table(("file", "", "size"), rows)

    def _licence(self) -> str:
        mine = self.stated.license
        return (
            f"The model: {mine or 'not stated; ask whoever published it before you use it'}. The "
            "encoder that it was trained from and the training data have licences of their own. "
            "SQuAD 2.0, and what is made from it, is CC BY-SA 4.0 (Rajpurkar, Jia and Liang 2018, "
            "[Know What You Don't Know](https://arxiv.org/abs/1806.03822); its passages are from "
            "Wikipedia)."
        )


def _is_in_hub_cache(name: str) -> bool:
    """Whether a model of that name was fetched from the hub: no folder, package or slip."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).exists():
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def _eval_results(scores: Scores) -> list[EvalResult]:
    """Exact match and F1 on one set of questions."""
    from huggingface_hub import EvalResult

    data = scores.data
    splits = {"train": "train", "dev": "validation"}
    return [
        EvalResult(
            task_type="question-answering",
            task_name="Extractive question answering",
            dataset_type=data.hub_name or data.shown,  # the hub tells them apart by it
            dataset_name=data.shown,
            dataset_split=splits.get(data.official or ""),
            metric_type=kind,
            metric_name=name,
            metric_value=round(scores.figures[figure], 2),
        )
        for kind, name, figure in (("exact_match", "Exact match", "exact"), ("f1", "F1", "f1"))
    ]


def _weak_points(report: Report) -> list[str]:
    """Figures that tell where the model fails, from its report."""
    measured = report.calibration
    groups = [
        (f"{what}: {group.name}", f"{group.count:,}", f"{group.exact:.2f}", f"{group.f1:.2f}")
        for what, key in (("words of the answer", "answer_words"), ("asking", "question_word"))
        for group in report.breakdowns.get(key, [])
    ]
    return [
        _table(("questions by", "count", "EM", "F1"), groups),
        f"It was {measured.confidence:.1f} % sure on average and right in {measured.right:.1f} % "
        f"(expected calibration error {measured.ece:.1f} points).",
    ]


def _recipe(training: Training) -> list[tuple[str, str]]:
    """How it was trained, row by row; what is not known is not there."""
    model, trainer, record = training.model, training.trainer, training.record
    batch, seed = record.get("batch", {}), record.get("seed", {})
    encoder = model.get("encoder_config") or {}
    known = [
        ("optimizer", "AdamW"),
        ("peak learning rate", model.get("learning_rate")),
        ("weight decay", model.get("weight_decay")),
        ("schedule", model.get("schedule")),
        ("warm-up, share of the steps", model.get("warmup")),
        ("dropout", encoder.get("dropout")),
        ("dropout of attention weights", encoder.get("attention_dropout")),
        ("gradients clipped at norm", trainer.get("gradient_clip_val")),
        ("epochs asked for", trainer.get("max_epochs")),
        ("optimizer steps behind these weights", training.steps),
        ("windows in a batch", batch.get("effective") or training.data.get("batch_size")),
        ("batching", training.data.get("batching")),
        ("share of the loss on windows without an answer", model.get("unanswerable_share")),
        ("precision", training.precision),
        ("device", record.get("device")),
        ("seed", seed.get("seed_everything", training.seed)),
        ("seed of the data", seed.get("data", training.data.get("seed"))),
        ("SHA-256 of the weights it began with", record.get("weights", {}).get("sha256")),
        ("times gone on with", training.starts - 1 if training.starts > 1 else None),
    ]
    return [
        (name, f"{value:,}" if isinstance(value, int) else f"{value}")
        for name, value in known
        if value is not None
    ]


def _pair(figures: Mapping[str, float] | None, prefix: str = "") -> tuple[str, str]:
    assert figures is not None
    return f"{figures[f'{prefix}exact']:.2f}", f"{figures[f'{prefix}f1']:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    """A value as a table may hold it: on one line, without its own bars."""
    return " ".join(str(value).split()).replace("|", "\\|")
