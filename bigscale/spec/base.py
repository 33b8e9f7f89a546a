"""The error, the rule and the schedule that every spec is made of."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

Dtype = Literal["float32", "float64"]
# Of products of float32 arrays; see `bigscale.ops.precision`.
Precision = Literal["highest", "high", "default"]
# When something moves: in every forward pass in training, or once a step.
Update = Literal["forward", "step"]
T = TypeVar("T")
# Images are counted exactly in float64 up to 2^53.
MOST_KIMG = 1e12


class SpecError(ValueError):
  """A config that cannot be run: what is wrong, which rule, what to do."""


def require(condition: bool, message: str) -> None:
  """Raises `SpecError(message)` unless `condition` holds."""
  if not condition:
    raise SpecError(message)


def choose_preset(presets: Mapping[str, T], name: str, what: str) -> T:
  """The preset of that name.

  Args:
    presets: by name.
    name: asked for.
    what: the presets are of, for the message.

  Raises:
    SpecError: there is no such preset; the message lists those there are.
  """
  require(
    name in presets,
    f"{name!r} is no preset of {what}; use one of {', '.join(presets)}",
  )
  return presets[name]


def check_kimg(name: str, kimg: float) -> None:
  """An interval or a length in thousand images: not negative, and countable."""
  require(
    0 <= kimg <= MOST_KIMG,
    f"{name}={kimg} must lie between 0 and {MOST_KIMG:g} thousand images",
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
  """A cosine from `first` to `last` over the first `kimg` thousand images.

  A plain number in a config means a constant.
  """

  first: float
  last: float
  kimg: float = 0.0

  def __post_init__(self) -> None:
    require(
      self.kimg >= 0, f"schedule kimg={self.kimg} is negative; use 0 or more"
    )
    check_kimg("schedule kimg", self.kimg)

  @property
  def ever_positive(self) -> bool:
    """Whether what it weighs is ever computed."""
    return self.first > 0 or self.last > 0


def check_model(model: Any) -> None:
  """The rules of every model: images, labels, latents, tracked values."""
  require(
    model.image_channels in (1, 3),
    f"model.image_channels={model.image_channels} must be 1 or 3",
  )
  require(
    model.num_classes == 0 or model.num_classes >= 2,
    f"model.num_classes={model.num_classes} must be 0 (no labels) or 2 and "
    "more",
  )
  require(
    model.latent_dim >= 1,
    f"model.latent_dim={model.latent_dim} must be 1 or more",
  )
  require(
    model.num_singular_values >= 1,
    f"model.num_singular_values={model.num_singular_values} must be 1 or "
    "more; 3 is usual, and the first normalizes a layer with spectral norm",
  )
  for field in ("widths", "blocks"):
    values = getattr(model, field, ())
    require(
      min(values, default=1) >= 1,
      f"model.{field}={values} must be 1 or more each",
    )
  for field in ("class_embedding_dim", "shared_dim"):
    value = getattr(model, field, 0)
    require(value >= 0, f"model.{field}={value} must not be negative")
  interval = getattr(model, "spectra_interval", 1)
  require(
    interval >= 0,
    f"model.spectra_interval={interval} must be 1 (every step) or more, or 0 "
    "for never",
  )
  for field in ("batch_norm_epsilon", "spectral_epsilon"):
    value = getattr(model, field, 0.0)
    require(value >= 0, f"model.{field}={value} must not be negative")
  momentum = getattr(model, "batch_norm_momentum", 0.0)
  require(
    0 <= momentum < 1,
    f"model.batch_norm_momentum={momentum} must lie in [0, 1)",
  )
  expansion = getattr(model, "expansion", 1.0)
  require(expansion > 0, f"model.expansion={expansion} must be positive")
  group_size = getattr(model, "batch_norm_group_size", 0)
  require(
    group_size == 0 or group_size >= 2,
    f"model.batch_norm_group_size={group_size} must be 0 (the whole batch) or "
    "2 samples and more: one has no variance",
  )


def check_bf16_stages(model: Any, stages: int) -> None:
  """Half precision covers some of the resolutions, from the highest down."""
  require(
    0 <= model.bf16_stages <= stages,
    f"model.bf16_stages={model.bf16_stages} must be between 0 and {stages}, "
    f"the resolutions of a {model.resolution} px network",
  )


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
