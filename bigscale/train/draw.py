"""G's images for updates of D, of one update or of several at once.

G stands still while D is updated. Where its weights do so too, the images of
all D updates of a step come from one forward pass: weights are gathered and
batch norm's sums cross devices once, and a device's products are larger.
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
    """Takes what the spec says of batches.

    Args:
      network: G.
      spec: of the run.
      placement: of its arrays.
    """
    self._network = network
    self._placement = placement
    self._microbatches = Microbatches(spec, placement)

  @property
  def of_all_updates(self) -> bool:
    """Whether one pass may take the samples of several updates.

    Not where microbatches move batch statistics in turn: those of the second
    update would start before the first one's end.
    """
    return not self._microbatches.in_turn

  def __call__(
    self, ready: Ready, batch_stats: PyTree, codes: PyTree
  ) -> tuple[Array, PyTree]:
    """Draws the images of K updates.

    Args:
      ready: G's weights.
      batch_stats: of G, before.
      codes: `Codes` of [K, B, ...].

    Returns:
      Images [K, B, H, W, C], those of an update with batch statistics of their
      own, and the running statistics as one update after the other moves them.
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
    """Images [K, b, H, W, C] of codes [K, b, ...]; statistics, moved."""
    count = codes.latents.shape[0]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), codes)
    images, moved = self._network.apply(
      {"params": weights, "batch_stats": stats},
      flat.latents,
      flat.labels,
      train=True,
      # Without batch statistics samples do not see each other.
      **({"passes": count} if stats else {}),
    )
    return images.reshape(count, -1, *images.shape[1:]), moved
