"""Declarations of losses: their functions and properties.

A user's own loss is a `Separable` or a `Paired` in any module.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from bigscale.spec.base import require

if TYPE_CHECKING:
  from bigscale.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
  """Properties of all losses.

  Attributes:
    threshold: the logit above which D classifies an image as real, halfway
      between its targets. None if a constant added to all logits does not
      change the loss. It must be given.
  """

  # The default NaN means that it was not given, which `check` rejects.
  threshold: float | None = math.nan

  # Set by subclasses: whether the i-th fake is compared with the i-th real, and
  # the names of the loss's functions. The first may have an argument
  # `smoothing`.
  paired: ClassVar[bool]
  functions: ClassVar[tuple[str, ...]]

  @property
  def smoothing(self) -> bool:
    """Whether the loss supports label smoothing of D's targets for reals.

    Its first function then has an argument `smoothing`.
    """
    return "smoothing" in _parameters(getattr(self, self.functions[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Separable(_Row):
  """A loss that is a sum of a term of the reals and a term of the fakes.

  Attributes:
    d_real: function from logits of reals [B] to D's loss per sample. If it has
      an argument `smoothing` in [0, 0.5), its target for reals is 1 -
      smoothing.
    d_fake: function from logits of fakes [B] to D's loss per sample.
    g: function from logits of fakes [B] to G's loss per sample.
  """

  d_real: "Callable[..., Array] | None" = None
  d_fake: "Callable[[Array], Array] | None" = None
  g: "Callable[[Array], Array] | None" = None

  paired: ClassVar[bool] = False
  functions: ClassVar[tuple[str, ...]] = ("d_real", "d_fake", "g")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired(_Row):
  """A loss of pairs of the i-th fake and the i-th real, of the same class.

  G's update then needs a batch of reals.

  Attributes:
    d: function from logits of reals [B] and of fakes [B] to D's loss per pair.
      It may have an argument `smoothing`, as in `Separable.d_real`.
    g: function from the same logits to G's loss per pair.
  """

  d: "Callable[..., Array] | None" = None
  g: "Callable[[Array, Array], Array] | None" = None

  paired: ClassVar[bool] = True
  functions: ClassVar[tuple[str, ...]] = ("d", "g")


def check(name: str, row: Any) -> None:
  """Raises `SpecError` unless `row` is a complete declaration of a loss.

  Args:
    name: name of the loss, as in `LossSpec.adversarial`.
    row: the object with that name.
  """
  where = "of bigscale/losses/rows.py"
  require(
    isinstance(row, (Separable, Paired)),
    f"loss.adversarial={name!r} is {row!r}, not a loss; make it a "
    f"Separable(...) or a Paired(...) {where}",
  )
  kind = type(row)
  lacking = [
    part for part in kind.functions if not callable(getattr(row, part))
  ]
  require(
    not lacking,
    f"loss.adversarial={name!r} lacks {', '.join(lacking)}; a {kind.__name__} "
    f"{where} has the functions {', '.join(kind.functions)} of logits, and a "
    "threshold",
  )
  takes = ("logits of reals", "logits of fakes") if row.paired else ("logits",)
  for part in kind.functions:
    require(
      accepts(getattr(row, part), len(takes)),
      f"loss.adversarial={name!r}: {part} of a {kind.__name__} must take "
      f"{' and '.join(takes)} and no other arguments without defaults; a loss "
      "that compares fakes with reals is a Paired, any other a Separable",
    )
  threshold = row.threshold
  known = type(threshold) in (int, float) and math.isfinite(threshold)
  require(
    threshold is None or known,
    f"loss.adversarial={name!r} has no finite threshold; set it to the logit "
    "above which D classifies an image as real, halfway between its targets, "
    "or to None if a constant added to all logits does not change the loss",
  )


def _parameters(function: Callable[..., object]) -> tuple[str, ...]:
  try:
    return tuple(inspect.signature(function).parameters)
  except ValueError:
    return ()  # Some functions that are not written in Python.


def accepts(function: Callable[..., object], count: int) -> bool:
  """Returns whether a function accepts `count` positional arguments."""
  try:
    inspect.signature(function).bind(*[None] * count)
  except ValueError:
    return True
  except TypeError:
    return False
  return True
