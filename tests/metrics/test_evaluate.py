import json

import numpy as np
import pytest

from bigscale.data.openers import open_source
from bigscale.data.reading import open_data, read_many
from bigscale.metrics.evaluate import make_evaluator
from bigscale.metrics.reference import blur
from bigscale.spec import DataSpec, SpecError

SIDE, NUM_CLASSES, NUM_SAMPLES = 8, 3, 200


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def _make(source, cache_dir, **changes):
  arguments = {
    "resolution": SIDE,
    "channels": 1,
    "num_classes": NUM_CLASSES,
    "num_samples": NUM_SAMPLES,
    "cache_dir": str(cache_dir),
    "classifier_steps": 60,
    **changes,
  }
  data = DataSpec(source=source, classes=arguments.pop("classes", 0))
  return make_evaluator(data, **arguments)


@pytest.fixture(scope="module")
def evaluator(textures, cache_dir):
  return _make(textures, cache_dir)


@pytest.fixture
def samples(make_images):
  return make_images(NUM_SAMPLES, seed=5)


def test_floors_are_below_baselines(evaluator):
  reference = evaluator.reference
  floors = (
    reference["fd_classifier_floor"],
    reference["fd_classifier_floor_halves"],
  )
  for baseline in (
    "fd_classifier_class_means_noise",
    "fd_classifier_blurred_reals",
  ):
    assert 0 < 2 * max(floors) < reference[baseline]
  assert reference["classifier_accuracy"] > 0.9


def test_reference_describes_its_protocol(evaluator, textures):
  reference = json.loads(json.dumps(evaluator.reference))
  assert reference["num_train"] == 400
  assert reference["num_heldout"] == 120
  assert reference["num_samples"] == NUM_SAMPLES
  protocol = reference["protocol"]
  assert protocol["train"] == open_source(textures, "train").identity
  network = protocol["networks"]["classifier"]
  assert network["feature"].startswith("classifier_v")
  assert "8x8x1" in network["resize"]


def test_reals_score_near_the_floor_but_noise_does_not(evaluator, samples):
  images, labels = samples
  reals = evaluator.score([samples])
  assert (
    reals["fd_classifier"]
    < evaluator.reference["fd_classifier_blurred_reals"] / 2
  )
  assert reals["classes_present"] == NUM_CLASSES
  assert reals["label_agreement"] > 0.9
  for index, name in enumerate(("rows", "columns", "checks")):
    share = float((labels == index).mean())
    assert reals[f"class_share/{name}"] == pytest.approx(share, abs=0.05)
  assert all(type(value) is float for value in reals.values())

  noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
  worse = evaluator.score([(noise, labels)])
  assert worse["fd_classifier"] > 2 * reals["fd_classifier"]


def test_a_missing_class_is_detected(evaluator, samples):
  images, labels = samples
  rows = np.resize(np.flatnonzero(labels != 1), NUM_SAMPLES)
  # Three samples are less than a tenth of a third of 200.
  rows[:3] = np.flatnonzero(labels == 1)[:3]
  scores = evaluator.score([(images[rows], labels[rows])])
  assert scores["classes_present"] == NUM_CLASSES - 1
  assert scores["class_share/columns"] < 0.05


def test_wrong_labels_are_detected(evaluator, samples):
  images, labels = samples
  scores = evaluator.score([(images, (labels + 1) % NUM_CLASSES)])
  assert scores["label_agreement"] < 0.1


def test_scores_do_not_depend_on_batches(evaluator, samples):
  images, labels = samples
  whole = evaluator.score([samples])
  split = evaluator.score(
    (images[i : i + 30], labels[i : i + 30]) for i in range(0, NUM_SAMPLES, 30)
  )
  assert split == pytest.approx(whole, rel=1e-5)


def test_no_batch_is_requested_after_the_last_needed(evaluator, samples):
  images, labels = samples

  def batches():
    yield images[:150], labels[:150]
    yield images, labels
    raise AssertionError("a batch after the last one needed was requested")

  extended = [
    (
      np.concatenate([images[:150], images[:50]]),
      np.concatenate([labels[:150], labels[:50]]),
    )
  ]
  assert evaluator.score(batches()) == pytest.approx(
    evaluator.score(extended), rel=1e-5
  )


def test_too_few_samples_are_refused(evaluator, samples):
  images, labels = samples
  with pytest.raises(SpecError, match="150 samples were given"):
    evaluator.score([(images[:150], labels[:150])])
  with pytest.raises(SpecError, match="150 images and 200 labels"):
    evaluator.score([(images[:150], labels)])


def test_an_unconditional_model_has_no_label_agreement(
  textures, cache_dir, samples
):
  unconditional = _make(textures, cache_dir, num_classes=0)
  scores = unconditional.score([samples])
  assert "label_agreement" not in scores
  assert scores["classes_present"] == NUM_CLASSES


def test_reference_is_cached(
  evaluator, textures, cache_dir, samples, monkeypatch
):
  monkeypatch.setattr("bigscale.metrics.reference._compute", None)
  cached = _make(textures, cache_dir)
  assert cached.reference == evaluator.reference
  assert cached.score([samples]) == evaluator.score([samples])
  with pytest.raises(TypeError):  # other baselines
    _make(textures, cache_dir, num_samples=100)


def test_a_corrupt_reference_is_computed_again(
  evaluator, textures, cache_dir, caplog
):
  (path,) = cache_dir.glob("reference-*")
  np.savez(path, mean=np.zeros(3))
  assert _make(textures, cache_dir).reference == evaluator.reference
  assert "corrupt" in caplog.text


def test_bad_requests_are_refused(textures, cache_dir):
  with pytest.raises(SpecError, match="num_samples=64 is too few"):
    _make(textures, cache_dir, num_samples=64)
  with pytest.raises(SpecError, match=r"model\.num_classes=5"):
    _make(textures, cache_dir, num_classes=5)


def test_the_distance_at_infinity_and_its_floor(textures, cache_dir, caplog):
  asked = {"scores": ("fd_infinity_classifier",), "num_samples": 650}
  evaluator = _make(textures, cache_dir, **asked)
  # There are 120 held-out reals, but the score needs 650.
  assert "fd_infinity_classifier: no floor" in caplog.text
  assert not [key for key in evaluator.reference if "floor" in key]
  with pytest.raises(SpecError, match=r"=649 is too few.* at least 650"):
    _make(textures, cache_dir, **(asked | {"num_samples": 649}))


def test_too_few_reals_have_no_distance_between_halves(
  write_source, cache_dir, tmp_path, caplog
):
  source = write_source(tmp_path, ("rows", "columns", "checks"), 120, 40)
  evaluator = _make(source, cache_dir)
  found = {key for key in evaluator.reference if key.startswith("fd")}
  assert found == {
    "fd_classifier_class_means_noise",
    "fd_classifier_blurred_reals",
  }
  assert "fd_classifier: no floor of held-out reals: 40 samples" in caplog.text
  assert "no distance between halves of the reals: 60 samples" in caplog.text


def test_throughput_is_reported(evaluator, samples):
  images, labels = samples
  evaluator.score([(images[:150], labels[:150]), (images, labels)])
  pace = evaluator.throughput
  assert pace.keys() == {"drawing", "classifier", "scoring"}
  for name in ("drawing", "classifier"):
    assert pace[name]["images_per_second"] > 0
  assert pace["classifier"]["seconds"] > 0
  assert json.loads(json.dumps(pace)) == pace


def test_images_too_small_for_pairs_are_refused(textures, cache_dir):
  with pytest.raises(SpecError, match="8 x 8 px are too small for ms_ssim"):
    _make(textures, cache_dir, scores=("ms_ssim",))


@pytest.mark.parametrize(("num_classes", "within"), [(3, "class"), (0, "set")])
def test_pairs_need_no_network(
  textures, tmp_path, make_images, num_classes, within, monkeypatch
):
  options = {
    "scores": ("ms_ssim",),
    "resolution": 24,
    "num_classes": num_classes,
    "num_samples": 60,
  }
  evaluator = _make(textures, tmp_path, **options)
  floor = evaluator.reference["ms_ssim_floor"]
  assert 0 < floor < 0.9
  assert evaluator.reference["protocol"]["ms_ssim"]["within"] == within
  images, labels = make_images(60, 3)
  large = images.repeat(3, 1).repeat(3, 2)
  scores = evaluator.score([(large, labels)])
  assert scores.keys() == {"ms_ssim"}
  # One image per class, repeated: every pair within a class is a copy.
  first = [np.flatnonzero(labels == label)[0] for label in labels]
  collapsed = evaluator.score([(large[first], labels)])["ms_ssim"]
  if within == "class":
    assert collapsed == pytest.approx(1, abs=1e-4)
  assert scores["ms_ssim"] < collapsed
  monkeypatch.setattr("bigscale.metrics.pixels.Reader", None)
  again = _make(textures, tmp_path, **options)
  assert again.reference == evaluator.reference
  with pytest.raises(TypeError):  # other images
    _make(textures, tmp_path, **(options | {"resolution": 32}))


def test_blur_spreads_a_point_and_keeps_its_sum():
  image = np.zeros((1, 32, 32, 1), np.uint8)
  image[0, 16, 16] = 255
  blurred = blur(image)[0, :, :, 0].astype(float)
  # Peak of a two-dimensional Gaussian with sigma 2: 1 / (2 pi 4).
  assert blurred[16, 16] == pytest.approx(255 / (8 * np.pi), abs=1)
  assert blurred.sum() == pytest.approx(255, rel=0.15)
  np.testing.assert_array_equal(blurred, blurred.T)


def test_a_subset_of_classes_uses_the_classifier_of_all(
  evaluator, textures, cache_dir
):
  few = _make(textures, cache_dir, classes=2, num_classes=2)
  (network,), (whole,) = few.asked.networks, evaluator.asked.networks
  assert network.fingerprint == whole.fingerprint
  assert network.num_classes == 2
  assert (
    few.reference["classifier_accuracy"]
    == (evaluator.reference["classifier_accuracy"])
  )
  subset = open_data(DataSpec(source=textures, classes=2), "train")
  read = read_many(subset, range(len(subset)), SIDE, 1)
  np.testing.assert_array_equal(
    network.embed(read.images).features, whole.embed(read.images).features
  )
  # Its classes are numbered as in the run, where the kept classes have other
  # labels than in the source.
  assert subset.kept_classes != (0, 1)
  said = network.embed(read.images).probabilities
  np.testing.assert_allclose(said.sum(-1), 1, rtol=1e-5)
  assert (said.argmax(-1) == read.labels).mean() > 0.9
  # The reference contains only reals of the kept classes.
  scores = few.score([(read.images[:NUM_SAMPLES], read.labels[:NUM_SAMPLES])])
  assert (
    scores["fd_classifier"]
    < 0.2 * (few.reference["fd_classifier_class_means_noise"])
  )
  assert scores["classes_present"] == 2
