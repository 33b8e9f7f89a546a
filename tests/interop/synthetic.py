"""Files of other implementations, synthesized for a small spec."""

import jax
import numpy as np

from bigscale.interop import biggan_hf
from bigscale.interop.tensors import shapes_of
from bigscale.models.make import make_model
from bigscale.ops import spectral
from bigscale.ops.spectral import flatten
from tests import fast_compile


def leaves(spec, player="g", seed=0):
  """Returns random parameters and statistics by path, variances positive."""
  shapes = shapes_of(getattr(make_model(spec, "cpu"), player), spec)
  random = np.random.RandomState(seed)
  found = {}
  for path, leaf in shapes.leaves.items():
    x = random.normal(size=leaf.shape).astype(leaf.dtype)
    found[path] = np.abs(x) + 0.5 if path.endswith("norm/var") else x
  return found


def theirs(sources, found):
  """Returns the leaves under the file's names and in its axis order."""
  return {
    source.name: np.array(source.layout.to_file(found[path]))
    for path, source in sources.items()
  }


def trackers(tensors, ranks, seed=1):
  """Returns `u0`, `sv0` and so on for every weight except the embedding."""
  random = np.random.RandomState(seed)
  found = {}
  for name, weight in tensors.items():
    if weight.ndim < 2 or name == "shared.weight":
      continue
    owner = name.removesuffix("weight")
    for rank in range(ranks):
      u = random.normal(size=(1, len(weight)))
      u = u / np.linalg.norm(u)
      found[f"{owner}u{rank}"] = u.astype("f4")
      found[f"{owner}sv{rank}"] = np.full(1, 2.0 + rank, "f4")
  return found


def assert_same(weights, found):
  """Asserts that imported weights equal leaves by path."""
  got = flatten(weights.params) | flatten(weights.batch_stats)
  assert set(got) == set(found)
  for path, leaf in found.items():
    np.testing.assert_array_equal(got[path], leaf, err_msg=path)


def images(spec, weights, latents, labels):
  """Returns G's images in evaluation: [B, H, W, C]."""
  g = make_model(spec, "cpu").g

  def sample(params, stats, spectra):
    normal, _ = spectral.normalize(params, spectra, spec.spectral_epsilon)
    variables = {"params": normal, "batch_stats": stats}
    return g.apply(variables, latents, labels, train=False)[0]

  # Compilation dominates the time.
  program = jax.jit(sample).lower(*weights).compile(fast_compile.OPTIONS)
  return np.asarray(program(*weights))


def unit(x):
  """Returns a vector divided by its length."""
  return x / np.linalg.norm(x)


def hf_deep(spec):
  """Returns leaves by path, and the state dict of HF's converter for them.

  Its u and v are those after one step from training's u. Statistics of
  truncations below 1 differ from the leaves.
  """
  found = leaves(spec)
  random = np.random.RandomState(7)
  file = theirs(biggan_hf.g_sources(spec), found)
  for name in [name for name in file if name.endswith("weight_orig")]:
    w_oi = file[name].reshape(len(file[name]), -1)
    v = unit(random.normal(size=len(w_oi)) @ w_oi)
    owner = name.removesuffix("_orig")
    file[f"{owner}_v"] = v.astype("f4")
    file[f"{owner}_u"] = unit(w_oi @ v).astype("f4")
  steps = np.arange(50, -1, -1, dtype="f4")[:, None] / 50
  for name in [name for name in file if "running_" in name]:
    file[name] = file[name] + steps * random.uniform(
      0.5, 1, file[name].shape[1]
    )
    file[name] = file[name].astype("f4")
  return found, file
