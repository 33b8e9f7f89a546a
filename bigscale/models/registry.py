"""From a model's spec to its networks. A new model adds one line."""

from bigscale.models import biggan, biggan_deep, r3gan, stripped
from bigscale.models.blocks import Gather
from bigscale.ops import precision
from bigscale.spec import (
  BigganDeepSpec,
  BigganSpec,
  ModelSpec,
  Precision,
  R3ganSpec,
  StrippedSpec,
  require,
)
from bigscale.types import WHOLE_BATCH, BatchSplit, GanModel, Network

_MAKERS = {
  R3ganSpec: r3gan.make,
  BigganSpec: biggan.make,
  BigganDeepSpec: biggan_deep.make,
  StrippedSpec: stripped.make,
}


def make_model(
  spec: ModelSpec,
  platform: str,
  split: BatchSplit = WHOLE_BATCH,
  gather: Gather | None = None,
) -> GanModel:
  """Makes generator and discriminator, at the precision of their spec.

  Args:
    spec: of the model.
    platform: of the devices that will run it: `cpu`, `gpu` or `tpu`. Passed
      rather than asked of JAX, so that a TPU program can be made without one.
    split: how `shard_map` splits the batch in training; sampling and anything
      under plain `jit` sees whole batches.
    gather: from a part of a network's parameters, some of its top-level
      entries, to the arrays that `apply` computes with, for parameters that
      are split over devices: called as a block runs, and again in its backward
      pass. None where they are whole. `init` never calls it.

  Raises:
    SpecError: nobody has said how this model is made.
  """
  kind = type(spec)
  require(
    kind in _MAKERS,
    f"{kind.__name__} has no networks: add its `make` to _MAKERS of "
    "bigscale/models/registry.py",
  )
  g, d = _MAKERS[kind](spec, platform, split, gather)
  return GanModel(_stated(g, spec.precision), _stated(d, spec.precision))


def _stated(network: Network, stated: Precision) -> Network:
  """The network, its functions traced at a precision whoever calls them."""
  of_network = precision.of_network(stated)
  return network._replace(
    init=of_network(network.init),
    apply=of_network(network.apply),
    features=network.features and of_network(network.features),
  )
