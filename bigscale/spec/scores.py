"""Scores by name: their columns, requirements and directions.

A score has the form KIND_FEATURE, such as `kid_inception`, where KIND is the
statistic and FEATURE the network whose features it compares. Some kinds are
over pixels and have no network, such as `ms_ssim`. A kind is declared by a
`ScoreKind` in the file that computes it, a network by a `FeatureNetwork`. Both
are imported on first use.

A user's own kind or network is named by its import path, `package.module:Name`.
`my_package.my_scores:Sharpness` is over pixels. Over features, a slash
separates kind and network: `my_package.my_scores:Spread/classifier`,
`fd/my_package.my_nets:Random`. The columns use the short names of the
declarations: `spread_classifier`, `fd_random`.
"""

import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.spec import named
from bigscale.spec.base import SpecError, require
from bigscale.spec.score_rows import Direction, FeatureNetwork, ScoreKind

# The network that is trained on the labels of the data set.
CLASSIFIER = "classifier"
# Feature networks by name, and the import paths of their declarations.
FEATURES = {
  CLASSIFIER: None,
  "inception": "bigscale.metrics.inception_store:INCEPTION",
  # The FID's network, with images resized as in clean-FID.
  "inception_clean": "bigscale.metrics.inception_store:INCEPTION_CLEAN",
  "efflite0": "bigscale.metrics.efficientnet_store:EFFLITE0",
}
# Score kinds by name, and the import paths of their declarations.
KINDS = {
  "fd": "bigscale.metrics.fid:FD",
  "fd_infinity": "bigscale.metrics.fid:FD_INFINITY",
  "is": "bigscale.metrics.class_scores:INCEPTION_SCORE",
  "kid": "bigscale.metrics.kid:KID",
  "pr": "bigscale.metrics.precision_recall:PRECISION_RECALL",
  "dc": "bigscale.metrics.precision_recall:DENSITY_COVERAGE",
  "intra_fd": "bigscale.metrics.intra_class:INTRA_FD",
  "modes": "bigscale.metrics.class_scores:MODES",
  "ms_ssim": "bigscale.metrics.ms_ssim:MS_SSIM",
}


class Score(NamedTuple):
  """A kind of score, and the network whose features it compares.

  Attributes:
    kind: a key of `KINDS`, or the import path of a user's own kind.
    feature: a key of `FEATURES`, or the import path of a user's own network; ""
      over pixels.
  """

  kind: str
  feature: str

  @classmethod
  def parse(cls, name: str) -> "Score":
    """Parses KIND_FEATURE, KIND/FEATURE, or the name of a kind over pixels.

    Raises:
      SpecError: there is no such score.
    """
    if "/" in name:
      kind, _, feature = name.partition("/")
    elif named.is_path(name) or name in KINDS:
      kind, feature = name, ""
    else:
      kind, feature = _split(name)
    if kind == "fid" and _is_of_fid(feature):
      kind = "fd"
    if not (
      (kind in KINDS or named.is_path(kind))
      and (feature in ("", *FEATURES) or named.is_path(feature))
    ):
      raise SpecError(f"score {name!r} is unknown; {_forms()}")
    over = kind_of(kind).over
    if (over == "features") != bool(feature):
      network = f"the network {feature!r}" if feature else "no network"
      raise SpecError(
        f"score {name!r} is over {over}, but names {network}; {_forms()}"
      )
    if named.is_path(feature):
      network_of(feature)
    return cls(kind, feature)

  @property
  def row(self) -> ScoreKind:
    """The declaration of the score's kind."""
    return kind_of(self.kind)

  @property
  def columns(self) -> tuple[str, ...]:
    """The full names of the score's columns."""
    return tuple(column(name, self.feature) for name in self.row.columns)

  @property
  def name(self) -> str:
    """The score's name in logs and messages."""
    return column(self.kind, self.feature)


def kind_of(name: str) -> ScoreKind:
  """Returns the declaration of a kind.

  Args:
    name: a key of `KINDS`, or the import path of a user's own kind.

  Raises:
    SpecError: there is no such kind, or a user's kind has a built-in name.
  """
  return _load(name, KINDS, ScoreKind, "a kind of scores")


def network_of(name: str) -> FeatureNetwork:
  """Returns the declaration of a network.

  Args:
    name: a key of `FEATURES` other than the classifier, or the import path of a
      user's own network.

  Raises:
    SpecError: there is no such network, or a user's network has a built-in
      name.
  """
  return _load(name, FEATURES, FeatureNetwork, "a feature network")


def identity(kind: str) -> str:
  """Returns a string that changes if the kind or its source code changes.

  For a built-in kind it is the name. For a user's own kind it is the import
  path and the SHA-256 of the source file.
  """
  if not named.is_path(kind):
    return kind
  kind_of(kind)
  module = sys.modules[kind.partition(":")[0]]
  try:
    source = inspect.getsource(module)
  except (OSError, TypeError):
    return kind  # The module has no file.
  return f"{kind} {hashlib.sha256(source.encode()).hexdigest()}"


def by_feature(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """Returns the requested score kinds of each network, and of pixels under "".

  Raises:
    SpecError: there is no such score.
  """
  found: dict[str, tuple[str, ...]] = {}
  for score in dict.fromkeys(map(Score.parse, names)):
    found[score.feature] = (*found.get(score.feature, ()), score.kind)
  return found


def column(name: str, feature: str) -> str:
  """Returns the full name of a column or score in logs.

  Args:
    name: name of a column or of a kind.
    feature: the network; "" over pixels.
  """
  if named.is_path(name):
    name = kind_of(name).name
  if named.is_path(feature):
    feature = network_of(feature).name
  # The Fréchet distance over Inception features keeps its published name.
  if name == "fd" and _is_of_fid(feature):
    name = "fid"
  return f"{name}_{feature}" if feature else name


def directions(names: Sequence[str]) -> dict[str, Direction | None]:
  """Returns the columns of scores, in order, with the direction of each.

  Args:
    names: names of the scores.

  Raises:
    SpecError: there is no such score, or two scores or networks would have the
      same name in logs.
  """
  found: dict[str, Direction | None] = {}
  taken: dict[tuple[str, str], str] = {}
  for score in dict.fromkeys(map(Score.parse, names)):
    place = f"{score.kind}/{score.feature}" if score.feature else score.kind
    logged = [("column", name, place) for name in score.columns]
    logged += [("score", score.name, place)]
    logged += [("network", column("", score.feature)[1:], score.feature)]
    for what, name, own in logged:
      other = taken.setdefault((what, name), own)
      require(
        other == own,
        f"{other} and {own} would both log the {what} {name!r}; remove one of "
        "them, or give it another name",
      )
    found |= zip(score.columns, score.row.columns.values(), strict=True)
  return found


def first_ranked(names: Sequence[str]) -> str:
  """Returns the first column of the scores that has a direction.

  Args:
    names: names of the scores, at least one.

  Raises:
    SpecError: there is no such score, or no column has a direction.
  """
  for name, direction in directions(names).items():
    if direction:
      return name
  raise SpecError(
    f"no column of {', '.join(names)} can rank checkpoints; add a score that "
    "has a direction"
  )


def rises(name: str, scores: Sequence[str] = ()) -> bool:
  """Returns whether higher values of a column are better.

  Args:
    name: full name of the column.
    scores: names of the scores that may have the column; () means the built-in
      scores.

  Raises:
    SpecError: no score has the column, or the column has no direction.
  """
  known = directions(scores or _own_with(name))
  if name not in known:
    raise SpecError(
      f"column {name!r} is unknown: it must be one of "
      f"{', '.join(known) or 'the columns of a score'}"
    )
  if known[name] is None:
    raise SpecError(
      f"column {name!r} is neither better when higher nor when lower; choose "
      "a column that has a direction"
    )
  return known[name] == "more"


def _load(name: str, own: Mapping[str, Any], of: type, what: str) -> Any:
  """Returns the declaration with a name.

  Args:
    name: a key of `own`, or the import path of a user's own declaration.
    own: import paths of the built-in declarations, by name.
    of: type of the declaration.
    what: what the declaration describes, for error messages.
  """
  if not named.is_path(name):
    require(
      own.get(name) is not None,
      f"{name!r} is not {what}; use any of {', '.join(filter(own.get, own))}, "
      "or package.module:Name of your own",
    )
    return named.load(own[name], what)
  row = named.load(name, what)
  require(
    isinstance(row, of),
    f"{name!r} must be {what}, but has the type {type(row).__name__}; make it "
    f"a bigscale.spec.{of.__name__}",
  )
  require(
    row.name not in own,
    f"{name!r} has the name {row.name!r}, which is the name of {what} of "
    "bigscale; give it another name",
  )
  return row


def _forms() -> str:
  """Returns the help text on how to name a score."""
  alone = [kind for kind in KINDS if kind_of(kind).over == "pixels"]
  return (
    "a score is KIND_FEATURE, for example fd_classifier or fid_inception, "
    f"where KIND is any of {', '.join(k for k in KINDS if k not in alone)} and "
    f"FEATURE any of {', '.join(FEATURES)}; or, without a network, "
    f"{', '.join(alone)}. Name your own score package.module:Kind/FEATURE, or "
    "package.module:Kind over pixels"
  )


def _is_of_fid(feature: str) -> bool:
  """Returns whether the Fréchet distance over a network is published as FID."""
  return feature in ("inception", "inception_clean")


def _own_with(name: str) -> list[str]:
  """Returns a list with the built-in score that has a column; [] if none."""
  base, feature = _split(name)
  base = base.replace("fid", "fd", 1) if _is_of_fid(feature) else base
  for kind in KINDS:
    row = kind_of(kind)
    if base in row.columns and (row.over == "features") == bool(feature):
      return [f"{kind}/{feature}" if feature else kind]
  return []


def _split(name: str) -> tuple[str, str]:
  """Splits a column's name into the name without the network, and the network.

  The network is "" if the name has none.
  """
  for feature in FEATURES:
    if name.endswith(f"_{feature}"):
      return name.removesuffix(f"_{feature}"), feature
  return name, ""
