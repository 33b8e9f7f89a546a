"""The nouns every room of the house shares.

A network is a pair of pure functions over plain nested dictionaries; nothing
outside `bigscale.models` knows which module library wrote it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
# {"params": ..., "batch_stats": ...}; the second is {} without batch norm.
Variables = Mapping[str, PyTree]


class Batch(NamedTuple):
  """What one step of training reads.

  Attributes:
    images: [K, B, H, W, C] uint8. K batches of B = `global_batch_size` real
      images: one for every D update and, where the generator's loss compares
      with reals, one more for the G update (`RunSpec.batches_per_step`).
    labels: [K, B] int32 in [0, num_classes).
  """

  images: Array
  labels: Array


class Network(NamedTuple):
  """One of the two players, as pure functions.

  Attributes:
    init: `init(key) -> Variables`, float parameters of the spec's dtype.
    apply: see `GanModel`.
    spectral: `spectral(path) -> bool`: whether the parameter at "a/b/kernel"
      is spectrally normalized before `apply` sees it.
    tracked: whether its singular values are tracked; covers `spectral`.
    orthogonal: `orthogonal(path) -> bool`: whether orthogonal regularization
      covers it. Embeddings are left out.
  """

  init: Callable[[Array], Variables]
  apply: Callable[..., Any]
  spectral: Callable[[str], bool]
  tracked: Callable[[str], bool]
  orthogonal: Callable[[str], bool]


class GanModel(NamedTuple):
  """A generator and a discriminator.

  `g.apply(variables, latents, labels, train)` takes latents
  [B, latent_dim] and labels [B] int32 and returns images [B, H, W, C] in
  about [-1, 1] and the new batch statistics.

  `d.apply(variables, images, labels)` takes images [B, H, W, C] and returns
  logits [B], at least float32.
  """

  g: Network
  d: Network
