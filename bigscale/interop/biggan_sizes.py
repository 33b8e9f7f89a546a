"""A BigGAN's resolution and width, from the channels of its blocks.

The official tables name both models' channels for every resolution; a file
whose blocks follow none of them is not one of these models.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bigscale.interop.tensors import TensorsError
from bigscale.models import biggan, biggan_deep

Table = Mapping[int, Sequence[int]]


class Found(NamedTuple):
  """What the channels say.

  Attributes:
    resolution: of the images, px.
    width: channel multiplier `ch`.
    depth: blocks of each stage; 1 in BigGAN.
  """

  resolution: int
  width: int
  depth: int


def of_generator(outputs: Sequence[int]) -> Found:
  """BigGAN's G, from the output channels of its blocks, 8 px first."""
  return _match(outputs, biggan.G_WIDTHS, first=1, depths=(1,))


def of_discriminator(outputs: Sequence[int]) -> Found:
  """BigGAN's D, from the output channels of its blocks, image first."""
  return _match(outputs, biggan.D_WIDTHS, first=0, depths=(1,))


def of_deep_generator(outputs: Sequence[int]) -> Found:
  """BigGAN-deep's G; all but the last block of a stage keep the channels."""
  depths = range(1, len(outputs) + 1)
  return _match(outputs, biggan_deep.G_WIDTHS, first=1, depths=depths)


def of_deep_discriminator(outputs: Sequence[int]) -> Found:
  """BigGAN-deep's D, from the output channels of its stages, image first."""
  return _match(outputs, biggan_deep.D_WIDTHS, first=1, depths=(1,))


def _match(
  outputs: Sequence[int], tables: Table, first: int, depths: Sequence[int]
) -> Found:
  """Looks for the table that these channels follow.

  Args:
    outputs: channels, block by block.
    tables: multipliers by resolution.
    first: place in the table of the first block's output.
    depths: blocks of a stage that there may be.
  """
  for resolution, table in tables.items():
    for depth in depths:
      wanted = _repeated(table, first, depth)
      width = outputs[-1] // wanted[-1] if len(outputs) == len(wanted) else 0
      if width and [width * m for m in wanted] == list(outputs):
        return Found(resolution, width, depth)
  raise TensorsError(
    f"blocks of {', '.join(map(str, outputs)) or 'no'} channels follow none of "
    f"the published tables, for {', '.join(map(str, tables))} px; choose a "
    "whole file of one of these models, or another --format"
  )


def _repeated(table: Sequence[int], first: int, depth: int) -> list[int]:
  """Multipliers of the blocks' outputs where stages have `depth` blocks."""
  wanted = []
  for i in range(first, len(table)):
    wanted += [table[i - 1]] * (depth - 1) + [table[i]]
  return wanted
