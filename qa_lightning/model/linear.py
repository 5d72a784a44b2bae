"""Linear layers that use the whole width of the CPU.

torch multiplies float32 matrices with Intel's MKL, which runs AVX2 code on AMD CPUs even where they
have AVX-512: half the speed. Convolutions go to oneDNN, which looks at the CPU's features and not
at its vendor. A linear layer is a convolution with a kernel of one pixel over an image that is one
pixel wide and has a row per token: the same numbers up to rounding (see `benchmarks/linear.py`).
"""

import torch
from torch import Tensor, nn

from qa_lightning.model import hardware


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, as a convolution where that is faster.

    Shapes: `[..., features]`, `[outputs, features]` and `[outputs]` to `[..., outputs]`.
    """
    if not (
        input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # it fails on this with varying shapes
        and hardware.mkl_leaves_width_unused()
    ):
        return nn.functional.linear(input, weight, bias)
    rows = input.reshape(1, -1, 1, input.shape[-1])
    # One pixel has nothing to dilate, but with dilation torch chooses oneDNN on one thread too.
    outputs = nn.functional.conv2d(
        rows.permute(0, 3, 1, 2), weight[:, :, None, None], bias, dilation=2
    )
    return outputs.permute(0, 2, 3, 1).reshape(*input.shape[:-1], weight.shape[0])


class FastLinear(nn.Linear):
    """A linear layer that computes with `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs `[..., outputs]` of inputs `[..., features]`."""
        return linear(input, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Make all linear layers in a model compute with `linear`; their weights stay."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, replaced_linear(child, FastLinear))


def replaced_linear(layer: nn.Linear, kind: type[nn.Linear]) -> nn.Linear:
    """A layer of another kind with the weights of one."""
    other = kind(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    other.weight, other.bias = layer.weight, layer.bias
    return other
