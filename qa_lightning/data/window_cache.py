"""Windows on disk, mapped into memory when they are used.

Each field of `Windows` has a file: tables as Arrow, arrays as .npy, so that each is one piece of
memory when it is mapped; windows.json has the rest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qa_lightning.data.files import atomic_folder
from qa_lightning.data.pair import PairLayout
from qa_lightning.data.tables import ReadReport
from qa_lightning.data.tokens import Ragged
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import Windows
from qa_lightning.errors import UserError

FORMAT = 7
"""Version of what the cache holds: raise it whenever windows come out differently."""

_FIELDS = {field.name: field.type for field in fields(Windows)}


def save_windows(windows: Windows, folder: Path) -> None:
    """Write windows so that they can be mapped into memory.

    The folder appears at once; one that another process has completed meanwhile is left.
    """
    about: dict[str, Any] = {}
    with atomic_folder(folder, replace=False) as building:
        for name in _FIELDS:
            value = getattr(windows, name)
            if isinstance(value, pa.Table):
                with pa.ipc.new_file(str(building / f"{name}.arrow"), value.schema) as file:
                    file.write_table(value)
            elif isinstance(value, Ragged):
                np.save(building / f"{name}.npy", value.values)
                np.save(building / f"{name}.bounds.npy", value.bounds)
            elif isinstance(value, np.ndarray):
                np.save(building / f"{name}.npy", value)
            else:
                about[name] = value if isinstance(value, int) else asdict(value)
        (building / "windows.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def open_windows(folder: Path) -> Windows:
    """Map windows that `save_windows` wrote into memory.

    Raises:
        UserError: the folder is damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
        found["layout"] = PairLayout(**_with_tuples(found["layout"]))
        found["settings"] = WindowSettings(**found["settings"])
        found["report"] = ReadReport(**_with_tuples(found["report"]))
        for name, kind in _FIELDS.items():
            if kind == "pa.Table":
                mapped = pa.memory_map(str(folder / f"{name}.arrow"))
                found[name] = pa.ipc.open_file(mapped).read_all()
            elif kind in ("np.ndarray", "Ragged"):
                found[name] = _mapped(folder / f"{name}.npy")
            if kind == "Ragged":
                found[name] = Ragged(found[name], _mapped(folder / f"{name}.bounds.npy"))
        return Windows(**found)
    except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"the cached windows in {folder} cannot be read ({error}); remove that folder"
        ) from error


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))
