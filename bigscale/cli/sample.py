r"""Draw images from a trained generator's moving average.

  bigscale sample --workdir=runs/fashion --out=sheet.png
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

A .png is a grid, of more than 25 classes several (F-01.png, F-02.png ...); a
.npz holds `images` [N, H, W, C] uint8 and `labels` [N] (between classes: the
shares of each, [N, classes]), and the `columns` of the grid. Both say what the
truncation was and meant: `truncation` (NaN or null for none; of a sweep, each
row's), `truncation_rule`, `batch_norm` (which statistics), `standing_batches`,
`step` and `seed`; a .png has them as chunks of text.
"""

import functools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from bigscale.cli import truncation
from bigscale.cli.common import (
  Trained,
  define_process_flags,
  join_processes,
  load,
)
from bigscale.cli.flags import Flags
from bigscale.spec import ModelBase, SpecError, TruncationRule, require

FLAGS = Flags()
FLAGS.local_path("workdir", None, "folder of a run")
FLAGS.local_path("out", None, "FILE.png or FILE.npz")
FLAGS.integer("step", None, "checkpoint to use; the newest by default")
FLAGS.integer(
  "num", 64, "how many images, where no sheet is asked for", lower_bound=1
)
FLAGS.integer("seed", 0, "of the latents", lower_bound=0, upper_bound=2**31 - 1)
FLAGS.list("labels", None, "classes to draw in turn, like 3,7")
FLAGS.enum(
  "interpolate",
  None,
  ["latents", "classes"],
  "sheet: every row walks from one latent or class to another",
)
FLAGS.enum(
  "path", "spherical", ["spherical", "linear"], "of --interpolate=latents"
)
FLAGS.enum(
  "class_grid",
  None,
  ["rows", "columns"],
  "sheet: every class takes a row or a column",
)
FLAGS.list(
  "truncation_sweep",
  None,
  "sheet: a row for each threshold; the paper's are 2,1,0.5,0.04",
)
FLAGS.integer(
  "rows",
  8,
  "walks of --interpolate, images a class of --class_grid=columns",
  lower_bound=1,
)
FLAGS.integer(
  "columns",
  None,
  "of the grid, about a square by default; of a sheet, 8: steps of a walk, "
  "images a class or a threshold",
  lower_bound=1,
)
FLAGS.bool(
  "same_latents",
  False,
  "all classes of --class_grid, or all rows of --interpolate=classes, show "
  "the same latents",
)
truncation.define_flags(FLAGS)
define_process_flags(FLAGS)

# What each kind of sheet can be told; "" is the plain grid.
_OPTIONS = {
  "": ("num", "columns", "truncation"),
  "interpolate=latents": ("rows", "columns", "truncation", "path"),
  "interpolate=classes": ("rows", "columns", "truncation", "same_latents"),
  "class_grid=rows": ("columns", "truncation", "same_latents"),
  "class_grid=columns": ("rows", "truncation", "same_latents"),
  "truncation_sweep": ("columns",),
}
_SHEET_COLUMNS = 8
# More of them than this in one picture are hard to look at.
_CLASSES_A_PAGE = 25


def run() -> int:
  """Draws and writes one file, or one a page."""
  from bigscale.parallel import multihost

  workdir = FLAGS.require("workdir", "runs/first")
  out = _out(pathlib.Path(FLAGS.require("out", "samples.png")))
  kind = _kind()
  labels = _numbers("labels", int, "whole numbers, like 3,7")
  thresholds = _numbers("truncation_sweep", float, "numbers, like 2,1,0.5,0.04")
  join_processes(FLAGS)
  trained = load(workdir, FLAGS.step)
  # Every process of several holds all that is needed: one of them is enough.
  multihost.decide(
    "samples", lambda: _draw(trained, out, kind, labels, thresholds)
  )
  return 0


def _draw(
  trained: Trained,
  out: pathlib.Path,
  kind: str,
  labels: list[int] | None,
  thresholds: list[float] | None,
) -> None:
  """Draws and writes what was asked for."""
  model = trained.spec.model
  rule = truncation.rule_of(trained, FLAGS.truncation_rule)
  if not kind:
    _plain(trained, out, labels)
  elif kind == "truncation_sweep":
    _sheets(trained, out, [_sweep(model, labels, rule, thresholds)])
  elif kind.startswith("class_grid"):
    paged = out.suffix == ".png"
    _sheets(trained, out, list(_class_grids(model, labels, rule, paged)))
  else:
    _sheets(trained, out, [_walks(model, labels, rule)])


def _plain(
  trained: Trained, out: pathlib.Path, labels: list[int] | None
) -> None:
  """Writes --num images."""
  import numpy as np

  from bigscale.sampling.sample import DrawnSamples, check_labels, sample

  check_labels(trained.spec.model, labels)
  drawn_under = truncation.under(trained, FLAGS.truncation, FLAGS)
  batches = list(
    sample(
      trained.built.sample,
      drawn_under.ema,
      trained.spec.model,
      count=FLAGS.num,
      batch_size=min(FLAGS.num, trained.spec.evaluate.batch_size),
      seed=FLAGS.seed,
      labels=labels,
      truncation=FLAGS.truncation,
      rule=drawn_under.protocol["truncation_rule"],
    )
  )
  drawn = DrawnSamples(*map(np.concatenate, zip(*batches, strict=True)))
  columns = FLAGS.columns or math.ceil(math.sqrt(FLAGS.num))
  _write(out, trained, drawn, columns, [drawn_under.protocol])


def _sheets(trained: Trained, out: pathlib.Path, pages: list[list]) -> None:
  """Writes each page of rows, to `out` itself where there is one."""
  from bigscale.sampling.sheets import draw_sheet

  under = functools.cache(
    lambda threshold: truncation.under(trained, threshold, FLAGS)
  )
  digits = max(2, len(str(len(pages))))
  for number, rows in enumerate(pages, start=1):
    page = out
    if len(pages) > 1:
      page = out.with_stem(f"{out.stem}-{number:0{digits}d}")
    drawn = draw_sheet(
      trained.built.sample, lambda threshold: under(threshold).ema, rows
    )
    protocols = [under(row.truncation).protocol for row in rows]
    _write(page, trained, drawn, len(rows[0].labels), protocols)


def _walks(
  model: ModelBase, labels: list[int] | None, rule: TruncationRule
) -> list:
  """Rows of --interpolate."""
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
  """Rows of --class_grid, a page of classes at a time."""
  from bigscale.sampling import sheets

  along = FLAGS.class_grid
  count = FLAGS.rows
  if along == "rows":
    count = FLAGS.columns or _SHEET_COLUMNS
  classes = labels or list(range(model.num_classes))
  size = _CLASSES_A_PAGE if paged else max(1, len(classes))
  pages = [classes[i : i + size] for i in range(0, len(classes), size)]
  # A model without classes is refused by the sheet.
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
  """Rows of --truncation_sweep."""
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
  out: pathlib.Path,
  trained: Trained,
  drawn: Any,
  columns: int,
  protocols: list[dict[str, Any]],
) -> None:
  """Writes images [N, H, W, C] and labels, and says so.

  `protocols` are those of each row, or one of all.
  """
  import numpy as np

  from bigscale.sampling import grid

  said = _said(trained, protocols)
  if out.suffix == ".npz":
    # NumPy writes no None.
    arrays = {
      name: np.array(value, float if name == "truncation" else None)
      for name, value in said.items()
    }
    np.savez_compressed(
      out, images=drawn.images, labels=drawn.labels, columns=columns, **arrays
    )
  else:
    scale = grid.view_scale(trained.spec.model.resolution)
    text = {
      name: value if isinstance(value, str) else json.dumps(value)
      for name, value in said.items()
    }
    grid.save_png(out, drawn.images, columns, scale, text)
  print(f"{len(drawn.images)} images of step {trained.step}: {out}")
  for line in dict.fromkeys(map(truncation.sentence, protocols)):
    print(line)


def _said(trained: Trained, protocols: list[dict[str, Any]]) -> dict[str, Any]:
  """What a file notes of its samples; lists where rows differ."""
  said: dict[str, Any] = {"step": trained.step, "seed": FLAGS.seed}
  for name in protocols[0]:
    values = [protocol[name] for protocol in protocols]
    said[name] = values if len(set(values)) > 1 else values[0]
  return said


def _out(out: pathlib.Path) -> pathlib.Path:
  """Refuses a file that cannot be written, before anything is loaded."""
  if out.suffix not in (".png", ".npz"):
    raise SpecError(f"--out={out} must end in .png or .npz")
  if not out.absolute().parent.is_dir():
    raise SpecError(f"--out={out}: there is no folder {out.parent}")
  return out


def _kind() -> str:
  """The sheet asked for, a key of `_OPTIONS`; nothing it cannot be told."""
  sheets = ("interpolate", "class_grid", "truncation_sweep")
  given = [name for name in sheets if FLAGS[name].value is not None]
  require(
    len(given) <= 1,
    f"--{' and --'.join(given)} are different sheets; give one of them",
  )
  kind = given[0] if given else ""
  if kind in ("interpolate", "class_grid"):
    kind = f"{kind}={FLAGS[kind].value}"
  for option in sorted({name for names in _OPTIONS.values() for name in names}):
    known = _OPTIONS[kind]
    require(
      not FLAGS[option].present or option in known,
      f"--{option} has no meaning "
      f"{f'for --{kind}' if kind else 'without a sheet'}; leave it out, or "
      f"use {', '.join(f'--{name}' for name in known)}",
    )
  return kind


def _numbers(flag: str, kind: type, what: str) -> list[Any] | None:
  """The numbers in a list; None where it was not given."""
  texts = FLAGS[flag].value
  if texts is None:
    return None
  try:
    return [kind(text) for text in texts]
  except ValueError as error:
    raise SpecError(f"--{flag}={','.join(texts)} must be {what}") from error
