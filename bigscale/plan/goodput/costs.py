"""Constants of a goodput forecast, each with a default and its source.

[measured] was measured with this project, at the place that is named. [paper]
is from a paper. [chosen] is a setting of this project. A [nominal] figure is a
rule of thumb: set it to what your machine does.

[Llama 3] is Grattafiori et al. 2024, "The Llama 3 Herd of Models", sec. 3.3.4:
in 54 days on 16,384 GPUs, 419 unexpected interruptions, about 78% of them
attributed to hardware.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.plan.goodput.system import Fault, Stragglers, System, Tier
from bigscale.plan.topology import CHIPS, GIB, parse
from bigscale.spec import RunSpec, SpecError, require

_HOUR = 3600.0
# Names of faults. A lost host takes its memory and its disk with it.
PROCESS, HOST, PREEMPTION = "process", "host", "preemption"
# Names of tiers.
LOCAL, STORE = "local", "store"
_DIVISORS = (
  "step_seconds",
  "checkpoint_seconds",
  "mtbf_chip_hours",
  "device_to_host",
  "store_rate",
  "store_read_rate",
  "local_rate",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
  """Constants of a forecast. A NaN is taken from the plan or the config.

  Attributes:
    step_seconds: seconds of a step [plan].
    state_gib: state on one device [plan].
    compile_seconds: seconds to trace the step and to load it from the run's
      compiled programs [nominal]. Without them, it takes the plan's
      `compile_seconds` on such a machine.
    mtbf_chip_hours: chip hours between two faults. [Llama 3]: 16,384 GPUs x
      54 days / 419 = 50,700.
    host_share: share of the faults that lose a host. [Llama 3]: hardware.
    process_detect_seconds: seconds from the end of a process to the end of all
      others [measured: docs/reference/operations.md].
    host_detect_seconds: the same after the loss of a host; JAX's heartbeat
      timeout [chosen].
    process_replace_seconds: seconds until a supervisor starts the processes
      again [chosen: RESTART_DELAY of launch/example.env].
    host_replace_seconds: seconds until a spare host has replaced a lost one
      [nominal].
    preemption_chip_hours: chip hours between two preemptions with notice, on
      spot capacity; 0 means never.
    preemption_replace_seconds: seconds until there is capacity again [nominal].
    start_seconds: seconds from the start of a process to the restore, including
      the connection of the hosts [nominal].
    device_to_host: GiB per second from the devices of a host to its memory, the
      part of a save that stops the training [nominal: PCIe].
    store_rate: GiB per second and host that are written to the store [nominal].
    store_read_rate: GiB per second and host read from the store [nominal].
    save_overhead: seconds by which every save stops the training in addition
      [nominal].
    local_rate: GiB per second between a host and its peer or local disk
      [nominal].
    checkpoint_seconds: seconds of training between two saves [config].
    evaluation_seconds: seconds of an evaluation [nominal].
    evaluation_interval_seconds: seconds of training between two [config].
    straggler_chip_hours: chip hours between two slow hosts; 0 means never,
      because nothing was measured.
    straggler_slowdown: factor by which a slow host slows the run [nominal].
    straggler_hours: hours until a slow host is replaced [nominal].
  """

  step_seconds: float = math.nan
  state_gib: float = math.nan
  compile_seconds: float = 15.0
  mtbf_chip_hours: float = 50_000.0
  host_share: float = 0.78
  process_detect_seconds: float = 8.0
  host_detect_seconds: float = 100.0
  process_replace_seconds: float = 10.0
  host_replace_seconds: float = 180.0
  preemption_chip_hours: float = 0.0
  preemption_replace_seconds: float = 900.0
  start_seconds: float = 60.0
  device_to_host: float = 10.0
  store_rate: float = 0.5
  store_read_rate: float = 1.0
  save_overhead: float = 0.5
  local_rate: float = 2.0
  checkpoint_seconds: float = math.nan
  evaluation_seconds: float = 60.0
  evaluation_interval_seconds: float = math.nan
  straggler_chip_hours: float = 0.0
  straggler_slowdown: float = 1.2
  straggler_hours: float = 1.0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      require(
        math.isnan(value) or 0 <= value < math.inf,
        f"--assume={field.name}={value:g} must be finite and not negative",
      )
    for name in _DIVISORS:
      require(
        getattr(self, name) != 0, f"--assume={name}=0 must be more than 0"
      )
    require(
      self.host_share <= 1,
      f"--assume=host_share={self.host_share:g} must be 1 or less",
    )
    require(
      self.straggler_slowdown >= 1,
      f"--assume=straggler_slowdown={self.straggler_slowdown:g} must be 1 or "
      "more",
    )


def assumed(words: Sequence[str]) -> dict[str, float]:
  """Parses NAME=VALUE assumptions about `Costs`.

  Raises:
    SpecError: there is no such constant, or the value is not a number.
  """
  known = [field.name for field in dataclasses.fields(Costs)]
  found = {}
  for word in words:
    name, _, text = word.partition("=")
    require(
      name in known,
      f"--assume={word} names no constant; they are {', '.join(known)}",
    )
    try:
      found[name] = float(text)
    except ValueError as error:
      raise SpecError(
        f"--assume={word} must be NAME=NUMBER, like {name}=10"
      ) from error
  Costs(**found)
  return found


def costs_of(
  plan: Mapping[str, Any], spec: RunSpec, given: Mapping[str, float]
) -> Costs:
  """Returns the constants of a run: given, from the plan, or from the spec.

  Args:
    plan: plan of the run.
    spec: spec of the run.
    given: constants that the user assumes.

  Raises:
    SpecError: the plan has no time of a step, because the run does not fit.
  """
  step = given.get("step_seconds", plan["estimated_step_seconds"])
  require(
    bool(step),
    "the run does not fit into memory, so its plan has no step time; change "
    "the run, or give --assume=step_seconds=NUMBER",
  )
  per_kimg = 1000 / spec.images_per_step * step
  found = {
    "step_seconds": step,
    "state_gib": plan["memory"]["state"] / GIB,
    "checkpoint_seconds": spec.checkpoint.kimg * per_kimg,
    "evaluation_interval_seconds": spec.evaluate.kimg * per_kimg,
  }
  if not found["checkpoint_seconds"]:
    # The run saves only at its end.
    found["checkpoint_seconds"] = spec.total_kimg * per_kimg
  return Costs(**found | dict(given))


def system(costs: Costs, chips: int, topology: str, *, local: bool) -> System:
  """Returns the system that a run is on a number of chips.

  Args:
    costs: the constants.
    chips: number of chips.
    topology: name of a topology of the same family.
    local: whether checkpoints are also kept on the hosts, each with a copy on
      another host. A lost process finds its own, and a lost host its copy.
  """
  chip = CHIPS[parse(topology).chip.family]
  gib = costs.state_gib * chip.chips_per_host * chip.cores
  blocking = costs.save_overhead + gib / costs.device_to_host
  store = Tier(
    name=STORE,
    interval=costs.checkpoint_seconds,
    blocking=blocking,
    write=gib / costs.store_rate,
    restore=gib / costs.store_read_rate,
  )
  near = Tier(
    name=LOCAL,
    interval=costs.checkpoint_seconds,
    blocking=blocking,
    write=gib / costs.local_rate,
    restore=gib / costs.local_rate,
    # All hosts are new ones.
    lost_by=frozenset({PREEMPTION}),
  )
  return System(
    faults=_faults(costs, chips),
    tiers=(near, store) if local else (store,),
    start=costs.start_seconds,
    compile=costs.compile_seconds,
    evaluation_interval=costs.evaluation_interval_seconds or math.inf,
    evaluation=costs.evaluation_seconds,
    stragglers=Stragglers(
      rate=_rate(costs.straggler_chip_hours, chips),
      slowdown=costs.straggler_slowdown,
      duration=costs.straggler_hours * _HOUR,
    ),
  )


def _faults(costs: Costs, chips: int) -> tuple[Fault, ...]:
  rate = _rate(costs.mtbf_chip_hours, chips)
  return (
    Fault(
      name=PROCESS,
      rate=rate * (1 - costs.host_share),
      detect=costs.process_detect_seconds,
      replace=costs.process_replace_seconds,
    ),
    Fault(
      name=HOST,
      rate=rate * costs.host_share,
      detect=costs.host_detect_seconds,
      replace=costs.host_replace_seconds,
    ),
    Fault(
      name=PREEMPTION,
      rate=_rate(costs.preemption_chip_hours, chips),
      replace=costs.preemption_replace_seconds,
      warned=True,
    ),
  )


def _rate(chip_hours: float, chips: int) -> float:
  """Returns the events per second of a machine; 0 chip hours means never."""
  return chips / (chip_hours * _HOUR) if chip_hours else 0.0
