"""SLURM: which job this is, and having it requeued."""

import os
import subprocess


def job() -> str | None:
    """The SLURM job of this process, by the name that `scontrol` takes; None outside of one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue(name: str) -> str | None:
    """Have SLURM end a job and start it again when there is room for it.

    Returns:
        Why SLURM refuses; None if it does not.
    """
    try:
        asked = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True)
    except OSError as error:
        return f"scontrol cannot be run: {error.strerror}"
    return None if asked.returncode == 0 else f"scontrol requeue: {asked.stderr.strip()}"
