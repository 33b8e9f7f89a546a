"""Which drills are run, and in which order."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from bigscale.monitor.drills.kinds import CONTROLS, FAULTS, KINDS, Kind
from bigscale.monitor.drills.stages import STAGES, WATCHED, WATCHES, Watch

# The stages of the published results.
DEFAULT_STAGES = ("r3gan_8", "biggan_8")
# Number of undisturbed runs of a model, over which its faults are distributed.
_TRUNKS: dict[Watch, int] = {"dense": 8, "shipped": 6}
# Every so many kinds of faults are also run with the shipped settings.
_SHIPPED_EVERY = 6
_FIRST_SEED = 9000


@dataclasses.dataclass(frozen=True)
class Drill:
  """One drill: a model, a fault or control, and a seed.

  Attributes:
    stage: key of `stages.STAGES`, which sets the model and the data.
    watch: how the monitor watches.
    what: key of `kinds.KINDS`.
    seed: seed of the run, of the fault's random numbers and of the step at
      which the disturbance begins.
    steps: number of training steps; None for the default of `watch`.
  """

  stage: str
  watch: Watch
  what: str
  seed: int
  steps: int | None = None

  @property
  def name(self) -> str:
    """Name of the drill in `drills.jsonl` and in its folder's name."""
    name = f"{self.stage}-{self.watch}-{self.what}-{self.seed}"
    return name if self.steps is None else f"{name}-{self.steps}"

  @property
  def kind(self) -> Kind:
    """The kind of the disturbance."""
    return KINDS[self.what]

  @property
  def total_steps(self) -> int:
    """Number of steps of a run that does not diverge."""
    return WATCHED[self.watch].steps if self.steps is None else self.steps

  @property
  def trunk(self) -> "Drill":
    """The undisturbed drill of the same run."""
    return dataclasses.replace(self, what="undisturbed")

  @property
  def branches(self) -> bool:
    """Whether the drill branches off its trunk shortly before the start."""
    return not self.kind.from_start

  @property
  def start(self) -> int:
    """First disturbed step.

    It is random between 45% and 65% of the run, or the first step of all.
    """
    if self.kind.from_start and self.kind.is_fault:
      return 1
    share = np.random.default_rng(self._number).uniform(0.45, 0.65)
    return int(share * self.total_steps)

  @property
  def recoveries(self) -> tuple[str, ...]:
    """What happens to the fault in repetitions that may roll back.

    A repetition takes as long as the drill, so only every second drill has one,
    and every fourth has another one in which the fault persists.
    """
    if self._number % 2:
      return ()
    persists = self.kind.lasting and self._number % 4 == 0
    return ("removed", "persisting") if persists else ("removed",)

  @property
  def _number(self) -> int:
    # `hash` of a string differs between processes.
    return sum(ord(c) * 31**i for i, c in enumerate(self.name)) % 2**32


def plan(
  stages: Sequence[str] = DEFAULT_STAGES,
  watches: Collection[Watch] = WATCHES,
  fault_seeds: int = 1,
  control_seeds: int = 2,
) -> list[Drill]:
  """Returns the drills in their order; those of one trunk are consecutive.

  Faults are distributed over several undisturbed runs of each model. Each seen
  kind, and each kind of faulty data or labels, is run with one of the models;
  the others are run with all of them. With the shipped settings, only every
  sixth kind is run.

  Args:
    stages: keys of `STAGES`.
    watches: how the monitor watches.
    fault_seeds: number of seeds per fault and model.
    control_seeds: number of seeds per control and model.
  """
  found: list[Drill] = []
  for watch in watches:
    # Rounds go through all models, so that the first drills are a sample.
    for turn in range(_TRUNKS[watch]):
      for stage in stages:
        what = _kinds_of(stages, stage, watch)
        found += _of_trunk(stage, watch, turn, what, fault_seeds, control_seeds)
  return found


def _kinds_of(
  stages: Sequence[str], stage: str, watch: Watch
) -> tuple[list[str], list[str]]:
  """Returns the names of the faults and of the controls of a model."""
  number = list(stages).index(stage)

  def applies(name: str) -> bool:
    kind, family = KINDS[name], STAGES[stage][0]["model"]["name"]
    return not kind.models or family in kind.models

  # Faulty data look the same whatever the model is.
  once = [
    name
    for name, kind in FAULTS.items()
    if not kind.models and (kind.seen or kind.family in ("data", "labels"))
  ]
  faults = [
    name
    for name in FAULTS
    if applies(name)
    and (name not in once or once.index(name) % len(stages) == number)
  ]
  if watch == "shipped":
    # The models take different kinds.
    faults = faults[3 * number % _SHIPPED_EVERY :: _SHIPPED_EVERY]
  controls = [name for name in CONTROLS if applies(name)]
  return faults, [name for name in controls if name != "undisturbed"]


def _of_trunk(
  stage: str,
  watch: Watch,
  turn: int,
  kinds: tuple[Sequence[str], Sequence[str]],
  fault_seeds: int,
  control_seeds: int,
) -> list[Drill]:
  count = _TRUNKS[watch]
  seed = _FIRST_SEED + 100 * WATCHES.index(watch) + turn
  faults, controls = kinds
  mine = ["undisturbed"] if control_seeds else []
  mine += _share(controls, turn, count, control_seeds)
  mine += _share(faults, turn, count, fault_seeds)
  return [Drill(stage, watch, what, seed) for what in mine]


def _share(
  names: Sequence[str], turn: int, count: int, seeds: int
) -> list[str]:
  """Returns the names that trunk `turn` of `count` gets.

  Each name is given to `seeds` different trunks.
  """
  return [
    name
    for i, name in enumerate(names)
    if (turn - i - i // count) % count < min(seeds, count)
  ]


def part(drills: Sequence[Drill], share: int, parts: int) -> list[Drill]:
  """Returns part `share` of `parts`, counted from 1.

  Drills that branch off the same undisturbed run are in the same part.
  """
  trunks = list(dict.fromkeys(drill.trunk for drill in drills))
  mine = set(trunks[share - 1 :: parts])
  return [drill for drill in drills if drill.trunk in mine]
