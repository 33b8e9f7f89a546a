"""Scores against moments that somebody else has measured.

A published FID compares with one of ours only if the reals are the same: their
number, crop and size, which moments cannot show, and their resizing and
network, which some files tell. What a file tells is held against what the
samples get, and a difference is refused; what it leaves open goes into the
protocol as null, with a warning.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.metrics import demands
from bigscale.metrics.evaluator import Evaluator, Panel, describe_networks
from bigscale.metrics.features import Features, Seen, open_network
from bigscale.metrics.fid import FeatureMoments, require_enough
from bigscale.metrics.labels import LabelPlan
from bigscale.metrics.opening import outputs_of
from bigscale.metrics.reference import Reference
from bigscale.spec import require
from bigscale.spec.scores import CLASSIFIER, by_feature, column, kind_of

_log = logging.getLogger(__name__)


class Published(NamedTuple):
  """Moments of reals, and what is known of them.

  Attributes:
    file: that holds them, for messages.
    moments: their `count` is None where nobody says it.
    resize: how images came to the network's size, None where nobody says.
    feature: name of the network, None where nobody says.
    weights: fingerprint of the network's, None where nobody says.
    provenance: JSON values that tell one such file from another.
    label_counts: [K], how many of the images each class has; None where nobody
      says.
  """

  file: str
  moments: FeatureMoments
  resize: str | None
  feature: str | None
  weights: str | None
  provenance: Mapping[str, Any]
  label_counts: tuple[float, ...] | None = None


def evaluator_against(
  published: Published,
  *,
  num_samples: int,
  scores: Sequence[str] = ("fid_inception",),
  cache_dir: str | None = None,
  plan: LabelPlan | None = None,
  image_shape: tuple[int, int, int] | None = None,
) -> Evaluator:
  """An evaluator that has seen no real image.

  Its reference therefore has no floors.

  Args:
    published: to compare with.
    num_samples: images that each score takes.
    scores: names; of one network, and of those that moments are enough for.
    cache_dir: see `cache.directory`.
    plan: of the samples' labels; None where they are not drawn for a class.
    image_shape: (R, R, C) of the samples, for the protocol.

  Raises:
    SpecError: a score needs more than moments, the protocol is another, or
      there are too few images or samples.
  """
  feature, kinds = _asked(published, scores)
  network = open_network(feature, cache_dir)
  _check_protocol(published, network)
  known = demands.Known(
    side=image_shape[0] if image_shape else 1,
    num_samples=num_samples,
    sample_counts=plan.counts if plan else (),
    num_reals=published.moments.count,
  )
  unmet = demands.unmet(kinds, feature, outputs_of(network), known)
  if unmet:
    raise demands.refusal(unmet, len(scores))
  none = np.zeros((0, network.dimension), np.float32)
  seen = Seen(published.moments, none, none, np.zeros(0, np.int32))
  panel = Panel(network, Reference(seen, np.zeros(0), {}, {}), kinds, feature)
  protocol = {
    "networks": describe_networks([panel]),
    "statistics": {
      **published.provenance,
      "dimension": len(published.moments.mean),
      "num_reals": published.moments.count,
      "resize": published.resize,
      "feature": published.feature,
      "weights": published.weights,
    },
  }
  if image_shape:
    protocol |= {"side": image_shape[0], "channels": image_shape[2]}
  return Evaluator(
    [panel],
    (),
    {"num_samples": num_samples, "protocol": protocol},
    conditional=False,
    num_samples=num_samples,
    plan=plan,
  )


def _asked(
  published: Published, scores: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
  """The network asked for, and the kinds of scores."""
  asked = by_feature(scores)
  for feature, kinds in asked.items():
    for kind in kinds:
      name = column(kind, feature)
      require(
        bool(feature) and not kind_of(kind).single_reals,
        f"{name} looks at single images of the reals, and {published.file} "
        "holds their mean and covariance alone; leave it out, or compare with "
        "a data source in place of statistics",
      )
      require(
        feature != CLASSIFIER,
        f"{name} is over a classifier that is trained on the data source, of "
        f"which {published.file} says nothing; use fid_inception, or compare "
        "with a data source in place of statistics",
      )
  require(
    len(asked) == 1,
    f"scores over {' and '.join(asked)} cannot share one file of statistics; "
    "ask for one network at a time",
  )
  ((feature, kinds),) = asked.items()
  return feature, kinds


def _check_protocol(published: Published, network: Features) -> None:
  """Raises `SpecError` where the reals were seen in another way."""
  file, moments = published.file, published.moments
  length = len(moments.mean)
  require(
    length == network.dimension,
    f"{file} describes {length} features, and {network.name} has "
    f"{network.dimension}: it is of another network, or of another of its "
    "layers; name statistics of the scored features",
  )
  resize = network.protocol.get("resize")
  for what, theirs, ours, remedy in (
    ("network", published.feature, network.name, "score that one"),
    (
      "resizing",
      published.resize if resize else None,
      resize,
      "score fid_inception for tf1, fid_inception_clean for clean; others are "
      "not offered, so find statistics of one of these",
    ),
    (
      "weights",
      published.weights,
      network.fingerprint,
      "import the weights that the statistics were made with",
    ),
  ):
    require(
      theirs is None or theirs == ours,
      f"{file} was made with another {what} ({theirs}) than the samples get "
      f"({ours}), so a distance would compare the two and not the images; "
      f"{remedy}",
    )
  if moments.count is not None:
    require_enough(
      moments.count,
      network.dimension,
      f"the images behind {file}",
      "find statistics of more images",
    )
  if resize and published.resize is None:
    _log.warning(
      "%s does not say how its images came to %s's size; samples are resized "
      "as %s does, and if it was otherwise the distance is not the published "
      "one",
      file,
      network.name,
      network.protocol.get("resize_rule", resize),
    )
