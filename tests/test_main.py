"""The table of commands: quick to show, helpful about a slip."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qa_lightning import __version__
from qa_lightning.__main__ import COMMANDS, main
from tests.helpers.data import REPOSITORY


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qa_lightning", *arguments])
    return main()


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['qa_lightning', '--help']; "
        "from qa_lightning.__main__ import main; status = main(); "
        "heavy = {'torch', 'lightning', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules); "
        "print('heavy:', heavy); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, (_, what) in COMMANDS.items():
        assert any(line.split() == [name, *what.split()] for line in lines)
    assert "heavy: set()" in lines


@pytest.mark.parametrize("command", ["answer", "check", "export", "serve"])
def test_help_of_a_command_without_lightning_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; sys.argv = ['qa_lightning', '{command}', '--help']\n"
        "from qa_lightning.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('heavy:', {'torch', 'lightning', 'transformers', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m qa_lightning {command}")
    assert "heavy: set()" in done.stdout


def test_help_of_a_command_imports_only_what_the_options_need() -> None:
    """Beside Lightning with what it brings; and the search for garbage goes on afterwards."""
    code = (
        "import gc, sys; sys.argv = ['qa_lightning', 'fit', '--help']\n"
        "from qa_lightning.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "late = {'datasets', 'tensorboard', 'pandas', 'transformers.modeling_utils'}\n"
        "print('too early:', late & set(sys.modules))\n"
        "print('garbage:', gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("--model.learning_rate" in line for line in lines)
    assert "too early: set()" in lines
    assert "garbage: True True" in lines


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_is_what_no_command_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run_main(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.startswith("usage: python -m qa_lightning COMMAND")


@pytest.mark.parametrize(
    ("typed", "meant"), [("fti", "fit"), ("validat", "validate"), ("Predict", "predict")]
)
def test_a_misspelt_command_is_refused_with_the_likely_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, meant: str
) -> None:
    assert run_main(monkeypatch, typed) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"error: there is no command '{typed}'; did you mean {meant}?" in told.err


def test_a_command_like_no_other_gets_no_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "xyz") == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'xyz'\n")


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"
