r"""Score a trained generator against the data it was trained on.

  bigscale evaluate --workdir=runs/fashion
  bigscale evaluate --workdir=runs/fashion --step=2000 --num=10000
  bigscale evaluate --workdir=runs/biggan --truncation=0.5 \
      --standing_batches=100

Prints JSON: the Frechet distance in the features of a classifier that the
library trains on the source's own labels (kept in ~/.cache/bigscale), beside
the distance of held-out reals, which no generator can be expected to beat.
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
define_process_flags(FLAGS)


def run() -> int:
  """Scores one checkpoint."""
  from bigscale.parallel import multihost

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
