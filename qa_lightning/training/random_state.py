"""States of the random generators, taken and restored so that a resumed run draws the same."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def torch_random_state(device: torch.device) -> dict[str, Any]:
    """States of torch's generators, from which dropout draws; cheap enough for every step.

    Args:
        device: Its generator's state is taken beside that of the CPU.
    """
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """States of the generators of Python, NumPy and torch, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)  # for callbacks of others; we do not use it
    return {
        "python": [version, list(internal), gauss],
        "numpy": [numpy[0], numpy[1].tolist(), *map(float, numpy[2:])],
        **torch_random_state(device),
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what `random_state` gave; a device of another kind keeps its own state."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, at, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), int(at), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
