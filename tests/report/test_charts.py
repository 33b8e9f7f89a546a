import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from bigscale.report.charts import Level, Line, blue_to_red, draw


def _line(y, label="loss", **fields):
  x = [float(i) for i in range(len(y))]
  return Line(label=label, color="#3987d6", x=x, y=y, **fields)


def _texts(chart):
  root = ElementTree.fromstring(chart.svg)
  return [element.text for element in root.iter() if element.text]


def test_a_drawing_is_inline_svg_in_the_colors_of_the_page():
  chart = draw("Losses", [_line([1.0, 2.0, 3.0])])
  assert ElementTree.fromstring(chart.svg).tag.endswith("svg")
  assert chart.svg.startswith("<svg")
  assert "currentColor" in chart.svg
  assert "#0a0b0c" not in chart.svg
  assert "#3987d6" in chart.svg
  assert chart.legend == [("loss", "#3987d6", "solid")]


def test_drawings_are_deterministic():
  lines = [_line([1.0, 2.0])]
  assert draw("Losses", lines).svg == draw("Losses", lines).svg


def test_drawings_of_one_page_do_not_share_ids():
  ids = [
    set(re.findall(r'<clipPath id="([^"]+)"', draw(title, [_line([1.0])]).svg))
    for title in ("Losses", "Logits")
  ]
  assert ids[0]
  assert not ids[0] & ids[1]


def test_a_log_axis_has_plain_numbers_as_ticks():
  chart = draw("d", [_line([1.0, 10.0, 100.0])], scale="log")
  assert {"1", "10", "100"} <= set(_texts(chart))


def test_a_log_axis_of_less_than_a_decade_has_several_ticks():
  chart = draw("d", [_line([1.2, 2.0, 6.0])], scale="log")
  assert {"1.5", "2", "3", "5"} <= set(_texts(chart))


@pytest.mark.parametrize("y", [[0.0, 1.0, 2.0], [-1.0, 2.0], [math.nan]])
def test_values_that_a_log_axis_cannot_show_make_it_linear(y):
  log = draw("d", [_line(y)], scale="log")
  assert log.svg == draw("d", [_line(y)]).svg


def test_an_extreme_value_does_not_hide_the_others():
  y = [1.0, 1.1, 0.9, 1.0, 1e19]
  chart = draw("Losses", [_line(y)])
  assert chart.remark == "Beyond ±1 the axis is logarithmic."
  assert {"0", "1"} <= set(_texts(chart))
  assert any(text.startswith("1e+") for text in _texts(chart))
  assert draw("Losses", [_line([1.0, 2.0, 900.0])]).remark == ""


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_abandoned_curves_do_not_make_the_kept_ones_small(scale):
  kept, lost = _line([1.0, 1.5, 2.0]), _line([1.0, 1e19], faint=True)
  chart = draw("Losses", [kept, lost], scale=scale)
  assert chart.remark == "Abandoned curves extend beyond the axis: 1 to 1e+19."
  assert {"1", "2"} <= set(_texts(chart))
  assert not any("e+" in text for text in _texts(chart))
  near = _line([1.0, 2.2], faint=True)
  assert draw("Losses", [kept, near], scale=scale).remark == ""


def test_a_chart_may_have_only_abandoned_curves():
  assert "1,000" in _texts(draw("d", [_line([500.0, 1e3], faint=True)]))


def test_lines_of_a_higher_rank_are_lighter_and_not_in_the_legend():
  chart = draw("s", [_line([1.0, 2.0]), _line([3.0, 4.0], rank=2)])
  assert len(chart.legend) == 1
  assert "opacity: 0.36" in chart.svg


def test_remarks_on_gaps_of_many_curves_are_shortened():
  lines = [_line([math.nan, 1.0], label=f"layer{i}") for i in range(60)]
  chart = draw("s", lines)
  assert "layer5" in chart.remark
  assert "layer6" not in chart.remark
  assert "54 more." in chart.remark


def test_levels_are_drawn_and_in_the_legend():
  level = Level(label="floor", color="#2fa36b", y=1000.0)
  chart = draw("d", [_line([1.0, 2.0])], [level], scale="log")
  assert "#2fa36b" in chart.svg
  assert "1,000" in _texts(chart)
  assert ("floor", "#2fa36b", "dashed") in chart.legend


def test_abandoned_curves_have_one_legend_entry():
  lines = [_line([9.0], faint=True), _line([8.0], faint=True), _line([1.0])]
  assert draw("d", lines).legend == [
    ("loss", "#3987d6", "solid"),
    ("abandoned by a rollback", "currentColor", "dotted"),
  ]


def test_non_finite_values_leave_gaps_and_are_in_the_remark():
  y = [1.0, 2.0, math.nan, math.inf, 5.0]
  chart = draw("d", [_line(y)])
  assert chart.remark == "Not finite: loss at 2 kimg (2 rows)."
  assert "nan" not in chart.svg
  assert "inf" not in chart.svg


def test_the_axis_extends_to_a_last_row_that_is_not_finite():
  y = [1.0, 2.0, *[math.nan] * 98]
  assert "100" in _texts(draw("d", [_line(y)]))


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(
  "y", [[math.nan] * 3, [1e308, -1e308, 1e38], [0.0], [0.9, 0.9]]
)
def test_extreme_values_draw_without_a_warning(y, scale):
  assert draw("d", [_line(y)], scale=scale).svg


def test_many_points_become_means_with_bands_that_show_peaks():
  y = np.ones(100_000)
  y[12_345] = 1000.0
  y[50_000:60_000] = math.nan
  chart = draw("d", [_line(list(y))])
  assert chart.thinned
  assert len(chart.svg) < 100_000
  assert "1,000" in _texts(chart)
  assert not draw("d", [_line([1.0, 2.0])]).thinned


def test_the_axis_does_not_zoom_in_on_a_constant():
  assert "0" in _texts(draw("lr", [_line([5.0, 5.0])]))


def test_blue_to_red_repeats_no_color():
  colors = blue_to_red(30)
  assert len(set(colors)) == 30
  first, last = (
    [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    for color in (colors[0], colors[-1])
  )
  assert first[2] == max(first)
  assert last[0] == max(last)
  assert len(blue_to_red(1)) == 1
