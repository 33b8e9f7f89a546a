import io
import json
import logging
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.train.writers import JsonLines, Progress, TensorBoard


def _row(step, attempt=0, **values):
  return {"step": step, "attempt": attempt, **values}


def test_rows_come_back_as_written_and_are_on_disk_at_once(tmp_path):
  path = tmp_path / "run" / "metrics.jsonl"
  lines = JsonLines(path)
  lines.write({"step": 1, "d/loss": np.float32(0.5), "ok": np.bool_(True)})
  lines.write({"step": np.int64(2), "g/loss": jnp.bfloat16(1.5), "note": "é"})
  with path.open() as file:
    rows = [json.loads(line) for line in file]
  assert rows == [
    {"step": 1, "d/loss": 0.5, "ok": True},
    {"step": 2, "g/loss": 1.5, "note": "é"},
  ]
  assert lines.rows() == rows


def test_non_finite_numbers_are_written_as_strings(tmp_path):
  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  lines = JsonLines(tmp_path / "metrics.jsonl")
  values = {"a": math.nan, "b": np.float32(np.inf), "c": [-math.inf, 1.0]}
  lines.write(_row(1, **values))
  written = json.loads(lines.path.read_text(), parse_constant=refuse)
  assert written["a"] == "NaN"
  assert written["b"] == "Infinity"
  assert written["c"] == ["-Infinity", 1.0]
  (row,) = lines.rows()
  assert math.isnan(row["a"])
  assert row["b"] == math.inf
  assert row["c"] == [-math.inf, 1.0]


def test_a_row_of_objects_is_rejected_and_not_written(tmp_path):
  lines = JsonLines(tmp_path / "metrics.jsonl")
  with pytest.raises(TypeError, match="use numbers, strings"):
    lines.write({"step": 1, "bad": object()})
  assert lines.path.read_bytes() == b""


def test_opening_removes_an_incomplete_last_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n{"step": 2, "d/lo')
  lines = JsonLines(path)
  lines.write({"step": 2})
  assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_truncation_removes_the_rows_to_be_rewritten(tmp_path):
  lines = JsonLines(tmp_path / "metrics.jsonl")
  for row in [
    {"event": "start"},
    _row(10),
    _row(20),  # abandoned: attempt 1 went back to step 10
    _row(15, attempt=1),
    _row(20, attempt=1),
    _row(30, attempt=1),
    _row(16, attempt=2),  # a later attempt that the checkpoint knows not of
  ]:
    lines.write(row)
  whole = lines.path.read_bytes().splitlines(keepends=True)
  lines.truncate_after(20, attempt=1)
  assert lines.path.read_bytes() == b"".join(whole[:5])
  lines.write(_row(30, attempt=1))
  assert lines.path.read_bytes() == b"".join(whole[:6])
  assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncation_to_the_start_and_past_unreadable_lines(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n\x00\x00\n{"step": 2}\n')
  lines = JsonLines(path)
  assert [row["step"] for row in lines.rows()] == [1, 2]
  lines.truncate_after(1)
  assert path.read_bytes() == b'{"step": 1}\n'
  lines.truncate_after(0)
  assert path.read_bytes() == b""


def test_without_tensorflow_there_is_one_warning_and_no_events(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
  monkeypatch.delattr("clu.metric_writers", raising=False)
  with caplog.at_level(logging.WARNING):
    board = TensorBoard(tmp_path / "tensorboard")
    board.scalars(1, {"d/loss": 0.5})
    board.image(1, "samples", np.zeros((2, 2, 1), np.uint8))
    board.flush()
    board.close()
  assert not board.active
  assert len(caplog.records) == 1
  assert "pip install 'bigscale[tensorboard]'" in caplog.text
  assert list(tmp_path.iterdir()) == []


class _Writer:
  """A fake of clu's SummaryWriter that records calls."""

  def __init__(self, logdir):
    self.calls = [("open", logdir)]

  def write_scalars(self, step, scalars):
    self.calls.append(("scalars", step, scalars))

  def write_images(self, step, images):
    shapes = {name: (a.shape, a.dtype) for name, a in images.items()}
    self.calls.append(("images", step, shapes))

  def flush(self):
    self.calls.append(("flush",))

  def close(self):
    self.calls.append(("close",))


def test_with_tensorflow_events_go_to_clu(tmp_path, monkeypatch, caplog):
  made = []

  def summary_writer(logdir):
    made.append(_Writer(logdir))
    return made[-1]

  module = types.ModuleType("clu.metric_writers")
  module.SummaryWriter = summary_writer
  monkeypatch.setitem(sys.modules, "clu.metric_writers", module)
  monkeypatch.setattr("clu.metric_writers", module, raising=False)
  board = TensorBoard(tmp_path)
  assert board.active
  board.scalars(3, {"d/loss": 0.5})
  board.image(3, "samples", np.zeros((4, 6, 1), np.uint8))
  board.close()
  board.scalars(4, {"d/loss": 0.4})
  board.close()
  assert made[0].calls == [
    ("open", str(tmp_path)),
    ("scalars", 3, {"d/loss": 0.5}),
    ("images", 3, {"samples": ((1, 4, 6, 1), np.dtype(np.uint8))}),
    ("flush",),
    ("close",),
  ]
  assert not caplog.records


class _Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


def test_off_a_terminal_there_is_one_line_per_half_minute():
  clock, stream = _Clock(), io.StringIO()
  progress = Progress(1000, 100, stream=stream, clock=clock)
  scalars = {"perf/images_per_second": 1234.5, "d/loss": 0.25, "g/loss": 1.5}
  for step in range(101, 201):
    clock.now += 1.0
    progress.update(step, scalars if step % 10 == 0 else None)
  lines = stream.getvalue().splitlines()
  assert [line.split(",")[0] for line in lines] == [
    "step 130/1000 (13.0%)",
    "step 160/1000 (16.0%)",
    "step 190/1000 (19.0%)",
  ]
  assert lines[0].endswith(
    "1,234 images/s, d/loss 0.25, g/loss 1.5, 0:14:30 left"
  )
  progress.close()
  progress.close()
  lines = stream.getvalue().splitlines()
  assert len(lines) == 4
  assert lines[3].startswith("step 200/1000 (20.0%)")


def test_off_a_terminal_the_first_step_is_not_in_the_estimate():
  clock, stream = _Clock(), io.StringIO()
  progress = Progress(10, stream=stream, clock=clock)
  clock.now += 100.0  # compiling
  progress.update(1)
  assert "left" not in stream.getvalue()
  for step in (2, 3, 4):
    clock.now += 10.0
    progress.update(step)
  assert stream.getvalue().splitlines()[-1] == (
    "step 4/10 (40.0%), 0:01:00 left"
  )


def test_a_note_is_a_separate_line():
  stream = io.StringIO()
  progress = Progress(10, stream=stream)
  progress.note("resumed at step 5")
  progress.close()
  assert stream.getvalue() == "resumed at step 5\n"


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_on_a_terminal_there_is_a_bar_with_rate_and_losses():
  stream = _Terminal()
  progress = Progress(10, 4, stream=stream)
  progress.update(5, {"d/loss": 0.25, "perf/images_per_second": 64.0})
  progress.note("a note")
  progress.update(10)
  progress.close()
  shown = stream.getvalue()
  assert "4/10" in shown
  assert "10/10" in shown
  assert "64 images/s, d/loss 0.25" in shown
  assert "a note\n" in shown
