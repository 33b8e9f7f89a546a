"""The gradient of a mean over samples: split over devices and in time.

Each device differentiates the mean over its own samples, one microbatch after
the other, and the sums cross devices once, however many microbatches there
are. Written with `shard_map`: under plain `jit` XLA may put the all-reduce
into the loop.

Which samples make a microbatch does not depend on the devices: sample i (or
group i of batch norm) is in microbatch i modulo their number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from bigscale.monitor import probes
from bigscale.parallel.mesh import AXES
from bigscale.parallel.sharding import Placement
from bigscale.spec import RunSpec, require
from bigscale.train.weights import Ready, scaled
from bigscale.types import Array, PyTree

# (own weights, the other's, batch statistics of G, samples [b, ...], shared)
# -> ([] mean over the samples, (new statistics, scalars [] likewise)).
SampleLoss = Callable[
  [PyTree, PyTree, PyTree, PyTree, PyTree],
  tuple[Array, tuple[PyTree, dict[str, Array]]],
]


class Outcome(NamedTuple):
  """Of all samples of an update.

  Attributes:
    gradients: of the mean loss, in the own weights.
    batch_stats: of G, moved.
    scalars: means over the global batch.
    noise: `probes.gradient_noise`, {} where nobody asked. In the weights as
      samples meet them, after spectral norm.
  """

  gradients: Ready
  batch_stats: PyTree
  scalars: dict[str, Array]
  noise: dict[str, Array]


# Of the scalars, while an update is under way.
_PART_SQUARE = "part_square"


class SampleGradient:
  """Differentiates means over the samples of a global batch."""

  def __init__(self, spec: RunSpec, placement: Placement) -> None:
    """Takes what the spec says of batches.

    Raises:
      SpecError: the noise scale is asked for, and a batch has no parts.
    """
    self._placement = placement
    self._parts = spec.optim.microbatches
    # XLA's CPU backend runs convolutions in loops by a slow path: an R3GAN step
    # takes eight times as long.
    on_cpu = placement.mesh.devices.flat[0].platform == "cpu"
    self._unrolled = self._parts if on_cpu else 1
    self._batch_size = spec.global_batch_size
    self._noise_scale = spec.log.noise_scale
    require(
      not self._noise_scale or self._parts * placement.devices > 1,
      "log.noise_scale compares the gradients of parts of a batch, but one "
      "device takes all of it at once; use optim.microbatches=2 or more, or "
      "more devices",
    )
    self._half = jnp.dtype(spec.mesh.gradient_dtype)
    # Of one batch norm group, which stays in one microbatch.
    self._group = max(getattr(spec.model, "batch_norm_group_size", 0), 1)
    self._grouped = self._group > 1
    update = getattr(spec.model, "batch_norm_update", "step")
    self._chain_stats = update == "forward"

  def __call__(
    self,
    loss: SampleLoss,
    own: Ready,
    other: Ready,
    batch_stats: PyTree,
    samples: PyTree,
    shared: PyTree,
  ) -> Outcome:
    """Calls `loss` for every microbatch on every device.

    Args:
      loss: see `SampleLoss`; differentiated in its first argument.
      own: weights that are updated.
      other: weights that are not.
      batch_stats: of G, before.
      samples: arrays [B, ...].
      shared: arrays that all samples see.
    """
    placement = self._placement
    own_axes = placement.axes(own.weights)
    other_axes = placement.axes(other.weights)

    def here(
      own: Ready, other: Ready, stats: PyTree, samples: PyTree, shared: PyTree
    ) -> Outcome:
      def microbatch(stats: PyTree, inputs: tuple) -> tuple[Outcome, PyTree]:
        own_factors, other_factors, part = inputs
        theirs = placement.shards(
          scaled(other.weights, other_factors), other_axes
        )

        def of_weights(
          weights: PyTree, factors: dict[str, Array]
        ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
          ours = placement.shards(scaled(weights, factors), own_axes)
          return loss(ours, theirs, stats, part, shared)

        gradients, (stats, scalars) = jax.grad(
          of_weights, argnums=(0, 1), has_aux=True
        )(own.weights, own_factors)
        if self._noise_scale:
          scalars = {**scalars, _PART_SQUARE: probes.square(gradients[0])}
        return Outcome(Ready(*gradients), stats, scalars, {})

      if self._parts == 1:
        outcome = microbatch(stats, ({}, {}, samples))
      else:
        outcome = self._one_after_the_other(
          microbatch, own, other, stats, samples
        )
      return self._over_devices(outcome, own.weights, own_axes)

    outcome = placement.map_devices(
      here,
      in_specs=(
        Ready(placement.compute_specs(own.weights), P()),
        Ready(placement.compute_specs(other.weights), P()),
        P(),
        P(AXES),
        P(),
      ),
      out_specs=Outcome(
        Ready(placement.specs(own.weights), P()), P(), P(), P()
      ),
    )(own, other, batch_stats, samples, shared)
    return self._with_noise(outcome) if self._noise_scale else outcome

  def _with_noise(self, outcome: Outcome) -> Outcome:
    """Puts `probes.gradient_noise` in place of the parts' squares."""
    scalars = dict(outcome.scalars)
    noise = probes.gradient_noise(
      scalars.pop(_PART_SQUARE),
      probes.square(outcome.gradients.weights),
      self._parts * self._placement.devices,
      self._batch_size,
    )
    return outcome._replace(scalars=scalars, noise=noise)

  def _one_after_the_other(
    self,
    microbatch: Callable[[PyTree, tuple], Outcome],
    own: Ready,
    other: Ready,
    stats: PyTree,
    samples: PyTree,
  ) -> Outcome:
    """Means over microbatches; gradients add up in float32."""

    def wide(weight: Array) -> Array:
      dtype = jnp.promote_types(weight.dtype, jnp.float32)
      return jnp.zeros(weight.shape, dtype)

    def one_more(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
      total, moved = carry
      outcome = microbatch(moved if self._chain_stats else stats, inputs)
      total = jax.tree.map(
        lambda t, g: t + g.astype(t.dtype), total, outcome.gradients.weights
      )
      kept = (outcome.gradients.factors, outcome.batch_stats, outcome.scalars)
      return (total, outcome.batch_stats), kept

    start = (jax.tree.map(wide, own.weights), stats)
    inputs = (own.factors, other.factors, jax.tree.map(self._split, samples))
    (total, last), (factors, stats_t, scalars_t) = lax.scan(
      one_more, start, inputs, length=self._parts, unroll=self._unrolled
    )
    return Outcome(
      gradients=Ready(
        jax.tree.map(lambda t: t / self._parts, total),
        # Each belongs to one microbatch, of which the mean has a share.
        jax.tree.map(lambda t: t / self._parts, factors),
      ),
      batch_stats=last if self._chain_stats else _means(stats_t),
      scalars=_means(scalars_t),
      noise={},
    )

  def _over_devices(
    self, outcome: Outcome, weights: PyTree, axes: PyTree
  ) -> Outcome:
    """Means over devices."""
    placement = self._placement

    def to_send(gradient: Array, weight: Array) -> Array:
      half = weight.dtype == jnp.bfloat16
      return gradient.astype(self._half) if half else gradient

    gradients = jax.tree.map(to_send, outcome.gradients.weights, weights)
    sums = placement.sum_gradients(gradients, axes)
    stats = outcome.batch_stats
    if self._grouped:
      stats = lax.pmean(stats, AXES)
    return Outcome(
      gradients=Ready(
        jax.tree.map(lambda t: t / placement.devices, sums),
        lax.pmean(outcome.gradients.factors, AXES),
      ),
      batch_stats=stats,
      scalars=lax.pmean(outcome.scalars, AXES),
      noise={},
    )

  def _split(self, x: Array) -> Array:
    """[b, ...] to [microbatches, b / microbatches, ...]."""
    parts, rest = self._parts, x.shape[1:]
    x = x.reshape(-1, parts, self._group, *rest)
    return jnp.moveaxis(x, 1, 0).reshape(parts, -1, *rest)


def _means(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)
