"""Tests of plots of fitted laws."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from bigscale.scaling import analysis, figures
from bigscale.scaling.laws import Points
from bigscale.scaling.selection import Selection
from bigscale.spec import SpecError

ALPHA, BETA, FLOOR = 0.4, 0.3, 2.0


def law(x, x2):
  return FLOOR + 40 * x**-ALPHA + 90 * x2**-BETA


def made(noise=0.02, floor=None, columns=5):
  x, x2 = np.meshgrid(np.geomspace(10, 1e4, columns), np.geomspace(10, 1e5, 4))
  x, x2 = x.ravel(), x2.ravel()
  count = len(x)
  rng = np.random.default_rng(3)
  y = law(x, x2) * np.exp(noise * rng.standard_normal(count))
  censored = np.arange(count) == count - 1
  points = Points(
    {"x": x, "x2": x2, "C": x * x2}, y, censored, np.arange(count),
    np.arange(count) + 1,
  )  # fmt: skip
  names = {"x": "params", "x2": "images", "y": "fid", "C": "flops"}
  selection = Selection(points, names, [], 0, "run", None, {})
  return analysis.study(selection, analysis.Settings(floor, resamples=60))


def test_every_level_has_a_line():
  left, right, *below = figures.draw(made()).axes
  assert [axes.get_xlabel() for axes in below] == ["params", "images"]
  assert left.get_ylabel() == "fid"
  # The floor is an additional line.
  assert len(left.lines) == 4 + 1
  assert len(right.lines) == 5 + 1
  for line, level in zip(left.lines, np.geomspace(10, 1e5, 4), strict=False):
    x, y = line.get_data()
    np.testing.assert_allclose(y, law(x, level), rtol=0.06)
    label = line.get_label().replace(",", "")
    assert float(label) == pytest.approx(level, rel=5e-3)
  assert left.lines[-1].get_ydata()[0] == pytest.approx(FLOOR, rel=0.2)


def test_all_runs_are_drawn_once_in_each_panel():
  study = made()
  for axes in figures.draw(study).axes[:2]:
    dots = [c for c in axes.collections if isinstance(c, PathCollection)]
    drawn = np.concatenate([c.get_offsets()[:, 1] for c in dots])
    np.testing.assert_allclose(
      np.sort(drawn), np.sort(study.selection.points.y)
    )
    hollow = [c for c in dots if not len(c.get_facecolor())]
    assert sum(len(c.get_offsets()) for c in hollow) == 1


def test_residuals_of_all_rows_are_drawn_below():
  study = made(0.05)
  points = study.selection.points
  for axes in figures.draw(study).axes[2:]:
    drawn = np.concatenate([c.get_offsets()[:, 1] for c in axes.collections])
    assert len(drawn) == len(points.y)
    # A bound above the law has no residual.
    assert np.abs(drawn).mean() == pytest.approx(0.05 * 0.8, rel=0.5)
  first = min(axes.collections[0].get_offsets(), key=lambda at: at[0])
  x, y = first
  at = points.variables["x2"] == x
  assert np.abs(y - (-study.fitted.residual[at])).min() < 1e-9


def test_band_widens_with_noise():
  def width(noise):
    low, high = [], []
    for band in figures.draw(made(noise)).axes[0].collections:
      if not isinstance(band, PathCollection):
        y = band.get_paths()[0].vertices[:, 1]
        low.append(y.min())
        high.append(y.max())
    return np.log(np.array(high) / low).sum()

  assert width(0.1) > width(0.01)


def test_many_levels_share_few_lines():
  axes = figures.draw(made(columns=12)).axes[1]
  assert len(axes.lines) == 6 + 1


def test_pinned_floor_is_drawn():
  axes = figures.draw(made(floor=1.5)).axes[0]
  assert axes.lines[-1].get_ydata()[0] == 1.5
  # A law without a floor has no such line.
  assert len(figures.draw(made(floor=0.0)).axes[0].lines) == 4


def test_a_file_is_written(tmp_path):
  figures.save(made(), tmp_path / "new" / "law.png")
  with Image.open(tmp_path / "new" / "law.png") as picture:
    assert min(picture.size) > 300
  with pytest.raises(SpecError, match="must end with"):
    figures.save(made(), tmp_path / "law.txt")
  (tmp_path / "file").write_text("")
  with pytest.raises(SpecError, match="cannot be written"):
    figures.save(made(), tmp_path / "file" / "law.png")


def test_exponent_of_the_best_split():
  split = analysis.record(made(noise=0.001))["split"]
  assert split["exponent"]["value"] == pytest.approx(
    ALPHA * BETA / (ALPHA + BETA), abs=0.01
  )
  low, high = split["exponent"]["interval95"]
  assert low < ALPHA * BETA / (ALPHA + BETA) < high
