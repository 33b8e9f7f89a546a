"""Standing statistics: batch norm statistics measured for sampling.

The running statistics of training lag behind the weights and belong to latents
without truncation. Brock et al. 2019, sec. 3, therefore average the batch
statistics of 100 forward passes of the averaged generator.
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

# Differs from the seeds of training, grids and evaluations.
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
  """Returns G's average with standing instead of running statistics.

  Mean and variance are plain averages of the batch statistics, as in the
  authors' PyTorch code. That code averages biased variances; `norms.BatchNorm`
  records unbiased ones, which are larger by n / (n - 1) if a layer sees
  n = batch_size * H * W values per channel. That is at most 1 + 1 / 1000 with
  63 or more samples (H, W >= 4).

  Args:
    model: spec of the networks.
    platform: platform of the devices that hold `ema`.
    ema: `params` before spectral norm, `batch_stats` and `spectra`.
    batches: number of forward passes; 0 keeps the running statistics. The
      paper uses 100.
    batch_size: number of samples per pass.
    truncation: truncation of the latents. Activations depend on it, so use the
      truncation of the samples.
    rule: meaning of the truncation, see `latents.law`.
    seed: seed of latents and labels.
    labels: [batches * batch_size] labels. Statistics depend on the class
      proportions, so use those of the samples. None draws labels uniformly.

  Returns:
    `ema` with new `batch_stats`; `ema` itself if there is no batch norm.

  Raises:
    SpecError: an argument is out of range.
  """
  require(
    batches >= 0 and batch_size >= 2,
    f"batches={batches} and batch_size={batch_size} are out of range; use "
    "batches=0 (running statistics) or more, and batch_size=2 or more",
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


# Cached, because a sweep over thresholds uses the same programs repeatedly.
@functools.lru_cache(maxsize=1)
def _programs(
  model: ModelBase, platform: str
) -> tuple[Callable[..., PyTree], Callable[..., PyTree]]:
  """Returns functions that apply spectral norm and add a batch's statistics."""
  # With momentum 0 the new running statistics are those of the batch.
  twin = dataclasses.replace(model, batch_norm_momentum=0.0)
  g = make_model(twin, platform).g

  def normalize(params: PyTree, spectra: spectral.Spectra) -> PyTree:
    """Normalizes weights as sampling does: one power step, not stored."""
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
    # Momentum 0 discards the old statistics. Batch norm still subtracts their
    # means first, which keeps the batch's variances exact.
    variables = {"params": params, "batch_stats": stats}
    _, stats = g.apply(variables, latents, labels, train=True)
    return jax.tree.map(jnp.add, totals, stats)

  return jax.jit(normalize), jax.jit(add)
