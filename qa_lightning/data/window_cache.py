"""Windows on disk: written part by part, and mapped into memory when they are used.

Every flat array is a file of its own, so that it is one piece of memory when it is mapped.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.data.squad import CONTEXTS, QUESTIONS, ReadReport, replaced
from qa_lightning.data.windows import Ragged, Special, Windows, WindowSettings
from qa_lightning.errors import UserError

FORMAT = 3
"""Version of what the cache holds: raise it whenever windows come out differently."""

CONTEXT_TOKENS = {
    "context_ids": np.int32,
    "char_starts": np.int32,
    "char_ends": np.int32,
    "word_starts": np.uint8,
}
OF_WINDOWS = (
    "question",
    "context",
    "index",
    "context_start",
    "context_length",
    "label_start",
    "label_end",
)
COLUMNS: dict[str, type] = {
    **CONTEXT_TOKENS,
    "context_bounds": np.int64,  # where the tokens of each context begin in the columns above
    "question_ids": np.int32,
    "question_bounds": np.int64,
    **dict.fromkeys(OF_WINDOWS, np.int32),
}


def is_complete(folder: Path) -> bool:
    """Whether all of a folder's windows were written."""
    return (folder / "windows.json").is_file()


def save_windows(parts: Iterable[Windows], report: ReadReport, folder: Path) -> None:
    """Write windows so that they can be mapped into memory; the folder appears at once.

    Args:
        parts: What to write, one part after the other: at least one. Each has questions and
            contexts of its own, and the same settings.
        report: On the data that they come from; kept with them.
        folder: The folder to create. One that another process has completed meanwhile is left.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        about = {**_write(parts, building), "report": asdict(report)}
        (building / "windows.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        try:
            building.rename(folder)
        except OSError:
            if not is_complete(folder):
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def open_windows(folder: Path) -> Windows:
    """Map cached windows into memory.

    Args:
        folder: A folder that `save_windows` wrote.

    Raises:
        UserError: the folder is damaged.
    """
    try:
        about: dict[str, Any] = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
        columns = {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in COLUMNS
        }
        tokens = {name: Ragged(columns[name], columns["context_bounds"]) for name in CONTEXT_TOKENS}
        tables = {
            name: pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()
            for name in ("questions", "contexts")
        }
        fields: dict[str, Any] = {
            **tables,
            **tokens,
            **{name: columns[name] for name in OF_WINDOWS},
            "question_ids": Ragged(columns["question_ids"], columns["question_bounds"]),
            "special": Special(**about["special"]),
            "settings": WindowSettings(**about["settings"]),
            "untokenizable_answers": about["untokenizable_answers"],
        }
        return Windows(**fields)
    except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"the cached windows in {folder} cannot be read ({error}); remove that folder"
        ) from error


class _Column:
    """A flat array that grows in a .npy file."""

    def __init__(self, path: Path, dtype: type) -> None:
        self.length = 0
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._write_header()

    def add(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype).tobytes())
        self.length += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()  # with room to grow, so it is as long as before
        self._file.close()

    def _write_header(self) -> None:
        about = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, about)


def _write(parts: Iterable[Windows], folder: Path) -> dict[str, Any]:
    """Write the tables and columns of all parts as those of one.

    Returns:
        What else is needed to open them.
    """
    with ExitStack() as files:
        columns = {
            name: files.enter_context(closing(_Column(folder / f"{name}.npy", dtype)))
            for name, dtype in COLUMNS.items()
        }
        questions, contexts = (
            files.enter_context(pa.ipc.new_file(str(folder / f"{name}.arrow"), schema))
            for name, schema in (("questions", QUESTIONS), ("contexts", CONTEXTS))
        )
        columns["question_bounds"].add(np.zeros(1))
        columns["context_bounds"].add(np.zeros(1))
        untokenizable_answers = 0
        for part in parts:
            rows_before = {  # in the parts before this one
                "question": columns["question_bounds"].length - 1,
                "context": columns["context_bounds"].length - 1,
                "question_bounds": columns["question_ids"].length,
                "context_bounds": columns["context_ids"].length,
            }
            context = pc.add(
                part.questions["context"], pa.scalar(rows_before["context"], pa.int32())
            )
            questions.write_table(replaced(part.questions, "context", context))
            contexts.write_table(part.contexts)
            for name, values in _values(part).items():
                columns[name].add(values + rows_before.get(name, 0))
            untokenizable_answers += part.untokenizable_answers
    return {
        "settings": asdict(part.settings),
        "special": asdict(part.special),
        "untokenizable_answers": untokenizable_answers,
    }


def _values(part: Windows) -> dict[str, np.ndarray]:
    """The values of each column."""
    return {
        **{name: getattr(part, name).values for name in CONTEXT_TOKENS},
        "context_bounds": part.context_ids.bounds[1:],
        "question_ids": part.question_ids.values,
        "question_bounds": part.question_ids.bounds[1:],
        **{name: getattr(part, name) for name in OF_WINDOWS},
    }
