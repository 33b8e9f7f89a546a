"""Permutations without tables, and orders that open few shards at a time."""

import numpy as np
import pytest

from bigscale.data import order as orders
from bigscale.data.hashing import Permutation
from bigscale.data.order import Order, order_of


@pytest.mark.parametrize("length", [1, 2, 3, 1000, 65536, 65537, 100_003])
def test_permutations_contain_every_number_once(length):
  found = Permutation(length, 5)(np.arange(length))
  np.testing.assert_array_equal(np.sort(found), np.arange(length))


def test_keys_give_unrelated_permutations():
  length = 100_000
  a, b = (Permutation(length, key)(np.arange(length)) for key in (0, 1))
  # Five standard deviations of independent draws.
  assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(length)
  assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 / np.sqrt(length)
  assert np.sum(a == b) < 10


@pytest.mark.parametrize("length", [1 << 17, 300_000_000, 5_000_000_000])
def test_large_permutations_spread_evenly(length):
  found = Permutation(length, 3)(np.arange(64_000))
  assert len(np.unique(found)) == 64_000
  counts = np.bincount(found * 64 // length, minlength=64)
  # Chi-squared with 63 degrees of freedom: the mean plus 5 standard deviations.
  assert np.sum((counts - 1000) ** 2 / 1000) < 63 + 5 * np.sqrt(126)


def test_indices_may_repeat_in_any_order():
  places = np.array([7, 70_000, 7, 0])
  permutation = Permutation(100_000, 1)
  whole = permutation(np.arange(100_000))
  np.testing.assert_array_equal(permutation(places), whole[places])


def test_windows_contain_every_record_once():
  counts = (50, 7, 30, 41, 13, 60, 2)
  order = Order(counts, together=3, seed=4, shuffle=True)
  length = sum(counts)
  file_of = np.repeat(np.arange(len(counts)), counts)
  epochs = order.indices(np.arange(3 * length)).reshape(3, length)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(length))
    files = file_of[epoch]
    # At most three files are open at a time.
    starts = [np.flatnonzero(files == f)[[0, -1]] for f in range(len(counts))]
    open_at = [
      sum(first <= place <= last for first, last in starts)
      for place in range(length)
    ]
    assert max(open_at) <= 3
    # Records of the open files alternate.
    assert np.count_nonzero(np.diff(files)) > length / 3
  assert (epochs[0] != epochs[1]).any()
  assert {tuple(file_of[e[:3]]) for e in epochs} != {
    tuple(file_of[epochs[0][:3]])
  }


def test_windows_and_epochs_are_shuffled_independently():
  order = Order((50,) * 8, together=2, seed=4, shuffle=True)
  epochs = order.indices(np.arange(1200)).reshape(3, 4, 100)
  files = epochs // 50
  first = {tuple(sorted(set(window.tolist()))) for window in files[:, 0]}
  assert len(first) > 1
  # Compare ranks, because windows contain different files.
  ranks = {tuple(np.argsort(window)) for epoch in epochs for window in epoch}
  assert len(ranks) == 12


def test_any_part_of_an_epoch_can_be_computed():
  order = Order((50, 7, 30), together=2, seed=4, shuffle=True)
  whole = order.indices(np.arange(200))
  pieces = [order.indices(np.arange(i, i + 10)) for i in range(0, 200, 10)]
  np.testing.assert_array_equal(np.concatenate(pieces), whole)


class _Sized:
  def __init__(self, *file_records):
    self.file_records = file_records


def test_windows_are_as_large_as_memory_allows(monkeypatch):
  monkeypatch.setattr(orders, "MAX_OPEN_RECORDS", 100)
  assert order_of(_Sized(40, 60), 0, 0, True).together == 2
  # The next window must fit as well.
  assert order_of(_Sized(*[10] * 11), 0, 0, True).together == 5
  assert order_of(_Sized(200, 200), 0, 0, True).together == 1
  assert order_of(_Sized(40, 60), 1, 0, True).together == 1
