"""Names of scores, and which numbers each gives."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from bigscale.spec.base import SpecError

# Networks that scores of features are named after; `inception_clean` is the
# FID's with images resized as clean-FID does.
FEATURES = ("classifier", "inception", "inception_clean", "efflite0")
# By kind, the columns it gives, without the network's name.
KINDS = {
  "fd": ("fd",),
  "fd_infinity": ("fd_infinity", "fd_infinity_standard_error"),
  "is": ("is", "is_std"),
  "kid": ("kid", "kid_standard_error"),
  "pr": ("precision", "recall"),
  "dc": ("density", "coverage"),
  "intra_fd": ("intra_fd", "intra_fd_worst"),
  "modes": ("modes", "modes_kl"),
}
# Of pixels: no network, and so no network's name.
PIXEL_KINDS = {"ms_ssim": ("ms_ssim",)}
# All that these need to know of the reals are moments, or nothing.
MOMENT_KINDS = ("fd", "fd_infinity", "is", "modes")
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
    names = (KINDS | PIXEL_KINDS)[self.kind]
    return tuple(column(name, self.feature) for name in names)


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
  columns = [c for kind in (KINDS | PIXEL_KINDS).values() for c in kind]
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
