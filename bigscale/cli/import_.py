r"""Import the weights of another implementation as a run.

Example:
  bigscale import --format=biggan-pytorch G.pth D.pth --ema=G_ema.pth \
      --out=runs/biggan

Supported files: .npz, .safetensors, .pth, .pt and .bin (the last three need
PyTorch), and .pkl with --unsafe_pickle. The first file contains the
generator's state dict, or the state dicts of several networks with the
prefixes G/, D/ and G_ema/. The second file, if given, contains the
discriminator.

Without --config, the model is inferred from the tensors, all other settings
come from the family's published recipe, and --source names the data set. A
folder imported with --config can be continued with `bigscale train` and the
same config. `bigscale train --init_from` starts a new run from any imported
folder.

More examples:

Import with a config:
  bigscale import --format=r3gan weights.npz --out=runs/r3gan \
      --config=r3gan:cifar10 --config.data.source=/data/cifar10

Import FID statistics. The output contains mu and sigma, the mean and the
covariance in float64, and their provenance:
  bigscale import --format=stats fid_stats.npz --out=stats/imagenet128

Import the FID's network as pytorch-fid and torch-fidelity publish it. It is
stored where `evaluate` looks for it, in $BIGSCALE_CACHE (default:
~/.cache/bigscale), or in --out:
  bigscale import --format=inception pt_inception-2015-12-05-6726825d.pth
"""

import sys

from bigscale.cli.config_flags import ConfigFlags, spec_of
from bigscale.spec import RunSpec

_STATISTICS = "stats"
_INCEPTION = "inception"

FLAGS = ConfigFlags()
FLAGS.heading("Files")
FLAGS.string(
  "format",
  None,
  "biggan-pytorch, biggan-tfhub, biggan-hf, r3gan, stats or inception. With "
  "--config, also a format that its model defines.",
)
FLAGS.address(
  "out",
  None,
  "Folder to create, or its address. For --format=inception: local "
  "folder to use instead of the cache.",
)
FLAGS.string("ema", None, "File with the moving average of the generator.")
FLAGS.bool(
  "unsafe_pickle",
  False,
  "Allow .pkl files. Loading one executes code in it, so use this only for "
  "files you trust.",
)
FLAGS.heading("Run")
FLAGS.define_config("Config of the run. Its model must match the weights.")
FLAGS.string("source", None, "Data set of the run, if there is no --config.")


def run(file: str | None = None, d_file: str | None = None) -> int:
  """Imports the files as a run, as statistics or as the FID's network."""
  from bigscale.interop.formats import FORMATS
  from bigscale.spec import require

  name = FLAGS.require("format", "biggan-pytorch")
  spec = spec_of(FLAGS) if FLAGS.config is not None else None
  own = type(spec.model).formats if spec else {}
  known = dict.fromkeys((*FORMATS, *own, _STATISTICS, _INCEPTION))
  require(name in known, f"--format={name} must be one of {', '.join(known)}")
  require(
    file is not None,
    f"no file was named; write bigscale import --format={name} FILE"
    f"{' --out=DIR' if name != _INCEPTION else ''}",
  )
  if name == _INCEPTION:
    return _inception(file, d_file)
  out = FLAGS.require("out", "runs/imported")
  if name == _STATISTICS:
    return _statistics(file, d_file, out)
  return _weights(name, spec, file, d_file, out)


def _weights(
  name: str, spec: RunSpec | None, file: str, d_file: str | None, out: str
) -> int:
  from bigscale.interop.assemble import read_run, write_run
  from bigscale.interop.files import require_new
  from bigscale.spec import require

  # Check the folder first, because reading the weights takes long.
  require_new(out)
  require(
    spec is None or FLAGS.source is None,
    f"--source={FLAGS.source} and --config both name the data; write "
    f"--config.data.source={FLAGS.source} instead of --source",
  )
  imported = read_run(
    name,
    file,
    d_file=d_file,
    ema_file=FLAGS.ema,
    spec=spec,
    source=FLAGS.source,
    unsafe_pickle=FLAGS.unsafe_pickle,
  )
  write_run(out, imported, sys.argv)
  model = imported.spec.model
  classes = f"{model.num_classes} classes" if model.num_classes else "no labels"
  notes = imported.notes
  print(
    f"model:         {model.name}, {model.resolution} px, {classes}, latents "
    f"of {model.latent_dim}; {notes['model']}"
  )
  for note in (
    "recipe",
    "generator",
    "discriminator",
    "average",
    "spectra",
    "statistics",
    "truncation",
  ):
    if notes.get(note):
      print(f"{note + ':':14} {notes[note]}")
  print(f"data:          {imported.spec.data.source}")
  print(f"run:           {out} (step 0)")
  return 0


def _statistics(file: str, d_file: str | None, out: str) -> int:
  from bigscale.interop.files import require_new
  from bigscale.interop.statistics import read_statistics, write_statistics

  _require_alone(d_file, _STATISTICS)
  require_new(out)
  statistics = read_statistics(file, unsafe_pickle=FLAGS.unsafe_pickle)
  write_statistics(out, statistics, file)
  count = statistics.count or "an unknown number of"
  print(
    f"mean and covariance of {len(statistics.mean)} features over {count} "
    f"images: {out}/statistics.npz"
  )
  return 0


def _inception(file: str, d_file: str | None) -> int:
  from bigscale.interop.inception import read_weights
  from bigscale.metrics import inception_store
  from bigscale.place import on_disk

  _require_alone(d_file, _INCEPTION)
  weights = read_weights(file, unsafe_pickle=FLAGS.unsafe_pickle)
  path = inception_store.save(weights, FLAGS.out and f"{on_disk(FLAGS.out)}")
  print(f"read:          {weights.source}")
  print(f"fingerprint:   {weights.fingerprint}")
  print(f"weights:       {path}")
  return 0


def _require_alone(d_file: str | None, name: str) -> None:
  """Raises `SpecError` if an argument is given that only runs need."""
  from bigscale.spec import require

  for option, value in (
    ("a second file", d_file),
    ("--ema", FLAGS.ema),
    ("--config", FLAGS.config),
    ("--source", FLAGS.source),
  ):
    require(
      value is None,
      f"{option} has no effect with --format={name}; omit it",
    )
