"""Random motions of the plane, as inverse homogeneous matrices.

A motion is represented by the [B, 3, 3] matrix that maps (x, y, 1) of the
output to the input. Coordinates are pixels relative to the image's center, with
y downwards. Therefore the first operation on the image is the leftmost factor.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigscale.ops.augment import draws
from bigscale.types import Array

# Maximum translation by whole pixels, as a fraction of the side.
_WHOLE_TRANSLATION = 0.125
# Standard deviations of log2 of the factors.
_SCALE_STD = 0.2
_ANISOTROPY_STD = 0.2
# Standard deviation of other translations, as a fraction of the side.
_TRANSLATION_STD = 0.125


class Motion(NamedTuple):
  """Random motions of a batch.

  Attributes:
    inverse_b33: [B, 3, 3] float32, from output to input.
    drawn_b: [B] bool; if False, the matrix is the identity.
  """

  inverse_b33: Array
  drawn_b: Array


def compose(*inverses_b33: Array) -> Array:
  """Returns the product of inverse motions, in order of application."""
  product = inverses_b33[0]
  for inverse in inverses_b33[1:]:
    # Matrix units round to bfloat16 by default, which is an error of one pixel
    # at 256 px.
    product = jnp.matmul(product, inverse, precision=jax.lax.Precision.HIGHEST)
  return product


def identity(batch: int) -> Array:
  """Returns identity matrices [batch, 3, 3]."""
  return jnp.broadcast_to(jnp.eye(3, dtype=jnp.float32), (batch, 3, 3))


def translate(x_b: Array, y_b: Array) -> Array:
  """Moves the image by (x, y) pixels."""
  return _matrix((1, 0, -x_b), (0, 1, -y_b), (0, 0, 1))


def scale(x_b: Array, y_b: Array) -> Array:
  """Enlarges the image by the factors x and y."""
  return _matrix((1 / x_b, 0, 0), (0, 1 / y_b, 0), (0, 0, 1))


def rotate(theta_b: Array) -> Array:
  """Rotates the image counterclockwise by theta radians."""
  cos, sin = jnp.cos(theta_b), jnp.sin(theta_b)
  return _matrix((cos, -sin, 0), (sin, cos, 0), (0, 0, 1))


def draw_blit(u_b7: Array, side: int, probability: Array | float) -> Motion:
  """Generates an x-flip, quarter turns and a translation by whole pixels.

  Each is selected with `probability`. A selected flip is still the identity
  with probability 1/2, and a selected turn with probability 1/4. Translations
  are uniform up to an eighth of the side.

  Args:
    u_b7: [B, 7] uniform in [0, 1).
    side: side of the image, pixels.
    probability: [] in [0, 1].
  """
  u = u_b7.T
  flipping, turning, moving = u[:3] < probability
  flip = jnp.where(flipping, draws.whole(u[3], 2), 0)
  turns = jnp.where(turning, draws.whole(u[4], 4), 0)
  far = jnp.round((2 * u[5:] - 1) * (_WHOLE_TRANSLATION * side))
  shift = jnp.where(moving[None], far, 0.0)
  inverse = compose(
    scale(1 - 2 * flip, jnp.ones_like(flip)),
    jnp.round(rotate(jnp.pi / 2 * turns)),
    translate(shift[0], shift[1]),
  )
  return Motion(inverse, flipping | turning | moving)


def draw_geometric(
  u_b11: Array, side: int, probability: Array | float
) -> Motion:
  """Generates scaling, rotation, anisotropic scaling, rotation, translation.

  Scales are log-normal, angles are uniform over the circle, and translations
  are normal.
  The rotations before and after the anisotropic scaling each have a probability
  of 1 - sqrt(1 - p), so at least one of them is applied with probability p.

  Args:
    u_b11: [B, 11] uniform in [0, 1).
    side: side of the image, pixels.
    probability: [] in [0, 1].
  """
  u = u_b11.T
  once = 1 - jnp.sqrt(jnp.clip(1 - probability, 0, 1))
  scaling, stretching, moving = u[:3] < probability
  turning_before, turning_after = u[3:5] < once
  normal_size, normal_stretch, *normal_shift = draws.normal(u[5:9])
  angles = draws.angle(u[9:])
  size = jnp.where(scaling, jnp.exp2(_SCALE_STD * normal_size), 1.0)
  before = jnp.where(turning_before, angles[0], 0.0)
  stretch = jnp.exp2(_ANISOTROPY_STD * normal_stretch)
  stretch = jnp.where(stretching, stretch, 1.0)
  after = jnp.where(turning_after, angles[1], 0.0)
  x, y = (
    jnp.where(moving, _TRANSLATION_STD * side * shift, 0.0)
    for shift in normal_shift
  )
  inverse = compose(
    scale(size, size),
    rotate(before),
    scale(stretch, 1 / stretch),
    rotate(after),
    translate(x, y),
  )
  drawn = scaling | turning_before | stretching | turning_after | moving
  return Motion(inverse, drawn)


def _matrix(*rows: tuple[Array | float, ...]) -> Array:
  """Returns [B, 3, 3] float32 from entries that are [B] or scalars."""
  batch = next(jnp.shape(v) for row in rows for v in row if jnp.ndim(v))
  entries = [
    jnp.broadcast_to(jnp.asarray(v, jnp.float32), batch)
    for row in rows
    for v in row
  ]
  return jnp.stack(entries, axis=-1).reshape(*batch, 3, 3)
