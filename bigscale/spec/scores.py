"""Names of scores, and which numbers each gives."""

from typing import NamedTuple

from bigscale.spec.base import SpecError

# Networks that scores of features are named after.
FEATURES = ("classifier", "inception", "efflite0")
# By kind, the columns it gives, without the network's name.
KINDS = {
  "fd": ("fd",),
  "is": ("is", "is_std"),
  "kid": ("kid", "kid_standard_error"),
  "pr": ("precision", "recall"),
  "dc": ("density", "coverage"),
  "intra_fd": ("intra_fd", "intra_fd_worst"),
}
# Of which more is better.
_RISING = ("is", "precision", "recall", "density", "coverage")
_ALIASES = {"fid_inception": "fd_inception"}


class Score(NamedTuple):
  """A score over the features of a network.

  Attributes:
    kind: of `KINDS`.
    feature: of `FEATURES`.
  """

  kind: str
  feature: str

  @classmethod
  def parse(cls, name: str) -> "Score":
    """Reads KIND_FEATURE, as kid_inception.

    Raises:
      SpecError: there is no such score.
    """
    kind, _, feature = _ALIASES.get(name, name).rpartition("_")
    if kind not in KINDS or feature not in FEATURES:
      raise SpecError(
        f"score {name!r} is unknown; a score is KIND_FEATURE, as fd_classifier "
        f"or fid_inception, with KIND any of {', '.join(KINDS)} and FEATURE "
        f"any of {', '.join(FEATURES)}"
      )
    return cls(kind, feature)

  @property
  def columns(self) -> tuple[str, ...]:
    """Names of its numbers."""
    return tuple(column(name, self.feature) for name in KINDS[self.kind])


def column(name: str, feature: str) -> str:
  """The published distance keeps its published name."""
  if (name, feature) == ("fd", "inception"):
    return "fid_inception"
  return f"{name}_{feature}"


def rises(name: str) -> bool:
  """Whether more of a column is better."""
  return name.rpartition("_")[0] in _RISING
