import numpy as np
import pytest

from bigscale.metrics.fid import FeatureMoments, frechet_distance
from bigscale.metrics.intra_class import intra_class_distance
from bigscale.spec import SpecError

NAMES = ("cats", "dogs", "owls")


@pytest.fixture
def sets():
  """Samples and reals of three classes, each around its own center."""
  rng = np.random.default_rng(0)

  def draw(count):
    labels = rng.permutation(np.arange(count) % 3)
    return rng.normal(labels[:, None] * 10, 1, (count, 4)), labels

  return (*draw(120), *draw(150))


def test_mean_is_over_class_distances(sets):
  samples, sample_labels, reals, real_labels = sets
  result = intra_class_distance(*sets)
  assert result.classes.tolist() == [0, 1, 2]
  expected = [
    frechet_distance(
      FeatureMoments.of(samples[sample_labels == label]),
      FeatureMoments.of(reals[real_labels == label]),
    )
    for label in range(3)
  ]
  np.testing.assert_allclose(result.distances, expected)
  assert result.mean == pytest.approx(np.mean(expected))


def test_swapped_labels_are_detected_only_within_classes(sets):
  samples, sample_labels, reals, real_labels = sets
  swapped = np.array([1, 0, 2])[sample_labels]
  result = intra_class_distance(samples, swapped, reals, real_labels)
  # The centers differ by 10 in each of 4 features.
  np.testing.assert_allclose(result.distances[:2], 400, rtol=0.1)
  assert result.distances[2] < 1
  whole = frechet_distance(FeatureMoments.of(samples), FeatureMoments.of(reals))
  assert whole < 1


def test_classes_with_too_few_rows_are_named(sets):
  samples, sample_labels, reals, real_labels = sets
  kept = np.ones(len(samples), bool)
  kept[np.flatnonzero(sample_labels == 1)[4:]] = False
  with pytest.raises(
    SpecError, match=r"4 samples of class 1 \(dogs\) .* at least 5"
  ):
    intra_class_distance(
      samples[kept], sample_labels[kept], reals, real_labels, class_names=NAMES
    )
  with pytest.raises(SpecError, match="0 reals of class 2 are too few"):
    intra_class_distance(
      samples,
      sample_labels,
      reals[real_labels < 2],
      real_labels[real_labels < 2],
    )


def test_mismatched_labels_are_refused(sets):
  samples, sample_labels, reals, real_labels = sets
  with pytest.raises(SpecError, match="labels have shape"):
    intra_class_distance(samples, sample_labels[1:], reals, real_labels)
  with pytest.raises(SpecError, match="length 4 and 3"):
    intra_class_distance(samples, sample_labels, reals[:, 1:], real_labels)
