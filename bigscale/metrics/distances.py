"""Distances between all rows of two sets of features, a tile at a time.

No array of all pairs is ever made: memory holds both sets in float32 and one
tile of distances, however many rows there are.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y leaves the work to matrix products, but
cancels where two rows lie close to each other and far from the origin. So

*   features are first centred on the reference's mean and scaled to norms of
    about 1, in float64; the products are float32 at the highest precision
    (TPUs would round to bfloat16);
*   the nearest rows found so are measured again, as float64 differences: of a
    copy the distance is exactly 0;
*   so are those which float32 cannot tell from the radius that they are
    compared with.
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

# Candidates beyond k that are measured again: float32 may have put them a
# little too far.
_SPARE = 4
# Pairs measured again at once.
_PAIRS = 8192


class Tiles(NamedTuple):
  """How much is computed at once; 4 * rows * reference bytes.

  Attributes:
    rows: of the first set.
    reference: rows of the second.
  """

  rows: int = 2048
  reference: int = 8192


DEFAULT_TILES = Tiles()


class Neighbours(NamedTuple):
  """The k nearest rows of a reference set, nearest first.

  Attributes:
    indices: [N, k] int64, into the reference.
    distances: [N, k] float64, Euclidean.
  """

  indices: np.ndarray
  distances: np.ndarray


class Held(NamedTuple):
  """Which balls hold which points.

  Attributes:
    balls_of_point: [N] int64, balls that hold each point.
    points_of_ball: [M] int64, points that each ball holds.
  """

  balls_of_point: np.ndarray
  points_of_ball: np.ndarray


def nearest(
  rows_nd: np.ndarray,
  reference_md: np.ndarray,
  k: int,
  tiles: Tiles = DEFAULT_TILES,
) -> Neighbours:
  """The k rows of a reference that lie nearest to each row.

  Distances are exact. So is the choice, unless more than four further rows
  are as near as the k-th to within what float32 resolves.

  Args:
    rows_nd: [N, D] of any real type.
    reference_md: [M, D], M >= k. A row that is in both sets finds itself.
    k: neighbours of each row.
    tiles: see `Tiles`.

  Raises:
    SpecError: k or a tile is below 1, the reference has fewer than k rows,
      features are of different length or not finite.
  """
  _check(rows_nd, reference_md, tiles)
  count = len(reference_md)
  require(k >= 1, f"k={k} is not a number of neighbours; use 1 or more")
  require(
    count >= k,
    f"{count} reference rows have no {k} nearest; give at least {k}",
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
  return Neighbours(indices, distances)


def count_within(
  points_nd: np.ndarray,
  centres_md: np.ndarray,
  radii_m: np.ndarray,
  boundary: Literal["inside", "outside"],
  tiles: Tiles = DEFAULT_TILES,
) -> Held:
  """Counts points in balls.

  Args:
    points_nd: [N, D] of any real type.
    centres_md: [M, D].
    radii_m: [M], 0 or more.
    boundary: where points belong whose distance is the radius; float64
      decides.
    tiles: see `Tiles`.

  Raises:
    SpecError: a tile is below 1, features are of different length or not
      finite.
  """
  _check(points_nd, centres_md, tiles)
  frame = _frame_of(centres_md, tiles.reference)
  balls = list(_tiles(centres_md, frame, tiles.reference))
  balls_of_point = np.zeros(len(points_nd), np.int64)
  points_of_ball = np.zeros(len(centres_md), np.int64)
  squares = np.square(np.asarray(radii_m, np.float64) / frame.scale)
  for tile in _tiles(points_nd, frame, tiles.rows):
    interruption.point()
    points = slice(tile.start, tile.start + len(tile.norms))
    for ball in balls:
      centres = slice(ball.start, ball.start + len(ball.norms))
      square = _pad(squares[centres].astype(np.float32), len(ball.norms), 0)
      of_point, of_ball, doubtful, doubts = _held(tile, ball, square)
      for counts, rows, sure in (
        (balls_of_point, points, of_point),
        (points_of_ball, centres, of_ball),
      ):
        counts[rows] += np.asarray(sure)[: len(counts[rows])]
      if doubts > 0:
        n, m = np.nonzero(np.asarray(doubtful))
        n, m = n + tile.start, m + ball.start
        distances = _between(points_nd, n, centres_md, m)
        if boundary == "inside":
          inside = distances <= radii_m[m]
        else:
          inside = distances < radii_m[m]
        np.add.at(balls_of_point, n[inside], 1)
        np.add.at(points_of_ball, m[inside], 1)
  return Held(balls_of_point, points_of_ball)


class _Frame(NamedTuple):
  """Coordinates in which float32 resolves best.

  Attributes:
    centre: [D] float64, new origin.
    scale: new unit.
  """

  centre: np.ndarray
  scale: float


def _frame_of(reference_md: np.ndarray, size: int) -> _Frame:
  count = len(reference_md)
  centre = reference_md.mean(0, dtype=np.float64)
  squares = sum(
    float(np.square(reference_md[start : start + size] - centre[None]).sum())
    for start in range(0, count, size)
  )
  return _Frame(centre, math.sqrt(squares / count) or 1.0)


class _Tile(NamedTuple):
  """Some rows of a set; the last tile is padded.

  Attributes:
    start: index of the first row.
    rows: [T, D] float32, in a frame.
    norms: [T] float32, squared lengths; infinite for padding, which so is
      nobody's neighbour and in no ball.
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
    chunk = ((chunk - frame.centre[None]) / frame.scale).astype(np.float32)
    # In float64, so that long features do not add up rounding.
    norms = np.einsum("nd,nd->n", chunk, chunk, dtype=np.float64)
    yield _Tile(
      start,
      jnp.asarray(_pad(chunk, size, 0)),
      jnp.asarray(_pad(norms.astype(np.float32), size, np.inf)),
    )


def _pad(rows: np.ndarray, size: int, value: float) -> np.ndarray:
  """To one shape for all tiles: one compilation."""
  widths = [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
  return np.pad(rows, widths, constant_values=value)


@jax.jit
def _merge(best: tuple[Array, Array], x: _Tile, y: _Tile) -> tuple:
  """The nearest of those found before and those of a tile, in any order."""
  squares = x.norms[:, None] + y.norms[None, :] - 2 * _products(x, y)
  kept = min(best[0].shape[1], len(y.norms))
  closest, where = jax.lax.top_k(-squares, kept)
  squares = jnp.concatenate([best[0], -closest], 1)
  indices = jnp.concatenate([best[1], where + y.start], 1)
  closest, where = jax.lax.top_k(-squares, best[0].shape[1])
  return -closest, jnp.take_along_axis(indices, where, 1)


@jax.jit
def _held(
  x: _Tile, y: _Tile, radius_squares_m: Array
) -> tuple[Array, Array, Array, Array]:
  """What is surely inside, and what is not to be decided in float32.

  Returns:
    [N] int32 balls around y that hold each x, [M] int32 points x in each ball,
    [N, M] bool pairs in doubt, and their number.
  """
  norms = x.norms[:, None] + y.norms[None, :]
  products = 2 * _products(x, y)
  # Rounding of a sum of D products grows like the root of D.
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
  """[N, M] of [N, D] and [M, D]."""
  return jnp.einsum(
    "nd,md->nm", x.rows, y.rows, precision=jax.lax.Precision.HIGHEST
  )


def _measure(
  rows_nd: np.ndarray, reference_md: np.ndarray, found_nc: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Indices and distances of the k nearest among candidates, nearest first."""
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
  """[P] float64 distances of the pairs of rows a[n], b[m]."""
  distances = np.empty(len(n))
  # Some at a time: [P, D] would be large.
  for start in range(0, len(n), _PAIRS):
    some = slice(start, start + _PAIRS)
    difference = a_nd[n[some]].astype(np.float64) - b_md[m[some]]
    distances[some] = np.sqrt(np.square(difference).sum(1))
  return distances


def _check(a_nd: np.ndarray, b_md: np.ndarray, tiles: Tiles) -> None:
  require(
    min(tiles) >= 1,
    f"tiles of {tiles.rows} x {tiles.reference} rows hold nothing; "
    "use 1 x 1 or more",
  )
  require_comparable(a_nd.shape[1], b_md.shape[1])
  require_finite(a_nd)
  require_finite(b_md)
