"""What scores take to be computed, checked before anything is drawn.

What each kind takes is in its row (`bigscale.spec.ScoreKind`). Here the rows
are held against what is known of the samples and of the reals.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bigscale.spec import SpecError
from bigscale.spec.scores import column, kind_of

# Classes that a message names.
_NAMED = 3
# By so many standard deviations a random choice of reals may differ.
_DEVIATIONS = 5


class Known(NamedTuple):
  """What is known of the images that will be compared.

  Attributes:
    side: of all of them, pixels.
    num_samples: to be drawn.
    sample_counts: of them, of each class; () where they are not drawn for a
      class, None where the counts are not known yet.
    num_reals: of which moments are taken; None where nobody says how many.
    kept_reals: of these, those that are compared one by one.
    real_counts: of the kept ones, of each class; None where not known yet.
    class_names: of the classes.
    rule: `evaluate.labels`, for messages.
  """

  side: int
  num_samples: int
  sample_counts: Sequence[float] | None = ()
  num_reals: int | None = None
  kept_reals: int | None = None
  real_counts: Sequence[float] | None = None
  class_names: Sequence[str] = ()
  rule: str = "reference"


class Outputs(NamedTuple):
  """What a network makes of an image: D features, K classes."""

  dimension: int = 0
  classes: int = 0


def unmet(
  kinds: Collection[str], feature: str, outputs: Outputs, known: Known
) -> dict[str, str]:
  """Returns the scores that cannot be computed, by name, and why.

  Args:
    kinds: of scores.
    feature: their network; "" over pixels.
    outputs: of the network.
    known: of the images.

  Returns:
    For each score the value, the rule and the remedy.
  """
  found = {}
  for kind in kinds:
    name = column(kind, feature)
    try:
      _check(kind, name, outputs, known)
    except SpecError as error:
      found[name] = str(error)
  return found


def refusal(unmet_scores: Mapping[str, str], asked: int) -> SpecError:
  """Returns one error that names all scores that cannot be computed.

  Args:
    unmet_scores: by name, why; at least one.
    asked: how many scores were asked for.
  """
  remedy = (
    "Mend it, or leave the score out: evaluate.scores of a run, --metrics of "
    "'bigscale evaluate'"
  )
  if len(unmet_scores) == 1:
    ((name, why),) = unmet_scores.items()
    return SpecError(f"{name} cannot be computed: {why}. {remedy}")
  lines = "\n".join(f"  {name}: {why}" for name, why in unmet_scores.items())
  return SpecError(
    f"{len(unmet_scores)} of {asked} scores cannot be computed:\n{lines}\n"
    f"{remedy}"
  )


def most_of(counts: np.ndarray, share: float) -> np.ndarray:
  """Returns how many of each class a random part of records has at most.

  Args:
    counts: [K] of all records.
    share: of the records that are in the part; 1 gives the counts.
  """
  expected = np.asarray(counts, np.float64) * share
  if share >= 1:
    return expected
  likely = expected + _DEVIATIONS * np.sqrt(expected)
  return np.minimum(np.ceil(likely), counts)


def _check(kind: str, name: str, outputs: Outputs, known: Known) -> None:
  """Raises `SpecError` where a score cannot be computed."""
  row = kind_of(kind)
  if known.side < row.smallest_side:
    raise SpecError(
      f"images of {known.side} x {known.side} px are too small for {name}, "
      f"which needs {row.smallest_side} px; score larger images"
    )
  if row.labels and known.sample_counts == ():
    raise SpecError(
      f"{name} compares within classes, and the samples are of no class; score "
      "a model with labels (model.num_classes)"
    )
  if outputs.classes < row.fewest_classes:
    raise SpecError(
      f"{name} needs {row.fewest_classes} classes or more, and its network "
      f"tells {outputs.classes} apart; give data with more"
    )
  least = row.fewest(*outputs)
  over = f" over {outputs.dimension} features" if outputs.dimension else ""
  rule = f"{name}, which takes at least {{}}{over}"
  if known.num_samples < least[0]:
    raise SpecError(
      f"evaluate.num_samples are {known.num_samples} samples, too few for "
      f"{rule.format(least[0])}; raise evaluate.num_samples"
    )
  reals = known.kept_reals if row.single_reals else known.num_reals
  if reals is not None and reals < least[1]:
    raise SpecError(
      f"the reals to compare with are {reals} images, too few for "
      f"{rule.format(least[1])}; use a larger set, or more of it "
      "(evaluate.num_reals)"
    )
  if row.within_classes and known.sample_counts:
    _check_within(name, rule, least, known)


def _check_within(
  name: str, rule: str, least: tuple[int, int], known: Known
) -> None:
  """Raises `SpecError` where a class has too few samples or reals."""
  samples, reals = np.asarray(known.sample_counts), None
  there = samples > 0
  if least[1]:
    if known.real_counts is None:
      return
    reals = np.asarray(known.real_counts)
    there |= reals > 0
  few = np.flatnonzero(there & (np.floor(samples) < least[0]))
  if len(few):
    raise SpecError(
      f"evaluate.num_samples={known.num_samples} have too few of "
      f"{_list(few, samples, known.class_names)} (evaluate.labels="
      f"{known.rule!r}) for {rule.format(least[0])} of each class; raise "
      "evaluate.num_samples, or set evaluate.labels to 'uniform' to draw as "
      "many of every class"
    )
  if reals is None:
    return
  few = np.flatnonzero(there & (np.floor(reals) < least[1]))
  if len(few):
    raise SpecError(
      f"the reals of {_list(few, reals, known.class_names)} are too few for "
      f"{rule.format(least[1])} of each class; give the class more images"
    )


def _list(classes: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> str:
  """Some classes with their counts."""
  said = ", ".join(
    f"{names[label]} ({math.floor(counts[label])})"
    for label in classes[:_NAMED].tolist()
  )
  more = len(classes) - _NAMED
  word = "class" if len(classes) == 1 else f"{len(classes)} classes:"
  return f"{word} {said}" + (f" and {more} more" if more > 0 else "")
