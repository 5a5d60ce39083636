"""Batches of like length: every row once, the same steps on every process."""

from __future__ import annotations

import numpy as np
import pytest

from lrkd.data.sampler import LengthBucketSampler


def samplers(rows, world, *, batch_size=4, shuffle=True, epoch=0, seed=0, lengths=None, **options):
    lengths = np.random.default_rng(rows).integers(5, 60, rows) if lengths is None else lengths
    made = []
    for rank in range(world):
        sampler = LengthBucketSampler(
            lengths, batch_size, shuffle=shuffle, seed=seed, num_replicas=world, rank=rank, **options
        )
        sampler.set_epoch(epoch)
        made.append(sampler)
    return made


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_row_comes_once_an_epoch_and_every_rank_has_as_many_batches(world, shuffle, batch_size):  # trap 30
    for rows in range(1, 51):
        made = samplers(rows, world, shuffle=shuffle, batch_size=batch_size, epoch=rows)
        steps = [list(sampler) for sampler in made]
        assert {len(own) for own in steps} == {len(sampler) for sampler in made} == {len(steps[0])}
        seen = []
        for step in zip(*steps, strict=True):
            (together,) = {tuple(request.step_rows.tolist()) for request in step}
            assert {request.epoch for request in step} == {rows}
            for rank, request in enumerate(step):
                assert 1 <= len(request.rows) <= batch_size
                assert request.repeated == (rank >= len(together))
                assert request.step_batches == world
                if not request.repeated:
                    seen += request.rows.tolist()
                else:  # a rank that would be empty repeats one row of the global batch
                    assert request.rows.tolist() == step[0].rows[:1].tolist()
            assert sorted(together) == sorted(r for request in step for r in request.rows if not request.repeated)
        assert sorted(seen) == list(range(rows))


def test_an_optimiser_step_is_all_processes_accumulated_batches_and_the_last_is_shorter():  # trap 2
    # 20 rows on 2 processes with 2 each: 5 global batches of 4; 2 a step: steps of 8, 8 and 4 rows.
    ranks = [list(sampler) for sampler in samplers(20, 2, batch_size=2, accumulate=2)]
    for own in ranks:
        assert [len(request.step_rows) for request in own] == [8, 8, 8, 8, 4]
        assert [request.step_batches for request in own] == [4] * 5
    for first, second in ((0, 1), (2, 3)):
        parts = [own[number].rows for own in ranks for number in (first, second)]
        assert sorted(np.concatenate(parts)) == sorted(ranks[0][first].step_rows) == sorted(ranks[1][second].step_rows)


def test_the_first_batches_can_be_left_out():  # trap 38
    whole = [request.rows.tolist() for request in samplers(60, 1, epoch=2, accumulate=2)[0]]
    (sampler,) = samplers(60, 1, epoch=2, accumulate=2)
    sampler.first = 3
    rest = list(sampler)
    assert [request.rows.tolist() for request in rest] == whole[3:]
    assert len(rest[0].step_rows) == 8, "the step that batch 3 ends is batches 2 and 3"
    assert len(sampler) == 15


def test_no_rows_no_batches():
    assert list(*samplers(0, 1)) == []


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_the_batches_of_one_process_with_a_larger_batch(world):  # trap 38
    alone = [sorted(request.rows.tolist()) for request in samplers(101, 1, batch_size=4 * world, epoch=2)[0]]
    ranks = [list(sampler) for sampler in samplers(101, world, batch_size=4, epoch=2)]
    together = [sorted(row for request in step for row in request.rows.tolist()) for step in zip(*ranks, strict=True)]
    assert together == alone


def batches(**options):
    return [request.rows.tolist() for request in samplers(60, 1, **options)[0]]


def test_shuffling_depends_on_epoch_and_seed_alone():  # trap 38
    assert batches() == batches()
    assert len({str(batches(**o)) for o in ({}, {"epoch": 1}, {"epoch": 2}, {"seed": 1}, {"seed": 1, "epoch": 1})}) == 5


def test_unshuffled_batches_run_from_short_to_long_in_every_epoch():
    lengths = np.random.default_rng(0).integers(5, 60, 60)
    assert batches(shuffle=False, lengths=lengths) == batches(shuffle=False, lengths=lengths, epoch=1)
    assert (np.diff(lengths[np.concatenate(batches(shuffle=False, lengths=lengths))]) >= 0).all()


def test_rows_of_equal_length_still_meet_others_in_each_epoch():
    first, second = ({frozenset(b) for b in batches(lengths=np.full(60, 9), epoch=epoch)} for epoch in (0, 1))
    assert not first & second


def padding(lengths, rows):
    """The share of a padded epoch that is padding."""
    padded = sum(len(batch) * lengths[batch].max() for batch in rows)
    return 1 - lengths.sum() / padded


def test_buckets_pad_far_less_than_random_batches():
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 128, 3200)
    bucketed = padding(lengths, [r.rows for r in samplers(3200, 1, batch_size=16, lengths=lengths)[0]])
    random = padding(lengths, np.split(rng.permutation(3200), 200))
    assert bucketed < 0.1 * random


def test_a_smaller_pool_pads_more():
    lengths = np.random.default_rng(0).integers(8, 128, 3200)
    small, large = (
        padding(lengths, [r.rows for r in samplers(3200, 1, batch_size=16, lengths=lengths, pool=pool)[0]])
        for pool in (2, 100)
    )
    assert small > 2 * large
