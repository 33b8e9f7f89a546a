"""Samples images from a trained generator in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.sampling import latents as draw
from bigscale.spec import ModelBase, SpecError, TruncationRule

# `sample(ema, latents, labels) -> uint8 images`, see train/build.py. Instead of
# labels [B], class weights [B, num_classes] mix the class embeddings.
SampleFn = Callable[[Any, jax.Array, jax.Array], jax.Array]


class DrawnSamples(NamedTuple):
  """A batch: images [B, H, W, C] uint8 and labels [B] int32, on the host."""

  images: np.ndarray
  labels: np.ndarray


def sample(
  sample_fn: SampleFn,
  ema: Any,
  model: ModelBase,
  *,
  count: int,
  batch_size: int,
  seed: int,
  labels: Sequence[int] | None = None,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
) -> Iterator[DrawnSamples]:
  """Yields `count` samples in batches.

  Sample i depends on the weights and on (seed, i // batch_size,
  i % batch_size), but not on the devices.

  Args:
    sample_fn: jitted generator.
    ema: weights of the generator.
    model: spec of the model, which sets the sizes of latents and labels.
    count: total number of images.
    batch_size: batch size of every call. The last batch is computed in full and
      then cut, so that nothing is recompiled.
    seed: seed of the latents.
    labels: classes of the samples, in order; repeated if there are more samples
      than labels. None cycles through all classes.
    truncation: truncation of the latents; None samples N(0, I).
    rule: meaning of the truncation, see `latents.law`.

  Yields:
    Batches of at most `batch_size` samples.

  Raises:
    SpecError: a label or the truncation is out of range.
  """
  check_labels(model, labels)
  draw.check_truncation(truncation, rule)
  if labels is None or not len(labels):
    labels = range(max(model.num_classes, 1))
  cycle = np.asarray(labels, np.int32)
  key = jax.random.key(seed)
  for batch, start in enumerate(range(0, count, batch_size)):
    batch_key = jax.random.fold_in(key, batch)
    z_bd = draw.draw(batch_key, batch_size, model, truncation, rule)
    label_b = cycle[np.arange(start, start + batch_size) % len(cycle)]
    images = np.asarray(sample_fn(ema, z_bd, jnp.asarray(label_b)))
    kept = min(batch_size, count - start)
    yield DrawnSamples(images[:kept], label_b[:kept])


def check_labels(model: ModelBase, labels: Sequence[int] | None) -> None:
  """Raises `SpecError` if the model does not have one of the labels."""
  if labels is None:
    return
  if not model.num_classes:
    raise SpecError(
      f"labels={list(labels)} cannot be used with a model without classes; "
      "leave labels out"
    )
  found = np.asarray(labels, np.int64)
  for label in found[(found < 0) | (found >= model.num_classes)][:1]:
    raise SpecError(
      f"label {label} is not one of the model's {model.num_classes} classes; "
      f"use 0 to {model.num_classes - 1}"
    )
