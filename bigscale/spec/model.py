"""Settings and networks that every family of models defines.

A family is a frozen dataclass that derives from `ModelBase`. `model.name` in a
config chooses it: either the name of a package in `bigscale.models` that
defines `Family`, or `package.module:Name` of a user's own family.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from bigscale.spec import named
from bigscale.spec.base import Dtype, Precision, SpecError, Update, require

if TYPE_CHECKING:
  from bigscale.types import GanModel

_FAMILIES = "bigscale.models"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBase:
  """Settings that all models share.

  Attributes:
    name: name of the family, as `model.name` in a config.
    resolution: side of the square images, pixels.
    image_channels: number of image channels, 1 or 3.
    num_classes: number of classes, at least 2; 0 trains without labels.
    latent_dim: length of z.
    num_singular_values: number of largest singular values to track per layer,
      at least 1.
    spectra_interval: steps between updates of the tracked singular values of
      weights without spectral norm; 0 never updates them.
    bf16_stages: number of stages, counted from the highest resolution, that
      compute in bfloat16.
    remat: whether the backward pass recomputes each block's activations instead
      of storing them.
    dtype: dtype of the parameters, and of activations outside the bfloat16
      stages.
    precision: precision of the networks' products of float32 arrays on TPUs and
      GPUs, whose hardware may round the factors (`bigscale.ops.precision`).
      `highest` does not round, like the original implementations. `high` rounds
      to 16 bits (TPU) and takes half the time. `default` rounds to 8 bits.
  """

  name: str = ""
  resolution: int
  image_channels: int = 3
  num_classes: int = 0
  latent_dim: int = 64
  num_singular_values: int = 3
  spectra_interval: int = 16
  bf16_stages: int = 0
  remat: bool = False
  dtype: Dtype = "float32"
  precision: Precision = "highest"

  # Name of the family in reports; an empty title means `name`.
  title: ClassVar[str] = ""
  # Values for families that do not declare a field of the same name.
  g_spectral: ClassVar[bool] = False
  spectral_epsilon: ClassVar[float] = 1e-12
  spectral_update: ClassVar[Update] = "step"
  batch_norm_group_size: ClassVar[int] = 0
  batch_norm_update: ClassVar[Update] = "step"
  # How weights not named `kernel` or `embedding` are sharded: pairs of a path
  # pattern and axes; see `bigscale.parallel.sharding`.
  sharding_rules: ClassVar[tuple[tuple[str, tuple[int, ...]], ...]] = ()
  # The module whose `FORMAT` reads each weight format, by the format's name.
  formats: ClassVar[dict[str, str]] = {}

  def __post_init__(self) -> None:
    """Checks the shared settings; a family adds its own checks.

    Raises:
      SpecError: a setting breaks a rule.
    """
    if not self.name:
      kind = type(self)
      object.__setattr__(self, "name", f"{kind.__module__}:{kind.__qualname__}")
    require(
      self.image_channels in (1, 3),
      f"model.image_channels={self.image_channels} must be 1 or 3",
    )
    require(
      self.num_classes == 0 or self.num_classes >= 2,
      f"model.num_classes={self.num_classes} must be 0 (no labels) or at least "
      "2",
    )
    for field in ("resolution", "latent_dim"):
      require(
        getattr(self, field) >= 1,
        f"model.{field}={getattr(self, field)} must be 1 or more",
      )
    require(
      self.num_singular_values >= 1,
      f"model.num_singular_values={self.num_singular_values} must be 1 or "
      "more, because spectral norm divides by the first; 3 is usual",
    )
    require(
      self.spectra_interval >= 0,
      f"model.spectra_interval={self.spectra_interval} must be 1 (every step) "
      "or more, or 0 for never",
    )
    require(
      self.bf16_stages >= 0,
      f"model.bf16_stages={self.bf16_stages} must be 0 or more",
    )
    require(
      self.spectral_epsilon >= 0,
      f"model.spectral_epsilon={self.spectral_epsilon} must not be negative",
    )
    require(
      self.batch_norm_group_size == 0 or self.batch_norm_group_size >= 2,
      f"model.batch_norm_group_size={self.batch_norm_group_size} must be 0 "
      "(the whole batch) or at least 2, because one sample has no variance",
    )

  def make_networks(
    self, platform: str, split: Any, gather: Callable[[Any], Any] | None
  ) -> "GanModel":
    """Builds the generator and the discriminator; every family overrides it.

    Args:
      platform: platform of the devices that run the networks: `cpu`, `gpu` or
        `tpu`.
      split: how `shard_map` splits the training batch (`types.BatchSplit`), for
        batch norm.
      gather: function that gathers sharded parameters (`models.blocks`), or
        None.
    """
    del platform, split, gather
    raise SpecError(
      f"{type(self).__name__} has no networks: define make_networks(self, "
      "platform, split, gather), for example with "
      "bigscale.models.networks.gan_model"
    )

  def of_width(
    self, resolution: int, depth: int | None
  ) -> Callable[[int], "ModelBase"]:
    """Returns a function from a width index to a model of that width.

    Index 1 is the narrowest model. The models differ from this one in width,
    and in resolution and depth as requested.

    Args:
      resolution: resolution of the models, pixels.
      depth: blocks per stage; None uses this model's depth.

    Raises:
      SpecError: the family has no models of this resolution or depth.
    """
    del resolution, depth
    raise SpecError(
      f"{self.name} does not define models of other widths; define "
      f"of_width(self, resolution, depth) in {type(self).__name__}, or set the "
      "widths by hand"
    )

  @property
  def player_widths(self) -> tuple[float, float]:
    """Widths of G and D, which determine how learning rates are rescaled."""
    raise SpecError(
      f"{self.name} does not define its width, so learning rates cannot be "
      f"rescaled by width; define player_widths in {type(self).__name__}, or "
      "use the rule 'constant'"
    )

  def has(self, setting: str) -> bool:
    """Returns whether the family has a setting with this name."""
    return any(field.name == setting for field in dataclasses.fields(self))


def families() -> tuple[str, ...]:
  """Returns the names of the built-in families."""
  (folder,) = importlib.import_module(_FAMILIES).__path__
  return tuple(
    sorted(
      found.parent.name for found in pathlib.Path(folder).glob("*/spec.py")
    )
  )


def family(name: Any) -> type[ModelBase]:
  """Returns the family that `model.name` chooses.

  Raises:
    SpecError: there is no such family; the message lists the built-in ones.
  """
  path = name
  if not isinstance(name, str) or not named.is_path(name):
    require(
      name in families(),
      f"config.model.name={name!r} must be one of "
      f"{', '.join(map(repr, families()))}, or package.module:Name of your own "
      "family",
    )
    path = f"{_FAMILIES}.{name}:Family"
  found = named.load(path, "a family of models")
  require(
    isinstance(found, type) and issubclass(found, ModelBase),
    f"config.model.name={name!r} names {found!r}, which is not a family of "
    "models; define a frozen dataclass that derives from "
    "bigscale.spec.ModelBase",
  )
  require(
    "__dataclass_fields__" in vars(found),
    f"{name!r} is not a dataclass; decorate it with "
    "@dataclasses.dataclass(frozen=True, kw_only=True)",
  )
  return found


def check_at_least(model: ModelBase, least: float, *fields: str) -> None:
  """Checks that fields, or all entries of tuples, are at least `least`."""
  for field in fields:
    value = getattr(model, field)
    values = value if isinstance(value, tuple) else (value,)
    require(
      min(values, default=least) >= least,
      f"model.{field}={value} must be {least} or more"
      + (" each" if isinstance(value, tuple) else ""),
    )


def check_batch_norm(model: Any) -> None:
  """Checks `batch_norm_momentum` and `batch_norm_epsilon`."""
  epsilon, momentum = model.batch_norm_epsilon, model.batch_norm_momentum
  require(
    epsilon >= 0, f"model.batch_norm_epsilon={epsilon} must not be negative"
  )
  require(
    0 <= momentum < 1,
    f"model.batch_norm_momentum={momentum} must lie in [0, 1)",
  )


def check_bf16_stages(model: Any, stages: int) -> None:
  """Checks that `bf16_stages` is at most the number of stages."""
  require(
    0 <= model.bf16_stages <= stages,
    f"model.bf16_stages={model.bf16_stages} must be between 0 and {stages}, "
    f"the resolutions of a {model.resolution} px network",
  )


def chunked_latents(model: Any, chunks_before: int, chunks: int) -> int:
  """Returns the length of z for a number of chunks of this model's length.

  Args:
    model: a model with `latent_dim` and `hierarchical`. Without `hierarchical`
      the length of z does not change.
    chunks_before: number of chunks in `model`.
    chunks: number of chunks in the other model.
  """
  if not model.hierarchical:
    return model.latent_dim
  return model.latent_dim // chunks_before * chunks


def check_chunks(model: Any, chunks: int, where: str) -> None:
  """Checks that a hierarchical z splits into equal chunks."""
  size = max(1, round(model.latent_dim / chunks))
  require(
    model.latent_dim % chunks == 0,
    f"model.latent_dim={model.latent_dim} does not split into {chunks} equal "
    f"chunks ({where}); use {size * chunks}",
  )


def check_attention(
  model: Any,
  g_channels: Iterable[tuple[int, int]],
  d_channels: Iterable[tuple[int, int]],
) -> None:
  """Checks that attention is applied to existing maps with enough channels.

  Args:
    model: a model with `g_attention` and `d_attention`.
    g_channels: (side in px, channels) of the map after each block of G.
    d_channels: the same for D.
  """
  for field, maps in (("g_attention", g_channels), ("d_attention", d_channels)):
    known = dict(maps)
    for side in getattr(model, field):
      require(
        side in known,
        f"model.{field} contains {side} px, but no block of this "
        f"{model.resolution} px network has such a map; use any of "
        f"{', '.join(map(str, sorted(known)))}",
      )
      require(
        known[side] >= 8,
        f"model.{field} contains {side} px, where the map has {known[side]} "
        "channels; attention keys use an eighth of the channels, so it needs "
        "8 or more: widen the network or choose another map",
      )
