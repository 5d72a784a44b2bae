"""Linear layers as convolutions: the same numbers and gradients, the same weights by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qa_lightning.model import hardware
from qa_lightning.model.linear import FastLinear, linear, use_fast_linear


@pytest.fixture(params=[False, True], ids=["product", "convolution"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(hardware, "mkl_leaves_width_unused", lambda: request.param)
    return request.param


@given(
    shape=st.lists(st.integers(1, 5), max_size=3),
    features=st.integers(1, 20),
    outputs=st.integers(1, 20),
    with_bias=st.booleans(),
    transposed=st.booleans(),
)
def test_it_is_the_linear_layer_of_torch(
    shape: list[int], features: int, outputs: int, with_bias: bool, transposed: bool
) -> None:
    inputs = torch.randn(*shape, features)
    if transposed and len(shape) > 1:
        inputs = inputs.transpose(0, 1)  # not contiguous
    given_to = [inputs.clone() if not transposed else inputs, torch.randn(outputs, features)]
    given_to += [torch.randn(outputs)] if with_bias else []
    ours, theirs = (
        [value.detach().double().requires_grad_() for value in given_to],
        [value.detach().double().requires_grad_() for value in given_to],
    )
    single = [value.detach().float().requires_grad_() for value in given_to]
    found, right = linear(*single), nn.functional.linear(*theirs)
    assert found.shape == right.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)
    weights = torch.randn(right.shape)
    (found * weights).sum().backward()
    (right * weights).sum().backward()
    for one, other in zip(single, theirs, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-4)
    # Numbers that a convolution would round go to the product.
    torch.testing.assert_close(linear(*ours), right, rtol=0, atol=0)


def test_convolutions_are_used_where_they_are_faster(
    way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    convolve = nn.functional.conv2d
    monkeypatch.setattr(
        nn.functional, "conv2d", lambda *a, **k: called.append(a) or convolve(*a, **k)
    )
    layer = FastLinear(4, 3)
    layer(torch.randn(2, 4))
    assert bool(called) is way
    called.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 4)).dtype == torch.bfloat16
    assert not called


def test_a_model_keeps_its_weights_and_their_names() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ModuleDict({"inner": nn.Linear(3, 2, bias=False)}))
    before = dict(model.named_parameters())
    use_fast_linear(model)
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(after[name] is weight for name, weight in before.items())
    assert isinstance(model[0], FastLinear) and isinstance(model[1]["inner"], FastLinear)
    use_fast_linear(model)  # a second time changes nothing
    assert dict(model.named_parameters()).keys() == before.keys()
