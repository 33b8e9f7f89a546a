"""Opens the splits and networks of an evaluation, and measures the reals.

This happens in two stages. `open_evaluation` opens splits and networks and
checks the requirements of every score (`metrics.demands`). It takes seconds, so
a run does it before its first step. `Opened.evaluator` then trains the
classifier and measures the reals. This may take an hour, and the results are
cached.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigscale.data.reading import allowed_bad, open_data
from bigscale.data.sources import Source
from bigscale.data.stacked import StackedSource
from bigscale.data.subset import Subset
from bigscale.metrics import cache, demands
from bigscale.metrics.classifier_store import load_or_train
from bigscale.metrics.classifier_views import KeptClasses, StackedClassifier
from bigscale.metrics.evaluator import (
  Evaluator,
  Panel,
  describe_networks,
  why,
)
from bigscale.metrics.features import Features
from bigscale.metrics.labels import LabelPlan, plan_labels, unlabelled
from bigscale.metrics.looking import CONFIDENT, PRESENT_SHARE
from bigscale.metrics.opening import (
  Setup,
  image_facts,
  open_networks,
  output_sizes,
)
from bigscale.metrics.pixels import ImageSelection, pixel_floor
from bigscale.metrics.reference import (
  MaxBad,
  Request,
  load_or_compute,
  warn_if_blind,
)
from bigscale.spec import DataSpec, require
from bigscale.spec.scores import CLASSIFIER, Score, by_feature, column


def make_evaluator(data: DataSpec, **asked: Any) -> Evaluator:
  """Opens the networks, measures the reals, and returns the evaluator.

  Args:
    data: see `open_evaluation`.
    **asked: the other arguments of `open_evaluation`.

  Raises:
    SpecError: see `open_evaluation`.
    DataError: the source cannot be read, or too many of its records are
      unusable.
  """
  return open_evaluation(data, **asked).evaluator()


def open_evaluation(
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
) -> "Opened":
  """Opens splits and networks, and checks that every score can be computed.

  Args:
    data: data of the run. Scores of the classifier need labels. A run that
      trains on a subset of the records is compared with all of them.
    resolution: height and width of the samples, pixels.
    channels: 1 or 3.
    num_classes: number of classes of the model, 0 if it is unconditional.
    num_samples: number of samples that each score uses.
    scores: names of scores, see `bigscale.spec.scores`.
    num_reals: number of train records to compare with; 0 uses all.
    seed: seed of the classifier, the random halves and the baselines.
    cache_dir: cache directory; None uses $BIGSCALE_CACHE, or ~/.cache/bigscale
      if that is not set.
    classifier_steps: see `train_classifier`. Another number of steps gives
      other features.
    labels: how labels of samples are chosen; see `EvalSpec.labels`.

  Raises:
    SpecError: names every score that cannot be computed because it is unknown,
      its network's weights are missing, the source has no labels or other
      classes than the model, or there are too few images or samples.
    DataError: the source cannot be opened.
  """
  train = open_data(data, "train", whole=True)
  heldout = open_data(data, "heldout", whole=True)
  require(
    num_classes in (0, train.num_classes),
    f"model.num_classes={num_classes}, but {train!r} has "
    f"{train.num_classes} classes; use {train.num_classes}, or 0 for a model "
    "without labels",
  )
  require(
    num_reals <= len(train),
    f"evaluate.num_reals={num_reals}, but {train!r} has {len(train)} records; "
    "use that number or fewer, or 0 for all",
  )
  setup = Setup(
    tuple(scores),
    (resolution, resolution, channels),
    num_classes,
    num_samples,
    num_reals,
    seed,
    cache_dir,
    classifier_steps,
    labels,
  )
  networks = open_networks(train, setup)
  max_bad = functools.partial(allowed_bad, data)
  return Opened(train, heldout, networks, setup, max_bad)


@contextlib.contextmanager
def _attempt(
  names: Sequence[str], strict: bool, failed: dict[str, str]
) -> Iterator[None]:
  """Records why the named scores failed; raises instead if `strict`."""
  try:
    yield
  except Exception as error:
    if strict:
      raise
    failed |= dict.fromkeys(names, why(error))


class Opened:
  """The opened splits and networks of an evaluation."""

  def __init__(
    self,
    train: Source,
    heldout: Source,
    networks: Mapping[str, Features | None],
    setup: Setup,
    max_bad: MaxBad,
  ) -> None:
    """Takes the results of `open_evaluation`.

    Args:
      train: split to compare with.
      heldout: split for the floors.
      networks: networks by feature. None for the classifier, which is trained
        later, and for pixels, which have no network.
      setup: the scores and their settings.
      max_bad: maps a number of records to how many of them may be unusable.
    """
    self._train, self._heldout = train, heldout
    self._networks = dict(networks)
    self._setup, self._max_bad = setup, max_bad
    # By feature: held-out accuracy of the classifier, once it is trained.
    self._accuracy: dict[str, float] = {}
    # By feature: each panel whose reals are measured, and its reference values.
    self._panels: dict[str, tuple[Panel, dict[str, Any]]] = {}

  def prepare_cache(self) -> None:
    """Creates the cache directory; raises `SpecError` if that fails."""
    cache.prepare(self._setup.cache_dir)

  def evaluator(self, *, strict: bool = True) -> Evaluator:
    """Trains the classifier if a score needs it, and measures the reals.

    A second call retries only what failed in the first.

    Args:
      strict: whether to raise if a score fails. Otherwise `Evaluator.failed`
        contains the failed scores, and the others can be computed.

    Raises:
      SpecError: too few images can be read.
      DataError: the source cannot be read, or too many of its records are
        unusable.
    """
    setup, failed = self._setup, {}
    attempt = functools.partial(_attempt, strict=strict, failed=failed)
    reference: dict[str, Any] = {}
    pixels, panels = [], []
    for feature, kinds in by_feature(setup.scores).items():
      for kind in () if feature else kinds:
        with attempt([column(kind, "")]):
          selection = self._selection(kind)
          reference |= self._pixel_floor(selection)
          pixels.append(selection)
      if feature:
        with attempt([column(kind, feature) for kind in kinds]):
          panel, said = self._panel(feature, kinds)
          panels.append(panel)
          reference |= said
    plan = unlabelled("nothing can be scored")
    if panels or pixels:
      with attempt([Score.parse(name).name for name in setup.scores]):
        plan = self._plan(panels)
        unmet = self._unmet(panels, plan)
        if unmet and strict:
          raise demands.refusal(unmet, len(setup.scores))
        failed |= unmet
    panels = [panel.without(failed) for panel in panels]
    panels = [panel for panel in panels if panel.kinds]
    pixels = [each for each in pixels if column(each.kind, "") not in failed]
    return Evaluator(
      panels,
      self._train.class_names,
      reference | self._describe(panels, pixels),
      conditional=setup.num_classes > 0,
      num_samples=setup.num_samples,
      pixels=pixels,
      plan=plan,
      failed=failed,
    )

  @property
  def features(self) -> tuple[str, ...]:
    """Features that the scores use, the classifier first."""
    return tuple(sorted(filter(None, self._networks), key=CLASSIFIER.__ne__))

  def network(self, feature: str) -> Features:
    """Returns the network of a feature, and trains the classifier if necessary.

    Raises:
      SpecError: too few images can be read.
      DataError: the source cannot be read, or too many of its records are
        unusable.
    """
    network = self._networks[feature]
    if network is None:
      network, self._accuracy[feature] = _classifier(
        self._train, self._heldout, self._setup, self._max_bad
      )
      self._networks[feature] = network
    return network

  def _selection(self, kind: str) -> ImageSelection:
    names = self._train.class_names if self._setup.num_classes else ()
    return ImageSelection(kind, self._setup.image_shape, names)

  def _pixel_floor(self, selection: ImageSelection) -> dict[str, float]:
    setup = self._setup
    return pixel_floor(
      selection,
      self._heldout,
      setup.seed,
      setup.cache_dir,
      self._max_bad,
    )

  def _panel(
    self, feature: str, kinds: tuple[str, ...]
  ) -> tuple[Panel, dict[str, Any]]:
    """Returns a feature's panel and its entries of `Evaluator.reference`."""
    if feature in self._panels:
      return self._panels[feature]
    setup = self._setup
    request = Request(
      kinds, setup.image_shape, setup.num_samples, setup.num_reals, setup.seed
    )
    network, said = self.network(feature), {}
    if feature in self._accuracy:
      said = {"classifier_accuracy": self._accuracy[feature]}
    reference = load_or_compute(
      network,
      self._train,
      self._heldout,
      request,
      setup.cache_dir,
      self._max_bad,
    )
    panel = Panel(network, reference, kinds, feature)
    warn_if_blind(reference.distances, network.name)
    said = {**said, **reference.distances}
    self._panels[feature] = panel, said
    return panel, said

  def _plan(self, panels: Sequence[Panel]) -> LabelPlan:
    """Returns the labels of the samples, based on the reals' label counts."""
    setup, train = self._setup, self._train
    if setup.rule == "none":
      return unlabelled("the samples are of no class")
    if panels:
      reals = panels[0].reference
      counts = reals.label_counts
      counted = f"{reals.met['train']['read']} records of {train!r}"
    else:
      counts, counted = train.label_counts(), repr(train)
    return plan_labels(
      setup.rule, counts, setup.num_samples, train.class_names, counted
    )

  def _unmet(self, panels: Sequence[Panel], plan: LabelPlan) -> dict[str, str]:
    """Returns the scores that cannot be computed from the reals read."""
    known = image_facts(self._train, self._setup)._replace(
      sample_counts=plan.counts
    )
    found = demands.unmet(
      by_feature(self._setup.scores).get("", ()),
      "",
      demands.OutputSizes(),
      known,
    )
    for panel in panels:
      reals = panel.reference.reals
      counts = np.bincount(reals.labels, minlength=len(plan.counts))
      found |= demands.unmet(
        panel.kinds,
        panel.network.name,
        output_sizes(panel.network),
        known._replace(
          num_reals=reals.moments.count,
          kept_reals=len(reals.labels) or None,
          real_counts=counts.tolist(),
        ),
      )
    return found

  def _describe(
    self, panels: Sequence[Panel], pixels: Sequence[ImageSelection]
  ) -> dict[str, Any]:
    train, heldout, setup = self._train, self._heldout, self._setup
    side, _, channels = setup.image_shape
    met: dict[str, Any] = {}
    for panel in panels:
      met = panel.reference.met
    counts = [panel.reference.reals.moments.count for panel in panels]
    return {
      **({"num_train": counts[-1]} if counts else {}),
      "num_classes": train.num_classes,
      "num_samples": setup.num_samples,
      "num_heldout": len(heldout),
      "protocol": {
        "networks": describe_networks(panels),
        **{column(each.kind, ""): each.protocol for each in pixels},
        "reference_split": "train",
        "confident": CONFIDENT,
        "present_share": PRESENT_SHARE,
        "train": train.identity,
        "heldout": heldout.identity,
        "train_name": train.name,
        "heldout_name": heldout.name,
        "side": side,
        "channels": channels,
        # Numbers of images read, resized or converted, and skipped, by split.
        "images": met,
        "seed": setup.seed,
      },
    }


def _classifier(
  train: Source, heldout: Source, setup: Setup, max_bad: MaxBad
) -> tuple[Features, float]:
  """Returns the classifier of a source and its held-out accuracy."""
  side, _, channels = setup.image_shape
  kept: tuple[int, ...] = ()
  if isinstance(train, Subset):
    kept, train, heldout = train.kept_classes, train.whole, heldout.whole
  stacked = isinstance(train, StackedSource)
  trained = load_or_train(
    train.digits if stacked else train,
    heldout.digits if stacked else heldout,
    resolution=side,
    channels=1 if stacked else channels,
    seed=setup.seed,
    cache_dir=setup.cache_dir,
    steps=setup.classifier_steps,
    max_bad=max_bad,
  )
  network: Features = trained.classifier
  if stacked:
    network = StackedClassifier(trained.classifier)
  if kept:
    network = KeptClasses(network, kept)
  return network, trained.accuracy
