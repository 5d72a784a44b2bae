"""A folder that is there as a whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qa_lightning.data.files import atomic_folder


def write(folder: Path, content: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text(content)


def read(folder: Path) -> str:
    return (folder / "deep" / "file").read_text()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("replace", [True, False])
def test_it_appears_when_it_is_complete(tmp_path: Path, replace: bool) -> None:
    place = tmp_path / "new" / "parents" / "out"
    with atomic_folder(place, replace=replace) as folder:
        write(folder, "a")
        assert not place.exists() and folder.parent.parent == place.parent
    assert read(place) == "a" and names(place.parent) == ["out"]


def test_what_is_there_is_replaced_or_stays(tmp_path: Path) -> None:
    place = tmp_path / "out"
    for content, replace, expected in (("a", False, "a"), ("b", True, "b"), ("c", False, "b")):
        with atomic_folder(place, replace=replace) as folder:
            write(folder, content)
        assert read(place) == expected and names(tmp_path) == ["out"]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_all_as_it_was(tmp_path: Path, replace: bool, there: bool) -> None:
    place = tmp_path / "out"
    if there:
        place.mkdir()
        write(place, "old")
    with pytest.raises(ZeroDivisionError), atomic_folder(place, replace=replace) as folder:
        write(folder, "new")
        raise ZeroDivisionError
    assert names(tmp_path) == (["out"] if there else [])
    assert not there or read(place) == "old"


@pytest.mark.parametrize("replace", [True, False])
def test_what_was_there_comes_back_when_the_place_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    place = tmp_path / "out"
    if replace:
        place.mkdir()
        write(place, "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), atomic_folder(place, replace=replace) as folder:
        write(folder, "new")
    assert names(tmp_path) == (["out"] if replace else [])
    assert not replace or read(place) == "old"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "out", replace=True) as folder:
            write(folder, "a")
            (folder / "deep" / "file").chmod(0o600)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("", "deep/file")]
    assert modes == [0o777 & ~mask, 0o666 & ~mask]
