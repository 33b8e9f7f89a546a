import html.parser
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from bigscale.report import ReportError, write_report
from bigscale.report.facts import duration, number
from bigscale.sampling.grid import save_png
from bigscale.train.writers import JsonLines

_VOID = {"meta", "img", "br"}


class _Page(html.parser.HTMLParser):
  """Checks nesting and collects text, headings, links and images."""

  def __init__(self, text):
    super().__init__()
    self.open, self.words, self.headings = [], [], []
    self.tags, self.fetched, self.pictures = [], [], []
    self.feed(text)
    self.close()
    assert self.open == []
    self.text = " ".join(" ".join(self.words).split())

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    if tag not in _VOID:
      self.open.append(tag)
    for name, value in attributes:
      if name in ("src", "href", "xlink:href", "data", "srcset"):
        (self.pictures if tag == "img" else self.fetched).append(value)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    if tag not in _VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "style" not in self.open:
      self.words.append(data)
    if self.open and self.open[-1] == "h2":
      self.headings.append(data)


def _page(run_dir):
  return _Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_the_page_of_a_complete_run(run_dir):
  page = _page(run_dir)
  for words in [
    "BigGAN on emoji, 32 px",
    "batch 50 · 10 classes · 1,234 parameters in G · 5,678 parameters in D",
    "10 of 10 kimg",
    "Fréchet classifier distance 8 best 8 at 10 kimg",
    "Real vs. real (floor) 2 samples: 4 times this",
    "Classes present 9 / 10",
    "Images per second 500",
    "Wall time 3 min 21 s",
    "First evaluation 40 at 2 kimg (5 times the last)",
    "Baseline: class means + noise 60 (7.5 times the samples' distance)",
    "Classifier accuracy 91.4 %",
    "Samples classified as their label 75.0 %",
    "step 50, 5 kimg",
    "2 evaluations",
    "Singular values of the generator",
    "Singular values of the discriminator",
    "block0/conv",
    "D separates held-out from training images (r_v)",
    "Action at an alarm save a healthy state",
    "Snapshots in memory every 200 steps, newest 4 kept",
    "bigscale train '--workdir=my run'",
    "loss.r1_gamma 2.0 to 0.2 over 5.0 kimg, cosine",
    "optim.g_lr 0.0002",
    "jax 0.10.2",
    "2027-01-15 08:00:00 0 reference",
  ]:
    assert words in page.text, words
  assert page.headings == [
    "Samples",
    "Evaluation",
    "Training",
    "Monitor",
    "Singular values",
    "Speed",
    "Events",
    "Origin",
  ]


def test_the_page_is_self_contained(run_dir):
  page = _page(run_dir)
  assert len(page.pictures) == 3
  assert all(src.startswith("data:image/png;base64,") for src in page.pictures)
  assert all(link.startswith("#") for link in page.fetched)
  assert "script" not in page.tags
  assert "link" not in page.tags
  text = (run_dir / "report.html").read_text(encoding="utf-8")
  assert "default-src 'none'" in text
  assert not re.search(r"url\((?!#)", text)


def test_the_page_replaces_the_old_one_and_leaves_no_other_file(run_dir, row):
  before = sorted(entry.name for entry in run_dir.iterdir())
  first = write_report(run_dir).read_bytes()
  JsonLines(run_dir / "metrics.jsonl").write(row(110))
  path = write_report(run_dir)
  assert path == run_dir / "report.html"
  assert path.read_bytes() != first
  after = sorted(entry.name for entry in run_dir.iterdir())
  assert after == sorted([*before, "report.html"])


def test_the_same_run_gives_the_same_page(run_dir):
  assert write_report(run_dir).read_bytes() == (
    write_report(run_dir).read_bytes()
  )


@pytest.mark.parametrize(
  ("missing", "heading"),
  [
    ("samples", "Samples"),
    ("events.jsonl", "Events"),
    ("metrics.jsonl", "Training"),
    ("spec.json", None),
  ],
)
def test_the_page_without_one_of_the_files(run_dir, missing, heading):
  (run_dir / missing).rename(run_dir / "elsewhere")
  page = _page(run_dir)
  assert page.headings
  assert heading not in page.headings


def test_the_page_of_a_run_that_has_just_started(run_dir):
  for name in ("metrics.jsonl", "events.jsonl", "samples"):
    (run_dir / name).rename(run_dir / f"no-{name}")
  page = _page(run_dir)
  assert "No step has been logged yet." in page.text
  assert page.headings == ["Origin"]


def test_the_page_of_a_run_without_evaluation(run_dir):
  path = run_dir / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(line for line in lines if "eval/" not in line))
  page = _page(run_dir)
  assert "Evaluation" not in page.headings
  assert "Fréchet classifier distance" not in page.text
  assert "Real vs. real (floor) 2" in page.text


def test_the_page_of_a_run_that_diverged_and_was_rolled_back(run_dir, row):
  metrics = JsonLines(run_dir / "metrics.jsonl")
  metrics.write(row(110, **{"d/loss": math.nan, "d/r1": math.inf}))
  metrics.write(row(90, 1, **{"d/loss": 77.0, "eval/fd_classifier": math.nan}))
  page = _page(run_dir)
  assert "abandoned by a rollback" in page.text
  assert "Not finite: d/loss at 11 kimg (1 rows)." in page.text
  # The rollback abandoned the evaluation at step 100.
  assert "best 40 at 2 kimg" in page.text
  assert "Wall time 6 min 40 s" in page.text


def test_the_page_of_a_run_that_the_monitor_rolled_back(rolled_back):
  page = _page(rolled_back)
  for words in [
    "verdict: ok verdict: warn verdict: rollback rollback to the next attempt",
    "Action at an alarm save a healthy state and roll back to it",
    "Alarms 1, the first at step 80",
    "Warnings 1",
    "Rollbacks 1",
    "70 0 warn g/sigma0/linear 9.5 2 above its usual range onset at step 60",
    "80 0 rollback g/loss Infinity unknown not finite",
    "81 0 saved healthy/50, at or before step 60",
    "81 0 rolled back to step 50 as attempt 1; retry 1; "
    "records 2,500 to 4,050 skipped; g_lr: 0.5",
    "abandoned by a rollback",
  ]:
    assert words in page.text, words
  # The second attempt abandoned the rows of the first after step 50.
  assert "100 of" not in page.text


def test_many_reasons_and_decisions_are_shortened_with_a_remark(run_dir):
  events = JsonLines(run_dir / "events.jsonl")
  reason = {"signal": "s", "value": 1.0, "reference": None, "rule": "r"}
  for step in range(120):
    verdict = {"event": "verdict", "step": step, "level": "warn"}
    events.write(verdict | {"reasons": [reason] * 9})
  page = _page(run_dir)
  assert "3 more" in page.text
  assert "20 earlier decisions are in events.jsonl." in page.text


def test_a_run_without_a_monitor_has_no_monitor_section(run_dir):
  path = run_dir / "spec.json"
  path.write_text(path.read_text().replace('"action": "checkpoint"', '"a": 1'))
  rows = run_dir / "metrics.jsonl"
  rows.write_text(rows.read_text().replace("d/heldout_gap", "d/other"))
  page = _page(run_dir)
  assert "Monitor" not in page.headings
  assert "verdict" not in page.text.partition("Resolved spec")[0]


@pytest.mark.parametrize(
  "event",
  [
    {"event": "verdict", "step": "soon", "level": ["warn"], "reasons": 3},
    {"event": "verdict", "level": "warn", "reasons": [1, {"signal": 2}]},
    {"event": "rollback", "step": 60, "attempt": "x", "to_step": None},
    {"event": "rollback", "step": 60, "attempt": 2, "to_step": 900},
    {"event": "healthy", "step": math.nan, "of_step": {}},
    {"event": "verdict", "step": 60, "level": "unheard of"},
    {"event": "start", "step": [], "attempt": {}},
  ],
)
def test_invalid_events_are_tolerated(run_dir, event):
  JsonLines(run_dir / "events.jsonl").write(event)
  assert "Training" in _page(run_dir).headings


def test_text_of_the_run_is_escaped(run_dir, row):
  evil = '<script>alert("x")</script>&amp;'
  (run_dir / "spec.json").write_text(
    json.dumps(
      {
        "spec": {
          "model": {"name": evil, "resolution": evil},
          "data": {"source": "$x_{1}$" + evil},
          "loss": {evil: evil},
        },
        "versions": {evil: evil},
        "command": [evil],
      }
    )
  )
  JsonLines(run_dir / "metrics.jsonl").write(
    row(120, **{evil: 1.0, f"g/sigma0/{evil}": 1.0, f"eval/{evil}": 2.0})
  )
  JsonLines(run_dir / "events.jsonl").write(
    {"event": evil, "step": evil, "time": evil, evil: [evil]}
    | {f"fd_{evil}": 3.0}
  )
  reason = dict.fromkeys(("signal", "value", "reference", "rule"), evil)
  JsonLines(run_dir / "events.jsonl").write(
    {"event": "verdict", "step": 5, "level": evil, "reasons": [reason]}
  )
  page = _page(run_dir)
  assert "script" not in page.tags
  assert page.text.count("<script>") >= 15


def test_a_large_grid_is_shrunk(run_dir):
  noise = np.random.default_rng(0).integers(0, 256, (9, 256, 256, 3), np.uint8)
  path = save_png(run_dir / "samples" / "000110.png", noise, 3)
  page = _page(run_dir)
  assert page.pictures[-1].startswith("data:image/jpeg;base64,")
  assert len(page.pictures[-1]) < path.stat().st_size
  # A truncated file is embedded unchanged.
  path.write_bytes(path.read_bytes()[:700_000])
  assert _page(run_dir).pictures[-1].startswith("data:image/png;base64,")


def test_of_many_grids_the_first_the_last_and_some_others_are_shown(run_dir):
  for step in range(200, 401, 10):
    images = np.full((1, 4, 4, 1), 255, np.uint8)
    save_png(run_dir / "samples" / f"{step:06d}.png", images, 1)
  page = _page(run_dir)
  assert len(page.pictures) == 7
  assert "step 10, 1 kimg" in page.text
  assert "step 400, 40 kimg" in page.text


def test_many_events_are_shortened_with_a_remark(run_dir):
  events = JsonLines(run_dir / "events.jsonl")
  for step in range(300):
    events.write({"event": f"verdict{step}", "step": step})
  page = _page(run_dir)
  assert "verdict299" in page.text
  assert "verdict99 " not in page.text
  assert "102 earlier events are in events.jsonl." in page.text


def test_a_page_that_cannot_be_written_is_an_error_with_a_remedy(run_dir):
  (run_dir / "report.html").mkdir()
  with pytest.raises(ReportError, match=r"cannot write.*make the folder"):
    write_report(run_dir)
  assert not list(run_dir.glob(".*partial"))


def test_a_folder_without_a_run_gets_no_page(tmp_path):
  with pytest.raises(ReportError, match="contains no run"):
    write_report(tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_importing_the_report_does_not_import_matplotlib():
  code = (
    "import sys, bigscale.report; "
    "sys.exit(bool({'matplotlib', 'PIL', 'jax'} & set(sys.modules)))"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (3, "3"),
    (1234567, "1,234,567"),
    (0.123456, "0.1235"),
    (12345.6, "12,346"),
    (2.0, "2"),
    (math.nan, "nan"),
    (math.inf, "inf"),
    (None, "None"),
  ],
)
def test_number(value, text):
  assert number(value) == text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (9.6, "10 s"),
    (61, "1 min 1 s"),
    (3661, "1 h 1 min"),
    (90000, "1 d 1 h"),
  ],
)
def test_duration(seconds, text):
  assert duration(seconds) == text
