"""From a model's spec to its networks, at the precision that it states."""

from bigscale.models import foreign
from bigscale.models.blocks import Gather
from bigscale.ops import precision
from bigscale.spec import ModelBase, Precision, named
from bigscale.types import WHOLE_BATCH, BatchSplit, GanModel, Network


def make_model(
  spec: ModelBase,
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
    SpecError: a user's own family makes none, or none that can train.
  """
  if named.is_path(spec.name):
    foreign.check(spec, platform)
  model = spec.make_networks(platform, split, gather)
  return GanModel(*(_stated(network, spec.precision) for network in model))


def _stated(network: Network, stated: Precision) -> Network:
  """The network, its functions traced at a precision whoever calls them."""
  of_network = precision.of_network(stated)
  return network._replace(
    init=of_network(network.init),
    apply=of_network(network.apply),
    features=network.features and of_network(network.features),
  )
