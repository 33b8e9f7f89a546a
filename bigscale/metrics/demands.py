"""Checks what scores require before any sample is generated.

The row of each kind (`bigscale.spec.ScoreKind`) states its requirements. This
module compares them with what is known about the samples and the reals.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bigscale.spec import SpecError
from bigscale.spec.scores import column, kind_of

# Number of classes that a message names.
_NAMED = 3
# A random choice of reals may exceed its expected class counts by up to this
# many standard deviations.
_DEVIATIONS = 5


class ImageFacts(NamedTuple):
  """Facts about the images that will be compared.

  Attributes:
    side: height and width of all images, pixels.
    num_samples: number of samples to generate.
    sample_counts: number of samples per class; () if samples are not
      conditioned on a class, None if the counts are not known yet.
    num_reals: number of reals whose moments are computed; None if unknown.
    kept_reals: number of reals whose single features are kept.
    real_counts: number of kept reals per class; None if not known yet.
    class_names: names of the classes.
    rule: value of `evaluate.labels`, for messages.
  """

  side: int
  num_samples: int
  sample_counts: Sequence[float] | None = ()
  num_reals: int | None = None
  kept_reals: int | None = None
  real_counts: Sequence[float] | None = None
  class_names: Sequence[str] = ()
  rule: str = "reference"


class OutputSizes(NamedTuple):
  """Output sizes of a network: the number of features D and of classes K."""

  dimension: int = 0
  classes: int = 0


def unmet(
  kinds: Collection[str], feature: str, outputs: OutputSizes, known: ImageFacts
) -> dict[str, str]:
  """Returns the scores that cannot be computed, and why.

  Args:
    kinds: kinds of scores.
    feature: name of their network; "" for scores over pixels.
    outputs: sizes of the network's outputs.
    known: facts about the images.

  Returns:
    By score name, a message with the value, the rule and the remedy.
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
    unmet_scores: by score name, why it cannot be computed; at least one.
    asked: number of scores requested.
  """
  remedy = (
    "Fix it, or leave the score out of evaluate.scores (of a run) or --metrics "
    "(of 'bigscale evaluate')"
  )
  if len(unmet_scores) == 1:
    ((name, why),) = unmet_scores.items()
    return SpecError(f"{name} cannot be computed: {why}. {remedy}")
  lines = "\n".join(f"  {name}: {why}" for name, why in unmet_scores.items())
  return SpecError(
    f"{len(unmet_scores)} of {asked} scores cannot be computed:\n{lines}\n"
    f"{remedy}"
  )


def max_class_counts(counts: np.ndarray, share: float) -> np.ndarray:
  """Returns an upper bound on the class counts of a random subset of records.

  Args:
    counts: [K] number of records per class.
    share: share of the records in the subset; 1 returns the counts.
  """
  expected = np.asarray(counts, np.float64) * share
  if share >= 1:
    return expected
  likely = expected + _DEVIATIONS * np.sqrt(expected)
  return np.minimum(np.ceil(likely), counts)


def _check(
  kind: str, name: str, outputs: OutputSizes, known: ImageFacts
) -> None:
  """Raises `SpecError` if a score cannot be computed."""
  row = kind_of(kind)
  if known.side < row.smallest_side:
    raise SpecError(
      f"images of {known.side} x {known.side} px are too small for {name}, "
      f"which needs {row.smallest_side} px; score larger images"
    )
  if row.labels and known.sample_counts == ():
    raise SpecError(
      f"{name} compares within classes, but the samples have no classes; score "
      "a conditional model (model.num_classes)"
    )
  if outputs.classes < row.fewest_classes:
    raise SpecError(
      f"{name} needs {row.fewest_classes} classes or more, but its network "
      f"has {outputs.classes}; use data with more classes"
    )
  least = row.fewest(*outputs)
  over = f" over {outputs.dimension} features" if outputs.dimension else ""
  rule = f"{name}, which needs at least {{}}{over}"
  if known.num_samples < least[0]:
    raise SpecError(
      f"evaluate.num_samples={known.num_samples} is too few for "
      f"{rule.format(least[0])}; raise evaluate.num_samples"
    )
  reals = known.kept_reals if row.single_reals else known.num_reals
  if reals is not None and reals < least[1]:
    raise SpecError(
      f"there are {reals} reals to compare with, too few for "
      f"{rule.format(least[1])}; use a larger data set, or raise "
      "evaluate.num_reals"
    )
  if row.within_classes and known.sample_counts:
    _check_within(name, rule, least, known)


def _check_within(
  name: str, rule: str, least: tuple[int, int], known: ImageFacts
) -> None:
  """Raises `SpecError` if a class has too few samples or reals."""
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
      f"evaluate.num_samples={known.num_samples} has too few samples of "
      f"{_list(few, samples, known.class_names)} (evaluate.labels="
      f"{known.rule!r}) for {rule.format(least[0])} of each class; raise "
      "evaluate.num_samples, or set evaluate.labels to 'uniform' for equal "
      "numbers of every class"
    )
  if reals is None:
    return
  few = np.flatnonzero(there & (np.floor(reals) < least[1]))
  if len(few):
    raise SpecError(
      f"there are too few reals of {_list(few, reals, known.class_names)} for "
      f"{rule.format(least[1])} of each class; add images of the class"
    )


def _list(classes: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> str:
  """Formats some of the classes with their counts."""
  said = ", ".join(
    f"{names[label]} ({math.floor(counts[label])})"
    for label in classes[:_NAMED].tolist()
  )
  more = len(classes) - _NAMED
  word = "class" if len(classes) == 1 else f"{len(classes)} classes:"
  return f"{word} {said}" + (f" and {more} more" if more > 0 else "")
