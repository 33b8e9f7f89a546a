"""Decides which settings of a run may change when it resumes.

`NATURES` contains one entry per setting or group of settings. The entry whose
name is the longest prefix of a setting's name applies. Every setting must have
an entry; a test finds new settings that have none.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

# free: does not change the training's results beyond rounding, or changes
# only its length.
# asked: changes the results of the remaining steps. A resume requires --change.
# fixed: would make it a different run.
Kind = Literal["free", "asked", "fixed"]


class Nature(NamedTuple):
  """Whether a setting may change when a run resumes, and why.

  Attributes:
    kind: one of the values of `Kind`.
    why: for `asked`, the consequence of the change; for `fixed`, the reason.
  """

  kind: Kind
  why: str = ""


FREE = Nature("free")
_NETWORKS = Nature("fixed", "the saved weights belong to these networks")
_LOSS = Nature("fixed", "it defines the players' losses")
_AUGMENT = Nature("fixed", "it defines the images that D sees")
_RATE = Nature(
  "asked",
  "the optimizers' moments are kept; schedules continue from the images seen "
  "so far",
)
_AVERAGE = Nature(
  "asked", "the moving average is kept and then updated by the new rule"
)
_DATA = Nature("fixed", "it defines the training images and their order")
_MOMENTS = Nature(
  "asked",
  "batch norm computes its moments over a microbatch; without batch norm only "
  "rounding changes",
)

NATURES: Mapping[str, Nature] = {
  "seed": Nature(
    "fixed", "weights, latents and the order of the data depend on it"
  ),
  "global_batch_size": Nature(
    "asked",
    "progress is counted in images, so schedules, intervals and the length of "
    "the run do not move, and the data continue with the next image. Settings "
    "counted in steps (log.steps, the monitor's intervals, optim.ema_decay, "
    "Adam's betas) cover a different number of images",
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
  "data.cache_gb": FREE,
  "data.fake_labels": Nature("fixed", "it defines the classes G is trained on"),
  # The replacement of a bad record depends only on the record's index.
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
  "optim.d_steps": Nature("fixed", "it defines the order of the updates"),
  "optim.microbatches": _MOMENTS,
  "optim.device_batch": FREE,
  "optim.fakes_at_once": FREE,
  "optim.ema_decay": _AVERAGE,
  "optim.ema_half_life_kimg": _AVERAGE,
  "optim.ema_start_kimg": Nature(
    "asked",
    "before this point G's weights replace the average, even a saved one",
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
  # The monitor's settings do not affect the results before the first alarm.
  "monitor": FREE,
  "operations": FREE,
  "sampling": FREE,
}


@dataclasses.dataclass(frozen=True)
class Change:
  """A setting whose value differs between two specs.

  Attributes:
    setting: dotted name of the setting.
    old: its value in the existing run.
    new: its value in the requested spec.
  """

  setting: str
  old: Any
  new: Any

  def __str__(self) -> str:
    return f"{self.setting}: {self.old!r} there, {self.new!r} here"

  @property
  def nature(self) -> Nature:
    """The setting's nature; `fixed` if this version has no such setting."""
    try:
      return nature_of(self.setting)
    except KeyError:
      return Nature("fixed", "this version does not know it")


def nature_of(setting: str) -> Nature:
  """Returns whether a setting may change when a run resumes.

  Args:
    setting: dotted name, such as `optim.g_lr.first` or `data.mixture[0].share`.

  Raises:
    KeyError: `NATURES` has no entry for the setting.
  """
  name = setting.partition("[")[0]
  while name not in NATURES:
    name, dot, _ = name.rpartition(".")
    if not dot:
      raise KeyError(
        f"NATURES in bigscale/spec/changes.py does not say whether {setting} "
        "may change when a run resumes; add it"
      )
  return NATURES[name]


def refusal(changes: Iterable[Change], *, asked: bool) -> str:
  """Returns a message about changes that a resume rejects, or "" if none.

  Args:
    changes: the changes between the existing run and the requested spec.
    asked: whether `--change` was given.

  Returns:
    The text that follows the name of the run folder.
  """
  changes = list(changes)
  fixed = [c for c in changes if c.nature.kind == "fixed"]
  waiting = [c for c in changes if c.nature.kind == "asked"]
  lines = []
  if fixed:
    lines.append("contains a different run:")
    lines += [f"  {change} ({change.nature.why})" for change in fixed]
    lines.append(
      "Choose another folder, or restore the old values to resume that run."
    )
  if waiting and not asked:
    besides = "also has" if fixed else "contains this run with"
    lines.append(f"{besides} different settings that change its results:")
    lines += [f"  {change}" for change in waiting]
    lines.append(
      "Pass --change to continue with the new values (the change is recorded "
      "in the run folder), or restore the old values."
    )
  return "\n".join(lines)
