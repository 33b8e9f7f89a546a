"""Learning rates of other widths and batch sizes, and how long to train.

Rules are named options: what suits GANs is to be measured, not assumed.

Of the width (`WIDTH_RULES`):

- `constant`: the base's. BigGAN trains ch 64 and 96 alike.
- `inverse`: as 1 / width. GAT's width-aware learning rate (Hyun et al. 2026,
  "Scalable GANs with Transformers", arXiv 2509.24935); for Adam and hidden
  weights also muP's (Yang et al. 2022, arXiv 2203.03466).

Of the batch (`BATCH_RULES`):

- `constant`: BigGAN's, whose Table 1 changes the batch alone.
- `linear`: as the batch (Goyal et al. 2017, arXiv 1706.02677, for SGD).
- `sqrt`: as its square root (Malladi et al. 2022, arXiv 2205.10287, for Adam;
  Krizhevsky 2014, arXiv 1404.5997). Malladi's rule also changes the decays of
  the moments and epsilon: here they stay.

Schedules and half-lives in kimg mean the same images at any batch size;
`optim.ema_decay` and the decays of Adam, which are of a step, are left alone.
"""

import dataclasses
from collections.abc import Callable, Mapping

from bigscale.scaling.flops import training_flops
from bigscale.spec import ModelBase, RunSpec, Schedule, choose_preset, require

# From the ratio of widths or batches, new over old, to that of learning rates.
Rule = Callable[[float], float]


def constant(ratio: float) -> float:
  """Learning rates stay."""
  del ratio
  return 1.0


def inverse(ratio: float) -> float:
  """Half the rate at twice the width."""
  return 1 / ratio


def linear(ratio: float) -> float:
  """Twice the rate at twice the batch."""
  return ratio


def sqrt(ratio: float) -> float:
  """Twice the rate at four times the batch."""
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
  """The same run with another model or batch, and learning rates to suit.

  Args:
    spec: of the run that the learning rates are of.
    model: to train; None is the run's own.
    global_batch_size: None is the run's own.
    width_rule: a key of `WIDTH_RULES`; G's rate follows G's width, D's D's.
    batch_rule: a key of `BATCH_RULES`.

  Raises:
    SpecError: there is no such rule, widths do not compare, or the new run
      breaks a rule of its own.
  """
  by_width = choose_preset(WIDTH_RULES, width_rule, "learning rate by width")
  by_batch = choose_preset(BATCH_RULES, batch_rule, "learning rate by batch")
  model = model or spec.model
  batch = global_batch_size or spec.global_batch_size
  factor = by_batch(batch / spec.global_batch_size)
  require(
    width_rule == "constant" or spec.model.name == model.name,
    f"width_rule={width_rule!r} compares the widths of {spec.model.name} and "
    f"{model.name}, which mean different things; use 'constant'",
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
  """The run made as long as a budget lasts: whole steps, at most `flops`.

  Raises:
    SpecError: it does not last for a step.
  """
  per_step = training_flops(spec).per_step
  steps = int(flops // per_step)
  require(
    steps >= 1,
    f"a budget of {flops:g} FLOP does not last for one step, which takes "
    f"{per_step:.4g}; give as much, or make model or batch smaller",
  )
  kimg = steps * spec.images_per_step / 1000
  return dataclasses.replace(spec, total_kimg=kimg)


def _times(schedule: Schedule, factor: float) -> Schedule:
  return dataclasses.replace(
    schedule, first=schedule.first * factor, last=schedule.last * factor
  )
