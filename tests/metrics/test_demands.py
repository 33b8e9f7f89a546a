"""Requirements of the scores: the rows state the limits of the code."""

import numpy as np
import pytest

from bigscale.metrics import demands
from bigscale.metrics.demands import ImageFacts, OutputSizes
from bigscale.metrics.features import Seen
from bigscale.metrics.fid import FeatureMoments
from bigscale.metrics.panel import compare
from bigscale.metrics.pixels import ImageKeeper, ImageSelection
from bigscale.spec import SpecError
from bigscale.spec.scores import KINDS, kind_of

OVER_FEATURES = [kind for kind in KINDS if kind_of(kind).over == "features"]

D, K = 4, 3
# More images of every class than any kind requires.
ENOUGH = 60


def features(count, seed, classes=K):
  """Returns random features with labels that cycle through the classes."""
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(count, D)).astype(np.float32)
  shares = rng.random((count, classes)).astype(np.float32)
  return Seen(
    FeatureMoments.of(features),
    features,
    shares / shares.sum(1, keepdims=True),
    np.arange(count, dtype=np.int32) % K,
  )


def counts(total):
  return np.bincount(np.arange(total) % K, minlength=K).tolist()


def refused(kind, samples, reals):
  known = ImageFacts(
    side=32,
    num_samples=samples,
    sample_counts=counts(samples),
    num_reals=reals,
    kept_reals=reals,
    real_counts=counts(reals),
    class_names=("a", "b", "c"),
  )
  return demands.unmet((kind,), "x", OutputSizes(D, K), known)


def fails(kind, samples, reals):
  try:
    compare(features(samples, 1), features(reals, 2), (kind,), "x")
  except SpecError:
    return True
  return False


@pytest.mark.parametrize("kind", OVER_FEATURES)
def test_required_counts_match_the_code(kind):
  least = kind_of(kind).fewest(D, K)
  if kind_of(kind).within_classes:
    least = tuple(K * count for count in least)
  for samples, reals in (
    least,
    (least[0], ENOUGH),
    (least[0] - 1, ENOUGH),
    (ENOUGH, least[1] - 1),
  ):
    samples = max(samples, 1)
    reals = max(reals, 1)
    below = samples < least[0] or reals < least[1]
    assert fails(kind, samples, reals) == below, (samples, reals)
    assert bool(refused(kind, samples, reals)) == below, (samples, reals)


def test_modes_need_two_classes():
  known = ImageFacts(side=32, num_samples=ENOUGH)
  assert (
    "2 classes or more"
    in (demands.unmet(("modes",), "x", OutputSizes(D, 1), known)["modes_x"])
  )
  with pytest.raises(SpecError):
    compare(features(9, 1, 1), features(9, 2, 1), ("modes",), "x")


@pytest.mark.parametrize(
  ("side", "sample_counts", "below"),
  [
    (22, (2, 2), False),
    (21, (2, 2), True),
    (22, (3, 1), True),
    (22, (4, 0), False),
    (22, (), False),
  ],
)
def test_pairs_need_two_images_of_a_class_and_two_scales(
  side, sample_counts, below
):
  assert kind_of("ms_ssim").smallest_side == 22
  known = ImageFacts(
    side=side,
    num_samples=4,
    sample_counts=sample_counts,
    class_names=("a", "b"),
  )
  assert bool(demands.unmet(("ms_ssim",), "", OutputSizes(), known)) == below
  names = known.class_names if sample_counts else ()
  pairs = ImageKeeper(ImageSelection("ms_ssim", (side, side, 1), names))
  labels = np.repeat(np.arange(2), sample_counts or (2, 2))
  pairs.add(np.zeros((4, side, side, 1), np.uint8), labels)
  if below:
    with pytest.raises(SpecError):
      pairs.scores()
  else:
    pairs.scores()


def test_a_refusal_states_value_rule_and_remedy():
  few = refused("fd", 4, ENOUGH)["fd_x"]
  assert "evaluate.num_samples=4 is too few" in few
  assert "needs at least 5 over 4 features" in few
  assert "raise evaluate.num_samples" in few
  within = refused("intra_fd", ENOUGH, 13)["intra_fd_x"]
  assert "too few reals of 2 classes: b (4), c (4)" in within
  assert "at least 5 over 4 features of each class" in within
  error = str(demands.refusal({"fd_x": few, "intra_fd_x": within}, 3))
  assert error.startswith("2 of 3 scores cannot be computed:")
  assert few in error
  assert within in error


def test_scores_within_classes_need_classes():
  known = ImageFacts(side=32, num_samples=ENOUGH, sample_counts=())
  found = demands.unmet(("intra_fd", "fd"), "x", OutputSizes(D, K), known)
  assert found.keys() == {"intra_fd_x"}
  assert "no classes" in found["intra_fd_x"]


def test_a_random_subset_may_exceed_its_share_of_a_class():
  counts = np.array([10_000, 100, 0])
  whole = demands.max_class_counts(counts, 1)
  np.testing.assert_array_equal(whole, counts)
  most = demands.max_class_counts(counts, 0.1)
  assert 1000 < most[0] < 1200
  assert 10 < most[1] < 30
  assert most[2] == 0
