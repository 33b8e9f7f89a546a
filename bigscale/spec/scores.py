"""Scores by name: what each gives, what it takes, and which way is better.

A score is KIND_FEATURE, as `kid_inception`: what is computed, over the features
of which network. Some are over pixels and name no network, as `ms_ssim`. All
facts of a kind stand in its row, a `ScoreKind`, in the file that computes it;
those of a network in its `FeatureNetwork`. Both are loaded when they are asked
for.

A user's own kind or network is named by its place, `package.module:Name`:
`my_package.my_scores:Sharpness` over pixels, and with a slash over features:
`my_package.my_scores:Spread/classifier`, `fd/my_package.my_nets:Random`. Their
columns have the short names of the rows: `spread_classifier`, `fd_random`.
"""

import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.spec import named
from bigscale.spec.base import SpecError, require
from bigscale.spec.score_rows import Direction, FeatureNetwork, ScoreKind

# The network that is trained on the labels of the data that it is to judge.
CLASSIFIER = "classifier"
# Networks that scores of features are named after, and where their rows are.
FEATURES = {
  CLASSIFIER: None,
  "inception": "bigscale.metrics.inception_store:INCEPTION",
  # The FID's with images resized as clean-FID does.
  "inception_clean": "bigscale.metrics.inception_store:INCEPTION_CLEAN",
  "efflite0": "bigscale.metrics.efficientnet_store:EFFLITE0",
}
# Kinds of scores, and where their rows are.
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
  """A score over the features of a network, or over pixels.

  Attributes:
    kind: of `KINDS`, or where a user's own is.
    feature: of `FEATURES`, or where a user's own is; "" over pixels.
  """

  kind: str
  feature: str

  @classmethod
  def parse(cls, name: str) -> "Score":
    """Reads KIND_FEATURE, KIND/FEATURE, or the name of a kind over pixels.

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
        f"score {name!r} is over {over}, and names {network}; {_forms()}"
      )
    if named.is_path(feature):
      network_of(feature)
    return cls(kind, feature)

  @property
  def row(self) -> ScoreKind:
    """All facts of its kind."""
    return kind_of(self.kind)

  @property
  def columns(self) -> tuple[str, ...]:
    """Names of its numbers."""
    return tuple(column(name, self.feature) for name in self.row.columns)

  @property
  def name(self) -> str:
    """The name that logs and messages have."""
    return column(self.kind, self.feature)


def kind_of(name: str) -> ScoreKind:
  """Returns the row of a kind.

  Args:
    name: of `KINDS`, or where a user's own is.

  Raises:
    SpecError: there is none, or it takes a name of bigscale's own kinds.
  """
  return _load(name, KINDS, ScoreKind, "a kind of scores")


def network_of(name: str) -> FeatureNetwork:
  """Returns the row of a network.

  Args:
    name: of `FEATURES` but for the classifier, or where a user's own is.

  Raises:
    SpecError: there is none, or it takes a name of bigscale's own networks.
  """
  return _load(name, FEATURES, FeatureNetwork, "a feature network")


def identity(kind: str) -> str:
  """Returns what tells a kind from others and from itself when it is changed.

  Of bigscale's own it is the name; of a user's, its place and the SHA-256 of
  the file that it stands in.
  """
  if not named.is_path(kind):
    return kind
  kind_of(kind)
  module = sys.modules[kind.partition(":")[0]]
  try:
    source = inspect.getsource(module)
  except (OSError, TypeError):
    return kind  # Of a module without a file.
  return f"{kind} {hashlib.sha256(source.encode()).hexdigest()}"


def by_feature(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """Kinds of scores asked of each network, and of pixels under "".

  Raises:
    SpecError: there is no such score.
  """
  found: dict[str, tuple[str, ...]] = {}
  for score in dict.fromkeys(map(Score.parse, names)):
    found[score.feature] = (*found.get(score.feature, ()), score.kind)
  return found


def column(name: str, feature: str) -> str:
  """Returns the name of a number, or of a score, in logs.

  Args:
    name: of a column of a kind, or of a kind.
    feature: the network; "" over pixels.
  """
  if named.is_path(name):
    name = kind_of(name).name
  if named.is_path(feature):
    feature = network_of(feature).name
  # The published distance keeps its published name.
  if name == "fd" and _is_of_fid(feature):
    name = "fid"
  return f"{name}_{feature}" if feature else name


def directions(names: Sequence[str]) -> dict[str, Direction | None]:
  """Returns the columns of scores, in order, and which way each is better.

  Args:
    names: of the scores.

  Raises:
    SpecError: there is no such score, or two of them, or of their networks,
      would have one name in logs.
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
        f"{other} and {own} would both give the {what} {name!r} in logs; leave "
        "one out, or give its row another name",
      )
    found |= zip(score.columns, score.row.columns.values(), strict=True)
  return found


def first_ranked(names: Sequence[str]) -> str:
  """Returns the first column of scores that has a direction.

  Args:
    names: of the scores, at least one.

  Raises:
    SpecError: there is no such score, or none of them has a direction.
  """
  for name, direction in directions(names).items():
    if direction:
      return name
  raise SpecError(
    f"no column of {', '.join(names)} says which checkpoint is the best; add a "
    "score that is better when higher, or when lower"
  )


def rises(name: str, scores: Sequence[str] = ()) -> bool:
  """Returns whether more of a column is better.

  Args:
    name: of the column.
    scores: names of those among whose columns it is; () looks among
      bigscale's own.

  Raises:
    SpecError: neither more nor less of it is, or no score has the column.
  """
  known = directions(scores or _own_with(name))
  if name not in known:
    raise SpecError(
      f"column {name!r} has no direction: it is none of "
      f"{', '.join(known) or 'the columns of a score'}"
    )
  if known[name] is None:
    raise SpecError(
      f"column {name!r} is neither better when higher nor when lower; choose "
      "a score"
    )
  return known[name] == "more"


def _load(name: str, own: Mapping[str, Any], of: type, what: str) -> Any:
  """The row of a name.

  Args:
    name: of one of ours, or where a user's own is.
    own: where ours are, by name.
    of: what a row is.
    what: it is, for messages.
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
    f"{name!r} is to be {what}, and is of type {type(row).__name__}; make it a "
    f"bigscale.spec.{of.__name__}",
  )
  require(
    row.name not in own,
    f"{name!r} calls itself {row.name!r}, as {what} of bigscale's own does; "
    "give its row another name",
  )
  return row


def _forms() -> str:
  """Says how a score is named."""
  alone = [kind for kind in KINDS if kind_of(kind).over == "pixels"]
  return (
    "a score is KIND_FEATURE, as fd_classifier or fid_inception, with KIND any "
    f"of {', '.join(k for k in KINDS if k not in alone)} and FEATURE any of "
    f"{', '.join(FEATURES)}; or, without a network, {', '.join(alone)}. One of "
    "your own is package.module:Kind/FEATURE, or package.module:Kind over "
    "pixels"
  )


def _is_of_fid(feature: str) -> bool:
  """Whether the Fréchet distance over a network is published as FID."""
  return feature in ("inception", "inception_clean")


def _own_with(name: str) -> list[str]:
  """Which score of ours gives a column; [] where none does."""
  base, feature = _split(name)
  base = base.replace("fid", "fd", 1) if _is_of_fid(feature) else base
  for kind in KINDS:
    row = kind_of(kind)
    if base in row.columns and (row.over == "features") == bool(feature):
      return [f"{kind}/{feature}" if feature else kind]
  return []


def _split(name: str) -> tuple[str, str]:
  """The name without its network's, and that; "" where it names none."""
  for feature in FEATURES:
    if name.endswith(f"_{feature}"):
      return name.removesuffix(f"_{feature}"), feature
  return name, ""
