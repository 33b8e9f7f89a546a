import dataclasses
import xml.etree.ElementTree as ElementTree

from bigscale.report.charts import Line, draw
from bigscale.report.read import read_run
from bigscale.report.style import LEVEL_COLORS
from bigscale.report.timeline import timeline

_LINE = Line(label="loss", color="#3987d6", x=[0.0, 10.0], y=[1.0, 2.0])


def test_the_band_shows_all_verdicts_below_the_curves(rolled_back):
  history = timeline(read_run(rolled_back))
  banded = draw("Losses", [_LINE], timeline=history, band=True)
  marked = draw("Losses", [_LINE], timeline=history)
  bare = draw("Losses", [_LINE])
  for level in ("ok", "warn", "rollback"):
    assert LEVEL_COLORS[level] in banded.svg
  assert LEVEL_COLORS["warn"] not in marked.svg
  assert LEVEL_COLORS["rollback"] in marked.svg
  assert LEVEL_COLORS["rollback"] not in bare.svg
  height = {
    name: float(ElementTree.fromstring(chart.svg).get("height")[:-2])
    for name, chart in (("banded", banded), ("marked", marked))
  }
  assert height["banded"] > height["marked"]


def test_the_legend_names_marks_and_verdicts(rolled_back):
  history = timeline(read_run(rolled_back))
  labels = [a for a, _, _ in draw("a", [_LINE], timeline=history).legend]
  assert labels == ["loss", "alarm", "healthy state saved"]
  banded = draw("a", [_LINE], timeline=history, band=True).legend
  assert [label for label, _, _ in banded[3:]] == [
    "verdict: ok",
    "verdict: warn",
    "verdict: rollback",
    "rollback to the next attempt",
  ]


def test_several_attempts_are_numbered(rolled_back):
  history = timeline(read_run(rolled_back))
  several = draw("a", [_LINE], timeline=history, band=True).svg
  first = [a for a in history.stretches if a.attempt == 0]
  alone = dataclasses.replace(history, stretches=first, returns=[])
  one = draw("a", [_LINE], timeline=alone, band=True).svg
  assert several.count("<text") - one.count("<text") == 2
