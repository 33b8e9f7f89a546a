"""What the rows of a sheet ask of G: interpolations, classes, thresholds.

All rows of a sheet are equally long, so that one compiled program draws them.
Codes are functions of the seed and of their place, not of devices.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.sampling import interpolate
from bigscale.sampling import latents as draw
from bigscale.sampling.sample import DrawnSamples, SampleFn, check_labels
from bigscale.spec import ModelBase, TruncationRule, require

# Brock et al. 2019, fig. 2a.
THRESHOLDS = (2.0, 1.0, 0.5, 0.04)


class Row(NamedTuple):
  """One row of a sheet.

  Attributes:
    latents: [columns, latent_dim].
    labels: [columns] int32, or shares of the classes [columns, num_classes].
    truncation: that the latents were drawn under; None without one.
  """

  latents: np.ndarray
  labels: np.ndarray
  truncation: float | None


def draw_sheet(
  sample_fn: SampleFn,
  average: Callable[[float | None], Any],
  rows: Sequence[Row],
) -> DrawnSamples:
  """Draws the rows, one call each.

  Args:
    sample_fn: the jitted generator.
    average: its weights for a row's threshold, which decides the standing
      statistics.
    rows: equally long ones.

  Returns:
    All images in reading order, with their labels or shares.
  """
  images = [
    np.asarray(
      sample_fn(
        average(row.truncation),
        jnp.asarray(row.latents),
        jnp.asarray(row.labels),
      )
    )
    for row in rows
  ]
  return DrawnSamples(
    np.concatenate(images), np.concatenate([row.labels for row in rows])
  )


def latent_interpolation(
  model: ModelBase,
  *,
  rows: int,
  columns: int,
  seed: int,
  labels: Sequence[int] | None = None,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
  path: Literal["spherical", "linear"] = "spherical",
) -> list[Row]:
  """Each row walks from one latent to another and keeps its class.

  Args:
    model: whose latents and classes they are.
    rows: pairs of latents.
    columns: steps of a walk, its ends included.
    seed: of the latents.
    labels: classes that rows take in turn; all of them where None.
    truncation: of the ends.
    rule: what the truncation means, see `latents.law`.
    path: along an arc or a straight line.

  Raises:
    SpecError: an argument is out of range.
  """
  _check(model, rows, columns, labels, truncation, rule, walks=True)
  ends_nd = _latents(model, seed, 0, 2 * rows, truncation, rule)
  paths_rcd = interpolate.PATHS[path](ends_nd[::2], ends_nd[1::2], columns)
  turn = itertools.cycle(_classes(model, labels))
  return [
    Row(path_cd, np.full(columns, label, np.int32), truncation)
    for path_cd, label in zip(paths_rcd, turn, strict=False)
  ]


def class_interpolation(
  model: ModelBase,
  *,
  rows: int,
  columns: int,
  seed: int,
  labels: Sequence[int] | None = None,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
  same_latents: bool = False,
) -> list[Row]:
  """Each row walks from one class to the next and keeps its latent.

  Args:
    model: a conditional one.
    rows: walks. They take the pairs of neighbours in `labels` in turn.
    columns: steps of a walk, its ends included.
    seed: of the latents.
    labels: at least two classes; all of them where None.
    truncation: of the latents.
    rule: what the truncation means, see `latents.law`.
    same_latents: every row has the first one's.

  Raises:
    SpecError: an argument is out of range, or there are no classes.
  """
  _check(model, rows, columns, labels, truncation, rule, walks=True)
  _check_conditional(model, "walk between classes")
  classes = _classes(model, labels)
  require(
    len(classes) >= 2,
    f"labels={list(classes)} names one class; a walk needs two or more",
  )
  latents_rd = _latents(model, seed, 0, rows, truncation, rule)
  if same_latents:
    latents_rd = np.repeat(latents_rd[:1], rows, axis=0)
  turn = itertools.cycle(itertools.pairwise(classes))
  return [
    Row(
      np.repeat(latent_d[None], columns, axis=0),
      interpolate.class_shares(pair, model.num_classes, columns),
      truncation,
    )
    for latent_d, pair in zip(latents_rd, turn, strict=False)
  ]


def class_grid(
  model: ModelBase,
  *,
  images_per_class: int,
  seed: int,
  labels: Sequence[int] | None = None,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
  same_latents: bool = False,
  along: Literal["rows", "columns"] = "rows",
) -> list[Row]:
  """Every class beside the others.

  A class's latents depend on the seed and its label, so that pages of some
  classes show what a sheet of all of them would.

  Args:
    model: a conditional one.
    images_per_class: length of a class's row or column.
    seed: of the latents.
    labels: classes in order; all of them where None.
    truncation: of the latents.
    rule: what the truncation means, see `latents.law`.
    same_latents: all classes have the same.
    along: a class takes a row, or a column.

  Raises:
    SpecError: an argument is out of range, or there are no classes.
  """
  _check(model, images_per_class, images_per_class, labels, truncation, rule)
  _check_conditional(model, "grid of classes")
  classes = np.asarray(_classes(model, labels), np.int32)
  latents_nid = np.stack(
    [
      _latents(
        model,
        seed,
        0 if same_latents else label,
        images_per_class,
        truncation,
        rule,
      )
      for label in classes
    ]
  )
  labels_ni = np.repeat(classes[:, None], images_per_class, axis=1)
  if along == "columns":
    latents_nid, labels_ni = latents_nid.swapaxes(0, 1), labels_ni.T
  return [
    Row(latents, labels, truncation)
    for latents, labels in zip(latents_nid, labels_ni, strict=True)
  ]


def truncation_sweep(
  model: ModelBase,
  *,
  thresholds: Sequence[float] = THRESHOLDS,
  columns: int,
  seed: int,
  labels: Sequence[int] | None = None,
  rule: TruncationRule = "resample",
) -> list[Row]:
  """A row for each threshold; a column's latents differ by it alone.

  Args:
    model: whose latents and classes they are.
    thresholds: from top to bottom.
    columns: images a row.
    seed: of the latents.
    labels: classes that columns take in turn; all of them where None.
    rule: what a threshold means, see `latents.law`.

  Raises:
    SpecError: an argument is out of range.
  """
  _check(model, len(thresholds), columns, labels, None, rule)
  for threshold in thresholds:
    draw.check_truncation(threshold, rule)
  classes = np.asarray(_classes(model, labels), np.int32)
  label_c = classes[np.arange(columns) % len(classes)]
  return [
    Row(_latents(model, seed, 0, columns, threshold, rule), label_c, threshold)
    for threshold in thresholds
  ]


def _latents(
  model: ModelBase,
  seed: int,
  place: int,
  count: int,
  truncation: float | None,
  rule: TruncationRule,
) -> np.ndarray:
  """[count, latent_dim] of this place in the sheet."""
  key = jax.random.fold_in(jax.random.key(seed), place)
  return np.asarray(draw.draw(key, count, model, truncation, rule))


def _classes(model: ModelBase, labels: Sequence[int] | None) -> Sequence[int]:
  return labels or range(max(model.num_classes, 1))


def _check(
  model: ModelBase,
  rows: int,
  columns: int,
  labels: Sequence[int] | None,
  truncation: float | None,
  rule: TruncationRule,
  walks: bool = False,
) -> None:
  least = 2 if walks else 1
  require(
    rows >= 1 and columns >= least,
    f"a sheet of rows={rows} and columns={columns} is empty; use 1 row and "
    f"{least} column{'s' * (least > 1)} or more",
  )
  check_labels(model, labels)
  draw.check_truncation(truncation, rule)


def _check_conditional(model: ModelBase, what: str) -> None:
  require(
    model.num_classes > 0,
    f"a {what} needs classes, and this model was trained without labels "
    "(model.num_classes=0); interpolate latents instead",
  )
