"""Declarations of score kinds and feature networks.

Each declaration is a `ScoreKind` or `FeatureNetwork` next to the code that
computes it. `spec.scores` finds it by name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from bigscale.spec.base import require

Direction = Literal["more", "less"]
# Returns the fewest images that a kind needs, given D, the number of features,
# and K, the number of classes.
Fewest = Callable[[int, int], int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreKind:
  """A kind of score: its columns, requirements and implementation.

  The requirements are checked before a run's first step (`metrics.demands`).

  Attributes:
    name: first component of the names of the scores of this kind.
    columns: the columns of the result, without the network's name. The value
      says whether `more` or `less` is better. It is None if the column has no
      direction, such as a standard error, which measures uncertainty rather
      than quality.
    compute: function that returns a finite number per column. Over features,
      its arguments are the network's outputs for samples and for reals, two
      `metrics.features.Seen`. Over pixels, its argument is the images that were
      kept, a `metrics.pixels.KeptImages`. Kinds with the same function are
      computed together in one call, and each uses its own columns.
    over: input of the kind: `features` of a network, or `pixels`.
    keeps: outputs that the kind needs for each sample, with labels. If empty, a
      kind over features receives only their moments.
    single_reals: whether the kind needs these outputs for each real as well.
      Otherwise it receives only the moments of the reals.
    fewest_samples: minimum number of samples.
    fewest_reals: minimum number of reals.
    within_classes: whether the minimum applies to each class separately.
    labels: whether samples must be generated with labels.
    fewest_classes: minimum number of classes of the network.
    smallest_side: minimum side of the images, pixels.
    images_per_class: over pixels, number of images to keep per class, or in
      total if there are no classes. None keeps as many as fit in 1 GiB.
    floor: whether to compute the score for held-out reals as well.
    protocol: over pixels, function that returns further settings that the score
      depends on for images of shape (R, R, C), as JSON values.

  Raises:
    SpecError: a direction is missing or invalid, or another field has an
      invalid value.
  """

  name: str
  columns: Mapping[str, Direction | None] = dataclasses.field(
    default_factory=dict
  )
  compute: Callable[..., Mapping[str, float]]
  over: Literal["features", "pixels"] = "features"
  keeps: tuple[Literal["features", "probabilities"], ...] = ()
  single_reals: bool = False
  fewest_samples: int | Fewest = 1
  fewest_reals: int | Fewest = 0
  within_classes: bool = False
  labels: bool = False
  fewest_classes: int = 0
  smallest_side: int = 1
  images_per_class: int | None = None
  floor: bool = True
  protocol: Callable[[tuple[int, int, int]], Mapping[str, Any]] | None = None

  def __post_init__(self) -> None:
    _check_name(self.name, "score")
    columns = self.columns
    require(
      isinstance(columns, Mapping) and len(columns) > 0,
      f"score {self.name!r} does not say which way is better (columns="
      f"{columns!r}); give each column a direction, for example columns="
      f"{{{self.name!r}: 'more'}}",
    )
    for name, direction in columns.items():
      _check_name(name, f"column of score {self.name!r}")
      require(
        direction in ("more", "less", None),
        f"column {name!r} of score {self.name!r} has the direction "
        f"{direction!r}; use 'more' or 'less', whichever is better, or None if "
        "neither is",
      )
    require(
      callable(self.compute),
      f"score {self.name!r} has compute={self.compute!r}; it must be a "
      "function",
    )
    for field, value, choices in (
      ("over", {self.over}, {"features", "pixels"}),
      ("keeps", set(self.keeps), {"features", "probabilities"}),
    ):
      require(
        not isinstance(self.keeps, str) and value <= choices,
        f"score {self.name!r} has {field}={getattr(self, field)!r}; choose "
        f"from {', '.join(sorted(choices))}"
        + (" in a tuple" if field == "keeps" else ""),
      )
    require(
      self.over == "features" or not (self.keeps or self.single_reals),
      f"score {self.name!r} is over pixels, where keeps and single_reals do "
      "not apply; remove them, or set over='features'",
    )

  def fewest(self, dimension: int, classes: int) -> tuple[int, int]:
    """Returns the minimum numbers of samples and reals.

    Args:
      dimension: D, the number of features of the network.
      classes: K, the number of classes of the network.
    """
    samples, reals = (
      least(dimension, classes) if callable(least) else least
      for least in (self.fewest_samples, self.fewest_reals)
    )
    return samples, reals


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
  """A network with published weights whose features are compared.

  Attributes:
    name: last component of the names of the scores over this network.
    weights: function that reads the weights, a
      `metrics.features.FrozenWeights`, from a cache folder
      (`metrics.cache.directory`; None uses the default folder). It raises
      `SpecError` if they are missing or damaged.
    make: function that builds the network, a `metrics.features.Features`, from
      its weights and a mesh of devices. A mesh of None means the devices of
      this process.
  """

  name: str
  weights: Callable[[str | None], Any]
  make: Callable[[Any, Any], Any]

  def __post_init__(self) -> None:
    _check_name(self.name, "feature network")
    for field in ("weights", "make"):
      require(
        callable(getattr(self, field)),
        f"feature network {self.name!r} has {field}={getattr(self, field)!r}; "
        "it must be a function",
      )


def _check_name(name: Any, what: str) -> None:
  """Raises `SpecError` unless a name can be part of a column's name."""
  require(
    isinstance(name, str) and name.isidentifier() and name == name.lower(),
    f"the name {name!r} of a {what} must consist of lower-case letters, digits "
    "and _, for example 'sharpness'",
  )
