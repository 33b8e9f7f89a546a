r"""Compile a run's step ahead of time, for a TPU slice or this machine.

Example:
  bigscale compile --config=biggan:128 --topology=v5e:16x16 \
      --out=step.executable

The TPU compiler runs on CPUs (pip install 'bigscale[tpu-plan]'). `bigscale
train --executable=step.executable` then loads the step instead of compiling it,
and so does a run whose folder contains the file. Both sides need the same
versions of bigscale, JAX and libtpu, the same config and the same compiler
options. Otherwise the run says what differs, and compiles.
"""

from bigscale.cli.config_flags import ConfigFlags, spec_of

FLAGS = ConfigFlags()
FLAGS.define_config("Config of the run.")
FLAGS.string(
  "topology",
  None,
  "TPU slice, as in bigscale plan. Default: the devices of this machine.",
)
FLAGS.address("out", None, "File to write, or its address (gs://, s3://).")
FLAGS.integer(
  "virtual_devices",
  0,
  "Number of devices to split this machine's CPU into, as in bigscale train.",
  lower_bound=0,
)


def run() -> int:
  """Compiles the step and writes the file."""
  import time

  from bigscale.parallel.environment import prepare_cpu
  from bigscale.spec import require

  out = FLAGS.require("out", "step.executable")
  require(
    not (FLAGS.topology and FLAGS.virtual_devices),
    "--virtual_devices splits this machine's CPU; omit it or --topology",
  )
  if FLAGS.virtual_devices:
    prepare_cpu(FLAGS.virtual_devices)
  spec = spec_of(FLAGS)
  devices = _devices(FLAGS.topology) if FLAGS.topology else None

  from bigscale.parallel.mesh import make_mesh
  from bigscale.train import executable
  from bigscale.train.build import build

  built = build(spec, make_mesh(spec.mesh, devices))
  began = time.monotonic()
  lowered = built.step.lower(built.abstract_state, built.abstract_batch)
  compiled = lowered.compile()
  size = executable.write(out, built, compiled)
  print(
    f"{out}: {size / 1e6:.1f} MB, compiled in {time.monotonic() - began:.0f} s"
  )
  return 0


def _devices(name: str) -> object:
  """Returns the devices of a TPU slice."""
  from bigscale.plan import topology

  topology.prepare()
  return topology.devices(topology.parse(name))
