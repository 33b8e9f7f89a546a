"""The kinds of faults and controls, by family.

Seen kinds were looked at while the verdict or its signals were designed. Unseen
ones were not: they are what may go wrong in a laboratory, and were chosen
before any verdict on them was known. Some are gradual relatives of seen ones.
Their sizes were guessed, or set by scores alone.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from bigscale.monitor.drills import batch_changes as batches
from bigscale.monitor.drills import state_changes as states
from bigscale.monitor.drills.disturbances import (
  Change,
  ChangeBatch,
  Course,
  DialPulses,
  FaultyBatch,
  FaultyState,
  Knob,
  OldState,
  RepeatedBatches,
  Scene,
  constant,
  fade,
  growth,
  ramp,
)
from bigscale.train.disturb import Disturbance

Family = Literal[
  "data",
  "labels",
  "weights",
  "optimizer",
  "losses",
  "precision",
  "natural",
  "control",
]
FAMILIES: tuple[Family, ...] = tuple(
  family for family in get_args(Family) if family != "control"
)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of fault or control.

  Attributes:
    family: what is faulty; `control` if nothing is.
    make: constructor of the disturbance.
    seen: whether the monitor was designed with knowledge of this kind.
    models: model families that it applies to; () for all.
    from_start: whether the run is disturbed from its first step.
    variant: key of `stages.VARIANTS` for the run's settings; "" for none.
    declared: whether the settings change by a resume that allows it.
    lasting: whether the cause can outlast a rollback. It cannot where it is an
      event, such as one wrong merge of checkpoints.
  """

  family: Family
  make: Callable[[Scene], Disturbance]
  seen: bool = False
  models: tuple[str, ...] = ()
  from_start: bool = False
  variant: str = ""
  declared: bool = False
  lasting: bool = True

  @property
  def is_fault(self) -> bool:
    """Whether it is a fault rather than a control."""
    return self.family != "control"


def _knob(**courses: Course | float) -> Callable[[Scene], Disturbance]:
  made: Mapping[str, Course] = {
    name: course if callable(course) else constant(course)
    for name, course in courses.items()
  }
  return lambda scene: Knob(scene, made)


def _batch(
  change: ChangeBatch, course: Course | float = 1.0
) -> Callable[[Scene], Disturbance]:
  made = course if callable(course) else constant(course)
  return lambda scene: FaultyBatch(scene, change, made)


def _state(
  change: Change, course: Course | float = 1.0, once: bool = False
) -> Callable[[Scene], Disturbance]:
  made = course if callable(course) else constant(course)
  return lambda scene: FaultyState(scene, change, made, once)


def _repeat(
  count: int, images: int | None = None
) -> Callable[[Scene], Disturbance]:
  return lambda scene: RepeatedBatches(scene, count, images)


def _nothing(scene: Scene) -> Disturbance:
  return Disturbance()


_R3GAN, _BIGGAN = ("r3gan",), ("biggan",)

_SEEN: dict[Family, dict[str, Callable[[Scene], Disturbance]]] = {
  "data": {
    "garbage_images": _batch(batches.noise),
    "repeated_image": _repeat(1, 1),
    "brightens": _batch(batches.brighter, lambda since: 0.4 * since),
    "darkens": _batch(batches.darker, growth(-0.004)),
    "half_inverted": _batch(batches.inverted, 0.5),
    "transposed": _batch(batches.transposed),
    "class_noise": _batch(batches.class_noise),
    "cropped": _batch(batches.cropped),
    "black": _batch(batches.black),
    "half_range": _batch(batches.darker, 0.5),
    "overflow": _batch(batches.overflowing, 2.0),
    "same_batch": _repeat(1),
  },
  "labels": {
    "shuffled_labels": _batch(batches.labels_shuffled),
    "labels_shifted": _batch(batches.labels_shifted),
    "labels_zero": _batch(batches.labels_zero),
    "labels_quarter_random": _batch(batches.labels_random, 0.25),
  },
  "weights": {
    "sigma_growth": _state(
      states.on_leaves(states.scaled, "g", states.first_kernel), 1.02
    ),
    "average_noise": _state(states.on_leaves(states.noisy, "ema"), 0.1),
    "average_never_updated": _knob(average=1.0),
  },
  "optimizer": {
    "lr_g_10": _knob(g_lr=10.0),
    "lr_g_100": _knob(g_lr=100.0),
    "lr_d_10": _knob(d_lr=10.0),
    "lr_d_100": _knob(d_lr=100.0),
    "lr_both_10": _knob(g_lr=10.0, d_lr=10.0),
    "lr_both_100": _knob(g_lr=100.0, d_lr=100.0),
    "d_frozen": _knob(d_lr=0.0),
    "g_frozen": _knob(g_lr=0.0),
    "beta2": _knob(g_beta2=0.0, d_beta2=0.0),
  },
  "losses": {
    "latents_fade": _knob(latents=growth(-0.02)),
    "labels_ignored": _knob(wrong_labels=1.0),
  },
  "precision": {"bfloat16": _state(states.bfloat16)},
}

_UNSEEN: dict[Family, dict[str, Callable[[Scene], Disturbance]]] = {
  "data": {
    "contrast_fades": _batch(batches.faded, fade(150, 0.1)),
    "sheared": _batch(batches.sheared),
    "tiles_swapped": _batch(batches.tiles_swapped, ramp(0, 1, 100)),
    "letterboxed": _batch(batches.letterboxed),
    "images_mix": _batch(batches.mixed, ramp(0, 0.5, 150)),
    "offset_grows": _batch(batches.offset, lambda since: since // 4),
    "salt_grows": _batch(batches.salted, ramp(0, 0.3, 150)),
    "watermark_appears": _batch(batches.watermarked, ramp(0, 1, 150)),
    "foreign_shards": _batch(batches.foreign, ramp(0, 1, 150)),
    "lower_half_dims": _batch(batches.dim_rows, growth(-0.01)),
    "classes_vanish": _batch(
      batches.classes_missing, lambda since: min(7, since // 20)
    ),
  },
  "labels": {
    "wrong_labels_grow": _batch(batches.labels_random, ramp(0, 1, 150)),
    "labels_reversed": _batch(batches.labels_reversed, ramp(0, 1, 100)),
    "labels_late": _batch(batches.labels_late),
  },
  "weights": {
    "g_last_grows": _state(
      states.on_leaves(states.scaled, "g", states.last_kernel), 1.06
    ),
    "d_last_grows": _state(
      states.on_leaves(states.scaled, "d", states.last_kernel), 1.05
    ),
    "g_decays": _state(states.on_leaves(states.scaled, "g"), 0.98),
    "d_decays": _state(states.on_leaves(states.scaled, "d"), 0.9),
    "g_noise": _state(states.on_leaves(states.noisy, "g"), ramp(0, 0.1, 150)),
    "d_noise": _state(states.on_leaves(states.noisy, "d"), ramp(0, 0.3, 150)),
    "g_pruned": _state(
      states.on_leaves(states.pruned, "g"), ramp(0, 0.05, 150)
    ),
    "g_channels_merge": _state(
      states.on_leaves(states.rank_one, "g"), ramp(0, 0.05, 150)
    ),
    "g_embedding_fades": _state(
      states.on_leaves(states.scaled, "g", states.embedding), 0.97
    ),
    "d_biases_drift": _state(states.drifting_biases, 0.02),
    "average_slow": _knob(average=0.98),
  },
  "optimizer": {
    "g_lr_creeps": _knob(g_lr=growth(0.03, 200)),
    "d_lr_creeps": _knob(d_lr=growth(0.03, 200)),
    "both_lr_creep": _knob(g_lr=growth(0.02, 100), d_lr=growth(0.02, 100)),
    "d_lr_fades": _knob(d_lr=fade(100)),
    "g_momentum": _knob(g_beta1=0.99),
    "d_momentum": _knob(d_beta1=0.99),
    "second_moment_lost": _state(states.second_moment_lost),
    "g_weight_decay": _knob(g_decay=20.0),
    "d_weight_decay": _knob(d_decay=ramp(0, 50, 150)),
    "g_gradient_noise": _knob(g_gradient_noise=growth(0.03, 1000)),
    "d_gradient_noise": _knob(d_gradient_noise=growth(0.05, 1000)),
    "g_moments_noise": _state(states.momentum_noise, 1.0),
    "d_seldom": _knob(d_lr=lambda since: 1.0 if since % 10 == 0 else 0.0),
  },
  "losses": {
    "g_sign_wrong": _knob(g_gradient=-1.0),
    "d_sign_wrong": _knob(d_gradient=-1.0),
    "reals_and_fakes_swap": _knob(swapped=ramp(0, 0.5, 150)),
    "fakes_are_noise": _knob(noise_fakes=ramp(0, 1, 100)),
    "same_noise": _knob(same_noise=1.0),
    "latents_grow": _knob(latents=growth(0.01, 6)),
    "underflow": _knob(g_gradient=1e-9, d_gradient=1e-9),
  },
  "precision": {
    "weights_lose_bits": _state(states.both(states.rounded), ramp(12, 2, 150)),
    "g_fixed_point": _state(states.on_leaves(states.fixed_point, "g"), 15.0),
    "d_fixed_point": _state(states.on_leaves(states.fixed_point, "d"), 15.0),
    "g_bits_flip": _state(states.on_leaves(states.flipped_bits, "g"), 1e-4),
    "d_bits_flip": _state(states.on_leaves(states.flipped_bits, "d"), 1e-3),
    "entry_explodes": _state(states.exploding_entry, 1.5),
    "gradients_1_bit": _knob(g_gradient_bits=1.0, d_gradient_bits=1.0),
  },
}


def _kinds() -> dict[str, Kind]:
  found = {
    name: Kind(family, make, seen)
    for seen, table in ((True, _SEEN), (False, _UNSEEN))
    for family, makes in table.items()
    for name, make in makes.items()
  }
  # An event or a setting that only one family of models has.
  found |= {
    # Like a NaN in one image, but without compiling the step for floats.
    "nan_gradient": Kind(
      "precision",
      _knob(d_gradient=lambda since: 1.0 if since else math.nan),
      True,
      lasting=False,
    ),
    "r1_only": Kind("losses", _knob(r2_gamma=0.0), True, _R3GAN),
    "no_penalty": Kind(
      "losses", _knob(r1_gamma=0.0, r2_gamma=0.0), True, _R3GAN
    ),
    "statistics_reset": Kind(
      "weights", _state(states.reset_statistics), True, _BIGGAN
    ),
    "gamma_fades": Kind(
      "losses",
      _knob(r1_gamma=growth(-0.04), r2_gamma=growth(-0.04)),
      models=_R3GAN,
    ),
    "gamma_grows": Kind(
      "losses",
      _knob(r1_gamma=growth(0.05, 1e4), r2_gamma=growth(0.05, 1e4)),
      models=_R3GAN,
    ),
    "gamma_1000": Kind(
      "losses", _knob(r1_gamma=1000.0, r2_gamma=1000.0), models=_R3GAN
    ),
    "d_reset": Kind("weights", _state(states.d_reset, once=True)),
    "d_channels_permuted": Kind(
      "weights", _state(states.on_leaves(states.permuted, "d"), once=True)
    ),
    "g_channels_permuted": Kind(
      "weights", _state(states.on_leaves(states.permuted, "g"), once=True)
    ),
    "d_stale": Kind("weights", lambda s: OldState(s, states.stale_d)),
    "g_stale": Kind("weights", lambda s: OldState(s, states.stale_g)),
    "average_stale": Kind(
      "weights", lambda s: OldState(s, states.stale_average)
    ),
  }
  once = ("d_reset", "d_channels_permuted", "g_channels_permuted")
  found |= {
    name: dataclasses.replace(found[name], lasting=False) for name in once
  }
  found |= {
    # The same rates in other sizes are among the seen kinds.
    name: Kind(
      "natural",
      make,
      seen=name in ("warm_both", "warm_g", "warm_d"),
      models=models,
      from_start=from_start,
    )
    for name, (make, models, from_start) in _NATURAL.items()
  }
  return found | _CONTROLS


# Rates and penalties that are too extreme from the first step, or from a later
# one on.
_NATURAL: dict[
  str, tuple[Callable[[Scene], Disturbance], tuple[str, ...], bool]
] = {
  "hot_from_start": (_knob(g_lr=5.0, d_lr=5.0), (), True),
  "hot_g_from_start": (_knob(g_lr=8.0), (), True),
  "hot_d_from_start": (_knob(d_lr=8.0), (), True),
  "no_penalty_from_start": (
    _knob(r1_gamma=0.0, r2_gamma=0.0, g_lr=2.0, d_lr=2.0),
    _R3GAN,
    True,
  ),
  "momentum_from_start": (
    _knob(g_beta1=0.95, d_beta1=0.95),
    (),
    True,
  ),
  "warm_both": (_knob(g_lr=4.0, d_lr=4.0), (), False),
  "warm_g": (_knob(g_lr=5.0), (), False),
  "warm_d": (_knob(d_lr=5.0), (), False),
  "warm_without_penalty": (
    _knob(g_lr=3.0, d_lr=3.0, r1_gamma=0.0, r2_gamma=0.0),
    _R3GAN,
    False,
  ),
}

_CONTROLS = {
  "undisturbed": Kind("control", _nothing, from_start=True),
  "d_spikes": Kind("control", DialPulses),
  "half_rates": Kind("control", _knob(g_lr=0.5, d_lr=0.5)),
  "half_rates_declared": Kind(
    "control", _nothing, variant="half_rates", declared=True
  ),
  "double_penalty": Kind(
    "control", _knob(r1_gamma=2.0, r2_gamma=2.0), models=_R3GAN
  ),
  "resume": Kind("control", _nothing),
  "small_batch": Kind(
    "control", _nothing, from_start=True, variant="small_batch"
  ),
  "diff_augment": Kind(
    "control", _nothing, from_start=True, variant="diff_augment"
  ),
}

KINDS: Mapping[str, Kind] = _kinds()
FAULTS: Mapping[str, Kind] = {k: v for k, v in KINDS.items() if v.is_fault}
CONTROLS: Mapping[str, Kind] = {
  k: v for k, v in KINDS.items() if not v.is_fault
}
