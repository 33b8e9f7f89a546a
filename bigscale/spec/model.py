"""What every family of models says of itself, once: settings and networks.

A family is a frozen dataclass that derives from `ModelBase`. `model.name` of a
config chooses it: the name of a package of `bigscale.models`, whose `Family` it
is, or `package.module:Name` of a user's own.
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
  """Settings that all models share; a family adds its own and its networks.

  Attributes:
    name: of the family, as `model.name` of a config has it.
    resolution: side of the square images, pixels.
    image_channels: 1 or 3.
    num_classes: 0 trains without labels.
    latent_dim: length of z.
    num_singular_values: how many are tracked for every layer.
    spectra_interval: steps between updates of the tracked values of weights
      without spectral norm; 0 never.
    bf16_stages: how many of the highest resolutions compute in bfloat16.
    remat: the backward pass computes each block again instead of keeping what
      is inside.
    dtype: parameters and, outside the bfloat16 stages, activations.
    precision: of the networks' products of float32 arrays on TPUs and GPUs,
      which are free to round them (`bigscale.ops.precision`): `highest` not at
      all, as the authors have it; `high` to 16 bits (TPU) in half the time;
      `default` to 8.
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

  # How reports call the family; by `name` where it is empty.
  title: ClassVar[str] = ""
  # What holds for a family without such a setting. One that has it declares a
  # field of that name.
  g_spectral: ClassVar[bool] = False
  spectral_epsilon: ClassVar[float] = 1e-12
  spectral_update: ClassVar[Update] = "step"
  batch_norm_group_size: ClassVar[int] = 0
  batch_norm_update: ClassVar[Update] = "step"
  # How weights of other names than `kernel` and `embedding` are split over
  # devices: (pattern of a path, axes); see `bigscale.parallel.sharding`.
  sharding_rules: ClassVar[tuple[tuple[str, tuple[int, ...]], ...]] = ()
  # By the name of a format of weights, the module that reads it.
  formats: ClassVar[dict[str, str]] = {}

  def __post_init__(self) -> None:
    """Checks the shared settings; a family checks its own besides.

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
      f"model.num_classes={self.num_classes} must be 0 (no labels) or 2 and "
      "more",
    )
    for field in ("resolution", "latent_dim"):
      require(
        getattr(self, field) >= 1,
        f"model.{field}={getattr(self, field)} must be 1 or more",
      )
    require(
      self.num_singular_values >= 1,
      f"model.num_singular_values={self.num_singular_values} must be 1 or "
      "more; 3 is usual, and the first normalizes a layer with spectral norm",
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
      "(the whole batch) or 2 samples and more: one has no variance",
    )

  def make_networks(
    self, platform: str, split: Any, gather: Callable[[Any], Any] | None
  ) -> "GanModel":
    """Makes the generator and the discriminator; every family's own.

    Args:
      platform: of the devices that will run them: `cpu`, `gpu` or `tpu`.
      split: how `shard_map` splits the batch in training (`types.BatchSplit`);
        batch norm needs to know.
      gather: of parameters that are split over devices (`models.blocks`).
    """
    del platform, split, gather
    raise SpecError(
      f"{type(self).__name__} has no networks: define make_networks(self, "
      "platform, split, gather), as with bigscale.models.networks.gan_model"
    )

  def of_width(
    self, resolution: int, depth: int | None
  ) -> Callable[[int], "ModelBase"]:
    """Returns the models that differ from this one in width; 1 the narrowest.

    Args:
      resolution: of them, pixels.
      depth: blocks of each stage; None is this model's own.

    Raises:
      SpecError: there are none of that resolution or depth.
    """
    del resolution, depth
    raise SpecError(
      f"{self.name} has no members of other widths; define of_width(self, "
      f"resolution, depth) of {type(self).__name__}, or set the widths by hand"
    )

  @property
  def player_widths(self) -> tuple[float, float]:
    """Widths of G and D, by which learning rates are rescaled."""
    raise SpecError(
      f"{self.name} does not say how wide it is, so that no learning rate can "
      f"follow its width; define player_widths of {type(self).__name__}, or "
      "use the rule 'constant'"
    )

  def has(self, setting: str) -> bool:
    """Whether the family has a setting of that name."""
    return any(field.name == setting for field in dataclasses.fields(self))


def families() -> tuple[str, ...]:
  """Names of the families that are part of bigscale."""
  (folder,) = importlib.import_module(_FAMILIES).__path__
  return tuple(
    sorted(
      found.parent.name for found in pathlib.Path(folder).glob("*/spec.py")
    )
  )


def family(name: Any) -> type[ModelBase]:
  """Finds a family by `model.name`.

  Raises:
    SpecError: there is none of that name; the message says what there is.
  """
  path = name
  if not isinstance(name, str) or not named.is_path(name):
    require(
      name in families(),
      f"config.model.name={name!r} is not one of "
      f"{', '.join(map(repr, families()))}, nor package.module:Name of a "
      "family of your own",
    )
    path = f"{_FAMILIES}.{name}:Family"
  found = named.load(path, "a family of models")
  require(
    isinstance(found, type) and issubclass(found, ModelBase),
    f"config.model.name={name!r} names {found!r}, which is no family of "
    "models; let it be a frozen dataclass that derives from "
    "bigscale.spec.ModelBase",
  )
  require(
    "__dataclass_fields__" in vars(found),
    f"{name!r} is no dataclass; put @dataclasses.dataclass(frozen=True, "
    "kw_only=True) above it",
  )
  return found


def check_at_least(model: ModelBase, least: float, *fields: str) -> None:
  """Numbers, or tuples of them, of `least` or more each."""
  for field in fields:
    value = getattr(model, field)
    values = value if isinstance(value, tuple) else (value,)
    require(
      min(values, default=least) >= least,
      f"model.{field}={value} must be {least} or more"
      + (" each" if isinstance(value, tuple) else ""),
    )


def check_batch_norm(model: Any) -> None:
  """The rules of `batch_norm_momentum` and `batch_norm_epsilon`."""
  epsilon, momentum = model.batch_norm_epsilon, model.batch_norm_momentum
  require(
    epsilon >= 0, f"model.batch_norm_epsilon={epsilon} must not be negative"
  )
  require(
    0 <= momentum < 1,
    f"model.batch_norm_momentum={momentum} must lie in [0, 1)",
  )


def check_bf16_stages(model: Any, stages: int) -> None:
  """Half precision covers some of the resolutions, from the highest down."""
  require(
    0 <= model.bf16_stages <= stages,
    f"model.bf16_stages={model.bf16_stages} must be between 0 and {stages}, "
    f"the resolutions of a {model.resolution} px network",
  )


def chunked_latents(model: Any, chunks_before: int, chunks: int) -> int:
  """Length of z of so many chunks, each as long as the model's are.

  Args:
    model: with `latent_dim` and `hierarchical`; without chunks z stays.
    chunks_before: of the model.
    chunks: of the other one.
  """
  if not model.hierarchical:
    return model.latent_dim
  return model.latent_dim // chunks_before * chunks


def check_chunks(model: Any, chunks: int, where: str) -> None:
  """A hierarchical z splits into equal chunks."""
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
  """Attention stands only where a block makes a map that it can work on.

  Args:
    model: with `g_attention` and `d_attention`.
    g_channels: side, px, and channels of the map after each block of G.
    d_channels: the same of D.
  """
  for field, maps in (("g_attention", g_channels), ("d_attention", d_channels)):
    known = dict(maps)
    for side in getattr(model, field):
      require(
        side in known,
        f"model.{field} names {side} px, which no block of this "
        f"{model.resolution} px network makes; use any of "
        f"{', '.join(map(str, sorted(known)))}",
      )
      require(
        known[side] >= 8,
        f"model.{field} names {side} px, where there are {known[side]} "
        "channels; its keys take an eighth of them, so there must be 8 or "
        "more: widen the network or choose another map",
      )
