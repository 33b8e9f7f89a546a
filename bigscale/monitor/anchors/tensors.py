"""Checks that all tensors of a run move, and that the average follows G."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale.monitor.packed import pack, unpack

# Error of a sum of float32, in units of the tensor's norm.
_ROUNDING = 32 * 2.0**-24
# Largest relative error of the average's update.
_FOLLOWS = 0.25
# Largest way of the average between two looks, as a multiple of what G's way
# explains. It was at most 4 in healthy runs of a prototype.
_ASTRAY = 10.0
# Number of looks without movement after which a tensor stands still.
_LOOKS = 2
# Relative size of an update below which weights may repeat in float32.
_RESOLVED = 1e-6


class Sketch(NamedTuple):
  """Signed sums [T, S] and norms [T] of the tensors of a network."""

  sums: np.ndarray
  norms: np.ndarray


class Found(NamedTuple):
  """The number of tensors that are wrong, and of all that were judged."""

  wrong: int = 0
  judged: int = 0


class TensorWatch:
  """Compares the sketches of G, D and the average over time."""

  def __init__(self) -> None:
    self._last: dict[str, Sketch] = {}
    # Number of consecutive looks without movement; -1 before the first.
    self._still: dict[str, np.ndarray] = {}

  def look(
    self,
    before: Mapping[str, Sketch] | None,
    now: Mapping[str, Sketch],
    decay: float | None,
    decay_since: float | None,
    row: Mapping[str, float],
  ) -> dict[str, Found]:
    """Compares the weights with those of the last look and of the last step.

    Args:
      before: sketches of the step before, by `g`, `d` and `average`; None if
        unknown.
      now: sketches after this step.
      decay: weight of the old average in this step; None if unknown.
      decay_since: product of the decays since the last look; None if unknown.
      row: scalars of the step.

    Returns:
      `g` and `d`: tensors that stood still for two looks, although they had
      moved before and the optimizer reports updates. `average`: tensors that
      did not move by (1 - decay) times the way to G in this step. `astray`:
      tensors of the average that moved since the last look by much more than
      their way to G explains.
    """
    found = {}
    for name in ("g", "d"):
      still = self._stand(name, now[name])
      moving = row.get(f"{name}/update_norm", math.inf)
      size = row.get(f"{name}/weight_norm", 1.0)
      wrong = int((still >= _LOOKS).sum())
      if not moving > _RESOLVED * size:
        wrong = 0
      found[name] = Found(wrong, len(still))
    if before and decay is not None:
      found["average"] = _follows(before["average"], now, decay)
    if self._last and decay_since is not None:
      found["astray"] = _astray(self._last["average"], now, decay_since)
    self._last = dict(now)
    return found

  def _stand(self, name: str, now: Sketch) -> np.ndarray:
    """Returns the number of looks since each tensor moved; -1 if never."""
    last = self._last.get(name)
    if last is None or len(last.sums) != len(now.sums):
      self._still[name] = np.full(len(now.sums), -1)
      return self._still[name]
    moved = (last.sums != now.sums).any(1)
    still = self._still[name]
    still = np.where(moved, 0, np.where(still < 0, -1, still + 1))
    self._still[name] = still
    return still

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON."""
    return {
      "last": {
        name: [pack(x) for x in sketch] for name, sketch in self._last.items()
      },
      "still": {name: pack(x) for name, x in self._still.items()},
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state that `get_state` returned."""
    self._last = {
      name: Sketch(*map(unpack, sketch))
      for name, sketch in state["last"].items()
    }
    self._still = {name: unpack(x) for name, x in state["still"].items()}


def _follows(before: Sketch, now: Mapping[str, Sketch], decay: float) -> Found:
  """Checks average' = decay * average + (1 - decay) * G, tensor by tensor."""
  due = (1 - decay) * (now["g"].sums - before.sums)
  error = now["average"].sums - before.sums - due
  size, off = (
    np.linalg.norm(x.astype(np.float64), axis=1) for x in (due, error)
  )
  rounding = _ROUNDING * now["average"].norms * math.sqrt(due.shape[1])
  # Where the way is not larger than rounding errors, only larger errors count.
  wrong = off > np.maximum(_FOLLOWS * size, 4 * rounding)
  # An average that stands still is wrong by the whole way.
  return Found(int(wrong.sum()), len(wrong))


def _astray(
  last: Sketch, now: Mapping[str, Sketch], decay_since: float
) -> Found:
  size = np.linalg.norm(now["g"].sums - last.sums, axis=1)
  way = np.linalg.norm(now["average"].sums - last.sums, axis=1)
  due = (1 - decay_since) * (size + 1e-3 * last.norms)
  rounding = _ROUNDING * last.norms * math.sqrt(last.sums.shape[1])
  wrong = way > _ASTRAY * (due + rounding)
  return Found(int(wrong.sum()), len(wrong))
