"""Counts the FLOP of convolutions and matrix products in HLO text.

XLA's own count (`Compiled.cost_analysis`) counts every loop body once. The
difference of this count with and without trip counts corrects XLA's count. On
TPUs, a matrix product is a convolution without a window.
"""

import math
import re

from bigscale.plan.hlo import Computation, Instruction, arrays

_DIM_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_CONTRACTING = re.compile(r"\blhs_contracting_dims=\{([\d,]*)\}")
_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")


def flops(computation: Computation, instruction: Instruction) -> int:
  """Returns the FLOP of a `convolution` or `dot`, or 0 for other opcodes.

  As in XLA, taps that fall on padding or between dilated pixels are free.
  """
  if instruction.opcode == "dot":
    return _of_dot(computation, instruction)
  if instruction.opcode == "convolution":
    return _of_convolution(computation, instruction)
  return 0


def _of_dot(computation: Computation, dot: Instruction) -> int:
  left = arrays(computation.operand(dot, 0).shape)[0][1]
  found = _CONTRACTING.search(dot.attributes)
  summed = [left[int(n)] for n in found[1].split(",") if n] if found else []
  return 2 * math.prod(arrays(dot.shape)[0][1]) * math.prod(summed)


def _of_convolution(computation: Computation, convolution: Instruction) -> int:
  labels = _DIM_LABELS.search(convolution.attributes)
  image, kernel = (
    arrays(computation.operand(convolution, index).shape)[0][1]
    for index in (0, 1)
  )
  result = arrays(convolution.shape)[0][1]
  image_labels, kernel_labels, result_labels = labels.groups()
  window = _window(convolution)
  # Taps that fall on pixels, over all output positions.
  taps = 1
  for axis in sorted(set(result_labels) - set("bf")):
    taps *= _taps(
      outputs=result[result_labels.index(axis)],
      inputs=image[image_labels.index(axis)],
      kernel=kernel[kernel_labels.index(axis)],
      window={name: values[int(axis)] for name, values in window.items()},
    )
  outer = result[result_labels.index("b")] * result[result_labels.index("f")]
  return 2 * outer * kernel[kernel_labels.index("i")] * taps


def _taps(
  *, outputs: int, inputs: int, kernel: int, window: dict[str, tuple[int, int]]
) -> int:
  stride, _ = window.get("stride", (1, 0))
  before, _ = window.get("pad", (0, 0))
  gap, _ = window.get("lhs_dilate", (1, 0))
  spread, _ = window.get("rhs_dilate", (1, 0))
  spanned = (inputs - 1) * gap + 1
  count = 0
  for tap in range(kernel):
    for output in range(outputs):
      at = output * stride - before + tap * spread
      count += 0 <= at < spanned and at % gap == 0
  return count


def _window(convolution: Instruction) -> dict[str, list[tuple[int, int]]]:
  """Returns {"pad": [(before, after) per axis], "stride": [(n, 0), ...]}."""
  found = _WINDOW.search(convolution.attributes)
  settings = {}
  for setting in found[1].split() if found else ():
    name, _, value = setting.partition("=")
    if name == "rhs_reversal":
      continue
    settings[name] = [
      (int(first), int(second or 0))
      for first, _, second in (one.partition("_") for one in value.split("x"))
    ]
  return settings
