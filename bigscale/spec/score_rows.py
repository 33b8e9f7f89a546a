"""What is true of a kind of scores, and of a feature network, in one row each.

Rows stand beside the code that computes; `spec.scores` finds them by name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from bigscale.spec.base import require

Direction = Literal["more", "less"]
# How many images a kind takes, where its network gives D features and tells K
# classes apart.
Fewest = Callable[[int, int], int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreKind:
  """A kind of scores: what it gives, what it takes, and how it is computed.

  The demands are checked before a run's first step (`metrics.demands`).

  Attributes:
    name: the first part of its scores' names.
    columns: the numbers that it gives, without the network's name, and for
      each whether `more` or `less` of it is better; None where neither is: a
      standard error says how sure a score is, not how good.
    compute: gives a finite number by column. Over features it is called with
      what the network has seen of samples and of reals, two
      `metrics.features.Seen`; over pixels with the images that were kept, a
      `metrics.pixels.KeptImages`. Kinds of the same function are computed
      together, once, and each takes its own columns.
    over: what it looks at.
    keeps: what it needs of single samples, with their labels; without any, a
      kind over features knows their moments alone.
    single_reals: whether it needs the same of single reals. Else it knows
      their moments.
    fewest_samples: that it takes.
    fewest_reals: that it takes.
    within_classes: whether it takes so many of every class that there is.
    labels: whether samples must be drawn for classes.
    fewest_classes: that the network must tell apart.
    smallest_side: of the images, pixels.
    images_per_class: over pixels, how many are kept of each class, or of all
      where there are none; None keeps as many as fit into a GiB.
    floor: whether it is computed of held-out reals, too.
    protocol: over pixels, what else it depends on for images of a shape
      (R, R, C), as JSON values.

  Raises:
    SpecError: a direction is missing or wrong, or another field has a value
      that it cannot have.
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
      f"{columns!r}); give each column a direction, as columns="
      f"{{{self.name!r}: 'more'}}",
    )
    for name, direction in columns.items():
      _check_name(name, f"column of score {self.name!r}")
      require(
        direction in ("more", "less", None),
        f"column {name!r} of score {self.name!r} has the direction "
        f"{direction!r}; use 'more' or 'less', whichever is better, or None "
        "where neither is",
      )
    require(
      callable(self.compute),
      f"score {self.name!r} has compute={self.compute!r}; give a function",
    )
    for field, value, choices in (
      ("over", {self.over}, {"features", "pixels"}),
      ("keeps", set(self.keeps), {"features", "probabilities"}),
    ):
      require(
        not isinstance(self.keeps, str) and value <= choices,
        f"score {self.name!r} has {field}={getattr(self, field)!r}; choose of "
        f"{', '.join(sorted(choices))}"
        + (" in a tuple" if field == "keeps" else ""),
      )
    require(
      self.over == "features" or not (self.keeps or self.single_reals),
      f"score {self.name!r} is over pixels, where keeps and single_reals have "
      "no meaning; leave them out, or set over='features'",
    )

  def fewest(self, dimension: int, classes: int) -> tuple[int, int]:
    """Returns the fewest samples and reals.

    Args:
      dimension: D features of the network.
      classes: K that it tells apart.
    """
    samples, reals = (
      least(dimension, classes) if callable(least) else least
      for least in (self.fewest_samples, self.fewest_reals)
    )
    return samples, reals


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
  """A network whose features are compared, with weights that others trained.

  Attributes:
    name: the last part of its scores' names, and that of what `make` gives.
    weights: reads the weights, a `metrics.features.FrozenWeights`, given the
      folder of the cache (`metrics.cache.directory`; None takes the usual
      one). Raises `SpecError` where they are missing or damaged.
    make: the network, a `metrics.features.Features`, of its weights, on the
      devices of a mesh; None takes those of this process.
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
        "give a function",
      )


def _check_name(name: Any, what: str) -> None:
  """Raises `SpecError` unless a name can stand in that of a column."""
  require(
    isinstance(name, str) and name.isidentifier() and name == name.lower(),
    f"the name {name!r} of a {what} must be of lower-case letters, digits and "
    "_, as 'sharpness'",
  )
