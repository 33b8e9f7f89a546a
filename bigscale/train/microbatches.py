"""Gradients of a mean over samples, split over devices and microbatches.

Each device differentiates the mean over its own samples, one microbatch after
the other. Gradients are summed over devices once per update, for any number of
microbatches. This uses `shard_map`, because under plain `jit` XLA may put the
all-reduce into the loop.

The assignment of samples to microbatches does not depend on the devices: sample
i (or batch norm group i) is in microbatch i modulo their number.
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

# (weights of the updated network, weights of the other network, batch
# statistics of G, samples [b, ...], shared) -> (mean over the samples [],
# (new statistics, means of scalars [])).
SampleLoss = Callable[
  [PyTree, PyTree, PyTree, PyTree, PyTree],
  tuple[Array, tuple[PyTree, dict[str, Array]]],
]


# Computes one microbatch: takes the running total, the batch statistics and the
# inputs; returns the new total, the new statistics and the results.
OnePart = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree, PyTree]]


class Microbatches:
  """Runs the microbatches of one device one after the other.

  Attributes:
    count: number of microbatches.
    in_turn: whether each microbatch starts from the batch statistics that the
      previous one updated. If not, all microbatches start from the same
      statistics, and their results are averaged.
  """

  def __init__(self, spec: RunSpec, placement: Placement) -> None:
    self.count = spec.microbatches_on(placement.mesh.size)
    update = spec.model.batch_norm_update
    self.in_turn = self.count > 1 and update == "forward"
    # On CPUs, XLA uses a slow path for convolutions in loops: an R3GAN step
    # takes eight times as long.
    on_cpu = placement.mesh.devices.flat[0].platform == "cpu"
    self._unrolled = self.count if on_cpu else 1
    # Samples of a batch norm group, which must be in the same microbatch.
    self._group = max(spec.model.batch_norm_group_size, 1)

  def run(
    self, one: OnePart, start: PyTree, stats: PyTree, inputs: PyTree
  ) -> tuple[PyTree, PyTree, PyTree]:
    """Calls `one` for every microbatch; inside `map_devices`.

    Args:
      one: see `OnePart`.
      start: initial total.
      stats: batch statistics of G before the update.
      inputs: arrays [count, ...].

    Returns:
      The total, the new statistics, and the results as arrays [count, ...].
    """

    def step(carry: tuple, inputs: PyTree) -> tuple[tuple, tuple]:
      total, moved = carry
      total, moved, found = one(total, moved if self.in_turn else stats, inputs)
      return (total, moved), (moved, found)

    if self.count == 1:
      total, moved, found = one(start, stats, jax.tree.map(_first, inputs))
      found = jax.tree.map(lambda x: x[None], found)
    else:
      (total, moved), (each, found) = lax.scan(
        step, (start, stats), inputs, length=self.count, unroll=self._unrolled
      )
      moved = moved if self.in_turn else means(each)
    # With groups, each device has updated the statistics with its own groups.
    return total, lax.pmean(moved, AXES) if self._group > 1 else moved, found

  def split(self, x: Array) -> Array:
    """Splits an array [b, ...] to [count, b / count, ...]."""
    rest = x.shape[1:]
    x = x.reshape(-1, self.count, self._group, *rest)
    return jnp.moveaxis(x, 1, 0).reshape(self.count, -1, *rest)

  def join(self, x: Array) -> Array:
    """Inverts `split`."""
    rest = x.shape[2:]
    x = x.reshape(self.count, -1, self._group, *rest)
    return jnp.moveaxis(x, 0, 1).reshape(-1, *rest)


class Outcome(NamedTuple):
  """Gradients and scalars of an update, over the global batch.

  Attributes:
    gradients: gradients of the mean loss in the updated network's weights.
    batch_stats: new batch statistics of G.
    scalars: means over the global batch.
    noise: `probes.gradient_noise` in the weights after spectral norm; {} if
      `log.noise_scale` is off.
  """

  gradients: Ready
  batch_stats: PyTree
  scalars: dict[str, Array]
  noise: dict[str, Array]


# Temporary scalar: squared norm of the gradient of a microbatch.
_PART_SQUARE = "part_square"


class SampleGradient:
  """Differentiates means over the samples of a global batch."""

  def __init__(self, spec: RunSpec, placement: Placement) -> None:
    """Initializes the gradient computation.

    Raises:
      SpecError: if `log.noise_scale` is on and there is only one device with
        one microbatch.
    """
    self._placement = placement
    self._microbatches = Microbatches(spec, placement)
    self._batch_size = spec.global_batch_size
    self._noise_scale = spec.log.noise_scale
    require(
      not self._noise_scale or self._all_parts > 1,
      "log.noise_scale compares the gradients of microbatches, but the batch "
      "is one microbatch on one device; use optim.microbatches=2 or more, or "
      "more devices",
    )
    self._half = jnp.dtype(spec.mesh.gradient_dtype)

  def __call__(
    self,
    loss: SampleLoss,
    own: Ready,
    other: Ready,
    batch_stats: PyTree,
    samples: PyTree,
    shared: PyTree,
  ) -> Outcome:
    """Differentiates `loss` for every microbatch on every device.

    Args:
      loss: see `SampleLoss`; differentiated in its first argument.
      own: weights of the updated network.
      other: weights of the other network.
      batch_stats: batch statistics of G before the update.
      samples: arrays [B, ...].
      shared: arrays without a sample axis, used by all samples.
    """
    placement, parts = self._placement, self._microbatches
    own_axes = placement.axes(own.weights)
    other_axes = placement.axes(other.weights)

    def here(
      own: Ready, other: Ready, stats: PyTree, samples: PyTree, shared: PyTree
    ) -> Outcome:
      def one(
        total: PyTree, stats: PyTree, inputs: tuple
      ) -> tuple[PyTree, PyTree, tuple]:
        own_factors, other_factors, part = inputs
        theirs = placement.shards(
          scaled(other.weights, other_factors), other_axes
        )

        def of_weights(
          weights: PyTree, factors: dict[str, Array]
        ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
          ours = placement.shards(scaled(weights, factors), own_axes)
          return loss(ours, theirs, stats, part, shared)

        (gradient, of_factors), (stats, scalars) = jax.grad(
          of_weights, argnums=(0, 1), has_aux=True
        )(own.weights, own_factors)
        if self._noise_scale:
          scalars = {**scalars, _PART_SQUARE: probes.square(gradient)}
        if total is not None:
          gradient = jax.tree.map(
            lambda t, g: t + g.astype(t.dtype), total, gradient
          )
        return gradient, stats, (of_factors, scalars)

      # Gradients of several microbatches are summed in float32.
      start = jax.tree.map(_wide_zeros, own.weights)
      total, stats, (of_factors, scalars) = parts.run(
        one,
        start if parts.count > 1 else None,
        stats,
        (own.factors, other.factors, jax.tree.map(parts.split, samples)),
      )
      if parts.count > 1:
        # A factor belongs to one microbatch, which contributes 1/count of the
        # mean.
        total, of_factors = jax.tree.map(
          lambda t: t / parts.count, (total, of_factors)
        )
      return self._over_devices(
        Outcome(Ready(total, of_factors), stats, means(scalars), {}),
        own.weights,
        own_axes,
      )

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

  @property
  def _all_parts(self) -> int:
    """Number of microbatches of the global batch, over all devices."""
    return self._microbatches.count * self._placement.devices

  def _with_noise(self, outcome: Outcome) -> Outcome:
    """Replaces the squared norms by `probes.gradient_noise`."""
    scalars = dict(outcome.scalars)
    noise = probes.gradient_noise(
      scalars.pop(_PART_SQUARE),
      probes.square(outcome.gradients.weights),
      self._all_parts,
      self._batch_size,
    )
    return outcome._replace(scalars=scalars, noise=noise)

  def _over_devices(
    self, outcome: Outcome, weights: PyTree, axes: PyTree
  ) -> Outcome:
    """Averages gradients and scalars over devices."""
    placement = self._placement

    def to_send(gradient: Array, weight: Array) -> Array:
      half = weight.dtype == jnp.bfloat16
      return gradient.astype(self._half) if half else gradient

    gradients = jax.tree.map(to_send, outcome.gradients.weights, weights)
    sums = placement.sum_gradients(gradients, axes)
    return outcome._replace(
      gradients=Ready(
        jax.tree.map(lambda t: t / placement.devices, sums),
        lax.pmean(outcome.gradients.factors, AXES),
      ),
      scalars=lax.pmean(outcome.scalars, AXES),
    )


def means(tree: PyTree) -> PyTree:
  """Averages each array over its first axis."""
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def _first(x: Array) -> Array:
  return x[0]


def _wide_zeros(weight: Array) -> Array:
  return jnp.zeros(weight.shape, jnp.promote_types(weight.dtype, jnp.float32))
