"""Runs images through a network in chunks, on all devices of a mesh."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bigscale.parallel.sharding import sample_sharding
from bigscale.spec import require
from bigscale.types import Array


def run(
  network: Callable[[Array], Any],
  images: np.ndarray,
  chunk_size: int,
  mesh: Mesh,
  prepare: Callable[[np.ndarray], np.ndarray] = lambda chunk: chunk,
) -> Iterator[tuple[slice, Any]]:
  """Yields row slices and the network's outputs, padding included.

  Args:
    network: jitted function of [chunk_size, ...] images.
    images: [N, H, W, C].
    chunk_size: number of images per chunk, the only shape that is compiled; the
      last chunk is padded with zeros.
    mesh: mesh over whose devices a chunk is split.
    prepare: function applied to each chunk on the host first.
  """
  sharding = sample_sharding(mesh)
  before = None
  for start in range(0, len(images), chunk_size):
    rows = slice(start, min(start + chunk_size, len(images)))
    chunk = prepare(images[rows])
    missing = chunk_size - len(chunk)
    chunk = np.pad(chunk, ((0, missing), (0, 0), (0, 0), (0, 0)))
    placed = jax.make_array_from_callback(
      chunk.shape, sharding, chunk.__getitem__
    )
    current = rows, network(placed)
    # Yield one chunk late: devices compute while the host reads the previous.
    if before is not None:
      yield before
    before = current
  if before is not None:
    yield before


def check(images: np.ndarray, who: str) -> None:
  """Raises `SpecError` unless these are [N, H, W, 1 or 3] uint8."""
  require(
    images.dtype == np.uint8
    and images.ndim == 4
    and images.shape[-1] in (1, 3)
    and min(images.shape[1:]) >= 1,
    f"images are {images.dtype} {list(images.shape)}, but {who} takes uint8 "
    "[N, H, W, 1 or 3]; convert them first",
  )
