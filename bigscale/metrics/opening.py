"""Checks the networks, image counts and classes that scores require.

The checks take seconds: no classifier is trained and no image is decoded.
"""

from typing import NamedTuple

import numpy as np

from bigscale.data.proportions import apportion
from bigscale.data.sources import Source
from bigscale.data.stacked import StackedSource
from bigscale.data.subset import Subset
from bigscale.metrics import demands
from bigscale.metrics.classifier import FEATURES
from bigscale.metrics.classifier_store import check_source
from bigscale.metrics.features import Features, open_network
from bigscale.metrics.reference import MAX_KEPT
from bigscale.spec import SpecError, require
from bigscale.spec.scores import CLASSIFIER, Score, by_feature, column


class Setup(NamedTuple):
  """The scores of an evaluation and their settings.

  Attributes:
    scores: names of scores.
    image_shape: (R, R, C) of samples and reals.
    num_classes: number of classes of the model, 0 if it is unconditional.
    num_samples: number of samples that each score uses.
    num_reals: number of reals to compare with; 0 uses all.
    seed: seed of the classifier, the random halves and the baselines.
    cache_dir: see `cache.directory`.
    classifier_steps: see `train_classifier`.
    labels: see `EvalSpec.labels`.
  """

  scores: tuple[str, ...]
  image_shape: tuple[int, int, int]
  num_classes: int
  num_samples: int
  num_reals: int
  seed: int
  cache_dir: str | None
  classifier_steps: int | None
  labels: str

  @property
  def rule(self) -> str:
    """How the labels of samples are chosen; "none" if unconditional."""
    return self.labels if self.num_classes else "none"


def open_networks(train: Source, setup: Setup) -> dict[str, Features | None]:
  """Opens the networks, and checks that every score can be computed.

  Args:
    train: whole split to compare with.
    setup: the scores and their settings.

  Returns:
    Networks by feature. None for the classifier, which is trained later, and
    for "", the scores over pixels.

  Raises:
    SpecError: names every score that cannot be computed, and why.
  """
  networks, outputs, unmet = {}, {}, {}
  asked = by_feature(setup.scores)
  for feature, kinds in asked.items():
    try:
      networks[feature], outputs[feature] = _open(feature, train, setup)
    except SpecError as error:
      unmet |= {column(kind, feature): str(error) for kind in kinds}
  known = _expect(train, setup)
  for feature in networks:
    unmet |= demands.unmet(asked[feature], feature, outputs[feature], known)
  if unmet:
    raise demands.refusal(unmet, len(setup.scores))
  return networks


def _open(
  feature: str, train: Source, setup: Setup
) -> tuple[Features | None, demands.OutputSizes]:
  if not feature:
    return None, demands.OutputSizes()
  if feature == CLASSIFIER:
    return None, _classifier_output_sizes(train, setup)
  network = open_network(feature, setup.cache_dir)
  return network, output_sizes(network)


def output_sizes(network: Features) -> demands.OutputSizes:
  """Returns the sizes of a network's outputs."""
  return demands.OutputSizes(network.dimension, network.num_classes)


def _classifier_output_sizes(
  train: Source, setup: Setup
) -> demands.OutputSizes:
  """Returns the output sizes of the classifier before it is trained.

  Raises:
    SpecError: no classifier can be trained on the source.
  """
  whole = train.whole if isinstance(train, Subset) else train
  stacked = isinstance(whole, StackedSource)
  check_source(whole.digits if stacked else whole, setup.image_shape[0])
  channels = setup.image_shape[2]
  require(
    not stacked or channels == 3,
    f"model.image_channels={channels} must be 3, because {whole!r} stacks 3 "
    "digits; use 3",
  )
  dimension = FEATURES * (3 if stacked else 1)
  return demands.OutputSizes(dimension, train.num_classes)


def image_facts(train: Source, setup: Setup) -> demands.ImageFacts:
  """Returns facts about the images that do not require reading labels."""
  reals = setup.num_reals or len(train)
  return demands.ImageFacts(
    side=setup.image_shape[0],
    num_samples=setup.num_samples,
    sample_counts=() if setup.rule == "none" else None,
    num_reals=reals,
    kept_reals=min(reals, MAX_KEPT),
    class_names=train.class_names,
    rule=setup.rule,
  )


def _expect(train: Source, setup: Setup) -> demands.ImageFacts:
  """Returns facts about the images, with class counts if they are cheap."""
  known = image_facts(train, setup)
  rows = [Score.parse(name).row for name in setup.scores]
  within = any(row.within_classes for row in rows)
  if not within or setup.rule == "none" or not train.counts_quickly:
    return known
  counts = train.label_counts()
  present = counts > 0
  require(
    bool(present.any()),
    f"{train!r} has no image of any class, so no labels can be drawn; check "
    "the data's labels",
  )
  drawn = apportion(
    present if setup.rule == "uniform" else counts, setup.num_samples
  )
  if setup.rule == "reference" and setup.num_reals:
    # Labels follow the reals, and a random choice may have more of a class.
    share = setup.num_reals / len(train)
    more = demands.max_class_counts(counts, share) / np.maximum(
      counts * share, 1e-9
    )
    drawn = np.ceil(drawn * np.where(present, more, 0))
  kept = demands.max_class_counts(counts, known.kept_reals / len(train))
  return known._replace(sample_counts=drawn.tolist(), real_counts=kept.tolist())
