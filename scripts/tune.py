"""Search learning rate, batch size and epochs with Optuna: each trial is a run of `fit`.

    python scripts/tune.py --trials 20 --learning_rate 5e-5 5e-4 --config configs/minilm.yaml

Options that `--help` does not list go to `fit`. Optuna (pip install 'qa-lightning[tune]') proposes
the values and prunes bad trials. A trial is a process of its own whose scores are read from what it
logs for TensorBoard, so the search survives a trial that runs out of memory or crashes. A search
that was stopped is resumed by the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from jsonargparse.typing import PositiveFloat, PositiveInt

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FIT = (sys.executable, "-m", "qa_lightning", "fit")
RATE, BATCH, EPOCHS = "model.learning_rate", "data.batch_size", "trainer.max_epochs"
OURS = {
    RATE: "--learning_rate LOW HIGH",
    BATCH: "--batch_size N N ...",
    EPOCHS: "--epochs FEWEST MOST",
    "trainer.val_check_interval": "--validations N",
    "trainer.default_root_dir": "--folder FOLDER",
    "trainer.logger": "TensorBoard's, from which the search reads the scores",
    "trainer.enable_checkpointing": "the command of the best trial, at the end",
}
"""Options of `fit` that the search sets itself, and what to use instead."""

POLL = 1.0  # seconds between two looks at a trial
STOP_WITHIN = 60.0  # seconds; a trial that has not ended by then is killed
UNPRUNED = 3
"""Trials that are trained to the end before any is pruned, since pruning compares with them."""

RANDOM = 5
"""Trials whose values are drawn at random, before Optuna proposes them from earlier results."""


@dataclass(frozen=True)
class Search:
    """What is searched, and with which options; only the same search can be resumed.

    Attributes:
        learning_rate: Lowest and highest, drawn on a logarithmic scale.
        batch_size: Those to choose from.
        epochs: Fewest and most.
        validations: Validations per epoch.
        metric: The figure to maximise: "exact" or "f1".
        options: Options that every `fit` is given.
    """

    learning_rate: tuple[float, float]
    batch_size: tuple[int, ...]
    epochs: tuple[int, int]
    validations: int
    metric: str
    options: tuple[str, ...]

    def propose(self, trial: Trial) -> None:
        """Let Optuna choose the trial's values."""
        trial.suggest_float(RATE, *self.learning_rate, log=True)
        trial.suggest_categorical(BATCH, self.batch_size)
        trial.suggest_int(EPOCHS, *self.epochs)

    def figure(self, scores: Sequence[float]) -> float:
        """The figure to maximise, of EM and F1."""
        return scores[("exact", "f1").index(self.metric)]

    def command(self, values: dict[str, Any]) -> list[str]:
        """Options of `fit` for a trial's values."""
        ours = {
            "trainer.val_check_interval": f"{1 / self.validations:.4g}",
            "checkpoint.monitor": f"val/{self.metric}",
            **{name: shown(value) for name, value in values.items()},
        }
        return [*self.options, *(word for name in ours for word in (f"--{name}", ours[name]))]


def shown(value: float) -> str:
    """A value as it is printed and given to `fit`: learning rates to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
        given.metric,
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
        while len(ended(study)) < given.trials:
            run(study.ask(), search, folder, fit)
            (folder / "results.md").write_text(results(study, search), encoding="utf-8")
    print(f"\n{results(study, search)}", end="")
    return int(best(study) is None)


def open_study(folder: Path, search: Search, seed: int) -> Study:
    """Begin a study, or resume the one in the folder.

    Raises:
        UserError: Optuna is not installed, or the folder holds another search.
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
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
        load_if_exists=True,
    )
    this = json.loads(json.dumps(asdict(search)))
    if ended(study) and study.user_attrs["search"] != this:
        other = json.dumps(study.user_attrs["search"])
        raise UserError(
            f"{folder} holds a search with other options: {other}. Give these, or another --folder"
        )
    study.set_user_attr("search", this)
    # The seed also depends on the trials so far: otherwise a resumed search draws the same again.
    seed += len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM)
    for interrupted in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(interrupted.number, state=TrialState.FAIL)
        study.enqueue_trial(interrupted.params)
    return study


def ended(study: Study) -> list[FrozenTrial]:
    """The trials that completed, were pruned or failed; interrupted ones do not count."""
    return [trial for trial in study.trials if "scores" in trial.user_attrs]


def best(study: Study) -> FrozenTrial | None:
    """The best trial that was trained to its end; None if none was."""
    try:
        return study.best_trial
    except ValueError:
        return None


def results(study: Study, search: Search) -> str:
    """All trials as a Markdown table, the best first, and the command that repeats the best."""
    parts = [
        "| trial | learning rate | batch size | epochs | EM | F1 | state | seconds |\n"
        "|---:|---:|---:|---:|---:|---:|---|---:|"
    ]
    failures = []
    for trial in sorted(
        ended(study), key=lambda one: -search.figure(one.user_attrs["scores"] or (-1, -1))
    ):
        values = [shown(trial.params[name]) for name in (RATE, BATCH, EPOCHS)]
        scores = [f"{value:.2f}" for value in trial.user_attrs["scores"] or ()] or ["", ""]
        cells = [str(trial.number), *values, *scores, state_of(trial), seconds_of(trial)]
        parts[0] += f"\n| {' | '.join(cells)} |"
        if message := trial.user_attrs["message"]:
            failures.append(f"- trial {trial.number} failed: {message}")
    if failures:
        parts.append("\n".join(failures))
    winner = best(study)
    if winner is None:
        parts.append("No trial was completed.")
    else:
        command = ["python", "-m", "qa_lightning", "fit", *search.command(winner.params)]
        parts.append(f"Trial {winner.number} again, with checkpoints:")
        parts.append(f"    {shlex.join(command)}")
    return "\n\n".join(parts) + "\n"


def state_of(trial: FrozenTrial) -> str:
    """How a trial ended, in words."""
    names = {"COMPLETE": "complete", "PRUNED": f"stopped at {trial.last_step} %", "FAIL": "failed"}
    return names[trial.state.name]


def seconds_of(trial: FrozenTrial) -> str:
    """How long a trial took."""
    return f"{trial.duration.total_seconds():.0f}" if trial.duration else ""


# --- one trial ---------------------------------------------------------------------------------


def run(trial: Trial, search: Search, folder: Path, fit: Sequence[str]) -> None:
    """Train with the values that Optuna proposes, and tell it the result.

    Raises:
        UserError: `fit` refused its options or its data before it began to train.
    """
    from optuna.trial import TrialState

    search.propose(trial)
    rate, batch, epochs = (shown(trial.params[name]) for name in (RATE, BATCH, EPOCHS))
    print(
        f"trial {trial.number}: learning rate {rate}, batch size {batch}, epochs {epochs}",
        flush=True,
    )
    own = folder / f"trial-{trial.number}"
    try:
        own.mkdir()
    except FileExistsError:
        raise UserError(f"{own} belongs to another search: give another --folder") from None
    log, logs = own / "log.txt", own / "lightning_logs" / "version_0"
    command = [*fit, *search.command(trial.params), "--trainer.default_root_dir", str(own)]
    command += ["--trainer.enable_checkpointing", "false"]
    with log.open("wb") as output:
        # In a session of its own, so that Ctrl-C reaches this process alone, which then stops it.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        scores, pruned = _watch(process, trial, search, logs)
    finally:
        _end(process)
    state, message = TrialState.PRUNED if pruned else TrialState.COMPLETE, ""
    if not pruned and process.returncode:
        state, message = TrialState.FAIL, _error_in(log)
        # Status 2 is a mistake of the user before there is a run, afterwards of the values tried.
        if process.returncode == 2 and not (logs / "config.yaml").exists():
            raise UserError(f"fit refuses to begin: {message}")
    elif not scores:
        state, message = TrialState.FAIL, "there was no validation"
    top = max(scores, key=search.figure, default=None)
    trial.set_user_attr("scores", top)
    trial.set_user_attr("message", message)
    value = search.figure(top) if top and state == TrialState.COMPLETE else None
    done = trial.study.tell(trial, value, state)
    print(
        f"  {state_of(done).split()[0]} after {seconds_of(done)} s {message}".rstrip(), flush=True
    )


def _watch(
    process: subprocess.Popen[bytes], trial: Trial, search: Search, logs: Path
) -> tuple[list[tuple[float, float]], bool]:
    """Report the validations of a trial to Optuna until it ends or is pruned.

    Returns:
        EM and F1 of every validation, and whether the trial is to be pruned.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: EventAccumulator | None = None
    found: list[tuple[float, float]] = []
    planned = search.validations * trial.params[EPOCHS]
    running, pruned = True, False
    while running and not pruned:
        running = _is_running(process)
        if events is None and logs.is_dir():
            events = EventAccumulator(str(logs))
        for both in _scores(events)[len(found) :]:
            found.append(both)
            # Trials of few and of many epochs are compared at the same share of their training.
            share = min(round(100 * len(found) / planned), 100)
            print(f"  {share:3} %   EM {both[0]:.2f}   F1 {both[1]:.2f}", flush=True)
            trial.report(search.figure(both), share)
            pruned = pruned or (running and trial.should_prune())
    return found, pruned


def _scores(events: EventAccumulator | None) -> list[tuple[float, float]]:
    """EM and F1 of the validations that were logged so far."""
    tags = ("val/exact", "val/f1")
    if events is None or not set(tags) <= set(events.Reload().Tags()["scalars"]):
        return []
    exact, f1 = ([event.value for event in events.Scalars(tag)] for tag in tags)
    return list(zip(exact, f1, strict=False))


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    """Wait a little; whether the process is still running."""
    try:
        process.wait(POLL)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a trial that is still running, with all processes that it may have started."""
    process.terminate()
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _error_in(log: Path) -> str:
    """The last error in a trial's output, or else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["no output"]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1].removeprefix("error: ")


# --- options -----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python scripts/tune.py",
        description="Search learning rate, batch size and epochs. Options that are not listed here "
        "go to fit.",
        allow_abbrev=False,  # an abbreviation could be meant for fit
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    count: dict[str, Any] = {"type": PositiveInt, "metavar": "N"}
    rates: dict[str, Any] = {"type": PositiveFloat, "nargs": 2, "metavar": ("LOW", "HIGH")}
    epochs: dict[str, Any] = {"type": PositiveInt, "nargs": 2, "metavar": ("FEWEST", "MOST")}
    add = parser.add_argument
    add("--trials", default=20, help="how many, those before included", **count)
    add("--learning_rate", default=(2e-5, 5e-4), help="drawn on a logarithmic scale", **rates)
    add("--batch_size", default=(16, 32), nargs="+", help="those to choose from", **count)
    add("--epochs", default=(1, 3), help="per trial", **epochs)
    add("--validations", default=4, help="per epoch; each may stop a trial", **count)
    add("--metric", default="exact", choices=("exact", "f1"), help="the figure to maximise")
    add("--folder", default=Path("tuning"), type=Path, help="for runs, search and results.md")
    add("--seed", default=0, type=int, metavar="N", help="fixes what is drawn")
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
        if name.removeprefix("--") in OURS:
            raise UserError(f"{name} is not for fit here, but {OURS[name.removeprefix('--')]}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped: the same command resumes the search", file=sys.stderr)
        sys.exit(130)
