"""FLOP of a run in its report."""

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


def test_a_card_says_what_was_computed(run_dir, row):
  totals = {"perf/total_flops": 1e15, "perf/spent_flops": 1e15}
  write(run_dir, row, **totals)
  assert shown(run_dir)["FLOP so far"] == ("1.2e+17", "")
  assert "Model FLOP utilization" not in shown(run_dir)


def test_abandoned_attempts_are_told(run_dir, row):
  write(run_dir, row, **{"perf/total_flops": 1e15, "perf/spent_flops": 2e15})
  remark = "2.4e+17 with abandoned attempts"
  assert shown(run_dir)["FLOP so far"] == ("1.2e+17", remark)


def test_utilization_is_a_share(run_dir, row):
  write(run_dir, row, **{"perf/mfu": 0.4 / 115})
  assert shown(run_dir)["Model FLOP utilization"] == ("40.0 %", "median")


def test_sums_are_no_curves(run_dir, row):
  write(run_dir, row, **{"perf/total_flops": 1e15, "perf/mfu": 0.002})
  page = write_report(run_dir).read_text()
  assert "perf/mfu" in page
  assert "perf/total_flops" not in page


def test_older_runs_have_no_card(run_dir):
  assert "FLOP so far" not in shown(run_dir)
