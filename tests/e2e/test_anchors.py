"""Runs that are compared with an anchor."""

import json

import numpy as np
import pytest

from bigscale.data.stream import Stream
from bigscale.metrics.evaluator import Scored
from bigscale.monitor.anchors.fakes import FakesAnchor
from bigscale.spec import from_config
from bigscale.train import loop
from bigscale.train.disturb import Disturbance
from bigscale.train.diverged import DivergedError
from bigscale.types import Batch
from tests.e2e import monitored
from tests.e2e.monitored import Ended, KilledError

_FAULT = 9


class _Faulty(Disturbance):
  """Makes the reals of the first attempts bad from a step on."""

  def __init__(self, change, attempts=1, killed_at=None):
    self._change = change
    self._attempts = attempts
    self._killed_at = killed_at

  def batch(self, step, attempt, batch):
    if step == self._killed_at:
      raise KilledError
    if step < _FAULT or attempt >= self._attempts:
      return batch
    return self._change(batch)


def _inverted(batch):
  return Batch(255 - batch.images, batch.labels)


class _Repeated:
  def __call__(self, batch):
    self.batch = getattr(self, "batch", batch)
    return self.batch


def _run(path, change=lambda batch: batch, source=None, **settings):
  disturbance = {
    name: settings.pop(name)
    for name in ("attempts", "killed_at")
    if name in settings
  }
  accept = settings.pop("accept", False)
  anchor = {"anchor": {"images": 1024}}
  config = monitored.config(**{**anchor, **settings}).unlock()
  config.data.update(source or {})
  spec = from_config(config)
  prepared = monitored.prepared(spec, _Faulty(change, **disturbance))
  try:
    state = loop.train(spec, path, prepared=prepared, accept_data=accept).state
  except (KilledError, DivergedError):
    state = None
  return Ended(path, state, {})


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
  return _run(tmp_path_factory.mktemp("healthy") / "run")


def _anchored(row):
  return {k: v for k, v in row.items() if k.startswith("anchor/")}


def test_a_healthy_run_writes_its_comparisons(healthy):
  (event,) = healthy.events("anchor")
  assert event["images"] == 1024
  assert event["tests"] == ["pixels", "oddness", "labels", "repeats"]
  assert "off" not in event
  rows = healthy.rows(0)
  assert not _anchored(rows[3])
  compared = _anchored(rows[4])
  assert {"anchor/data/pixels", "anchor/tensors/average"} <= compared.keys()
  assert compared["anchor/tensors/average"] == 0
  assert compared["anchor/fakes/by_latent"] > 0
  assert not healthy.events("verdict")
  assert not healthy.events("monitor_failed")


@pytest.mark.parametrize(
  ("change", "signals"),
  [
    (_inverted, {"anchor/data/oddness", "anchor/data/pixels"}),
    (_Repeated(), {"anchor/data/repeats"}),
  ],
)
def test_bad_data_raise_an_alarm_during_the_warm_up(tmp_path, change, signals):
  ended = _run(tmp_path / "run", change)
  alarm = ended.events("verdict")[0]
  assert alarm["level"] == "rollback"
  assert alarm["reasons"][0]["signal"] in signals
  # Probes are two steps apart, and the last normal one is not trusted.
  assert _FAULT - 5 <= alarm["onset"] < _FAULT
  healthy = ended.events("healthy")[0]
  assert healthy["of_step"] <= alarm["onset"]


def test_a_rollback_skips_the_bad_data(tmp_path):
  ended = _run(tmp_path / "run", _Repeated(), action="rollback")
  (back,) = ended.events("rollback")
  assert back["to_step"] < _FAULT
  assert ended.state is not None
  assert list(ended.rows(1))[-1] == monitored.STEPS


@pytest.mark.slow
def test_a_rollback_that_reads_the_data_again_finds_no_repeats(tmp_path):
  ended = _run(tmp_path / "run", _Repeated(), action="rollback", data="replay")
  assert len(ended.events("rollback")) == 1


@pytest.mark.slow
def test_bad_data_that_last_end_the_run(tmp_path):
  ended = _run(
    tmp_path / "run", _inverted, action="rollback", attempts=9, retries=1
  )
  assert ended.state is None
  assert "rollbacks did not help" in ended.events("lost")[0]["why"]


@pytest.mark.parametrize(
  "killed_at",
  [13, *(pytest.param(at, marks=pytest.mark.slow) for at in (12, 14))],
)
def test_a_resumed_run_makes_the_same_comparisons(tmp_path, healthy, killed_at):
  path = tmp_path / "run"
  _run(path, killed_at=killed_at)
  again = _run(path)
  for step, row in healthy.rows(0).items():
    assert _anchored(again.rows(0)[step]) == _anchored(row), step
  assert not again.events("anchor_changed")


@pytest.mark.parametrize(
  ("source", "why"),
  [
    ({"subset": 500}, "needs 1024 images, but the source has 500"),
    ({"shuffle": False}, "data.shuffle=False"),
  ],
)
def test_what_cannot_be_compared_is_off(tmp_path, source, why):
  ended = _run(tmp_path / "run", source=source)
  (event,) = ended.events("anchor")
  assert why in event["off"]
  assert set(event["tests"]) <= {"repeats"}
  # The tensors are still watched.
  assert "anchor/tensors/g" in ended.rows(0)[4]
  assert ended.state is not None


def test_images_that_changed_between_starts_are_reported(tmp_path, monkeypatch):
  path = tmp_path / "run"
  _run(path, killed_at=13)
  read_at = Stream.read_at

  def brighter(self, indices):
    images, labels, faults = read_at(self, indices)
    return np.maximum(images, 9), labels, faults

  monkeypatch.setattr(Stream, "read_at", brighter)
  ended = _run(path, action="rollback")
  (event,) = ended.events("anchor_changed")
  assert event["share"] > 0.9
  warning = ended.events("verdict")[0]
  assert warning["level"] == "warn"
  assert warning["reasons"][0]["signal"] == "anchor/slight/source"
  assert ended.state is not None


@pytest.mark.slow
def test_changed_images_are_reported_until_they_are_accepted(
  tmp_path, monkeypatch
):
  path = tmp_path / "run"
  _run(path, killed_at=9)
  read_at = Stream.read_at

  def brighter(self, indices):
    images, labels, faults = read_at(self, indices)
    return np.maximum(images, 9), labels, faults

  monkeypatch.setattr(Stream, "read_at", brighter)
  # The first two starts save nothing, and the third accepts and saves.
  for starts, killed_at, accept in (
    *((1, 10, False), (2, 10, False)),
    *((2, 14, True), (2, 15, False)),
  ):
    ended = _run(path, killed_at=killed_at, accept=accept)
    assert len(ended.events("anchor_changed")) == starts


def test_images_that_cannot_be_read_turn_the_anchor_off(tmp_path, monkeypatch):
  def fails(self, indices):
    raise OSError("the disk is gone")

  monkeypatch.setattr(Stream, "read_at", fails)
  ended = _run(tmp_path / "run")
  # The tensors need no images.
  assert ended.state is not None
  assert "the disk is gone" in ended.events("anchor")[0]["off"]


def test_an_anchor_that_fails_is_left_out(tmp_path, monkeypatch):
  looks = []

  def fails(self, *images):
    looks.append(images)
    raise ValueError("not computed")

  monkeypatch.setattr(FakesAnchor, "look", fails)
  ended = _run(tmp_path / "run")
  assert ended.state is not None
  assert len(looks) == 1
  assert [e["step"] for e in ended.events("monitor_failed")] == [2]


def test_a_network_of_the_scores_is_compared_too(tmp_path):
  config = monitored.config(anchor={"images": 1024}).unlock()
  config.evaluate.update(num_samples=70, batch_size=35, classifier_steps=5)
  spec = from_config(config)
  path = tmp_path / "run"
  built = monitored.compiled()._replace(spec=spec)
  loop.train(spec, path, prepared=loop.Prepared(built))
  ended = Ended(path, None, {})
  (event,) = ended.events("anchor")
  assert event["network"] == "classifier"
  assert "features" in event["tests"]
  assert 0 < ended.rows(0)[4]["anchor/fakes/accuracy"] <= 1
  assert not ended.events("monitor_failed")


class _WorseScores(monitored.Scores):
  """Scores that improve slowly, and are bad from the tenth on."""

  count = 0

  def compare(self, looked):
    self.count += 1
    noise = 0.01 * (self.count % 3)
    bad = 50.0 if self.count > 9 else 0.0
    return Scored({"fd_classifier": 5 - 0.1 * self.count + noise + bad})


def test_the_verdict_sees_scores_as_they_are_made(tmp_path):
  config = monitored.config(verdict={"warmup": 4, "quiet": 0}).unlock()
  config.evaluate.kimg = 0.008
  spec = from_config(config)
  built = monitored.compiled()._replace(spec=spec)
  path = tmp_path / "run"
  prepared = loop.Prepared(built, _WorseScores(), Disturbance())
  loop.train(spec, path, prepared=prepared)
  lines = (path / "events.jsonl").read_text().splitlines()
  events = [json.loads(line) for line in lines]
  alarms = [e for e in events if e["event"] == "verdict"]
  signals = {r["signal"] for e in alarms for r in e["reasons"]}
  assert "eval/fd_classifier" in signals
