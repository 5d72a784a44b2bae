"""Whatever logs a run: its folder is its own, it can be resumed, its logger gets the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from qa_lightning.errors import UserError
from qa_lightning.training.best_model import SaveBestModel
from qa_lightning.training.evaluation_files import EvaluationFiles
from qa_lightning.training.run_folder import RunFolder, next_run
from qa_lightning.training.run_record import RunRecord
from tests.helpers.command import QUIET, TINY_WINDOWS, Outcome, call, files_under, options_of
from tests.helpers.trainer import make_parts, make_trainer

EVERY_RUN_LEAVES = {
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "model/model.safetensors"),
    *("model/config.json", "model/tokenizer.json", "model/tokenizer_config.json"),
    *("config.yaml", "run.json", "learning_curve.png"),
}

LOGGERS: dict[str, Any] = {
    "csv": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}},
    "csv beside": {"class_path": "CSVLogger", "init_args": {"save_dir": "."}},
    "mlflow": {"class_path": "MLFlowLogger", "init_args": {"save_dir": "mlruns"}},
    "wandb": {"class_path": "WandbLogger", "init_args": {"save_dir": "runs", "offline": True}},
    "several": [
        {"class_path": "MLFlowLogger", "init_args": {"save_dir": "mlruns"}},
        {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "boards"}},
    ],
    "none": False,
    "default": None,  # TensorBoard
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a test; MLflow's and W&B's settings for tests without a network."""
    for name in ("WANDB_SILENT", "WANDB_DISABLE_GIT", "WANDB_X_DISABLE_STATS"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def fit(encoder: Path, files: dict[str, Path], logger: str, *more: object) -> Outcome:
    """One epoch of tiny data, in the working folder."""
    options = [*options_of(encoder, files, Path(".")), "--trainer.log_every_n_steps", 1]
    outcome = call("fit", *options, "--trainer.precision", "32-true", *chosen(logger), *more)
    if logger == "wandb":
        import wandb

        wandb.finish()  # or the next run in this process would be part of this one
    return outcome


def chosen(logger: str) -> list[str]:
    """The option for a logger; its folders in full, for W&B's process works in another one."""
    place = f'"save_dir": "{Path().resolve()}/'
    given = json.dumps(LOGGERS[logger]).replace('"save_dir": "', place)
    return [] if given == "null" else ["--trainer.logger", given]


def left_in(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in files_under(run)}


class TestFolder:
    @pytest.mark.parametrize("logger", ["csv", "csv beside", "several", "wandb", "none"])
    def test_every_run_has_its_own(
        self, tiny_encoder: Path, squad_files: dict[str, Path], logger: str
    ) -> None:
        for number in range(2):
            outcome = fit(tiny_encoder, squad_files, logger, "--seed_everything", number)
            assert outcome.status == 0, outcome.err
            assert f"  run             lightning_logs/version_{number}\n" in outcome.out
        assert len(list(Path("lightning_logs").iterdir())) == 2
        for number in range(2):
            run = Path("lightning_logs", f"version_{number}")
            assert left_in(run) >= EVERY_RUN_LEAVES
            assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == number
            assert len(json.loads((run / "run.json").read_text())) == 1
        assert not {"model", "config.yaml", "run.json"} & {path.name for path in Path().iterdir()}

    @pytest.mark.parametrize("logger", ["csv", "none"])
    def test_an_evaluation_has_one_too(
        self, tiny_encoder: Path, squad_files: dict[str, Path], logger: str
    ) -> None:
        assert fit(tiny_encoder, squad_files, logger).status == 0
        options = [*QUIET, "--data.val", squad_files["val"], "--ckpt_path", "last", *chosen(logger)]
        for number in range(2):
            outcome = call("validate", *options, *TINY_WINDOWS)
            assert outcome.status == 0, outcome.err
            left = left_in(Path("lightning_logs", "validate", f"version_{number}"))
            assert left >= {"predictions.json", "scores.json", "report.md", "calibration.png"}
        before = files_under(Path())
        outcome = call("validate", *options, *TINY_WINDOWS, "--output", "asked")
        assert outcome.status == 0, outcome.err
        new = {path.parts[0] for path in files_under(Path()) if path not in before}
        assert new - {"logs"} == {"asked"}
        assert not Path("lightning_logs", "validate", "version_2").exists()

    def test_two_runs_that_begin_at_once_do_not_share_one(self, tmp_path: Path) -> None:
        first, second = (RunFolder(next_run(tmp_path)) for _ in range(2))
        trainer = make_trainer(tmp_path)
        with (
            first.made(trainer),
            pytest.raises(UserError, match="another run has just begun in .*version_0"),
            second.made(trainer),
        ):
            pass

    def test_in_python_without_the_command_line(
        self, tiny_encoder: Path, squad_files: dict[str, Path], place: Path
    ) -> None:
        def train(logger: Any) -> Trainer:
            module, data = make_parts(tiny_encoder, squad_files)
            callbacks = RunRecord(), SaveBestModel(), EvaluationFiles()
            more = {"logger": logger, "max_epochs": 1, "limit_val_batches": 1}
            trainer = make_trainer(place, *callbacks, **more)
            trainer.fit(module, data)
            trainer.validate(module, data)
            return trainer

        for number in range(2):  # no logger, and none that Lightning's own files would go to
            train(False)
            left = left_in(place / "lightning_logs" / f"version_{number}")
            assert left >= {"run.json", "model/model.safetensors", "scores.json"}
        train(CSVLogger(place, name="mine", version="one"))  # beside Lightning's own files
        left = left_in(place / "mine" / "one")
        assert left >= {"run.json", "model/model.safetensors", "scores.json", "metrics.csv"}


class TestLast:
    @pytest.mark.parametrize("logger", ["csv", "several"])
    def test_the_newest_run_with_a_checkpoint_is_resumed(
        self, tiny_encoder: Path, squad_files: dict[str, Path], logger: str
    ) -> None:
        constant = ("--model.schedule", "constant")  # so that the run can be prolonged
        assert fit(tiny_encoder, squad_files, "default", *constant).status == 0
        assert fit(tiny_encoder, squad_files, logger, *constant).status == 0
        Path("lightning_logs", "version_2", "checkpoints").mkdir(parents=True)  # killed at once
        again = ("--ckpt_path", "last", "--trainer.max_epochs", 2)
        resumed = fit(tiny_encoder, squad_files, logger, *again, *constant)
        assert resumed.status == 0, resumed.err
        newest = Path("lightning_logs", "version_1")
        assert f"--ckpt_path last: {newest}/checkpoints/last.ckpt" in resumed.out
        assert f"  run             {newest}\n" in resumed.out
        assert [len(json.loads((newest / "run.json").read_text()))] == [2]

    def test_checkpoints_that_cannot_be_read_do_not_give_way_to_an_older_run(
        self, tiny_encoder: Path, squad_files: dict[str, Path]
    ) -> None:
        for _ in range(2):
            assert fit(tiny_encoder, squad_files, "none").status == 0
        for path in Path("lightning_logs", "version_1", "checkpoints").iterdir():
            path.write_bytes(b"torn")
        outcome = fit(tiny_encoder, squad_files, "none", "--ckpt_path", "last")
        assert outcome.status == 2
        assert "version_1/checkpoints/last.ckpt cannot be loaded" in outcome.err

    @pytest.mark.parametrize("logger", ["default", "csv beside", "none"])
    def test_a_start_that_fails_leaves_no_folder(
        self, tiny_encoder: Path, squad_files: dict[str, Path], logger: str
    ) -> None:
        arguments = {"hook": "on_train_batch_start", "number": 1, "how": "SIGINT"}
        stop = {"class_path": "tests.helpers.stopping.StopAt", "init_args": arguments}
        fail = f"--trainer.callbacks+={json.dumps(stop)}"
        outcome = fit(tiny_encoder, squad_files, logger, fail)
        assert outcome.status == 130, outcome.err
        assert "last.ckpt is written" not in outcome.err
        assert not Path("lightning_logs").exists()
        outcome = fit(tiny_encoder, squad_files, logger, "--trainer.val_check_interval", 1000)
        assert outcome.status == 2
        assert "val_check_interval" in outcome.err
        assert not Path("lightning_logs").exists()


class TestContent:
    HYPERPARAMETERS = (
        *("learning_rate", "train", "val", "window", "batch_size", "precision", "epochs"),
        *("seed", "seed_everything", "pretrained"),
    )

    def test_csv(self, tiny_encoder: Path, squad_files: dict[str, Path]) -> None:
        outcome = fit(tiny_encoder, squad_files, "csv")
        logs = Path("logs").resolve().joinpath("lightning_logs", "version_0")
        assert f"  curves          {logs / 'metrics.csv'}" in outcome.out
        assert "TensorBoard" not in outcome.out
        given = yaml.safe_load((logs / "hparams.yaml").read_text())
        assert given.keys() >= set(self.HYPERPARAMETERS)
        assert given["batch_size"] == 16
        with (logs / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        figures = {name: value for row in rows for name, value in row.items() if value}
        assert float(figures["best/exact"]) == float(figures["val/exact"])
        assert float(figures["lr-AdamW/pg1"]) >= 0

    def test_mlflow(self, tiny_encoder: Path, squad_files: dict[str, Path]) -> None:
        from mlflow.tracking import MlflowClient

        outcome = fit(tiny_encoder, squad_files, "mlflow")
        store = Path("mlruns").resolve()
        assert f"  MLflow          mlflow ui --backend-store-uri file:{store}" in outcome.out
        assert "TensorBoard" not in outcome.out
        client = MlflowClient(f"file:{store}")
        experiment = client.get_experiment_by_name("lightning_logs")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.data.params.keys() >= set(self.HYPERPARAMETERS)
        assert run.data.metrics["best/exact"] == run.data.metrics["val/exact"]
        assert "lr-AdamW/pg1" in run.data.metrics
        artifacts = {path.relative_to("mlruns").parts[3:] for path in files_under(Path("mlruns"))}
        names = {"/".join(parts) for parts in artifacts}
        assert any(name.startswith("val/examples/step-") for name in names)
        assert any(name.startswith("val/no_answer/step-") for name in names)

    def test_a_logger_that_refuses_the_hyperparameters_does_not_end_the_run(
        self, tiny_encoder: Path, squad_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(logger: CSVLogger, params: Any) -> None:
            if "epochs" in params:  # as MLflow does when a run is resumed with other values
                raise RuntimeError("Changing param values is not allowed.")

        monkeypatch.setattr(CSVLogger, "log_hyperparams", refuse)
        outcome = fit(tiny_encoder, squad_files, "csv")
        assert outcome.status == 0, outcome.err
        assert "CSVLogger keeps the hyperparameters it had: Changing param" in outcome.out

    def test_wandb(
        self, tiny_encoder: Path, squad_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import wandb

        with monkeypatch.context() as patched:
            patched.setattr(wandb, "finish", lambda: None)
            outcome = fit(tiny_encoder, squad_files, "wandb")
        try:
            assert outcome.status == 0, outcome.err
            (run,) = Path("runs", "wandb").glob("offline-run-*")
            assert f"  W&B             wandb sync {run.resolve()}\n" in outcome.out
            assert "TensorBoard" not in outcome.out
            assert set(wandb.run.config.keys()) >= set(self.HYPERPARAMETERS)
            figures = dict(wandb.run.summary)
            assert "lr-AdamW/pg1" in figures
            assert figures["best/exact"] == figures["val/exact"]
            examples = figures["val/examples"]
            assert (examples["ncols"], examples["nrows"]) == (5, 8)
            assert figures["val/no_answer"]["count"] == 1
        finally:
            wandb.finish()
