"""Latents and labels of sheet rows, and mixtures of class embeddings."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.models.biggan import BigganSpec
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.sampling import sheets
from bigscale.spec import SpecError

_BIGGAN = BigganSpec(
  resolution=32,
  num_classes=4,
  latent_dim=8,
  g_width=2,
  d_width=2,
  shared_dim=4,
)
_R3GAN = R3ganSpec(
  resolution=8,
  num_classes=4,
  latent_dim=8,
  widths=(8, 4),
  blocks=(1, 1),
  cardinality=(2, 2),
  class_embedding_dim=4,
)
_UNCONDITIONAL = dataclasses.replace(_BIGGAN, num_classes=0)
_MODELS = {
  "shared": _BIGGAN,
  "tables": dataclasses.replace(_BIGGAN, shared_dim=0, hierarchical=False),
  "r3gan": _R3GAN,
}


@pytest.mark.parametrize("name", _MODELS)
@jax.enable_x64(True)
def test_one_hot_shares_are_labels(name):
  """Equal weights of two classes give neither class nor the mean image.

  Uses float64, so that the rounding of the compiler does not matter.
  """
  model = dataclasses.replace(_MODELS[name], dtype="float64")
  g = make_model(model, "cpu").g
  labels = jnp.array([0, 3, 1], jnp.int32)
  one_hot = jax.nn.one_hot(labels, 4)
  latents = jnp.tile(
    jax.random.normal(jax.random.key(1), (1, model.latent_dim)), (3, 1)
  )

  random = np.random.default_rng(0)

  def weight(path, leaf):
    if path[-1].key in ("mean", "var"):
      return np.full(leaf.shape, path[-1].key == "var", leaf.dtype)
    return random.standard_normal(leaf.shape).astype(leaf.dtype) / 2

  shapes = jax.eval_shape(g.init, jax.random.key(0))
  variables = jax.tree_util.tree_map_with_path(weight, shapes)
  half = (one_hot[:1] + one_hot[1:2]).repeat(3, axis=0) / 2
  by_label, by_share, mixed = (
    np.asarray(image)
    for image in jax.jit(
      lambda *asked: [
        g.apply(variables, latents, y, train=False)[0] for y in asked
      ]
    )(labels, one_hot, half)
  )
  np.testing.assert_allclose(by_share, by_label, rtol=1e-9, atol=1e-9)
  first, second = by_label[:2]
  assert min(abs(mixed[0] - x).max() for x in (first, second)) > 1e-3
  assert abs(mixed[0] - (first + second) / 2).max() > 1e-3


def test_latent_interpolation():
  rows = sheets.latent_interpolation(
    _BIGGAN, rows=3, columns=5, seed=0, labels=[2, 0], truncation=0.5
  )
  assert [row.labels.tolist() for row in rows] == [[2] * 5, [0] * 5, [2] * 5]
  assert {row.latents.shape for row in rows} == {(5, 8)}
  assert {row.truncation for row in rows} == {0.5}
  ends = np.stack([row.latents[[0, -1]] for row in rows])
  assert (abs(ends) < 0.5).all()
  assert len(np.unique(ends)) == ends.size, "every row has its own ends"
  again = sheets.latent_interpolation(
    _BIGGAN, rows=2, columns=5, seed=1, labels=[2, 0], truncation=0.5
  )
  assert (again[0].latents != rows[0].latents).any()


def test_path_of_latents_can_be_chosen():
  arc, line = (
    sheets.latent_interpolation(_BIGGAN, rows=1, columns=3, seed=0, path=path)
    for path in ("spherical", "linear")
  )
  first, middle, last = line[0].latents
  np.testing.assert_allclose(middle, (first + last) / 2, atol=1e-6)
  assert abs(arc[0].latents[1] - middle).max() > 0.05
  np.testing.assert_allclose(arc[0].latents[2], last, atol=1e-6)


@pytest.mark.parametrize("same", [False, True])
def test_class_interpolation_cycles_through_adjacent_pairs(same):
  rows = sheets.class_interpolation(
    _BIGGAN, rows=3, columns=3, seed=0, labels=[3, 1, 0], same_latents=same
  )
  found = [(row.labels[0].argmax(), row.labels[2].argmax()) for row in rows]
  assert found == [(3, 1), (1, 0), (3, 1)]
  for row in rows:
    assert (row.latents == row.latents[:1]).all()
    np.testing.assert_allclose(np.sort(row.labels[1]), [0, 0, 0.5, 0.5])
  assert (rows[0].latents == rows[1].latents).all() == same


def test_class_grid_by_rows_and_by_columns():
  grid = sheets.class_grid(_BIGGAN, images_per_class=3, seed=0)
  assert [row.labels.tolist() for row in grid] == [[i] * 3 for i in range(4)]
  across = sheets.class_grid(
    _BIGGAN, images_per_class=3, seed=0, along="columns"
  )
  assert [row.labels.tolist() for row in across] == [[0, 1, 2, 3]] * 3
  by_row = np.stack([row.latents for row in grid])
  np.testing.assert_array_equal(
    by_row.swapaxes(0, 1), np.stack([row.latents for row in across])
  )
  assert len(np.unique(by_row)) == by_row.size


def test_a_grid_of_some_classes_matches_the_grid_of_all():
  whole = sheets.class_grid(_BIGGAN, images_per_class=2, seed=0)
  page = sheets.class_grid(_BIGGAN, images_per_class=2, seed=0, labels=[2, 3])
  for cut, row in zip(page, whole[2:], strict=True):
    np.testing.assert_array_equal(cut.latents, row.latents)
    np.testing.assert_array_equal(cut.labels, row.labels)


def test_classes_can_share_latents():
  grid = sheets.class_grid(
    _BIGGAN, images_per_class=2, seed=0, labels=[3, 1], same_latents=True
  )
  np.testing.assert_array_equal(grid[0].latents, grid[1].latents)
  assert (grid[0].latents[0] != grid[0].latents[1]).any()


def test_truncation_sweep_shrinks_the_same_latents():
  rows = sheets.truncation_sweep(_BIGGAN, columns=6, seed=0)
  assert [row.truncation for row in rows] == [2.0, 1.0, 0.5, 0.04]
  assert {tuple(row.labels.tolist()) for row in rows} == {(0, 1, 2, 3, 0, 1)}
  for row, below in itertools.pairwise(rows):
    assert (abs(row.latents) < row.truncation).all()
    assert (abs(below.latents) <= abs(row.latents)).all()
    assert (np.sign(below.latents) == np.sign(row.latents)).all()


def test_draw_sheet_uses_the_average_of_each_row():
  rows = sheets.truncation_sweep(
    _BIGGAN, thresholds=(1.0, 0.5), columns=3, seed=0, labels=[2]
  )

  def sample_fn(ema, latents, labels):
    assert (latents.shape, labels.dtype) == ((3, 8), np.int32)
    return np.full((3, 1, 1, 1), ema) + np.arange(3).reshape(3, 1, 1, 1)

  drawn = sheets.draw_sheet(sample_fn, lambda threshold: 10 * threshold, rows)
  assert drawn.images.ravel().tolist() == [10, 11, 12, 5, 6, 7]
  assert drawn.labels.tolist() == [2] * 6


@pytest.mark.parametrize(
  ("make", "options", "message"),
  [
    ("latent_interpolation", {"rows": 0, "columns": 3}, "rows=0.*empty"),
    ("latent_interpolation", {"rows": 1, "columns": 1}, "1 row and 2 columns"),
    ("class_interpolation", {"rows": 1, "columns": 1}, "1 row and 2 columns"),
    (
      "class_interpolation",
      {"rows": 1, "columns": 2, "labels": [1]},
      r"labels=\[1\].*two or more",
    ),
    (
      "class_interpolation",
      {"rows": 1, "columns": 2, "labels": [1, 4]},
      "label 4.*0 to 3",
    ),
    ("class_grid", {"images_per_class": 0}, "empty"),
    ("truncation_sweep", {"columns": 2, "thresholds": ()}, "rows=0"),
    ("truncation_sweep", {"columns": 2, "thresholds": (1.0, 0.0)}, "positive"),
    (
      "latent_interpolation",
      {"rows": 1, "columns": 2, "truncation": -1.0},
      "positive",
    ),
  ],
)
def test_invalid_sheets_are_refused(make, options, message):
  with pytest.raises(SpecError, match=message):
    getattr(sheets, make)(_BIGGAN, seed=0, **options)


@pytest.mark.parametrize(
  ("make", "options"),
  [
    ("class_interpolation", {"rows": 1, "columns": 2}),
    ("class_grid", {"images_per_class": 2}),
  ],
)
def test_sheets_of_classes_need_classes(make, options):
  with pytest.raises(SpecError, match=r"num_classes=0\); interpolate latents"):
    getattr(sheets, make)(_UNCONDITIONAL, seed=0, **options)
