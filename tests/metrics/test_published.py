"""Distances to published moments, and files that are refused."""

import numpy as np
import pytest

from bigscale.metrics import published
from bigscale.metrics.features import Embedding
from bigscale.metrics.fid import FeatureMoments, frechet_distance
from bigscale.metrics.published import Published, evaluator_against
from bigscale.spec import SpecError

SIZE = 4


class Network:
  """A stand-in for Inception whose features are pixels in a corner."""

  dimension = SIZE
  num_classes = 3
  fingerprint = "f00d"

  def __init__(self, name="inception"):
    self.name = name
    self.protocol = {"resize": "clean" if "clean" in name else "tf1"}

  def embed(self, images):
    features = images[:, 0, :SIZE, 0].astype(np.float32)
    probabilities = np.exp(features[:, :3] / 50)
    probabilities /= probabilities.sum(1, keepdims=True)
    return Embedding(features, probabilities.astype(np.float32))


@pytest.fixture(autouse=True)
def opened(monkeypatch):
  monkeypatch.setattr(
    published, "open_network", lambda feature, cache_dir: Network(feature)
  )


def _images(count, seed, high=256):
  rng = np.random.default_rng(seed)
  return rng.integers(0, high, (count, 8, 8, 1), np.uint8)


def _published(**changes):
  moments = FeatureMoments.of(Network().embed(_images(500, 1)).features)
  return Published(
    "a.npz", moments._replace(count=None), "tf1", None, None, {"sha256": "1f"}
  )._replace(**changes)


def test_distance_is_to_the_moments_of_the_file(caplog):
  evaluator = evaluator_against(_published(), num_samples=300)
  images = _images(300, 2, 200)
  scores = evaluator.score([(images, np.zeros(300, np.int32))])
  ours = FeatureMoments.of(Network().embed(images).features)
  expected = frechet_distance(ours, _published().moments)
  assert scores == {"fid_inception": pytest.approx(expected)}
  assert expected > 100
  assert not caplog.records
  assert evaluator.throughput["inception"]["seconds"] >= 0


def test_the_reference_names_the_file():
  known = _published()
  known = known._replace(moments=known.moments._replace(count=500))
  for one, count in ((_published(), None), (known, 500)):
    reference = evaluator_against(one, num_samples=9).reference
    assert reference["num_samples"] == 9
    assert reference["protocol"].pop("labels")["rule"] == "none"
    assert reference["protocol"] == {
      "networks": {"inception": {"resize": "tf1", "fingerprint": "f00d"}},
      "statistics": {
        "sha256": "1f",
        "dimension": SIZE,
        "num_reals": count,
        "resize": "tf1",
        "feature": None,
        "weights": None,
      },
    }


def test_scores_that_need_only_moments():
  names = ("fid_inception", "fd_infinity_inception", "is_inception")
  evaluator = evaluator_against(_published(), num_samples=100, scores=names)
  scores = evaluator.score([(_images(100, 2), np.zeros(100, np.int32))])
  assert scores.keys() == {
    "fid_inception",
    "fd_infinity_inception",
    "fd_infinity_standard_error_inception",
    "is_inception",
    "is_std_inception",
  }


def test_a_file_without_its_resizing_is_used_with_a_warning(caplog):
  evaluator = evaluator_against(_published(resize=None), num_samples=9)
  assert "does not say" in caplog.text
  assert evaluator.reference["protocol"]["statistics"]["resize"] is None


def _few(count):
  return _published()._replace(
    moments=_published().moments._replace(count=count)
  )


@pytest.mark.parametrize(
  ("one", "options", "words"),
  [
    (
      _published(),
      {"scores": ("kid_inception",)},
      "kid_inception .* individual",
    ),
    (_published(), {"scores": ("ms_ssim",)}, "ms_ssim needs individual"),
    (_published(), {"scores": ("fd_classifier",)}, "trained on the data"),
    (
      _published(),
      {"scores": ("fid_inception", "fd_efflite0")},
      "one network at a time",
    ),
    (
      _published(moments=FeatureMoments.of(np.eye(9, 3))),
      {},
      "3 features, but inception has 4",
    ),
    (
      _published(resize="clean"),
      {},
      r"resizing clean, but .* tf1.*fid_inception_clean for clean",
    ),
    (
      _published(),
      {"scores": ("fid_inception_clean",)},
      r"resizing tf1, but the samples use clean",
    ),
    (_published(feature="efflite0"), {}, "network efflite0, but"),
    (_published(weights="beef"), {}, "weights beef, but .*f00d"),
    (_few(4), {}, r"4 images of a\.npz are too few"),
    (_published(), {"num_samples": 4}, r"evaluate\.num_samples=4"),
  ],
)
def test_another_protocol_is_refused(one, options, words):
  with pytest.raises(SpecError, match=words):
    evaluator_against(one, **({"num_samples": 300} | options))


def test_a_file_with_the_same_protocol_is_used():
  same = _published(feature="inception_clean", weights="f00d", resize="clean")
  evaluator_against(same, num_samples=9, scores=("fid_inception_clean",))
