"""Standing statistics, compared with a plain average of batch statistics."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.biggan import BigganSpec
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.ops import spectral
from bigscale.sampling import latents
from bigscale.sampling.standing import standing_statistics
from bigscale.spec import SpecError
from bigscale.train.state import Average

_SPEC = BigganSpec(
  resolution=32,
  num_classes=3,
  latent_dim=16,
  g_width=2,
  d_width=2,
  shared_dim=4,
)
_BATCHES, _SIZE, _SEED = 3, 4, 7


@pytest.fixture(scope="module")
def ema():
  g = make_model(_SPEC, "cpu").g
  random = np.random.default_rng(0)
  key = jax.random.key(0)

  def weight(path, leaf):
    """Omits the bias before the first norm, so that only latents vary there."""
    if [entry.key for entry in path] == ["params", "linear", "bias"]:
      return jnp.zeros(leaf.shape, leaf.dtype)
    return jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype)

  variables = jax.tree_util.tree_map_with_path(
    weight, jax.eval_shape(g.init, key)
  )
  params = variables["params"]

  def unit(leaf):
    """Returns u [1, O] or sigma [1]."""
    vector = random.standard_normal(leaf.shape)
    return jnp.asarray(vector / np.linalg.norm(vector), leaf.dtype)

  shapes = jax.eval_shape(lambda: spectral.init(key, params, g.spectral, 1))
  spectra = jax.tree.map(unit, shapes)
  return Average(params, variables["batch_stats"], spectra)


def _standing(ema, **options):
  settings = {"batches": _BATCHES, "batch_size": _SIZE, "seed": _SEED}
  return standing_statistics(_SPEC, "cpu", ema, **(settings | options))


@pytest.fixture(scope="module")
def standing(ema):
  return _standing(ema)


def test_first_norm_matches_numpy(ema, standing):
  """The norm's input is the linear layer's output, which numpy can compute."""
  kernel = np.asarray(ema.params["linear"]["kernel"], np.float64)
  bias = np.asarray(ema.params["linear"]["bias"], np.float64)
  (u,) = np.asarray(ema.spectra["linear/kernel"].u, np.float64)
  v = kernel @ u / np.linalg.norm(kernel @ u)
  kernel = kernel / np.linalg.norm(v @ kernel)
  means, variances = [], []
  for batch in range(_BATCHES):
    key = jax.random.fold_in(jax.random.key(_SEED), batch)
    z_bd = latents.draw(jax.random.split(key)[0], _SIZE, _SPEC)
    # The first of four chunks of z.
    x_bhwc = (np.asarray(z_bd)[:, :4] @ kernel + bias).reshape(_SIZE, 4, 4, -1)
    means.append(x_bhwc.mean(axis=(0, 1, 2)))
    variances.append(x_bhwc.var(axis=(0, 1, 2), ddof=1))
  found = standing.batch_stats["block0"]["norm1"]["norm"]
  np.testing.assert_allclose(found["mean"], np.mean(means, 0), atol=1e-5)
  np.testing.assert_allclose(found["var"], np.mean(variances, 0), rtol=1e-4)


def test_every_norm_is_the_mean_of_the_batches(ema, standing):
  """Recomputes them from the statistics of training with default momentum."""
  g = make_model(_SPEC, "cpu").g

  @jax.jit
  def recorded(z, labels):
    params, _ = spectral.normalize(ema.params, ema.spectra, 1e-4)
    stats = jax.tree.map(jnp.zeros_like, ema.batch_stats)
    return g.apply(
      {"params": params, "batch_stats": stats}, z, labels, train=True
    )[1]

  total = jax.tree.map(np.zeros_like, ema.batch_stats)
  for batch in range(_BATCHES):
    key = jax.random.fold_in(jax.random.key(_SEED), batch)
    z_key, label_key = jax.random.split(key)
    stats = recorded(
      latents.draw(z_key, _SIZE, _SPEC),
      latents.uniform_labels(label_key, _SIZE, 3),
    )
    # Starting at zero, one update adds 1 - momentum of the batch's statistics.
    total = jax.tree.map(lambda t, s: t + np.asarray(s) / 0.1, total, stats)
  mean = jax.tree.map(lambda t: t / _BATCHES, total)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    standing.batch_stats,
    mean,
  )


def test_only_the_statistics_change(ema, standing):
  assert standing.params is ema.params
  assert standing.spectra is ema.spectra
  assert jax.tree.structure(standing) == jax.tree.structure(ema)


def test_statistics_depend_only_on_the_seed(ema, standing):
  again, other = _standing(ema), _standing(ema, seed=8)
  leaves = [jax.tree.leaves(x.batch_stats) for x in (standing, again, other)]
  for first, second, third in zip(*leaves, strict=True):
    np.testing.assert_array_equal(first, second)
    assert (np.asarray(first) != np.asarray(third)).any()


def test_truncation_narrows_the_first_norm(ema, standing):
  """Latents truncated at 0.5 have a twelfth of the variance."""
  narrow = _standing(ema, truncation=0.5)
  variance = [
    np.mean(x.batch_stats["block0"]["norm1"]["norm"]["var"])
    for x in (standing, narrow)
  ]
  assert variance[1] < 0.15 * variance[0]


def test_rule_sets_the_scale_of_latents(ema):
  """Without a bias before it, the first norm sees the latents' variance."""
  variance = {}
  for rule, threshold in (("scale", 0.4), ("resample", 2.0)):
    found = _standing(ema, truncation=threshold, rule=rule)
    norm = found.batch_stats["block0"]["norm1"]["norm"]
    variance[rule] = np.asarray(norm["var"])
  # Both use the same latents of truncnorm(-2, 2), one of them times 0.4.
  np.testing.assert_allclose(
    variance["scale"], 0.16 * variance["resample"], rtol=1e-3
  )


def test_zero_batches_keep_the_running_statistics(ema):
  assert _standing(ema, batches=0) is ema


def test_a_model_without_batch_norm_is_unchanged():
  spec = R3ganSpec(
    resolution=8, widths=(8, 4), blocks=(1, 1), cardinality=(2, 2)
  )
  average = types.SimpleNamespace(params={}, batch_stats={}, spectra={})
  same = standing_statistics(spec, "cpu", average, batches=100, batch_size=4)
  assert same is average


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batches": -1}, "batches=-1"),
    ({"batch_size": 1}, "batch_size=1 .*batch_size=2 or more"),
    ({"truncation": 0.0}, "positive"),
  ],
)
def test_invalid_arguments_are_refused(ema, options, message):
  with pytest.raises(SpecError, match=message):
    _standing(ema, **options)
