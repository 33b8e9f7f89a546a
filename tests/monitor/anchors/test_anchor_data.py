"""Comparisons of batches with the anchor, on simulated measurements."""

import functools
import json

import numpy as np
import pytest

from bigscale.monitor.anchors import columns
from bigscale.monitor.anchors.data import DataAnchor, Described
from bigscale.monitor.packed import pack

_CLASSES = 10
_ROLLBACK = np.log(100_000)


class _Images:
  """Simulated images: columns depend on the class and on each other."""

  def __init__(self, classes: int = _CLASSES, features: int = 12) -> None:
    rng = np.random.default_rng(5)
    self._classes = max(classes, 1)
    self._pixels = rng.standard_normal((self._classes, 9))
    self._features = 2 * rng.standard_normal((self._classes, features))
    self._mix = rng.standard_normal((9, 9)) / 3

  def draw(self, count: int, seed: int) -> Described:
    rng = np.random.default_rng((seed, count))
    labels = rng.integers(self._classes, size=count).astype(np.int32)
    # Heavy tails: some images are odd in a healthy run, too.
    noise = rng.standard_t(4, (count, 9)) @ self._mix
    features = rng.standard_normal((count, self._features.shape[1]))
    return Described(
      self._pixels[labels] + noise,
      self._features[labels] + features if features.size else features,
      rng.exponential(0.3, count) if features.size else np.zeros(0),
      labels,
    )


@functools.cache
def _made(classes: int, features: int, batch: int) -> DataAnchor:
  images = _Images(classes, features)
  return DataAnchor(images.draw(4096, 0), classes, batch, 1e-5)


def _anchor(
  batch: int = 32, classes: int = _CLASSES, features: int = 12
) -> DataAnchor:
  """Returns an anchor without a past; only the first call simulates it."""
  anchor = _made(classes, features, batch)
  anchor.set_state({"means": [], "seen": pack(np.zeros(0, np.uint64))})
  return anchor


def _hashes(count: int, seed: int) -> list[int]:
  return np.random.default_rng(seed).integers(2**63, size=count).tolist()


def _strongest(anchor: DataAnchor, images: Described, seed: int) -> float:
  found = anchor.look(images, _hashes(len(images.labels), seed))
  return max(shift.surprise for shift in found.values())


@pytest.mark.parametrize("batch", [16, 64])
def test_healthy_batches_cause_no_alarm(batch):
  images = _Images()
  anchor = _anchor(batch)
  found = [
    _strongest(anchor, images.draw(batch, seed), seed) for seed in range(1, 601)
  ]
  # At most one in 10,000 is expected by chance.
  assert sum(x > np.log(10_000) for x in found) <= 1
  assert np.mean(np.array(found) > np.log(100)) < 0.05


def test_batches_of_a_small_source_with_many_classes_cause_no_alarm():
  # Class means of two images fit these images much better than others.
  images, classes, total = _Images(200), 200, 3000
  source = images.draw(total, 4)
  rng = np.random.default_rng(0)
  halves = np.concatenate([rng.permutation(total)[:1024] for _ in range(2)])
  anchor = DataAnchor(_rows(source, halves), classes, 64, 1 / total)
  found = [
    _strongest(anchor, _rows(source, rng.permutation(total)[:64]), seed)
    for seed in range(150)
  ]
  assert max(found) < _ROLLBACK


def _rows(images: Described, indices: np.ndarray) -> Described:
  return Described(*(x[indices] for x in images))


def test_of_a_large_batch_only_the_first_images_are_compared():
  images = _Images()
  anchor = DataAnchor(images.draw(1024, 0), _CLASSES, 4096, 1e-5)
  assert "pixels" in anchor.tests
  for seed in range(20):
    assert _strongest(anchor, images.draw(4096, seed), seed) < _ROLLBACK


def _changed(images: Described, what: str, seed: int) -> Described:
  rng = np.random.default_rng(seed)
  pixels, labels = images.pixels.copy(), images.labels.copy()
  features, surprisal = images.features.copy(), images.surprisal.copy()
  some = rng.random(len(labels)) < 0.3
  match what:
    case "brighter":
      pixels += 0.8
    case "some are noise":
      pixels[some] = 4 * rng.standard_normal(pixels[some].shape)
    case "labels shifted":
      labels = (labels + 1) % _CLASSES
      surprisal = surprisal + 5
    case "one class missing":
      labels[labels == 3] = 4
    case "features moved":
      features[:, 2] += 1.5
  return Described(pixels, features, surprisal, labels)


@pytest.mark.parametrize(
  ("what", "group"),
  [
    ("brighter", "pixels"),
    ("some are noise", "oddness"),
    ("labels shifted", "oddness"),
    ("features moved", "features"),
    ("one class missing", "labels"),
  ],
)
def test_a_change_is_found_and_has_a_size(what, group):
  images = _Images()
  anchor = _anchor()
  for seed in range(16):
    healthy = anchor.look(images.draw(32, 90 + seed), _hashes(32, 90 + seed))
  assert healthy[group].surprise < _ROLLBACK
  for seed in range(16):
    bad = _changed(images.draw(32, 900 + seed), what, seed)
    found = anchor.look(bad, _hashes(32, 900 + seed))
    if found[group].surprise > _ROLLBACK:
      break
  assert found[group].surprise > _ROLLBACK
  assert found[group].size > 0.02


def test_a_small_change_has_a_small_size():
  images = _Images()
  anchor = _anchor(128)
  for seed in range(16):
    batch = images.draw(128, 90 + seed)
    batch = batch._replace(pixels=batch.pixels + 0.15)
    found = anchor.look(batch, _hashes(128, 90 + seed))
  assert found["pixels"].surprise > 5
  assert found["pixels"].size < 0.1


def test_repeats_are_found_within_a_step_and_across_steps():
  images = _Images()
  anchor = _anchor()
  assert (
    anchor.look(images.draw(32, 1), _hashes(32, 1))["repeats"].surprise == 0
  )
  again = anchor.look(images.draw(32, 2), _hashes(32, 1))["repeats"]
  assert again.surprise > _ROLLBACK
  assert again.size == 1
  half = _hashes(16, 3) * 2
  within = anchor.look(images.draw(32, 3), half)["repeats"]
  assert within.surprise > _ROLLBACK
  assert within.size == 0.5


def test_repeats_of_a_small_source_are_normal():
  images = _Images()
  records = 2000
  anchor = DataAnchor(images.draw(1024, 0), _CLASSES, 32, 1 / records)
  rng = np.random.default_rng(0)
  for seed in range(200):
    hashes = rng.integers(records, size=32).tolist()
    found = anchor.look(images.draw(32, seed), hashes)["repeats"]
    assert found.surprise < _ROLLBACK


@pytest.mark.parametrize("classes", [0, 1000])
def test_without_labels_and_with_many_classes(classes):
  features = 6 if classes else 0
  images = _Images(classes, features)
  anchor = _anchor(64, classes, features)
  assert ("labels" in anchor.tests) == bool(classes)
  for seed in range(100):
    assert _strongest(anchor, images.draw(64, 50 + seed), seed) < _ROLLBACK
  bad = images.draw(64, 3)
  bad = bad._replace(pixels=bad.pixels[:, ::-1] * 3)
  assert _strongest(anchor, bad, 3) > _ROLLBACK


def test_the_state_restores_the_recent_past():
  images = _Images()
  one = _anchor()
  for seed in range(20):
    one.look(images.draw(32, seed), _hashes(32, seed))
  state = json.loads(json.dumps(one.get_state()))
  batch = images.draw(32, 77)
  going_on = one.look(batch, _hashes(32, 5))
  two = _anchor()
  assert two.look(batch, _hashes(32, 5)) != going_on
  two.set_state(state)
  assert two.look(batch, _hashes(32, 5)) == going_on


def test_the_state_of_another_anchor_is_dropped():
  images = _Images()
  one, two = _anchor(), _anchor(features=0)
  one.look(images.draw(32, 1), _hashes(32, 1))
  two.set_state(one.get_state())
  two.look(_Images(features=0).draw(32, 2), _hashes(32, 2))


def test_an_unshuffled_stream_has_only_repeats():
  images = _Images()
  anchor = DataAnchor(images.draw(1024, 0), _CLASSES, 32, 1e-5, shuffled=False)
  assert anchor.tests == ("repeats",)
  assert list(anchor.look(images.draw(32, 1), _hashes(32, 1))) == ["repeats"]


def test_the_trial_finds_sorted_records():
  images = _Images()
  assert columns.trial(_anchor(), images.draw(128, 7), 32) == ""
  drawn = images.draw(128, 7)
  order = np.argsort(drawn.labels)
  sorted_images = Described(*(x[order] for x in drawn))
  why = columns.trial(_anchor(), sorted_images, 32)
  assert "data.shuffle_files" in why
