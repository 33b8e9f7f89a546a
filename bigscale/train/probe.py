"""The monitor's expensive probe, which evaluates samples at an interval.

It is a separate program, so the steps in between cost nothing extra and need no
held-out images. It does not change the state.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from bigscale.monitor import probes
from bigscale.ops.images import to_float
from bigscale.parallel.mesh import AXES
from bigscale.parallel.sharding import Placement
from bigscale.spec import RunSpec
from bigscale.train import tracking
from bigscale.train.discriminator_pass import Reals
from bigscale.train.objective import Scalars, draw_codes
from bigscale.train.state import GanState, step_key
from bigscale.types import Array, Batch, GanModel, PyTree

# Value folded into the key of a step, which itself uses 0 and 1.
_PROBE = 2


class Probe:
  """Compares reals of the last batch, held-out reals and new fakes."""

  def __init__(
    self, model: GanModel, spec: RunSpec, placement: Placement
  ) -> None:
    """Initializes the probe without computing anything."""
    self._model = model
    self._spec = spec
    self._placement = placement
    self.count = probe_size(spec, placement.devices)

  def __call__(self, state: GanState, batch: Batch, heldout: Batch) -> Scalars:
    """Returns the probe's scalars [].

    Args:
      state: state after a step.
      batch: batch of that step, arrays [K, B, ...].
      heldout: reals that D never trains on, arrays [1, count, ...].
    """
    spec = self._spec
    reals = Reals(*(_spread(x[0], self.count) for x in batch))
    unseen = Reals(heldout.images[0], heldout.labels[0])
    codes = draw_codes(
      jax.random.fold_in(step_key(state), _PROBE),
      spec,
      reals.labels,
      self.count,
    )
    g_params, _ = tracking.normalized(
      state.g.params, state.g.spectra, self._model.g, spec
    )
    d_params, _ = tracking.normalized(
      state.d.params, state.d.spectra, self._model.d, spec
    )

    def here(
      g_params: PyTree, d_params: PyTree, stats: PyTree, samples: PyTree
    ) -> dict[str, dict[str, Array]]:
      reals, unseen, codes = samples
      g_variables = {"params": g_params, "batch_stats": stats}
      fakes, _ = self._model.g.apply(
        g_variables, codes.latents, codes.labels, train=True
      )
      d_variables = {"params": d_params, "batch_stats": {}}

      def statistics(images: Array, labels: Array) -> dict[str, Array]:
        logits, features = self._model.d.features(d_variables, images, labels)
        return {
          "logits": logits,
          "features": features,
          "pixels": probes.pixel_statistics(images),
        }

      return {
        "fake": statistics(fakes, codes.labels),
        "real": statistics(self._float(reals.images), reals.labels),
        "heldout": statistics(self._float(unseen.images), unseen.labels),
      }

    with jax.named_scope("probe"):
      seen = self._placement.map_devices(
        here, in_specs=(P(), P(), P(), P(AXES)), out_specs=P(AXES)
      )(
        self._placement.whole(g_params),
        self._placement.whole(d_params),
        state.g.batch_stats,
        self._placement.by_sample((reals, unseen, codes)),
      )
      # Small and compared across samples, so every device gets all of them.
      return _compare(**self._placement.whole(seen))

  def _float(self, images: Array) -> Array:
    return to_float(images, jnp.dtype(self._spec.model.dtype))


def probe_size(spec: RunSpec, devices: int) -> int:
  """Returns the number of samples of a probe.

  This is the smallest divisor of the batch size that is at least
  `monitor.num_samples` (or the whole batch) and splits evenly over devices and
  batch norm groups.
  """
  batch, wanted = spec.global_batch_size, spec.monitor.num_samples
  group = spec.model.batch_norm_group_size or 1

  def fits(n: int) -> bool:
    here = n // devices
    together = n % devices == 0 and n % group == 0
    return together and (here % group == 0 or group % here == 0)

  return min(
    n
    for n in range(1, batch + 1)
    if batch % n == 0 and fits(n) and (n >= wanted or n == batch)
  )


def _spread(x: Array, count: int) -> Array:
  """Selects `count` evenly spaced rows of [B, ...], equally per device."""
  return x.reshape(count, -1, *x.shape[1:])[:, 0]


def _compare(
  fake: dict[str, Array], real: dict[str, Array], heldout: dict[str, Array]
) -> Scalars:
  def ratio(of: object) -> Array:
    scale = of(real["features"])
    return of(fake["features"]) / jnp.maximum(scale, 1e-12)

  return {
    "d/logit_heldout": jnp.mean(heldout["logits"]),
    "d/heldout_gap": probes.heldout_gap(
      real["logits"], heldout["logits"], fake["logits"]
    ),
    "g/diversity": ratio(probes.mean_pairwise_distance),
    "g/effective_rank": ratio(probes.effective_rank),
    "g/pixel_distance": probes.moment_distance(fake["pixels"], real["pixels"]),
  }
