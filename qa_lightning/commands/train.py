"""fit, validate, test and predict: LightningCLI with our defaults and callbacks."""

import hashlib
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

import qa_lightning
from qa_lightning.commands.parser import MistakesAsUserErrors
from qa_lightning.commands.saved_settings import take_from_model, take_from_run
from qa_lightning.commands.users_parts import bar_unless_given, plugins_and_precision, put_first
from qa_lightning.data.download import default_cache_dir
from qa_lightning.data.files import atomic_folder
from qa_lightning.errors import UserError
from qa_lightning.model.checkpoint import read_checkpoint
from qa_lightning.model.encoder import layer_sizes
from qa_lightning.model.hardware import keep_freed_memory, unusable_gpu
from qa_lightning.model.precision import choose_precision
from qa_lightning.model.run_folder import CHECKPOINTS, CONFIG, LAST
from qa_lightning.training import lightning_private, slurm
from qa_lightning.training.best_model import SaveBestModel
from qa_lightning.training.checkpoint_files import (
    newest_checkpoint,
    newest_runs_first,
)
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.evaluation_files import EvaluationFiles
from qa_lightning.training.failures import as_user_error, check_folder
from qa_lightning.training.guards import FiniteLoss
from qa_lightning.training.module import QuestionAnsweringModule
from qa_lightning.training.monitors import best_is, check_monitors
from qa_lightning.training.optimizer import check_schedule_ends, compute_as_ddp
from qa_lightning.training.panels import ValidationPanels
from qa_lightning.training.resume import PRECISION, Interrupted, LastCheckpoint
from qa_lightning.training.resume_checks import POSITION, check_resumable
from qa_lightning.training.run_folder import RUNS, RunFolder, leaves_files, next_run, run_folder
from qa_lightning.training.run_record import RunRecord, is_of_job
from qa_lightning.training.throughput import Throughput

TRAINER_DEFAULTS = {
    "max_epochs": 3,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": None,  # by the device
    # The first batch holds the longest windows: if it fits and can be scored, so do the others.
    "num_sanity_val_steps": 1,
}

CHOSEN_PRECISION = "QA_LIGHTNING_PRECISION"
"""Environment variable that tells the processes that `fit` starts what the first one chose."""

CHECKPOINT_DEFAULTS = {
    "checkpoint.filename": "best",
    "checkpoint.monitor": "val/exact",
    "checkpoint.mode": "auto",  # the lowest loss is the best, and the highest of all other figures
    "checkpoint.save_top_k": 1,
    "checkpoint.save_last": True,
    "checkpoint.enable_version_counter": False,
}

IGNORED_WARNINGS = (
    "does not have many workers",  # a batch is assembled in well under a millisecond
    "callbacks used to create the checkpoint",  # an evaluation needs none of them
    "treespec, LeafSpec",  # Lightning's own, about torch
    "It is recommended to use .self.log.*sync_dist",  # all processes have the same figures
    "your dataloader is not resumable",  # `LastCheckpoint` resumes it
    "Checkpoint directory .* exists and is not empty",  # a run is resumed in its own folder
)


def unpack_tokenizer(files: dict[str, str], cache_dir: Path) -> Path:
    """Write a checkpoint's tokenizer (see `tokenizer_files`) to a folder of the cache; gives it."""
    from qa_lightning.model.tokenizer import restore_tokenizer

    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    folder = cache_dir / "tokenizers" / digest
    if not folder.is_dir():
        with atomic_folder(folder, replace=False) as building:
            restore_tokenizer(files).save_pretrained(building)
    return folder


class TrainingParser(MistakesAsUserErrors, LightningArgumentParser):
    """Lightning's parser, with mistakes reported as those of the other commands are."""


def find_recipe(config: str) -> str:
    """A configuration file: as given or, if there is none, the recipe of that name that we ship.

    So `--config configs/quickstart.yaml` works in any folder, with a clone or without.
    """
    package = Path(qa_lightning.__file__).parent
    shipped = [folder / "configs" / Path(config).name for folder in (package, package.parent)]
    found = next((path for path in (Path(config), *shipped) if path.is_file()), Path(config))
    if found != Path(config):
        rank_zero_info(f"--config {config}: {found}")
    return str(found)


class SaveConfig(SaveConfigCallback):
    """Saves the configuration once all is set up: a start that fails leaves no run folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet: the data may turn out not to fit the model."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save it in the run's folder."""
        path = run_folder(trainer) / CONFIG
        if trainer.is_global_zero and leaves_files(trainer):
            self.parser.save(self.config, str(path), overwrite=True, multifile=False)


class QuestionAnsweringCLI(LightningCLI):
    """The commands fit, validate, test and predict."""

    def __init__(self, args: list[str] | None = None) -> None:
        """Parse a command and its options, by default those of the process, and run it."""
        self._checkpoint: dict[str, Any] | None = None
        self._run: Path | None = None  # the run that `--ckpt_path last` resumes
        super().__init__(
            QuestionAnsweringModule,
            SquadDataModule,
            save_config_callback=SaveConfig,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            seed_everything_default=42,
            auto_configure_optimizers=False,
            parser_class=TrainingParser,
            # An abbreviation would be a misspelling that nobody notices.
            parser_kwargs={"prog": "python -m qa_lightning", "allow_abbrev": False},
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of checkpointing."""
        parser.add_class_arguments(ModelCheckpoint, "checkpoint")
        parser.set_defaults(CHECKPOINT_DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and remember which options were given."""
        super().parse_arguments(parser, args)
        self._given = parser.parse_args(args, defaults=False).as_dict()

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Add the option that only evaluations have."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "fit":
            parser.add_argument(
                "--output",
                type=str | None,
                default=None,
                help="Folder for predictions and report; by default the run's own.",
            )
        return parser

    def _parse_ckpt_path(self) -> None:
        """Find the checkpoint; take the settings that belong to it, or to the model, from there."""
        options = self.config[self.config["subcommand"]]
        if options.get("ckpt_path") in ("last", "hpc"):
            options["ckpt_path"] = self._find(options["ckpt_path"])
        path = options.get("ckpt_path")
        if path in ("best", "registry"):
            return
        try:
            self._checkpoint = read_checkpoint(path) if path else None
        except UserError as error:
            raise UserError(f"--ckpt_path: {error}") from error
        given = self._given[self.config["subcommand"]]
        if self.config["subcommand"] != "fit":
            take_from_model(options, given, self._checkpoint)
        elif self._checkpoint is not None:
            take_from_run(options, given, self._checkpoint)

    def _find(self, which: Literal["last", "hpc"]) -> str | None:
        """The newest checkpoint of the newest run that has one; with "hpc", of this SLURM job's.

        None if there is none, and `fit` is to start from the beginning.
        """
        command = self.config["subcommand"]
        options = self.config[command]
        runs = Path(options["trainer"]["default_root_dir"] or ".", RUNS)
        job = slurm.job() if which == "hpc" else None
        if which == "hpc" and job is None:
            raise UserError("--ckpt_path hpc is for SLURM jobs; elsewhere say --ckpt_path last")
        own = [run for run in newest_runs_first(runs) if job is None or is_of_job(run, job)]
        places: list[tuple[Path | None, Path]] = [(run, run / CHECKPOINTS) for run in own]
        if (folder := options["checkpoint"]["dirpath"]) and (own or job is None):
            places = [(next(iter(own), None), Path(folder))]
        for run, place in places:
            if path := newest_checkpoint(place):
                rank_zero_info(f"--ckpt_path {which}: {path}")
                self._run = run
                return str(path)
        reason = f"there is no run{f' of SLURM job {job}' if job else ''} in {runs}"
        if places:
            reason = f"{places[0][1] if folder else runs} holds no checkpoint"
        if command != "fit":
            raise UserError(f"--ckpt_path {which}: {reason}; name the file instead")
        # No mistake: a command that is started again and again can always say `last`.
        rank_zero_info(f"--ckpt_path {which}: {reason}; training starts from the beginning")
        return None

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on the hardware, on the encoder or on the checkpoint."""
        options = self.config[self.subcommand]
        trainer, data = options["trainer"], options["data"]
        if trainer["accelerator"] in ("auto", "gpu", "cuda") and (problem := unusable_gpu()):
            if trainer["accelerator"] != "auto":
                raise UserError(f"--trainer.accelerator {trainer['accelerator']}: {problem}")
            rank_zero_warn(f"{problem}. Until then the CPU computes.")
            trainer["accelerator"] = "cpu"
        if trainer["log_every_n_steps"] is None:  # logging waits for the device
            on_cuda = trainer["accelerator"] != "cpu" and torch.cuda.is_available()
            trainer["log_every_n_steps"] = 50 if on_cuda else 10
        if trainer["accelerator"] == "cpu" or not torch.cuda.is_available():
            keep_freed_memory()
        if options["checkpoint"]["mode"] == "auto":
            options["checkpoint"]["mode"] = best_is(options["checkpoint"]["monitor"])
        if data["tokenizer"] is None:
            if self._checkpoint is not None:
                cache = data["cache_dir"]
                cache_dir = Path(cache).expanduser() if cache else default_cache_dir()
                files = self._checkpoint["tokenizer"]
                data["tokenizer"] = str(unpack_tokenizer(files, cache_dir))
            else:
                data["tokenizer"] = options["model"]["pretrained"]

    def after_instantiate_classes(self) -> None:
        """Refuse data that do not fit the encoder before anything is fetched or written."""
        self.model.check_data(self.datamodule)
        if self.subcommand != "fit":
            return
        check_monitors(self.trainer)
        if self.trainer.max_steps == self.trainer.max_epochs == -1:
            check_schedule_ends(float("inf"))
        compute_as_ddp(self.trainer)
        if self._checkpoint is not None:
            check_resumable(self._checkpoint, self.trainer, self.datamodule)
        if self.trainer.checkpoint_callbacks and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_folder(self._folder(), self.model)

    def _folder(self) -> Path:
        """Where checkpoints go, as far as it is known before the run has a folder."""
        best = self.trainer.checkpoint_callback
        return Path(getattr(best, "dirpath", None) or self.trainer.default_root_dir)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and turn what it dies of into a UserError; all processes end with this one."""
        try:
            with as_user_error(self._folder()), self._run_folder.made(self.trainer):
                super()._run_subcommand(subcommand)
        except BaseException:
            lightning_private.end_other_processes(self.trainer)
            raise

    def _choose_precision(self, trainer: Namespace) -> str:
        """Choose the precision if none was given: one for all processes, and for a resumed run."""
        given: str | None = trainer["precision"]
        if given is not None:
            return given
        resumed = (self._checkpoint or {}) if self.subcommand == "fit" else {}
        precision = resumed.get(POSITION, {}).get(PRECISION)
        reason = "that of the run that is resumed"
        if precision is None and int(os.environ.get("LOCAL_RANK", 0)) > 0:
            precision = os.environ.get(CHOSEN_PRECISION)
        if precision is None:
            sizes = layer_sizes(self.model.encoder.config)
            precision, reason = choose_precision(trainer["accelerator"], *sizes)
            os.environ[CHOSEN_PRECISION] = precision
        rank_zero_info(f"precision: {precision} ({reason})")
        return str(precision)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the callbacks that every run has."""
        options = self._get(self.config_init, "trainer")
        precision = self._choose_precision(options)
        # Also in the configuration that is saved with the run.
        options["precision"] = self._get(self.config, "trainer")["precision"] = precision
        fitting = self.subcommand == "fit"
        if options["barebones"]:
            raise UserError(
                "--trainer.barebones true trains without checkpoints, logs and scores: leave it out"
            )
        name = RUNS if fitting else f"{RUNS}/{self.subcommand}"
        runs = Path(options["default_root_dir"] or ".", name)
        resumed = self._run if fitting else None
        self._run_folder = RunFolder(resumed or next_run(runs), resumed=resumed is not None)
        bar = bar_unless_given(options["callbacks"], options["enable_progress_bar"])
        callbacks = [self._run_folder, *bar]
        best: ModelCheckpoint | None = None
        if fitting:
            callbacks += [FiniteLoss(), RunRecord(), Throughput(), ValidationPanels()]
        if options["logger"] in (None, True):
            kwargs["logger"] = TensorBoardLogger(
                options["default_root_dir"] or ".",
                name=name,
                default_hp_metric=False,
                **self._logger_of_resumed_run(),
            )
        if fitting and options["logger"] not in (False, []):
            callbacks.append(LearningRateMonitor("step"))
        if not fitting:
            self.save_config_callback = None
        if fitting and options["enable_checkpointing"] is not False:
            last, best = self._checkpoints(options["limit_val_batches"])
            # First, for it corrects the logging step before the other callbacks log.
            callbacks = [last, *callbacks, SaveBestModel(), best]
        if not fitting:
            callbacks.append(EvaluationFiles(self._get(self.config, "output")))
        self.trainer_defaults["callbacks"] = callbacks
        precision = self._given[str(self.subcommand)].get("trainer", {}).get("precision")
        kwargs |= plugins_and_precision(options["plugins"], precision, options["precision"])
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"the options of --trainer do not go together: {error}") from error
        put_first(best, trainer)
        return trainer

    def _checkpoints(self, limit_val_batches: Any) -> tuple[LastCheckpoint, ModelCheckpoint]:
        """The callbacks that write `last.ckpt` and `best.ckpt`."""
        settings = self._get(self.config, "checkpoint").as_dict()
        last = LastCheckpoint(
            settings.pop("every_n_train_steps"),
            settings.pop("train_time_interval"),
            write=bool(settings.pop("save_last")),
        )
        if settings["save_top_k"] not in (0, 1) and "{" not in settings["filename"]:
            raise UserError(
                f"--checkpoint.save_top_k {settings['save_top_k']} would write them all to "
                f"{settings['filename']}.ckpt: say --checkpoint.filename={{epoch}}-{{step}}, or "
                "keep more beside the best with --trainer.callbacks+=ModelCheckpoint"
            )
        if limit_val_batches == 0:
            settings["monitor"] = None  # nothing is validated: keep the newest
        return last, ModelCheckpoint(**settings)

    def _logger_of_resumed_run(self) -> dict[str, Any]:
        """Options of a logger that continues a run's curves from the checkpoint on."""
        if self.subcommand != "fit" or self._run is None or self._checkpoint is None:
            return {}
        step = self._checkpoint.get(POSITION, {}).get("logger_step", 0)
        return {"version": int(self._run.name.removeprefix("version_")), "purge_step": step}


def run(args: list[str] | None = None) -> int:
    """Run a command (by default that of the process); returns the exit status.

    It is 2 after a user's mistake, which is printed without a traceback, and 128 + N for a run that
    was stopped by signal N, as in a shell.
    """
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    given = sys.argv if args is None else args
    for at, option in enumerate(given[:-1], start=1):
        if option == "--config":
            given[at] = find_recipe(given[at])
    try:
        QuestionAnsweringCLI(args)
    except SIGTERMException:
        return _stopped(signal.SIGTERM, written=False)
    except Interrupted as stop:
        return _stopped(stop.signum, stop.written)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _stopped(signum: int, written: bool) -> int:
    resume = f"; {LAST} is written: the same command with --ckpt_path last resumes the run"
    name = signal.Signals(signum).name
    print(f"stopped by {name} between two steps{resume if written else ''}", file=sys.stderr)
    return 128 + signum
