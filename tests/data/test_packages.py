"""Files inside installed packages, found without importing them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qa_lightning.data.packages import package_path
from qa_lightning.errors import UserError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must not be imported, under an import name and that of its distribution."""
    site = tmp_path / "site"
    package = site / "carries_data"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "f.json").write_text("{}")
    information = site / "Carrier_Of_Data-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: Carrier-Of-Data\nVersion: 1.0\n")
    (information / "RECORD").write_text("carries_data/__init__.py,,\n")
    monkeypatch.syspath_prepend(site)
    return package


@pytest.mark.parametrize("name", ["carries_data", "carrier-of-data"])
def test_files_and_folders_are_found_without_importing(installed: Path, name: str) -> None:
    assert package_path(f"package:{name}/data") == installed / "data"
    assert package_path(f"package:{name}/data/f.json") == installed / "data" / "f.json"
    assert "carries_data" not in sys.modules
    with pytest.raises(UserError, match=f"{name} holds no data/other"):
        package_path(f"package:{name}/data/other")


@pytest.mark.parametrize("source", ["package:", "package:json", "package:/x", "package:json/../x"])
def test_other_forms_are_refused(source: str) -> None:
    with pytest.raises(UserError, match="write package:NAME/PATH"):
        package_path(source)


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        package_path("package:no_such_package/data")
