"""The search proposes, prunes and resumes; with a stand-in for `fit`, and once with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qa_lightning.errors import UserError
from tests.helpers.command import QUIET, TINY_WINDOWS
from tests.helpers.data import REPOSITORY

pytest.importorskip("optuna")
sys.path.insert(0, str(REPOSITORY / "scripts"))
import tune

STAND_IN = """
import sys, time
from pathlib import Path
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rate = float(given["--model.learning_rate"])
run = Path(given["--trainer.default_root_dir"], "lightning_logs", "version_0")
if "--model.misspelt" in given:
    print("error: no option --model.misspelt")
    sys.exit(2)
run.mkdir(parents=True)
(run / "config.yaml").touch()
if rate > float(given.get("--diverges-above", 1)):
    print("error: the loss is nan at step 3")
    sys.exit(2)
writer = EventFileWriter(str(run))
worse = int(run.parents[1].name.split("-")[1]) >= int(given.get("--worse-from", 99))
for n in range(2 * int(given["--trainer.max_epochs"])):
    exact = 90 - 1000 * abs(rate - 0.01) + n  # 0.01 is the best learning rate
    exact -= 100 * worse
    for tag, figure in (("val/exact", exact), ("val/f1", exact + 5)):
        value = Summary.Value(tag=tag, simple_value=figure)
        writer.add_event(Event(wall_time=0, step=n, summary=Summary(value=[value])))
    writer.flush()
    time.sleep(60 * worse)  # it does not end by itself
writer.close()
"""


@pytest.fixture
def search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Searches with the stand-in; gives the status and what was printed."""
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setattr(tune, "POLL", 0.05)

    def call(*options: object) -> tuple[int, str]:
        fixed = ["--folder", str(tmp_path / "tuning"), "--validations", "2"]
        fixed += [
            "--learning_rate",
            "0.001",
            "0.1",
            "--batch_size",
            "8",
            "16",
            "--epochs",
            "1",
            "2",
        ]
        status = tune.main([*fixed, *map(str, options)], fit=[sys.executable, str(stand_in)])
        return status, capsys.readouterr().out

    return call


def table(text: str) -> list[dict[str, str]]:
    """The last table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    last = max(n for n, line in enumerate(lines) if line.startswith("| trial"))
    names, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[last:])
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_the_table_and_the_command_of_the_best(
    search: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    status, out = search("--trials", 3, "--config", "my recipe.yaml")
    assert status == 0
    rows = table(out)
    assert sorted(row["trial"] for row in rows) == list("012")
    assert all(float(row["F1"]) - float(row["EM"]) == pytest.approx(5) for row in rows)
    best = rows[0]
    assert float(best["EM"]) == max(float(row["EM"]) for row in rows)
    # The last validation is the stand-in's best.
    expected = 90 - 1000 * abs(float(best["learning rate"]) - 0.01) + 2 * int(best["epochs"]) - 1
    assert float(best["EM"]) == pytest.approx(expected, abs=0.01)
    assert out.splitlines()[-1].strip() == (
        "python -m qa_lightning fit --config 'my recipe.yaml' --trainer.val_check_interval 0.5 "
        f"--checkpoint.monitor val/exact --model.learning_rate {best['learning rate']} "
        f"--data.batch_size {best['batch size']} --trainer.max_epochs {best['epochs']}"
    )
    assert out.endswith((tmp_path / "tuning" / "results.md").read_text())


def test_bad_trials_are_stopped(search: Callable[..., tuple[int, str]]) -> None:
    status, out = search("--trials", 5, "--epochs", 1, 1, "--worse-from", tune.UNPRUNED)
    assert status == 0
    rows = table(out)
    assert [row["state"] for row in rows] == ["complete"] * 3 + ["stopped at 50 %"] * 2
    assert {row["trial"] for row in rows[3:]} == {"3", "4"}
    assert all(float(row["EM"]) < 0 for row in rows[3:])  # the best before they were stopped


def test_a_trial_that_dies_is_marked_and_the_search_goes_on(
    search: Callable[..., tuple[int, str]],
) -> None:
    status, out = search("--trials", 5, "--diverges-above", 0.02)
    assert status == 0
    failed = [row for row in table(out) if row["state"] == "failed"]
    assert 0 < len(failed) < 5
    for row in failed:
        assert float(row["learning rate"]) > 0.02 and row["EM"] == ""
        assert f"trial {row['trial']} failed: the loss is nan at step 3" in out
    assert table(out)[0]["state"] == "complete"


def test_when_all_trials_die_there_is_no_best(search: Callable[..., tuple[int, str]]) -> None:
    status, out = search("--trials", 1, "--diverges-above", 0)
    assert status == 1
    assert out.rstrip().endswith("No trial was completed.")


def test_a_wrong_option_ends_the_search_with_its_message(
    search: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="fit refuses to begin: no option --model.misspelt"):
        search("--trials", 2, "--model.misspelt", 1)
    assert not (tmp_path / "tuning" / "results.md").exists()
    # With the option corrected, the same folder can be used.
    assert search("--trials", 1)[0] == 0


def test_a_stopped_search_is_resumed(
    search: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[Any] = []

    def interrupted(process: Any) -> bool:
        processes.append(process)
        raise KeyboardInterrupt

    assert search("--trials", 1)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(tune, "_is_running", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search("--trials", 3)
    assert processes[0].poll() is not None  # it is not left running
    status, out = search("--trials", 3)
    assert status == 0
    rows = {row["trial"]: row for row in table(out)}
    assert set(rows) == {"0", "2", "3"}  # 1 was stopped; 2 did it again
    assert all(row["state"] == "complete" for row in rows.values())
    assert len({row["learning rate"] for row in rows.values()}) == 3


def test_another_search_in_the_same_folder_is_refused(
    search: Callable[..., tuple[int, str]],
) -> None:
    search("--trials", 1)
    with pytest.raises(UserError, match="holds a search with other options"):
        search("--trials", 2, "--config", "other.yaml")


def test_two_searches_at_once_are_refused(
    search: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    from filelock import FileLock

    (tmp_path / "tuning").mkdir()
    with (
        FileLock(tmp_path / "tuning" / "search.lock"),
        pytest.raises(UserError, match="a search is at work"),
    ):
        search("--trials", 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning_rate", "1e-3", "1e-4"], "give the smaller one first"),
        (["--epochs", "3", "1"], "give the smaller one first"),
        (["--model.learning_rate", "1e-4"], "--learning_rate LOW HIGH"),
        (["--trainer.max_epochs=3"], "--epochs FEWEST MOST"),
    ],
)
def test_what_cannot_be_searched(
    search: Callable[..., tuple[int, str]], options: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        search(*options)


def test_a_number_out_of_range_is_refused(
    search: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        search("--learning_rate", "0", "1")
    assert "--learning_rate: invalid PositiveFloat value: '0'" in capsys.readouterr().err


def test_with_fit_itself(
    tmp_path: Path,
    tiny_encoder: Path,
    squad_files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--model.pretrained", tiny_encoder, "--data.train", squad_files["train"]]
    options += ["--data.val", squad_files["val"], "--data.cache_dir", tmp_path / "cache"]
    status = tune.main(
        [
            *("--trials", "1", "--epochs", "1", "1", "--batch_size", "8", "--validations", "2"),
            *("--folder", str(tmp_path / "tuning"), *QUIET, *TINY_WINDOWS, *map(str, options)),
        ]
    )
    out = capsys.readouterr().out
    log = (tmp_path / "tuning" / "trial-0" / "log.txt").read_text()
    assert status == 0, log
    (row,) = table(out)
    assert row["state"] == "complete"
    assert 0 <= float(row["EM"]) <= float(row["F1"]) <= 100
    shares = [line.split("%")[0].strip() for line in out.splitlines() if " %   EM" in line]
    assert shares == ["50", "100"]
    run = tmp_path / "tuning" / "trial-0" / "lightning_logs" / "version_0"
    (record,) = json.loads((run / "run.json").read_text())
    assert f"--model.learning_rate {row['learning rate']} " in record["command"]
    assert not list(tmp_path.rglob("*.ckpt"))
