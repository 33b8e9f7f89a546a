r"""Score a trained generator, or anybody's images, against real ones.

  bigscale evaluate --workdir=runs/fashion
  bigscale evaluate --workdir=runs/fashion --step=2000 --num=10000
  bigscale evaluate --workdir=runs/biggan --truncation=0.5 \
      --standing_batches=100
  bigscale evaluate --workdir=runs/fashion \
      --metrics=fd_classifier,kid_classifier,pr_classifier
  bigscale evaluate --images=theirs --reference=fashion_mnist
  bigscale evaluate --images=theirs --metrics=fid_inception \
      --statistics=VIRTUAL_imagenet128_labeled.npz
  bigscale evaluate --workdir=runs/fashion --neighbours=copies.png --d_accuracy

Prints JSON: by default the Frechet distance in the features of a classifier
that the library trains on the source's own labels (kept in ~/.cache/bigscale),
beside the distance of held-out reals, which no generator can be expected to
beat. Other scores: KIND_FEATURE with KIND any of fd, fd_infinity, is, kid, pr
(precision and recall), dc (density and coverage), intra_fd, and FEATURE
classifier, inception ('bigscale import --format=inception' first),
inception_clean (the same, resized as clean-FID does), or efflite0 (ImageNet
features that pip installs: 'bigscale[efflite0]'), as fid_inception; and
ms_ssim, the similarity of images of one class.

Samples are of the classes in the proportions of the reals that they are
compared with; --labels=uniform draws as many of every class.

`--images` takes a folder, a zip or an .npz, all of its images; `--reference`
any data source. Their size and channels are those of nearly all images, by
their headers, or those of --resolution and --channels. Images that cannot be
read are left out and counted; more than --max_bad_fraction are an error.

`--statistics` compares with moments that others publish in place of the data:
ADM's VIRTUAL_*.npz, pytorch-fid's, clean-fid's or TTUR's .npz, or what
--write_statistics has written. StyleGAN's .pkl goes through 'bigscale import
--format=stats' first.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

from absl import logging

from bigscale.cli import truncation
from bigscale.cli.common import (
  Trained,
  define_data_flag,
  define_process_flags,
  join_processes,
  load,
)
from bigscale.cli.flags import Flags
from bigscale.spec import DataSpec, RunSpec

if TYPE_CHECKING:
  from bigscale.metrics.evaluator import Evaluator
  from bigscale.metrics.labels import LabelPlan
  from bigscale.metrics.published import Published

FLAGS = Flags()
FLAGS.local_path("workdir", None, "folder of a run")
FLAGS.integer("step", None, "checkpoint to score; the newest by default")
FLAGS.integer("num", None, "images to draw; the config's by default")
FLAGS.list(
  "metrics",
  [],
  "scores, as fd_classifier,kid_classifier; the config's by default",
)
FLAGS.string(
  "images", None, "in place of a run: a folder, zip or .npz of images to score"
)
FLAGS.string(
  "reference", None, "with --images: the data source to compare with"
)
FLAGS.integer(
  "resolution",
  None,
  "with --images: side that all images are fitted to, a power of two for "
  "scores of the classifier; that of nearly all of them by default",
  lower_bound=1,
)
FLAGS.enum(
  "channels",
  None,
  ["1", "3"],
  "with --images: channels that all images are converted to; those of nearly "
  "all of them by default",
)
FLAGS.enum(
  "labels",
  None,
  ["reference", "uniform"],
  "classes that samples are drawn for: in the proportions of the reals that "
  "are compared with, or equally many of each; the config's by default",
)
FLAGS.float(
  "max_bad_fraction",
  None,
  "of the images, and of the reals, that cannot be read; the config's "
  "data.max_bad_fraction by default",
  lower_bound=0,
  upper_bound=1,
)
FLAGS.local_path(
  "statistics", None, "file of moments to compare with, in place of the data"
)
FLAGS.local_path(
  "write_statistics",
  None,
  "FILE.npz for the moments of the reals, which --statistics and pytorch-fid "
  "can read",
)
FLAGS.local_path(
  "neighbours",
  None,
  "FILE.png for samples beside the train images most like them",
)
FLAGS.string(
  "neighbours_feature",
  None,
  "of --neighbours: the network that says what is alike, one of those of the "
  "scores; the first by default",
)
FLAGS.bool(
  "d_accuracy",
  False,
  "with --workdir: what D says of train images, held-out ones and samples",
)
truncation.define_flags(FLAGS)
FLAGS.integer(
  "padding",
  None,
  "with --images: pixels of black on each side of images and reals that are "
  "not of the size scored; what the reference says by default, for images too "
  "if theirs have the size of its own",
  lower_bound=0,
)
define_data_flag(FLAGS)
define_process_flags(FLAGS)


def run() -> int:
  """Scores one checkpoint, or a set of images."""
  from bigscale.cli import inspection
  from bigscale.parallel import multihost

  inspection.check(FLAGS)
  if FLAGS.images:
    return _end(_score_images())
  workdir = FLAGS.require("workdir", "runs/first")
  join_processes(FLAGS)
  trained = load(workdir, FLAGS.step, discriminator=FLAGS.d_accuracy)
  # Every process of several holds all that is needed: one of them is enough.
  result = multihost.decide("scores", lambda: _score(trained))
  return _end(result, multihost.is_main())


def _end(result: dict[str, Any], is_main: bool = True) -> int:
  """Prints the scores and returns the exit code, 1 where a score is missing."""
  if is_main:
    print(json.dumps(result, indent=2))
    for name, why in result.get("failed", {}).items():
      print(f"bigscale: {name} is missing: {why}", file=sys.stderr)
  return 1 if "failed" in result else 0


def _score(trained: Trained) -> dict[str, Any]:
  """Draws and scores; what is printed."""
  from bigscale.cli import inspection
  from bigscale.train import hooks

  spec = _asked(trained.spec)
  if not FLAGS.statistics or FLAGS.neighbours or FLAGS.d_accuracy:
    inspection.check_data(spec, trained.stream)
  evaluate = spec.evaluate
  side, channels = spec.model.resolution, spec.model.image_channels
  evaluator = _against_file(evaluate.num_samples, side, channels, spec)
  evaluator = evaluator or hooks.evaluator_of(spec)
  asked = evaluator.asked
  drawn_under = truncation.under(
    trained, FLAGS.truncation, FLAGS, asked.class_counts
  )
  look = inspection.Inspection(
    FLAGS, evaluator, spec.data, spec.model.resolution, trained
  )
  drawn = hooks.draw_for_scores(
    trained.built,
    drawn_under.ema,
    asked,
    FLAGS.truncation,
    drawn_under.protocol["truncation_rule"],
  )
  scored = evaluator.scored(look.passing(drawn))
  return {
    "step": trained.step,
    "data": spec.data.sources,
    **drawn_under.protocol,
    **scored.scores,
    **({"failed": dict(scored.failed)} if scored.failed else {}),
    **look.results(),
    "throughput": evaluator.throughput,
    "reference": evaluator.reference,
  }


def _asked(spec: RunSpec) -> RunSpec:
  """The run's spec with the samples and scores that flags ask for."""
  import dataclasses

  evaluate = spec.evaluate
  if FLAGS.num is not None:
    evaluate = dataclasses.replace(evaluate, num_samples=FLAGS.num)
  if FLAGS.metrics:
    evaluate = dataclasses.replace(evaluate, scores=tuple(FLAGS.metrics))
  if FLAGS.labels:
    evaluate = dataclasses.replace(evaluate, labels=FLAGS.labels)
  data = _data(spec.data.at(FLAGS.data))
  # What the run chose its best checkpoint by need not be asked for again.
  checkpoint = dataclasses.replace(spec.checkpoint, best="")
  return dataclasses.replace(
    spec, data=data, evaluate=evaluate, checkpoint=checkpoint
  )


def _data(data: DataSpec) -> DataSpec:
  """The data with as many unreadable records as --max_bad_fraction allows."""
  import dataclasses

  if FLAGS.max_bad_fraction is None:
    return data
  return dataclasses.replace(
    data, bad_records="skip", max_bad_fraction=FLAGS.max_bad_fraction
  )


def _against_file(
  num_samples: int, side: int, channels: int, spec: RunSpec | None = None
) -> "Evaluator | None":
  """The evaluator of --statistics, where that is given.

  Args:
    num_samples: that are scored.
    side: of them, pixels.
    channels: of them.
    spec: of the run that draws them; None where images are given.
  """
  if not FLAGS.statistics:
    return None
  from bigscale.interop.files import sha256
  from bigscale.interop.statistics import read_statistics
  from bigscale.metrics.fid import FeatureMoments
  from bigscale.metrics.published import Published, evaluator_against

  file = FLAGS.statistics
  found = read_statistics(file)
  published = Published(
    file,
    FeatureMoments(found.count, found.mean, found.covariance),
    found.resize,
    found.feature,
    found.weights,
    {"file": file, "sha256": sha256(file), "source": found.source},
    found.label_counts,
  )
  return evaluator_against(
    published,
    num_samples=num_samples,
    scores=FLAGS.metrics or ("fid_inception",),
    plan=spec and _plan(published, spec),
    image_shape=(side, side, channels),
  )


def _plan(published: "Published", spec: RunSpec) -> "LabelPlan":
  """The labels of a run's samples where there are moments only."""
  import numpy as np

  from bigscale.data.reading import open_data
  from bigscale.data.splits import number_names
  from bigscale.metrics.labels import plan_labels, unlabelled
  from bigscale.spec import SpecError

  classes, rule = spec.model.num_classes, spec.evaluate.labels
  if not classes:
    return unlabelled("the model takes no labels")
  names = number_names(classes)
  counts, counted = published.label_counts, f"the images of {published.file}"
  if rule == "uniform":
    counts, counted = (1,) * classes, f"any reals of {classes} classes"
  elif counts is None or len(counts) != classes:
    try:
      train = open_data(spec.data, "train", whole=True)
      counts, names = train.label_counts(), train.class_names
      counted = f"{train!r}, as {published.file} has no counts of its own"
    except SpecError as error:
      logging.warning(
        "%s does not say how many images of each of %d classes it is of, and "
        "the run's own data cannot be opened (%s): as many samples are drawn "
        "of every class",
        published.file,
        classes,
        error,
      )
      counts, rule = (1,) * classes, "uniform"
      counted = f"unknown reals of {classes} classes"
  return plan_labels(
    rule, np.array(counts), spec.evaluate.num_samples, names, counted
  )


def _score_images() -> dict[str, Any]:
  """Reads and scores somebody's images; what is printed."""
  from bigscale.cli import given_images

  data = None
  if not FLAGS.statistics:
    reference = FLAGS.require("reference", "fashion_mnist")
    data = _data(DataSpec(source=reference, padding=FLAGS.padding))

  def make(count: int, side: int, channels: int) -> "Evaluator":
    if data is None:
      return _against_file(count, side, channels)
    return _against_source(data, count, side, channels)

  allowed = FLAGS.max_bad_fraction
  if allowed is None:
    allowed = DataSpec(source="any").max_bad_fraction
  return given_images.score(FLAGS, data, allowed, make)


def _against_source(
  data: DataSpec, count: int, side: int, channels: int
) -> "Evaluator":
  """The evaluator of --reference."""
  from bigscale.metrics.evaluate import make_evaluator

  return make_evaluator(
    data,
    resolution=side,
    channels=channels,
    num_classes=0,
    num_samples=count,
    scores=FLAGS.metrics or ("fd_classifier",),
  )
