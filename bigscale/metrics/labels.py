"""Chooses the labels that scored samples are conditioned on.

A distance compares two sets of images. If some classes are rare among the
reals, samples of all classes in equal numbers form a different set, however
good each sample is. By default, samples therefore follow the class proportions
of the reals that they are compared with. A user can choose equal numbers.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import hashing
from bigscale.data.proportions import apportion
from bigscale.spec import require

_ORDER = 0x4F524452
# Maximum number of classes named in a message or a protocol.
_NAMED = 20

_log = logging.getLogger(__name__)


class LabelPlan(NamedTuple):
  """Number of scored samples per class.

  Attributes:
    counts: [K] number of samples per class; () if samples have no labels.
    protocol: JSON values that describe the rule behind the counts.
  """

  counts: tuple[int, ...]
  protocol: dict[str, Any]


def unlabelled(why: str) -> LabelPlan:
  """Returns the plan of samples that are not conditioned on a class."""
  return LabelPlan((), {"rule": "none", "why": why})


def plan_labels(
  rule: str,
  reals: np.ndarray,
  num_samples: int,
  class_names: Sequence[str],
  counted: str,
) -> LabelPlan:
  """Chooses how many samples of each class are scored.

  Warns about classes without reals, which get no samples, and about classes
  that get no samples because `num_samples` is too small.

  Args:
    rule: `reference` follows the class proportions of the reals (largest
      remainder method). `uniform` uses equal numbers of every class that has
      reals.
    reals: [K] number of reals per class; fractional if records have several
      labels.
    num_samples: total number of samples.
    class_names: names of the K classes.
    counted: description of the counted reals, for the protocol.

  Raises:
    SpecError: no class has reals.
  """
  present = np.asarray(reals) > 0
  require(
    bool(present.any()),
    f"{counted} has no image of any class, so no labels can be drawn; check "
    "the data's labels",
  )
  weights = present if rule == "uniform" else reals
  counts = apportion(weights, num_samples)
  missing = [class_names[i] for i in np.flatnonzero(~present)]
  left_out = [class_names[i] for i in np.flatnonzero(present & (counts == 0))]
  if missing:
    _log.warning(
      "%s has no image of %d of %d classes (%s); these classes get no samples",
      counted,
      len(missing),
      len(class_names),
      _list(missing),
    )
  if left_out:
    _log.warning(
      "evaluate.num_samples=%d leaves %d of %d classes without a sample (%s). "
      "The scores do not cover these classes; use more samples",
      num_samples,
      len(left_out),
      len(class_names),
      _list(left_out),
    )
  drawn = counts[counts > 0]
  return LabelPlan(
    tuple(counts.tolist()),
    {
      "rule": rule,
      "reals": counted,
      "classes": len(class_names),
      "fewest_samples": int(drawn.min(initial=num_samples)),
      "most_samples": int(drawn.max(initial=0)),
      "classes_without_reals": _few(missing),
      "classes_without_samples": _few(left_out),
    },
  )


def labels_of(counts: Sequence[int], seed: int) -> np.ndarray | None:
  """Returns the label of every sample, in the order of generation.

  The label of sample i depends only on the counts, the seed and i.

  Args:
    counts: [K] number of samples per class.
    seed: seed of the order.

  Returns:
    [sum of the counts] int32, or None if `counts` is empty.
  """
  if not counts:
    return None
  labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  bits = hashing.random_bits(seed, _ORDER, np.arange(len(labels)))
  return labels[np.argsort(bits, kind="stable")]


def _list(names: Sequence[str]) -> str:
  more = ", ..." if len(names) > _NAMED else ""
  return ", ".join(names[:_NAMED]) + more


def _few(names: Sequence[str]) -> dict[str, Any]:
  """Returns the number of names and the first few."""
  return {"number": len(names), "names": list(names[:_NAMED])}
