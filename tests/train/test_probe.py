"""The monitor's expensive probe: its scalars, on any number of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.models.stripped_stylegan2 import StrippedSpec
from bigscale.monitor import probes
from bigscale.ops.images import to_float
from bigscale.ops.spectral import flatten
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.rows import to_global
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import MeshSpec, MonitorSpec, from_config
from bigscale.train.build import build
from bigscale.train.objective import draw_codes
from bigscale.train.probe import probe_size
from bigscale.train.state import step_key
from bigscale.types import Batch
from tests import fast_compile
from tests.parallel.tiny_gans import BATCH, Case, biggan, r3gan, spec_of

COUNT = 8
ONE, EIGHT = MeshSpec(data=1), MeshSpec(data=8)
SPLIT = MeshSpec(data=4, fsdp=2, weights="zero", min_split_elements=2)


def sized(batch, wanted, group=0):
  config = {
    "global_batch_size": batch,
    "total_kimg": 1.0,
    "data": {"source": "emoji"},
    "monitor": {"num_samples": wanted},
    **(biggan(Case("biggan", "float32", group=group)) if group else {}),
  }
  if not group:
    config |= r3gan(Case("r3gan", "float32"))
  return from_config(config)


@pytest.mark.parametrize(
  ("batch", "wanted", "devices", "count"),
  [
    (2048, 256, 1, 256),
    (2048, 256, 512, 512),
    (2048, 300, 8, 512),
    (256, 256, 8, 256),
    # At most the whole batch.
    (64, 256, 1, 64),
    (48, 20, 1, 24),
    # Each device has equally many samples.
    (48, 20, 16, 48),
    (96, 20, 4, 24),
  ],
)
def test_the_smallest_sufficient_divisor_of_the_batch(
  batch, wanted, devices, count
):
  assert probe_size(sized(batch, wanted), devices) == count


@pytest.mark.parametrize(
  ("batch", "wanted", "devices", "group", "count"),
  [
    # 24 samples would be one and a half groups.
    (48, 20, 1, 16, 48),
    (64, 20, 1, 16, 32),
    # A group spans two devices with 8 samples each, or four with 4 each.
    (64, 20, 4, 16, 32),
    (64, 20, 8, 16, 32),
    (64, 12, 4, 16, 16),
  ],
)
def test_groups_of_batch_norm_are_not_split(
  batch, wanted, devices, group, count
):
  """Otherwise, the run would fail at its first probe."""
  assert probe_size(sized(batch, wanted, group), devices) == count


@functools.cache
def compiled(mesh):
  spec = spec_of(Case("r3gan", "float32"))
  monitor = MonitorSpec(num_samples=COUNT)
  spec = dataclasses.replace(spec, mesh=mesh, monitor=monitor)
  devices = jax.devices()[: mesh.data * mesh.fsdp]
  built = build(spec, make_mesh(mesh, devices))
  probe = built.probe.lower(
    built.abstract_state, built.abstract_batch, built.abstract_heldout
  ).compile(fast_compile.OPTIONS)
  return built, probe


@functools.cache
def whole_state():
  """Returns random weights on the host; an initial state has zeros."""
  abstract = compiled(ONE)[0].abstract_state
  rng = np.random.default_rng(0)

  def draw(leaf):
    if leaf.dtype == jnp.int32:
      return np.full(leaf.shape, 3, np.int32)
    return (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

  return jax.tree.map(draw, abstract)


def batches():
  rng = np.random.default_rng(1)

  def draw(*leading):
    images = rng.integers(0, 256, (*leading, 8, 8, 3), np.uint8)
    return Batch(images, rng.integers(0, 3, leading, np.int32))

  return draw(2, BATCH), draw(1, COUNT)


def probed(mesh, state=None, inputs=None):
  built, probe = compiled(mesh)
  state = whole_state() if state is None else state
  where = jax.tree.map(lambda leaf: leaf.sharding, built.abstract_state)
  batch, heldout = to_global(inputs or batches(), batch_sharding(built.mesh))
  seen = probe(jax.device_put(state, where), batch, heldout)
  return {name: float(value) for name, value in seen.items()}


NAMES = {
  "d/logit_heldout",
  "d/heldout_gap",
  "g/diversity",
  "g/effective_rank",
  "g/pixel_distance",
}


def test_the_scalars_match_the_networks():
  state, (batch, heldout) = whole_state(), batches()
  built, _ = compiled(ONE)
  g = {"params": state.g.params, "batch_stats": {}}
  d = {"params": state.d.params, "batch_stats": {}}

  @functools.partial(jax.jit, compiler_options=fast_compile.OPTIONS)
  def by_hand(images, labels, unseen, unseen_labels):
    key = jax.random.fold_in(step_key(state), 2)
    codes = draw_codes(key, built.spec, labels, COUNT)
    fakes, _ = built.model.g.apply(g, codes.latents, codes.labels, train=True)
    looks = [
      built.model.d.features(d, x, y)
      for x, y in [
        (to_float(images), labels),
        (to_float(unseen), unseen_labels),
        (fakes, codes.labels),
      ]
    ]
    return fakes, looks

  # Evenly spaced rows of the first batch of the step.
  images, labels = batch.images[0, ::2], batch.labels[0, ::2]
  fakes, looks = by_hand(images, labels, heldout.images[0], heldout.labels[0])
  (real, real_f), (unseen, _), (fake, fake_f) = looks
  wanted = {
    "d/logit_heldout": np.mean(unseen),
    "d/heldout_gap": probes.heldout_gap(real, unseen, fake),
    "g/diversity": probes.mean_pairwise_distance(fake_f)
    / probes.mean_pairwise_distance(real_f),
    "g/effective_rank": probes.effective_rank(fake_f)
    / probes.effective_rank(real_f),
    "g/pixel_distance": probes.moment_distance(
      probes.pixel_statistics(fakes), probes.pixel_statistics(to_float(images))
    ),
  }
  assert wanted.keys() == NAMES
  assert probed(ONE) == pytest.approx(
    {name: float(value) for name, value in wanted.items()}, rel=1e-4
  )


@pytest.mark.parametrize(
  "mesh",
  [
    pytest.param(EIGHT, id="eight", marks=pytest.mark.slow),
    pytest.param(SPLIT, id="zero"),
  ],
)
def test_scalars_do_not_depend_on_devices(mesh):
  alone = probed(ONE)
  assert alone.keys() == NAMES
  assert probed(mesh) == pytest.approx(alone, rel=1e-4)


def test_a_collapsed_generator_has_no_diversity():
  state = whole_state()
  assert probed(ONE)["g/diversity"] > 0.1
  assert probed(ONE)["g/effective_rank"] > 0.1
  last = next(name for name in state.g.params if "rgb" in name)
  params = state.g.params | {
    last: jax.tree.map(np.zeros_like, state.g.params[last])
  }
  collapsed = probed(ONE, state._replace(g=state.g._replace(params=params)))
  assert collapsed["g/diversity"] == pytest.approx(0, abs=1e-3)
  assert collapsed["g/pixel_distance"] > 0.5


def test_each_probe_draws_other_fakes():
  state = whole_state()
  first = probed(ONE)
  assert probed(ONE) == first
  for field in ("step", "attempt", "seed"):
    other = state._replace(**{field: getattr(state, field) + np.int32(1)})
    assert probed(ONE, other)["g/diversity"] != first["g/diversity"]


def test_the_heldout_gap_is_zero_for_the_same_reals():
  """For other reals, it is not zero."""
  batch, _ = batches()
  rows = slice(0, BATCH, BATCH // COUNT)
  same = Batch(batch.images[:1, rows], batch.labels[:1, rows])
  seen = probed(ONE, inputs=(batch, same))
  assert seen["d/heldout_gap"] == pytest.approx(0, abs=1e-5)
  assert abs(probed(ONE)["d/heldout_gap"]) > 1e-3


_LABELS = dict(num_classes=3, latent_dim=8)
MODELS = {
  "r3gan": R3ganSpec(
    resolution=8, widths=(16, 8), blocks=(1, 1), cardinality=(2, 2), **_LABELS
  ),
  "r3gan_unlabelled": R3ganSpec(
    resolution=8, widths=(16, 8), blocks=(1, 1), cardinality=(2, 2),
    latent_dim=8,
  ),
  "biggan": BigganSpec(resolution=32, d_width=4, g_width=4, **_LABELS),
  "biggan_deep": BigganDeepSpec(
    resolution=64, d_width=4, g_width=4, g_depth=1, d_depth=1,
    g_attention=(), d_attention=(), **_LABELS,
  ),
  "stripped": StrippedSpec(resolution=8, widths=(12, 8), **_LABELS),
}  # fmt: skip


def head(name, params, features_bf, labels):
  """Maps features to logits as in the papers."""
  flat = flatten(params)
  if name == "r3gan_unlabelled":
    return features_bf @ flat["logit/kernel"][:, 0]
  if name == "r3gan":
    (table,) = [x for path, x in flat.items() if path.endswith("/embedding")]
    return jnp.sum(features_bf @ flat["logit/kernel"] * table[labels], axis=1)
  table = flat["projection/embedding" if "biggan" in name else
               "classes/embedding"]  # fmt: skip
  projected = jnp.sum(table[labels] * features_bf, axis=1)
  if name == "stripped":
    plain = features_bf @ flat["logit/kernel"][:, 0] + flat["logit_bias"]
  else:
    plain = features_bf @ flat["linear/kernel"][:, 0] + flat["linear/bias"]
  return plain + projected


# Has the same head as BigGAN, and takes longest to compile.
_SLOW = ("biggan_deep",)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW))
    for name in MODELS
  ],
)
def test_features_are_the_inputs_of_the_last_layer(name):
  spec = MODELS[name]
  d = make_model(spec, "cpu").d
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype),
    jax.eval_shape(d.init, jax.random.key(0)),
  )
  side, channels = spec.resolution, spec.image_channels
  images = rng.normal(size=(4, side, side, channels)).astype("f4")
  labels = (
    np.array([0, 1, 2, 1], "i4") if spec.num_classes else np.zeros(4, "i4")
  )
  both = jax.jit(
    lambda x, y: (d.features(variables, x, y), d.apply(variables, x, y)),
    compiler_options=fast_compile.OPTIONS,
  )
  (logits, features_bf), plain = both(images, labels)
  assert features_bf.shape[0] == 4
  assert features_bf.ndim == 2
  assert np.std(features_bf, axis=0).max() > 0
  np.testing.assert_array_equal(logits, plain)
  wanted = head(name, variables["params"], features_bf, labels)
  np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
