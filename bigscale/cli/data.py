r"""Builds data sets in shards, looks into them and checks them.

  bigscale data build --input=PHOTOS --out=SET --resolution=64 --workers=2
  bigscale data build --input='DIR/*.tar' --out=SET --resolution=128 \
      --encoding=raw --dedup=exact
  bigscale data inspect SET --sheet=sheet.png
  bigscale data verify SET

`build` reads a folder or .zip of images (a folder a class), tars (WebDataset),
tfds:NAME, idx:IMAGES,LABELS, an .npz, or another set. Images are cropped and
resized by area; JPEG or PNG files that already are what is asked for are kept
byte for byte, unless EXIF says to turn them. Started again after a kill, with
the same options, it goes on where it was. Files that cannot be used are listed
in SET/rejects.jsonl; where they are too many, nothing is made. `inspect` takes
what build takes as input. Both say what they leave out. `verify` reads
everything back, of a set or of images as they are, and exits with 2 if there is
a fault.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator

from absl import flags

from bigscale.cli.common import Subcommand, require_flag
from bigscale.data.shown import shown

BUILD, INSPECT, VERIFY = (flags.FlagValues() for _ in range(3))
flags.DEFINE_string("input", None, "what to read, see above", flag_values=BUILD)
flags.DEFINE_string(
  "heldout_input",
  "",
  "another input, all of it held out from training",
  flag_values=BUILD,
)
flags.DEFINE_float(
  "heldout",
  0.05,
  "part of the input held out where it has no splits of its own",
  flag_values=BUILD,
)
flags.DEFINE_string("out", None, "folder to make", flag_values=BUILD)
flags.DEFINE_integer(
  "resolution",
  0,
  "side in pixels; 0 keeps that of the images, which must be the same",
  flag_values=BUILD,
)
flags.DEFINE_integer("channels", 3, "1 (gray) or 3 (RGB)", flag_values=BUILD)
flags.DEFINE_enum(
  "crop",
  "center",
  ["center", "random", "none"],
  "of images that are not square; none squeezes them",
  flag_values=BUILD,
)
flags.DEFINE_integer(
  "padding",
  None,
  "build: pixels of black on each side of an image before it is resized, as 2 "
  "for digits of 28 px; that of the input if not given, mostly 0",
  flag_values=BUILD,
)
flags.DEFINE_enum(
  "encoding",
  "jpeg",
  ["raw", "png", "jpeg"],
  "of the records",
  flag_values=BUILD,
)
flags.DEFINE_integer(
  "quality", 95, "of JPEGs made here, 1 to 100", flag_values=BUILD
)
flags.DEFINE_bool(
  "multilabel", False, "records carry several labels", flag_values=BUILD
)
flags.DEFINE_integer("records_per_shard", 10_000, "at most", flag_values=BUILD)
flags.DEFINE_integer(
  "group_size",
  0,
  "records that lie together, raw ones packed; 0 is each by itself",
  flag_values=BUILD,
)
flags.DEFINE_bool(
  "shuffle",
  True,
  "records go to shards in a random order; --noshuffle keeps the "
  "input's, which reads a tar in one go",
  flag_values=BUILD,
)
flags.DEFINE_enum(
  "dedup",
  "none",
  ["none", "exact"],
  "exact keeps one of the images with the same pixels",
  flag_values=BUILD,
)
flags.DEFINE_integer(
  "seed", 0, "of the order and of random crops", flag_values=BUILD
)
flags.DEFINE_float(
  "max_bad_fraction",
  0.001,
  "of the images that may be unusable",
  flag_values=BUILD,
)
flags.DEFINE_string(
  "name", "", "of the set; that of --out if not given", flag_values=BUILD
)
flags.DEFINE_string("licence", "not stated", "of the images", flag_values=BUILD)
flags.DEFINE_string(
  "source",
  "",
  "where the images come from; --input if not given",
  flag_values=BUILD,
)
for _values in (BUILD, VERIFY):
  flags.DEFINE_integer(
    "workers",
    os.cpu_count() or 1,
    "processes, each at a shard",
    flag_values=_values,
  )
flags.DEFINE_string(
  "sheet", None, "PNG to write images to", flag_values=INSPECT
)
flags.DEFINE_integer(
  "num", 64, "images of the sheet, about", flag_values=INSPECT
)
flags.DEFINE_enum(
  "split",
  "train",
  ["train", "heldout"],
  "to take the sheet's images from",
  flag_values=INSPECT,
)
for _values in (BUILD, INSPECT):
  flags.DEFINE_bool("json", False, "print JSON", flag_values=_values)

# Options of `data build` that go into `BuildOptions` as they are.
_OPTIONS = (
  "resolution",
  "channels",
  "crop",
  "padding",
  "encoding",
  "quality",
  "multilabel",
  "records_per_shard",
  "group_size",
  "shuffle",
  "dedup",
  "seed",
  "workers",
  "max_bad_fraction",
  "licence",
)


def _build(path: str = "") -> int:
  """Makes a set in shards."""
  from bigscale.data import notes
  from bigscale.data.build import build
  from bigscale.data.inputs import open_inputs
  from bigscale.data.recipe import BuildOptions
  from bigscale.spec import require

  require(
    not path, f"unexpected argument {path!r}; give --input={path} --out=DIR"
  )
  source = require_flag(BUILD, "input", "PHOTOS")
  out = require_flag(BUILD, "out", "SET")
  options = BuildOptions(
    name=BUILD.name or os.path.basename(os.path.abspath(out)),
    source=BUILD.source or ", ".join(filter(None, _inputs())),
    **{name: BUILD[name].value for name in _OPTIONS},
  )
  inputs = open_inputs(source, BUILD.heldout_input, BUILD.heldout)
  for note in notes.of_sources({name: (inputs[name],) for name in inputs}):
    print(f"note: {note}", file=sys.stderr)
  with _bar() as progress:
    report = build(inputs, out, options, progress)
  if BUILD.json:
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


def _inputs() -> tuple[str, str]:
  return BUILD.input, BUILD.heldout_input


def _inspect(path: str = "") -> int:
  """Says what a set or an input of `build` holds."""
  from bigscale.data import inspect
  from bigscale.data.inputs import open_inputs
  from bigscale.spec import require

  _require_path("inspect", path)
  found = inspect.facts(path)
  if INSPECT.sheet:
    splits = open_inputs(path)
    require(
      INSPECT.split in splits,
      f"{path} has no {INSPECT.split} split; give --split=train",
    )
    inspect.contact_sheet(splits[INSPECT.split], INSPECT.sheet, INSPECT.num)
  print(json.dumps(found, indent=2) if INSPECT.json else inspect.text(found))
  return 0


def _verify(path: str = "") -> int:
  """Reads a set back."""
  from bigscale.data.verify import verify
  from bigscale.spec import SpecError

  _require_path("verify", path)
  with _bar() as progress:
    faults = verify(path, VERIFY.workers, progress)
  if faults:
    raise SpecError(
      "\n".join([f"{shown(path)} has faults:", *map(shown, faults)])
    )
  print(f"{shown(path)} is sound")
  return 0


def _require_path(what: str, path: str) -> None:
  from bigscale.spec import require

  require(bool(path), f"data {what} of what? Use: bigscale data {what} PATH")


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
  """A bar on a terminal; in a log file a line every half minute."""
  from tqdm import tqdm

  pause = 0.1 if sys.stderr.isatty() else 30.0
  with tqdm(
    unit=" images", mininterval=pause, delay=pause, dynamic_ncols=True
  ) as bar:

    def progress(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    yield progress


SUBCOMMANDS = {
  "build": Subcommand(
    BUILD,
    _build,
    "Build a data set in shards.\n\n"
    "  bigscale data build --input=PHOTOS --out=SET --resolution=64\n",
  ),
  "inspect": Subcommand(
    INSPECT,
    _inspect,
    "Say what a set, or an input of build, holds.\n\n"
    "  bigscale data inspect SET --sheet=sheet.png\n",
  ),
  "verify": Subcommand(
    VERIFY,
    _verify,
    "Read a set, or images as they are, and list what cannot be used.\n\n"
    "  bigscale data verify SET\n",
  ),
}
