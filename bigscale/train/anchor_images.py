"""Chooses, reads and describes the images of the anchor."""

import concurrent.futures
from typing import NamedTuple

import jax
import numpy as np

from bigscale.data.stream import Stream
from bigscale.monitor.anchors import columns
from bigscale.monitor.anchors.data import SMALLEST, Described
from bigscale.parallel import multihost, rows
from bigscale.parallel.sharding import batch_sharding
from bigscale.spec import SpecError
from bigscale.train.anchor_programs import Programs
from bigscale.train.build import Built
from bigscale.types import Batch, PyTree

_SEED = 3
_THREADS = 8
# Maximum size of the images that are in host memory at once.
_BYTES = 256 << 20


class AnchorImages(NamedTuple):
  """Measurements of the anchor.

  Attributes:
    anchor: measurements of 2 * h images. Each half is a random sample of h
      images of one epoch.
    hashes: [2 * h] uint64 hashes of these images.
    trial: measurements of consecutive images of the stream.
  """

  anchor: Described
  hashes: np.ndarray
  trial: Described

  @property
  def pair_rate(self) -> float:
    """Share of pairs of images within each half that are equal."""
    half = len(self.hashes) // 2
    pairs = 0
    for hashes in (self.hashes[:half], self.hashes[half:]):
      _, copies = np.unique(hashes, return_counts=True)
      pairs += int((copies * (copies - 1)).sum())
    return pairs / (2 * half * (half - 1))


def read(
  built: Built, stream: Stream, programs: Programs, variables: PyTree
) -> AnchorImages:
  """Reads the images through the run's pipeline; on all processes together.

  Raises:
    SpecError: the source is too small, or a process cannot read its images; on
      all processes.
  """
  count, total = programs.count, stream.images
  if total < SMALLEST:
    raise SpecError(
      f"the anchor needs {SMALLEST} images, but the source has {total}"
    )
  half = min(built.spec.monitor.anchor.images // 2, total)
  rng = np.random.default_rng((_SEED, built.spec.seed))
  # The second half is of another epoch. It shares as many images with the first
  # as batches do, so that batches are as near to the first half as it is.
  chosen = np.concatenate(
    [_choose(rng, total, half), total + _choose(rng, total, half)]
  )
  starts = 2 * total + rng.integers(total, size=columns.TRIALS)
  wanted = np.concatenate(
    [chosen, (starts[:, None] + np.arange(count)).ravel()]
  )
  padding = -len(wanted) % count
  blocks = np.concatenate([wanted, wanted[:padding]]).reshape(-1, count)
  described, hashes = _describe_all(built, stream, programs, variables, blocks)
  return AnchorImages(
    described.rows(0, 2 * half),
    hashes[: 2 * half],
    described.rows(2 * half, len(wanted)),
  )


def _choose(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
  """Returns `count` of the indices below `total`, without repeats if few."""
  if total <= 8 * count:
    return rng.permutation(total)[:count]
  return rng.integers(total, size=count)


def _describe_all(
  built: Built,
  stream: Stream,
  programs: Programs,
  variables: PyTree,
  blocks: np.ndarray,
) -> tuple[Described, np.ndarray]:
  """Returns measurements and hashes of the images of all blocks."""
  where = batch_sharding(built.mesh)
  mine = rows.local_rows(where, blocks.shape[1])
  side, channels = built.spec.model.resolution, built.spec.model.image_channels
  together = max(1, _BYTES // (len(mine) * side * side * channels))
  measured, hashes = [], []
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    for start in range(0, len(blocks), together):
      some = blocks[start : start + together, mine]
      for images, labels in _read_blocks(pool, stream, some):
        batch = rows.to_global(Batch(images[None], labels[None]), where)
        found = programs.describe(variables, *programs.replicate(batch))
        measured.append(to_host(found))
        hashes.append(joined(programs.pick(batch)[2]))
  described = Described(
    *(np.concatenate(x) for x in zip(*measured, strict=True))
  )
  return described, np.concatenate(hashes)


def _read_blocks(
  pool: concurrent.futures.Executor, stream: Stream, blocks: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
  read, failure = [], ""
  try:
    read = [found[:2] for found in pool.map(stream.read_at, blocks)]
  except Exception as error:
    failure = f"the anchor's images cannot be read: {error}"
  if not multihost.all_true("anchor", not failure):
    raise SpecError(
      failure or "another process cannot read the anchor's images"
    )
  return read


def to_host(measured: Described) -> Described:
  """Copies measurements to the host."""
  return Described(*map(np.asarray, jax.device_get(measured)))


def joined(hashes_n2: jax.Array) -> np.ndarray:
  """Returns [N] uint64 hashes of two halves [N, 2] uint32."""
  high, low = np.asarray(jax.device_get(hashes_n2), np.uint64).T
  return high << np.uint64(32) | low
