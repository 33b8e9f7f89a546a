"""The nouns every room of the house shares.

A network is a pair of pure functions over plain nested dictionaries; nothing
outside `bigscale.models` knows which module library wrote it.
"""

import dataclasses
import functools
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


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["axis"]
)
@dataclasses.dataclass(frozen=True)
class Shard:
  """One device's part of a weight, to be gathered where it is used.

  Attributes:
    value: the part.
    axis: along which parts are joined.
  """

  value: Array
  axis: int


class BatchSplit(NamedTuple):
  """How a batch is split by hand (`shard_map`) where a network runs.

  Attributes:
    axes: of the mesh, over which samples are split; () where they are not.
    devices: along those axes.
  """

  axes: tuple[str, ...] = ()
  devices: int = 1


WHOLE_BATCH = BatchSplit()


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
    half: `half(path) -> bool`: whether it is cast to bfloat16 where it is
      used, so that it may as well travel in that dtype.
    features: D's alone: `features(variables, images, labels)` gives logits [B]
      and what its last layer sees, [B, F].
  """

  init: Callable[[Array], Variables]
  apply: Callable[..., Any]
  spectral: Callable[[str], bool]
  tracked: Callable[[str], bool]
  orthogonal: Callable[[str], bool]
  half: Callable[[str], bool] = lambda path: False
  features: Callable[..., tuple[Array, Array]] | None = None


class GanModel(NamedTuple):
  """A generator and a discriminator.

  `g.apply(variables, latents, labels, train)` takes latents
  [B, latent_dim] and labels [B] int32 and returns images [B, H, W, C] in
  about [-1, 1] and the new batch statistics. With statistics it also takes
  `passes`: the samples are then those of so many batches, one after the other,
  and are treated as if each batch had a call of its own.

  `d.apply(variables, images, labels)` takes images [B, H, W, C] and returns
  logits [B], at least float32.
  """

  g: Network
  d: Network
