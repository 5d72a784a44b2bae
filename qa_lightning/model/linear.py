"""Linear layers that use the whole width of the CPU.

torch multiplies float32 matrices with Intel's MKL, which runs AVX2 code on an AMD CPU also where
that has AVX-512: half of what it can do. Convolutions go to oneDNN, which asks the CPU and not its
vendor. A linear layer is a convolution with a kernel of one pixel over an image that is one pixel
wide, its rows the tokens: the same numbers, but for rounding (see `benchmarks/linear.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qa_lightning.model import hardware


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, in the way that is fastest on the device.

    Args:
        input: `[..., features]`.
        weight: `[outputs, features]`.
        bias: `[outputs]`.

    Returns:
        `[..., outputs]`.
    """
    if not (
        input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # which does not take it with shapes that vary
        and hardware.mkl_leaves_width_unused()
    ):
        return nn.functional.linear(input, weight, bias)
    rows = input.reshape(1, -1, 1, input.shape[-1])
    # One pixel has nothing to dilate. Asking for it makes torch take oneDNN on one thread as well.
    outputs = nn.functional.conv2d(
        rows.permute(0, 3, 1, 2), weight[:, :, None, None], bias, dilation=2
    )
    return outputs.permute(0, 2, 3, 1).reshape(*input.shape[:-1], weight.shape[0])


class FastLinear(nn.Linear):
    """A linear layer that computes as `linear` says."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs `[..., outputs]` of inputs `[..., features]`."""
        return linear(input, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Make all linear layers in a model compute as `linear` says; their weights stay."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                fast = FastLinear(child.in_features, child.out_features, device="meta")
                fast.weight, fast.bias = child.weight, child.bias
                setattr(module, name, fast)
