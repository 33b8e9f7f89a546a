"""Accuracies of D's logits, on values with known results."""

import numpy as np
import pytest

from bigscale.metrics.d_accuracy import d_accuracy
from bigscale.spec import SpecError

TRAIN = np.array([3.0, 2.0, 1.0, 0.6])
HELDOUT = np.array([1.0, -1.0, -2.0, 0.3])
SAMPLES = np.array([-1.0, -3.0])


def test_a_d_that_memorized_its_train_split():
  found = d_accuracy(TRAIN, HELDOUT, SAMPLES, 0.0)
  assert found == {
    "train": 1.0,
    "heldout": 0.5,
    "samples": 1.0,
    "train_above_samples": 1.0,
    # Over eight pairs: -1 ties with one sample, and -2 is below it.
    "heldout_above_samples": (2 + 1.5 + 1 + 2) / 8,
  }


def test_least_squares_threshold_is_between_its_targets():
  found = d_accuracy(TRAIN, HELDOUT, np.array([0.4, 0.6]), 0.5)
  assert (found["train"], found["heldout"]) == (1.0, 0.25)
  assert found["samples"] == 0.5


def test_losses_without_a_threshold_only_rank():
  found = d_accuracy(TRAIN - 100, HELDOUT - 100, SAMPLES - 100, None)
  assert found == {
    "train_above_samples": 1.0,
    "heldout_above_samples": 6.5 / 8,
  }


def test_missing_and_nonfinite_logits_are_refused():
  with pytest.raises(SpecError, match="0 logits of heldout"):
    d_accuracy(TRAIN, HELDOUT[:0], SAMPLES, 0.0)
  with pytest.raises(SpecError, match="2 logits of samples"):
    d_accuracy(TRAIN, HELDOUT, SAMPLES * np.nan, 0.0)
