"""The commands of README and docs exist: every option, configuration and file that they name."""

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

PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")]
)
TEXTS = {page: page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES}
NAMED = r"(?:python|torchrun [^`\n]*) -m qa_lightning (\w[^`\n]*)"
COMMANDS = sorted({command for text in TEXTS.values() for command in re.findall(NAMED, text)})


def test_the_pages_name_commands() -> None:
    assert len(COMMANDS) > 25
    assert len(re.findall(NAMED, TEXTS[REPOSITORY / "README.md"])) > 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--help" not in c])
def test_every_command_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    run = tmp_path / "lightning_logs" / "version_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("trainer:\n  max_epochs: 1\n", encoding="utf-8")
    command = re.split(r" [<>] ", command)[0]
    name, *options = shlex.split(command, comments=True)
    module, _ = MODULES[name]
    if module != TRAINER:
        parser = import_module(f"qa_lightning.{module}")._parser()
        assert parser.parse_args(options)
        return

    outcome = call(name, *options, "--print_config")

    assert outcome.status == 0, outcome.err
    assert "pretrained:" in outcome.out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#\s]+)", TEXTS[page])
    scripts = re.findall(r"(?:benchmarks|scripts|configs)/\w+\.\w+", TEXTS[page])
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [script for script in scripts if not (REPOSITORY / script).exists()]
    assert not missing


def test_the_index_lists_every_page() -> None:
    index = REPOSITORY / "docs" / "README.md"
    listed = re.findall(r"\]\(([\w-]+\.md)\)", TEXTS[index])
    assert sorted([*listed, "README.md"]) == [p.name for p in PAGES if p.parent == index.parent]
