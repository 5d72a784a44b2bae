"""Windows on disk, mapped into memory when they are used.

Every flat array is a file of its own, so that it is one piece of memory when it is mapped.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qa_lightning.data.tokens import Ragged
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import Special, Windows
from qa_lightning.errors import UserError

FORMAT = 3
"""Version of what the cache holds: raise it whenever windows come out differently."""

TABLES = ("questions", "contexts")
CONTEXT_TOKENS = ("context_ids", "char_starts", "char_ends", "word_starts")
PER_WINDOW = (
    "question",
    "context",
    "index",
    "context_start",
    "context_length",
    "label_start",
    "label_end",
)


def is_complete(folder: Path) -> bool:
    """Whether all of a folder's windows were written."""
    return (folder / "windows.json").is_file()


def save_windows(windows: Windows, folder: Path) -> None:
    """Write windows so that they can be mapped into memory; the folder appears at once.

    Args:
        windows: What to write.
        folder: The folder to create. One that another process has completed meanwhile is left.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name in TABLES:
            table = getattr(windows, name)
            with pa.ipc.new_file(str(building / f"{name}.arrow"), table.schema) as file:
                file.write_table(table)
        for name, values in _columns(windows).items():
            np.save(building / f"{name}.npy", values)
        about = {
            "settings": asdict(windows.settings),
            "special": asdict(windows.special),
            "untokenizable_answers": windows.untokenizable_answers,
        }
        (building / "windows.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        try:
            building.rename(folder)
        except OSError:
            if not is_complete(folder):
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _columns(windows: Windows) -> dict[str, np.ndarray]:
    """The flat arrays by the names of their files."""
    return {
        **{name: getattr(windows, name).values for name in CONTEXT_TOKENS},
        "context_bounds": windows.context_ids.bounds,
        "question_ids": windows.question_ids.values,
        "question_bounds": windows.question_ids.bounds,
        **{name: getattr(windows, name) for name in PER_WINDOW},
    }


def open_windows(folder: Path) -> Windows:
    """Map cached windows into memory.

    Args:
        folder: A folder that `save_windows` wrote.

    Raises:
        UserError: the folder is damaged.
    """

    def column(name: str) -> np.ndarray:
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

    try:
        about: dict[str, Any] = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
        bounds = column("context_bounds")
        fields: dict[str, Any] = {
            name: pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()
            for name in TABLES
        }
        fields |= {name: Ragged(column(name), bounds) for name in CONTEXT_TOKENS}
        fields |= {name: column(name) for name in PER_WINDOW}
        return Windows(
            **fields,
            question_ids=Ragged(column("question_ids"), column("question_bounds")),
            special=Special(**about["special"]),
            settings=WindowSettings(**about["settings"]),
            untokenizable_answers=about["untokenizable_answers"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"the cached windows in {folder} cannot be read ({error}); remove that folder"
        ) from error
