"""The JFT config of the paper: its sizes and its labels."""

import itertools

import jax
import numpy as np
import pytest

from bigscale.configs import jft
from bigscale.data import ingest, pipeline
from bigscale.data.manifest import Schema
from bigscale.models.make import make_model
from bigscale.spec import from_config
from bigscale.train.objective import draw_codes

# Table 3 of Brock et al. 2019, quoted from memory.
_PAPER = {"64": 99.4e6, "96": 207.9e6, "128": 355.7e6}
_OURS = {"64": 90_349_894, "96": 193_803_494, "128": 336_472_198}
_ALL_LABELS = 18_291


def _shapes(width, num_classes=None):
  config = jft.get_config(width)
  if num_classes:
    config.model.num_classes = num_classes
  model = make_model(from_config(config).model, "cpu")
  return [
    jax.eval_shape(network.init, jax.random.key(0))["params"]
    for network in (model.g, model.d)
  ]


def _count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("width", jft.ARGS)
def test_parameter_counts_compared_with_the_paper(width):
  assert _count(_shapes(width)) == _OURS[width]
  assert abs(_OURS[width] / _PAPER[width] - 1) > 0.05
  g, d = _shapes(width, _ALL_LABELS)
  # The number that the paper probably counts.
  found = _count(d) + _count(g) - _count(g["shared"])
  assert abs(found / _PAPER[width] - 1) < 0.002


@pytest.fixture
def shards(tmp_path):
  random = np.random.default_rng(0)
  path = str(tmp_path / "jft")
  samples = [
    (
      random.integers(0, 256, (32, 32, 3), np.uint8),
      tuple(random.choice(50, 3, replace=False).tolist()),
    )
    for _ in range(64)
  ]
  ingest.write(
    path,
    {"train": samples},
    name="jft",
    schema=Schema(encoding="jpeg", image_shape=(32, 32, 3), multilabel=True),
    class_names=tuple(map(str, range(50))),
    source="noise",
    licence="none",
  )
  return path, [labels for _, labels in samples]


def test_each_epoch_samples_one_of_an_image_s_labels(shards):
  path, carried = shards
  config = jft.get_test_config()
  config.data.source = path
  config.data.shuffle = False
  spec = from_config(config)
  stream = pipeline.make(
    spec.data,
    resolution=32,
    channels=3,
    num_classes=50,
    global_batch_size=32,
    batches_per_step=1,
    seed=0,
  )
  visits = np.array([b.labels[0] for b in itertools.islice(stream, 60)])
  stream.close()
  visits = visits.reshape(30, 64)
  for record, labels in enumerate(carried):
    drawn = visits[:, record].tolist()
    assert set(drawn) == set(labels)
    # 30 draws from 3 labels: about 10 of each.
    assert all(1 <= drawn.count(label) <= 23 for label in labels)


@pytest.mark.parametrize("kind", ["uniform", "empirical"])
def test_labels_of_fakes(kind):
  config = jft.get_test_config()
  config.data.fake_labels = kind
  spec = from_config(config)
  labels = np.arange(spec.global_batch_size) % 2
  codes = draw_codes(jax.random.key(3), spec, labels, len(labels))
  same = np.array_equal(codes.labels, labels)
  assert same == (kind == "empirical")
