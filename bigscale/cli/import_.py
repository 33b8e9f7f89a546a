r"""Turn weights of another implementation into a run of ours.

  bigscale import --format=biggan-pytorch G.pth D.pth --ema=G_ema.pth \
      --out=runs/biggan
  bigscale import --format=r3gan weights.npz --out=runs/r3gan \
      --config=r3gan:cifar10 --config.data.source=/data/cifar10
  bigscale import --format=stats fid_stats.npz --out=stats/imagenet128
  bigscale import --format=inception pt_inception-2015-12-05-6726825d.pth

Files: .npz, .safetensors, .pth, .pt, .bin (the last three need PyTorch), and
.pkl with --unsafe_pickle. The first holds the generator's state dict, or
several players' under the prefixes G/, D/ and G_ema/.

Without --config the model is read off the tensors and the rest is the family's
published recipe; then the data set to train or evaluate on is --source. A
folder that was imported with --config goes on with `bigscale train` and the
same config; from any of them, `bigscale train --init_from` starts a new run.

--format=stats reads statistics for the FID and writes them as mu and sigma,
mean and covariance in float64, with their provenance.

--format=inception reads the network of the FID, as pytorch-fid and
torch-fidelity publish it, and keeps it where `evaluate` looks for it: in
$BIGSCALE_CACHE, else ~/.cache/bigscale, or in --out.
"""

import sys

from bigscale.cli.config_flags import ConfigFlags, spec_of
from bigscale.spec import RunSpec

_STATISTICS = "stats"
_INCEPTION = "inception"

FLAGS = ConfigFlags()
FLAGS.string(
  "format",
  None,
  "biggan-pytorch, biggan-tfhub, biggan-hf, r3gan, stats or inception; with "
  "--config also one of its model's own",
)
FLAGS.local_path(
  "out",
  None,
  "folder to make; of inception, that keeps it in place of the cache",
)
FLAGS.string("ema", None, "file of the generator's moving average")
FLAGS.define_config("config of the run; its model must fit the weights")
FLAGS.string("source", None, "data set of the run, without --config")
FLAGS.bool(
  "unsafe_pickle",
  False,
  "read .pkl files, which runs the code in them: only for files you trust",
)


def run(file: str | None = None, d_file: str | None = None) -> int:
  """Reads, checks, then writes one folder, or one file in the cache."""
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

  # The cheap check before the long reading.
  require_new(out)
  require(
    spec is None or FLAGS.source is None,
    f"--source={FLAGS.source} and --config both name the data; write "
    f"--config.data.source={FLAGS.source} in its place",
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

  _require_alone(d_file, _INCEPTION)
  weights = read_weights(file, unsafe_pickle=FLAGS.unsafe_pickle)
  path = inception_store.save(weights, FLAGS.out)
  print(f"read:          {weights.source}")
  print(f"fingerprint:   {weights.fingerprint}")
  print(f"weights:       {path}")
  return 0


def _require_alone(d_file: str | None, name: str) -> None:
  """Raises `SpecError` where something is given that makes runs only."""
  from bigscale.spec import require

  for option, value in (
    ("a second file", d_file),
    ("--ema", FLAGS.ema),
    ("--config", FLAGS.config),
    ("--source", FLAGS.source),
  ):
    require(
      value is None,
      f"{option} has no meaning with --format={name}; leave it out",
    )
