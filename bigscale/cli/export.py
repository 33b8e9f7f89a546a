r"""Write the generator's moving average as a StableHLO program.

  bigscale export --workdir=runs/fashion --out=fashion.hlo
  bigscale export --workdir=runs/fashion --step=2000 --platforms=cpu \
      --out=fashion.hlo

The program holds its weights, takes any batch size of float32 latents
[b, latent_dim] and int32 labels [b], and gives uint8 images [b, H, W, C].
FILE.json beside it says what it takes. docs/run_exported.py runs it without
this library.
"""

import pathlib

from absl import flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "folder of a run", flag_values=FLAGS)
flags.DEFINE_string("out", None, "file to write", flag_values=FLAGS)
flags.DEFINE_integer(
  "step", None, "checkpoint to use; the newest by default", flag_values=FLAGS
)
flags.DEFINE_list(
  "platforms",
  ["cpu", "tpu", "cuda"],
  "that it is to run on: cpu, tpu, cuda, rocm",
  flag_values=FLAGS,
)


def run() -> int:
  """Exports one checkpoint."""
  from bigscale.cli.common import load, require_flag
  from bigscale.spec import require

  workdir = require_flag(FLAGS, "workdir", "runs/first")
  out = pathlib.Path(require_flag(FLAGS, "out", "generator.hlo"))
  require(
    out.absolute().parent.is_dir(),
    f"--out={out}: there is no folder {out.parent}; make it first",
  )
  require(not out.is_dir(), f"--out={out} is a folder; name a file in it")

  from bigscale.interop.export import (
    check_platforms,
    export_generator,
    write,
  )

  check_platforms(FLAGS.platforms)
  trained = load(workdir, FLAGS.step)
  exported = export_generator(trained.spec, trained.ema, FLAGS.platforms)
  size = write(out, exported, trained.spec, trained.step)
  print(
    f"step {trained.step} for {', '.join(FLAGS.platforms)}: {out} "
    f"({size / 1e6:.1f} MB) and {out}.json"
  )
  return 0
