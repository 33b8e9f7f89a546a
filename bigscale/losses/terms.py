"""Declarations of penalties.

The spec and the training step read these declarations, so the step need not
know a penalty by name. A `DTerm` is a penalty on D that needs a pass of its
own. A `WeightTerm` is a penalty on G's weights. R1 and R2 are neither, because
they share D's pass with its logits (`train/discriminator_pass`).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bigscale.losses import rows
from bigscale.spec import named
from bigscale.spec.base import require

if TYPE_CHECKING:
  from bigscale.types import Array, PyTree


class Products(NamedTuple):
  """How often a step computes D's products per sample, including gradients.

  Attributes:
    linear: passes over products of a layer with weights.
    first: passes over products of the first layer, whose input needs no
      gradient.
    between: passes over products of two maps, as in attention.
    pointwise: passes over operations that are not products.
    fixed: passes over products with a constant, such as a filter.
  """

  linear: int
  first: int
  between: int
  pointwise: int
  fixed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DTerm:
  """A penalty on D, with one value per sample.

  It works with microbatches and any mesh: `values` receives one device's shard
  of one microbatch, and its random numbers are an argument.

  Attributes:
    values: function `values(discriminator, reals, fakes, uniform)` that returns
      [B]. `discriminator(images, labels)` returns the logits [B] of images [B,
      H, W, C], after the run's augmentation. `reals` and `fakes` have `images`
      [B, H, W, C], floats in [-1, 1], and `labels` [B] int32. `uniform` is [B,
      *draws] in [0, 1), or None.
    scalar: name in the logs, `d/NAME_penalty`. The monitor treats scalars with
      this name as penalties.
    draws: shape of the uniform random numbers per sample; None draws none.
    cost: products per sample in a step that computes the penalty; None if
      unknown.
  """

  values: "Callable[[Callable[..., Array], Any, Any, Array | None], Array]"
  scalar: str
  draws: tuple[int, ...] | None = None
  cost: Products | None = None


class Weights(NamedTuple):
  """G's weights in an update, and related values.

  Attributes:
    params: nested dictionary of the weights, before spectral norm.
    spectra: power iterations of the tracked weights.
    whole: unsharded weights by path (`orthogonal.Whole`).
    orthogonal: `orthogonal(path)` returns whether orthogonal regularization
      covers a weight.
  """

  params: "PyTree"
  spectra: Mapping[str, Any]
  whole: Mapping[str, Any]
  orthogonal: Callable[[str], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightTerm:
  """A penalty on G's weights.

  Attributes:
    value: function from `Weights` to the penalty [], without the factor
      `weight`.
    weight: factor of the penalty in G's loss.
    scalar: name of the penalty in the logs.
  """

  value: "Callable[[Weights], Array]"
  weight: float
  scalar: str


def find(name: str) -> DTerm:
  """Returns the `DTerm` that `package.module:Name` names.

  Raises:
    SpecError: there is no such object, or it is not a valid `DTerm`.
  """
  row = named.load(name, "a penalty on D")
  where = "of bigscale/losses/terms.py"
  require(
    isinstance(row, DTerm),
    f"loss.terms contains {name!r}, which is {row!r}, not a penalty on D; make "
    f"it a DTerm(...) {where}",
  )
  require(
    callable(row.values),
    f"loss.terms contains {name!r}, whose values={row.values!r} is not a "
    f"function; see DTerm {where}",
  )
  require(
    rows.accepts(row.values, 4),
    f"loss.terms contains {name!r}, whose values must take (discriminator, "
    f"reals, fakes, uniform); see DTerm {where}",
  )
  require(
    re.fullmatch(r"d/\w+_penalty", str(row.scalar)) is not None,
    f"loss.terms contains {name!r}, whose scalar={row.scalar!r} must have the "
    "form d/NAME_penalty, by which the monitor recognizes a penalty",
  )
  require(
    row.draws is None
    or (
      isinstance(row.draws, tuple)
      and all(type(size) is int and size >= 0 for size in row.draws)
    ),
    f"loss.terms contains {name!r}, whose draws={row.draws!r} must be the "
    "shape of the uniform numbers per sample, such as (3,), or None",
  )
  return row
