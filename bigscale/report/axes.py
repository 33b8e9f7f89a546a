"""The vertical axis of a drawing: its scale, its bounds, the numbers it names.

A run that was lost may show 1e20 where it showed 1 before; both are to be seen.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import (
  FuncFormatter,
  LogLocator,
  NullLocator,
  SymmetricalLogLocator,
)

# An unlikely colour that the finished drawing swaps for the page's own.
INK = "#0a0b0c"
# Beyond, matplotlib's arithmetic on the axis itself overflows.
GREATEST = 1e300
# Times the median beyond which a linear axis would hide all that came before.
_EXTREME = 1e3
_MARGIN = 0.05


def fit(
  axes: Any, scale: str, values: Sequence[float], given_up: Sequence[float]
) -> str:
  """Makes an axis for values that are drawn already.

  Args:
    axes: matplotlib's.
    scale: "linear", or "log" where all values allow it.
    values: that the axis is made for, finite.
    given_up: by a rollback: they leave the picture where they would make the
      rest of it too small to be seen.

  Returns:
    What the reader has to be told, as sentences, or "".
  """
  if not values:
    values, given_up = given_up, ()
  threshold = None
  if scale == "log" and not (values and min(values) > 0):
    scale = "linear"
  if scale == "linear":
    threshold = _threshold(values)
  _set_scale(axes, scale, values, threshold)
  remarks = []
  if threshold is not None:
    remarks.append(f"Beyond ±{threshold:,g} the axis is logarithmic.")
  if values and (given_up or threshold is not None):
    remarks.append(_bound(axes, values, given_up))
  _name_numbers(axes, threshold)
  return " ".join(filter(None, remarks))


def dress(axes: Any) -> None:
  """Draws what belongs to the axes in the colour of the page."""
  axes.xaxis.set_major_formatter(_plain())
  axes.grid(color=INK, alpha=0.13, linewidth=0.7)
  axes.set_axisbelow(True)
  axes.tick_params(colors=INK, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side == "bottom")
    spine.set_color(INK)
    spine.set_alpha(0.4)


def _threshold(values: Sequence[float]) -> float | None:
  """Where a linear axis should become logarithmic, if anywhere."""
  if not values:
    return None
  sizes = np.abs(values)
  usual = float(np.median(sizes))
  if usual == 0 or sizes.max() <= _EXTREME * usual:
    return None
  return 10.0 ** math.ceil(math.log10(usual))


def _set_scale(
  axes: Any, scale: str, values: Sequence[float], threshold: float | None
) -> None:
  if threshold is None:
    axes.set_yscale(scale)
    return
  # What is usual gets about a third of the height.
  decades = math.log10(max(map(abs, values)) / threshold)
  linscale = max(1.0, 0.5 * decades)
  axes.set_yscale("symlog", linthresh=threshold, linscale=linscale)


def _bound(
  axes: Any, values: Sequence[float], given_up: Sequence[float]
) -> str:
  """Bounds the axis; says what is out of the picture."""
  scale = axes.yaxis.get_transform()
  every = [*values, *given_up]
  low, high = scale.transform([min(values), max(values)])
  lowest, highest = scale.transform([min(every), max(every)])
  # Room to see where it went.
  room = 0.5 * (high - low) or 1.0
  bottom, top = max(low - room, lowest), min(high + room, highest)
  margin = _MARGIN * (top - bottom)
  if margin > 0:
    axes.set_ylim(*scale.inverted().transform([bottom - margin, top + margin]))
  if bottom <= lowest and highest <= top:
    return ""
  span = " to ".join(f"{y:,.4g}" for y in _ends(given_up))
  return f"Given up, and partly out of the picture: {span}."


def _ends(values: Sequence[float]) -> list[float]:
  return sorted({min(values), max(values)})


def _name_numbers(axes: Any, threshold: float | None) -> None:
  axes.yaxis.set_major_formatter(_plain())
  if threshold is not None:
    locator = SymmetricalLogLocator(linthresh=threshold, base=10)
    locator.set_params(numticks=7)
  elif axes.get_yscale() == "log":
    low, high = axes.get_ylim()
    marks = _marks(math.log10(high / low))
    locator = LogLocator(subs=marks, numticks=12)
  else:
    return
  axes.yaxis.set_major_locator(locator)
  axes.yaxis.set_minor_locator(NullLocator())


def _marks(decades: float) -> tuple[float, ...]:
  """Which multiples of powers of ten an axis of some decades names."""
  if decades < 0.9:
    return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
  return (1.0, 2.0, 5.0) if decades < 3 else (1.0,)


def _plain() -> FuncFormatter:
  return FuncFormatter(lambda value, _: f"{value:,g}")
