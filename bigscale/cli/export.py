r"""Export a trained generator as a StableHLO program.

Example:
  bigscale export --workdir=runs/fashion --out=fashion.hlo

The program contains the moving average of the generator's weights. It takes
float32 latents [b, latent_dim] and int32 labels [b], for any batch size b, and
returns uint8 images [b, H, W, C]. The caller samples the latents.

--truncation and --standing_batches choose the batch norm statistics in the
program. Sample the latents with the same truncation. FILE.json, next to the
program, describes its inputs and how to sample the latents.
docs/run_exported.py runs the program without this library.

More examples:
  bigscale export --workdir=runs/fashion --step=2000 --platforms=cpu \
      --out=fashion.hlo
  bigscale export --workdir=runs/biggan --truncation=0.4 --out=biggan.hlo
"""

from bigscale.cli import outputs, truncation
from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.heading("Input and output")
FLAGS.address("workdir", None, "Folder of the run, or its address.")
FLAGS.address("out", None, "File to write, or its address (gs://, s3://).")
FLAGS.integer("step", None, "Step of the checkpoint. Default: the newest.")
FLAGS.list(
  "platforms",
  ["cpu", "tpu", "cuda"],
  "Platforms that the program runs on: cpu, tpu, cuda, rocm.",
)
truncation.define_flags(FLAGS)


def run() -> int:
  """Exports one checkpoint."""
  from bigscale.cli.common import load

  workdir = FLAGS.require("workdir", "runs/first")
  out = outputs.check(FLAGS.require("out", "generator.hlo"))

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
