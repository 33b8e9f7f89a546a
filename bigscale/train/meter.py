"""How much a run has computed, and how fast for its devices.

Two sums. `total`: of the steps that led to the present state, what a scaling
law takes for compute; a function of the step, and of the batch sizes on the
way, alone. `spent`: besides these, of
the steps that rollbacks gave up. Both survive a restart, from a checkpoint's
notes. Steps that a killed process took after its last checkpoint are in
neither: they are taken again, and a resumed run says what an undisturbed one
would (`events.jsonl` has the starts).

FLOP are of convolutions and matrix products as the recipe asks for them
(`scaling/flops`), so that utilization is that of the model, not of the
hardware: what rematerialization or a rewritten layer adds does not count.
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
  """Counts FLOP of a run."""

  def __init__(
    self,
    spec: RunSpec,
    devices: Iterable[Any] = (),
    meta: Mapping[str, Any] | None = None,
    count: ImageCount | None = None,
  ) -> None:
    """Goes on from a checkpoint.

    Args:
      spec: of the run.
      devices: that it runs on.
      meta: what the checkpoint notes, `get_state` under "flops"; without it,
        as of older checkpoints, nothing was given up.
      count: of images a step; None takes the spec's batch size for all.
    """
    self._per_step = functools.cache(functools.partial(_step_flops, spec))
    try:
      self._per_step(spec.images_per_step)
      self._known = True
    except UnknownCostError as error:
      self._known = False
      _log.warning("no FLOP are logged: %s", error)
    self._count = count or spec.count
    self._peak = peak_flops(devices)
    noted = (meta or {}).get("flops", {})
    self._abandoned_steps = int(noted.get("abandoned_steps", 0))
    self._abandoned_flops = noted.get("spent", 0.0) - noted.get("total", 0.0)

  def pace(self, steps: int, seconds: float) -> dict[str, float]:
    """`perf/mfu`, the share of the peak; nothing where no peak is known."""
    if not self._peak or not self._known:
      return {}
    flops = steps * self._per_step(self._count.images_per_step)
    return {"perf/mfu": flops / seconds / self._peak}

  def totals(self, step: int) -> dict[str, float]:
    """FLOP after that many steps; nothing where a step's are not known."""
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
    """Counts the steps that are given up.

    Args:
      left: steps done.
      step: steps done in the state that is gone back to.
      count: of images a step from then on.
    """
    total, remaining = (
      self.totals(s).get("perf/total_flops", 0.0) for s in (left, step)
    )
    self._abandoned_steps += left - step
    self._abandoned_flops += total - remaining
    self._count = count

  def get_state(self, step: int) -> dict[str, float]:
    """What a checkpoint after that many steps notes, as plain JSON."""
    state = {"abandoned_steps": self._abandoned_steps}
    if totals := self.totals(step):
      state["total"] = totals["perf/total_flops"]
      state["spent"] = totals["perf/spent_flops"]
    return state


def _step_flops(spec: RunSpec, images: int) -> float:
  """Returns the FLOP of a step that shows so many images."""
  if images != spec.images_per_step:
    # Microbatches may have been others, too; they cost nothing.
    spec = dataclasses.replace(
      spec,
      global_batch_size=images // spec.optim.d_steps,
      optim=dataclasses.replace(spec.optim, microbatches=1),
    )
  return training_flops(spec).per_step
