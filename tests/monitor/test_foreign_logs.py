"""Tests of reading other trainers' logs, in the format of their own code."""

import json

import pytest

from bigscale.monitor.trace import read_trace, replay
from bigscale.spec import SpecError
from bigscale.spec.verdict import VerdictSpec


def test_biggan_pytorch_writes_a_file_for_each_scalar(tmp_path):
  (tmp_path / "G_loss.log").write_text("1: 0.500\n2: 0.250\n")
  (tmp_path / "D_blocks_4_0_conv2_sv0.log").write_text("2: 1.500\n")
  (tmp_path / "notes.log").write_text("started at noon\n")
  scores = {"itr": 2, "IS_mean": 9.5, "FID": 30.0, "_stamp": 5.5}
  (tmp_path / "run_log.jsonl").write_text(json.dumps(scores) + "\n")
  assert read_trace(str(tmp_path)).rows == [
    (1, {"G_loss": 0.5}),
    (
      2,
      {
        "D_blocks_4_0_conv2_sv0": 1.5,
        "G_loss": 0.25,
        "IS_mean": 9.5,
        "FID": 30.0,
        "_stamp": 5.5,
      },
    ),
  ]
  one = read_trace(str(tmp_path / "G_loss.log"))
  assert one.rows == [(1, {"G_loss": 0.5}), (2, {"G_loss": 0.25})]


def test_a_resumed_run_replaces_the_rows_it_repeats(tmp_path):
  (tmp_path / "G_loss.log").write_text("1: 0.5\n2: 0.25\n2: 0.75\n3: 1\n")
  rows = read_trace(str(tmp_path)).rows
  assert [row["G_loss"] for _, row in rows] == [0.5, 0.75, 1.0]


def test_stylegan_counts_thousands_of_images(tmp_path):
  def tick(kimg, loss):
    return {
      "Progress/kimg": {"num": 1, "mean": kimg, "std": 0.0},
      "Loss/G/loss": {"num": 9, "mean": loss, "std": 0.1},
      "timestamp": 5.0,
    }

  ticks = [tick(4.096, 0.5), tick(200.704, 0.25)]
  text = "\n".join(json.dumps(t) for t in ticks)
  (tmp_path / "stats.jsonl").write_text(text)
  score = {
    "results": {"fid50k_full": 12.5},
    "metric": "fid50k_full",
    "snapshot_pkl": "network-snapshot-000200.pkl",
  }
  (tmp_path / "metric-fid50k_full.jsonl").write_text(json.dumps(score))
  wanted = [
    (4096, {"Loss/G/loss": 0.5, "timestamp": 5.0}),
    (
      200704,
      {"Loss/G/loss": 0.25, "timestamp": 5.0, "metric/fid50k_full": 12.5},
    ),
  ]
  assert read_trace(str(tmp_path)).rows == wanted
  alone = read_trace(str(tmp_path / "stats.jsonl"))
  assert [step for step, _ in alone.rows] == [4096, 200704]


def test_weights_and_biases_exports_a_table_and_json_lines(tmp_path):
  table = tmp_path / "export.csv"
  table.write_text(
    '"Step","warm-sun-3 - d_loss","warm-sun-3 - d_loss__MIN"\n'
    '"0","0.5","0.4"\n"10","0.25","0.1"\n'
  )
  assert read_trace(str(table)).rows == [
    (0, {"d_loss": 0.5, "d_loss__MIN": 0.4}),
    (10, {"d_loss": 0.25, "d_loss__MIN": 0.1}),
  ]
  history = tmp_path / "history.jsonl"
  history.write_text('{"_step": 3, "d_loss": 0.5, "_runtime": 1.5}\n')
  assert read_trace(str(history)).rows == [
    (3, {"d_loss": 0.5, "_runtime": 1.5})
  ]
  two = tmp_path / "two.csv"
  two.write_text("Step,a - d_loss,b - d_loss\n0,1,2\n")
  with pytest.raises(SpecError, match=r"\['d_loss'\].*export one run"):
    read_trace(str(two))


@pytest.mark.parametrize(
  ("column", "steps"),
  [
    ("global_step", [1, 2]),
    ("itr", [1, 2]),
    ("Iteration", [1, 2]),
    ("kimg", [1000, 2000]),
  ],
)
def test_the_column_of_steps_has_many_names(tmp_path, column, steps):
  path = tmp_path / "trace.csv"
  path.write_text(f"{column},D_loss\n1,0.5\n2,0.25\n")
  assert [step for step, _ in read_trace(str(path)).rows] == steps


def test_tensorboard_events_are_read_by_tensorboard(tmp_path):
  pytest.importorskip("tensorboard")
  from tensorboard.compat.proto import event_pb2, summary_pb2
  from tensorboard.summary.writer.event_file_writer import EventFileWriter

  writer = EventFileWriter(str(tmp_path))
  for step, loss in ((1, 0.5), (2, 0.25)):
    value = summary_pb2.Summary.Value(tag="Loss/D", simple_value=loss)
    summary = summary_pb2.Summary(value=[value])
    writer.add_event(event_pb2.Event(step=step, summary=summary))
  writer.close()
  assert read_trace(str(tmp_path)).rows == [
    (1, {"Loss/D": 0.5}),
    (2, {"Loss/D": 0.25}),
  ]


def test_a_collapse_in_logs_of_biggan_pytorch_is_found(tmp_path):
  values = [2 + 0.01 * i + 0.005 * (i * 7 % 5) for i in range(200)]
  values += [values[-1] * 1.3**i for i in range(1, 12)]
  lines = [f"{100 * i}: {v:.3f}" for i, v in enumerate(values)]
  (tmp_path / "G_linear_sv0.log").write_text("\n".join(lines))
  found = replay(read_trace(str(tmp_path)), VerdictSpec())
  (alarm,) = (a for a in found["alarms"] if a["level"] == "rollback")
  assert alarm["signal"] == "G_linear_sv0"
  assert 20_000 <= alarm["step"] <= 20_500
  assert 19_800 <= alarm["onset"] <= 20_200


def test_an_attempt_is_refused_for_a_foreign_log(tmp_path):
  (tmp_path / "G_loss.log").write_text("1: 0.5\n")
  with pytest.raises(SpecError, match="omit --attempt"):
    read_trace(str(tmp_path), attempt=1)
