"""Rows on a bucket. A thread writes parts, which a resume or the end merges."""

import json
import pathlib
import sys
import threading
import types

import numpy as np
import pytest

from bigscale.place import log, open_place
from bigscale.train.home import BucketHome, PartLines, StagedBoard
from bigscale.train.lease import Lease, LeaseLostError
from bigscale.train.outbox import Outbox


class Claim(Lease):
  """A lease of the number that the test says, which nobody takes over."""

  def __init__(self, number, lost=False):
    super().__init__(60.0)
    self.number, self.lost = number, lost

  def verify(self):
    if self.lost:
      raise LeaseLostError("lost")


@pytest.fixture
def place(tmp_path):
  return open_place(tmp_path)


@pytest.fixture
def outbox(place):
  made = Outbox(place)
  yield made
  made.close()


def steps_in(place):
  lines = (log.read(place, "metrics") or b"").splitlines()
  return [json.loads(line)["step"] for line in lines]


def written(place, lease, steps, outbox):
  rows = PartLines(place, "metrics", Claim(lease), outbox)
  for step in steps:
    rows.write({"step": step, "attempt": 0})
    outbox.flush()
  return rows


def test_rows_are_read_in_order_and_each_part_is_written_once(place, outbox):
  rows = written(place, 1, [1, 2, 3], outbox)
  assert log.all_parts(place, "metrics") == [
    f"metrics/000001-00000{n}.jsonl" for n in range(4)
  ]
  assert steps_in(place) == [1, 2, 3]
  assert [row["step"] for row in rows.rows()] == [1, 2, 3]


def test_rows_wait_for_the_interval_or_a_flush(place, outbox):
  rows = PartLines(place, "metrics", Claim(1), outbox)
  for step in range(5):
    rows.write({"step": step})
  assert len(log.all_parts(place, "metrics")) == 1
  outbox.flush()
  assert len(log.all_parts(place, "metrics")) == 2


def test_a_resume_keeps_the_rows_up_to_its_checkpoint(place, outbox):
  written(place, 1, range(1, 8), outbox)
  second = Outbox(place)
  rows = PartLines(place, "metrics", Claim(2), second)
  rows.truncate_after(4)
  assert log.all_parts(place, "metrics") == ["metrics/000002-000000.jsonl"]
  rows.write({"step": 5, "attempt": 0})
  second.flush()
  assert steps_in(place) == [1, 2, 3, 4, 5]
  second.close()


def test_what_a_lost_holder_writes_does_not_count(place, outbox):
  lost = written(place, 1, [1, 2], outbox)
  second = Outbox(place)
  written(place, 2, [3], second)
  lost.write({"step": 99})
  outbox.flush()
  assert steps_in(place) == [1, 2, 3]
  written(place, 2, [], second).merge()
  lost.write({"step": 100})
  outbox.flush()
  assert steps_in(place) == [1, 2, 3]
  second.close()


@pytest.mark.parametrize("deletions", range(5))
def test_a_merge_that_is_killed_loses_and_repeats_nothing(
  place, outbox, monkeypatch, deletions
):
  rows = written(place, 1, [1, 2, 3], outbox)
  assert "metrics.jsonl" not in {entry.name for entry in place.list()}
  delete, left = place.delete, iter(range(deletions))

  def delete_or_die(name):
    if next(left, None) is None:
      raise KeyboardInterrupt
    delete(name)

  monkeypatch.setattr(place, "delete", delete_or_die)
  with pytest.raises(KeyboardInterrupt):
    rows.merge()
  assert steps_in(place) == [1, 2, 3]
  monkeypatch.setattr(place, "delete", delete)
  second = Outbox(place)
  written(place, 2, [4], second).merge()
  second.close()
  assert [entry.name for entry in place.list()] == ["metrics.jsonl"]
  assert steps_in(place) == [1, 2, 3, 4]


def test_a_complete_run_can_be_continued(place, outbox):
  written(place, 1, [1, 2], outbox).merge()
  second = Outbox(place)
  written(place, 2, [3], second)
  assert place.entry("metrics.jsonl") is None
  assert steps_in(place) == [1, 2, 3]
  second.close()


def test_the_last_lines_are_read_from_the_last_parts(place, outbox):
  written(place, 1, range(1, 9), outbox)
  line = log.tail(place, "metrics", 1)
  assert json.loads(line)["step"] == 8
  assert len(log.tail(place, "metrics", 1 << 20).splitlines()) == 8


def test_a_home_that_was_lost_writes_nothing_at_its_end(place):
  home = BucketHome(place, claim := Claim(1))
  home.metrics.write({"step": 1})
  home.flush()
  before = place.list()
  home.metrics.write({"step": 2})
  claim.lost = True
  with pytest.raises(LeaseLostError):
    home.close(complete=True)
  assert place.list() == before


def test_a_file_that_cannot_be_written_is_kept(place, outbox, monkeypatch):
  write, calls = place.write, []

  def refuse(name, data):
    calls.append(name)
    raise OSError("no network")

  monkeypatch.setattr(place, "write", refuse)
  outbox.put("samples/1.png", b"image")
  with pytest.raises(OSError, match="no network"):
    outbox.flush()
  monkeypatch.setattr(place, "write", write)
  outbox.flush()
  assert place.read("samples/1.png") == b"image"
  assert calls


def test_writing_does_not_wait_for_the_store(place, outbox, monkeypatch):
  release, write = threading.Event(), place.write

  def slow(name, data):
    release.wait(30)
    write(name, data)

  rows = PartLines(place, "metrics", Claim(1), outbox)
  monkeypatch.setattr(place, "write", slow)
  outbox.put("a", b"")
  for step in range(100):
    rows.write({"step": step})
  outbox.put("b", b"")
  assert not release.is_set()
  assert place.entry("a") is None
  release.set()
  outbox.flush()
  assert steps_in(place) == list(range(100))


def test_tensorboard_files_are_written_once(place, outbox, monkeypatch):
  """Each flush completes a file of events and begins another one."""

  class Writer:
    made = 0

    def __init__(self, folder):
      Writer.made += 1
      self.path = pathlib.Path(folder) / f"events.{Writer.made}"
      self.text = ""

    def write_scalars(self, step, scalars):
      self.text += f"{step} "

    def write_images(self, step, images):
      self.text += f"image {step} "

    def flush(self):
      self.path.write_text(self.text)

    def close(self):
      self.flush()

  module = types.ModuleType("clu.metric_writers")
  module.SummaryWriter = Writer
  monkeypatch.setitem(sys.modules, "clu.metric_writers", module)
  monkeypatch.setattr("clu.metric_writers", module, raising=False)
  board = StagedBoard(outbox)
  board.scalars(1, {"loss": 1.0})
  board.image(1, "samples", np.zeros((2, 2, 1), np.uint8))
  board.flush()
  board.flush()
  board.scalars(2, {"loss": 1.0})
  board.close()
  outbox.flush()
  assert place.read("tensorboard/events.1") == b"1 image 1 "
  assert place.read("tensorboard/events.2") == b"2 "
  assert len(place.list("tensorboard/")) == 2
