"""An epoch gives every window exactly once, in an order that seed and epoch fix."""

from __future__ import annotations

from itertools import chain
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.data.batches import PAD_TO_MULTIPLE
from qa_lightning.data.sampler import GROUPED_AT_ONCE, WindowSampler

Order = Literal["grouped", "random", "packed", "sorted"]
ORDERS: tuple[Order, ...] = ("grouped", "random", "packed", "sorted")


def epoch_of(
    lengths: np.ndarray,
    batch_size: int,
    order: Order,
    *,
    world_size: int = 1,
    seed: int = 0,
    epoch: int = 0,
) -> list[list[list[int]]]:
    """Batches of every process in one epoch."""
    result = []
    for rank in range(world_size):
        sampler = WindowSampler(
            lengths, batch_size, order=order, seed=seed, rank=rank, world_size=world_size
        )
        sampler.set_epoch(epoch)
        batches = [batch.tolist() for batch in sampler]
        assert len(sampler) == len(batches)
        result.append(batches)
    return result


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(5, 384), max_size=120),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 9),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 9),
)
def test_every_window_once_however_many_processes(
    lengths: list[int], batch_size: int, world_size: int, order: Order, seed: int, epoch: int
) -> None:
    total = len(lengths)
    ranks = epoch_of(
        np.array(lengths, np.int32),
        batch_size,
        order,
        world_size=world_size,
        seed=seed,
        epoch=epoch,
    )
    assert len({len(batches) for batches in ranks}) == 1
    if order == "sorted":  # whole batches, those of one process; the last may be duplicated
        (alone,) = epoch_of(np.array(lengths, np.int32), batch_size, order)
        assigned = [batch for step in zip(*ranks, strict=True) for batch in step]
        assert assigned[: len(alone)] == alone
        assert assigned[len(alone) :] == alone[-1:] * (len(assigned) - len(alone))
        assert len(assigned) < len(alone) + world_size
        ranks = [alone]
        world_size = 1
    sizes = [len(batch) for batches in ranks for batch in batches]
    rows = sorted(row for batches in ranks for batch in batches for row in batch)
    if total == 0:
        assert rows == []
    elif total < world_size:  # some are duplicated
        assert sizes == [1] * world_size
        assert set(rows) == set(range(total))
    else:
        assert rows == list(range(total))
        assert min(sizes) >= 1
        # Beyond the batch size only when some process would else be left without a window.
        needed = -(-total // (batch_size * world_size))
        steps = len(ranks[0])
        assert steps == min(needed, total // world_size)
        if order != "packed":
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) <= batch_size or steps < needed


@pytest.mark.parametrize("total", [1, 97, 2 * 8 * GROUPED_AT_ONCE, 12_345])
@pytest.mark.parametrize("order", ORDERS)
def test_large_sets_are_divided_without_rounding_errors(total: int, order: Order) -> None:
    lengths = np.random.default_rng(0).integers(20, 384, total)
    ranks = epoch_of(lengths, 7, order, world_size=3)
    rows = [row for batches in ranks for batch in batches for row in batch]
    if order == "sorted":
        assert set(rows) == set(range(total))
        assert len(rows) < total + 3 * 7
    elif total >= 3:
        assert sorted(rows) == list(range(total))
        sizes = {len(batch) for batches in ranks for batch in batches}
        assert sizes <= {6, 7} or order == "packed"
    else:
        assert set(rows) == {0}


@pytest.mark.parametrize("order", ["grouped", "random"])
def test_a_step_is_the_same_windows_on_any_number_of_processes(order: Order) -> None:
    lengths = np.random.default_rng(1).integers(20, 384, 500)
    (alone,) = epoch_of(lengths, 24, order, seed=5, epoch=2)
    for world_size in (2, 3, 8):
        ranks = epoch_of(lengths, 24 // world_size, order, world_size=world_size, seed=5, epoch=2)
        together = [sorted(chain(*step)) for step in zip(*ranks, strict=True)]
        assert together == [sorted(batch) for batch in alone]


@pytest.mark.parametrize("order", ["grouped", "random", "packed"])
def test_seed_and_epoch_fix_the_order(order: Order) -> None:
    lengths = np.random.default_rng(1).integers(20, 384, 300)

    def of(seed: int, epoch: int) -> list[list[list[int]]]:
        return epoch_of(lengths, 8, order, seed=seed, epoch=epoch, world_size=2)

    np.random.seed(11)
    torch.manual_seed(11)
    once = of(4, 7)
    np.random.seed(12)
    torch.manual_seed(12)
    assert of(4, 7) == once
    others = [of(4, 8), of(5, 7), of(7, 4), of(4, 0)]
    for other in others:
        assert other != once
        # Not the same batches in another order either: windows meet others in every epoch.
        members = {frozenset(batch) for batch in once[0]}
        again = sum(frozenset(batch) in members for batch in other[0])
        assert again < len(once[0]) / 4


@pytest.mark.parametrize("order", ["grouped", "random", "packed"])
def test_an_epoch_can_be_given_again_and_another_follows(order: Order) -> None:
    sampler = WindowSampler(np.arange(5, 105), 8, order=order, seed=1)
    first = [batch.tolist() for batch in sampler]
    assert [batch.tolist() for batch in sampler] == first
    sampler.set_epoch(1)
    assert [batch.tolist() for batch in sampler] != first
    sampler.set_epoch(0)
    assert [batch.tolist() for batch in sampler] == first


def test_sorted_falls_in_length_and_never_changes() -> None:
    lengths = np.random.default_rng(2).integers(20, 384, 200).astype(np.int32)
    (batches,) = epoch_of(lengths, 16, "sorted", seed=1, epoch=0)
    flat = lengths[np.concatenate(batches)]
    assert (np.diff(flat) <= 0).all()
    assert epoch_of(lengths, 16, "sorted", seed=2, epoch=3) == [batches]


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(3, 384), min_size=1, max_size=300),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_packed_rows_are_even_however_wild_the_lengths(
    lengths: list[int], batch_size: int, world_size: int, seed: int
) -> None:
    sizes = np.array(lengths, np.int32)
    ranks = epoch_of(sizes, batch_size, "packed", world_size=world_size, seed=seed)
    loads = np.array([sizes[batch].sum() for batches in ranks for batch in batches])
    row_tokens = WindowSampler(sizes, batch_size, order="packed", world_size=world_size).row_tokens
    assert row_tokens % PAD_TO_MULTIPLE == 0
    if len(lengths) >= world_size:
        assert loads.mean() < row_tokens < loads.mean() + 2 * 8
    # What is assigned together (all of it up to 64 rows) differs by one window at most.
    if len(loads) <= 64:
        assert loads.max() - loads.min() <= max(lengths)


@pytest.mark.parametrize(("batch_size", "most"), [(16, 0.01), (32, 0.005), (64, 0.005)])
@pytest.mark.parametrize("world_size", [1, 8])
def test_packed_rows_are_full(batch_size: int, most: float, world_size: int) -> None:
    draw = np.random.default_rng(3)
    lengths = np.clip(draw.lognormal(5.05, 0.4, 20_000), 20, 384).astype(np.int32)
    sampler = WindowSampler(lengths, batch_size, order="packed", world_size=world_size)
    ranks = epoch_of(lengths, batch_size, "packed", world_size=world_size)
    loads = np.array([lengths[batch].sum() for batches in ranks for batch in batches])
    assert loads.max() <= sampler.row_tokens  # so that every row has the same shape
    assert 1 - loads.sum() / (len(loads) * sampler.row_tokens) < most
    counts = [len(batch) for batches in ranks for batch in batches]
    assert np.mean(counts) == pytest.approx(batch_size, rel=0.03)
    assert max(counts) - min(counts) <= 4


def test_packed_batches_come_in_random_order() -> None:
    draw = np.random.default_rng(4)
    lengths = np.clip(draw.lognormal(5.05, 0.4, 40_000), 20, 384).astype(np.int32)
    (batches,) = epoch_of(lengths, 16, "packed")
    place = np.empty(len(lengths), int)
    for number, batch in enumerate(batches):
        place[batch] = number
    # For random order the standard error of these is 0.005.
    assert abs(np.corrcoef(place, np.arange(len(place)))[0, 1]) < 0.02
    assert abs(np.corrcoef(place, lengths)[0, 1]) < 0.02
    assert (np.diff(place) == 0).mean() < 0.01  # neighbours in the file train apart


def padded_share(lengths: np.ndarray, batches: list[list[int]]) -> float:
    filled = sum(lengths[batch].max() * len(batch) for batch in batches)
    return 1 - lengths.sum() / filled


def test_grouped_pads_far_less_than_random() -> None:
    # Lengths like SQuAD's: most between 100 and 250 tokens, some up to the window.
    draw = np.random.default_rng(3)
    lengths = np.clip(draw.lognormal(5.05, 0.4, 20_000), 20, 384).astype(np.int32)
    (grouped,) = epoch_of(lengths, 16, "grouped")
    (drawn,) = epoch_of(lengths, 16, "random")
    assert padded_share(lengths, drawn) > 0.3
    assert padded_share(lengths, grouped) < 0.03


def test_grouped_batches_come_in_random_order() -> None:
    draw = np.random.default_rng(4)
    lengths = np.clip(draw.lognormal(5.05, 0.4, 40_000), 20, 384).astype(np.int32)
    (batches,) = epoch_of(lengths, 16, "grouped")
    means = np.array([lengths[batch].mean() for batch in batches])
    assert len(means) == 2500
    # For random order the standard error of these is 0.02.
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.08
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.08


def test_grouped_windows_meet_at_random_within_a_length() -> None:
    """Neighbours in the file, which share a context and its length, mostly train apart."""
    lengths = np.repeat(np.random.default_rng(5).integers(50, 384, 2_000), 5)
    (batches,) = epoch_of(lengths, 16, "grouped")
    batch_of = np.empty(len(lengths), int)
    for number, batch in enumerate(batches):
        batch_of[batch] = number
    together = (batch_of.reshape(-1, 5)[:, :1] == batch_of.reshape(-1, 5)[:, 1:]).mean()
    assert together < 0.1
