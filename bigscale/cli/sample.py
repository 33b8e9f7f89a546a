r"""Draw images from a trained generator's moving average.

  bigscale sample --workdir=runs/fashion --out=sheet.png
  bigscale sample --workdir=runs/fashion --labels=3,7 --truncation=0.5 \
      --num=64 --seed=1 --out=dresses.npz

A .png is a grid; a .npz holds `images` [N, H, W, C] uint8 and `labels` [N].
"""

import pathlib

from absl import flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of a run", flag_values=FLAGS)
flags.DEFINE_string("out", None, "FILE.png or FILE.npz", flag_values=FLAGS)
flags.DEFINE_integer(
  "step", None, "checkpoint to use; the newest by default", flag_values=FLAGS
)
flags.DEFINE_integer(
  "num", 64, "how many images", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("seed", 0, "of the latents", flag_values=FLAGS)
flags.DEFINE_list(
  "labels", None, "classes to draw in turn, like 3,7", flag_values=FLAGS
)
flags.DEFINE_float(
  "truncation",
  None,
  "resample latents beyond this value: less variety, more fidelity",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "columns", 0, "of the grid; about a square by default", flag_values=FLAGS
)


def run() -> int:
  """Draws and writes one file."""
  import numpy as np

  from bigscale.cli.common import load, require_flag
  from bigscale.sampling import grid
  from bigscale.sampling.sample import check_labels, sample
  from bigscale.spec import SpecError

  workdir = require_flag(FLAGS, "workdir", "runs/first")
  out = pathlib.Path(require_flag(FLAGS, "out", "samples.png"))
  if out.suffix not in (".png", ".npz"):
    raise SpecError(f"--out={out} must end in .png or .npz")
  if not out.absolute().parent.is_dir():
    raise SpecError(f"--out={out}: there is no folder {out.parent}")
  labels = _labels(FLAGS.labels)
  trained = load(workdir, FLAGS.step)
  check_labels(trained.spec.model, labels)
  batches = list(
    sample(
      trained.built.sample,
      trained.ema,
      trained.spec.model,
      count=FLAGS.num,
      batch_size=min(FLAGS.num, trained.spec.evaluate.batch_size),
      seed=FLAGS.seed,
      labels=labels,
      truncation=FLAGS.truncation,
    )
  )
  images = np.concatenate([batch.images for batch in batches])
  drawn = np.concatenate([batch.labels for batch in batches])
  if out.suffix == ".npz":
    np.savez_compressed(out, images=images, labels=drawn)
  else:
    columns = FLAGS.columns or int(np.ceil(np.sqrt(len(images))))
    scale = grid.view_scale(trained.spec.model.resolution)
    grid.save_png(out, images, min(columns, len(images)), scale)
  print(f"{len(images)} images of step {trained.step}: {out}")
  return 0


def _labels(texts: list[str] | None) -> list[int] | None:
  from bigscale.spec import SpecError

  if not texts:
    return None
  try:
    return [int(text) for text in texts]
  except ValueError as error:
    raise SpecError(
      f"--labels={','.join(texts)} must be whole numbers, like 3,7"
    ) from error
