"""Tests of trackers that work, fail and hang."""

import logging
import sys
import threading
import time
import types

import numpy as np
import pytest

from bigscale.spec import SpecError, from_config
from bigscale.train.folder import RunFolder
from bigscale.train.trackers import opening
from bigscale.train.trackers.tracker import Background
from tests.e2e import tiny


class Recording:
  """A tracker that records its calls."""

  def __init__(self, *arguments):
    self.calls = []

  def scalars(self, step, values):
    self.calls.append((step, values))

  def image(self, step, name, image):
    self.calls.append((step, name, image.shape))

  def flush(self):
    self.calls.append("flush")

  def close(self):
    self.calls.append("close")


def test_calls_arrive_in_order_and_before_close_returns():
  tracker = Recording()
  background = Background("recording", lambda: tracker)
  values = {"d/loss": 1.0}
  background.scalars(1, values)
  values["d/loss"] = 2.0  # The caller may reuse its dictionary.
  background.image(1, "samples", np.zeros((2, 3, 1), np.uint8))
  background.flush()
  background.close()
  assert tracker.calls == [
    (1, {"d/loss": 1.0}),
    (1, "samples", (2, 3, 1)),
    "flush",
    "close",
  ]
  assert background.take_failure() is None


class Failing(Recording):
  def scalars(self, step, values):
    if step == 2:
      raise SystemExit("no space left")
    super().scalars(step, values)


def test_a_tracker_that_raises_is_not_called_again(caplog):
  tracker = Failing()
  background = Background("failing", lambda: tracker, capacity=2)
  with caplog.at_level(logging.WARNING):
    background.scalars(1, {})
    background.scalars(2, {})
    background._thread.join(10)
    began = time.monotonic()
    for step in range(3, 100):
      background.scalars(step, {})
    background.close()
  assert time.monotonic() - began < 5
  assert tracker.calls == [(1, {})]
  assert background.take_failure() == "SystemExit: no space left"
  assert background.take_failure() is None
  assert len(caplog.records) == 1
  assert "training continues without it" in caplog.text


def test_a_tracker_that_cannot_be_opened(caplog):
  def refuse():
    raise ConnectionError("no route")

  background = Background("refusing", refuse)
  background._thread.join(10)
  background.close()
  assert background.take_failure() == "ConnectionError: no route"


def test_a_tracker_that_hangs_costs_no_time(caplog):
  forever = threading.Event()

  class Hanging(Recording):
    def scalars(self, step, values):
      forever.wait()

  background = Background("hanging", Hanging, capacity=3, close_seconds=0.2)
  began = time.monotonic()
  with caplog.at_level(logging.WARNING):
    for step in range(1000):
      background.scalars(step, {"d/loss": 0.0})
    background.close()
  assert time.monotonic() - began < 5
  assert background.take_failure().startswith("too slow: 3 calls wait")
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == 2
  assert "metrics.jsonl has all scalars" in messages[1]
  forever.set()


def spec_of(*trackers):
  config = tiny.get_config()
  config.log.trackers = trackers
  return from_config(config)


def test_trackers_are_checked_at_the_door(monkeypatch):
  opening.check(spec_of("csv", f"{__name__}:Recording"))
  with pytest.raises(SpecError, match="'comet'; use wandb, csv, parquet"):
    opening.check(spec_of("comet"))
  with pytest.raises(SpecError, match="does not define 'Missing'"):
    opening.check(spec_of(f"{__name__}:Missing"))
  monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SpecError, match=r"pip install 'bigscale\[wandb\]'"):
    opening.check(spec_of("wandb"))


def test_a_tracker_of_the_user(tmp_path):
  made = []

  def make(workdir, settings):
    made.append((workdir, settings["global_batch_size"]))
    return Recording()

  sys.modules["their_trackers"] = types.ModuleType("their_trackers")
  sys.modules["their_trackers"].make = make
  try:
    (tracker,) = opening.open_trackers(
      RunFolder(tmp_path),
      spec_of("their_trackers:make"),
      lambda name, data: None,
    )
    tracker.close()
  finally:
    del sys.modules["their_trackers"]
  assert made == [(tmp_path, 8)]
