"""Search learning rate, batch size and epochs: each trial is a run of `fit`, bad ones are stopped.

    python scripts/tune.py --trials 20 --learning_rate 5e-5 5e-4 --config configs/minilm.yaml

Options that `--help` does not list go to `fit`. Optuna (pip install 'qa-lightning[tune]') proposes
the values. How a trial does is read from what it logs for TensorBoard, so that a trial is nothing
but the command line: it can run out of memory or crash, and the search goes on. So does a search
that was stopped, when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from qa_lightning.commands.arguments import Parser, number
from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from optuna import Study, Trial

FIT = (sys.executable, "-m", "qa_lightning", "fit")
EXACT, F1 = "val/exact", "val/f1"
RATE, BATCH, EPOCHS = "--model.learning_rate", "--data.batch_size", "--trainer.max_epochs"
OURS = {
    RATE: "--learning_rate LOW HIGH",
    BATCH: "--batch_size N N ...",
    EPOCHS: "--epochs FEWEST MOST",
    "--trainer.val_check_interval": "--validations N",
    "--trainer.default_root_dir": "--folder FOLDER",
    "--trainer.logger": "TensorBoard's, from which the search reads how a trial does",
    "--trainer.enable_checkpointing": "the command of the best trial, at the end",
}
"""Options of `fit` that are not for passing on, and what is meant instead."""

LOOK_EVERY = 1.0  # seconds
STOP_WITHIN = 60.0  # seconds; a trial that has not ended by then is killed
UNSTOPPED = 3
"""Trials that are trained to the end before any is stopped: those that others are compared with."""

DRAWN = 5
"""Trials whose values are drawn at random, before they are proposed from what came of others."""


@dataclass(frozen=True)
class Search:
    """What is searched, and with which options; a search goes on only as what it was.

    Attributes:
        learning_rate: Lowest and highest, drawn on a logarithmic scale.
        batch_size: Those to choose from.
        epochs: Fewest and most.
        validations: How often an epoch is interrupted to validate.
        metric: The figure that counts: "val/exact" or "val/f1".
        options: What every `fit` is given.
    """

    learning_rate: tuple[float, float]
    batch_size: tuple[int, ...]
    epochs: tuple[int, int]
    validations: int
    metric: str
    options: tuple[str, ...]

    def values(self, trial: Trial) -> dict[str, str]:
        """Options of `fit` that a trial is to try."""
        rate = trial.suggest_float("learning_rate", *self.learning_rate, log=True)
        batch = trial.suggest_categorical("batch_size", self.batch_size)
        epochs = trial.suggest_int("epochs", *self.epochs)
        return {RATE: f"{rate:.3g}", BATCH: str(batch), EPOCHS: str(epochs)}

    def command(self, values: dict[str, str]) -> list[str]:
        """Options of `fit` for these values, in full."""
        ours = {
            "--trainer.val_check_interval": f"{1 / self.validations:.4g}",
            "--checkpoint.monitor": self.metric,
            **values,
        }
        return [*self.options, *(word for option in ours.items() for word in option)]


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        state: "complete", "stopped" (as one of the worse) or "failed".
        exact: EM of its best validation; None if there was none.
        f1: F1 of the same.
        share: How much of its training it did, in percent.
        seconds: How long it took.
        message: What it failed of.
    """

    state: str
    exact: float | None
    f1: float | None
    share: int
    seconds: float
    message: str = ""


def main(arguments: Sequence[str] | None = None, fit: Sequence[str] = FIT) -> int:
    """Run the search; returns the exit status.

    Args:
        arguments: By default those of the process.
        fit: The command that trains.

    Raises:
        UserError: an option is wrong, here or in `fit`.
    """
    given, options = _parser().parse_known_args(arguments)
    search = Search(
        tuple(given.learning_rate),
        tuple(given.batch_size),
        tuple(given.epochs),
        given.validations,
        f"val/{given.metric}",
        tuple(options),
    )
    _check(search)
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "search.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"a search is at work in {folder}: give another --folder") from None
    with lock:
        study = open_study(folder, search, given.seed)
        while len(outcomes(study)) < given.trials:
            trial = study.ask()
            _run(trial, search, folder, fit)
            (folder / "results.md").write_text(results(study, search), encoding="utf-8")
    print(f"\n{results(study, search)}", end="")
    return int(best(study, search) is None)


def open_study(folder: Path, search: Search, seed: int) -> Study:
    """Begin a study, or go on with the one in the folder.

    Raises:
        UserError: Optuna is not there, or the folder holds another search.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("the search needs Optuna: pip install 'qa-lightning[tune]'") from None
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        study_name="qa_lightning",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNSTOPPED),
        load_if_exists=True,
    )
    what = json.loads(json.dumps(asdict(search)))
    if outcomes(study) and study.user_attrs["search"] != what:
        other = json.dumps(study.user_attrs["search"])
        raise UserError(
            f"{folder} holds a search with other options: {other}. Give these, or another --folder"
        )
    study.set_user_attr("search", what)
    # With its seed alone a search that goes on would draw what it drew before.
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), n_startup_trials=DRAWN
    )
    for left in study.get_trials(states=[TrialState.RUNNING]):  # when the search was stopped
        study.tell(left.number, state=TrialState.FAIL)
        study.enqueue_trial(left.params)
    return study


def outcomes(study: Study) -> dict[int, tuple[dict[str, str], Outcome]]:
    """Values and outcome of every trial that has ended, by its number."""
    return {
        trial.number: (trial.user_attrs["values"], Outcome(**trial.user_attrs["outcome"]))
        for trial in study.trials
        if "outcome" in trial.user_attrs
    }


def best(study: Study, search: Search) -> int | None:
    """Number of the best trial that was trained to its end; None if none was."""
    ended = {n: one for n, (_, one) in outcomes(study).items() if one.state == "complete"}
    return max(ended, key=lambda n: _figure(ended[n], search), default=None)


def results(study: Study, search: Search) -> str:
    """All trials as a Markdown table, the best first, and the command that repeats the best."""
    rows = [
        "| trial | learning rate | batch size | epochs | EM | F1 | state | seconds |",
        "|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    failures = []
    ended = outcomes(study)
    for n in sorted(ended, key=lambda n: _figure(ended[n][1], search), reverse=True):
        values, one = ended[n]
        figures = ["" if value is None else f"{value:.2f}" for value in (one.exact, one.f1)]
        state = f"stopped at {one.share} %" if one.state == "stopped" else one.state
        cells = [n, values[RATE], values[BATCH], values[EPOCHS], *figures, state]
        rows.append(f"| {' | '.join(map(str, cells))} | {one.seconds:.0f} |")
        if one.message:
            failures.append(f"- trial {n} failed: {one.message}")
    parts = ["\n".join(rows), "\n".join(failures)]
    number_of_best = best(study, search)
    if number_of_best is None:
        parts.append("No trial was completed.")
    else:
        command = ["python", "-m", "qa_lightning", "fit"]
        command += search.command(ended[number_of_best][0])
        parts += [f"Trial {number_of_best} again, with checkpoints:", f"    {shlex.join(command)}"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _figure(one: Outcome, search: Search) -> float:
    value = one.f1 if search.metric == F1 else one.exact
    return -1.0 if value is None else value


# --- one trial ---------------------------------------------------------------------------------


def _run(trial: Trial, search: Search, folder: Path, fit: Sequence[str]) -> None:
    """Train as the trial proposes, and tell the study what came of it."""
    from optuna.trial import TrialState

    values = search.values(trial)
    print(
        f"trial {trial.number}: learning rate {values[RATE]}, batch size {values[BATCH]}, "
        f"epochs {values[EPOCHS]}",
        flush=True,
    )
    outcome = _train(trial, search, values, folder / f"trial-{trial.number}", fit)
    trial.set_user_attr("values", values)
    trial.set_user_attr("outcome", asdict(outcome))
    if outcome.state == "complete":
        trial.study.tell(trial, _figure(outcome, search))
    else:
        stopped = outcome.state == "stopped"
        trial.study.tell(trial, state=TrialState.PRUNED if stopped else TrialState.FAIL)
    print(f"  {outcome.state} after {outcome.seconds:.0f} s {outcome.message}".rstrip(), flush=True)


def _train(
    trial: Trial, search: Search, values: dict[str, str], folder: Path, fit: Sequence[str]
) -> Outcome:
    """Run `fit`, watch its validations, stop it if they are worse than those of other trials.

    Raises:
        UserError: `fit` refused its options or its data before it began to train.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        raise UserError(f"{folder} is of another search: give another --folder") from None
    log = folder / "log.txt"
    run = folder / "lightning_logs" / "version_0"
    command = [*fit, *search.command(values), "--trainer.default_root_dir", str(folder)]
    command += ["--trainer.enable_checkpointing", "false"]
    validations = Validations(run)
    planned = search.validations * int(values[EPOCHS])
    share = 0
    began = time.monotonic()
    with log.open("wb") as output:
        # In a session of its own: a Ctrl-C reaches it through us alone.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    running, stopped = True, False
    try:
        while running and not stopped:
            running = _runs_on(process)
            for count, exact, f1 in validations.new():
                # Trials of few and of many epochs are compared at the same part of their course.
                share = min(round(100 * count / planned), 100)
                print(f"  {share:3} %   EM {exact:.2f}   F1 {f1:.2f}", flush=True)
                trial.report(f1 if search.metric == F1 else exact, share)
                stopped = stopped or (running and trial.should_prune())
    finally:
        _end(process)
    state = "stopped" if stopped else "failed" if process.returncode else "complete"
    message = ""
    if state == "failed":
        message = _last_words(log)
        # 2 tells a mistake: of the user, until there is a run; afterwards, of the values tried.
        if process.returncode == 2 and not (run / "config.yaml").exists():
            raise UserError(f"fit refuses to begin: {message}")
    elif not validations.found:
        state, message = "failed", "there was no validation"
    exact, f1 = max(
        validations.found,
        key=lambda found: found[search.metric == F1],
        default=(None, None),
    )
    return Outcome(state, exact, f1, share, time.monotonic() - began, message)


class Validations:
    """The validations of a run that is under way, read from its TensorBoard events."""

    def __init__(self, run: Path) -> None:
        """Nothing is read yet; the folder of the run need not be there."""
        self.found: list[tuple[float, float]] = []  # EM and F1 of each
        self._run = run
        self._events: Any = None

    def new(self) -> Iterator[tuple[int, float, float]]:
        """Number (from 1), EM and F1 of the validations since the last call."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        if self._events is None:
            if not self._run.is_dir():
                return
            self._events = EventAccumulator(str(self._run))
        self._events.Reload()
        if not {EXACT, F1} <= set(self._events.Tags()["scalars"]):
            return
        columns = [[event.value for event in self._events.Scalars(tag)] for tag in (EXACT, F1)]
        for both in list(zip(*columns, strict=False))[len(self.found) :]:
            self.found.append(both)
            yield len(self.found), *both


def _runs_on(process: subprocess.Popen[bytes]) -> bool:
    """Wait a little; whether the process goes on."""
    try:
        process.wait(LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """See that a trial has ended, with all processes that it may have started."""
    process.terminate()
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(log: Path) -> str:
    """What a process said of its end: the error it told, or else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["it said nothing"]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1].removeprefix("error: ")


# --- options -----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python scripts/tune.py",
        description="Search learning rate, batch size and epochs. Options that are not listed here "
        "go to fit.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    rate = number(float, "a number above 0", lambda value: 0 < value < float("inf"))
    count = number(int, "a whole number from 1", lambda value: value >= 1)
    parser.add_argument(
        "--trials", type=count, default=20, metavar="N", help="how many, with those of before"
    )
    parser.add_argument(
        "--learning_rate",
        type=rate,
        nargs=2,
        default=(2e-5, 5e-4),
        metavar=("LOW", "HIGH"),
        help="drawn on a logarithmic scale",
    )
    parser.add_argument(
        "--batch_size", type=count, nargs="+", default=(16, 32), metavar="N", help="those to try"
    )
    parser.add_argument(
        "--epochs",
        type=count,
        nargs=2,
        default=(1, 3),
        metavar=("FEWEST", "MOST"),
        help="how many",
    )
    parser.add_argument(
        "--validations",
        type=count,
        default=4,
        metavar="N",
        help="validate so often in each epoch; a trial can be stopped at each validation",
    )
    parser.add_argument(
        "--metric", choices=("exact", "f1"), default="exact", help="the figure that counts"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("tuning"),
        help="where the trials' runs and the search itself are kept, and results.md",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="fixes what is drawn")
    return parser


def _check(search: Search) -> None:
    """Refuse what cannot be searched.

    Raises:
        UserError: it cannot.
    """
    for name, (low, high) in (("learning_rate", search.learning_rate), ("epochs", search.epochs)):
        if low > high:
            raise UserError(f"--{name} {low:g} {high:g}: give the smaller one first")
    for option in search.options:
        name = option.split("=")[0]
        if name in OURS:
            raise UserError(f"{name} is not for fit here, but {OURS[name]}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped: the same command goes on with the search", file=sys.stderr)
        sys.exit(130)
