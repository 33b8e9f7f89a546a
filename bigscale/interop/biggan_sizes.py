"""Infers a BigGAN's resolution and width from the channels of its blocks.

The official tables list both models' channels for every resolution. A file
whose blocks match none of them is not one of these models.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bigscale.interop.tensors import TensorsError
from bigscale.models import biggan, biggan_deep

Table = Mapping[int, Sequence[int]]


class NetworkSizes(NamedTuple):
  """The sizes that match the channels.

  Attributes:
    resolution: height and width of the images, pixels.
    width: channel multiplier `ch`.
    depth: number of blocks per stage; 1 in BigGAN.
  """

  resolution: int
  width: int
  depth: int


def of_generator(outputs: Sequence[int]) -> NetworkSizes:
  """Infers BigGAN's G from the output channels of its blocks, 8 px first."""
  return _match(outputs, biggan.G_WIDTHS, first=1, depths=(1,))


def of_discriminator(outputs: Sequence[int]) -> NetworkSizes:
  """Infers BigGAN's D from the output channels of its blocks, image first."""
  return _match(outputs, biggan.D_WIDTHS, first=0, depths=(1,))


def of_deep_generator(outputs: Sequence[int]) -> NetworkSizes:
  """Infers BigGAN-deep's G from the output channels of its blocks.

  Only the last block of a stage changes the number of channels.
  """
  depths = range(1, len(outputs) + 1)
  return _match(outputs, biggan_deep.G_WIDTHS, first=1, depths=depths)


def of_deep_discriminator(outputs: Sequence[int]) -> NetworkSizes:
  """Infers BigGAN-deep's D from the output channels of its stages."""
  return _match(outputs, biggan_deep.D_WIDTHS, first=1, depths=(1,))


def _match(
  outputs: Sequence[int], tables: Table, first: int, depths: Sequence[int]
) -> NetworkSizes:
  """Finds the table that matches the channels.

  Args:
    outputs: output channels of each block.
    tables: channel multipliers by resolution.
    first: index in the table of the first block's output.
    depths: possible numbers of blocks per stage.
  """
  for resolution, table in tables.items():
    for depth in depths:
      wanted = _repeated(table, first, depth)
      width = outputs[-1] // wanted[-1] if len(outputs) == len(wanted) else 0
      if width and [width * m for m in wanted] == list(outputs):
        return NetworkSizes(resolution, width, depth)
  raise TensorsError(
    f"blocks with {', '.join(map(str, outputs)) or 'no'} channels match none "
    f"of the published tables, for {', '.join(map(str, tables))} px; use a "
    "complete file of one of these models, or another --format"
  )


def _repeated(table: Sequence[int], first: int, depth: int) -> list[int]:
  """Returns the output multipliers of all blocks, `depth` per stage."""
  wanted = []
  for i in range(first, len(table)):
    wanted += [table[i - 1]] * (depth - 1) + [table[i]]
  return wanted
