"""BigGAN's options in R3GAN: latents and classes in every stage."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bigscale.models.r3gan import PRESETS, R3ganSpec
from bigscale.models.r3gan import networks as r3gan
from bigscale.ops.spectral import flatten, unflatten
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.rows import to_global
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train.build import build
from bigscale.types import Batch

_PLAIN = R3ganSpec(
  resolution=16,
  num_classes=3,
  latent_dim=6,
  widths=(16, 16, 8),
  blocks=(1, 1, 1),
  cardinality=(2, 2, 2),
  class_embedding_dim=5,
)
_HIERARCHICAL = {"hierarchical": True}
_SHARED = {"shared_embedding": True}
_BOTH = _HIERARCHICAL | _SHARED
_SCALES = {"stage8_scale/kernel", "stage16_scale/kernel"}
_LATENTS = np.random.RandomState(0).normal(size=(4, 6)).astype("f4")
_LABELS = np.array([0, 1, 2, 1], "i4")


def _shapes(spec, player="g"):
  network = getattr(r3gan.make(spec, "cpu"), player)
  tree = jax.eval_shape(network.init, jax.random.key(0))["params"]
  return {path: leaf.shape for path, leaf in flatten(tree).items()}


def _count(spec):
  return sum(int(np.prod(shape)) for shape in _shapes(spec).values())


@functools.cache
def _images(hierarchical, shared_embedding):
  """Returns G's images as a function of its parameters, latents and labels."""
  spec = dataclasses.replace(
    _PLAIN, hierarchical=hierarchical, shared_embedding=shared_embedding
  )
  network = r3gan.make(spec, "cpu").g

  def run(params, latents, labels):
    variables = {"params": unflatten(params), "batch_stats": {}}
    return network.apply(variables, latents, labels, train=True)[0]

  random = np.random.RandomState(1)
  params = {
    path: (0.3 * random.normal(size=shape)).astype("f4")
    for path, shape in _shapes(spec).items()
  }
  return jax.jit(run), params


@pytest.mark.parametrize("option", [_HIERARCHICAL, _SHARED, _BOTH])
def test_an_option_adds_a_layer_to_the_later_stages_and_nothing_else(option):
  spec, plain = dataclasses.replace(_PLAIN, **option), _shapes(_PLAIN)
  shapes = _shapes(spec)
  assert shapes.keys() - plain.keys() == _SCALES
  z = 2 if "hierarchical" in option else 0
  y = 5 if "shared_embedding" in option else 0
  assert shapes["stage8_scale/kernel"] == (z + y, 16)
  assert shapes["stage16_scale/kernel"] == (z + y, 8)
  assert shapes["latents/kernel"] == ((z or 6) + 5, 16)
  same = plain.keys() - {"latents/kernel"}
  assert {path: shapes[path] for path in same} == {
    path: plain[path] for path in same
  }
  assert _shapes(spec, "d") == _shapes(_PLAIN, "d")


@pytest.mark.parametrize(
  ("option", "small", "cifar10"),
  [
    ({}, 13_431, 20_781_952),
    # Two thirds of z's rows move from 16 channels to 16 and 8.
    (_HIERARCHICAL, 13_431 - 2 * 8, 20_781_952),
    # The codes of the later stages have 5 and 64 more entries for the class.
    (_SHARED, 13_431 + 5 * 24, 20_781_952 + 64 * 3 * 768),
    (_BOTH, 13_431 - 2 * 8 + 5 * 24, 20_781_952 + 64 * 3 * 768),
  ],
)
def test_counts(option, small, cifar10):
  assert _count(dataclasses.replace(_PLAIN, **option)) == small
  assert _count(dataclasses.replace(PRESETS["cifar10"], **option)) == cifar10


def test_presets_are_plain():
  for preset in PRESETS.values():
    assert not preset.hierarchical
    assert not preset.shared_embedding


def test_the_start_is_the_plain_network():
  """The linear layer of 1 + linear(code) starts at zero."""
  plain, params = _images(False, False)
  scaled, scaled_params = _images(False, True)
  zeros = {path: 0 * x for path, x in scaled_params.items() if path in _SCALES}
  np.testing.assert_allclose(
    scaled(params | zeros, _LATENTS, _LABELS),
    plain(params, _LATENTS, _LABELS),
    rtol=1e-5,
    atol=1e-5,
  )
  moved = scaled(params | scaled_params, _LATENTS, _LABELS)
  assert np.abs(moved - plain(params, _LATENTS, _LABELS)).max() > 0.01


def test_every_stage_has_its_own_chunk_of_z():
  images, params = _images(True, False)

  def change(chunk, alone=None):
    """Returns the largest change from one chunk through one scale layer."""
    kept = {
      path: x if path not in _SCALES or alone in (None, path) else 0 * x
      for path, x in params.items()
    }
    moved = _LATENTS.copy()
    moved[:, 2 * chunk : 2 * chunk + 2] += 1
    difference = images(kept, moved, _LABELS) - images(kept, _LATENTS, _LABELS)
    return float(np.abs(difference).max())

  assert min(change(chunk) for chunk in range(3)) > 1e-3
  assert change(1, alone="stage8_scale/kernel") > 1e-3
  assert change(2, alone="stage8_scale/kernel") == 0
  assert change(1, alone="stage16_scale/kernel") == 0
  assert change(2, alone="stage16_scale/kernel") > 1e-3


def test_every_stage_depends_on_the_shared_embedding():
  images, params = _images(False, True)
  # The first stage depends only on z: its rows for the class are zero.
  kernel = params["latents/kernel"].copy()
  kernel[6:] = 0
  others = (_LABELS + 1) % 3
  for path in _SCALES:
    silent = {"latents/kernel": kernel} | {
      other: 0 * params[other] for other in _SCALES - {path}
    }
    found = params | silent
    difference = images(found, _LATENTS, _LABELS) - images(
      found, _LATENTS, others
    )
    assert np.abs(difference).max(axis=(1, 2, 3)).min() > 1e-4


def test_z_must_split_and_classes_must_be_there():
  with pytest.raises(SpecError, match=r"5 equal chunks .* use 65"):
    dataclasses.replace(PRESETS["imagenet64"], hierarchical=True)
  with pytest.raises(SpecError, match="needs labels"):
    dataclasses.replace(PRESETS["ffhq64"], shared_embedding=True)


@pytest.fixture(scope="module")
def trained():
  """Returns scalars of 20 steps on noise, and G's parameters around them.

  Compiling takes nearly all of the time, so the three options share a run. D
  does not depend on them and has no penalties.
  """
  spec = from_config(
    {
      "global_batch_size": 8,
      "total_kimg": 1.0,
      "model": {
        "name": "r3gan",
        "resolution": 8,
        "num_classes": 3,
        "latent_dim": 8,
        "widths": (16, 16),
        "blocks": (1, 1),
        "cardinality": (1, 1),
        "class_embedding_dim": 5,
        "spectra_interval": 0,
      }
      | _BOTH,
      "data": {"source": "emoji"},
      "loss": {"adversarial": "rpgan", "orthogonal": 0.1},
      "optim": {"g_lr": 2e-3, "d_lr": 2e-3, "beta2": 0.9},
    }
  )
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  random = np.random.default_rng(0)
  batch = to_global(
    Batch(
      random.integers(0, 256, (2, 8, 8, 8, 3), dtype=np.uint8),
      random.integers(0, 3, (2, 8), dtype=np.int32),
    ),
    batch_sharding(built.mesh),
  )
  state = built.init()
  before = flatten(jax.device_get(state.g.params))
  rows = []
  for _ in range(20):
    state, scalars = built.step(state, batch)
    rows.append(jax.device_get(scalars))
  return rows, before, flatten(jax.device_get(state.g.params))


@pytest.mark.parametrize(
  ("option", "rows_of_kernel"),
  [("hierarchical", slice(0, 4)), ("shared_embedding", slice(4, 9))],
)
def test_training_changes_the_weights_of_an_option(
  trained, option, rows_of_kernel
):
  scalars, before, after = trained
  assert all(np.isfinite(x) for row in scalars for x in row.values()), option
  path = "stage8_scale/kernel"
  assert before[path].shape == (9, 16)
  assert not np.any(before[path]), "it starts at zero"
  # Adam changes every entry by about the learning rate per step.
  assert np.abs(after[path][rows_of_kernel]).mean() > 2e-3


def test_training_follows_orthogonal_regularization(trained):
  scalars, before, after = trained
  terms = [row["g/ortho"] for row in scalars]
  assert 0 < terms[-1] < 0.9 * terms[0]
  assert all(np.any(after[path] != before[path]) for path in before)
