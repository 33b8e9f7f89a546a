r"""Write the generator's moving average as a StableHLO program.

  bigscale export --workdir=runs/fashion --out=fashion.hlo
  bigscale export --workdir=runs/fashion --step=2000 --platforms=cpu \
      --out=fashion.hlo

  bigscale export --workdir=runs/biggan --truncation=0.4 --out=biggan.hlo

The program holds its weights, takes any batch size of float32 latents
[b, latent_dim] and int32 labels [b], and gives uint8 images [b, H, W, C].
--truncation and --standing_batches choose the statistics of batch norm in it;
latents are the caller's, and are to be drawn under the same truncation.
FILE.json beside it says what it takes, and how latents are to be drawn.
docs/run_exported.py runs it without this library.
"""

import pathlib

from bigscale.cli import truncation
from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.local_path("workdir", None, "folder of a run")
FLAGS.local_path("out", None, "file to write")
FLAGS.integer("step", None, "checkpoint to use; the newest by default")
FLAGS.list(
  "platforms",
  ["cpu", "tpu", "cuda"],
  "that it is to run on: cpu, tpu, cuda, rocm",
)
truncation.define_flags(FLAGS)


def run() -> int:
  """Exports one checkpoint."""
  from bigscale.cli.common import load
  from bigscale.spec import require

  workdir = FLAGS.require("workdir", "runs/first")
  out = pathlib.Path(FLAGS.require("out", "generator.hlo"))
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
  under = truncation.under(trained, FLAGS.truncation, FLAGS)
  exported = export_generator(trained.spec, under.ema, FLAGS.platforms)
  size = write(out, exported, trained.spec, trained.step, under.protocol)
  print(
    f"step {trained.step} for {', '.join(FLAGS.platforms)}: {out} "
    f"({size / 1e6:.1f} MB) and {out}.json"
  )
  print(truncation.sentence(under.protocol))
  return 0
