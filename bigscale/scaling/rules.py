"""Scales learning rates with width and batch size, and budgets run lengths.

The rules are named options, because the best rule for GANs must be measured.

Width rules (`WIDTH_RULES`):

- `constant`: the base's learning rate. BigGAN trains ch 64 and 96 alike.
- `inverse`: proportional to 1 / width. This is GAT's width-aware learning rate
  (Hyun et al. 2026, "Scalable GANs with Transformers", arXiv 2509.24935). It is
  also muP's rule for hidden weights with Adam (Yang et al. 2022, arXiv
  2203.03466).

Batch rules (`BATCH_RULES`):

- `constant`: BigGAN's rule; its Table 1 changes only the batch size.
- `linear`: proportional to the batch size (Goyal et al. 2017, arXiv 1706.02677,
  for SGD).
- `sqrt`: proportional to its square root (Malladi et al. 2022, arXiv
  2205.10287, for Adam; Krizhevsky 2014, arXiv 1404.5997). Malladi's rule also
  changes Adam's moment decays and epsilon; here they stay.

Schedules and half-lives in kimg cover the same images at any batch size. The
per-step `optim.ema_decay` and Adam's decays are not changed.
"""

import dataclasses
from collections.abc import Callable, Mapping

from bigscale.scaling.flops import training_flops
from bigscale.spec import ModelBase, RunSpec, Schedule, choose_preset, require

# Maps the ratio of widths or batch sizes, new over old, to a learning rate
# factor.
Rule = Callable[[float], float]


def constant(ratio: float) -> float:
  """Keeps the learning rate."""
  del ratio
  return 1.0


def inverse(ratio: float) -> float:
  """Halves the learning rate at twice the width."""
  return 1 / ratio


def linear(ratio: float) -> float:
  """Doubles the learning rate at twice the batch size."""
  return ratio


def sqrt(ratio: float) -> float:
  """Doubles the learning rate at four times the batch size."""
  return ratio**0.5


WIDTH_RULES: Mapping[str, Rule] = {"constant": constant, "inverse": inverse}
BATCH_RULES: Mapping[str, Rule] = {
  "constant": constant,
  "linear": linear,
  "sqrt": sqrt,
}


def rescaled(
  spec: RunSpec,
  *,
  model: ModelBase | None = None,
  global_batch_size: int | None = None,
  width_rule: str = "constant",
  batch_rule: str = "constant",
) -> RunSpec:
  """Returns a spec with another model or batch size and scaled learning rates.

  Args:
    spec: spec of the base run.
    model: new model; None keeps the base's.
    global_batch_size: new batch size; None keeps the base's.
    width_rule: key of `WIDTH_RULES`. G's learning rate follows G's width and
      D's follows D's.
    batch_rule: key of `BATCH_RULES`.

  Raises:
    SpecError: a rule is unknown, the widths are not comparable, or the new spec
      is invalid.
  """
  by_width = choose_preset(WIDTH_RULES, width_rule, "learning rate by width")
  by_batch = choose_preset(BATCH_RULES, batch_rule, "learning rate by batch")
  model = model or spec.model
  batch = global_batch_size or spec.global_batch_size
  factor = by_batch(batch / spec.global_batch_size)
  require(
    width_rule == "constant" or spec.model.name == model.name,
    f"width_rule={width_rule!r} cannot compare the widths of {spec.model.name} "
    f"and {model.name}, which mean different things; use 'constant'",
  )
  old = new = (1.0, 1.0)
  if width_rule != "constant":
    old, new = spec.model.player_widths, model.player_widths
  optim = dataclasses.replace(
    spec.optim,
    g_lr=_times(spec.optim.g_lr, factor * by_width(new[0] / old[0])),
    d_lr=_times(spec.optim.d_lr, factor * by_width(new[1] / old[1])),
  )
  return dataclasses.replace(
    spec, model=model, global_batch_size=batch, optim=optim
  )


def within(spec: RunSpec, flops: float) -> RunSpec:
  """Returns the spec with as many whole steps as fit a budget of `flops`.

  Raises:
    SpecError: the budget is less than one step.
  """
  per_step = training_flops(spec).per_step
  steps = int(flops // per_step)
  require(
    steps >= 1,
    f"a budget of {flops:g} FLOP is less than one step, which takes "
    f"{per_step:.4g}; increase it, or use a smaller model or batch size",
  )
  kimg = steps * spec.images_per_step / 1000
  return dataclasses.replace(spec, total_kimg=kimg)


def _times(schedule: Schedule, factor: float) -> Schedule:
  return dataclasses.replace(
    schedule, first=schedule.first * factor, last=schedule.last * factor
  )
