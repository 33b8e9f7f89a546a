"""Builds the rows of sheets: interpolations, class grids, truncation sweeps.

All rows of a sheet have the same length, so that one compiled program samples
them. Latents and labels depend on the seed and their position, but not on the
devices.
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
  """Latents and labels of one row of a sheet.

  Attributes:
    latents: [columns, latent_dim].
    labels: [columns] int32 labels, or [columns, num_classes] class weights.
    truncation: truncation of the latents; None without truncation.
  """

  latents: np.ndarray
  labels: np.ndarray
  truncation: float | None


def draw_sheet(
  sample_fn: SampleFn,
  average: Callable[[float | None], Any],
  rows: Sequence[Row],
) -> DrawnSamples:
  """Samples the images of a sheet, with one call per row.

  Args:
    sample_fn: jitted generator.
    average: function from a row's truncation to the generator's weights, whose
      standing statistics depend on the truncation.
    rows: rows of equal length.

  Returns:
    All images in reading order, with their labels or class weights.
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
  """Builds rows that interpolate between two latents of the same class.

  Args:
    model: spec of the model, which sets the sizes of latents and labels.
    rows: number of pairs of latents.
    columns: number of steps from one latent to the other, both included.
    seed: seed of the latents.
    labels: classes that rows cycle through; None uses all.
    truncation: truncation of the end points.
    rule: meaning of the truncation, see `latents.law`.
    path: whether to interpolate along an arc or a straight line.

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
  """Builds rows that interpolate between two classes with the same latent.

  Args:
    model: spec of a conditional model.
    rows: number of interpolations, which cycle through the adjacent pairs of
      `labels`.
    columns: number of steps from one class to the other, both included.
    seed: seed of the latents.
    labels: at least two classes; None uses all.
    truncation: truncation of the latents.
    rule: meaning of the truncation, see `latents.law`.
    same_latents: whether all rows use the latent of the first row.

  Raises:
    SpecError: an argument is out of range, or there are no classes.
  """
  _check(model, rows, columns, labels, truncation, rule, walks=True)
  _check_conditional(model, "walk between classes")
  classes = _classes(model, labels)
  require(
    len(classes) >= 2,
    f"labels={list(classes)} names one class; interpolation needs two or more",
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
  """Builds a row or a column of images for each class.

  A class's latents depend on the seed and its label, so a sheet of some classes
  shows the same images as a sheet of all classes.

  Args:
    model: spec of a conditional model.
    images_per_class: number of images in a class's row or column.
    seed: seed of the latents.
    labels: classes in order; None uses all.
    truncation: truncation of the latents.
    rule: meaning of the truncation, see `latents.law`.
    same_latents: whether all classes use the same latents.
    along: whether a class takes a row or a column.

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
  """Builds a row for each threshold, with the same samples in every row.

  Args:
    model: spec of the model, which sets the sizes of latents and labels.
    thresholds: truncations from top to bottom.
    columns: number of images per row.
    seed: seed of the latents.
    labels: classes that columns cycle through; None uses all.
    rule: meaning of a threshold, see `latents.law`.

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
  """Draws [count, latent_dim] for one position in the sheet."""
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
    f"rows={rows} and columns={columns} make an empty sheet; use at least 1 "
    f"row and {least} column{'s' * (least > 1)}",
  )
  check_labels(model, labels)
  draw.check_truncation(truncation, rule)


def _check_conditional(model: ModelBase, what: str) -> None:
  require(
    model.num_classes > 0,
    f"a {what} needs classes, but this model was trained without labels "
    "(model.num_classes=0); interpolate latents instead",
  )
