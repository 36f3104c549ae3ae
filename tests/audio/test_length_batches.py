"""Every clip is encoded once, in batches with little padding, the same ones every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evar.audio.batches import length_batches, padded_length

lengths_of = st.lists(st.integers(0, 500), max_size=80)


@given(lengths_of, st.integers(1, 9), st.integers(1, 50), st.none() | st.integers(1, 2000), st.booleans())
def test_each_index_exactly_once_within_the_limits(lengths, batch, multiple, budget, equal):
    batches = length_batches(lengths, batch, multiple, budget, equal)
    assert sorted(i for part in batches for i in part.tolist()) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in part) for part in batches]
    padded = [padded_length(n, 1 if equal else multiple) for n in longest]
    assert padded == sorted(padded, reverse=True)
    for part, width in zip(batches, padded, strict=True):
        assert part.dtype == np.int64
        assert 1 <= len(part) <= batch
        assert budget is None or len(part) == 1 or len(part) * width <= budget
        assert not equal or len({lengths[i] for i in part}) == 1
    again = length_batches(lengths, batch, multiple, budget, equal)
    assert [part.tolist() for part in again] == [part.tolist() for part in batches]


def test_batches_are_as_full_as_they_may_be():
    assert [len(part) for part in length_batches([100] * 10, 4)] == [4, 4, 2]
    assert [len(part) for part in length_batches([100] * 10, 4, budget=250)] == [2] * 5
    assert [part.tolist() for part in length_batches([7, 9, 7, 9, 7], 8, equal=True)] == [[1, 3], [0, 2, 4]]


def test_clips_that_pad_to_one_length_keep_the_order_of_the_disk():
    assert [part.tolist() for part in length_batches([91, 100, 95, 20, 93], 3, multiple=10)] == [[0, 1, 2], [4, 3]]
    (many,) = length_batches(np.random.default_rng(0).integers(901, 1001, 500), 500, multiple=100)
    assert many.tolist() == list(range(500))


def test_sorting_leaves_little_padding():
    lengths = np.random.default_rng(0).integers(8000, 160000, 2000)
    padded = sum(len(part) * lengths[part].max() for part in length_batches(lengths, 32))
    assert padded < 1.02 * lengths.sum()


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": 1, "multiple": 0}, {"batch": 1, "budget": 0}])
def test_limits_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        length_batches([1, 2], **wrong)
