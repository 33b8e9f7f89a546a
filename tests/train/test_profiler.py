"""Tests of traces: their steps, requests and failures."""

import logging

import jax.numpy as jnp
import pytest

from bigscale.cli.main import main
from bigscale.place import open_place
from bigscale.spec import SpecError, from_config
from bigscale.train import profiler
from bigscale.train.writers import JsonLines
from tests.e2e import tiny


@pytest.fixture
def traces(monkeypatch):
  """Replaces JAX's profiler with one that writes a file."""
  calls = []

  def start(folder):
    calls.append("start")
    made = profiler.pathlib.Path(folder) / "plugins" / "profile" / "today"
    made.mkdir(parents=True)
    (made / "host.xplane.pb").write_bytes(b"trace")

  monkeypatch.setattr("jax.profiler.start_trace", start)
  monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
  return calls


def profiler_of(folder, window=None):
  """Returns a profiler that traces into a folder."""
  made = profiler.Profiler(window)
  made.open(folder, open_place(folder).write)
  return made


def steps(traced, first, last):
  """Runs steps; returns the steps in which a trace ended, with its fields."""
  ended = {}
  for step in range(first, last + 1):
    with traced.before(step):
      outputs = jnp.zeros(())
    if traced.is_last(step):
      ended[step] = traced.stop(step, outputs)
  return ended


def test_the_steps_of_the_config_are_traced(tmp_path, traces):
  ended = steps(profiler_of(tmp_path, (3, 4)), 1, 9)
  path = "profiles/plugins/profile/today"
  assert ended == {4: {"from_step": 3, "path": path}}
  assert (tmp_path / path / "host.xplane.pb").read_bytes() == b"trace"
  assert traces == ["start", "stop"]


def test_a_resumed_run_traces_the_remaining_steps(tmp_path, traces):
  assert steps(profiler_of(tmp_path, (3, 5)), 5, 9)[5]["from_step"] == 5
  assert not steps(profiler_of(tmp_path, (3, 5)), 6, 9)


def test_a_request_is_taken_once(tmp_path, traces, monkeypatch):
  monkeypatch.setattr(profiler, "_SECONDS", 0.0)
  traced = profiler_of(tmp_path)
  profiler.request(open_place(tmp_path), 2)
  assert list(steps(traced, 7, 20)) == [8]
  assert not (tmp_path / profiler.REQUEST).exists()


def test_requests_are_looked_for_seldom(tmp_path, monkeypatch):
  monkeypatch.setattr(profiler, "take_request", lambda place: 1 / 0)
  steps(profiler_of(tmp_path), 1, 100)


def test_other_processes_trace_nothing(tmp_path, traces):
  profiler.request(open_place(tmp_path), 1)
  assert not steps(profiler.Profiler((1, 2)), 1, 5)
  assert traces == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": "x"}', "7"])
def test_a_damaged_request_is_removed(tmp_path, caplog, text):
  (tmp_path / profiler.REQUEST).write_text(text)
  with caplog.at_level(logging.WARNING):
    assert profiler.take_request(open_place(tmp_path)) is None
    assert profiler.take_request(open_place(tmp_path)) is None
  assert "use bigscale profile" in caplog.text
  assert len(caplog.records) == 1


def test_a_trace_that_fails_does_not_end_the_run(
  tmp_path, traces, monkeypatch, caplog
):
  def full(*arguments):
    raise OSError("no space left")

  with monkeypatch.context() as patch:
    patch.setattr(profiler, "_store", full)
    ended = steps(profiler_of(tmp_path, (3, 4)), 1, 9)
  assert ended[4]["error"] == "OSError: no space left"
  monkeypatch.setattr("jax.profiler.start_trace", full)
  assert steps(profiler_of(tmp_path, (3, 4)), 1, 9) == {}
  assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_drops_its_trace(tmp_path, traces):
  traced = profiler_of(tmp_path, (3, 9))
  steps(traced, 1, 5)
  traced.close()
  traced.close()
  assert traces == ["start", "stop"]
  assert list(tmp_path.iterdir()) == []


def spec_of(profile):
  config = tiny.get_config()
  config.log.profile = profile
  return from_config(config)


def test_the_range_is_checked_at_the_door():
  assert spec_of("20:24").log.profiled_steps == (20, 24)
  assert spec_of("").log.profiled_steps is None
  for text in ("5", "5:4", "0:3", "a:b", "1:101", "-1:3"):
    with pytest.raises(SpecError, match="must be FIRST:LAST"):
      spec_of(text)
  with pytest.raises(SpecError, match="the run's last step, 24"):
    spec_of("20:25")


def test_the_command(tmp_path, capsys):
  arguments = ["bigscale", "profile", f"--workdir={tmp_path}"]
  assert main(arguments) == 2
  assert "Traceback" not in capsys.readouterr().err
  events = JsonLines(tmp_path / "events.jsonl")
  events.write({"event": "start", "step": 0, "time": 0.0})
  JsonLines(tmp_path / "metrics.jsonl").write({"step": 1, "kimg": 0.1})
  assert main([*arguments, "--steps=7"]) == 0
  assert profiler.take_request(open_place(tmp_path)) == 7
  assert main([*arguments, "--steps=101"]) == 2
  events.write({"event": "done", "step": 9, "time": 0.0})
  assert main(arguments) == 2
  assert "has ended (event 'done')" in capsys.readouterr().err
  assert profiler.take_request(open_place(tmp_path)) is None
