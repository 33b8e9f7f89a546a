"""Converts state dicts of BigGAN-PyTorch's `BigGAN` (the authors' code)."""

from bigscale.interop import biggan_deep_pytorch, biggan_sizes
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
from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan import networks as biggan
from bigscale.models.biggan.spec import D_WIDTHS, d_sides, g_sides
from bigscale.models.biggan_deep import BigganDeepSpec


def generator(spec: BigganSpec, tensors: Tensors) -> ConvertedWeights:
  """Converts the authors' `Generator.state_dict()`.

  Args:
    spec: spec with the sizes of the weights. The file may contain more singular
      values than `num_singular_values`.
    tensors: tensors by the authors' names, in PyTorch's axis order.

  Raises:
    TensorsError: names every missing, unexpected and misshaped tensor.
  """
  return state_dict.load(_shapes(spec, "g"), "g", state_dict.COMMON, tensors)


def discriminator(spec: BigganSpec, tensors: Tensors) -> ConvertedWeights:
  """Converts the authors' `Discriminator.state_dict()`; see `generator`."""
  return state_dict.load(_shapes(spec, "d"), "d", state_dict.COMMON, tensors)


def g_sources(spec: BigganSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter and statistic of G."""
  return state_dict.sources(_shapes(spec, "g"), "g", state_dict.COMMON)


def d_sources(spec: BigganSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter and statistic of D."""
  return state_dict.sources(_shapes(spec, "d"), "d", state_dict.COMMON)


def infer_spec(
  g_tensors: Tensors, d_tensors: Tensors | None = None
) -> BigganSpec | BigganDeepSpec:
  """Infers the model from the names and shapes of its tensors.

  Files do not contain epsilons, so those of the authors' scripts are used: 1e-5
  in batch norm and 1e-6 in spectral norm.

  Args:
    g_tensors: the authors' `Generator.state_dict()`, of either model.
    d_tensors: the authors' `Discriminator.state_dict()`. None assumes that D
      has G's width and attention at the same resolutions.

  Raises:
    TensorsError: the tensors do not match such a model.
  """
  if "blocks.0.0.conv4.weight" in g_tensors:
    return biggan_deep_pytorch.infer_spec(g_tensors, d_tensors)
  state_dict.require_generator(g_tensors)
  count = state_dict.number_of(g_tensors, r"blocks\.(\d+)\.0\.conv1\.weight")
  outputs = [
    sizes(g_tensors, f"blocks.{i}.0.conv1.weight", 4)[0] for i in range(count)
  ]
  resolution, width, _ = biggan_sizes.of_generator(outputs)
  attention = tuple(
    g_sides(resolution)[i]
    for i in state_dict.attention_indices(g_tensors, r"blocks\.(\d+)\.1\.gamma")
  )
  tracked = state_dict.singular_values(g_tensors)
  return BigganSpec(
    resolution=resolution,
    image_channels=sizes(g_tensors, "output_layer.2.weight", 4)[0],
    g_width=width,
    g_attention=attention,
    g_spectral=tracked > 0,
    num_singular_values=(
      tracked or state_dict.singular_values(d_tensors or {}) or 1
    ),
    batch_norm_epsilon=1e-5,
    spectral_epsilon=1e-6,
    **_conditioning(g_tensors, count),
    **_discriminator_sizes(d_tensors, resolution, width, attention),
  )


def _conditioning(tensors: Tensors, blocks: int) -> dict[str, int | bool]:
  """Infers the classes, the latents and how both condition G's blocks."""
  chunk = sizes(tensors, "linear.weight", 2)[1]
  rows, seen = sizes(tensors, "blocks.0.0.bn1.gain.weight", 2)
  if "shared.weight" not in tensors:
    # Every norm has a table with a row per class.
    return {
      "num_classes": rows,
      "latent_dim": chunk,
      "shared_dim": 0,
      "hierarchical": False,
    }
  classes, shared = sizes(tensors, "shared.weight", 2)
  if seen not in (shared, shared + chunk):
    raise TensorsError(
      f"blocks.0.0.bn1.gain.weight has {seen} inputs, but the shared embedding "
      f"has {shared} values, or {shared + chunk} with a chunk of the latent; "
      "use the file of a BigGAN, or another --format"
    )
  hierarchical = seen == shared + chunk
  return {
    "num_classes": classes,
    "latent_dim": chunk * (blocks + 1) if hierarchical else chunk,
    "shared_dim": shared,
    "hierarchical": hierarchical,
  }


def _discriminator_sizes(
  tensors: Tensors | None,
  resolution: int,
  g_width: int,
  g_attention: tuple[int, ...],
) -> dict[str, int | bool | tuple[int, ...]]:
  sides = d_sides(resolution)
  if tensors is None:
    # A narrow D may have too few channels at G's attention resolutions.
    widths = zip(sides, D_WIDTHS[resolution], strict=True)
    able = {side for side, width in widths if g_width * width >= 8}
    shared = tuple(side for side in g_attention if side in able)
    return {"d_width": g_width, "d_attention": shared}
  count = state_dict.number_of(tensors, r"blocks\.(\d+)\.0\.conv2\.weight")
  outputs = [
    sizes(tensors, f"blocks.{i}.0.conv2.weight", 4)[0] for i in range(count)
  ]
  found = biggan_sizes.of_discriminator(outputs)
  if found.resolution != resolution:
    raise TensorsError(
      f"the discriminator has {found.resolution} px and the generator "
      f"{resolution} px; use files of the same training run"
    )
  places = state_dict.attention_indices(tensors, r"blocks\.(\d+)\.1\.gamma")
  inner = sizes(tensors, "blocks.1.0.conv1.weight", 4)[0]
  return {
    "d_width": found.width,
    "d_attention": tuple(sorted({sides[i] for i in places})),
    "d_wide": inner == outputs[1],
  }


def _shapes(spec: BigganSpec, player: str) -> Shapes:
  return shapes_of(getattr(biggan.make(spec, "cpu"), player), spec)


FORMAT = Format(
  generator,
  infer_spec,
  state_dict.NAMES,
  state_dict.SIGNATURES,
  discriminator=discriminator,
  truncation_rule="resample",
)
