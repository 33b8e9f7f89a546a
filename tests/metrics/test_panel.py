"""What a collector keeps of the images that a network embeds."""

import numpy as np
import pytest

from bigscale.metrics.features import Embedding
from bigscale.metrics.panel import Collector, compare, compare_each, floors

SIZE = 4


class Network:
  """A network whose features are pixels in a corner."""

  dimension = SIZE

  def embed(self, images):
    features = images[:, 0, :SIZE, 0].astype(np.float32)
    return Embedding(features, np.full((len(images), 3), 1 / 3, np.float32))


@pytest.mark.parametrize(
  ("kinds", "features", "probabilities"),
  [
    (("fd",), 0, 0),
    (("fd", "kid"), 7, 0),
    (("fd_infinity",), 7, 0),
    (("is",), 0, 7),
    ((), 0, 0),
  ],
)
def test_only_inputs_of_the_scores_are_kept(kinds, features, probabilities):
  collector = Collector(Network(), kinds, keep=7)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (10, 8, 8, 1), np.uint8)
  for rows in (slice(0, 5), slice(5, 10)):
    collector.add(images[rows], np.arange(10)[rows])
  seen = collector.seen()
  assert seen.moments.count == 10
  assert len(seen.features) == features
  assert len(seen.labels) == max(features, probabilities)
  assert len(seen.probabilities) == probabilities
  np.testing.assert_array_equal(
    seen.features, images[:features, 0, :SIZE, 0].astype(np.float32)
  )
  # A view of length 0 would keep the whole array in memory.
  kept = [array for part in collector._kept for array in part]
  assert all(array.base is None for array in kept)


def seen(count, seed):
  collector = Collector(Network(), ("fd_infinity", "is"))
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
  collector.add(images, np.zeros(count, np.int32))
  return collector.seen()


def test_infinity_is_below_the_distance_of_few_samples():
  samples, reals = seen(60, 1), seen(4000, 2)
  found = compare(samples, reals, ("fd", "fd_infinity"), "inception")
  assert found.keys() == {
    "fid_inception",
    "fd_infinity_inception",
    "fd_infinity_standard_error_inception",
  }
  assert found["fd_infinity_inception"] < 0.7 * found["fid_inception"]
  assert found["fd_infinity_standard_error_inception"] > 0


def test_too_few_held_out_reals_only_drop_the_floor(caplog):
  kinds = ("fd", "fd_infinity", "is", "intra_fd")
  reals = seen(300, 1)
  # Three classes, four features: too few for a split or a tenth.
  found = floors(seen(2, 2), reals, kinds, "x")
  assert found == {}
  for name in ("fd_x", "fd_infinity_x", "is_x"):
    assert f"{name}: no floor" in caplog.text
  caplog.clear()
  found = floors(seen(20, 2), reals, kinds, "x")
  assert found.keys() == {"fd_x_floor", "is_x_floor", "is_std_x_floor"}
  assert "fd_infinity_x: no floor" in caplog.text


def test_a_failing_score_does_not_stop_the_others(monkeypatch):
  def fails(*arguments, **options):
    raise np.linalg.LinAlgError("SVD did not converge")

  monkeypatch.setattr("bigscale.metrics.fid.frechet_distance", fails)
  kinds = ("fd", "kid", "pr", "dc", "modes")
  found, failed = compare_each(seen(60, 1), seen(60, 2), kinds, "inception")
  assert "SVD did not converge" in str(failed.pop("fid_inception"))
  assert not failed
  assert found == compare(
    seen(60, 1), seen(60, 2), ("kid", "pr", "dc", "modes"), "inception"
  )
