"""Images from a trained generator, a batch at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.sampling import latents as draw
from bigscale.spec import ModelBase, SpecError, TruncationRule

# `sample(ema, latents, labels) -> uint8 images`, see train/build.py. In place
# of labels [B], shares of the classes [B, num_classes] mix their embeddings.
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
  """Draws `count` images.

  Sample i is a function of (seed, i // batch_size, i % batch_size) and of the
  weights, not of devices.

  Args:
    sample_fn: the jitted generator.
    ema: its weights.
    model: whose latents and classes they are.
    count: images in all.
    batch_size: of every call; the last batch is cut, not recompiled.
    seed: of the latents.
    labels: the classes of the samples, in their order; from the beginning
      again where there are more samples than labels. None takes all classes in
      turn.
    truncation: of the latents; None leaves them normal.
    rule: what the truncation means, see `latents.law`.

  Yields:
    Batches of at most `batch_size`.

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
  """Raises `SpecError` for labels that the model does not know."""
  if labels is None:
    return
  if not model.num_classes:
    raise SpecError(
      f"labels={list(labels)} asked of a model without classes; leave labels "
      "out"
    )
  found = np.asarray(labels, np.int64)
  for label in found[(found < 0) | (found >= model.num_classes)][:1]:
    raise SpecError(
      f"label {label} is not one of the model's {model.num_classes} classes; "
      f"use 0 to {model.num_classes - 1}"
    )
