"""3x3 convolutions with 2x upsampling before or 2x pooling after them.

`upsample_conv` convolves the map upsampled by nearest neighbor. `conv_pool`
computes the mean over 2 x 2 positions of a convolution. In plain form, both
take 36 products of an input and an output channel per pixel of the smaller map.
Three other forms have the same values and the same gradients of all orders:

- `taps`, 16 products: equal pixels are multiplied by sums of the kernel's
  weights, 4 x 4 of them in total. Upsampling becomes four 2x2 convolutions,
  one for each phase of the result. Pooling becomes one convolution with stride
  2 (four, on CPU).
- `sparse`, 9 products: let S be the sum over 2 x 2 neighbors. An upsampled map
  is S of the map with zeros between its pixels. Pooling is S followed by
  taking every other pixel. S commutes with the convolution, so it follows the
  convolution of the sparse map, and precedes the convolution most of whose
  results are dropped. No weights are summed, which matters for small maps
  with large kernels.
- `phases`, 9 products, only for upsampling: `sparse` with its convolution
  split into those of even and odd rows and columns, so no zeros are
  multiplied.

Milliseconds, forward + backward, of BigGAN-128 (ch 96), 8 images per chip in G
and 16 in D: estimated cycles of the TPU compiler for v5e at 1.5 GHz, bfloat16:

| layer (smaller map, channels)  | plain | taps | sparse | phases |
|--------------------------------|-------|------|--------|--------|
| G  8 px, 1536 to 768           | 0.81  | 1.46 | 0.48   | 0.58   |
| G 32 px, 384 to 192            | 1.23  | 0.78 | 0.77   | 0.42   |
| G 64 px, 192 to 96             | 2.27  | 1.19 | 1.23   | 0.78   |
| D  4 px, 1536 to 1536          | 0.73  | 2.48 | 0.44   |        |
| D 16 px, 384 to 384            | 0.87  | 0.53 | 0.42   |        |
| D 64 px, 96 to 96              | 2.42  | 0.62 | 1.73   |        |

On a TPU, a convolution with stride 2 runs at full speed, and one of a sparse
map multiplies its zeros. XLA's CPU backend is slow at the gradients of both.
CPU milliseconds on 2 cores, float32, batch 64, 64 to 64 channels, forward +
backward:

| layer (smaller map) | plain | taps | sparse or phases |
|---------------------|-------|------|------------------|
| upsampling, 16 px   | 312   | 189  | 326              |
| pooling, 16 px      | 303   | 169  | 205              |

1x1 convolutions commute with both operations, so they are applied to the
smaller map (`doubled_last`, `pooled_first`). On a TPU, a convolution with four
equal taps, sparse or with stride 2, saves a pass over the larger map if that
map is large. Milliseconds including the sum with the other branch, as above.
Upsampling: 1.10 instead of 1.56 to 128 px with 96 channels, 0.87 instead of
1.03 to 64 px with 192. Pooling: 0.40 instead of 0.96 from 128 px with 3
channels, 0.43 instead of 0.76 from 64 px with 96, 0.32 instead of 0.62 from 32
px with 192.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.ops import grouped_conv, precision
from bigscale.spec import Precision
from bigscale.types import Array

Form = Callable[[Array, Array], Array]
_KERNEL_AXES = (0, 1)  # Rows and columns.
_PADDING = ((1, 0), (0, 1))  # Padding of the smaller map, by output phase.


def upsample_nearest2x(x_bhwc: Array) -> Array:
  """Maps [B, H, W, C] to [B, 2H, 2W, C] by repeating every pixel."""
  # Axis by axis, because a TPU takes a tenth longer for both at once.
  return jnp.repeat(jnp.repeat(x_bhwc, 2, axis=1), 2, axis=2)


def _halve(x_bhwc: Array) -> Array:
  """Returns the means over 2 x 2 positions."""
  b, h, w, c = x_bhwc.shape
  return jnp.mean(x_bhwc.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def _plain_upsample(x_bhwc: Array, w_hwio: Array) -> Array:
  return _conv(upsample_nearest2x(x_bhwc), w_hwio)


def _plain_pool(x_bhwc: Array, w_hwio: Array) -> Array:
  return _halve(_conv(x_bhwc, w_hwio))


def _taps_upsample(x_bhwc: Array, w_hwio: Array) -> Array:
  b, h, w, _ = x_bhwc.shape
  taps, rows = _tap_sums(w_hwio), []
  for row in (0, 1):
    pair = [
      _conv(x_bhwc, taps[row::2, column::2], (_PADDING[row], _PADDING[column]))
      for column in (0, 1)
    ]
    rows.append(jnp.concatenate(pair, axis=-1))
  # Adjacent columns are already in order; rows must be interleaved.
  return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def _taps_pool(x_bhwc: Array, w_hwio: Array) -> Array:
  return _conv(x_bhwc, _tap_sums(w_hwio) / 4, ((1, 1), (1, 1)), stride=2)


def _split_taps_pool(x_bhwc: Array, w_hwio: Array) -> Array:
  b, h, w, c = x_bhwc.shape
  x_bhiwjc = x_bhwc.reshape(b, h // 2, 2, w // 2, 2, c)
  taps = _tap_sums(w_hwio) / 4
  # The first tap is one pixel before, so even taps multiply odd pixels.
  return sum(
    _conv(
      x_bhiwjc[:, :, 1 - row, :, 1 - column],
      taps[row::2, column::2],
      (_PADDING[row], _PADDING[column]),
    )
    for row in (0, 1)
    for column in (0, 1)
  )


def _sparse_upsample(x_bhwc: Array, w_hwio: Array) -> Array:
  # Two zeros on each side: the map with zeros in between has height 2H - 1, and
  # S shortens its input by one.
  sparse = _conv(x_bhwc, w_hwio, ((2, 2), (2, 2)), spread=2)
  return _sum_neighbors(sparse)


def _sparse_pool(x_bhwc: Array, w_hwio: Array) -> Array:
  return _strided(_sum_neighbors(_pad(x_bhwc)) / 4, w_hwio)


def _phases_upsample(x_bhwc: Array, w_hwio: Array) -> Array:
  return _phases(precision.current(), x_bhwc, w_hwio)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _phases(stated: Precision | None, x_bhwc: Array, w_hwio: Array) -> Array:
  """Computes the `phases` form, with gradients at the precision `stated`."""
  del stated
  middle, outer, inside, around = slice(1, 2), slice(0, 3, 2), (0, 0), (1, 1)
  # Even or odd rows and columns of the sparse convolution. There is one more
  # odd row and column, because they extend beyond the first and the last pixel.
  ee = _conv(x_bhwc, w_hwio[middle, middle], (inside, inside))
  eo = _conv(x_bhwc, w_hwio[middle, outer], (inside, around))
  oe = _conv(x_bhwc, w_hwio[outer, middle], (around, inside))
  oo = _conv(x_bhwc, w_hwio[outer, outer], (around, around))
  phases = []
  for rows in (slice(None, -1), slice(1, None)):
    even, odd = ee + oe[:, rows], eo + oo[:, rows]
    phases.append([even + odd[:, :, :-1], even + odd[:, :, 1:]])
  return interleave(phases)


def _phases_forward(
  stated: Precision | None, x: Array, w: Array
) -> tuple[Array, tuple[Array, Array]]:
  return _phases(stated, x, w), (x, w)


def _phases_backward(
  stated: Precision | None, saved: tuple[Array, Array], cotangent_bhwo: Array
) -> tuple[Array, Array]:
  return precision.at(stated)(_phases_gradients)(*saved, cotangent_bhwo)


def _phases_gradients(
  x_bhwc: Array, w_hwio: Array, cotangent_bhwo: Array
) -> tuple[Array, Array]:
  """Computes both gradients as those of a strided convolution.

  With the flipped kernel, <y, upsample(x, w)> = <x, strided(S y, w)>.
  """
  x_gradient, pull = jax.vjp(
    functools.partial(_strided, _sum_neighbors(_pad(cotangent_bhwo))),
    _turn(w_hwio),
  )
  return x_gradient, _turn(pull(x_bhwc)[0])


# JAX's own gradient would convolve maps with zeros, at four times the cost.
_phases.defvjp(_phases_forward, _phases_backward)


def _doubled_last(x_bhwc: Array, w_hwio: Array) -> Array:
  return upsample_nearest2x(grouped_conv.conv(x_bhwc, w_hwio))


def _sparse_1x1(x_bhwc: Array, w_hwio: Array) -> Array:
  four = jnp.tile(w_hwio, (2, 2, 1, 1))
  return _conv(x_bhwc, four, ((1, 1), (1, 1)), spread=2)


def _pooled_first(x_bhwc: Array, w_hwio: Array) -> Array:
  return grouped_conv.conv(_halve(x_bhwc), w_hwio)


def _strided_1x1(x_bhwc: Array, w_hwio: Array) -> Array:
  return _strided(x_bhwc, jnp.tile(w_hwio / 4, (2, 2, 1, 1)))


UPSAMPLE: dict[str, Form] = {
  "plain": _plain_upsample,
  "taps": _taps_upsample,
  "sparse": _sparse_upsample,
  "phases": _phases_upsample,
}
POOL: dict[str, Form] = {
  "plain": _plain_pool,
  "taps": _taps_pool,
  "split_taps": _split_taps_pool,
  "sparse": _sparse_pool,
}
UPSAMPLE_1X1: dict[str, Form] = {
  "doubled_last": _doubled_last,
  "sparse": _sparse_1x1,
}
POOL_1X1: dict[str, Form] = {
  "pooled_first": _pooled_first,
  "strided": _strided_1x1,
}


def upsample_conv(x_bhwc: Array, w_hwio: Array, *, platform: str) -> Array:
  """Computes a 3x3 or 1x1 convolution of a map upsampled by nearest neighbor.

  Args:
    x_bhwc: [B, H, W, I].
    w_hwio: [3, 3, I, O] or [1, 1, I, O], of the same dtype.
    platform: platform of the devices: `cpu`, `gpu` or `tpu`. It determines the
      form, together with H, as measured (see the module docstring). No GPU was
      measured.

  Returns:
    [B, 2H, 2W, O].
  """
  if w_hwio.shape[:2] == (1, 1):
    sparse = platform == "tpu" and x_bhwc.shape[1] >= 16
    form = "sparse" if sparse else "doubled_last"
    return UPSAMPLE_1X1[form](x_bhwc, w_hwio)
  form = {"cpu": "taps", "tpu": "phases"}.get(platform, "plain")
  if platform == "tpu" and x_bhwc.shape[1] <= 8:
    form = "sparse"
  return UPSAMPLE[form](x_bhwc, w_hwio)


def conv_pool(x_bhwc: Array, w_hwio: Array, *, platform: str) -> Array:
  """Computes a 3x3 or 1x1 convolution and its means over 2 x 2 positions.

  Args:
    x_bhwc: [B, H, W, I], H and W even.
    w_hwio: [3, 3, I, O] or [1, 1, I, O], of the same dtype.
    platform: see `upsample_conv`.

  Returns:
    [B, H/2, W/2, O].
  """
  if w_hwio.shape[:2] == (1, 1):
    strided = platform == "tpu" and x_bhwc.shape[1] >= 16
    form = "strided" if strided else "pooled_first"
    return POOL_1X1[form](x_bhwc, w_hwio)
  form = {"cpu": "split_taps", "tpu": "taps"}.get(platform, "plain")
  if platform == "tpu" and x_bhwc.shape[1] <= 32:
    form = "sparse"
  return POOL[form](x_bhwc, w_hwio)


def _conv(
  x_bhwc: Array,
  w_hwio: Array,
  padding: Sequence[tuple[int, int]] = ((1, 1), (1, 1)),
  *,
  stride: int = 1,
  spread: int = 1,
) -> Array:
  return lax.conv_general_dilated(
    x_bhwc,
    w_hwio,
    (stride, stride),
    padding,
    lhs_dilation=(spread, spread),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _strided(x_bhwc: Array, w_hwio: Array) -> Array:
  return _conv(x_bhwc, w_hwio, ((0, 0), (0, 0)), stride=2)


def _pad(x_bhwc: Array) -> Array:
  return jnp.pad(x_bhwc, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _sum_neighbors(x_bhwc: Array) -> Array:
  """Computes S: [B, H, W, C] to [B, H-1, W-1, C]."""
  x_bhwc = x_bhwc[:, :-1] + x_bhwc[:, 1:]
  return x_bhwc[:, :, :-1] + x_bhwc[:, :, 1:]


def _turn(w_hwio: Array) -> Array:
  """Returns the kernel of the transposed convolution."""
  return jnp.flip(w_hwio, _KERNEL_AXES).swapaxes(2, 3)


def _tap_sums(w_hwio: Array) -> Array:
  """Maps [3, 3, I, O] to [4, 4, I, O].

  Both axes become w0, w0 + w1, w1 + w2, w2.
  """
  # In bfloat16 the sums would be rounded twice.
  wide = w_hwio.astype(jnp.promote_types(w_hwio.dtype, jnp.float32))
  for axis in _KERNEL_AXES:
    first, middle, last = jnp.split(wide, 3, axis=axis)
    wide = jnp.concatenate(
      [first, first + middle, middle + last, last], axis=axis
    )
  return wide.astype(w_hwio.dtype)


def interleave(phases: Sequence[Sequence[Array]]) -> Array:
  """Interleaves phases [row][column] of [B, H, W, C] to [B, 2H, 2W, C].

  The result is a sum of four maps with zeros in between, which a compiler fuses
  into one loop. A stack of the phases would be copied once more on a TPU.
  """
  zero = jnp.zeros((), phases[0][0].dtype)
  return sum(
    lax.pad(
      phases[row][column],
      zero,
      ((0, 0, 0), (row, 1 - row, 1), (column, 1 - column, 1), (0, 0, 0)),
    )
    for row in (0, 1)
    for column in (0, 1)
  )
