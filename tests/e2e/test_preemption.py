"""SIGTERM: the run saves itself, says so, and goes on when started again."""

import os
import signal

import jax
import numpy as np
import pytest

from bigscale.cli.main import PREEMPTED, main
from bigscale.spec import from_config
from bigscale.train import loop
from bigscale.train.disturb import Disturbance
from bigscale.train.preemption import PreemptedError
from tests.e2e import monitored

TOLD_AT = 7


class Told(Disturbance):
  """SIGTERM as the batch of a step is read."""

  def batch(self, step, attempt, batch):
    if step == TOLD_AT:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch


def _end_early(path):
  spec = from_config(monitored.config())
  return loop.train(spec, path, prepared=monitored.prepared(spec, Told()))


def test_it_saves_the_step_it_was_in_and_what_is_healthy(tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(PreemptedError, match=f"step {TOLD_AT} is saved"):
    _end_early(tmp_path)
  assert signal.getsignal(signal.SIGTERM) is before
  ended = monitored.Ended(tmp_path, None, {})
  assert ended.saved()[-1] == TOLD_AT
  # Snapshots are taken every two steps.
  assert ended.saved("healthy") == [TOLD_AT - 1]
  assert ended.kinds()[-1] == "preempted"
  resumed = monitored.run(tmp_path)
  straight = monitored.run(tmp_path / "straight")
  jax.tree.map(np.testing.assert_array_equal, resumed.state, straight.state)
  assert list(resumed.rows(0)) == list(range(1, monitored.STEPS + 1))


def test_the_program_ends_with_75(tmp_path, monkeypatch, capsys):
  train = loop.train

  def told(spec, workdir, *others, **more):
    del spec, others, more
    told_spec = from_config(monitored.config())
    prepared = monitored.prepared(told_spec, Told())
    return train(told_spec, workdir, prepared=prepared)

  monkeypatch.setattr(loop, "train", told)
  code = main(
    [
      "bigscale",
      "train",
      "--config=configs/fashion_r3gan.py",
      f"--workdir={tmp_path}",
    ]
  )
  assert code == PREEMPTED == 75
  assert "start the run again" in capsys.readouterr().err
