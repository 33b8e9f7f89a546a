"""Flag checks, nearest images, D accuracy and statistics of `evaluate`."""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from bigscale.cli.common import Trained
from bigscale.cli.flags import Flags
from bigscale.data.manifest import DataError
from bigscale.spec import DataSpec, RunSpec, SpecError, require
from bigscale.spec.scores import CLASSIFIER, Score

if TYPE_CHECKING:
  from bigscale.data.sources import Source
  from bigscale.metrics.evaluator import Evaluator
  from bigscale.metrics.features import Features


def check(values: Flags) -> None:
  """Checks that the flags fit together, before anything is loaded.

  Raises:
    SpecError: two flags contradict each other.
  """
  images, statistics = values.images, values.statistics
  for name in ("resolution", "channels", "padding"):
    require(
      images or values[name].value is None,
      f"--{name}={values[name].value} applies only to --images; the model "
      "determines the images of a run. Give --images, or omit "
      f"--{name}",
    )
  require(
    not (images and values.labels),
    f"--labels={values.labels} applies only to samples of a run, and --images="
    f"{images} is given; omit --labels",
  )
  if images:
    require(
      not values.data,
      "--data applies only to a run; for --images, give --reference",
    )
    require(
      values.workdir is None,
      f"--workdir={values.workdir} and --images={images}: give one of them",
    )
    require(
      not values.d_accuracy,
      "--d_accuracy needs the D of a run; give --workdir instead of --images",
    )
    for name in values.metrics:
      require(
        not Score.parse(name).row.labels,
        f"--metrics names {name}, which needs samples of the reference's "
        "classes; omit it with --images",
      )
    if not statistics:
      values.require("reference", "fashion_mnist")
  require(
    not (statistics and values.reference),
    f"--statistics={statistics} and --reference={values.reference} both name "
    "what to compare with; give one of them",
  )
  require(
    not (statistics and values.write_statistics),
    "--write_statistics needs the data, and --statistics="
    f"{statistics} replaces the data; give one of them",
  )
  require(
    not (statistics and images and values.neighbours),
    "--neighbours searches the images of the train split; give --reference "
    "instead of --statistics",
  )
  require(
    not (statistics or "").endswith(".pkl"),
    f"--statistics={statistics} is a pickle, and loading it executes code in "
    "it. If you trust the file, run bigscale import --format=stats "
    f"--unsafe_pickle {statistics} --out=DIR, and then give "
    "--statistics=DIR/statistics.npz",
  )
  require(
    values.neighbours_feature is None or values.neighbours is not None,
    f"--neighbours_feature={values.neighbours_feature} has no effect without "
    "--neighbours=FILE.png; give both",
  )
  for name, ending in (("neighbours", ".png"), ("write_statistics", ".npz")):
    _check_file(name, values[name].value, ending)


def check_data(spec: RunSpec, stream: Mapping[str, Any]) -> None:
  """Checks that the data are the data that a run was trained on.

  Args:
    spec: spec of the run, with the location of the data.
    stream: state of the run's data stream, from the checkpoint.

  Raises:
    SpecError: the data differ, or cannot be opened.
  """
  from bigscale.data import mixture
  from bigscale.data.reading import open_mix
  from bigscale.data.stream import SOURCE_FORM, check_same

  if "source" not in stream:
    return  # The weights were imported.
  mix = open_mix(spec.data, "train", spec.seed)
  try:
    check_same(
      stream,
      mixture.identity_of(*mix),
      mixture.earlier_identity_of(*mix),
      spec.data,
    )
  except DataError as error:
    # Earlier versions identified data by file names and sizes, so a mismatch
    # may be a false alarm. Training does not continue here: only warn.
    if stream.get("source_form") == SOURCE_FORM:
      raise
    logging.warning("%s", error)


def _check_file(name: str, value: str | None, ending: str) -> None:
  if value is None:
    return
  path = pathlib.Path(value)
  require(path.suffix == ending, f"--{name}={path} must end in {ending}")
  require(
    path.absolute().parent.is_dir(),
    f"--{name}={path}: there is no folder {path.parent}",
  )


class Inspection:
  """Keeps the first samples of an evaluation and inspects them at the end."""

  def __init__(
    self,
    values: Flags,
    evaluator: "Evaluator",
    data: DataSpec | None,
    side: int,
    trained: Trained | None = None,
  ) -> None:
    """Writes the file of --write_statistics, which needs no samples.

    Args:
      values: the flags.
      evaluator: evaluator with the networks and the real images.
      data: data to compare with. None if --statistics is given.
      side: side of samples and real images, pixels.
      trained: the restored checkpoint. None for --images.

    Raises:
      SpecError: the scores have no network that --write_statistics or
        --neighbours can use.
    """
    self._values = values
    self._evaluator = evaluator
    self._data = data
    self._trained = trained
    self._kept: list[tuple[np.ndarray, np.ndarray]] = []
    self._network = _network(values, evaluator) if values.neighbours else None
    if values.write_statistics:
      _write_statistics(values.write_statistics, evaluator, side)

  def passing(self, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the given batches of images and labels; keeps the first ones."""
    from bigscale.metrics.memorization import MOST_SEARCHED

    wanted = self._values.neighbours or self._values.d_accuracy
    missing = MOST_SEARCHED if wanted else 0
    for batch in batches:
      images, labels = batch
      if missing:
        self._kept.append((images[:missing], labels[:missing]))
        missing -= len(self._kept[-1][0])
      yield batch

  def results(self) -> dict[str, Any]:
    """Returns the results as JSON values, by name of the flag."""
    found: dict[str, Any] = {}
    if not self._kept:
      return found
    images, labels = map(np.concatenate, zip(*self._kept, strict=True))
    if self._values.neighbours:
      found["neighbours"] = self._neighbours(images)
    if self._values.d_accuracy:
      found["d_accuracy"] = self._d_accuracy(images, labels)
    return found

  def _neighbours(self, images: np.ndarray) -> dict[str, Any]:
    """Writes the file of --neighbours and returns facts about it."""
    from bigscale.metrics.memorization import search
    from bigscale.sampling import grid

    train, heldout = self._splits()
    sheet = search(self._network, images, train, heldout)
    scale = grid.view_scale(images.shape[1])
    file = self._values.neighbours
    try:
      grid.save_png(file, sheet.images, sheet.columns, scale)
    except OSError as error:
      raise SpecError(
        f"--neighbours={file} cannot be written ({error.strerror or error}); "
        "choose a writable folder on a disk with free space"
      ) from error
    return {"file": file, **sheet.said}

  def _d_accuracy(
    self, images: np.ndarray, labels: np.ndarray
  ) -> dict[str, Any]:
    """Returns the accuracy of D.

    Uses as many reals of each split as there are samples, or the whole split if
    it is smaller.
    """
    from bigscale.data.reading import Reader
    from bigscale.metrics.d_accuracy import d_accuracy
    from bigscale.train.discriminate import TrainedDiscriminator

    spec = self._trained.spec
    d = TrainedDiscriminator(
      self._trained.built, self._trained.d, spec.evaluate.batch_size
    )

    def of_reals(source: "Source") -> tuple[np.ndarray, int]:
      count = min(len(images), len(source))
      rows = np.random.default_rng(0).choice(len(source), count, replace=False)
      reader = Reader(source, images.shape[1:])
      logits = d.logits(*reader.read(np.sort(rows)))
      return logits, len(reader.unreadable)

    (train, bad), (heldout, bad_heldout) = map(of_reals, self._splits())
    unreadable = {"train": bad, "heldout": bad_heldout}
    return {
      "num_samples": len(images),
      "num_train": len(train),
      "num_heldout": len(heldout),
      **({"unreadable": unreadable} if bad or bad_heldout else {}),
      **d_accuracy(
        train, heldout, d.logits(images, labels), spec.loss.threshold
      ),
    }

  def _splits(self) -> tuple["Source", "Source"]:
    from bigscale.data.reading import open_data

    return open_data(self._data, "train"), open_data(self._data, "heldout")


def _network(values: Flags, evaluator: "Evaluator") -> "Features":
  """Returns the network whose features define the nearest images."""
  networks = {panel.network.name: panel.network for panel in evaluator.panels}
  require(
    bool(networks),
    "--neighbours compares features, but no score uses any; add one, like "
    "--metrics=fd_classifier",
  )
  chosen = values.neighbours_feature or next(iter(networks))
  require(
    chosen in networks,
    f"--neighbours_feature={chosen} is not a network of the scores "
    f"({', '.join(networks)}); add fd_{chosen} to --metrics, or choose one of "
    "these networks",
  )
  return networks[chosen]


def _write_statistics(file: str, evaluator: "Evaluator", side: int) -> None:
  """Writes the moments of the real images."""
  from bigscale.interop.statistics import Statistics, save_statistics

  networks = [panel.network for panel in evaluator.panels]
  names = ", ".join(network.name for network in networks) or "none"
  require(
    len(networks) == 1 and networks[0].name != CLASSIFIER,
    f"--write_statistics={file} needs scores of exactly one network, and a "
    f"published one, but the networks are: {names}; give "
    "--metrics=fid_inception",
  )
  (panel,) = evaluator.panels
  moments = panel.reference.reals.moments
  protocol = evaluator.reference["protocol"]
  save_statistics(
    file,
    Statistics(
      moments.mean,
      moments.covariance,
      moments.count,
      resize=panel.network.protocol.get("resize"),
      feature=panel.network.name,
      weights=panel.network.fingerprint,
      source=f"{protocol['train_name']} ({protocol['train']}) at {side} px",
      label_counts=_label_counts(panel.reference.label_counts),
    ),
  )


def _label_counts(counts: np.ndarray) -> tuple[float, ...] | None:
  """Returns the class counts, or None without labels (a single count)."""
  return tuple(counts.tolist()) if len(counts) > 1 else None
