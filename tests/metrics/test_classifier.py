import numpy as np
import pytest

from bigscale.data.openers import open_source
from bigscale.metrics.classifier import (
  FEATURES,
  Classifier,
  default_steps,
  train_classifier,
)
from bigscale.metrics.classifier_store import load_or_train
from bigscale.spec import SpecError

SIDE, NUM_CLASSES, STEPS = 8, 3, 60


def _train(make_images, seed=0):
  images, labels = make_images(256, seed=1)
  return train_classifier(images, labels, NUM_CLASSES, seed=seed, steps=STEPS)


@pytest.fixture(scope="module")
def classifier(make_images):
  return _train(make_images)


def _load(source, cache_dir, seed=0):
  return load_or_train(
    open_source(source, "train"),
    open_source(source, "heldout"),
    resolution=SIDE,
    channels=1,
    seed=seed,
    cache_dir=str(cache_dir),
    steps=STEPS,
  )


def test_classifier_learns(classifier, make_images):
  images, labels = make_images(300, seed=2)
  assert classifier.accuracy(images, labels) > 0.95
  embedding = classifier.embed(images)
  assert embedding.features.shape == (300, FEATURES)
  assert embedding.features.dtype == np.float32
  assert embedding.probabilities.shape == (300, NUM_CLASSES)
  np.testing.assert_allclose(embedding.probabilities.sum(1), 1, rtol=1e-5)
  np.testing.assert_array_equal(classifier.features(images), embedding.features)


def test_features_do_not_depend_on_the_batch(classifier, make_images):
  images, _ = make_images(300, seed=2)
  # Equal up to rounding: batch sizes change the order of summation.
  np.testing.assert_allclose(
    classifier.features(images)[280:],
    classifier.features(images[280:]),
    rtol=1e-4,
    atol=1e-6,
  )


def test_training_is_deterministic_for_a_seed(classifier, make_images):
  first = classifier.to_arrays()
  again, other = (
    _train(make_images).to_arrays(),
    _train(make_images, 1).to_arrays(),
  )
  for name, value in first.items():
    np.testing.assert_array_equal(value, again[name])
  kernel = "params/Dense_0/kernel"
  assert not np.array_equal(first[kernel], other[kernel])


def test_classifier_is_rebuilt_from_arrays(classifier, make_images):
  images, _ = make_images(10, seed=2)
  copy = Classifier.from_arrays(
    classifier.to_arrays(), NUM_CLASSES, (SIDE, SIDE, 1)
  )
  np.testing.assert_array_equal(
    copy.features(images), classifier.features(images)
  )
  with pytest.raises(ValueError, match="Dense"):
    Classifier.from_arrays(classifier.to_arrays(), 9, (SIDE, SIDE, 1))


@pytest.mark.parametrize(
  ("count", "steps"),
  [(1_704, 1_331), (9_000, 3_000), (50_000, 15_625), (10**7, 20_000)],
)
def test_number_of_steps_is_as_documented(count, steps):
  assert default_steps(count) == steps


def test_bad_training_sets_are_refused(make_images):
  images, labels = make_images(8, seed=0)
  with pytest.raises(SpecError, match="do not lie in"):
    train_classifier(images, labels + 3, NUM_CLASSES, seed=0)
  with pytest.raises(SpecError, match="8 images with 7 labels"):
    train_classifier(images, labels[:7], NUM_CLASSES, seed=0)
  with pytest.raises(SpecError, match="num_classes=1 must be 2 or more"):
    train_classifier(images, labels * 0, 1, seed=0)
  with pytest.raises(SpecError, match="power of two"):
    train_classifier(images[:, :6, :6], labels, NUM_CLASSES, seed=0)
  with pytest.raises(SpecError, match="float32"):
    train_classifier(images.astype("f4"), labels, NUM_CLASSES, seed=0)


def test_images_of_another_size_are_refused(classifier):
  with pytest.raises(SpecError, match=r"takes uint8 \[N, 8, 8, 1\]"):
    classifier.features(np.zeros((2, 16, 16, 1), np.uint8))


def test_trained_classifier_is_cached(textures, tmp_path, monkeypatch):
  fresh = _load(textures, tmp_path)
  (path,) = tmp_path.iterdir()
  assert path.name.startswith("classifier-textures_8x1-")

  monkeypatch.setattr(
    "bigscale.metrics.classifier_store.train_classifier", None
  )
  cached = _load(textures, tmp_path)
  assert cached.accuracy == fresh.accuracy > 0.9
  _assert_same(cached, fresh)
  with pytest.raises(TypeError):  # another seed is another file
    _load(textures, tmp_path, seed=1)


def test_a_corrupt_cache_is_trained_again(textures, tmp_path, caplog):
  fresh = _load(textures, tmp_path)
  (path,) = tmp_path.iterdir()
  whole = path.read_bytes()
  path.write_bytes(whole[:-100])
  _assert_same(_load(textures, tmp_path), fresh)
  assert "corrupt" in caplog.text
  # A readable file, but not of this network.
  caplog.clear()
  np.savez(path, accuracy=1.0)
  _assert_same(_load(textures, tmp_path), fresh)
  assert "corrupt" in caplog.text
  assert path.read_bytes() == whole


def test_training_works_without_a_writable_cache(textures, tmp_path, caplog):
  (tmp_path / "file").write_text("in the way")
  assert _load(textures, tmp_path / "file").accuracy > 0.9
  assert "without a cache" in caplog.text


@pytest.mark.parametrize("class_names", [(), ("all",)])
def test_sources_without_classes_are_refused(
  write_source, tmp_path, class_names
):
  source = write_source(tmp_path / "set", class_names, train=4, heldout=4)
  with pytest.raises(SpecError, match="build the data set with class names"):
    _load(source, tmp_path)


def _assert_same(a, b):
  assert a.accuracy == b.accuracy
  first, second = a.classifier.to_arrays(), b.classifier.to_arrays()
  assert first.keys() == second.keys()
  for name, value in first.items():
    np.testing.assert_array_equal(value, second[name])
