"""Types shared by all packages.

A network is a set of pure functions over plain nested dictionaries. Only
`bigscale.models` depends on a module library.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
# {"params": ..., "batch_stats": ...}; batch_stats is {} without batch norm.
Variables = Mapping[str, PyTree]


class Batch(NamedTuple):
  """Real images and labels of one training step.

  Attributes:
    images: [K, B, H, W, C] uint8. K batches of B = `global_batch_size` real
      images: one for each D update, plus one for the G update if the
      generator's loss uses reals (`RunSpec.batches_per_step`).
    labels: [K, B] int32 in [0, num_classes).
  """

  images: Array
  labels: Array


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["axis"]
)
@dataclasses.dataclass(frozen=True)
class Shard:
  """One device's shard of a weight, gathered where it is used.

  Attributes:
    value: the shard.
    axis: axis along which shards are concatenated.
  """

  value: Array
  axis: int


class BatchSplit(NamedTuple):
  """How `shard_map` splits a batch while a network runs.

  Attributes:
    axes: mesh axes over which samples are split; () if they are not split.
    devices: number of devices along those axes.
  """

  axes: tuple[str, ...] = ()
  devices: int = 1


WHOLE_BATCH = BatchSplit()


class Network(NamedTuple):
  """The generator or the discriminator, as pure functions.

  Paths of parameters are written as "a/b/kernel".

  Attributes:
    init: `init(key) -> Variables`, with float parameters of the spec's dtype.
    apply: see `GanModel`.
    spectral: `spectral(path) -> bool`: whether the parameter is spectrally
      normalized before it is passed to `apply`.
    tracked: `tracked(path) -> bool`: whether the parameter's singular values
      are tracked. True wherever `spectral` is.
    orthogonal: `orthogonal(path) -> bool`: whether orthogonal regularization
      applies to the parameter. Embeddings are excluded.
    half: `half(path) -> bool`: whether the network casts the parameter to
      bfloat16, so that it can be sent in that dtype.
    features: only for D: `features(variables, images, labels)` returns logits
      [B] and the inputs of the last layer, [B, F].
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
  about [-1, 1] and the new batch statistics. A network with batch statistics
  also takes `passes`, a number of batches that are concatenated along B. Each
  of them is normalized as if it had its own call.

  `d.apply(variables, images, labels)` takes images [B, H, W, C] and returns
  logits [B], at least float32.
  """

  g: Network
  d: Network
