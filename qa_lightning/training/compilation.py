"""Compiling the encoder for training with torch.compile."""

import os
import shutil

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from qa_lightning.errors import UserError
from qa_lightning.model import hardware


def check_compiler(device: torch.device) -> None:
    """Refuse to compile without a compiler: C++ for a CPU; C for CUDA, where Triton needs it.

    Raises:
        UserError: there is none.
    """
    needed = {
        "cpu": ("C++", (os.environ.get("CXX", "g++"), "clang++")),
        "cuda": ("C", (os.environ.get("CC", "gcc"), "clang", "cc")),
    }
    if device.type not in needed or os.name != "posix":
        return
    language, compilers = needed[device.type]
    if not any(map(shutil.which, compilers)):
        raise UserError(
            f"--model.compile needs a {language} compiler ({' or '.join(compilers[:2])}), and none "
            "was found; install one, or set --model.compile false"
        )


def compile_encoder(encoder: nn.Module, *, packed: bool, float32_on_cpu: bool) -> None:
    """Have the encoder compiled in place, so that weights keep their names, at its first call.

    Args:
        encoder: The encoder.
        packed: Rows of packed windows have one shape, for which the code is made; code for padded
            batches takes any shape.
        float32_on_cpu: Warn where compiled code is known to be slower than ours.
    """
    if float32_on_cpu and hardware.mkl_leaves_width_unused():
        rank_zero_warn(
            "compiled code multiplies float32 with MKL, which leaves half of this CPU unused; "
            "with --model.compile false oneDNN does it"
        )
    encoder.compile(dynamic=not packed)
