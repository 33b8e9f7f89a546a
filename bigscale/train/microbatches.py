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


# Computes one microbatch. Takes the running total, batch statistics and the
# microbatch's inputs; returns the new total, new statistics and its results.
OnePart = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree, PyTree]]


class Microbatches:
  """How one device computes its samples: in parts, one after the other.

  Attributes:
    count: of parts.
    in_turn: whether a part starts from the batch statistics that the one before
      it has moved. If not, all start from the same, and their results are
      averaged.
  """

  def __init__(self, spec: RunSpec, placement: Placement) -> None:
    self.count = spec.optim.microbatches
    update = spec.model.batch_norm_update
    self.in_turn = self.count > 1 and update == "forward"
    # XLA's CPU backend runs convolutions in loops by a slow path: an R3GAN step
    # takes eight times as long.
    on_cpu = placement.mesh.devices.flat[0].platform == "cpu"
    self._unrolled = self.count if on_cpu else 1
    # Of one batch norm group, which stays in one microbatch.
    self._group = max(spec.model.batch_norm_group_size, 1)

  def run(
    self, one: OnePart, start: PyTree, stats: PyTree, inputs: PyTree
  ) -> tuple[PyTree, PyTree, PyTree]:
    """Calls `one` for every microbatch; inside `map_devices`.

    Args:
      one: see `OnePart`.
      start: of what adds up.
      stats: of G, before.
      inputs: arrays [count, ...].

    Returns:
      What has added up; statistics, moved; what was found, [count, ...].
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
    # With groups, each device has moved the statistics by its own groups.
    return total, lax.pmean(moved, AXES) if self._group > 1 else moved, found

  def split(self, x: Array) -> Array:
    """[b, ...] to [count, b / count, ...]."""
    rest = x.shape[1:]
    x = x.reshape(-1, self.count, self._group, *rest)
    return jnp.moveaxis(x, 1, 0).reshape(self.count, -1, *rest)

  def join(self, x: Array) -> Array:
    """What `split` was given."""
    rest = x.shape[2:]
    x = x.reshape(self.count, -1, self._group, *rest)
    return jnp.moveaxis(x, 0, 1).reshape(-1, *rest)


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
    self._microbatches = Microbatches(spec, placement)
    self._batch_size = spec.global_batch_size
    self._noise_scale = spec.log.noise_scale
    require(
      not self._noise_scale or self._all_parts > 1,
      "log.noise_scale compares the gradients of parts of a batch, but one "
      "device takes all of it at once; use optim.microbatches=2 or more, or "
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
    """Calls `loss` for every microbatch on every device.

    Args:
      loss: see `SampleLoss`; differentiated in its first argument.
      own: weights that are updated.
      other: weights that are not.
      batch_stats: of G, before.
      samples: arrays [B, ...].
      shared: arrays that all samples see.
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

      # Several add up in float32.
      start = jax.tree.map(_wide_zeros, own.weights)
      total, stats, (of_factors, scalars) = parts.run(
        one,
        start if parts.count > 1 else None,
        stats,
        (own.factors, other.factors, jax.tree.map(parts.split, samples)),
      )
      if parts.count > 1:
        # A factor belongs to one microbatch, of which the mean has a share.
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
    """Of a global batch: those whose gradients are taken apart."""
    return self._microbatches.count * self._placement.devices

  def _with_noise(self, outcome: Outcome) -> Outcome:
    """Puts `probes.gradient_noise` in place of the parts' squares."""
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
    """Means over devices."""
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
  """Over the first axis."""
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def _first(x: Array) -> Array:
  return x[0]


def _wide_zeros(weight: Array) -> Array:
  return jnp.zeros(weight.shape, jnp.promote_types(weight.dtype, jnp.float32))
