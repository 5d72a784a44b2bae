"""Packed windows give the logits, losses and gradients of padded ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import seed_everything
from torch import Tensor

from qa_lightning.data.batches import Packing, _pack
from qa_lightning.model import attention
from qa_lightning.model.attention import AttentionBackend, choose_backend, packed_arguments
from qa_lightning.training.loss import window_losses
from qa_lightning.training.module import QuestionAnsweringModule

LONGEST = 40
WAYS: tuple[AttentionBackend, ...] = ("loop", "pad")


@pytest.fixture(scope="module")
def module(tiny_encoder: Path) -> QuestionAnsweringModule:
    seed_everything(1, verbose=False)
    module = QuestionAnsweringModule(str(tiny_encoder), dropout=0.0, attention_dropout=0.0)
    with torch.no_grad():  # attention that makes a difference
        for name, parameter in module.encoder.named_parameters():
            if "q_lin" in name or "k_lin" in name or "qa_outputs" in name:
                parameter.mul_(8)
    return module.train()


def windows_of(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and mask of windows of these lengths."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 60, mask.shape, generator=draw)
    return torch.where(mask, ids, 0), mask


def packing_of(lengths: list[int], row_tokens: int = 0) -> Packing:
    import numpy as np

    return _pack(np.array(lengths), max(lengths), LONGEST, row_tokens)


def loss_and_gradients(
    module: QuestionAnsweringModule, logits: Tensor, start: Tensor, end: Tensor
) -> list[Tensor]:
    losses = window_losses(logits, start, end)
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [losses.detach(), *torch.autograd.grad(losses.sum(), parameters)]


def assert_equal_to_padded(
    module: QuestionAnsweringModule, lengths: list[int], row_tokens: int, seed: int = 0
) -> None:
    ids, mask = windows_of(lengths, seed)
    packing = packing_of(lengths, row_tokens)
    draw = torch.Generator().manual_seed(seed)
    size = torch.tensor(lengths)
    drawn = (torch.rand(2, len(lengths), generator=draw) * size).long()
    first = torch.zeros_like(size)
    padded = module(ids, mask)
    packed = module(ids, mask, packing)
    assert packed.dtype == padded.dtype == torch.float32
    assert torch.equal(torch.isneginf(packed), torch.isneginf(padded))
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=2e-6)
    for start, end in ((first, size - 1), (drawn.amin(0), drawn.amax(0)), (size - 1, first)):
        ours = loss_and_gradients(module, module(ids, mask, packing), start, end)
        theirs = loss_and_gradients(module, module(ids, mask), start, end)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=WAYS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AttentionBackend:
    monkeypatch.setattr("qa_lightning.training.module.choose_backend", lambda *given: request.param)
    return request.param


@pytest.mark.parametrize(
    ("lengths", "row_tokens"),
    [
        ([40], 40),
        ([7], 64),
        ([1, 40, 2, 39, 1], 0),
        ([12, 30, 5, 21], 256),  # room is left for several windows
        ([9] * 20, 180),
    ],
)
def test_packed_equals_padded(
    module: QuestionAnsweringModule, backend: AttentionBackend, lengths: list[int], row_tokens: int
) -> None:
    assert_equal_to_padded(module, lengths, row_tokens)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=9),
    row_tokens=st.integers(0, 500),
    seed=st.integers(0, 9),
)
def test_packed_equals_padded_whatever_the_lengths(
    module: QuestionAnsweringModule, lengths: list[int], row_tokens: int, seed: int
) -> None:
    assert_equal_to_padded(module, lengths, row_tokens, seed)


def test_no_window_sees_another(module: QuestionAnsweringModule, backend: AttentionBackend) -> None:
    lengths = [13, 8, 40, 21]
    ids, mask = windows_of(lengths)
    packing = packing_of(lengths, 128)
    before = module(ids, mask, packing)
    ids[2, :40] = 7
    after = module(ids, mask, packing)
    others = [0, 1, 3]
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[2], before[2])
    assert torch.isfinite(after[mask]).all()


def test_half_precision_is_close_to_full(
    module: QuestionAnsweringModule, backend: AttentionBackend
) -> None:
    lengths = [13, 8, 40, 21]
    ids, mask = windows_of(lengths)
    packing = packing_of(lengths, 128)
    full = module(ids, mask, packing)[mask]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed, padded = module(ids, mask, packing)[mask], module(ids, mask)[mask]
    assert packed.dtype == torch.float32
    scale = full.abs().max()
    assert (packed - full).abs().max() < 0.05 * scale
    assert (packed - padded).abs().max() < 0.05 * scale


def test_attention_in_half_precision_is_computed_in_full_on_a_cpu() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, 11, 8, generator=draw).bfloat16() for _ in range(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, _ = attention._attention(torch.nn.Module(), *parts, None)
    query, key, value = (part.double() for part in parts)
    weights = (query @ key.transpose(2, 3) / 8**0.5).softmax(3)
    exact = (weights @ value).transpose(1, 2)
    assert ours.dtype == torch.bfloat16
    # One rounding, to 8 bits, at the end.
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-6)


def test_masks_of_two_dimensions_still_count(module: QuestionAnsweringModule) -> None:
    """Whoever uses the encoder as transformers' documentation says gets what it says."""
    ids, mask = windows_of([13, 40])
    alone = module.encoder.distilbert(input_ids=ids[:1, :13])[0]
    padded = module.encoder.distilbert(input_ids=ids, attention_mask=mask.long())[0]
    torch.testing.assert_close(padded[:1, :13], alone, rtol=0, atol=1e-5)


def test_dropout_reaches_the_attention_of_packed_windows(
    module: QuestionAnsweringModule, backend: AttentionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    plain = torch.nn.functional.scaled_dot_product_attention

    def watched(*given: Tensor, dropout_p: float, **others: Tensor) -> Tensor:
        seen.add(dropout_p)
        return plain(*given, dropout_p=dropout_p, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    for layer in module.encoder.distilbert.transformer.layer:
        monkeypatch.setattr(layer.attention.dropout, "p", 0.25)
    ids, mask = windows_of([13, 8])
    module(ids, mask, packing_of([13, 8]))
    assert seen == {0.25}
    module.eval()
    module(ids, mask, packing_of([13, 8]))
    module.train()
    assert seen == {0.25, 0.0}


def test_packed_windows_need_their_mask(module: QuestionAnsweringModule) -> None:
    ids, _ = windows_of([13, 8])
    with pytest.raises(ValueError, match="mask"):
        module(ids, None, packing_of([13, 8]))


class TestWayIsChosen:
    def test_on_a_cpu(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            assert choose_backend(torch.device("cpu"), dtype, 64) == "loop"

    @pytest.mark.parametrize(
        ("dtype", "capability", "head_size", "expected"),
        [
            (torch.float32, (9, 0), 64, "pad"),
            (torch.bfloat16, (9, 0), 64, "varlen"),
            (torch.float16, (8, 0), 32, "varlen"),
            (torch.float16, (7, 5), 64, "pad"),
            (torch.bfloat16, (9, 0), 256, "varlen"),
            (torch.bfloat16, (9, 0), 264, "pad"),  # the flash kernels refuse these
            (torch.bfloat16, (9, 0), 60, "pad"),
        ],
    )
    def test_on_cuda(
        self,
        monkeypatch: pytest.MonkeyPatch,
        dtype: torch.dtype,
        capability: tuple[int, int],
        head_size: int,
        expected: AttentionBackend,
    ) -> None:
        pytest.importorskip("torch.nn.attention.varlen")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        assert choose_backend(torch.device("cuda"), dtype, head_size) == expected

    def test_the_encoders_own_head_size_counts(
        self, module: QuestionAnsweringModule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        monkeypatch.setattr(
            "qa_lightning.training.module.choose_backend",
            lambda device, dtype, head_size: asked.append(head_size) or "loop",
        )
        ids, mask = windows_of([13, 8])
        module(ids, mask, packing_of([13, 8]))
        assert asked == [16]

    def test_elsewhere(self) -> None:
        assert choose_backend(torch.device("mps"), torch.float16, 64) == "pad"

    def test_a_way_is_told_no_more_than_it_needs(self) -> None:
        packing, mask = packing_of([13, 8]), windows_of([13, 8])[1]
        assert set(packed_arguments("pad", packing, mask)) == {
            "backend",
            "indices",
            "attention_mask",
        }
        for backend in ("varlen", "loop"):
            assert set(packed_arguments(backend, packing, mask)) == {
                "backend",
                "cu_seqlens",
                "max_seqlen",
            }


def backward_operations(backend: AttentionBackend) -> set[str]:
    """Names of the operations in the backward pass of packed attention."""
    lengths = [13, 8, 40]
    packing, mask = packing_of(lengths, 64), windows_of(lengths)[1]
    parts = [torch.randn(1, 2, len(packing.indices), 8).clone().requires_grad_() for _ in range(3)]
    packed = packed_arguments(backend, packing, mask)
    out, _ = attention._attention(
        torch.nn.Module(), *parts, packed.pop("attention_mask", None), **packed
    )
    with torch.profiler.profile() as profile:
        out.sum().backward()
    return {event.key for event in profile.key_averages()}


def test_the_padded_backends_backward_pass_neither_sorts_nor_selects() -> None:
    """`part[0]` fills and copies in its backward pass, `flat[indices]` sorts on a GPU."""
    operations = backward_operations("pad")
    assert "aten::index_add_" in operations
    assert not {"aten::select_backward", "aten::_index_put_impl_"} & operations


@pytest.mark.skipif(
    not torch.cuda.is_available()
    or choose_backend(torch.device("cuda"), torch.bfloat16, 32) != "varlen",
    reason="needs a GPU with flash attention and torch 2.10",
)
@pytest.mark.parametrize("row_tokens", [0, 256])
def test_variable_length_attention_equals_the_loop(row_tokens: int) -> None:
    lengths = [13, 1, 40, 21]
    packing = packing_of(lengths, row_tokens)
    slots = len(packing.indices)
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, 4, slots, 32, generator=draw).bfloat16() for _ in range(3)]
    grad = torch.randn(1, slots, 4, 32, generator=draw).bfloat16()
    results = []
    for device, backend in (("cpu", "loop"), ("cuda", "varlen")):
        parts = [part.to(device).requires_grad_() for part in drawn]
        out, _ = attention._attention(
            torch.nn.Module(),
            *parts,
            None,
            backend=backend,  # type: ignore[arg-type]
            cu_seqlens=packing.cu_seqlens.to(device),
            max_seqlen=packing.max_seqlen,
        )
        gradients = torch.autograd.grad(out, parts, grad.to(device))
        results.append([result.float().cpu() for result in (out, *gradients)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=2e-2, atol=2e-2)
