"""Scores samples against published moments.

A published FID is comparable with ours only if it uses the same reals, resizing
and network. Moments do not show the number, crop and size of the reals, but
some files state the resizing and the network. A file that states another
resizing or network than the samples get is refused. What a file does not state
is null in the protocol, and a warning is logged.
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
from bigscale.metrics.opening import output_sizes
from bigscale.metrics.reference import Reference
from bigscale.spec import require
from bigscale.spec.scores import CLASSIFIER, by_feature, column, kind_of

_log = logging.getLogger(__name__)


class Published(NamedTuple):
  """Moments of reals, and what their file states about them.

  Attributes:
    file: file of the moments, for messages.
    moments: moments; `count` is None if it is unknown.
    resize: how images were resized for the network, None if unknown.
    feature: name of the network, None if unknown.
    weights: fingerprint of the network's weights, None if unknown.
    provenance: JSON values that identify the file.
    label_counts: [K] number of images per class, None if unknown.
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
  """Returns an evaluator that compares with published moments.

  It reads no real images, so its reference has no floors.

  Args:
    published: moments to compare with.
    num_samples: number of samples that each score uses.
    scores: names of scores of a single network that need only moments.
    cache_dir: see `cache.directory`.
    plan: labels of the samples; None if they are not conditioned on a class.
    image_shape: (R, R, C) of the samples, for the protocol.

  Raises:
    SpecError: a score needs more than moments, the protocol differs, or there
      are too few images or samples.
  """
  feature, kinds = _asked(published, scores)
  network = open_network(feature, cache_dir)
  _check_protocol(published, network)
  known = demands.ImageFacts(
    side=image_shape[0] if image_shape else 1,
    num_samples=num_samples,
    sample_counts=plan.counts if plan else (),
    num_reals=published.moments.count,
  )
  unmet = demands.unmet(kinds, feature, output_sizes(network), known)
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
  """Returns the requested network and kinds of scores."""
  asked = by_feature(scores)
  for feature, kinds in asked.items():
    for kind in kinds:
      name = column(kind, feature)
      require(
        bool(feature) and not kind_of(kind).single_reals,
        f"{name} needs individual reals, but {published.file} contains only "
        "their mean and covariance; leave it out, or compare with a data "
        "source instead of statistics",
      )
      require(
        feature != CLASSIFIER,
        f"{name} uses a classifier trained on the data source, which "
        f"{published.file} does not have; use fid_inception, or compare with a "
        "data source instead of statistics",
      )
  require(
    len(asked) == 1,
    f"scores over {' and '.join(asked)} cannot share one file of statistics; "
    "request scores of one network at a time",
  )
  ((feature, kinds),) = asked.items()
  return feature, kinds


def _check_protocol(published: Published, network: Features) -> None:
  """Raises `SpecError` if the reals were embedded in another way."""
  file, moments = published.file, published.moments
  length = len(moments.mean)
  require(
    length == network.dimension,
    f"{file} describes {length} features, but {network.name} has "
    f"{network.dimension}: the file is of another network or layer; use "
    "statistics of the scored features",
  )
  resize = network.protocol.get("resize")
  for what, theirs, ours, remedy in (
    ("network", published.feature, network.name, "score with that network"),
    (
      "resizing",
      published.resize if resize else None,
      resize,
      "use fid_inception for tf1 or fid_inception_clean for clean. Other "
      "resizing is not supported: find statistics made with one of these",
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
      f"{file} was made with {what} {theirs}, but the samples use {ours}, so a "
      f"distance would measure that difference and not the images; {remedy}",
    )
  if moments.count is not None:
    require_enough(
      moments.count,
      network.dimension,
      f"images of {file}",
      "use statistics of more images",
    )
  if resize and published.resize is None:
    _log.warning(
      "%s does not say how its images were resized for %s; samples are resized "
      "by %s. If the file's images were resized in another way, the distance "
      "is not comparable with the published one",
      file,
      network.name,
      network.protocol.get("resize_rule", resize),
    )
