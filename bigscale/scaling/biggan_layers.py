"""The layers of BigGAN and BigGAN-deep; see `scaling/networks`."""

from collections.abc import Iterator

from bigscale.scaling.layers import (
  MEAN,
  NORM,
  RELU,
  SUM,
  TANH,
  Layer,
  attention,
  conv,
  dense,
  embedding,
  vectors,
)
from bigscale.spec import BigganDeepSpec, BigganSpec
from bigscale.spec import biggan as biggan_tables
from bigscale.spec import biggan_deep as deep_tables


def _norm(
  name: str, side: int, channels: int, condition: int, classes: int, first: bool
) -> Iterator[Layer]:
  """Batch norm and ReLU.

  Args:
    name: of it.
    side: of the map, px.
    channels: of the map.
    condition: length of the vector that gain and bias are made of; 0 is none.
    classes: where positive, gain and bias are rows of tables.
    first: the condition is not learned.
  """
  cost = side**2 * channels * (NORM + RELU)
  if classes:
    for part in ("gain", "bias"):
      yield embedding(f"{name}/{part}", classes, channels)
  elif condition:
    for part in ("gain", "bias"):
      yield dense(f"{name}/{part}", condition, channels, first=first)
  else:
    yield vectors(name, 2 * channels, cost)
    return
  yield vectors(f"{name}/norm", 0, cost)


def biggan_g(spec: BigganSpec) -> Iterator[Layer]:
  """BigGAN's generator."""
  width, *widths = (
    spec.g_width * m for m in biggan_tables.G_WIDTHS[spec.resolution]
  )
  chunk = spec.latent_dim
  if spec.hierarchical:
    chunk //= len(widths) + 1
  by_class = bool(spec.num_classes) and not (
    spec.shared_dim or spec.hierarchical
  )
  classes = spec.num_classes if by_class else 0
  condition = chunk if spec.hierarchical else 0
  if spec.num_classes and not by_class:
    # Without a length of its own, as long as there are classes.
    shared = spec.shared_dim or spec.num_classes
    condition += shared
    yield embedding("shared", spec.num_classes, shared)
  known = not spec.num_classes
  yield dense("linear", chunk, 16 * width, bias=True, first=True)
  for i, (out, side) in enumerate(
    zip(widths, biggan_tables.g_sides(spec.resolution), strict=True)
  ):
    block = f"block{i}"
    yield from _norm(
      f"{block}/norm1", side // 2, width, condition, classes, known
    )
    yield conv(f"{block}/conv1", side, width, out)
    yield from _norm(f"{block}/norm2", side, out, condition, classes, known)
    yield conv(f"{block}/conv2", side, out, out, pointwise=SUM)
    yield conv(f"{block}/shortcut", side // 2, width, out, size=1)
    if side in spec.g_attention:
      yield from attention(f"attention{i}", side, out)
    width = out
  yield from _norm("output_norm", spec.resolution, width, 0, 0, known)
  yield conv(
    "to_rgb", spec.resolution, width, spec.image_channels, pointwise=TANH
  )


def biggan_d(spec: BigganSpec) -> Iterator[Layer]:
  """BigGAN's discriminator."""
  side, channels = spec.resolution, spec.image_channels
  smallest = biggan_tables.d_smallest_side(side)
  for i, (multiplier, named) in enumerate(
    zip(
      biggan_tables.D_WIDTHS[spec.resolution],
      biggan_tables.d_sides(spec.resolution),
      strict=True,
    )
  ):
    block, out, first = f"block{i}", multiplier * spec.d_width, i == 0
    inner = out if first or spec.d_wide else channels
    halved = side > smallest
    active = RELU * (2 if i else 1)  # Before either 3x3.
    yield conv(
      f"{block}/conv1", side, channels, inner, pointwise=active, first=first
    )
    yield conv(
      f"{block}/conv2", side, inner, out, pointwise=2 * SUM if halved else SUM
    )
    side = side // 2 if halved else side
    if halved or channels != out:
      yield conv(
        f"{block}/shortcut",
        side,
        channels,
        out,
        size=1,
        pointwise=MEAN * channels / out if halved else 0,
        first=first,
      )
    if named in spec.d_attention:
      yield from attention(f"attention{i}", side, out)
    channels = out
  yield from _projection(spec, side, channels)


def _projection(
  spec: BigganSpec | BigganDeepSpec, side: int, channels: int
) -> Iterator[Layer]:
  """The end of a projection discriminator."""
  yield vectors("features", 0, side**2 * channels * (RELU + SUM))
  yield dense("linear", channels, 1, bias=True)
  if spec.num_classes:
    yield embedding("projection", spec.num_classes, channels)


def deep_g(spec: BigganDeepSpec) -> Iterator[Layer]:
  """BigGAN-deep's generator."""
  width, *widths = (
    spec.g_width * m for m in deep_tables.G_WIDTHS[spec.resolution]
  )
  condition, known = spec.latent_dim, not spec.num_classes
  if spec.num_classes:
    condition += spec.shared_dim
    yield embedding("shared", spec.num_classes, spec.shared_dim)
  yield dense("linear", condition, 16 * width, bias=True, first=known)
  _, *above = deep_tables.sides(spec.resolution)
  for stage, (last_width, above_side) in enumerate(
    zip(widths, above, strict=True)
  ):
    for place in range(spec.g_depth):
      block = f"block{stage * spec.g_depth + place}"
      is_last = place == spec.g_depth - 1
      before, inner = above_side // 2, width // 4
      side, out = (above_side, last_width) if is_last else (before, width)
      yield from _norm(f"{block}/norm1", before, width, condition, 0, known)
      yield conv(f"{block}/conv1", before, width, inner, size=1)
      yield from _norm(f"{block}/norm2", before, inner, condition, 0, known)
      yield conv(f"{block}/conv2", side, inner, inner)
      yield from _norm(f"{block}/norm3", side, inner, condition, 0, known)
      yield conv(f"{block}/conv3", side, inner, inner)
      yield from _norm(f"{block}/norm4", side, inner, condition, 0, known)
      yield conv(f"{block}/conv4", side, inner, out, size=1, pointwise=SUM)
      width = out
    if above_side in spec.g_attention:
      index = stage * spec.g_depth + spec.g_depth - 1
      yield from attention(f"attention{index}", above_side, width)
  yield from _norm("output_norm", spec.resolution, width, 0, 0, known)
  yield conv(
    "to_rgb",
    spec.resolution,
    width,
    spec.g_width if spec.layout == "tfhub" else spec.image_channels,
    kept=spec.image_channels,
    pointwise=TANH,
  )


def deep_d(spec: BigganDeepSpec) -> Iterator[Layer]:
  """BigGAN-deep's discriminator."""
  side = spec.resolution
  channels, *widths = (spec.d_width * m for m in deep_tables.D_WIDTHS[side])
  yield conv("from_rgb", side, spec.image_channels, channels, first=True)
  for stage, out in enumerate(widths):
    for place in range(spec.d_depth):
      block, inner = f"block{stage}_{place}", out // 4
      yield conv(
        f"{block}/conv1", side, channels, inner, size=1, pointwise=2 * RELU
      )
      yield conv(f"{block}/conv2", side, inner, inner, pointwise=RELU)
      yield conv(f"{block}/conv3", side, inner, inner, pointwise=RELU)
      pooled = 0.0
      if place == 0:
        side //= 2
        pooled = MEAN * (inner + channels) / out
      yield conv(
        f"{block}/conv4", side, inner, out, size=1, pointwise=SUM + pooled
      )
      if out > channels:
        yield conv(f"{block}/shortcut", side, channels, out - channels, size=1)
      channels = out
    if side in spec.d_attention:
      yield from attention(f"attention{stage}", side, channels)
  yield from _projection(spec, side, channels)
