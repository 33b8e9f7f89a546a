"""Grouped 3x3 convolutions, in formulations for each platform.

A group of R3GAN has 16 or 32 channels. A TPU's matrix unit is 128 wide, so such
groups leave most of it idle. XLA's CPU backend differentiates
`feature_group_count` about a hundred times slower than a dense convolution of
the same cost. Therefore several groups can be merged into one whose kernel is
zero outside the diagonal blocks. All formulations have the same values and the
same gradients of all orders. Only the speed differs.

TPU: estimated cycles of the compiler for v5e at 1.5 GHz, one R3GAN block in
bfloat16 (float32 at 4 px), forward + backward, milliseconds:

| map, group width      | native | merged_128 | merged_256 |
|-----------------------|--------|------------|------------|
| 64 px, 32,  8 images  | 64.4   | 19.2       |            |
| 32 px, 32, 16 images  | 22.2   | 11.5       |            |
| 16 px, 32, 32 images  | 12.1   | 4.5        | 6.9        |
|  8 px, 32, 32 images  | 2.0    | 1.4        |            |
|  4 px, 32, 32 images  | 0.42   | 0.64       |            |
| 16 px, 16, 32 images  | 4.6    | 1.7        |            |
|  8 px, 16, 32 images  | 0.69   | 0.76       |            |
|  4 px, 16, 32 images  | 0.21   | 0.27       |            |

With the gradient of R1, merging reduces 22.8 to 9.3 at 16 px and 4.2 to 2.5 at
8 px (width 32). Nine shifted matrix products take 3.6 at 8 px, width 32. For
small maps, building the merged kernel costs more than it saves.

Two further measures halve the time of a merged block (16 px, 16: 2.6 to 1.7
ms). First, a 1x1 kernel remains a convolution. As a matrix product it would fix
the order of B, H, W and C, and the map would be copied before and after each
3x3 convolution. Second, the merged kernel is built without moving O; see
`block_diagonal`.

CPU: processor milliseconds on one core, float32, 128 images, groups of 16, one
convolution with its activations, best of 12. In brackets: the time of a block
with the gradient of R1, relative to PyTorch, best of 5.

| map, channels | native | per_group | split_32  | split_64   | dense |
|---------------|--------|-----------|-----------|------------|-------|
| 16 px, 64     | 39     | 21 (0.80) | 22 (0.77) | 30 (0.71)  | 29    |
|  8 px, 128    | 20     | 12 (0.67) | 12 (0.66) | 17 (0.80)  | 24    |
|  8 px, 256    | 57     | 32 (1.30) | 32 (1.02) | 40 (1.28)  | 120   |

The gradient of the weights at 16 px takes 29, 30 and 37 for the middle three,
and 94 as three products of shifted rows. `patches` takes five times as long as
a convolution. With YNNPACK, which XLA uses by default (`parallel/compiler.py`),
the gradient of a dense kernel takes five times as long.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigscale.types import Array

Formulation = Callable[[Array, Array, int], Array]

# Maximum number of XLA convolutions; more would make the program too long.
_MAX_PARTS = 32
# On a TPU, the smallest product of side (px) and group width for which merging
# saves time. It costs time at 128 and saves time at 256.
_MERGE_FROM = 256


def conv(x_bhwc: Array, w_hwio: Array, *, platform: str = "cpu") -> Array:
  """Computes a dense convolution with stride 1 that keeps H and W.

  Except on a TPU, a 1x1 kernel becomes a product of two matrices. It is not an
  einsum over B, H and W, whose gradient takes five times as long on XLA's CPU
  backend.

  Args:
    x_bhwc: [B, H, W, I].
    w_hwio: [h, w, I, O], of the same dtype.
    platform: platform of the devices that will run it: `cpu`, `gpu` or `tpu`.

  Returns:
    [B, H, W, O].
  """
  if w_hwio.shape[:2] == (1, 1) and platform != "tpu":
    *bhw, channels = x_bhwc.shape
    return (x_bhwc.reshape(-1, channels) @ w_hwio[0, 0]).reshape(*bhw, -1)
  return native(x_bhwc, w_hwio, 1)


def native(x_bhwc: Array, w_hwio: Array, groups: int) -> Array:
  """Uses XLA's `feature_group_count`."""
  return jax.lax.conv_general_dilated(
    x_bhwc,
    w_hwio,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def merged(x_bhwc: Array, w_hwio: Array, groups: int, width: int) -> Array:
  """Merges groups up to `width` channels and uses `feature_group_count`."""
  together = _together(groups, w_hwio.shape[2], width)
  wide_hwio = block_diagonal(w_hwio, groups, together)
  return native(x_bhwc, wide_hwio, groups // together)


def split(x_bhwc: Array, w_hwio: Array, groups: int, width: int) -> Array:
  """Merges groups up to `width` channels and convolves each densely."""
  together = _together(groups, w_hwio.shape[2], width)
  wide_hwio = block_diagonal(w_hwio, groups, together)
  parts = groups // together
  if parts == 1:
    return conv(x_bhwc, wide_hwio)
  pairs = zip(
    jnp.split(x_bhwc, parts, axis=-1),
    jnp.split(wide_hwio, parts, axis=-1),
    strict=True,
  )
  return jnp.concatenate([conv(x, w) for x, w in pairs], axis=-1)


def patches(x_bhwc: Array, w_hwio: Array, groups: int) -> Array:
  """Computes one batched matrix product of shifted copies of the input."""
  b, h, w, channels = x_bhwc.shape
  kh, kw, group_in, out = w_hwio.shape
  group_out = out // groups
  x_gbhwi = jnp.moveaxis(
    x_bhwc.reshape(b, h, w, groups, channels // groups), 3, 0
  )
  pad_h, pad_w = kh // 2, kw // 2
  padding = ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0))
  padded = jnp.pad(x_gbhwi, padding)
  shifted = [
    padded[:, :, i : i + h, j : j + w] for i in range(kh) for j in range(kw)
  ]
  x_gnk = jnp.concatenate(shifted, axis=-1).reshape(groups, b * h * w, -1)
  w_gko = w_hwio.reshape(kh * kw * group_in, groups, group_out)
  y_gno = jnp.einsum("gnk,kgo->gno", x_gnk, w_gko)
  y_gbhwo = y_gno.reshape(groups, b, h, w, group_out)
  return jnp.moveaxis(y_gbhwo, 0, 3).reshape(b, h, w, out)


def block_diagonal(w_hwio: Array, groups: int, together: int) -> Array:
  """Returns the kernel of `groups / together` merged groups.

  It is zero where different original groups meet. The j-th block of rows is the
  kernel itself, masked to the outputs of groups whose index is j modulo
  `together`. O stays the innermost axis: moving the blocks would cost a TPU a
  fifth of the time of a block of layers. The gradient of the masks extracts the
  blocks again.

  Args:
    w_hwio: [h, w, I / groups, O].
    groups: number of groups of the kernel.
    together: number of groups to merge into one; divides `groups`.

  Returns:
    [h, w, together * I / groups, O].
  """
  if together == 1:
    return w_hwio
  out = w_hwio.shape[3]
  block_o = jnp.arange(out) // (out // groups) % together
  zero = jnp.zeros((), w_hwio.dtype)
  rows = [
    jnp.where((block_o == j).reshape(1, 1, 1, out), w_hwio, zero)
    for j in range(together)
  ]
  return jnp.concatenate(rows, axis=2)


def _together(groups: int, group_in: int, width: int) -> int:
  """Returns how many groups to merge into one of at most `width` channels."""
  divisors = [n for n in range(1, groups + 1) if groups % n == 0]
  return max(n for n in divisors if n == 1 or n * group_in <= width)


def _dense(x_bhwc: Array, w_hwio: Array, groups: int) -> Array:
  return split(x_bhwc, w_hwio, groups, width=x_bhwc.shape[-1])


FORMULATIONS: dict[str, Formulation] = {
  "native": native,
  "merged_128": functools.partial(merged, width=128),
  "merged_256": functools.partial(merged, width=256),
  "per_group": functools.partial(split, width=0),
  "split_32": functools.partial(split, width=32),
  "split_64": functools.partial(split, width=64),
  "dense": _dense,
  "patches": patches,
}


def choose(
  formulation: str, platform: str, groups: int, side: int, group_width: int
) -> str:
  """Returns the formulation that `auto` stands for, as measured (see above).

  Args:
    formulation: a key of `FORMULATIONS`, or `auto`.
    platform: platform of the devices that will run it: `cpu`, `gpu` or `tpu`.
      No GPU was measured; it uses `native`.
    groups: number of groups of the convolution.
    side: side of the map, px.
    group_width: number of input channels per group.
  """
  if formulation != "auto":
    return formulation
  if platform == "tpu":
    pays = side * group_width >= _MERGE_FROM
    return "merged_128" if pays else "native"
  if platform == "cpu":
    for name, width in (("split_32", 32), ("split_64", 64)):
      if groups // _together(groups, group_width, width) <= _MAX_PARTS:
        return name
    return "patches"
  return "native"
