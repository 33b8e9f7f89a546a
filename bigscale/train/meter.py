"""Counts the FLOP of a run and computes its model FLOP utilization.

There are two sums. `total` covers the steps that led to the current state; it
is the compute in scaling laws and depends only on the step and the batch sizes.
`spent` also covers the steps discarded by rollbacks. Checkpoints store both, so
they survive a restart. Steps of a killed process after its last checkpoint are
in neither sum, because they are repeated: a resumed run reports the same
numbers as an uninterrupted one (`events.jsonl` lists the starts).

Only the convolutions and matrix products of the model count (`scaling/flops`).
Operations added by rematerialization or by a rewritten layer do not, so this is
model utilization, not hardware utilization.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from bigscale.parallel.peaks import peak_flops
from bigscale.scaling.flops import training_flops
from bigscale.scaling.jaxpr_flops import UnknownCostError
from bigscale.spec import ImageCount, RunSpec

_log = logging.getLogger(__name__)


class Meter:
  """Counts the FLOP of a run."""

  def __init__(
    self,
    spec: RunSpec,
    devices: Iterable[Any] = (),
    meta: Mapping[str, Any] | None = None,
    count: ImageCount | None = None,
  ) -> None:
    """Initializes the counter from a checkpoint.

    Args:
      spec: spec of the run.
      devices: devices of the run.
      meta: metadata of the checkpoint, with `get_state` under "flops". If it is
        missing, as in older checkpoints, no steps were discarded.
      count: number of images per step over the run; None means the spec's batch
        size for all steps.
    """
    self._per_step = functools.cache(functools.partial(_step_flops, spec))
    try:
      self._per_step(spec.images_per_step)
      self._known = True
    except UnknownCostError as error:
      self._known = False
      _log.warning("FLOP are not logged: %s", error)
    self._count = count or spec.count
    self._peak = peak_flops(devices)
    noted = (meta or {}).get("flops", {})
    self._abandoned_steps = int(noted.get("abandoned_steps", 0))
    self._abandoned_flops = noted.get("spent", 0.0) - noted.get("total", 0.0)

  def pace(self, steps: int, seconds: float) -> dict[str, float]:
    """Returns `perf/mfu`, the fraction of the peak; {} if it is unknown."""
    if not self._peak or not self._known:
      return {}
    flops = steps * self._per_step(self._count.images_per_step)
    return {"perf/mfu": flops / seconds / self._peak}

  def totals(self, step: int) -> dict[str, float]:
    """Returns the FLOP of the first `step` steps; {} if they are unknown."""
    if not self._known:
      return {}
    total = sum(
      steps * self._per_step(images)
      for steps, images in self._count.steps_of(step)
    )
    return {
      "perf/total_flops": total,
      "perf/spent_flops": total + self._abandoned_flops,
    }

  def go_back(self, left: int, step: int, count: ImageCount) -> None:
    """Counts the steps discarded by a rollback.

    Args:
      left: number of steps done before the rollback.
      step: number of steps done in the restored state.
      count: number of images per step from now on.
    """
    total, remaining = (
      self.totals(s).get("perf/total_flops", 0.0) for s in (left, step)
    )
    self._abandoned_steps += left - step
    self._abandoned_flops += total - remaining
    self._count = count

  def get_state(self, step: int) -> dict[str, float]:
    """Returns the values to store in a checkpoint, as plain JSON."""
    state = {"abandoned_steps": self._abandoned_steps}
    if totals := self.totals(step):
      state["total"] = totals["perf/total_flops"]
      state["spent"] = totals["perf/spent_flops"]
    return state


def _step_flops(spec: RunSpec, images: int) -> float:
  """Returns the FLOP of a step with this number of images."""
  if images != spec.images_per_step:
    # One microbatch always divides the batch, and FLOP do not depend on it.
    spec = dataclasses.replace(
      spec,
      global_batch_size=images // spec.optim.d_steps,
      optim=dataclasses.replace(spec.optim, microbatches=1),
    )
  return training_flops(spec).per_step
