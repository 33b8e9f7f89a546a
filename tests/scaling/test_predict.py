"""Forecasts beyond the runs of a table, and their checks."""

import json

import numpy as np
import pytest

from bigscale.cli import main as program
from bigscale.scaling.forecast import backtest, forms, noise, predict
from bigscale.scaling.laws import Points
from bigscale.scaling.selection import Selection
from bigscale.spec import SpecError

_SIZES, _LENGTHS = np.array([1.0, 2, 4, 8]), np.array([1.0, 2, 3, 4, 5, 6])


def _law(n, d):
  return 0.2 + 2.0 * n**-0.4 + 3.0 * d**-0.6


def _selection(sizes=_SIZES, lengths=_LENGTHS, lost=(), seeds=2):
  rng = np.random.default_rng(0)
  rows = [
    (
      n,
      d,
      _law(n, d) * np.exp(0.02 * rng.normal()),
      seeds * i + seed,
      i in lost,
    )
    for i, n in enumerate(sizes)
    for seed in range(seeds)
    for d in lengths
  ]
  x, x2, y, run, censored = np.array(rows).T
  points = Points(
    {"x": x, "x2": x2, "C": x * x2},
    y,
    censored.astype(bool),
    run.astype(int),
    np.arange(len(y)),
  )
  names = {"x": "N", "x2": "D", "y": "y", "C": "N D"}
  return Selection(points, names, [], 0, "run", None, {})


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
  monkeypatch.setattr(predict, "_STEPS", 20)


@pytest.fixture(scope="module")
def found():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(predict, "_STEPS", 20)
    at = [(8.0, 6.0), (8.0, 24.0), (32.0, 6.0), (800.0, 600.0)]
    return predict.predict(_selection(), at)


def test_a_sum_of_powers_is_forecast(found):
  for one in found["forecasts"][:3]:
    truth = _law(one["x"], one["x2"])
    low, high = one["interval90"]
    assert low < truth < high
    assert one["median"] == pytest.approx(truth, rel=0.1)
    inner_low, inner_high = one["interval50"]
    assert low < inner_low < one["median"] < inner_high < high


def test_forecasts_that_lie_further_are_wider_and_marked(found):
  widths = [
    one["interval90"][1] / one["interval90"][0] for one in found["forecasts"]
  ]
  assert widths[0] < widths[1] < widths[3]
  assert [one["tested"] for one in found["forecasts"]][::3] == [True, False]
  said = " ".join(found["warnings"])
  assert "x is asked for 100 times beyond the runs" in said
  assert "x2 is asked for 100 times beyond the runs" in said
  assert "(untested" in predict.as_text(found)


def test_the_checks_are_part_of_the_result(found):
  names = [one["name"] for one in found["held_out"]]
  assert "1 largest N" in names
  assert "D beyond 1/2" in names
  assert sum(found["forms"].values()) == pytest.approx(1)
  # Rows have noise of 2%, and runs share none of it.
  spread = np.hypot(found["spread"]["row"], found["spread"]["run"])
  assert spread == pytest.approx(0.02, rel=0.4)


def test_a_floor_above_the_scores_is_refused():
  with pytest.raises(SpecError, match=r"floor=9 is not below the smallest y"):
    predict.predict(_selection(), [(8.0, 24.0)], floor=9)


def test_notes_on_the_rows_are_warnings():
  selection = _selection()._replace(notes=("rows of one run count as runs",))
  found = predict.predict(selection, [(8.0, 6.0)])
  assert "rows of one run count as runs" in found["warnings"]


def test_a_forecast_does_not_depend_on_the_others(found):
  alone = predict.predict(_selection(), [(8.0, 24.0)])["forecasts"]
  assert alone == found["forecasts"][1:2]


def test_a_run_is_never_fitted_and_held_out():
  rows, _ = predict._rows_of(_selection().points)
  sets = backtest.held_out(rows)
  assert len(sets) > 4
  for one in sets:
    assert not set(rows.run[one.fitted]) & set(rows.run[one.forecast])
    far = backtest.beyond(
      rows.n[one.forecast], rows.d[one.forecast], rows, one.fitted
    )[0]
    assert (far.max(0) > 0).all()


def test_slopes_are_derivatives():
  rng = np.random.default_rng(1)
  n, d = rng.normal(size=(2, 5))
  theta = rng.normal(size=(3, forms.COUNT)) * 0.3
  theta[:, forms.P.top] = n.max()
  _, slopes = forms.log_y_and_slopes(theta, n, d)
  for p in forms.P:
    if p is forms.P.top:
      continue
    step = np.zeros(forms.COUNT)
    step[p] = 1e-6
    up, down = (forms.log_y(theta + s * step, n, d) for s in (1, -1))
    np.testing.assert_allclose(
      slopes[:, p], (up - down) / 2e-6, rtol=1e-5, atol=1e-8, err_msg=p.name
    )


def test_the_effect_of_runs_is_told_from_noise_within_them():
  rng = np.random.default_rng(2)
  run, step = np.divmod(np.arange(40 * 8), 8)
  effect = 0.1 * rng.normal(size=40)
  y = effect[run] + 0.03 * rng.normal(size=320)
  place = step + 8 * (run % 2)
  rows = noise.Rows(place // 8 * 1.0, step * 1.0, y, run, place)
  spread, _ = noise.measure(rows, np.zeros(320))
  assert spread.run**0.5 == pytest.approx(0.1, rel=0.3)
  assert spread.row**0.5 == pytest.approx(0.03, rel=0.3)
  assert spread.rho < 0.5


@pytest.mark.parametrize(
  ("selection", "said"),
  [
    (_selection(sizes=_SIZES[:1], lengths=_LENGTHS[:2]), "no runs can be held"),
    (_selection(lost=range(4)), "all runs collapsed"),
  ],
)
def test_a_table_without_a_check_is_refused(selection, said):
  with pytest.raises(SpecError, match=said):
    predict.predict(selection, [(8.0, 12.0)])


_TABLE = (
  *("docs/first_law/r3gan_curves.csv", "--x=parameters", "--x2=images"),
  *("--y=fd_classifier", "--group=run", "--status=status"),
)


def _call(capsys, *arguments):
  code = program.main(["bigscale", "scaling", "predict", *arguments])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def test_the_command_forecasts_a_table(capsys):
  code, out, _ = _call(
    capsys,
    *(*_TABLE, "--where=blocks~size", "--json"),
    "--at=parameters=109584,images=144000",
  )
  assert code == 0
  found = json.loads(out)
  (one,) = found["forecasts"]
  assert (one["x"], one["x2"]) == (109584, 144000)
  assert 0.2 < one["interval90"][0] < 0.4 < one["interval90"][1] < 0.8
  assert found["names"]["y"] == "fd_classifier"


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ((), "needs a table"),
    (_TABLE, "--at is not set; write --at=parameters=VALUE,images=VALUE"),
    ((*_TABLE, "--at=parameters=1e9"), "must be parameters=VALUE,images=VALUE"),
    ((*_TABLE, "--at=parameters=1e9,images=-1"), "with positive numbers"),
    ((*_TABLE[:2], "--y=fd_classifier", "--at=a=1"), "--x2 is not set"),
    ((*_TABLE, "--x2=parameters", "--at=a=1"), "--x and --x2 are both"),
    ((*_TABLE, "--at=parameters=1,images=1", "--floor=0"), "--floor=0.0 must"),
    (
      (*_TABLE, "--at=parameters=1,images=1", "--mean_of=-1"),
      "--mean_of=-1 must",
    ),
  ],
)
def test_bad_usage_is_exit_code_2(capsys, arguments, said):
  code, _, err = _call(capsys, *arguments)
  assert code == 2
  assert said in err
