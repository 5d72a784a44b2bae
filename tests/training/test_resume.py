"""A run that is stopped, however that happens, ends as the one that was not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from qa_lightning.data.sampler import WindowSampler
from qa_lightning.errors import UserError
from qa_lightning.model.trained_model import TrainedModel
from qa_lightning.training import checkpoint_files
from qa_lightning.training.checkpoint_files import (
    AtomicCheckpointIO,
    newest_checkpoint,
    newest_runs_first,
    write_atomically,
)
from qa_lightning.training.resume import LastCheckpoint
from tests.helpers.command import QUIET, TINY_WINDOWS, Outcome, call, files_under
from tests.helpers.data import REPOSITORY, squad_data
from tests.helpers.stopping import Crash


@contextmanager
def as_if_killed() -> Iterator[None]:
    """Nothing is written of a run that ends with a crash, as if it had been killed."""
    with mock.patch.object(LastCheckpoint, "on_exception"), pytest.raises(Crash):
        yield


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every curve that time does not enter, and steps of the figures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return {"figures": [(image.step, 0.0) for image in events.Images("val/no_answer")]} | {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if name.startswith(("train/", "val/", "lr"))
    }


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, tensors included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_same_end(run: Path, whole: Path) -> None:
    """Both runs ended alike, and left the same curves."""
    mine, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (run, whole)
    )
    for part in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
        assert same(mine[part], theirs[part]), part
    assert same(mine["position"], theirs["position"])
    assert same(mine["loops"]["fit_loop"], theirs["loops"]["fit_loop"])
    for name, state in theirs["callbacks"].items():
        if name == "SaveBestModel":
            timeless = [
                [
                    {key: value for key, value in entry.items() if key.startswith(("val/", "step"))}
                    for entry in history
                ]
                for history in (mine["callbacks"][name]["history"], state["history"])
            ]
            assert timeless[0] == timeless[1]
            assert mine["callbacks"][name]["losses"] == state["losses"]
        if name.startswith("ModelCheckpoint"):
            assert same(mine["callbacks"][name]["best_model_score"], state["best_model_score"])
    best = [
        torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for folder in (run, whole)
    ]
    assert same(*best)
    assert curves(run) == curves(whole)
    assert (run / "model" / "model.safetensors").read_bytes() == (
        whole / "model" / "model.safetensors"
    ).read_bytes()


@dataclass
class Course:
    """Runs with the same data, and those of them that nothing stopped."""

    root: Path
    options: list[Any]
    whole: dict[tuple[Any, ...], Path] = field(default_factory=dict)

    def command(
        self, folder: Path, *options: Any, stop: tuple[Any, ...] | None = None
    ) -> list[Any]:
        """The command that trains; `stop` is what `StopAt` takes."""
        moment: list[str] = []
        if stop:
            names = dict(zip(("hook", "number", "how", "rank"), stop, strict=False))
            described = {"class_path": "tests.helpers.stopping.StopAt", "init_args": names}
            moment = ["--trainer.callbacks+=" + json.dumps(described)]
        place = ("--trainer.default_root_dir", folder)
        return ["fit", *self.options, *place, *options, *moment]

    def fit(self, folder: Path, *options: Any, stop: tuple[Any, ...] | None = None) -> Outcome:
        """Train."""
        return call(*self.command(folder, *options, stop=stop))

    def reference(self, *options: Any) -> Path:
        """The run with these options that nothing stopped."""
        if options not in self.whole:
            folder = self.root / f"whole-{len(self.whole)}"
            outcome = self.fit(folder, *options)
            assert outcome.status == 0, outcome.err
            self.whole[options] = folder / "lightning_logs" / "version_0"
        return self.whole[options]


@pytest.fixture(scope="module")
def course(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Course:
    root = tmp_path_factory.mktemp("course")
    train, val = root / "train.json", root / "val.json"
    train.write_text(json.dumps(squad_data(7, seed=1)))
    val.write_text(json.dumps(squad_data(3, seed=2)))
    return Course(
        root,
        [
            *QUIET,
            *TINY_WINDOWS,
            *("--data.cache_dir", root / "cache", "--model.pretrained", tiny_encoder),
            *("--data.train", train, "--data.val", val, "--data.batch_size", 6),
            *("--model.learning_rate", "3e-3", "--model.dropout", 0.2),
            *("--trainer.max_epochs", 3, "--trainer.log_every_n_steps", 1),
            *("--checkpoint.every_n_train_steps", 2),
        ],
    )


OFTEN = ("--trainer.val_check_interval", 2)
ACCUMULATED = ("--trainer.accumulate_grad_batches", 2)
EPOCHS_DO_NOT_COUNT = ("--trainer.max_steps", 17)
SELDOM = ("--trainer.check_val_every_n_epoch", 2)


class TestResuming:
    @pytest.mark.parametrize(
        ("killed", "hook", "number", "options"),
        [
            (True, "on_train_batch_start", 5, ()),
            (False, "on_train_batch_start", 12, ("--data.batching", "random")),
            (False, "on_before_optimizer_step", 9, ("--data.batching", "packed")),
            (True, "on_train_batch_end", 9, ("--data.num_workers", 2)),
            (False, "on_train_batch_start", 10, (*ACCUMULATED, "--data.batching", "random")),
            (True, "on_before_zero_grad", 6, (*ACCUMULATED, *OFTEN)),
            (False, "on_validation_batch_end", 1, ()),  # the last batch of an epoch is done
            (True, "on_train_epoch_start", 2, ()),
            (True, "on_train_batch_end", 7, OFTEN),  # some of these are behind a validation
            (False, "on_validation_batch_end", 4, OFTEN),
            (False, "on_train_batch_start", 13, EPOCHS_DO_NOT_COUNT),
            (True, "on_train_batch_start", 8, SELDOM),
            (True, "on_train_end", 1, ()),
        ],
    )
    def test_ends_as_if_it_had_not_stopped(
        self, course: Course, tmp_path: Path, killed: bool, hook: str, number: int, options: Any
    ) -> None:
        whole = course.reference(*options)
        with as_if_killed() if killed else pytest.raises(Crash):
            course.fit(tmp_path, *options, stop=(hook, number, "crash"))
        resumed = course.fit(tmp_path, *options, "--ckpt_path", "last")
        assert resumed.status == 0, resumed.err
        assert_same_end(tmp_path / "lightning_logs" / "version_0", whole)
        assert not (tmp_path / "lightning_logs" / "version_1").exists()

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
    @pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_end"])
    def test_a_signal_stops_it_between_two_steps(
        self, course: Course, tmp_path: Path, hook: str, name: str
    ) -> None:
        options = ("--checkpoint.every_n_train_steps", 1000)  # only the signal makes it write
        number = 3 if hook == "on_train_batch_start" else 1
        stopped = course.fit(tmp_path, *options, stop=(hook, number, name))
        assert stopped.status == 128 + getattr(signal, name)
        assert name in stopped.err
        assert "--ckpt_path last" in stopped.err
        assert "Traceback" not in stopped.err
        last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
        position = torch.load(last, weights_only=True)["position"]
        assert position["validating"] == (hook == "on_validation_batch_end")
        resumed = course.fit(tmp_path, *options, "--ckpt_path", "last")
        assert resumed.status == 0, resumed.err
        assert_same_end(tmp_path / "lightning_logs" / "version_0", course.reference(*options))

    def test_any_checkpoint_can_be_resumed(self, course: Course, tmp_path: Path) -> None:
        whole = course.reference(*OFTEN)
        best = whole / "checkpoints" / "best.ckpt"
        resumed = course.fit(tmp_path, *OFTEN, "--ckpt_path", best)
        assert resumed.status == 0, resumed.err
        mine, theirs = (
            torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
            for run in (tmp_path / "lightning_logs" / "version_0", whole)
        )
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "position"):
            assert same(mine[part], theirs[part]), part

    def test_a_finished_run_can_be_prolonged(self, course: Course, tmp_path: Path) -> None:
        constant = ("--model.schedule", "constant", "--model.warmup", 0)
        longer = ("--trainer.max_epochs", 4)
        whole = course.reference(*constant, *longer)
        assert course.fit(tmp_path, *constant).status == 0
        resumed = course.fit(tmp_path, *constant, *longer, "--ckpt_path", "last")
        assert resumed.status == 0, resumed.err
        mine, theirs = (
            torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for run in (tmp_path / "lightning_logs" / "version_0", whole)
        )
        assert same(mine, theirs)

    def test_weights_that_are_not_finite_replace_no_checkpoint(
        self, course: Course, tmp_path: Path
    ) -> None:
        def spoil(self: Any, trainer: Any, module: Any, *_: Any) -> None:
            next(module.parameters()).data.fill_(float("nan"))
            raise Crash

        with mock.patch("tests.helpers.stopping.StopAt._count", spoil), pytest.raises(Crash):
            course.fit(tmp_path, stop=("on_validation_start", 1, "crash"))
        folder = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
        assert not folder.exists() or newest_checkpoint(folder) is None

    def test_killed_for_real(self, course: Course, tmp_path: Path) -> None:
        often = ("--checkpoint.every_n_train_steps", 1)
        whole = course.reference(*often)
        command = [*course.options, *often, "--trainer.default_root_dir", tmp_path]
        command += ["--ckpt_path", "last"]
        run = tmp_path / "lightning_logs" / "version_0"
        last, best = (run / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
        for sign in (last, best):  # the first exists after a step, the second after an epoch
            process = subprocess.Popen(
                [sys.executable, "-m", "qa_lightning", "fit", *map(str, command)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and not sign.is_file():
                time.sleep(0.001)
            process.kill()
            process.wait()
        assert last.is_file()
        resumed = course.fit(tmp_path, *often, "--ckpt_path", "last")
        assert resumed.status == 0, resumed.err
        assert_same_end(run, whole)
        assert not [path for path in files_under(run) if path.name.endswith(".partial")]


class TestTwoProcesses:
    """On CPUs: gloo stands in for NCCL, and `tests.helpers.sharding` for the strategy fsdp."""

    SETTINGS = (
        *("--trainer.devices", 2, "--data.batch_size", 3, "--checkpoint.every_n_train_steps", 3),
        *("--trainer.gradient_clip_val", 0.1, "--model.weight_decay", 0.5),
    )
    DDP = (*SETTINGS, "--trainer.strategy", "ddp")
    FSDP = (*SETTINGS, '--trainer.strategy={"class_path": "tests.helpers.sharding.ShardedOnCpu"}')

    def run(self, folder: Path, commands: list[list[Any]]) -> list[list[str]]:
        """Run commands in two processes; gives what each of them said that these came to."""
        listed = folder / "commands.json"
        listed.write_text(json.dumps([[str(part) for part in command] for command in commands]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.pair", listed],
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    **{"LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        said = [process.communicate(timeout=500) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        # Some versions of torch let Gloo print, too.
        return [re.sub(r"\[Gloo\].*", "", out).split() for out, _ in said]

    @pytest.mark.timeout(600)
    def test_end_as_if_they_had_not_stopped(self, course: Course, tmp_path: Path) -> None:
        crash = ("on_before_zero_grad", 14, "crash")  # in the second of three epochs
        folders = {
            name: tmp_path / name for name in ("ddp", "told to stop", "fsdp", "fsdp crashed")
        }
        ddp, told, fsdp, crashed = folders.values()
        ended = self.run(
            tmp_path,
            [
                course.command(ddp, *self.DDP),
                # Only one of them is told.
                course.command(told, *self.DDP, stop=("on_train_batch_end", 13, "SIGTERM", 1)),
                course.command(told, *self.DDP, "--ckpt_path", "last"),
                course.command(fsdp, *self.FSDP),
                course.command(crashed, *self.FSDP, stop=crash),
                course.command(crashed, *self.FSDP, "--ckpt_path", "last"),
                course.command(ddp, *self.FSDP, "--ckpt_path", "last"),
            ],
        )
        assert ended == [["0", "143", "0", "0", "crash", "0", "2"]] * 2
        run = Path("lightning_logs", "version_0")
        assert_same_end(told / run, ddp / run)
        assert_same_end(crashed / run, fsdp / run)
        # What is sharded is trained alike: clipped, decayed, and saved as a whole.
        mine, theirs = (
            torch.load(folder / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for folder in (fsdp, ddp)
        )
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"encoder.qa_outputs.bias"}:  # its gradient is rounding alone
            torch.testing.assert_close(mine[name], theirs[name], atol=1e-5, rtol=1e-3)
        assert TrainedModel.load(crashed / run).settings.null_threshold is None

    def test_fsdp_needs_gpus(self, course: Course, tmp_path: Path) -> None:
        outcome = course.fit(tmp_path, "--trainer.strategy", "fsdp")
        assert outcome.status == 2
        assert "the options of --trainer do not go together" in outcome.err
        assert "requires a GPU" in outcome.err
        assert files_under(tmp_path) == []


class TestSlurm:
    @pytest.fixture
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Pretend to be in job 7; returns the file that its `scontrol` notes down requests in."""
        in_job = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1"}
        for name, value in {**in_job, "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        asked, scontrol = tmp_path / "asked", tmp_path / "bin" / "scontrol"
        scontrol.parent.mkdir()
        # SLURM ends a job that it is to start again.
        scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\nkill -TERM $PPID\n')
        scontrol.chmod(0o755)
        monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
        return asked

    @pytest.mark.parametrize(
        ("hook", "number"),
        [("on_before_optimizer_step", 3), ("on_validation_batch_end", 1)],
    )
    def test_a_job_out_of_time_resumes_when_it_is_started_again(
        self,
        course: Course,
        tmp_path: Path,
        asked: Path,
        monkeypatch: pytest.MonkeyPatch,
        hook: str,
        number: int,
    ) -> None:
        options = ("--checkpoint.every_n_train_steps", 1000)
        whole = course.reference(*options)
        again = (*options, "--ckpt_path", "hpc")
        stopped = course.fit(tmp_path, *again, stop=(hook, number, "SIGUSR1"))
        assert stopped.status == 128 + signal.SIGTERM, stopped.err
        assert "there is no run of SLURM job 7" in stopped.out
        assert asked.read_text() == "requeue 7\n"
        monkeypatch.setenv("SLURM_JOB_ID", "8")  # another job, in the same folder
        assert course.fit(tmp_path, *again, "--trainer.max_steps", 2).status == 0
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        resumed = course.fit(tmp_path, *again)
        assert resumed.status == 0, resumed.err
        runs = tmp_path / "lightning_logs"
        assert_same_end(runs / "version_0", whole)
        assert newest_runs_first(runs) == [runs / "version_1", runs / "version_0"]

    def test_a_job_that_is_not_requeued_uses_its_time(
        self, course: Course, tmp_path: Path, asked: Path
    ) -> None:
        (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho not now >&2\nexit 1\n")
        outcome = course.fit(
            tmp_path, "--trainer.max_epochs", 1, stop=("on_train_batch_end", 2, "SIGUSR1")
        )
        assert outcome.status == 0, outcome.err
        assert "SLURM job 7 is not requeued: scontrol requeue: not now" in outcome.out

    def test_elsewhere_there_is_no_job_to_resume(self, course: Course, tmp_path: Path) -> None:
        outcome = course.fit(tmp_path, "--ckpt_path", "hpc")
        assert outcome.status == 2
        assert "--ckpt_path last" in outcome.err


class TestLast:
    def test_without_a_run_training_begins(self, course: Course, tmp_path: Path) -> None:
        outcome = course.fit(tmp_path, "--ckpt_path", "last", "--trainer.max_steps", 2)
        assert outcome.status == 0, outcome.err
        assert "training starts from the beginning" in outcome.out

    def test_without_a_run_there_is_nothing_to_score(self, course: Course, tmp_path: Path) -> None:
        outcome = call(
            "validate",
            *(*QUIET, "--trainer.default_root_dir", tmp_path, "--ckpt_path", "last"),
        )
        assert outcome.status == 2
        assert "--ckpt_path last: there is no run" in outcome.err

    def test_a_torn_file_is_skipped_for_the_one_before_it(
        self, course: Course, tmp_path: Path
    ) -> None:
        run = shutil.copytree(course.reference(*OFTEN), tmp_path / "lightning_logs" / "version_10")
        shutil.copytree(run, tmp_path / "lightning_logs" / "version_9")
        last = run / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:5000])
        outcome = call(
            "validate",
            *(*QUIET, *TINY_WINDOWS, "--data.cache_dir", course.root / "cache"),
            *("--data.val", course.root / "val.json"),
            *("--trainer.default_root_dir", tmp_path, "--ckpt_path", "last"),
        )
        assert outcome.status == 0, outcome.err
        assert f"skipped: {last} cannot be loaded" in outcome.out
        assert f"--ckpt_path last: {run / 'checkpoints' / 'best.ckpt'}" in outcome.out


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


class TestFiles:
    @pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
    @pytest.mark.parametrize("last", [False, True], ids=["named", "last"])
    def test_a_planted_payload_does_not_run(
        self, course: Course, tmp_path: Path, command: str, last: bool
    ) -> None:
        trace = tmp_path / "ran"
        content = torch.load(course.reference(*OFTEN) / "checkpoints" / "last.ckpt")
        content["payload"] = Payload(trace)
        path = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        torch.save(content, path)
        options = [*QUIET, "--trainer.default_root_dir", tmp_path, "--trainer.max_epochs", 1]
        chosen = "last" if last else path
        split = {"validate": "val", "fit": "train"}.get(command, command)
        outcome = call(
            command,
            *(*options, f"--data.{split}", course.root / "val.json", "--ckpt_path", chosen),
            *("--weights_only", "false"),  # Lightning's own option does not open the door either
            *(("--model.pretrained", course.root / "none") if command == "fit" else ()),
        )
        assert outcome.status == 2
        assert f"{path} cannot be loaded as a checkpoint" in outcome.err + outcome.out
        assert not trace.exists()
        torch.load(path, weights_only=False)
        assert trace.exists()  # the payload is a live one

    def test_lightning_itself_cannot_be_made_to_run_it(self, tmp_path: Path) -> None:
        path, trace = tmp_path / "file.ckpt", tmp_path / "ran"
        torch.save({"payload": Payload(trace)}, path)
        with pytest.raises(Exception, match="[Ww]eights"):
            AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
        assert not trace.exists()

    def test_writing_fails_without_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "file.ckpt"
        write_atomically({"a": 1}, path)

        def fill_up(content: Any, file: Any) -> None:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")

        with (
            mock.patch.object(checkpoint_files.torch, "save", fill_up),
            pytest.raises(UserError, match="No space left on device"),
        ):
            write_atomically({"a": 2}, path)
        assert torch.load(path) == {"a": 1}
        assert files_under(tmp_path) == [path]


class TestSampler:
    @pytest.mark.parametrize("order", ["grouped", "random", "packed"])
    def test_leaves_out_what_was_trained_on_in_that_epoch_alone(self, order: Any) -> None:
        lengths = np.random.default_rng(0).integers(5, 60, 200)
        fresh, resumed = (WindowSampler(lengths, 8, order=order) for _ in range(2))
        resumed.start_at(3, 7)
        for epoch, behind in ((3, 7), (4, 0)):
            fresh.set_epoch(epoch)
            resumed.set_epoch(epoch)
            wanted = [rows.tolist() for rows in fresh][behind:]
            assert [rows.tolist() for rows in resumed] == wanted
            assert len(resumed) == len(fresh)


class TestStart:
    def test_a_run_without_an_end_leaves_no_folder(self, course: Course, tmp_path: Path) -> None:
        outcome = course.fit(tmp_path, "--trainer.max_epochs", -1)
        assert outcome.status == 2
        assert "--trainer.max_epochs" in outcome.err
        assert files_under(tmp_path) == []

    def test_one_sided_data_leave_no_folder(self, course: Course, tmp_path: Path) -> None:
        content = squad_data(4, seed=5)
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                asked = paragraph["qas"]
                paragraph["qas"] = [question for question in asked if question["answers"]]
        train = tmp_path / "train.json"
        train.write_text(json.dumps(content))
        outcome = course.fit(
            tmp_path,
            "--data.train",
            train,
            "--data.window",
            96,
            "--model.unanswerable_share",
            0.5,
        )
        assert outcome.status == 2
        assert "--model.unanswerable_share" in outcome.err
        assert files_under(tmp_path / "lightning_logs") == []
