"""The classes that scored samples are drawn for.

A distance compares two sets of images. Where some classes are rare among the
reals, samples of all classes in equal numbers are another set, however good
each of them is. So samples are of the classes in the proportions of the reals
that they are compared with, unless a user asks for equal numbers.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import hashing
from bigscale.data.proportions import apportion
from bigscale.spec import require

_ORDER = 0x4F524452
# Classes that a message or a protocol names.
_NAMED = 20

_log = logging.getLogger(__name__)


class LabelPlan(NamedTuple):
  """How many samples of each class are scored.

  Attributes:
    counts: [K], one number a class; () where samples have no labels.
    protocol: JSON values that say which rule gave them.
  """

  counts: tuple[int, ...]
  protocol: dict[str, Any]


def unlabelled(why: str) -> LabelPlan:
  """Returns the plan of samples that are not drawn for a class."""
  return LabelPlan((), {"rule": "none", "why": why})


def plan_labels(
  rule: str,
  reals: np.ndarray,
  num_samples: int,
  class_names: Sequence[str],
  counted: str,
) -> LabelPlan:
  """Decides how many samples of each class are scored.

  Warns of classes without reals, of which no sample is drawn, and of classes
  that so few samples leave out.

  Args:
    rule: `reference` follows the reals (largest remainder), `uniform` draws
      equally many of every class that there are reals of.
    reals: [K], how many of each class; fractions where records have several
      labels.
    num_samples: in all.
    class_names: K of them.
    counted: which reals these are, for the protocol.

  Raises:
    SpecError: there are no reals of any class.
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
      "%s has no image of %d of %d classes (%s); no sample of them is scored",
      counted,
      len(missing),
      len(class_names),
      _list(missing),
    )
  if left_out:
    _log.warning(
      "evaluate.num_samples=%d leave %d of %d classes without a sample (%s): "
      "the scores say nothing of these; draw more samples",
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
  """Returns the label of every sample in the order in which they are drawn.

  Sample i's is a function of the counts, the seed and i alone.

  Args:
    counts: [K] samples of each class.
    seed: of the order.

  Returns:
    [sum of the counts] int32, or None where there are no counts.
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
  """How many there are, and the names of some."""
  return {"number": len(names), "names": list(names[:_NAMED])}
