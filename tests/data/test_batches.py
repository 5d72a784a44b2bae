"""Batches equal windows put together one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from qa_lightning.data.batches import PAD_TO_MULTIPLE, Batch, WindowDataset
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.data.squad import read_squad
from qa_lightning.data.tokens import Ragged
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import Windows, make_windows

Order = Literal["grouped", "random", "packed", "sorted"]
ORDERS: tuple[Order, ...] = ("grouped", "random", "packed", "sorted")


def windows_of(path: Path, encoder: Path, *, context_first: bool = False) -> Windows:
    """Windows of a small file: several of most questions, some with an answer, some without."""
    # 45 is not a multiple of 8: the longest windows stop short of a padded length.
    sizes = WindowSettings(45, 8, max_question_tokens=12, context_first=context_first)
    return make_windows(read_squad(path), AutoTokenizer.from_pretrained(encoder), sizes)


@pytest.fixture
def windows(squad_files: dict[str, Path], tiny_encoder: Path) -> Windows:
    return windows_of(squad_files["train"], tiny_encoder)


# ---- batches


def row_of(ragged: Ragged, row: int) -> list[int]:
    return ragged.values[ragged.bounds[row] : ragged.bounds[row + 1]].tolist()


def assert_built_from(batch: Batch, windows: Windows, rows: list[int]) -> None:
    """The batch against its windows, put together one by one from lists."""
    width = batch.input_ids.shape[1]
    layout = windows.layout
    cls, sep = layout.before[0], layout.after[0]
    for at, row in enumerate(rows):
        question = row_of(windows.question_ids, windows.question[row])
        piece = slice(
            windows.context_start[row], windows.context_start[row] + windows.context_length[row]
        )
        context, starts, ends, words = (
            row_of(ragged, windows.context[row])[piece]
            for ragged in (
                windows.context_ids,
                windows.char_starts,
                windows.char_ends,
                windows.word_starts,
            )
        )
        first, second = (
            (context, question)
            if windows.settings.context_first
            else (
                question,
                context,
            )
        )
        ids = [cls, *first, sep, *second, sep]
        lead = 1 if windows.settings.context_first else 2 + len(question)
        rest = width - len(ids)
        behind = width - lead - len(context)
        assert batch.input_ids[at].tolist() == ids + [layout.pad] * rest
        mask = [True] * width if batch.attention_mask is None else batch.attention_mask[at].tolist()
        assert mask == [True] * len(ids) + [False] * rest
        assert batch.offsets is not None and batch.word_starts is not None
        nowhere = [[-1, -1]]
        characters = [list(pair) for pair in zip(starts, ends, strict=True)]
        assert batch.offsets[at].tolist() == nowhere * lead + characters + nowhere * behind
        word_starts = [False] * lead + [bool(word) for word in words] + [False] * behind
        assert batch.word_starts[at].tolist() == word_starts
        assert batch.label_start[at] == windows.label_start[row]
        assert batch.label_end[at] == windows.label_end[row]
        assert batch.key[at].tolist() == [windows.question[row], windows.index[row]]


@pytest.mark.parametrize("padding", ["batch", "window"])
@pytest.mark.parametrize("context_first", [False, True])
def test_a_batch_is_its_windows_built_one_by_one(
    squad_files: dict[str, Path],
    tiny_encoder: Path,
    context_first: bool,
    padding: Literal["batch", "window"],
) -> None:
    windows = windows_of(squad_files["train"], tiny_encoder, context_first=context_first)
    dataset = WindowDataset(windows, with_offsets=True, padding=padding)
    assert len(dataset) == len(windows) > windows.questions.num_rows
    rows = np.random.default_rng(0).permutation(len(windows)).tolist()
    shortest = int(windows.lengths.argmin())
    for chosen in (rows, rows[:7], rows[7:8], [shortest], [3, 3, 2]):
        batch = dataset[chosen]
        longest = int(windows.lengths[chosen].max())
        width = batch.input_ids.shape[1]
        if padding == "window":
            assert width == windows.settings.window
        else:
            assert width in {longest + n for n in range(PAD_TO_MULTIPLE)}
            assert width % PAD_TO_MULTIPLE == 0 or width == windows.settings.window
        assert (batch.attention_mask is None) == bool((windows.lengths[chosen] == width).all())
        assert_built_from(batch, windows, chosen)


def test_nothing_padded_means_no_mask(windows: Windows) -> None:
    full = np.flatnonzero(windows.lengths == windows.settings.window)
    assert len(full) > 3
    batch = WindowDataset(windows, with_offsets=True)[full]
    assert batch.attention_mask is None
    assert_built_from(batch, windows, full.tolist())


def test_training_batches_leave_out_what_only_decoding_needs(windows: Windows) -> None:
    batch = WindowDataset(windows, with_offsets=False)[[0, 1]]
    assert batch.offsets is None and batch.word_starts is None
    decoding = WindowDataset(windows, with_offsets=True)[[0, 1]]
    assert torch.equal(batch.input_ids, decoding.input_ids)


def test_kinds_of_numbers(windows: Windows) -> None:
    batch = WindowDataset(windows, with_offsets=True)[[0, int(windows.lengths.argmin())]]
    kinds = [tensor.dtype for tensor in batch if isinstance(tensor, torch.Tensor)]
    whole = torch.int64
    assert kinds == [whole, torch.bool, whole, whole, whole, torch.int32, torch.bool]


@pytest.mark.parametrize("order", ORDERS)
def test_workers_give_the_same_batches(windows: Windows, order: Order) -> None:
    def load(workers: int) -> list[Batch]:
        sampler = WindowSampler(windows.lengths, 16, order=order, seed=3)
        sampler.set_epoch(1)
        dataset = WindowDataset(windows, with_offsets=True)
        return list(DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers))

    alone, shared = load(0), load(2)
    assert len(alone) == len(shared) == -(-len(windows) // 16)
    for one, other in zip(alone, shared, strict=True):
        assert isinstance(one, Batch) and isinstance(other, Batch)
        for name, left, right in zip(Batch._fields, one, other, strict=True):
            if isinstance(left, torch.Tensor):
                assert left.dtype == right.dtype and torch.equal(left, right), name
            else:
                assert left == right, name
    names = {tuple(key) for batch in alone for key in batch.key.tolist()}
    assert len(names) == len(windows)


# ---- packed batches


def test_packing_names_every_token_once_in_its_windows_order(windows: Windows) -> None:
    plain = WindowDataset(windows, with_offsets=True)
    rows = np.random.default_rng(0).permutation(len(windows))[:7].tolist()
    tokens = int(windows.lengths[rows].sum())
    longest = windows.settings.window
    for row_tokens in (0, tokens, tokens + 1, 8 * -(-(tokens + 3 * longest) // 8)):
        dataset = WindowDataset(windows, with_offsets=True, row_tokens=row_tokens)
        batch, padded = dataset[rows], plain[rows]
        assert batch.packing is not None and padded.packing is None
        indices, ends, most = batch.packing
        assert indices.dtype == torch.int64 and ends.dtype == torch.int32 and most == longest
        # The windows, padded, are there as ever.
        assert_built_from(batch, windows, rows)
        assert torch.equal(batch.input_ids, padded.input_ids)
        assert batch.attention_mask is not None
        row = batch.input_ids.flatten()[indices[:tokens]]
        assert torch.equal(row, batch.input_ids[batch.attention_mask])
        assert (indices[tokens:] == batch.input_ids.numel()).all()
        lengths = ends.diff()
        assert ends[0] == 0 and ends[-1] == len(indices)
        assert lengths[:7].tolist() == windows.lengths[rows].tolist()
        assert (lengths >= 0).all() and lengths.max() <= longest
        segments = len(lengths)
        assert segments & (segments - 1) == 0  # a power of two: few shapes
        assert batch.size.tokens == padded.size.tokens == tokens
        assert batch.size.attention_pairs == padded.size.attention_pairs
        assert batch.size.padded_tokens == len(indices)
        assert len(indices) == max(row_tokens, -(-tokens // PAD_TO_MULTIPLE) * PAD_TO_MULTIPLE)


def test_a_packed_batch_without_padding_still_has_a_mask(windows: Windows) -> None:
    full = np.flatnonzero(windows.lengths == windows.settings.window)
    batch = WindowDataset(windows, with_offsets=False, row_tokens=64)[full]
    assert batch.attention_mask is not None and batch.attention_mask.all()
