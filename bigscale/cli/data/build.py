r"""Build a sharded data set.

Example:
  bigscale data build --input=PHOTOS --out=SET --resolution=64 --workers=2

The input is a folder or .zip of images (one folder per class), tar files
(WebDataset), tfds:NAME, idx:IMAGES,LABELS, an .npz, or another data set.
Images are cropped, and resized by area. JPEG and PNG files that already have
the requested format are copied byte for byte, unless EXIF requires a rotation.

If --out is an address, the set is built in the cache folder and then uploaded.
After an interruption, the same command continues where it stopped. Unusable
files are listed in SET/rejects.jsonl. If there are too many of them, no data
set is built.

More examples:
  bigscale data build --input='DIR/*.tar' --out=SET --resolution=128 \
      --encoding=raw --dedup=exact
"""

import dataclasses
import json
import os
import sys

from bigscale.cli.data.progress import progress_bar
from bigscale.cli.flags import Flags
from bigscale.data.recipe import BuildOptions
from bigscale.data.shown import shown

FLAGS = Flags()
FLAGS.heading("Input")
FLAGS.string("input", None, "What to read; see above.")
FLAGS.string(
  "heldout_input", "", "Another input, whose images are all held out."
)
FLAGS.float(
  "heldout",
  0.05,
  "Fraction of the input to hold out from training if it has no splits.",
)
FLAGS.heading("Output")
FLAGS.string("out", None, "Folder to create, or an address: gs://BUCKET/SET.")
FLAGS.string("name", "", "Name of the data set. Default: the name of --out.")
FLAGS.string("source", "", "Origin of the images. Default: --input.")
FLAGS.fields(BuildOptions, licence="Licence of the images.")
FLAGS.heading("Images")
FLAGS.fields(
  BuildOptions,
  resolution="Side of the images in pixels. 0 keeps their size, which must be "
  "the same for all.",
  channels="1 (gray) or 3 (RGB).",
  crop="How to make images square. none stretches them.",
  padding="Black pixels added to each side of an image before it is resized, "
  "like 2 for digits of 28 px. Default: the padding of the input, usually 0.",
  max_bad_fraction="Largest fraction of unusable images.",
  dedup="exact keeps only one of several images with the same pixels.",
)
FLAGS.heading("Records")
FLAGS.fields(
  BuildOptions,
  encoding="Encoding of the records.",
  quality="Quality of newly encoded JPEGs, 1 to 100.",
  multilabel="Records have several labels.",
  records_per_shard="Largest number of records per shard.",
  group_size="Number of consecutive records that are stored together. Groups "
  "of raw records are compressed. 0 stores each record by itself.",
  shuffle="Distribute the records over shards in random order. --noshuffle "
  "keeps the order of the input, so that a tar is read sequentially.",
  seed="Seed of the order and of random crops.",
)
FLAGS.heading("Execution")
FLAGS.integer(
  "workers",
  os.cpu_count() or 1,
  "Number of processes. Each builds one shard at a time.",
)
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Builds a data set."""
  from bigscale.data import notes
  from bigscale.data.inputs import open_inputs
  from bigscale.data.upload import build_at
  from bigscale.spec import require

  require(
    not path, f"unexpected argument {path!r}; give --input={path} --out=DIR"
  )
  source = FLAGS.require("input", "PHOTOS")
  out = FLAGS.require("out", "SET")
  read = ", ".join(filter(None, (source, FLAGS.heldout_input)))
  options = BuildOptions(
    **FLAGS.fields_of(BuildOptions)
    | {
      "name": FLAGS.name or os.path.basename(os.path.abspath(out)),
      "source": FLAGS.source or read,
    }
  )
  inputs = open_inputs(source, FLAGS.heldout_input, FLAGS.heldout)
  for note in notes.of_sources({name: (inputs[name],) for name in inputs}):
    print(f"note: {note}", file=sys.stderr)
  with progress_bar() as progress:
    report = build_at(inputs, out, options, progress)
  if FLAGS.json:
    summary = dataclasses.asdict(report)
    manifest = summary.pop("manifest")
    print(json.dumps(summary | {"made": manifest["made"]}, indent=2))
    return 0
  for split in inputs:
    shards = report.manifest.of(split)
    images = sum(shard.records for shard in shards)
    size = sum(shard.bytes for shard in shards) / 1e6
    print(f"{split}: {images:,} images in {len(shards)} shards, {size:,.1f} MB")
  if report.shards_kept:
    print(f"{report.shards_kept} shards were built by an earlier command")
  if report.duplicates:
    print(f"{report.duplicates:,} duplicates omitted")
  if report.rejects:
    rejects = shown(os.path.join(out, "rejects.jsonl"))
    print(f"{report.rejects:,} images are unusable: see {rejects}")
  return 0
