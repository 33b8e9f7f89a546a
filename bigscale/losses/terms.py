"""What a penalty says of itself, so that the step need not know it by name.

Spec and training read these records. A penalty on D's outputs that takes a pass
of its own is a `DTerm`, one on G's weights a `WeightTerm`. R1 and R2 are
neither: they share D's pass with its logits (`train/discriminator_pass`).
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
  """How often a sample has D's products computed, gradients included.

  Attributes:
    linear: those of a layer with weights.
    first: those of the first layer, whose input needs no gradient.
    between: those of two maps, as in attention.
    pointwise: what is no product.
    fixed: those with a constant, as a filter is.
  """

  linear: int
  first: int
  between: int
  pointwise: int
  fixed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DTerm:
  """A penalty on D, one value a sample.

  It works with microbatches and any mesh: `values` sees one device's part of
  one microbatch, and all that is random about a sample comes with it.

  Attributes:
    values: `values(discriminator, reals, fakes, uniform)` gives [B]. Here
      `discriminator(images, labels)` gives logits [B] of images [B, H, W, C],
      behind the run's augmentation; `reals` and `fakes` have `images`
      [B, H, W, C], floats in [-1, 1], and `labels` [B] int32; `uniform` is
      [B, *draws] in [0, 1), or None.
    scalar: its name in the logs, `d/NAME_penalty`: the monitor takes it for a
      penalty.
    draws: shape of a sample's uniform numbers; None draws none.
    cost: in a step that computes it; None is not known.
  """

  values: "Callable[[Callable[..., Array], Any, Any, Array | None], Array]"
  scalar: str
  draws: tuple[int, ...] | None = None
  cost: Products | None = None


class Weights(NamedTuple):
  """What there is to be known of G's weights in an update.

  Attributes:
    params: nested dictionary of them, before spectral norm.
    spectra: the power iterations of those that are tracked.
    whole: by path, what every device has whole (`orthogonal.Whole`).
    orthogonal: `orthogonal(path)`: whether the family has the orthogonal
      penalty cover it.
  """

  params: "PyTree"
  spectra: Mapping[str, Any]
  whole: Mapping[str, Any]
  orthogonal: Callable[[str], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightTerm:
  """A penalty on G's weights.

  Attributes:
    value: of `Weights`, [] before the weight.
    weight: of the value in G's loss.
    scalar: name of the value in the logs.
  """

  value: "Callable[[Weights], Array]"
  weight: float
  scalar: str


def find(name: str) -> DTerm:
  """The `DTerm` that `package.module:Name` names.

  Raises:
    SpecError: there is none, or it lacks a part.
  """
  row = named.load(name, "a penalty on D")
  where = "of bigscale/losses/terms.py"
  require(
    isinstance(row, DTerm),
    f"loss.terms names {name!r}, which is no penalty on D but {row!r}; make it "
    f"a DTerm(...) {where}",
  )
  require(
    callable(row.values),
    f"loss.terms names {name!r}, whose values={row.values!r} is no function; "
    f"see DTerm {where}",
  )
  require(
    rows.accepts(row.values, 4),
    f"loss.terms names {name!r}, whose values must take (discriminator, reals, "
    f"fakes, uniform); see DTerm {where}",
  )
  require(
    re.fullmatch(r"d/\w+_penalty", str(row.scalar)) is not None,
    f"loss.terms names {name!r}, whose scalar={row.scalar!r} must be "
    "d/NAME_penalty, which the monitor takes for a penalty",
  )
  require(
    row.draws is None
    or (
      isinstance(row.draws, tuple)
      and all(type(size) is int and size >= 0 for size in row.draws)
    ),
    f"loss.terms names {name!r}, whose draws={row.draws!r} must be the shape "
    "of a sample's uniform numbers, as (3,), or None",
  )
  return row
