"""G's forward passes for one or several D updates.

G's parameters do not change during the D updates of a step. If its normalized
weights do not change either, one forward pass generates the images of all D
updates. It gathers weights and sums batch statistics over devices only once,
and its matrix products are larger.
"""

import jax
from jax.sharding import PartitionSpec as P

from bigscale.parallel.mesh import AXES
from bigscale.parallel.sharding import Placement
from bigscale.spec import RunSpec
from bigscale.train.microbatches import Microbatches
from bigscale.train.weights import Ready, scaled
from bigscale.types import Array, Network, PyTree


class Draw:
  """Forward passes of G in training mode."""

  def __init__(
    self, network: Network, spec: RunSpec, placement: Placement
  ) -> None:
    """Initializes the passes.

    Args:
      network: G.
      spec: spec of the run.
      placement: placement of the run's arrays.
    """
    self._network = network
    self._placement = placement
    self._microbatches = Microbatches(spec, placement)

  @property
  def of_all_updates(self) -> bool:
    """Whether one pass may generate the samples of several updates.

    False if microbatches update batch statistics one after the other: the
    second update must start from the final statistics of the first.
    """
    return not self._microbatches.in_turn

  def __call__(
    self, ready: Ready, batch_stats: PyTree, codes: PyTree
  ) -> tuple[Array, PyTree]:
    """Generates the images of K updates.

    Args:
      ready: G's weights.
      batch_stats: G's running statistics before the updates.
      codes: `Codes` with arrays [K, B, ...].

    Returns:
      Images [K, B, H, W, C], each update normalized by its own batch
      statistics, and the running statistics after all updates in order.
    """
    placement, parts = self._placement, self._microbatches
    axes = placement.axes(ready.weights)

    def here(
      ready: Ready, stats: PyTree, codes: PyTree
    ) -> tuple[Array, PyTree]:
      def one(
        nothing: None, stats: PyTree, inputs: tuple
      ) -> tuple[None, PyTree, Array]:
        factors, part = inputs
        weights = placement.shards(scaled(ready.weights, factors), axes)
        images, moved = self._passes(weights, stats, part)
        return nothing, moved, images

      split = jax.tree.map(jax.vmap(parts.split, out_axes=1), codes)
      _, stats, images = parts.run(one, None, stats, (ready.factors, split))
      return jax.vmap(parts.join, in_axes=1)(images), stats

    by_update = P(None, AXES)
    return placement.map_devices(
      here,
      in_specs=(
        Ready(placement.compute_specs(ready.weights), P()),
        P(),
        by_update,
      ),
      out_specs=(by_update, P()),
    )(ready, batch_stats, codes)

  def _passes(
    self, weights: PyTree, stats: PyTree, codes: PyTree
  ) -> tuple[Array, PyTree]:
    """Returns images [K, b, ...] of codes [K, b, ...], and new statistics."""
    count = codes.latents.shape[0]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), codes)
    images, moved = self._network.apply(
      {"params": weights, "batch_stats": stats},
      flat.latents,
      flat.labels,
      train=True,
      # Without batch statistics, samples are independent.
      **({"passes": count} if stats else {}),
    )
    return images.reshape(count, -1, *images.shape[1:]), moved
