"""A perfect generator scores the floor on every source.

Its samples are train images of the requested classes. If the requested classes
have other proportions than the reals, it scores far worse than reals.
"""

import numpy as np
import pytest
from PIL import Image

from bigscale.configs import chaos_embedded, chaos_pod
from bigscale.data import ingest
from bigscale.data.manifest import Schema
from bigscale.data.reading import open_data, read_many
from bigscale.metrics import evaluate, opening
from bigscale.metrics.features import Embedding
from bigscale.spec import DataSpec, SourceSpec, SpecError

# Number of images of classes 0, 1 and so on, which are very unequal.
_UNEVEN = (300, 60, 25, 12, 3)
_SIDE = 8


class Quarters:
  """A network whose features are the mean of each quarter of an image."""

  name = "inception"
  dimension = 4
  num_classes = 3
  fingerprint = "f00d"

  def __init__(self):
    self.protocol = {"resize": "tf1"}

  def embed(self, images):
    half = images.shape[1] // 2
    parts = (slice(half), slice(half, None))
    x = images.astype(np.float32).mean(-1)
    means = [x[:, a, b].mean((1, 2)) for a in parts for b in parts]
    features = np.stack(means, -1) / 64
    return Embedding(features, np.ones((len(images), 1), np.float32))


@pytest.fixture(autouse=True)
def quarters(monkeypatch, tmp_path):
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(opening, "open_network", lambda *args: Quarters())


def _uneven_images():
  """Returns images whose brightness depends on their class, and labels."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(len(_UNEVEN)), _UNEVEN)
  shape = (len(labels), _SIDE, _SIDE)
  images = 40 * labels[:, None, None] + rng.normal(40, 12, shape)
  return images.clip(0, 255).astype(np.uint8), labels


def _npz(folder):
  images, labels = _uneven_images()
  np.savez(folder / "uneven.npz", images=images, labels=labels)
  return DataSpec(source=str(folder / "uneven.npz"))


def _folder(folder):
  for number, (image, label) in enumerate(zip(*_uneven_images(), strict=True)):
    place = folder / "uneven" / "abcde"[label] / f"{number}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(place)
  return DataSpec(source=str(folder / "uneven"))


def _zip(folder):
  import shutil

  source = _folder(folder).source
  shutil.make_archive(source, "zip", source)
  return DataSpec(source=f"{source}.zip")


def _shards(folder, multilabel=False):
  images, labels = _uneven_images()
  given = [(int(label),) for label in labels]
  if multilabel:
    # All records share the first label, which therefore has no information.
    given = [(0, label) if label else (0,) for (label,) in given]
  samples = list(zip(images[..., None], given, strict=True))
  if not multilabel:
    samples = [(image, label) for image, (label,) in samples]
  ingest.write(
    str(folder / "shards"),
    {"train": samples[::2], "heldout": samples[1::2]},
    name="uneven",
    schema=Schema(
      encoding="raw", image_shape=(_SIDE, _SIDE, 1), multilabel=multilabel
    ),
    class_names=tuple("abcde"),
    source="made by the tests",
    licence="Apache-2.0",
  )
  return DataSpec(source=str(folder / "shards"))


def _stacked(folder):
  source = _npz(folder).source
  return DataSpec(source=f"stacked:{source}")


def _of_config(module):
  def data(folder):
    given = module.get_test_config().data.to_dict()
    parts = tuple(SourceSpec(**part) for part in given.pop("mixture"))
    return DataSpec(mixture=parts, **given)

  return data


_SOURCES = {
  "fashion_mnist": lambda folder: DataSpec(source="fashion_mnist"),
  "emoji": lambda folder: DataSpec(source="emoji"),
  "chaos_embedded": _of_config(chaos_embedded),
  "chaos_pod": _of_config(chaos_pod),
  "npz": _npz,
  "folder": _folder,
  "zip": _zip,
  "shards": _shards,
  "multilabel": lambda folder: _shards(folder, multilabel=True),
  "stacked": _stacked,
  "synthetic": lambda folder: DataSpec(source="synthetic:1500:8:7"),
  "subset": lambda folder: DataSpec(source="emoji", subset=200),
  "classes": lambda folder: DataSpec(source="emoji", classes=4),
}
# Sources whose classes have very different sizes.
_OF_UNEVEN = ("npz", "folder", "zip", "shards", "stacked", "multilabel")


def _perfect(source, labels, channels):
  """Returns a train image for every label; reuses images only if it must."""
  known = source.labels()
  if labels is None:
    labels = known
  rng = np.random.default_rng(7)
  rows = np.zeros(len(labels), np.int64)
  for label in np.unique(labels):
    mine = np.flatnonzero(labels == label)
    members = rng.permutation(np.flatnonzero(known == label))
    assert len(members), label
    rows[mine] = np.resize(members, len(mine))
  return read_many(source, rows, _SIDE, channels).images, labels


@pytest.mark.parametrize("name", _SOURCES)
def test_a_perfect_generator_gets_the_floor(name, tmp_path):
  data = _SOURCES[name](tmp_path)
  source = open_data(data, "train", whole=True)
  channels = 1 if name in ("fashion_mnist", *_OF_UNEVEN) else 3
  channels = 3 if name == "stacked" else channels
  num_reals = 600 if len(source) > 5000 else 0
  scores = {}
  for rule in ("reference", "uniform"):
    evaluator = evaluate.make_evaluator(
      data,
      resolution=_SIDE,
      channels=channels,
      num_classes=source.num_classes,
      num_samples=(num_reals or len(source)) // 2,
      num_reals=num_reals,
      scores=("fid_inception",),
      labels=rule,
    )
    labels = evaluator.labels(2)
    assert evaluator.reference["protocol"]["labels"]["rule"] == rule
    if name == "multilabel":
      _check_multilabel(source, evaluator)
      continue
    drawn = _perfect(source, labels, channels)
    scores[rule] = evaluator.score([drawn])["fid_inception"]
  if not scores:
    return
  # The halves give one noisy estimate of the distance of few images.
  floor = 4 * evaluator.reference["fid_inception_floor_halves"]
  assert scores["reference"] < floor, scores
  if name in _OF_UNEVEN:
    assert scores["uniform"] > 20 * floor


def _check_multilabel(source, evaluator):
  """Checks that a label counts half a record, as often as training draws it."""
  counts = source.label_counts()
  with_others = sum(_UNEVEN[1:]) / 2
  assert counts.sum() == len(source)
  assert counts[0] == pytest.approx(len(source) - with_others / 2, abs=1)
  (panel,) = evaluator.panels
  np.testing.assert_allclose(panel.reference.label_counts, counts)
  if evaluator.reference["protocol"]["labels"]["rule"] == "reference":
    drawn = np.bincount(evaluator.labels(2), minlength=5)
    np.testing.assert_allclose(drawn, counts / 2, atol=1)


@pytest.mark.parametrize("module", [chaos_embedded, chaos_pod])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_mixture_is_scored_with_its_training_shares(module, split):
  data = _of_config(module)(None)
  source = open_data(data, split, whole=True)
  sizes = np.array(
    [
      len(open_data(DataSpec(source=part.source), "train"))
      for part in data.mixture
    ]
  )
  shares = np.array([part.share for part in data.mixture])
  if data.temperature:
    shares = sizes ** (1 / data.temperature)
    shares /= shares.sum()
  counts = source.label_counts()
  if data.mixture_labels == "joint":
    counts = np.add.reduceat(counts, [0, 9])
  np.testing.assert_allclose(counts / len(source), shares, atol=1 / len(source))


def test_held_out_images_are_mixed_like_train_images(tmp_path):
  """Although half of one set is held out, and a tenth of the other."""
  spec = DataSpec(
    mixture=(
      SourceSpec(source=_shards(tmp_path).source),
      SourceSpec(source="emoji", subset=600),
    ),
    mixture_labels="source",
    temperature=1.0,
  )
  shares = np.array([sum(_UNEVEN) / 2, 600])
  shares /= shares.sum()
  for split in ("train", "heldout"):
    # Scores use all emoji, with the share of 600 of them.
    source = open_data(spec, split, whole=True)
    counts = source.label_counts() / len(source)
    np.testing.assert_allclose(counts, shares, atol=1 / len(source))


def test_a_part_of_a_source_in_a_mixture_is_random(tmp_path):
  """The first records would be wrong, because folders are listed by class."""
  spec = _npz(tmp_path)
  mixture = DataSpec(
    mixture=(
      SourceSpec(source=spec.source, share=0.05),
      SourceSpec(source="emoji", share=0.95),
    )
  )
  source = open_data(mixture, "train")
  counts = source.label_counts()[: len(_UNEVEN)]
  assert counts.sum() < 0.5 * sum(_UNEVEN)
  expected = counts.sum() * np.array(_UNEVEN) / sum(_UNEVEN)
  np.testing.assert_allclose(counts, expected, atol=6)


def _make(folder, counts, **options):
  """Returns the evaluator of an .npz with `counts` images per class."""
  labels = np.repeat(np.arange(len(counts)), counts)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (len(labels), 24, 24), np.uint8)
  np.savez(folder / "set.npz", images=images, labels=labels)
  return evaluate.make_evaluator(
    DataSpec(source=str(folder / "set.npz")),
    resolution=24,
    channels=1,
    num_classes=len(counts),
    num_samples=90,
    **options,
  )


@pytest.mark.parametrize(
  ("scores", "words"),
  [
    (
      ("intra_fd_inception",),
      r"class 2 .*uniform.*leave the score out",
    ),
    (("ms_ssim",), r"too few samples of class 2 \(1\) .*uniform"),
  ],
)
def test_too_few_samples_of_a_class_are_refused_early(tmp_path, scores, words):
  with pytest.raises(SpecError, match=words):
    _make(tmp_path, (300, 90, 4), scores=scores)


def test_a_class_without_images_gets_no_samples(tmp_path, caplog):
  """For example, labels that begin at 1."""
  evaluator = _make(tmp_path, (0, 100, 100, 100), scores=("fid_inception",))
  counts = np.bincount(evaluator.labels(0))
  assert counts[0] == 0
  np.testing.assert_allclose(counts[1:], 30, atol=2)
  assert "has no image of 1 of 4 classes (0)" in caplog.text
  said = evaluator.reference["protocol"]["labels"]
  assert said["classes_without_reals"] == {"number": 1, "names": ["0"]}
