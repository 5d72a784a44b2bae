"""The README's commands exist: every option, configuration and file that it names."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from qa_lightning.__main__ import COMMANDS as MODULES
from qa_lightning.__main__ import TRAINER
from tests.helpers.command import call
from tests.helpers.data import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
COMMANDS = sorted(set(re.findall(r"(?:^|`)python -m qa_lightning (\w[^`\n]*)", README, re.M)))


def test_the_readme_names_commands() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--help" not in c])
def test_every_command_of_the_readme_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    run = tmp_path / "lightning_logs" / "version_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("trainer:\n  max_epochs: 1\n", encoding="utf-8")
    name, *options = shlex.split(command.partition(" < ")[0])
    module, _ = MODULES[name]
    if module != TRAINER:
        parser = import_module(f"qa_lightning.{module}")._parser()
        assert parser.parse_args(options)
        return

    outcome = call(name, *options, "--print_config")

    assert outcome.status == 0, outcome.err
    assert "pretrained:" in outcome.out


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    missing = [link for link in links if not (REPOSITORY / link).exists()]
    assert not missing
