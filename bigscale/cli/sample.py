r"""Sample images from a trained generator.

Example:
  bigscale sample --workdir=runs/fashion --out=sheet.png

Samples from the moving average of the generator's weights.

A .png file is a grid of images. A class grid with more than 25 classes is
split into several files (F-01.png, F-02.png, ...). A .npz file contains
`images` [N, H, W, C] uint8, `labels` [N] and the `columns` of the grid. For
images between classes, `labels` is [N, classes], the weight of each class.

Both formats also store `truncation` (NaN or null for none; one per row in a
truncation sweep), `truncation_rule`, `batch_norm` (which statistics were used),
`standing_batches`, `step` and `seed`. In a .png these are text chunks.

More examples:
  bigscale sample --workdir=runs/fashion --labels=3,7 --truncation=0.5 \
      --num=64 --seed=1 --out=dresses.npz
  bigscale sample --workdir=runs/biggan --truncation=0.4 \
      --truncation_rule=scale --out=sheet.png
  bigscale sample --workdir=runs/fashion --interpolate=latents --out=walk.png
  bigscale sample --workdir=runs/fashion --interpolate=classes \
      --labels=3,7,8 --columns=10 --out=morph.png
  bigscale sample --workdir=runs/fashion --class_grid=rows --out=classes.png
  bigscale sample --workdir=runs/fashion --truncation_sweep=2,1,0.5,0.04 \
      --standing_batches=100 --out=sweep.png
"""

import functools
import io
import json
import math
import os
from collections.abc import Iterator
from typing import Any

from bigscale.cli import outputs, truncation
from bigscale.cli.common import (
  Trained,
  define_process_flags,
  join_processes,
  load,
)
from bigscale.cli.flags import Flags
from bigscale.place import open_object
from bigscale.spec import ModelBase, SpecError, TruncationRule, require

FLAGS = Flags()
FLAGS.heading("Input and output")
FLAGS.address("workdir", None, "Folder of the run, or its address.")
FLAGS.address(
  "out", None, "File to write, or its address: FILE.png or FILE.npz."
)
FLAGS.integer("step", None, "Step of the checkpoint. Default: the newest.")
FLAGS.heading("Samples")
FLAGS.integer(
  "num", 64, "Number of images. Not used by the sheets below.", lower_bound=1
)
FLAGS.integer(
  "seed", 0, "Seed of the latents.", lower_bound=0, upper_bound=2**31 - 1
)
FLAGS.list(
  "labels",
  None,
  "Classes to sample, like 3,7, in turn. Default: random classes; for a "
  "sheet, all classes in turn.",
)
FLAGS.heading("Sheets (one at a time)")
FLAGS.enum(
  "interpolate",
  None,
  ["latents", "classes"],
  "Each row interpolates between two latents or two classes.",
)
FLAGS.enum(
  "path",
  "spherical",
  ["spherical", "linear"],
  "Path of --interpolate=latents.",
)
FLAGS.enum(
  "class_grid", None, ["rows", "columns"], "Each class has one row or column."
)
FLAGS.list(
  "truncation_sweep",
  None,
  "Truncation of each row. The BigGAN paper uses 2,1,0.5,0.04.",
)
FLAGS.integer(
  "rows",
  8,
  "Number of rows of --interpolate, or images per class of "
  "--class_grid=columns.",
  lower_bound=1,
)
FLAGS.integer(
  "columns",
  None,
  "Number of columns: steps of an interpolation, or images per class or per "
  "truncation. Default: 8 for a sheet, else about the square root of --num.",
  lower_bound=1,
)
FLAGS.bool(
  "same_latents",
  False,
  "Use the same latents for all classes of --class_grid, or for all rows of "
  "--interpolate=classes.",
)
truncation.define_flags(FLAGS)
define_process_flags(FLAGS)

# Flags that each kind of sheet accepts; "" is the plain grid.
_OPTIONS = {
  "": ("num", "columns", "truncation"),
  "interpolate=latents": ("rows", "columns", "truncation", "path"),
  "interpolate=classes": ("rows", "columns", "truncation", "same_latents"),
  "class_grid=rows": ("columns", "truncation", "same_latents"),
  "class_grid=columns": ("rows", "truncation", "same_latents"),
  "truncation_sweep": ("columns",),
}
_SHEET_COLUMNS = 8
# Larger class grids are hard to read.
_CLASSES_PER_PAGE = 25


def run() -> int:
  """Samples images and writes one file per page."""
  from bigscale.parallel import multihost

  workdir = FLAGS.require("workdir", "runs/first")
  out = _out(FLAGS.require("out", "samples.png"))
  kind = _kind()
  labels = _numbers("labels", int, "whole numbers, like 3,7")
  thresholds = _numbers("truncation_sweep", float, "numbers, like 2,1,0.5,0.04")
  join_processes(FLAGS)
  trained = load(workdir, FLAGS.step)
  # Every process restored the whole state, so one process samples for all.
  multihost.decide(
    "samples", lambda: _sample(trained, out, kind, labels, thresholds)
  )
  return 0


def _sample(
  trained: Trained,
  out: str,
  kind: str,
  labels: list[int] | None,
  thresholds: list[float] | None,
) -> None:
  """Samples and writes the grid or the sheet that the flags choose."""
  model = trained.spec.model
  rule = truncation.rule_of(trained, FLAGS.truncation_rule)
  if not kind:
    _plain(trained, out, labels)
  elif kind == "truncation_sweep":
    _sheets(trained, out, [_sweep(model, labels, rule, thresholds)])
  elif kind.startswith("class_grid"):
    paged = out.endswith(".png")
    _sheets(trained, out, list(_class_grids(model, labels, rule, paged)))
  else:
    _sheets(trained, out, [_walks(model, labels, rule)])


def _plain(trained: Trained, out: str, labels: list[int] | None) -> None:
  """Samples and writes --num images."""
  import numpy as np

  from bigscale.sampling.sample import DrawnSamples, check_labels, sample

  check_labels(trained.spec.model, labels)
  prepared = truncation.under(trained, FLAGS.truncation, FLAGS)
  batches = list(
    sample(
      trained.built.sample,
      prepared.ema,
      trained.spec.model,
      count=FLAGS.num,
      batch_size=min(FLAGS.num, trained.spec.evaluate.batch_size),
      seed=FLAGS.seed,
      labels=labels,
      truncation=FLAGS.truncation,
      rule=prepared.protocol["truncation_rule"],
    )
  )
  drawn = DrawnSamples(*map(np.concatenate, zip(*batches, strict=True)))
  columns = FLAGS.columns or math.ceil(math.sqrt(FLAGS.num))
  _write(out, trained, drawn, columns, [prepared.protocol])


def _sheets(trained: Trained, out: str, pages: list[list]) -> None:
  """Samples the rows of each page and writes one file per page.

  A single page is written to `out`; several pages get numbered names.
  """
  from bigscale.sampling.sheets import draw_sheet

  under = functools.cache(
    lambda threshold: truncation.under(trained, threshold, FLAGS)
  )
  digits = max(2, len(str(len(pages))))
  for number, rows in enumerate(pages, start=1):
    page = out
    if len(pages) > 1:
      stem, ending = os.path.splitext(out)
      page = f"{stem}-{number:0{digits}d}{ending}"
    drawn = draw_sheet(
      trained.built.sample, lambda threshold: under(threshold).ema, rows
    )
    protocols = [under(row.truncation).protocol for row in rows]
    _write(page, trained, drawn, len(rows[0].labels), protocols)


def _walks(
  model: ModelBase, labels: list[int] | None, rule: TruncationRule
) -> list:
  """Returns the rows of --interpolate."""
  from bigscale.sampling import sheets

  rows = FLAGS.rows
  shape = {
    "columns": FLAGS.columns or _SHEET_COLUMNS,
    "seed": FLAGS.seed,
    "labels": labels,
    "truncation": FLAGS.truncation,
    "rule": rule,
  }
  if FLAGS.interpolate == "latents":
    return sheets.latent_interpolation(
      model, rows=rows, path=FLAGS.path, **shape
    )
  if not FLAGS["rows"].present and labels:
    rows = max(1, len(labels) - 1)
  return sheets.class_interpolation(
    model, rows=rows, same_latents=FLAGS.same_latents, **shape
  )


def _class_grids(
  model: ModelBase,
  labels: list[int] | None,
  rule: TruncationRule,
  paged: bool,
) -> Iterator[list]:
  """Yields the rows of --class_grid, page by page."""
  from bigscale.sampling import sheets

  along = FLAGS.class_grid
  count = FLAGS.rows
  if along == "rows":
    count = FLAGS.columns or _SHEET_COLUMNS
  classes = labels or list(range(model.num_classes))
  size = _CLASSES_PER_PAGE if paged else max(1, len(classes))
  pages = [classes[i : i + size] for i in range(0, len(classes), size)]
  # For a model without classes, `class_grid` raises the error.
  for page in pages or [None]:
    yield sheets.class_grid(
      model,
      images_per_class=count,
      seed=FLAGS.seed,
      labels=page,
      truncation=FLAGS.truncation,
      rule=rule,
      same_latents=FLAGS.same_latents,
      along=along,
    )


def _sweep(
  model: ModelBase,
  labels: list[int] | None,
  rule: TruncationRule,
  thresholds: list[float],
) -> list:
  """Returns the rows of --truncation_sweep."""
  from bigscale.sampling import sheets

  return sheets.truncation_sweep(
    model,
    thresholds=thresholds,
    columns=FLAGS.columns or _SHEET_COLUMNS,
    seed=FLAGS.seed,
    labels=labels,
    rule=rule,
  )


def _write(
  out: str,
  trained: Trained,
  drawn: Any,
  columns: int,
  protocols: list[dict[str, Any]],
) -> None:
  """Writes a file of images and prints what it contains.

  Args:
    out: the file, .png or .npz.
    trained: the restored checkpoint.
    drawn: images [N, H, W, C] and labels.
    columns: columns of the grid.
    protocols: the protocol of each row, or one protocol of all rows.
  """
  import numpy as np

  from bigscale.sampling import grid

  notes = _notes(trained, protocols)
  place, name = open_object(out)
  if name.endswith(".npz"):
    # NumPy cannot store None without pickle; `float` makes it NaN.
    arrays = {
      name: np.array(value, float if name == "truncation" else None)
      for name, value in notes.items()
    }
    content = io.BytesIO()
    np.savez_compressed(
      content,
      images=drawn.images,
      labels=drawn.labels,
      columns=columns,
      **arrays,
    )
    place.write(name, content.getvalue())
  else:
    scale = grid.view_scale(trained.spec.model.resolution)
    text = {
      name: value if isinstance(value, str) else json.dumps(value)
      for name, value in notes.items()
    }
    place.write(name, grid.png(drawn.images, columns, scale, text))
  print(f"{len(drawn.images)} images of step {trained.step}: {out}")
  for line in dict.fromkeys(map(truncation.sentence, protocols)):
    print(line)


def _notes(trained: Trained, protocols: list[dict[str, Any]]) -> dict[str, Any]:
  """Returns the facts to store in a file; a list if the rows differ."""
  notes: dict[str, Any] = {"step": trained.step, "seed": FLAGS.seed}
  for name in protocols[0]:
    values = [protocol[name] for protocol in protocols]
    notes[name] = values if len(set(values)) > 1 else values[0]
  return notes


def _out(out: str) -> str:
  """Checks --out before the checkpoint is loaded.

  Raises:
    SpecError: the ending is unknown or the folder does not exist.
  """
  if not out.endswith((".png", ".npz")):
    raise SpecError(f"--out={out} must end in .png or .npz")
  return outputs.check(out)


def _kind() -> str:
  """Returns the key in `_OPTIONS` of the sheet that the flags choose.

  Raises:
    SpecError: there are several sheets, or a flag that the sheet ignores.
  """
  sheets = ("interpolate", "class_grid", "truncation_sweep")
  given = [name for name in sheets if FLAGS[name].value is not None]
  require(
    len(given) <= 1,
    f"--{' and --'.join(given)} are different sheets; give only one of them",
  )
  kind = given[0] if given else ""
  if kind in ("interpolate", "class_grid"):
    kind = f"{kind}={FLAGS[kind].value}"
  for option in sorted({name for names in _OPTIONS.values() for name in names}):
    known = _OPTIONS[kind]
    require(
      not FLAGS[option].present or option in known,
      f"--{option} has no effect "
      f"{f'on --{kind}' if kind else 'without a sheet'}; omit it, or use "
      f"{', '.join(f'--{name}' for name in known)}",
    )
  return kind


def _numbers(flag: str, kind: type, what: str) -> list[Any] | None:
  """Returns the numbers in a list flag, or None if it is not given."""
  texts = FLAGS[flag].value
  if texts is None:
    return None
  try:
    return [kind(text) for text in texts]
  except ValueError as error:
    raise SpecError(f"--{flag}={','.join(texts)} must be {what}") from error
