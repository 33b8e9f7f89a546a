"""Distances between all rows of two sets of features, computed in tiles.

No array of all pairs is created: memory holds both sets in float32 and one tile
of distances, for any number of rows.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y reduces the work to matrix products, but
cancels if two rows are close to each other and far from the origin. Therefore:

*   Features are first centered on the reference's mean and scaled to norms of
    about 1, in float64. The products are float32 at the highest precision
    (TPUs would round to bfloat16).
*   The distances of the nearest rows are recomputed as float64 differences, so
    that the distance to a copy is exactly 0.
*   Distances that float32 cannot distinguish from the compared radius are
    recomputed in the same way.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.metrics.fid import require_comparable, require_finite
from bigscale.parallel import interruption
from bigscale.spec import require
from bigscale.types import Array

# Extra candidates beyond k whose distances are recomputed, because float32 may
# have ranked a neighbor slightly too low.
_SPARE = 4
# Number of pairs recomputed at once.
_PAIRS = 8192


class Tiles(NamedTuple):
  """Size of a tile of distances, which takes 4 * rows * reference bytes.

  Attributes:
    rows: number of rows from the first set.
    reference: number of rows from the second set.
  """

  rows: int = 2048
  reference: int = 8192


DEFAULT_TILES = Tiles()


class Neighbors(NamedTuple):
  """The k nearest rows of a reference set, nearest first.

  Attributes:
    indices: [N, k] int64, into the reference.
    distances: [N, k] float64, Euclidean.
  """

  indices: np.ndarray
  distances: np.ndarray


class BallCounts(NamedTuple):
  """Counts of points inside balls.

  Attributes:
    balls_of_point: [N] int64, number of balls that contain each point.
    points_of_ball: [M] int64, number of points inside each ball.
  """

  balls_of_point: np.ndarray
  points_of_ball: np.ndarray


def nearest(
  rows_nd: np.ndarray,
  reference_md: np.ndarray,
  k: int,
  tiles: Tiles = DEFAULT_TILES,
) -> Neighbors:
  """Finds the k nearest reference rows of each row.

  Distances are exact. The choice of rows is exact too, unless more than four
  further rows are as near as the k-th within the resolution of float32.

  Args:
    rows_nd: [N, D] of any real dtype.
    reference_md: [M, D], M >= k. A row that is in both sets finds itself.
    k: number of neighbors per row.
    tiles: see `Tiles`.

  Raises:
    SpecError: k or a tile size is below 1, the reference has fewer than k rows,
      or features differ in length or are not finite.
  """
  _check(rows_nd, reference_md, tiles)
  count = len(reference_md)
  require(k >= 1, f"k={k} must be 1 or more")
  require(
    count >= k,
    f"{count} reference rows are fewer than k={k} neighbors; give at least {k}",
  )
  frame = _frame_of(reference_md, tiles.reference)
  references = list(_tiles(reference_md, frame, tiles.reference))
  wanted = min(k + _SPARE, count)
  indices = np.empty((len(rows_nd), k), np.int64)
  distances = np.empty((len(rows_nd), k))
  for tile in _tiles(rows_nd, frame, tiles.rows):
    interruption.point()
    size = len(tile.norms)
    best = (
      jnp.full((size, wanted), jnp.inf),
      jnp.zeros((size, wanted), jnp.int32),
    )
    for reference in references:
      best = _merge(best, tile, reference)
    rows = slice(tile.start, min(tile.start + size, len(rows_nd)))
    found = np.asarray(best[1])[: rows.stop - rows.start]
    indices[rows], distances[rows] = _measure(
      rows_nd[rows], reference_md, found, k
    )
  return Neighbors(indices, distances)


def count_within(
  points_nd: np.ndarray,
  centers_md: np.ndarray,
  radii_m: np.ndarray,
  boundary: Literal["inside", "outside"],
  tiles: Tiles = DEFAULT_TILES,
) -> BallCounts:
  """Counts the points inside each ball and the balls around each point.

  Args:
    points_nd: [N, D] of any real dtype.
    centers_md: [M, D].
    radii_m: [M], 0 or more.
    boundary: whether points at exactly the radius, in float64, count as inside
      or outside.
    tiles: see `Tiles`.

  Raises:
    SpecError: a tile size is below 1, or features differ in length or are not
      finite.
  """
  _check(points_nd, centers_md, tiles)
  frame = _frame_of(centers_md, tiles.reference)
  balls = list(_tiles(centers_md, frame, tiles.reference))
  balls_of_point = np.zeros(len(points_nd), np.int64)
  points_of_ball = np.zeros(len(centers_md), np.int64)
  squares = np.square(np.asarray(radii_m, np.float64) / frame.scale)
  for tile in _tiles(points_nd, frame, tiles.rows):
    interruption.point()
    points = slice(tile.start, tile.start + len(tile.norms))
    for ball in balls:
      centers = slice(ball.start, ball.start + len(ball.norms))
      square = _pad(squares[centers].astype(np.float32), len(ball.norms), 0)
      of_point, of_ball, doubtful, doubts = _count_in_tile(tile, ball, square)
      for counts, rows, sure in (
        (balls_of_point, points, of_point),
        (points_of_ball, centers, of_ball),
      ):
        counts[rows] += np.asarray(sure)[: len(counts[rows])]
      if doubts > 0:
        n, m = np.nonzero(np.asarray(doubtful))
        n, m = n + tile.start, m + ball.start
        distances = _between(points_nd, n, centers_md, m)
        if boundary == "inside":
          inside = distances <= radii_m[m]
        else:
          inside = distances < radii_m[m]
        np.add.at(balls_of_point, n[inside], 1)
        np.add.at(points_of_ball, m[inside], 1)
  return BallCounts(balls_of_point, points_of_ball)


class _Frame(NamedTuple):
  """Coordinates that minimize float32 rounding.

  Attributes:
    center: [D] float64, origin.
    scale: unit length.
  """

  center: np.ndarray
  scale: float


def _frame_of(reference_md: np.ndarray, size: int) -> _Frame:
  count = len(reference_md)
  center = reference_md.mean(0, dtype=np.float64)
  squares = sum(
    float(np.square(reference_md[start : start + size] - center[None]).sum())
    for start in range(0, count, size)
  )
  return _Frame(center, math.sqrt(squares / count) or 1.0)


class _Tile(NamedTuple):
  """Consecutive rows of a set; the last tile is padded.

  Attributes:
    start: index of the first row.
    rows: [T, D] float32, in a frame.
    norms: [T] float32, squared lengths. Padding has infinite norms, so that it
      is no row's neighbor and inside no ball.
  """

  start: int
  rows: Array
  norms: Array


def _tiles(
  features_nd: np.ndarray, frame: _Frame, size: int
) -> Iterator[_Tile]:
  size = min(size, len(features_nd))
  for start in range(0, len(features_nd), size):
    chunk = np.asarray(features_nd[start : start + size], np.float64)
    chunk = ((chunk - frame.center[None]) / frame.scale).astype(np.float32)
    # In float64, to limit rounding in sums over many features.
    norms = np.einsum("nd,nd->n", chunk, chunk, dtype=np.float64)
    yield _Tile(
      start,
      jnp.asarray(_pad(chunk, size, 0)),
      jnp.asarray(_pad(norms.astype(np.float32), size, np.inf)),
    )


def _pad(rows: np.ndarray, size: int, value: float) -> np.ndarray:
  """Pads rows to `size`, so that all tiles share one compilation."""
  widths = [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
  return np.pad(rows, widths, constant_values=value)


@jax.jit
def _merge(best: tuple[Array, Array], x: _Tile, y: _Tile) -> tuple:
  """Merges the nearest rows so far with those of a tile, in any order."""
  squares = x.norms[:, None] + y.norms[None, :] - 2 * _products(x, y)
  kept = min(best[0].shape[1], len(y.norms))
  closest, where = jax.lax.top_k(-squares, kept)
  squares = jnp.concatenate([best[0], -closest], 1)
  indices = jnp.concatenate([best[1], where + y.start], 1)
  closest, where = jax.lax.top_k(-squares, best[0].shape[1])
  return -closest, jnp.take_along_axis(indices, where, 1)


@jax.jit
def _count_in_tile(
  x: _Tile, y: _Tile, radius_squares_m: Array
) -> tuple[Array, Array, Array, Array]:
  """Counts pairs that are surely inside, and marks pairs float32 cannot decide.

  Returns:
    [N] int32 number of balls around y that contain each x, [M] int32 number of
    points x inside each ball, [N, M] bool undecided pairs, and their number.
  """
  norms = x.norms[:, None] + y.norms[None, :]
  products = 2 * _products(x, y)
  # The rounding error of a sum of D products grows like sqrt(D).
  slack = float(np.finfo(np.float32).eps) * (8 + 2 * x.rows.shape[1] ** 0.5)
  inside = norms * (1 + slack) - products < radius_squares_m[None, :]
  possible = norms * (1 - slack) - products <= radius_squares_m[None, :]
  doubtful = possible & ~inside
  return (
    inside.sum(1, dtype=jnp.int32),
    inside.sum(0, dtype=jnp.int32),
    doubtful,
    doubtful.sum(dtype=jnp.int32),
  )


def _products(x: _Tile, y: _Tile) -> Array:
  """Returns the [N, M] inner products of [N, D] and [M, D]."""
  return jnp.einsum(
    "nd,md->nm", x.rows, y.rows, precision=jax.lax.Precision.HIGHEST
  )


def _measure(
  rows_nd: np.ndarray, reference_md: np.ndarray, found_nc: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns indices and distances of the k nearest candidates, sorted."""
  count, candidates = found_nc.shape
  rows = np.repeat(np.arange(count), candidates)
  distances = _between(rows_nd, rows, reference_md, found_nc.ravel())
  distances = distances.reshape(found_nc.shape)
  order = np.argsort(distances, axis=1, kind="stable")[:, :k]
  return (
    np.take_along_axis(found_nc, order, 1).astype(np.int64),
    np.take_along_axis(distances, order, 1),
  )


def _between(
  a_nd: np.ndarray, n: np.ndarray, b_md: np.ndarray, m: np.ndarray
) -> np.ndarray:
  """Returns [P] float64 distances of the pairs of rows a[n], b[m]."""
  distances = np.empty(len(n))
  # In blocks, because [P, D] can be large.
  for start in range(0, len(n), _PAIRS):
    some = slice(start, start + _PAIRS)
    difference = a_nd[n[some]].astype(np.float64) - b_md[m[some]]
    distances[some] = np.sqrt(np.square(difference).sum(1))
  return distances


def _check(a_nd: np.ndarray, b_md: np.ndarray, tiles: Tiles) -> None:
  require(
    min(tiles) >= 1,
    f"tiles={tuple(tiles)} must both be 1 or more",
  )
  require_comparable(a_nd.shape[1], b_md.shape[1])
  require_finite(a_nd)
  require_finite(b_md)
