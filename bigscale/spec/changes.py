"""Which settings of a run may change when it resumes.

`NATURES` is the one place that says so. A setting falls to the longest of its
names that starts the setting's own. Every setting falls to one: a new one that
does not is found by a test, so that it is decided, not forgotten.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

# free: changes no number of the training beyond rounding, or how long it is.
# asked: changes its numbers from here on; a resume takes it with --change.
# fixed: makes another run of it.
Kind = Literal["free", "asked", "fixed"]


class Nature(NamedTuple):
  """What a change of a setting means to a run that resumes.

  Attributes:
    kind: see `Kind`.
    why: of one that is asked for, its consequence; of a fixed one, the reason.
  """

  kind: Kind
  why: str = ""


FREE = Nature("free")
_NETWORKS = Nature("fixed", "the weights are of these networks")
_LOSS = Nature("fixed", "it is what the players minimize")
_AUGMENT = Nature("fixed", "it is what D is shown")
_RATE = Nature(
  "asked",
  "the optimizers' moments stay; schedules go on by the images seen so far",
)
_AVERAGE = Nature(
  "asked", "the moving average stays, and follows G by the new rule"
)
_DATA = Nature("fixed", "it is which images are trained on, and in which order")
_MOMENTS = Nature(
  "asked",
  "batch norm takes its moments over a microbatch; without batch norm nothing "
  "changes beyond rounding",
)

NATURES: Mapping[str, Nature] = {
  "seed": Nature("fixed", "weights, latents and the data's order follow it"),
  "global_batch_size": Nature(
    "asked",
    "progress is counted in images: schedules, intervals and the length stay "
    "where they are, and the data go on with the next image. What is counted "
    "in steps (log.steps, the monitor's intervals, optim.ema_decay, Adam's "
    "betas) spans other numbers of images",
  ),
  "total_kimg": FREE,
  "model": _NETWORKS,
  "loss": _LOSS,
  "augment": _AUGMENT,
  "data.source": _DATA,
  "data.mixture": _DATA,
  "data.mixture_labels": _DATA,
  "data.temperature": _DATA,
  "data.subset": _DATA,
  "data.classes": _DATA,
  "data.padding": _DATA,
  "data.flip": _DATA,
  "data.shuffle": _DATA,
  "data.shuffle_files": _DATA,
  "data.fake_labels": Nature("fixed", "it is which classes G is trained on"),
  # What replaces a bad record is a function of its place alone.
  "data.bad_records": FREE,
  "data.max_bad_fraction": FREE,
  "data.prefetch": FREE,
  "data.threads": FREE,
  "data.workers": FREE,
  "optim.g_lr": _RATE,
  "optim.d_lr": _RATE,
  "optim.beta1": _RATE,
  "optim.beta2": _RATE,
  "optim.epsilon": _RATE,
  "optim.d_steps": Nature("fixed", "it is the order of the players' updates"),
  "optim.microbatches": _MOMENTS,
  "optim.fakes_at_once": FREE,
  "optim.ema_decay": _AVERAGE,
  "optim.ema_half_life_kimg": _AVERAGE,
  "optim.ema_start_kimg": Nature(
    "asked", "before it the average is G itself, also where one was kept"
  ),
  "mesh.data": FREE,
  "mesh.fsdp": FREE,
  "mesh.weights": FREE,
  "mesh.min_split_elements": FREE,
  "mesh.slices": FREE,
  "mesh.gradient_dtype": Nature("asked", "gradients are rounded differently"),
  "evaluate": FREE,
  "log": FREE,
  "checkpoint": FREE,
  # Up to an alarm a run has the same numbers whatever the monitor would do.
  "monitor": FREE,
  "operations": FREE,
  "sampling": FREE,
}


@dataclasses.dataclass(frozen=True)
class Change:
  """A setting that two specs do not share.

  Attributes:
    setting: its dotted name.
    old: value of the run that is there.
    new: value that is asked for.
  """

  setting: str
  old: Any
  new: Any

  def __str__(self) -> str:
    return f"{self.setting}: {self.old!r} there, {self.new!r} here"

  @property
  def nature(self) -> Nature:
    """See `nature_of`; of a setting of another version, that it is fixed."""
    try:
      return nature_of(self.setting)
    except KeyError:
      return Nature("fixed", "this version does not know it")


def nature_of(setting: str) -> Nature:
  """Returns what a change of a setting means.

  Args:
    setting: its dotted name, as `optim.g_lr.first` or `data.mixture[0].share`.

  Raises:
    KeyError: nobody has decided it; see `NATURES`.
  """
  name = setting.partition("[")[0]
  while name not in NATURES:
    name, dot, _ = name.rpartition(".")
    if not dot:
      raise KeyError(
        f"NATURES of bigscale/spec/changes.py does not say whether {setting} "
        "may change when a run resumes; add it"
      )
  return NATURES[name]


def refusal(changes: Iterable[Change], *, asked: bool) -> str:
  """Says which changes a resume does not take, "" where it takes all.

  Args:
    changes: between the run that is there and the spec that is asked for.
    asked: whether `--change` was given.

  Returns:
    What to say after the name of the run's folder.
  """
  changes = list(changes)
  fixed = [c for c in changes if c.nature.kind == "fixed"]
  waiting = [c for c in changes if c.nature.kind == "asked"]
  lines = []
  if fixed:
    lines.append("holds another run:")
    lines += [f"  {change} ({change.nature.why})" for change in fixed]
    lines.append(
      "Choose another folder, or restore these values to resume that run."
    )
  if waiting and not asked:
    besides = "also has" if fixed else "holds this run with"
    lines.append(f"{besides} other settings that change its numbers:")
    lines += [f"  {change}" for change in waiting]
    lines.append(
      "Give --change to go on with the new values from here on, which is "
      "written into the run; or restore the old ones."
    )
  return "\n".join(lines)
