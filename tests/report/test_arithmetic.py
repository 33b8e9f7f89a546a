"""FLOP counts in a report."""

from bigscale.report import write_report
from bigscale.report.facts import cards
from bigscale.report.read import read_run
from bigscale.train.writers import JsonLines


def write(run_dir, row, **values):
  metrics = JsonLines(run_dir / "metrics.jsonl")
  for step in (110, 120):
    metrics.write(row(step, **{k: step * x for k, x in values.items()}))


def shown(run_dir):
  return {
    card.label: (card.value, card.remark) for card in cards(read_run(run_dir))
  }


def test_a_card_shows_the_flop_count(run_dir, row):
  totals = {"perf/total_flops": 1e15, "perf/spent_flops": 1e15}
  write(run_dir, row, **totals)
  assert shown(run_dir)["FLOP so far"] == ("1.2e+17", "")
  assert "Model FLOP utilization" not in shown(run_dir)


def test_the_remark_includes_abandoned_attempts(run_dir, row):
  write(run_dir, row, **{"perf/total_flops": 1e15, "perf/spent_flops": 2e15})
  remark = "2.4e+17 including abandoned attempts"
  assert shown(run_dir)["FLOP so far"] == ("1.2e+17", remark)


def test_utilization_is_a_percentage(run_dir, row):
  write(run_dir, row, **{"perf/mfu": 0.4 / 115})
  assert shown(run_dir)["Model FLOP utilization"] == ("40.0 %", "median")


def test_flop_totals_have_no_chart(run_dir, row):
  write(run_dir, row, **{"perf/total_flops": 1e15, "perf/mfu": 0.002})
  page = write_report(run_dir).read_text()
  assert "perf/mfu" in page
  assert "perf/total_flops" not in page


def test_runs_of_earlier_versions_have_no_flop_card(run_dir):
  assert "FLOP so far" not in shown(run_dir)
