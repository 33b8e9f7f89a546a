"""What the monitor knows of each signal, and how it follows one.

A signal's name decides its `Kind`: the group it gives evidence for, the scale
it is compared on, the smallest deviation worth a thought, and how far away is
too far. Names of other libraries are recognised by their words; what is not
recognised is compared with its own past and magnitude.
"""

import functools
import math
import re
from typing import Any, Literal, NamedTuple

from bigscale.spec.verdict import VerdictSpec

# The most evidence a group of signals gives. Signals of one group move
# together and count once. D's weights and the gap to held-out images move with
# the losses in a spike that recovers, of which a BigGAN run has about 25:
# together these three stay below what a rollback takes, and so does any one
# whole group with all that have a small part.
GROUPS = {
  "game": 1.0,
  "d_weights": 0.4,
  "heldout": 0.15,
  "g_weights": 1.0,
  "g_tail": 0.15,
  "samples": 1.0,
  "ema": 0.15,
  "other": 0.7,
}
_SMALLEST, _LARGEST = 1e-12, 1e300
# Accepted values after which median and deviation are computed anew.
_REFRESH = 4
# A signal among many in its group needs a bit more, or many would alarm more
# often than one; per natural logarithm of their number.
_PER_MEMBERS = 2.0
# Levels that were normal once and are remembered.
_FORMER = 4
# Deviations that are never far, whatever their size.
_NEAR = 3.0
# Makes a median absolute deviation a standard deviation, if values are normal.
_MAD_TO_SD = 1.4826


class Kind(NamedTuple):
  """How a signal is judged.

  Attributes:
    group: of `GROUPS`, that it gives evidence for.
    scale: what deviations are taken of: `log` of a positive number, `asinh`
      of one that spans magnitudes and signs, `plain`, or `relative` to the
      largest in the signal's reference.
    floor: the smallest unit of deviation on that scale.
    far: deviation on that scale which, if it lasts, is believed alone.
    direction: 1 where only a rise is bad, -1 a fall, 0 either.
    spikes: whether healthy runs show it far away for a while; twice as far is
      too far for that.
    falls_alone: whether a fall, too, may be believed alone.
    vital: whether not being finite means that the run is broken.
    best: compared with the lowest so far, not with the recent; for scores,
      which are few: `limit` is a quarter.
    skip_zero: whether 0 means not computed at this step.
  """

  group: str
  scale: Literal["log", "asinh", "plain", "relative"]
  floor: float
  far: float = math.inf
  direction: int = 0
  spikes: bool = False
  falls_alone: bool = True
  vital: bool = False
  best: bool = False
  skip_zero: bool = False


_PENALTY = Kind(
  "game",
  "log",
  0.3,
  far=2.3,
  spikes=True,
  falls_alone=False,
  vital=True,
  skip_zero=True,
)
_LOSS = Kind("game", "asinh", 0.1, far=1.5, spikes=True, vital=True)
_GRADIENT = Kind(
  "game", "log", 0.3, far=2.3, spikes=True, falls_alone=False, vital=True
)
_SCORE = Kind("samples", "log", 0.12, far=0.69, direction=1, best=True)
# Of G's singular values only the largest is believed alone, and counts much:
# the next ones are estimates that lag, and in layers that start from 0 they
# double within a window of a healthy run.
_G_SIGMA0 = Kind("g_weights", "asinh", 0.1, far=0.7)
_G_SIGMA = Kind("g_tail", "asinh", 0.1)
_D_SIGMA0 = Kind("d_weights", "log", 0.12, far=1.4, spikes=True)
_D_SIGMA = Kind("d_weights", "log", 0.12, far=2.1, spikes=True)
_OTHER = Kind("other", "relative", 0.1, far=2.0, spikes=True)

# Whether a name of another library speaks of D; looked for before G's.
_OF_D = r"(^|[/_. ])(d|dis\w*|critic)\d*([/_. ]|$)"

# The first pattern found in a name, in lower case, decides; None: not judged.
_KINDS: tuple[tuple[str, Kind | None], ...] = (
  (r"^(perf|optim|aug|time|kimg|seconds|attempt|epoch)\b", None),
  (r"standard_error", None),
  (r"^ema/decay$|(^|[/_])(lr|learning_rate|steps?|itr|iter|iteration)$", None),
  # A relativistic loss leaves the level of the logits free: it may wander.
  (r"^d/logit_(real|fake)$", Kind("heldout", "asinh", 0.5, spikes=True)),
  (r"^d/logit_heldout$", Kind("heldout", "asinh", 0.5)),
  (r"^d/logit_gap$", Kind("game", "asinh", 0.15, far=2.0, spikes=True)),
  (r"^ema/distance$", Kind("ema", "log", 0.25, far=0.9, falls_alone=False)),
  (r"heldout|overfit", Kind("heldout", "plain", 0.1, direction=1)),
  (r"diversity|lpips", Kind("samples", "log", 0.1, far=0.69, direction=-1)),
  (r"rank$", Kind("samples", "log", 0.2, far=1.1, direction=-1)),
  (r"distance$", Kind("samples", "log", 0.3, far=1.4, direction=1)),
  (r"(^|[/_. ])(fid|fd|kid|swd)\w*", _SCORE),
  (r"^eval/", None),
  (r"(^|[/_])(r1|r2)\b|penalty", _PENALTY),
  (r"loss|adversarial", _LOSS),
  (r"grad\w*norm|^[gd]\w*[_/]grad", _GRADIENT),
  # The share of reals that D likes: how well it knows them (ADA), or, under a
  # relativistic loss, where its logits happen to lie.
  (r"sign", Kind("heldout", "plain", 0.1)),
  # What Adam makes of the gradients, and so no further evidence.
  (
    r"update_norm",
    Kind("game", "log", 0.3, far=1.6, falls_alone=False, vital=True),
  ),
  (
    rf"{_OF_D}.*(weight|param)\w*_norm",
    Kind("d_weights", "log", 0.03, far=0.5, vital=True),
  ),
  (
    r"(weight|param)\w*_norm",
    Kind("g_weights", "log", 0.03, far=0.5, vital=True),
  ),
  (r"^g/ortho$", Kind("g_weights", "log", 0.1, far=1.4, vital=True)),
  (rf"{_OF_D}.*(sigma[1-9]|\bsv[1-9])", _D_SIGMA),
  (rf"{_OF_D}.*(sigma|spectral|singular|\bsv)", _D_SIGMA0),
  (r"sigma[1-9]|(^|[._/])sv[1-9]$", _G_SIGMA),
  (r"sigma|spectral|singular|(^|[._/])sv\d*$", _G_SIGMA0),
  (r"logit|score", Kind("game", "asinh", 0.3, far=3.0, spikes=True)),
)


@functools.cache
def kind_of(name: str) -> Kind | None:
  """How a signal of that name is judged; None where it is not."""
  low = name.lower()
  for pattern, kind in _KINDS:
    if re.search(pattern, low):
      return kind
  return _OTHER


class Tracker:
  """Follows one signal: its reference, and evidence that it has changed.

  The reference is the median of the last accepted values, its unit their
  median absolute deviation. Deviations beyond the allowance accumulate, each
  way by itself (CUSUM, Page 1954). While there is a suspicion values are kept
  out of the reference, until they have been there for so long that they are
  the new normal. A return to the old one is harmless then.

  Attributes:
    kind: how the signal is judged.
    last: the value taken last; NaN before the first.
    calm: whether there is no evidence at all.
  """

  def __init__(self, kind: Kind, spec: VerdictSpec) -> None:
    self.kind = kind
    self._spec = spec
    self._limit = spec.limit * (0.25 if kind.best else 1.0)
    self._needed = 2 if kind.best else spec.min_values
    self.forget()

  def forget(self) -> None:
    """Learns the reference anew."""
    self.last = math.nan
    self.calm = True
    self._values: list[float] = []
    self._former: list[float] = []
    self._held: list[float] = []
    self._held_since = 0
    self._accepted = 0
    self._fresh = 0
    self._median = 0.0
    self._unit = 0.0
    self._magnitude = 1.0
    self._sums = [0.0, 0.0]
    self._since = [0, 0]
    self._far = 0
    self._very_far = 0
    self._far_since = 0
    self._alone = False

  def add(self, value: float, step: int, *, judge: bool) -> bool:
    """Takes a value.

    Args:
      value: of the signal, finite.
      step: at which the block that it stands for began.
      judge: False in a warm-up or a quiet period: it is learned from only.

    Returns:
      Whether there was a reference to judge it by.
    """
    self.last = value
    x = self._to_scale(value)
    if not judge or len(self._values) < self._needed:
      self._accept(x, step)
      return False
    shift = min((x - m for m in (self._median, *self._former)), key=abs)
    deviations = shift / self._unit
    if self.calm and abs(deviations) <= min(self._spec.allowance, _NEAR):
      # Nothing can change below; most values of most signals end here.
      self._accept(x, step)
      return True
    self._accumulate(deviations, step)
    self._measure_far(shift, step)
    self.calm = not (max(self._sums) or self._far)
    back = abs(deviations) <= self._spec.allowance
    if back or max(self._sums) <= self._limit / 2:
      self._held.clear()
      self._accept(x, step)
    else:
      self._hold(x, step)
    return True

  def evidence(self, members: int) -> float:
    """Evidence of a change, from 0 to 1.

    Args:
      members: signals in its group, of which it may be the strongest.
    """
    limit = self._limit + _PER_MEMBERS * math.log(members)
    return min(1.0, max(self._sums) / limit)

  @property
  def alone(self) -> bool:
    """Whether it is far away for so long that it is believed alone."""
    return self._alone

  @property
  def onset(self) -> int:
    """Step at which the evidence began to accumulate."""
    since = self._since[0 if self._sums[0] >= self._sums[1] else 1]
    return min(since, self._far_since) if self._alone else since

  @property
  def reference(self) -> float:
    """What the signal is compared with, as the signal is given."""
    if self.kind.scale == "log":
      return math.exp(min(self._median, 700.0))
    if self.kind.scale == "asinh":
      return math.sinh(max(-700.0, min(self._median, 700.0)))
    return self._median

  @property
  def rule(self) -> str:
    """Why it counts, as a clause."""
    rises = self._sums[0] >= self._sums[1]
    if self._alone:
      return f"far {'above' if rises else 'below'} its reference for too long"
    usual = "best" if self.kind.best else "usual"
    return f"{'above' if rises else 'below'} its {usual} range, persistently"

  def get_state(self) -> dict[str, Any]:
    """All that it has learned, as plain JSON."""
    return {
      key: list(value) if isinstance(value, list) else value
      for key, value in vars(self).items()
      if key not in ("kind", "_spec", "_limit", "_needed", "last")
    } | {"last": None if math.isnan(self.last) else self.last}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from what `get_state` gave."""
    for key, value in state.items():
      setattr(self, key, list(value) if isinstance(value, list) else value)
    if self.last is None:
      self.last = math.nan

  def _to_scale(self, value: float) -> float:
    if self.kind.scale == "log":
      return math.log(max(value, _SMALLEST))
    if self.kind.scale == "asinh":
      return math.asinh(value)
    return value

  def _accept(self, x: float, step: int) -> None:
    spec = self._spec
    pause = spec.span * step / spec.window
    if self.kind.best:
      self._values = sorted([*self._values, x])[: spec.window]
      self._refresh()
      return
    if len(self._values) >= self._needed and step - self._accepted < pause:
      return
    self._accepted = step
    self._values.append(x)
    del self._values[: -spec.window]
    self._fresh += 1
    if self._fresh >= _REFRESH or len(self._values) <= self._needed:
      self._refresh()

  def _refresh(self) -> None:
    self._fresh = 0
    ordered = sorted(self._values)
    middle = len(ordered) // 2
    self._median = median = ordered[middle]
    floor = self.kind.floor * self._spec.tolerance
    if self.kind.scale == "relative":
      # What has always been 0 has no scale, and is not judged.
      self._magnitude = max(-ordered[0], ordered[-1]) or _LARGEST
      floor *= self._magnitude
    deviation = sorted([abs(x - median) for x in ordered])[middle]
    self._unit = max(_MAD_TO_SD * deviation, floor)
    if self.kind.best:
      self._median, self._unit = ordered[0], floor

  def _accumulate(self, deviations: float, step: int) -> None:
    spec = self._spec
    for way, sign in enumerate((1, -1)):
      if self.kind.direction == -sign:
        continue
      before = self._sums[way]
      gain = min(sign * deviations, spec.clip) - spec.allowance
      # A cap, so that what has recovered is forgiven soon.
      now = min(max(0.0, before + gain), 2 * self._limit)
      if not before and now:
        self._since[way] = step
      self._sums[way] = now

  def _measure_far(self, shift: float, step: int) -> None:
    kind, spec = self.kind, self._spec
    way = kind.direction or (0 if kind.falls_alone else 1)
    size = shift * way if way else abs(shift)
    far = kind.far * spec.tolerance * self._magnitude
    far = max(far, _NEAR * self._unit)
    self._very_far = self._very_far + 1 if size >= 2 * far else 0
    if size >= far:
      if not self._far:
        self._far_since = step
      self._far += 1
    else:
      self._far = max(0, min(self._far, 2 * spec.patience) - 2)
    patience = 2 if kind.best else spec.patience
    if kind.spikes:
      patience *= 2
    lasted = step - self._far_since
    self._alone = self._far >= patience and (
      not kind.spikes
      or self._very_far >= patience
      or lasted >= spec.recovery * step
    )

  def _hold(self, x: float, step: int) -> None:
    spec = self._spec
    if not self._held:
      self._held_since = step
    self._held.append(x)
    del self._held[: -spec.window]
    enough = step - self._held_since >= 2 * spec.recovery * step
    if len(self._held) == spec.window and enough and not self.kind.best:
      values, last = self._held, self.last
      former = [*self._former, self._median][-_FORMER:]
      self.forget()
      self._values, self.last, self._former = values, last, former
      self._refresh()
