r"""Score a trained generator, or anybody's images, against real ones.

  bigscale evaluate --workdir=runs/fashion
  bigscale evaluate --workdir=runs/fashion --step=2000 --num=10000
  bigscale evaluate --workdir=runs/biggan --truncation=0.5 \
      --standing_batches=100
  bigscale evaluate --workdir=runs/fashion \
      --metrics=fd_classifier,kid_classifier,pr_classifier
  bigscale evaluate --images=theirs --reference=fashion_mnist

Prints JSON: by default the Frechet distance in the features of a classifier
that the library trains on the source's own labels (kept in ~/.cache/bigscale),
beside the distance of held-out reals, which no generator can be expected to
beat. Other scores: KIND_FEATURE with KIND any of fd, is, kid, pr (precision and
recall), dc (density and coverage), intra_fd, and FEATURE classifier, inception
('bigscale import --format=inception' first), or efflite0 (ImageNet features
that pip installs: 'bigscale[efflite0]'), as fid_inception.

`--images` takes a folder, a zip or an .npz, all of its images; `--reference`
any data source, whose size they are fitted to with --resolution.
"""

import json
from typing import Any

from absl import flags

from bigscale.cli.common import (
  Trained,
  define_process_flags,
  join_processes,
  load,
  require_flag,
)

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
define_process_flags(FLAGS)


def run() -> int:
  """Scores one checkpoint, or a set of images."""
  from bigscale.parallel import multihost

  if FLAGS.images:
    print(json.dumps(_score_images(FLAGS.images), indent=2))
    return 0
  workdir = require_flag(FLAGS, "workdir", "runs/first")
  join_processes(FLAGS)
  trained = load(workdir, FLAGS.step)
  # Every process of several holds all that is needed: one of them is enough.
  result = multihost.decide("scores", lambda: _score(trained))
  if multihost.is_main():
    print(json.dumps(result, indent=2))
  return 0


def _score(trained: Trained) -> dict[str, Any]:
  """Draws and scores; what is printed."""
  import dataclasses

  from bigscale.sampling.sample import sample
  from bigscale.sampling.standing import standing_statistics
  from bigscale.train import hooks

  evaluate = trained.spec.evaluate
  if FLAGS.num is not None:
    evaluate = dataclasses.replace(evaluate, num_samples=FLAGS.num)
  if FLAGS.metrics:
    evaluate = dataclasses.replace(evaluate, scores=tuple(FLAGS.metrics))
  spec = dataclasses.replace(trained.spec, evaluate=evaluate)
  average = standing_statistics(
    spec.model,
    trained.built.mesh.devices.flat[0].platform,
    trained.ema,
    batches=FLAGS.standing_batches,
    batch_size=evaluate.batch_size,
    truncation=FLAGS.truncation,
  )
  evaluator = hooks.evaluator_of(spec)
  scores = evaluator.score(
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
  return {
    "step": trained.step,
    "truncation": FLAGS.truncation,
    "standing_batches": FLAGS.standing_batches,
    **scores,
    "reference": evaluator.reference,
  }


def _score_images(path: str) -> dict[str, Any]:
  """Reads and scores somebody's images; what is printed."""
  import numpy as np

  from bigscale.data.reading import read_many
  from bigscale.data.whole import Whole
  from bigscale.metrics.evaluate import make_evaluator
  from bigscale.spec import DataSpec, require

  reference = require_flag(FLAGS, "reference", "fashion_mnist")
  require(
    FLAGS.workdir is None,
    f"--workdir={FLAGS.workdir} and --images={path}: give one of them",
  )
  require(
    not any(name.startswith("intra_fd") for name in FLAGS.metrics),
    "--metrics names intra_fd, which needs images drawn for the reference's "
    "own classes; leave it out with --images",
  )
  images = Whole(path)
  count = FLAGS.num or len(images)
  require(
    count <= len(images),
    f"--num={count}, but {path} has {len(images)} images; give fewer",
  )
  side, _, channels = images.read(0).image.shape
  side = FLAGS.resolution or side
  evaluator = make_evaluator(
    DataSpec(source=reference),
    resolution=side,
    channels=channels,
    num_classes=0,
    num_samples=count,
    scores=FLAGS.metrics or ("fd_classifier",),
  )
  # Folders list class by class: parts are to be of all.
  rows = np.random.default_rng(0).permutation(len(images))[:count]
  chunks = np.array_split(rows, -(-count // _CHUNK))
  scores = evaluator.score(
    read_many(images, chunk, side, channels) for chunk in chunks
  )
  return {
    "images": images.identity,
    "num_images": count,
    **scores,
    "reference": evaluator.reference,
  }
