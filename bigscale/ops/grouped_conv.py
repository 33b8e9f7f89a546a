"""Grouped 3x3 convolutions, written as each platform likes them.

XLA's CPU backend differentiates `feature_group_count` about a hundred times
slower than a dense convolution of the same cost, so CPUs take another
formulation. Values and gradients of all orders agree; only the speed differs.

Medians on 2 CPU cores, float32, batch 64, groups of 16 channels, milliseconds
for forward + backward / for the gradient of an R1 penalty:

| map        | per_group | patches   | block-diagonal dense |
|------------|-----------|-----------|----------------------|
| 32x32x32   | 79 / 151  | 184 / 325 | 87 / 195             |
| 16x16x64   | 40 / 62   | 112 / 178 | 87 / 188             |
| 8x8x128    | 17 / 31   | 50 / 94   | 37 / 60              |

A TPU's matrix unit is 128 wide and runs groups of 16 or 32 channels mostly
empty. `merged` joins them to groups of 128 whose kernels are zero off the
diagonal blocks. Estimated cycles of the TPU compiler for v5e at 1.5 GHz, one
R3GAN block in bfloat16 (float32 at 4 px), forward + backward, milliseconds:

| map, group width      | native | merged | merged to 256 |
|-----------------------|--------|--------|---------------|
| 64 px, 32,  8 images  | 64.4   | 19.2   |               |
| 32 px, 32, 16 images  | 22.2   | 11.5   |               |
| 16 px, 32, 32 images  | 12.1   | 4.5    | 6.9           |
|  8 px, 32, 32 images  | 2.0    | 1.4    |               |
|  4 px, 32, 32 images  | 0.42   | 0.64   |               |
|  8 px, 16, 32 images  | 0.69   | 0.76   |               |
|  4 px, 16, 32 images  | 0.21   | 0.27   |               |

With the gradient of R1: 22.8 to 9.3 at 16 px, 4.2 to 2.5 at 8 px (width 32).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigscale.types import Array

# One XLA convolution per group: beyond this many the program grows too long.
_MAX_UNROLLED_GROUPS = 32
_MERGED_WIDTH = 128  # Channels that a TPU's matrix unit takes.
# Below this product of side, px, and group width merging costs more than it
# saves: between 128, where it loses, and 256, where it wins (see the table).
_MERGE_FROM = 256


def conv(x_bhwc: Array, w_hwio: Array) -> Array:
  """Dense convolution, stride 1, zero padding that keeps H and W.

  A 1x1 kernel becomes a product of two matrices. Not an einsum over B, H and
  W: XLA's CPU backend takes five times as long for the gradient of that.
  """
  if w_hwio.shape[:2] == (1, 1):
    *bhw, channels = x_bhwc.shape
    return (x_bhwc.reshape(-1, channels) @ w_hwio[0, 0]).reshape(*bhw, -1)
  return jax.lax.conv_general_dilated(
    x_bhwc,
    w_hwio,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def native(x_bhwc: Array, w_hwio: Array, groups: int) -> Array:
  """XLA's own form: `feature_group_count`."""
  return jax.lax.conv_general_dilated(
    x_bhwc,
    w_hwio,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def per_group(x_bhwc: Array, w_hwio: Array, groups: int) -> Array:
  """One dense convolution for every group."""
  if groups == 1:
    return conv(x_bhwc, w_hwio)
  parts = zip(
    jnp.split(x_bhwc, groups, axis=-1),
    jnp.split(w_hwio, groups, axis=-1),
    strict=True,
  )
  return jnp.concatenate([conv(x, w) for x, w in parts], axis=-1)


def patches(x_bhwc: Array, w_hwio: Array, groups: int) -> Array:
  """Shifted copies of the input and one batched matrix product."""
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


def merged(x_bhwc: Array, w_hwio: Array, groups: int) -> Array:
  """`native` with groups joined to `_MERGED_WIDTH` channels, mostly zeros."""
  kh, kw, group_in, out = w_hwio.shape
  count = min(groups, max(1, _MERGED_WIDTH // group_in))
  while groups % count:
    count -= 1
  # Row block j of a joined kernel is that of its j-th group, and zero for the
  # channels of the others.
  w_hwignmo = w_hwio.reshape(kh, kw, 1, group_in, groups // count, count, -1)
  own_jm = jnp.eye(count, dtype=w_hwio.dtype).reshape(
    1, 1, count, 1, 1, count, 1
  )
  joined = (w_hwignmo * own_jm).reshape(kh, kw, count * group_in, out)
  return native(x_bhwc, joined, groups // count)


FORMULATIONS: dict[str, Callable[[Array, Array, int], Array]] = {
  "native": native,
  "per_group": per_group,
  "patches": patches,
  "merged": merged,
}


def choose(
  formulation: str, platform: str, groups: int, side: int, group_width: int
) -> str:
  """Names the formulation that `auto` stands for.

  Args:
    formulation: a key of `FORMULATIONS`, or `auto`.
    platform: of the devices that will run it: `cpu`, `gpu` or `tpu`.
    groups: of the convolution.
    side: of the map, px.
    group_width: input channels of a group.
  """
  if formulation != "auto":
    return formulation
  if platform == "cpu":
    return "per_group" if groups <= _MAX_UNROLLED_GROUPS else "patches"
  if platform == "tpu" and side * group_width >= _MERGE_FROM:
    return "merged" if group_width < _MERGED_WIDTH else "native"
  return "native"
