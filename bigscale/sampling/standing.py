"""Standing statistics: batch norm's, measured anew for the G that is sampled.

The running statistics of training lag behind the weights, and belong to
latents without truncation. Brock et al. 2019, sec. 3, therefore average the
batch statistics of 100 forward passes of the averaged generator.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.models.make import make_model
from bigscale.ops import spectral
from bigscale.sampling import latents as draw
from bigscale.spec import ModelBase, TruncationRule, require
from bigscale.types import Array, PyTree

# Apart from the seeds of training, grids and evaluations.
STANDING_SEED = 3


def standing_statistics(
  model: ModelBase,
  platform: str,
  ema: Any,
  *,
  batches: int,
  batch_size: int,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
  seed: int = STANDING_SEED,
  labels: np.ndarray | None = None,
) -> Any:
  """The average of G with standing statistics in place of running ones.

  Mean and variance are plain means over batches of the batches' own, as in the
  authors' PyTorch code. Theirs averages biased variances; `norms.BatchNorm`
  records unbiased ones, larger by n / (n - 1) where a layer sees
  n = batch_size * H * W values a channel, which is at most 1 + 1 / 1000 from
  63 samples on (H, W >= 4).

  Args:
    model: of the networks.
    platform: of the devices that hold `ema`.
    ema: `params` before spectral norm, `batch_stats` and `spectra`.
    batches: forward passes; 0 keeps the running statistics. The paper's is
      100.
    batch_size: samples a pass.
    truncation: of the latents. Activations depend on it: give the one that
      will be sampled with.
    rule: what the truncation means, see `latents.law`.
    seed: of latents and labels.
    labels: [batches * batch_size] classes to draw for: statistics depend on
      their proportions, so give those that will be sampled. None draws them
      uniformly.

  Returns:
    `ema` with other `batch_stats`; `ema` itself where there is no batch norm.

  Raises:
    SpecError: a number is out of range.
  """
  require(
    batches >= 0 and batch_size >= 2,
    f"standing statistics of batches={batches} of batch_size={batch_size} "
    "cannot be taken; use 0 batches (running statistics) or more, of 2 "
    "samples or more",
  )
  draw.check_truncation(truncation, rule)
  if not batches or not ema.batch_stats:
    return ema
  normalize, add = _programs(model, platform)
  params = normalize(ema.params, ema.spectra)
  totals = jax.tree.map(jnp.zeros_like, ema.batch_stats)
  parts = None if labels is None else np.split(labels, batches)
  for batch in range(batches):
    key = jax.random.fold_in(jax.random.key(seed), batch)
    latent_key, label_key = jax.random.split(key)
    totals = add(
      totals,
      params,
      ema.batch_stats,
      draw.draw(latent_key, batch_size, model, truncation, rule),
      draw.uniform_labels(label_key, batch_size, model.num_classes)
      if parts is None
      else jnp.asarray(parts[batch], jnp.int32),
    )
  means = jax.tree.map(lambda total: total / batches, totals)
  return ema._replace(batch_stats=means)


# A sweep of thresholds asks for the same programs again and again.
@functools.lru_cache(maxsize=1)
def _programs(
  model: ModelBase, platform: str
) -> tuple[Callable[..., PyTree], Callable[..., PyTree]]:
  """Spectral norm, and totals with one more batch's statistics."""
  # With nothing kept of the old, the new running statistics are the batch's.
  twin = dataclasses.replace(model, batch_norm_momentum=0.0)
  g = make_model(twin, platform).g

  def normalize(params: PyTree, spectra: spectral.Spectra) -> PyTree:
    """Weights as a sample sees them: one power step, applied and forgotten."""
    under_norm = {path: s for path, s in spectra.items() if g.spectral(path)}
    if not under_norm:
      return params
    return spectral.normalize(params, under_norm, model.spectral_epsilon)[0]

  def add(
    totals: PyTree,
    params: PyTree,
    stats: PyTree,
    latents: Array,
    labels: Array,
  ) -> PyTree:
    # Nothing of the running statistics is kept; their means are near those of
    # the batch, which makes its variances exact.
    variables = {"params": params, "batch_stats": stats}
    _, stats = g.apply(variables, latents, labels, train=True)
    return jax.tree.map(jnp.add, totals, stats)

  return jax.jit(normalize), jax.jit(add)
