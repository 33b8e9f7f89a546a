"""Labels that scored samples are conditioned on."""

import numpy as np
import pytest

from bigscale.data.proportions import apportion
from bigscale.metrics.labels import labels_of, plan_labels
from bigscale.spec import SpecError


@pytest.mark.parametrize(
  ("weights", "total", "counts"),
  [
    ((4000, *(150,) * 9), 2000, None),
    ((1, 1, 2), 8, (2, 2, 4)),
    # Exact shares 1.4, 4.2 and 1.4: the smallest remainder is rounded down.
    ((1, 3, 1), 7, (None, 4, None)),
    ((0, 5, 0), 3, (0, 3, 0)),
    ((0.5, 0.25, 0.25), 4, (2, 1, 1)),
    ((3, 3), 0, (0, 0)),
  ],
)
def test_shares_are_rounded_to_the_largest_remainders(weights, total, counts):
  found = apportion(np.array(weights), total)
  exact = total * np.array(weights) / sum(weights)
  assert found.sum() == total
  assert (np.abs(found - exact) < 1).all()
  # Larger remainders are rounded up before smaller ones.
  up, remainders = found > np.floor(exact), exact - np.floor(exact)
  assert remainders[up].min(initial=1) >= remainders[~up].max(initial=0) - 1e-9
  for one, expected in zip(found, counts or (), strict=False):
    assert expected is None or one == expected


def test_equal_classes_are_chosen_at_random():
  """With a thousand equal classes, 200 samples do not favor the first ones."""
  drawn = np.flatnonzero(apportion(np.ones(1000), 200))
  assert len(drawn) == 200
  assert 80 < (drawn < 500).sum() < 120


def test_labels_depend_on_seed_and_position():
  counts = (5, 0, 90, 5)
  labels = labels_of(counts, 3)
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(np.bincount(labels), counts)
  np.testing.assert_array_equal(labels, labels_of(counts, 3))
  assert not np.array_equal(labels, labels_of(counts, 4))
  # Shuffled: a part of the labels has the same proportions as all.
  assert 40 < (labels[:50] == 2).sum() < 50
  assert labels_of((), 3) is None


@pytest.mark.parametrize("rule", ["reference", "uniform"])
def test_classes_without_images_are_skipped_and_named(rule, caplog):
  plan = plan_labels(
    rule, np.array([0, 4, 4, 8]), 16, ("none", "a", "b", "c"), "a set"
  )
  assert plan.counts[0] == 0
  assert sum(plan.counts) == 16
  if rule == "reference":
    assert plan.counts == (0, 4, 4, 8)
  else:
    assert max(plan.counts) - min(plan.counts[1:]) <= 1
  assert plan.protocol["rule"] == rule
  assert plan.protocol["classes_without_reals"] == {
    "number": 1,
    "names": ["none"],
  }
  assert "a set has no image of 1 of 4 classes (none)" in caplog.text


def test_classes_without_samples_are_named(caplog):
  names = tuple(f"c{i}" for i in range(50))
  plan = plan_labels("reference", np.arange(1, 51), 20, names, "a set")
  assert sum(plan.counts) == 20
  left_out = plan.protocol["classes_without_samples"]
  assert left_out["number"] == 50 - np.count_nonzero(plan.counts) >= 30
  assert "evaluate.num_samples=20 leaves" in caplog.text
  assert "c0, " in caplog.text


def test_reals_without_labels_are_refused():
  with pytest.raises(SpecError, match="no image of any class"):
    plan_labels("reference", np.zeros(3), 20, ("a", "b", "c"), "a set")
