"""Printing a benchmark's figures as a table, and appending them to RESULTS.md."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of the same keys as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row[name] for name in names) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    """Processor, cores and the device that torch would use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{processor}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def record(title: str, rows: Sequence[dict[str, str]], note: str = "", *, to_file: bool) -> None:
    """Print a table; with `to_file` append it to RESULTS.md with command, machine and versions.

    Args:
        title: What the table shows.
        rows: Its rows, of the same keys.
        note: What the reader must know about the figures, below the table.
        to_file: Whether to append it.
    """
    text = table(rows)
    print(f"\n{title}\n\n{text}\n{note}")
    if not to_file:
        return
    command = shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    names = ("torch", "lightning", "transformers", "tokenizers")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    today = datetime.date.today().isoformat()
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(f"\n## {title}\n\n{text}\n\n{note}{chr(10) * 2 if note else ''}")
        file.write(f"`{command}` — {today}; {machine()}; Python {platform.python_version()}, ")
        file.write(f"{versions}\n")
