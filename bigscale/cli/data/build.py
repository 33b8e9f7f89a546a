r"""Build a data set in shards.

  bigscale data build --input=PHOTOS --out=SET --resolution=64 --workers=2
  bigscale data build --input='DIR/*.tar' --out=SET --resolution=128 \
      --encoding=raw --dedup=exact

Reads a folder or .zip of images (a folder a class), tars (WebDataset),
tfds:NAME, idx:IMAGES,LABELS, an .npz, or another set. Images are cropped and
resized by area; JPEG or PNG files that already are what is asked for are kept
byte for byte, unless EXIF says to turn them. Started again after a kill, with
the same options, it goes on where it was. Files that cannot be used are listed
in SET/rejects.jsonl; where they are too many, nothing is made.
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
FLAGS.string("input", None, "what to read, see above")
FLAGS.string(
  "heldout_input", "", "another input, all of it held out from training"
)
FLAGS.float(
  "heldout",
  0.05,
  "part of the input held out where it has no splits of its own",
)
FLAGS.local_path("out", None, "folder to make")
FLAGS.fields(
  BuildOptions,
  resolution="side in pixels; 0 keeps that of the images, which must be the "
  "same",
  channels="1 (gray) or 3 (RGB)",
  crop="of images that are not square; none squeezes them",
  padding="pixels of black on each side of an image before it is resized, as 2 "
  "for digits of 28 px; that of the input if not given, mostly 0",
  encoding="of the records",
  quality="of JPEGs made here, 1 to 100",
  multilabel="records carry several labels",
  records_per_shard="at most",
  group_size="records that lie together, raw ones packed; 0 is each by itself",
  shuffle="records go to shards in a random order; --noshuffle keeps the "
  "input's, which reads a tar in one go",
  dedup="exact keeps one of the images with the same pixels",
  seed="of the order and of random crops",
  max_bad_fraction="of the images that may be unusable",
  licence="of the images",
)
FLAGS.string("name", "", "of the set; that of --out if not given")
FLAGS.string("source", "", "where the images come from; --input if not given")
FLAGS.integer("workers", os.cpu_count() or 1, "processes, each at a shard")
FLAGS.bool("json", False, "print JSON")


def run(path: str = "") -> int:
  """Makes a set in shards."""
  from bigscale.data import notes
  from bigscale.data.build import build
  from bigscale.data.inputs import open_inputs
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
    report = build(inputs, out, options, progress)
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
    print(f"{report.shards_kept} shards were finished by an earlier start")
  if report.duplicates:
    print(f"{report.duplicates:,} duplicates left out")
  if report.rejects:
    rejects = shown(os.path.join(out, "rejects.jsonl"))
    print(f"{report.rejects:,} images cannot be used: see {rejects}")
  return 0
