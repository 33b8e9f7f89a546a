"""Names of scores, and which numbers each gives."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from bigscale.spec.base import SpecError

# Networks that scores of features are named after; `inception_clean` is the
# FID's with images resized as clean-FID does.
FEATURES = ("classifier", "inception", "inception_clean", "efflite0")
# How many images a kind takes, where its network gives D features and tells K
# classes apart.
Fewest = Callable[[int, int], int]


def _at_least(count: int) -> Fewest:
  return lambda dimension, classes: count


def _full_rank(dimension: int, classes: int) -> int:
  """Returns the fewest samples whose covariance has full rank."""
  return dimension + 1


class Kind(NamedTuple):
  """What a kind of scores gives, and what it takes to be computed.

  The demands are checked before a run's first step (`metrics.demands`); none of
  them need stand anywhere else.

  Attributes:
    columns: it gives, without the network's name.
    samples: the fewest generated images.
    reals: the fewest real ones.
    within_classes: whether it takes so many of every class that there is.
    labels: whether samples must be drawn for classes.
    classes: the fewest that the network must tell apart.
    side: the smallest side of the images, pixels.
    moments: whether all that it need know of the reals are moments, or
      nothing.
  """

  columns: tuple[str, ...]
  samples: Fewest = _at_least(1)
  reals: Fewest = _at_least(0)
  within_classes: bool = False
  labels: bool = False
  classes: int = 0
  side: int = 1
  moments: bool = False


KINDS = {
  "fd": Kind(("fd",), _full_rank, _full_rank, moments=True),
  "fd_infinity": Kind(
    ("fd_infinity", "fd_infinity_standard_error"),
    # Of the smallest of its subsets, a tenth.
    lambda dimension, classes: 10 * (dimension + 1),
    _full_rank,
    moments=True,
  ),
  "is": Kind(
    ("is", "is_std"), lambda dimension, classes: max(classes, 1), moments=True
  ),
  # Two blocks of two.
  "kid": Kind(("kid", "kid_standard_error"), _at_least(4), _at_least(4)),
  # As many neighbours, and one more.
  "pr": Kind(("precision", "recall"), _at_least(4), _at_least(6)),
  "dc": Kind(("density", "coverage"), _at_least(4), _at_least(6)),
  "intra_fd": Kind(
    ("intra_fd", "intra_fd_worst"),
    _full_rank,
    _full_rank,
    within_classes=True,
    labels=True,
  ),
  "modes": Kind(("modes", "modes_kl"), classes=2, moments=True),
}
# Of pixels: no network, and so no network's name. Two of a class make a pair,
# and MS-SSIM has no second scale below 22 px.
PIXEL_KINDS = {
  "ms_ssim": Kind(("ms_ssim",), _at_least(2), within_classes=True, side=22)
}
# Of every column, which way is better: more or less of it. None where neither
# is: a standard error says how sure a score is, not how good.
BETTER: dict[str, Literal["more", "less"] | None] = {
  "fd": "less",
  "fd_infinity": "less",
  "fd_infinity_standard_error": None,
  "is": "more",
  "is_std": None,
  "kid": "less",
  "kid_standard_error": None,
  "precision": "more",
  "recall": "more",
  "density": "more",
  "coverage": "more",
  "intra_fd": "less",
  "intra_fd_worst": "less",
  "modes": "more",
  "modes_kl": "less",
  "ms_ssim": "less",
}


class Score(NamedTuple):
  """A score over the features of a network, or over pixels.

  Attributes:
    kind: of `KINDS` or `PIXEL_KINDS`.
    feature: of `FEATURES`; "" over pixels.
  """

  kind: str
  feature: str

  @classmethod
  def parse(cls, name: str) -> "Score":
    """Reads KIND_FEATURE, as kid_inception, or ms_ssim.

    Raises:
      SpecError: there is no such score.
    """
    if name in PIXEL_KINDS:
      return cls(name, "")
    kind, feature = _split(name)
    if kind == "fid" and feature.startswith("inception"):
      kind = "fd"
    if kind not in KINDS or not feature:
      raise SpecError(
        f"score {name!r} is unknown; a score is KIND_FEATURE, as fd_classifier "
        f"or fid_inception, with KIND any of {', '.join(KINDS)} and FEATURE "
        f"any of {', '.join(FEATURES)}; or, without a network, "
        f"{', '.join(PIXEL_KINDS)}"
      )
    return cls(kind, feature)

  @property
  def columns(self) -> tuple[str, ...]:
    """Names of its numbers."""
    names = (KINDS | PIXEL_KINDS)[self.kind].columns
    return tuple(column(name, self.feature) for name in names)

  @property
  def name(self) -> str:
    """The score's name, as `evaluate.scores` gives it."""
    return column(self.kind, self.feature)


def by_feature(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """Kinds of scores asked of each network, and of pixels under "".

  Raises:
    SpecError: there is no such score.
  """
  found: dict[str, tuple[str, ...]] = {}
  for score in map(Score.parse, names):
    found[score.feature] = (*found.get(score.feature, ()), score.kind)
  return found


def column(name: str, feature: str) -> str:
  """The published distance keeps its published name."""
  if name == "fd" and feature.startswith("inception"):
    name = "fid"
  return f"{name}_{feature}" if feature else name


def rises(name: str) -> bool:
  """Returns whether more of a column is better.

  Raises:
    SpecError: neither more nor less of it is, or nobody has said which.
  """
  name, _ = _split(name)
  # The published name of a distance.
  kind = "fd" if name == "fid" else name.replace("fid_", "fd_")
  if kind not in BETTER:
    raise SpecError(
      f"column {name!r} has no direction; add 'more' or 'less' for it to "
      "BETTER of bigscale/spec/scores.py"
    )
  if BETTER[kind] is None:
    raise SpecError(
      f"column {name!r} is neither better when higher nor when lower; choose "
      "a score"
    )
  return BETTER[kind] == "more"


def check_directions() -> None:
  """Checks that every column of every kind has a direction, or None.

  Raises:
    SpecError: names the columns that have neither.
  """
  kinds = (KINDS | PIXEL_KINDS).values()
  columns = [name for kind in kinds for name in kind.columns]
  missing = [name for name in columns if name not in BETTER]
  if missing:
    raise SpecError(
      f"the direction of {', '.join(missing)} is not stated: add 'more', "
      "'less' or None for each to BETTER of bigscale/spec/scores.py"
    )


def _split(name: str) -> tuple[str, str]:
  """The name without its network's, and that; "" where it names none."""
  for feature in FEATURES:
    if name.endswith(f"_{feature}"):
      return name.removesuffix(f"_{feature}"), feature
  return name, ""


check_directions()
