"""The threshold tuned on held-out articles: tuned in fit, used and overridden everywhere else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from qa_lightning.commands import score
from tests.helpers.command import QUIET, TINY_WINDOWS, Outcome, call, scalars
from tests.helpers.data import squad_data


@dataclass(frozen=True)
class Tuned:
    """A run that held out articles."""

    outcome: Outcome
    run: Path
    labelled: Path
    shared: list[Any]
    threshold: float


@pytest.fixture(scope="module")
def tuned(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    root = tmp_path_factory.mktemp("tuned")
    train, labelled = root / "train.json", root / "labelled.json"
    train.write_text(json.dumps(squad_data(16, seed=1)))
    labelled.write_text(json.dumps(squad_data(8, seed=2)))
    shared = [*QUIET, *TINY_WINDOWS, "--data.cache_dir", root / "cache"]
    outcome = call(
        "fit",
        *shared,
        *("--model.pretrained", tiny_encoder, "--data.train", train, "--data.val", labelled),
        *("--data.holdout", 0.4, "--model.learning_rate", 3e-3, "--data.batch_size", 8),
        *("--trainer.max_epochs", 8, "--trainer.default_root_dir", root),
        *("--trainer.check_val_every_n_epoch", 4),
    )
    assert outcome.status == 0, outcome.err
    run = root / "lightning_logs" / "version_0"
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    return Tuned(outcome, run, labelled, shared, content["null_threshold"])


def validate(tuned: Tuned, folder: Path, *options: Any) -> tuple[dict[str, float], Path]:
    outcome = call(
        "validate",
        *tuned.shared,
        *("--data.val", tuned.labelled, "--trainer.default_root_dir", folder, *options),
    )
    assert outcome.status == 0, outcome.err
    run = folder / "lightning_logs" / "validate" / "version_0"
    return json.loads((run / "scores.json").read_text()), run


def test_fit_tells_what_was_held_out_and_compares_the_thresholds(tuned: Tuned) -> None:
    assert "train: 40 questions (10 without answer)" in tuned.outcome.out
    assert "holdout: 24 questions (6 without answer)" in tuned.outcome.out
    summary = tuned.outcome.out[tuned.outcome.out.index("Best model") :]
    curves = scalars(tuned.run)
    best = curves["val/exact"].index(max(curves["val/exact"]))
    for name in ("zero", "tuned", "best"):
        exact, f1 = (curves[f"val/{name}_{kind}"][best] for kind in ("exact", "f1"))
        assert f"EM {exact:.2f}   F1 {f1:.2f}" in summary
    assert "tuned on held-out training articles" in summary and "oracle" in summary
    assert curves["val/exact"] == curves["val/tuned_exact"]
    assert curves["val/null_threshold"][best] == pytest.approx(tuned.threshold)
    assert curves["val/total"] == [32.0, 32.0]  # the held-out questions are not scored as if val


def test_it_travels_with_checkpoint_and_folder_and_can_be_overridden(
    tuned: Tuned, tmp_path: Path
) -> None:
    assert tuned.threshold != 0.0
    config = json.loads((tuned.run / "model" / "config.json").read_text())
    assert config["null_threshold"] == tuned.threshold
    checkpoint = ("--ckpt_path", tuned.run / "checkpoints" / "best.ckpt")
    folder = ("--model.pretrained", tuned.run / "model")
    by_checkpoint, _ = validate(tuned, tmp_path / "a", *checkpoint)
    by_folder, _ = validate(tuned, tmp_path / "b", *folder)
    assert by_checkpoint["null_threshold"] == by_folder["null_threshold"] == tuned.threshold
    assert by_checkpoint["exact"] == by_folder["exact"] == by_checkpoint["tuned_exact"]
    for number, source in enumerate((checkpoint, folder)):
        at_zero, _ = validate(tuned, tmp_path / str(number), *source, "--model.null_threshold", 0)
        assert at_zero["null_threshold"] == 0.0
        assert at_zero["exact"] == at_zero["zero_exact"] == by_checkpoint["zero_exact"]
        assert at_zero["tuned_exact"] == by_checkpoint["tuned_exact"]


def test_the_written_files_score_exactly_as_logged(
    tuned: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tuned.run / "checkpoints" / "best.ckpt"
    _, run = validate(tuned, tmp_path / "tuned", "--ckpt_path", checkpoint)
    median = sorted(json.loads((run / "null_odds.json").read_text()).values())[16]
    threshold = ("--model.null_threshold", median)  # about half of the questions are answered
    figures, run = validate(tuned, tmp_path, "--ckpt_path", checkpoint, *threshold)
    assert score.run([str(tuned.labelled), str(run / "answers.json")]) == 0
    official = json.loads(capsys.readouterr().out)
    assert official == {name: figures[name] for name in official}
    # As the documentation says, and as the official script has it, with the sweep.
    predictions = run / "predictions.json"
    odds = ["--na-prob-file", str(run / "null_odds.json")]
    odds += ["--na-prob-thresh", str(figures["null_threshold"])]
    assert score.run([str(tuned.labelled), str(predictions), *odds]) == 0
    swept = json.loads(capsys.readouterr().out)
    assert {"best_f1_thresh", "pr_exact_ap", "pr_f1_ap", "pr_oracle_ap"} <= set(swept)
    assert swept == {name: figures[name] for name in swept}
    # A question left unanswered keeps its best text there, or the sweep could not reach it.
    given, best = (json.loads((run / name).read_text()) for name in ("answers.json", predictions))
    assert "" in given.values() and "" not in best.values()
    assert all(text in ("", best[name]) for name, text in given.items())


def test_validate_reports_where_the_model_fails(tuned: Tuned, tmp_path: Path) -> None:
    figures, run = validate(tuned, tmp_path, "--model.pretrained", tuned.run / "model")
    report = json.loads((run / "report.json").read_text())
    everything = report["overall"][0]
    assert everything["exact"] == pytest.approx(figures["exact"])
    assert everything["f1"] == pytest.approx(figures["f1"])
    assert (run / "report.md").read_text().startswith("#")
    assert (run / "calibration.png").read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    assert "val/calibration" in events.Tags()["images"]
    assert "val/report/text_summary" in events.Tags()["tensors"]


def test_output_names_the_folder_and_without_any_nothing_is_written(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        *(*tuned.shared, "--model.pretrained", tuned.run / "model", "--trainer.logger", "false"),
        *("--data.val", tuned.labelled),
    ]
    assert call("validate", *options).status == 0
    assert not list(tmp_path.glob("*.json"))
    assert call("validate", *options, "--output", tmp_path / "here").status == 0
    assert (tmp_path / "here" / "predictions.json").is_file()
    (tmp_path / "file").touch()
    refused = call("validate", *options, "--output", tmp_path / "file" / "below")
    assert refused.status == 2 and "cannot write to" in refused.err


def test_training_on_from_a_tuned_model_forgets_its_threshold(
    tuned: Tuned, tmp_path: Path, tiny_encoder: Path
) -> None:
    outcome = call(
        "fit",
        *tuned.shared,
        *("--model.pretrained", tuned.run / "model"),
        *("--data.train", tuned.labelled, "--data.val", tuned.labelled),
        *("--trainer.max_epochs", 1, "--trainer.default_root_dir", tmp_path),
    )
    assert outcome.status == 0, outcome.err
    curves = scalars(tmp_path / "lightning_logs" / "version_0")
    assert curves["val/null_threshold"] == [0.0]
    assert "val/tuned_exact" not in curves


def test_a_holdout_that_cannot_be_is_refused(tuned: Tuned, tmp_path: Path) -> None:
    one_article = tmp_path / "one.json"
    one_article.write_text(json.dumps(squad_data(1, seed=5)))
    options = ["--model.pretrained", tuned.run / "model", "--data.val", tuned.labelled]
    refused = call(
        "fit", *tuned.shared, *options, "--data.train", one_article, "--data.holdout", 0.1
    )
    assert refused.status == 2
    assert str(one_article) in refused.err and "at least two" in refused.err
    refused = call("fit", *tuned.shared, *options, "--data.holdout", 1.0)
    assert refused.status == 2 and "--data.holdout" in refused.err
