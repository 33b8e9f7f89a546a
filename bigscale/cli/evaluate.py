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

from absl import flags

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


def run() -> int:
  """Scores one checkpoint."""
  import dataclasses

  from bigscale.cli.common import load, require_flag
  from bigscale.sampling.sample import sample
  from bigscale.sampling.standing import standing_statistics
  from bigscale.train import hooks

  trained = load(require_flag(FLAGS, "workdir", "runs/first"), FLAGS.step)
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
  print(
    json.dumps(
      {
        "step": trained.step,
        "truncation": FLAGS.truncation,
        "standing_batches": FLAGS.standing_batches,
        **scores,
        "reference": evaluator.reference,
      },
      indent=2,
    )
  )
  return 0
