"""Scores samples against a data source, by whatever networks are asked for.

Who samples, with which weights and on which devices, is the caller's matter:
an `Evaluator` takes batches of uint8 images with the labels asked for.
"""

import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.data.reading import allowed_bad, open_data
from bigscale.data.sources import Source
from bigscale.data.stacked import StackedSource
from bigscale.data.subset import Subset
from bigscale.metrics.classifier_store import load_or_train
from bigscale.metrics.features import Features
from bigscale.metrics.fid import require_enough
from bigscale.metrics.kept_classes import KeptClasses
from bigscale.metrics.labels import (
  LabelPlan,
  labels_of,
  plan_labels,
  unlabelled,
)
from bigscale.metrics.looking import (
  CONFIDENT,
  PRESENT_SHARE,
  Asked,
  Looked,
  look,
)
from bigscale.metrics.networks import open_network
from bigscale.metrics.pace import Pace
from bigscale.metrics.pairs import Pairing
from bigscale.metrics.panel import compare
from bigscale.metrics.reference import (
  MostBad,
  Reference,
  Request,
  load_or_compute,
  pair_floor,
)
from bigscale.metrics.stacked import StackedClassifier
from bigscale.spec import DataSpec, require
from bigscale.spec.scores import by_feature, column

_log = logging.getLogger(__name__)


class Panel(NamedTuple):
  """A network, what it makes of the reals, and the scores asked of both."""

  network: Features
  reference: Reference
  kinds: tuple[str, ...]


class Evaluator:
  """Scores samples of one source at one size.

  Attributes:
    reference: JSON values, the same at every score: the floors and baselines
      of `bigscale.metrics.reference`, the counts, the `protocol`, and
      `classifier_accuracy` on the held-out split where there is a classifier,
      of all classes of the source even where a run has some of them.
    asked: what samples are looked at with.
    panels: networks, reals and scores.
    throughput: JSON values of the newest score: of `drawing` samples and of
      each network's embedding `seconds` and `images_per_second`
      (`bigscale.metrics.pace`), and `seconds` of the `scoring` after it.
  """

  def __init__(
    self,
    panels: Sequence[Panel],
    class_names: tuple[str, ...],
    reference: dict[str, Any],
    *,
    conditional: bool,
    num_samples: int,
    pairing: Pairing | None = None,
    plan: LabelPlan | None = None,
  ) -> None:
    plan = plan or unlabelled("samples are not drawn here")
    reference["protocol"]["labels"] = plan.protocol
    self.reference = reference
    self.panels = tuple(panels)
    self.throughput: dict[str, dict[str, float]] = {}
    self.asked = Asked(
      tuple(panel.network for panel in panels),
      tuple(panel.kinds for panel in panels),
      num_samples,
      len(class_names),
      pairing,
      plan.counts,
    )
    self._class_names = class_names
    self._conditional = conditional

  def labels(self, seed: int) -> np.ndarray | None:
    """Returns the class that each sample is to be drawn for.

    Args:
      seed: of their order.

    Returns:
      [num_samples] int32; None where samples are not drawn for a class.
    """
    return labels_of(self.asked.class_counts, seed)

  def score(
    self, sample_batches: Iterable[tuple[np.ndarray, np.ndarray]]
  ) -> dict[str, float]:
    """Scores the first `num_samples` samples.

    Args:
      sample_batches: pairs of images [N, R, R, C] uint8 and labels [N] int32
        (not looked at for an unconditional model), of any N. No batch is
        asked for beyond the last one needed.

    Returns:
      The columns of the scores asked for (`bigscale.spec.scores`); compare
      them with those of `reference`. With a classifier also:

      classes_present: classes with at least a tenth of their share among the
        reals in predictions of probability 0.5 or more.
      label_agreement: share of samples classified as the label they were
        asked for; near `classifier_accuracy` for reals. Only of conditional
        models.
      class_share/NAME: share of samples classified as NAME; they add up to 1.
        Only of up to 100 classes.

    Raises:
      SpecError: there are fewer samples, or of another shape or type.
    """
    return self.compare(look(self.asked, sample_batches))

  def compare(self, looked: Looked) -> dict[str, float]:
    """Scores what was seen of samples; see `score`."""
    scoring = Pace()
    scores = scoring.of(self.asked.num_samples, lambda: self._scores(looked))
    self.throughput = {
      **looked.throughput,
      "scoring": {"seconds": scoring.summary()["seconds"]},
    }
    return scores

  def _scores(self, looked: Looked) -> dict[str, float]:
    scores: dict[str, float] = {}
    for panel, seen in zip(self.panels, looked.seen, strict=True):
      name, reference = panel.network.name, panel.reference
      scores |= compare(
        seen, reference.reals, panel.kinds, name, self._class_names
      )
      if name == "classifier":
        scores |= looked.tally.scores(
          reference.label_counts, self._class_names, self._conditional
        )
    return scores | (looked.pairs.scores() if looked.pairs else {})


def make_evaluator(
  data: DataSpec,
  *,
  resolution: int,
  channels: int,
  num_classes: int,
  num_samples: int,
  scores: Sequence[str] = ("fd_classifier",),
  num_reals: int = 0,
  seed: int = 0,
  cache_dir: str | None = None,
  classifier_steps: int | None = None,
  labels: str = "reference",
) -> Evaluator:
  """Opens the networks and measures the reals.

  Args:
    data: of the run, with labels for scores of the classifier. Whatever part
      of a source a run may see, it is to look like all of it.
    resolution: side of the samples, pixels.
    channels: 1 or 3.
    num_classes: of the model, 0 if it is unconditional.
    num_samples: images that each score takes.
    scores: names, see `bigscale.spec.scores`.
    num_reals: train records to compare with; 0 takes all.
    seed: of the classifier, the halves and the baselines.
    cache_dir: None takes $BIGSCALE_CACHE, else ~/.cache/bigscale.
    classifier_steps: as of `train_classifier`; others give other features.
    labels: of samples; see `EvalSpec.labels`.

  Raises:
    SpecError: a score is unknown or its network's weights are missing, the
      source has no labels or other classes than the model, or there are too
      few images or samples.
    DataError: the source cannot be read, or too many of its records.
  """
  train = open_data(data, "train", whole=True)
  heldout = open_data(data, "heldout", whole=True)
  most_bad = functools.partial(allowed_bad, data)
  _check_classes(train, num_classes)
  shape = (resolution, resolution, channels)
  reference: dict[str, Any] = {}
  asked = by_feature(scores)
  pairing = None
  if asked.pop("", ()):
    pairing = Pairing(shape, train.class_names if num_classes else ())
    pairing.check(num_samples)
    reference |= pair_floor(pairing, heldout, seed, cache_dir, most_bad)
  panels = []
  for feature, kinds in asked.items():
    request = Request(kinds, shape, num_samples, num_reals, seed)
    splits = (train, heldout, request, cache_dir, most_bad)
    opened, said = _open(feature, classifier_steps, *splits)
    panels.append(Panel(opened, load_or_compute(opened, *splits), kinds))
    reference |= said
    _warn_if_blind(panels[-1])
  rule = labels if num_classes else "none"
  plan = _plan(rule, panels, pairing, train, num_samples)
  reference |= _describe(
    panels, pairing, train, heldout, num_samples, seed, shape
  )
  return Evaluator(
    panels,
    train.class_names,
    reference,
    conditional=num_classes > 0,
    num_samples=num_samples,
    pairing=pairing,
    plan=plan,
  )


def _plan(
  rule: str,
  panels: Sequence[Panel],
  pairing: Pairing | None,
  train: Source,
  num_samples: int,
) -> LabelPlan:
  """The labels of samples, by the reals that they are compared with.

  Raises:
    SpecError: a score within classes has too few samples or reals of one.
  """
  if rule == "none":
    return unlabelled("the samples are of no class")
  if not panels:
    counts, counted = train.label_counts(), repr(train)
  else:
    reals = panels[0].reference
    counts = reals.label_counts
    counted = f"{reals.met['train']['read']} records of {train!r}"
  plan = plan_labels(rule, counts, num_samples, train.class_names, counted)
  # Before any sample is drawn, which may take hours.
  if pairing:
    pairing.check(num_samples, plan.counts)
  for panel in panels:
    if "intra_fd" in panel.kinds:
      _check_within_classes(plan, panel, train.class_names)
  return plan


def _check_within_classes(
  plan: LabelPlan, panel: Panel, class_names: Sequence[str]
) -> None:
  """Raises `SpecError` where a class has too few for a distance of its own."""
  name, size = panel.network.name, panel.network.dimension
  reals = np.bincount(panel.reference.reals.labels, minlength=len(plan.counts))
  for label in np.flatnonzero(reals):
    require_enough(
      plan.counts[label],
      size,
      f"the samples of class {class_names[label]} "
      f"(evaluate.labels={plan.protocol['rule']!r})",
      "raise evaluate.num_samples, set evaluate.labels to 'uniform' to draw as "
      f"many of every class, or leave out {column('intra_fd', name)}",
    )
    require_enough(
      int(reals[label]),
      size,
      f"the reals of class {class_names[label]}",
      f"leave out {column('intra_fd', name)}, or give the class more images",
    )


def _open(
  feature: str,
  classifier_steps: int | None,
  train: Source,
  heldout: Source,
  request: Request,
  cache_dir: str | None,
  most_bad: MostBad,
) -> tuple[Features, dict[str, Any]]:
  """A network, and what the reference is to say of it."""
  if feature != "classifier":
    return open_network(feature, cache_dir), {}
  side, _, channels = request.image_shape
  kept: tuple[int, ...] = ()
  if isinstance(train, Subset):
    kept, train, heldout = train.kept_classes, train.whole, heldout.whole
  stacked = isinstance(train, StackedSource)
  trained = load_or_train(
    train.digits if stacked else train,
    heldout.digits if stacked else heldout,
    resolution=side,
    channels=1 if stacked else channels,
    seed=request.seed,
    cache_dir=cache_dir,
    steps=classifier_steps,
    most_bad=most_bad,
  )
  network: Features = trained.classifier
  if stacked:
    network = StackedClassifier(trained.classifier)
  if kept:
    network = KeptClasses(network, kept)
  return network, {"classifier_accuracy": trained.accuracy}


def _check_classes(train: Source, num_classes: int) -> None:
  require(
    num_classes in (0, train.num_classes),
    f"model.num_classes={num_classes}, but {train!r} has "
    f"{train.num_classes} classes; use {train.num_classes}, or 0 for a model "
    "without labels",
  )


def _warn_if_blind(panel: Panel) -> None:
  name, reals = panel.network.name, panel.reference
  distance = column("fd", name)
  floor = reals.distances.get(f"{distance}_floor")
  baselines = [
    reals.distances.get(f"{distance}_{baseline}", np.inf)
    for baseline in ("class_means_noise", "blurred_reals")
  ]
  if floor is not None and floor >= min(baselines):
    _log.warning(
      "%s puts held-out reals no nearer to the train split than a baseline: "
      "%s; its distances say little here",
      name,
      reals.distances,
    )


def _describe(
  panels: Sequence[Panel],
  pairing: Pairing | None,
  train: Source,
  heldout: Source,
  num_samples: int,
  seed: int,
  image_shape: tuple[int, int, int],
) -> dict[str, Any]:
  found: dict[str, Any] = {}
  met: dict[str, Any] = {}
  for panel in panels:
    found |= panel.reference.distances
    found["num_train"] = panel.reference.reals.moments.count
    met = panel.reference.met
  return found | {
    "num_classes": train.num_classes,
    "num_samples": num_samples,
    "num_heldout": len(heldout),
    "protocol": {
      "networks": describe_networks(panels),
      **({"ms_ssim": pairing.protocol} if pairing else {}),
      "reference_split": "train",
      "confident": CONFIDENT,
      "present_share": PRESENT_SHARE,
      "train": train.identity,
      "heldout": heldout.identity,
      "train_name": train.name,
      "heldout_name": heldout.name,
      "side": image_shape[0],
      "channels": image_shape[2],
      # What was read of each split, fitted to these, and left out.
      "images": met,
      "seed": seed,
    },
  }


def describe_networks(panels: Sequence[Panel]) -> dict[str, dict[str, Any]]:
  """By name, what scores of each network depend on."""
  return {
    panel.network.name: {
      **panel.network.protocol,
      "fingerprint": panel.network.fingerprint,
    }
    for panel in panels
  }
