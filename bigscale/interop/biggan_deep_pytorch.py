"""Converts state dicts of BigGAN-PyTorch's `BigGANdeep` (the authors' code).

There are two variants. Files of the current code use `layout="pytorch"`. Files
of its first versions have the condition [z, y] and a wide last convolution like
the official weights, and use `layout="tfhub"`.
"""

from bigscale.interop import biggan_sizes
from bigscale.interop import biggan_state_dict as state_dict
from bigscale.interop.tensors import (
  ConvertedWeights,
  Format,
  Shapes,
  Tensors,
  TensorsError,
  TensorSource,
  shapes_of,
  sizes,
)
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.biggan_deep import networks as biggan_deep
from bigscale.models.biggan_deep.spec import D_WIDTHS, sides


def generator(spec: BigganDeepSpec, tensors: Tensors) -> ConvertedWeights:
  """Converts the authors' `Generator.state_dict()`.

  Args:
    spec: spec with the sizes of the weights. The file may contain more singular
      values than `num_singular_values`.
    tensors: tensors by the authors' names, in PyTorch's axis order.

  Raises:
    TensorsError: names every missing, unexpected and misshaped tensor.
  """
  return state_dict.load(_shapes(spec, "g"), "g", _renames(spec, "g"), tensors)


def discriminator(spec: BigganDeepSpec, tensors: Tensors) -> ConvertedWeights:
  """Converts the authors' `Discriminator.state_dict()`; see `generator`."""
  return state_dict.load(_shapes(spec, "d"), "d", _renames(spec, "d"), tensors)


def g_sources(spec: BigganDeepSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter and statistic of G."""
  return state_dict.sources(_shapes(spec, "g"), "g", _renames(spec, "g"))


def d_sources(spec: BigganDeepSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter and statistic of D."""
  return state_dict.sources(_shapes(spec, "d"), "d", _renames(spec, "d"))


def infer_spec(
  g_tensors: Tensors, d_tensors: Tensors | None = None
) -> BigganDeepSpec:
  """Infers the model from its tensors; see `biggan_pytorch.infer_spec`.

  Args:
    g_tensors: the authors' `Generator.state_dict()`.
    d_tensors: the authors' `Discriminator.state_dict()`. None assumes that D
      has G's width and depth, and attention at the same resolutions.

  Raises:
    TensorsError: the tensors do not match such a model.
  """
  state_dict.require_generator(g_tensors)
  count = state_dict.number_of(g_tensors, r"blocks\.(\d+)\.0\.conv4\.weight")
  outputs = [
    sizes(g_tensors, f"blocks.{i}.0.conv4.weight", 4)[0] for i in range(count)
  ]
  resolution, width, depth = biggan_sizes.of_deep_generator(outputs)
  places = state_dict.attention_indices(g_tensors, r"blocks\.(\d+)\.1\.gamma")
  attention = tuple(8 * 2 ** (i // depth) for i in places)
  classes, shared = sizes(g_tensors, "shared.weight", 2)
  made = sizes(g_tensors, "output_layer.2.weight", 4)[0]
  is_wide = made not in (1, 3)
  return BigganDeepSpec(
    resolution=resolution,
    image_channels=3 if is_wide else made,
    num_classes=classes,
    latent_dim=sizes(g_tensors, "linear.weight", 2)[1] - shared,
    shared_dim=shared,
    g_width=width,
    g_depth=depth,
    g_attention=attention,
    layout="tfhub" if is_wide else "pytorch",
    num_singular_values=state_dict.singular_values(g_tensors) or 1,
    batch_norm_epsilon=1e-5,
    spectral_epsilon=1e-6,
    **_discriminator_sizes(d_tensors, resolution, width, depth, attention),
  )


def _discriminator_sizes(
  tensors: Tensors | None,
  resolution: int,
  g_width: int,
  g_depth: int,
  g_attention: tuple[int, ...],
) -> dict[str, int | tuple[int, ...]]:
  if tensors is None:
    # A narrow D may have too few channels at G's attention resolutions.
    widths = zip(reversed(sides(resolution)), D_WIDTHS[resolution], strict=True)
    able = {side for side, width in widths if g_width * width >= 8}
    return {
      "d_width": g_width,
      "d_depth": g_depth,
      "d_attention": tuple(
        side for side in g_attention if side in able and side < resolution
      ),
    }
  stages = state_dict.number_of(tensors, r"blocks\.(\d+)\.0\.conv4\.weight")
  depth = state_dict.number_of(tensors, r"blocks\.0\.(\d+)\.conv4\.weight")
  outputs = [
    sizes(tensors, f"blocks.{i}.0.conv4.weight", 4)[0] for i in range(stages)
  ]
  found = biggan_sizes.of_deep_discriminator(outputs)
  if found.resolution != resolution:
    raise TensorsError(
      f"the discriminator has {found.resolution} px and the generator "
      f"{resolution} px; use files of the same training run"
    )
  places = state_dict.attention_indices(
    tensors, rf"blocks\.(\d+)\.{depth}\.gamma"
  )
  return {
    "d_width": found.width,
    "d_depth": depth,
    "d_attention": tuple(sorted(resolution // 2 ** (i + 1) for i in places)),
  }


def _renames(spec: BigganDeepSpec, player: str) -> state_dict.Renames:
  if player == "g":
    return state_dict.COMMON
  # In the file, attention follows the blocks of its stage.
  return (
    (r"block(\d+)_(\d+)/shortcut", r"blocks.\1.\2.conv_sc"),
    (r"block(\d+)_(\d+)/(conv\d)", r"blocks.\1.\2.\3"),
    (
      r"attention(\d+)/(theta|phi|g|o|gamma)",
      rf"blocks.\g<1>.{spec.d_depth}.\2",
    ),
    (r"from_rgb", r"input_conv"),
    *state_dict.COMMON,
  )


def _shapes(spec: BigganDeepSpec, player: str) -> Shapes:
  return shapes_of(getattr(biggan_deep.make(spec, "cpu"), player), spec)


FORMAT = Format(
  generator,
  infer_spec,
  state_dict.NAMES,
  state_dict.SIGNATURES,
  discriminator=discriminator,
  truncation_rule="resample",
)
