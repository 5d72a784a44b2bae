"""SquadDataModule: reads, windows, caches and batches SQuAD-format data for Lightning."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.checks import reading_findings
from qa_lightning.data.download import default_cache_dir
from qa_lightning.data.pair import PairLayout
from qa_lightning.data.sampler import FixedSampler, WindowSampler
from qa_lightning.data.selection import Selection
from qa_lightning.data.sources import Source, resolve_source
from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import SquadTables, require_labels, require_places
from qa_lightning.data.token_checks import answers_never_given, unread
from qa_lightning.data.window_cache import FORMAT, open_windows, save_windows
from qa_lightning.data.window_settings import MAX_ANSWER_TOKENS, WindowSettings
from qa_lightning.data.windows import Windows, make_windows
from qa_lightning.errors import UserError, require_valid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Split = Literal["train", "holdout", "val", "test", "predict"]

STAGES: Mapping[str, tuple[Split, ...]] = {
    "fit": ("train", "val", "holdout"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class WindowLoader(DataLoader):
    """A loader that asks its sampler for batches when the first one is taken, not before.

    Lightning creates the iterator before a callback can say where a resumed run starts.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches in the sampler's order."""
        yield from super().__iter__()


class SquadDataModule(LightningDataModule):
    """SQuAD-format questions as batches of token windows."""

    def __init__(
        self,
        tokenizer: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        window: int = 384,
        overlap: int = 128,
        max_question_tokens: int = 64,
        context_first: bool = False,
        first_window_only: bool = False,
        every_answer: bool = False,
        answer_boundaries: Literal["word", "token"] = "word",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        batching: Literal["grouped", "random", "packed"] = "grouped",
        padding: Literal["batch", "window"] = "batch",
        num_workers: int = 0,
        train_unanswerable: Literal["no_answer", "plausible", "drop"] = "no_answer",
        val_unanswerable: Literal["no_answer", "plausible", "drop"] = "no_answer",
        max_train_questions: int | None = None,
        max_val_questions: int | None = None,
        holdout: float = 0.0,
        seed: int = 42,
        cache_dir: str | None = None,
    ) -> None:
        """Keep the settings; nothing is read yet.

        Args:
            tokenizer: Where the tokenizer comes from: a hub name, a folder or `package:NAME/PATH`.
                On the command line it defaults to the encoder's (`--model.pretrained`).
            train: Training questions: nothing for the official SQuAD 2.0 file, which is downloaded;
                or a path or URL of a SQuAD-format .json or .json.gz file, or `package:NAME/PATH`
                for one in an installed package; or the name of a hub dataset with SQuAD's columns.
            val: Validation questions, as for `train`; by default the official dev file.
            test: Test questions, as for `val`.
            predict: Questions to answer, as for `val`; answers are not needed.
            window: Tokens of a window at most, special tokens included.
            overlap: Context tokens that consecutive windows of a question share.
            max_question_tokens: A longer question loses its middle, and keeps so many tokens.
            context_first: Put the context before the question in a window.
            first_window_only: Cut a long context to its first window, instead of using several.
            every_answer: Make a training and validation window of every answer of a question, not
                only of its first.
            answer_boundaries: Where answers may begin and end: at whole words of the context, or at
                any token, as texts need that write words without spaces (Japanese, Thai) or answers
                inside words ("300" in "300crowns").
            batch_size: Training windows in a batch, on each device; with packed batches on average,
                since those have the same number of tokens.
            eval_batch_size: The same for validation, test and prediction.
            batching: "grouped" puts windows of like length together, in an order that is random
                overall; "random" does not look at lengths; "packed" puts windows of all lengths
                behind each other in one row, without padding, and attends within each alone.
                Evaluation always sorts by length.
            padding: Pad to the longest window of the batch ("batch"), or always to the longest that
                a window may be ("window").
            num_workers: Processes that prepare batches; 0 for the main process, which prepares one
                faster than it is handed one.
            train_unanswerable: What becomes of unanswerable questions in training: "no_answer"
                learns that they have none; "plausible" takes their plausible answers as if they
                were right, and drops those that have none; "drop" leaves them out.
            val_unanswerable: The same in validation. Scores are official ones only for "no_answer".
            max_train_questions: Use at most so many training questions: a random sample of
                paragraphs, fixed by `seed`.
            max_val_questions: The same for validation.
            holdout: Share of the training articles, 0 to 1, that are not trained on: the null
                threshold is tuned on their questions at every validation. 0 for none.
            seed: Fixes the samples, the articles held out and the order of training.
            cache_dir: Where downloads and tokenised windows are kept. By default the folder named
                by the environment variable QA_LIGHTNING_CACHE, else ~/.cache/qa_lightning.

        Raises:
            UserError: a size that is not possible.
        """
        super().__init__()
        # Logged together with the model's and the final figures, once, at the end of a run.
        self.save_hyperparameters(logger=False)
        require_valid(
            "data",
            self.hparams,
            batch_size=batch_size >= 1,
            eval_batch_size=eval_batch_size >= 1,
            holdout=0 <= holdout < 1,
            num_workers=num_workers >= 0,
            max_train_questions=max_train_questions is None or max_train_questions >= 1,
            max_val_questions=max_val_questions is None or max_val_questions >= 1,
        )
        if batching == "packed" and padding == "window":
            raise UserError(
                "--data.batching packed leaves nothing to pad; take --data.padding batch with it"
            )
        self.window_settings = WindowSettings(
            window,
            overlap,
            max_question_tokens,
            context_first,
            first_window_only,
            every_answer,
            answer_boundaries,
        )
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self._tokenizer: PreTrainedTokenizerFast | None = None
        self._sources: dict[Split, Source] = {}
        self._windows: dict[Split, Windows] = {}

    def prepare_data(self) -> None:
        """Download, read, tokenise and cache, on one process of each machine.

        What the Trainer is about to do says which splits; without a Trainer those of `fit`.
        """
        fn = self.trainer.state.fn if self.trainer is not None else None
        self._prepare(fn.value if fn else "fit")

    def _prepare(self, stage: str) -> None:
        tables: dict[str, SquadTables] = {}  # by digest: each source is read once
        for split in self._splits(stage):
            if split in self._windows:  # by an earlier stage
                continue
            folder = self._folder(split)
            if folder.exists():  # it appears when it is complete
                rank_zero_info(f"{split}: windows found in the cache, nothing to tokenise")
            else:
                self._make_windows(split, folder, tables)
            windows = self._windows[split] = self._open(folder)
            name = self.source(split).name
            if split != "predict":
                require_labels(windows.questions, name)
            self._describe(split)

    def setup(self, stage: str) -> None:
        """Open the cached windows, on every process that has not prepared them itself.

        Without a Trainer, those that `prepare_data` did not know of are prepared here.
        """
        if self.trainer is None:
            self._prepare(stage)
        for split in self._splits(stage):
            if split not in self._windows:
                self._windows[split] = self._open(self._folder(split))

    def train_dataloader(self) -> DataLoader:
        """Training batches, in an order that the seed and the epoch fix."""
        return self._loader("train")

    def val_dataloader(self) -> list[DataLoader]:
        """Validation batches, and in `fit` those of the articles held out."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        splits = self._splits("fit" if fitting else "validate")
        return [self._loader(split) for split in splits if split != "train"]

    def test_dataloader(self) -> DataLoader:
        """Test batches."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches to predict on."""
        return self._loader("predict")

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer; loaded when it is first asked for."""
        if self._tokenizer is None:
            from qa_lightning.model.tokenizer import load_tokenizer

            if self.hparams["tokenizer"] is None:
                raise UserError("say which tokenizer to use: --data.tokenizer, or tokenizer=...")
            self._tokenizer = load_tokenizer(self.hparams["tokenizer"])
        return self._tokenizer

    def windows(self, split: Split) -> Windows:
        """Windows of a split that `setup` opened."""
        return self._windows[split]

    def source(self, split: Split) -> Source:
        """The file or hub dataset that a split comes from; downloaded when first asked for."""
        if split not in self._sources:
            if split == "holdout":
                return self.source("train")
            official: Literal["train", "dev"] = "train" if split == "train" else "dev"
            self._sources[split] = resolve_source(
                self.hparams[split], official, self.cache_dir / "downloads"
            )
        return self._sources[split]

    def _splits(self, stage: str) -> tuple[Split, ...]:
        """Splits of a stage, in the order of their loaders."""
        splits = STAGES[stage]
        return splits if self.hparams["holdout"] else tuple(s for s in splits if s != "holdout")

    def _selection(self, split: Split) -> Selection:
        of_training = split in ("train", "holdout")
        return Selection(
            self.hparams.get(f"{'train' if of_training else split}_unanswerable", "no_answer"),
            self.hparams.get(f"max_{split}_questions"),
            self.hparams["seed"],
            self.hparams["holdout"] if of_training else 0.0,
            split == "holdout",
            placed=split == "train",
        )

    def _settings(self, split: Split) -> WindowSettings:
        settings = self.window_settings
        return replace(settings, every_answer=settings.every_answer and split in ("train", "val"))

    def windows_digest(self, split: Split) -> str:
        """Digest of all that a split's windows depend on."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # what its last use may have left switched on
        backend.no_padding()
        depends_on = {
            "data": self.source(split).digest,
            "selection": asdict(self._selection(split)),
            "labels": split != "predict",
            "windows": asdict(self._settings(split)),
            "tokenizer": hashlib.sha256(backend.to_str().encode()).hexdigest(),
            "layout": asdict(replace(PairLayout.of(self.tokenizer), types=None)),
        }
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]

    def _folder(self, split: Split) -> Path:
        """Where the split's windows are cached."""
        return self.cache_dir / "windows" / f"{self.windows_digest(split)}-{FORMAT}"

    def _open(self, folder: Path) -> Windows:
        """Open cached windows; token types are left out if the model takes none."""
        layout = PairLayout.of(self.tokenizer)
        module = self.trainer.lightning_module if self.trainer else None
        if not getattr(module, "takes_token_types", True):
            layout = replace(layout, types=None)
        return replace(open_windows(folder), layout=layout)

    def _make_windows(self, split: Split, folder: Path, tables: dict[str, SquadTables]) -> None:
        """Read (unless `tables` has it already), window and cache a split."""
        source = self.source(split)
        if source.digest not in tables:
            rank_zero_info(f"{split}: reading {source.name}")
            tables[source.digest] = read_squad(source, labels=split != "predict")
        if split == "train":
            require_places(tables[source.digest].report, source.name)
        try:
            selected = self._selection(split).of(tables[source.digest])
        except UserError as error:
            raise UserError(f"{source.name}: {error}") from error
        texts = selected.contexts.num_rows + selected.questions.num_rows
        name = f"{split}: tokenising"
        with tqdm(total=texts, desc=name, unit=" texts", file=sys.stderr) as bar:
            windows = make_windows(selected, self.tokenizer, self._settings(split), bar.update)
        save_windows(windows, folder)

    def _describe(self, split: Split) -> None:
        """Log how much a split holds, and what is left out of it or can never be answered."""
        windows, name = self._windows[split], self.source(split).name
        found = list(reading_findings(windows.report)) if split != "holdout" else []
        found += unread(windows, self.tokenizer.unk_token_id)
        if split in ("train", "val"):
            module = self.trainer.lightning_module if self.trainer else None
            longest = getattr(module, "max_answer_tokens", MAX_ANSWER_TOKENS)
            found += answers_never_given(windows, longest)
        for finding in found:
            log = rank_zero_info if finding.kind == "shifted_answers" else rank_zero_warn
            log(f"{name}: {finding}")
        if windows.untokenizable_answers:
            rank_zero_warn(
                f"{name}: {windows.untokenizable_answers} answers hold no token at all "
                "(white space or control characters); their windows are ignored in the loss"
            )
        questions = windows.questions
        answers = pc.list_value_length(questions.column("answers"))
        without = f" ({pc.sum(pc.equal(answers, 0)).as_py():,} without answer)"
        rank_zero_info(
            f"{split}: {questions.num_rows:,} questions{without if split != 'predict' else ''} on "
            f"{windows.contexts.num_rows:,} contexts, {len(windows):,} windows of "
            f"{windows.lengths.mean():.0f} tokens on average"
        )

    def _loader(self, split: Split) -> DataLoader:
        windows = self.windows(split)
        training = split == "train"
        workers = self.hparams["num_workers"]
        batching: Literal["grouped", "random", "packed"] = self.hparams["batching"]
        overfitting = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        sampler = (FixedSampler if overfitting else WindowSampler)(
            windows.lengths,
            self.hparams["batch_size" if training else "eval_batch_size"],
            order=batching if training else "sorted",
            seed=self.hparams["seed"],
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        return WindowLoader(
            WindowDataset(
                windows,
                with_offsets=not training,
                padding=self.hparams["padding"],
                row_tokens=sampler.row_tokens if sampler.order == "packed" else None,
            ),
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Without one of its own, every pass over the data would draw from the generator that
            # dropout draws from.
            generator=torch.Generator().manual_seed(self.hparams["seed"]),
        )
