"""Builds the networks of a model's spec, at the precision of the spec."""

from bigscale.models import check_networks
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
  """Builds the generator and the discriminator, at the precision of their spec.

  Args:
    spec: spec of the model.
    platform: platform of the devices that will run it: `cpu`, `gpu` or `tpu`.
      It is an argument, and not read from JAX, so that a program for a TPU can
      be compiled without one.
    split: how `shard_map` splits the training batch. Sampling and functions
      under plain `jit` use whole batches.
    gather: function from some top-level entries of a network's parameters to
      the arrays that `apply` computes with, for sharded parameters. It is
      called when a block runs and again in its backward pass. None if
      parameters are not sharded. `init` never calls it.

  Raises:
    SpecError: a user's family does not build networks that can be trained.
  """
  if named.is_path(spec.name):
    check_networks.check(spec, platform)
  model = spec.make_networks(platform, split, gather)
  return GanModel(*(_stated(network, spec.precision) for network in model))


def _stated(network: Network, stated: Precision) -> Network:
  """Returns the network with its functions traced at a fixed precision."""
  of_network = precision.of_network(stated)
  return network._replace(
    init=of_network(network.init),
    apply=of_network(network.apply),
    features=network.features and of_network(network.features),
  )
