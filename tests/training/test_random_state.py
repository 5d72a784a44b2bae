"""Random states are restored exactly."""

from __future__ import annotations

import random

import numpy as np
import torch

from qa_lightning.training.random_state import random_state, restore_random_state


class TestRandomState:
    def test_goes_on_where_it_was(self) -> None:
        def draw() -> list[float]:
            return [random.gauss(0, 1), np.random.standard_normal(), torch.randn(()).item()]

        device = torch.device("cpu")
        draw()  # the generators of normal numbers make them in pairs
        state = random_state(device)
        first = draw()
        restore_random_state(state, device)
        assert draw() == first
