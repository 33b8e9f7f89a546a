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

`--images` takes a folder, a zip or an .npz, all of its images; `--reference`
any data source, whose size they are fitted to with --resolution.

`--statistics` compares with moments that others publish in place of the data:
ADM's VIRTUAL_*.npz, pytorch-fid's, clean-fid's or TTUR's .npz, or what
--write_statistics has written. StyleGAN's .pkl goes through 'bigscale import
--format=stats' first.
"""

import json
from typing import TYPE_CHECKING, Any

from absl import flags

from bigscale.cli.common import (
  Trained,
  define_data_flag,
  define_process_flags,
  join_processes,
  load,
  require_flag,
)
from bigscale.spec import DataSpec, RunSpec, require

if TYPE_CHECKING:
  from bigscale.data.sources import Source
  from bigscale.metrics.evaluate import Evaluator

FLAGS = flags.FlagValues()
# Images read and scored at a time.
_CHUNK = 250
flags.DEFINE_string("workdir", None, "folder of a run", flag_values=FLAGS)
flags.DEFINE_integer(
  "step", None, "checkpoint to score; the newest by default", flag_values=FLAGS
)
flags.DEFINE_integer(
  "num", None, "images to draw; the config's by default", flag_values=FLAGS
)
flags.DEFINE_float(
  "truncation",
  None,
  "resample latents beyond this value: less variety, more fidelity",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "standing_batches",
  0,
  "normalize by the mean statistics of so many batches of the same "
  "truncation (the paper: 100); 0 takes the running ones of training",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "metrics",
  [],
  "scores, as fd_classifier,kid_classifier; the config's by default",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "images",
  None,
  "in place of a run: a folder, zip or .npz of images to score",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "reference",
  None,
  "with --images: the data source to compare with",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "resolution",
  None,
  "with --images: side that all images are fitted to, a power of two for "
  "scores of the classifier; that of the first of them by default",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "statistics",
  None,
  "file of moments to compare with, in place of the data",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "write_statistics",
  None,
  "FILE.npz for the moments of the reals, which --statistics and pytorch-fid "
  "can read",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "neighbours",
  None,
  "FILE.png for samples beside the train images most like them",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "neighbours_feature",
  None,
  "of --neighbours: the network that says what is alike, one of those of the "
  "scores; the first by default",
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "d_accuracy",
  False,
  "with --workdir: what D says of train images, held-out ones and samples",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "padding",
  None,
  "with --images: pixels of black on each side of images and reals that are "
  "not of the size scored; what the reference says by default, for images too "
  "if theirs have the size of its own",
  lower_bound=0,
  flag_values=FLAGS,
)
define_data_flag(FLAGS)
define_process_flags(FLAGS)


def run() -> int:
  """Scores one checkpoint, or a set of images."""
  from bigscale.cli import inspection
  from bigscale.parallel import multihost

  inspection.check(FLAGS)
  if FLAGS.images:
    print(json.dumps(_score_images(FLAGS.images), indent=2))
    return 0
  workdir = require_flag(FLAGS, "workdir", "runs/first")
  join_processes(FLAGS)
  trained = load(workdir, FLAGS.step, discriminator=FLAGS.d_accuracy)
  # Every process of several holds all that is needed: one of them is enough.
  result = multihost.decide("scores", lambda: _score(trained))
  if multihost.is_main():
    print(json.dumps(result, indent=2))
  return 0


def _score(trained: Trained) -> dict[str, Any]:
  """Draws and scores; what is printed."""
  from bigscale.cli import inspection
  from bigscale.sampling.sample import sample
  from bigscale.sampling.standing import standing_statistics
  from bigscale.train import hooks

  spec = _asked(trained.spec)
  if not FLAGS.statistics or FLAGS.neighbours or FLAGS.d_accuracy:
    inspection.check_data(spec, trained.stream)
  evaluate = spec.evaluate
  average = standing_statistics(
    spec.model,
    trained.built.mesh.devices.flat[0].platform,
    trained.ema,
    batches=FLAGS.standing_batches,
    batch_size=evaluate.batch_size,
    truncation=FLAGS.truncation,
  )
  evaluator = _against_file(evaluate.num_samples) or hooks.evaluator_of(spec)
  look = inspection.Inspection(
    FLAGS, evaluator, spec.data, spec.model.resolution, trained
  )
  scores = evaluator.score(
    look.passing(
      sample(
        trained.built.sample,
        average,
        spec.model,
        count=evaluate.num_samples,
        batch_size=evaluate.batch_size,
        seed=hooks.EVAL_SEED,
        truncation=FLAGS.truncation,
      )
    )
  )
  return {
    "step": trained.step,
    "data": spec.data.sources,
    "truncation": FLAGS.truncation,
    "standing_batches": FLAGS.standing_batches,
    **scores,
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
  data = spec.data.at(FLAGS.data)
  # What the run chose its best checkpoint by need not be asked for again.
  checkpoint = dataclasses.replace(spec.checkpoint, best="")
  return dataclasses.replace(
    spec, data=data, evaluate=evaluate, checkpoint=checkpoint
  )


def _against_file(num_samples: int) -> "Evaluator | None":
  """The evaluator of --statistics, where that is given."""
  if not FLAGS.statistics:
    return None
  from bigscale.interop.files import sha256
  from bigscale.interop.statistics import read_statistics
  from bigscale.metrics.fid import Moments
  from bigscale.metrics.published import Published, evaluator_against

  file = FLAGS.statistics
  found = read_statistics(file)
  published = Published(
    file,
    Moments(found.count, found.mean, found.covariance),
    found.resize,
    found.feature,
    found.weights,
    {"file": file, "sha256": sha256(file), "source": found.source},
  )
  return evaluator_against(
    published,
    num_samples=num_samples,
    scores=FLAGS.metrics or ("fid_inception",),
  )


def _score_images(path: str) -> dict[str, Any]:
  """Reads and scores somebody's images; what is printed."""
  import numpy as np

  from bigscale.cli import inspection
  from bigscale.data.reading import read_many
  from bigscale.data.whole import Whole

  images = Whole(path, 0)
  images.padding = _padding_of(images)
  count = FLAGS.num or len(images)
  require(
    count <= len(images),
    f"--num={count}, but {path} has {len(images)} images; give fewer",
  )
  side, _, channels = images.read(0).image.shape
  side = FLAGS.resolution or side
  evaluator = _against_file(count) or _against_source(count, side, channels)
  data = _reference() if FLAGS.reference else None
  look = inspection.Inspection(FLAGS, evaluator, data, side)
  # Folders list class by class: parts are to be of all.
  rows = np.random.default_rng(0).permutation(len(images))[:count]
  chunks = np.array_split(rows, -(-count // _CHUNK))
  scores = evaluator.score(
    look.passing(read_many(images, chunk, side, channels) for chunk in chunks)
  )
  return {
    "images": images.identity,
    "num_images": count,
    "padding": images.padding,
    **scores,
    **look.results(),
    "throughput": evaluator.throughput,
    "reference": evaluator.reference,
  }


def _reference() -> DataSpec:
  source = require_flag(FLAGS, "reference", "fashion_mnist")
  return DataSpec(source=source, padding=FLAGS.padding)


def _padding_of(images: "Source") -> int:
  """The padding of --images: that of reals which are of one size with them."""
  from bigscale.data.reading import open_data

  if not FLAGS.reference:
    return FLAGS.padding or 0
  reals = open_data(_reference(), "train")
  if not reals.padding or FLAGS.padding is not None:
    return reals.padding
  sides = [min(each.read(0).image.shape[:2]) for each in (images, reals)]
  return reals.padding if sides[0] == sides[1] else 0


def _against_source(count: int, side: int, channels: int) -> "Evaluator":
  """The evaluator of --reference."""
  from bigscale.metrics.evaluate import make_evaluator

  return make_evaluator(
    _reference(),
    resolution=side,
    channels=channels,
    num_classes=0,
    num_samples=count,
    scores=FLAGS.metrics or ("fd_classifier",),
  )
