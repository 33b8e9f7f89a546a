"""After SIGTERM, a run saves a checkpoint and can be resumed."""

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

TERMINATED_AT = 7


class Terminated(Disturbance):
  """Sends SIGTERM when the batch of a step is read."""

  def batch(self, step, attempt, batch):
    if step == TERMINATED_AT:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch


def _end_early(path):
  spec = from_config(monitored.config())
  return loop.train(spec, path, prepared=monitored.prepared(spec, Terminated()))


def test_sigterm_saves_the_current_step_and_a_healthy_state(tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(PreemptedError, match=f"step {TERMINATED_AT} is saved"):
    _end_early(tmp_path)
  assert signal.getsignal(signal.SIGTERM) is before
  ended = monitored.Ended(tmp_path, None, {})
  assert ended.saved()[-1] == TERMINATED_AT
  # Snapshots have an interval of two steps.
  assert ended.saved("healthy") == [TERMINATED_AT - 1]
  assert ended.kinds()[-1] == "preempted"
  resumed = monitored.run(tmp_path)
  straight = monitored.run(tmp_path / "straight")
  jax.tree.map(np.testing.assert_array_equal, resumed.state, straight.state)
  assert list(resumed.rows(0)) == list(range(1, monitored.STEPS + 1))


def test_the_exit_code_is_75(tmp_path, monkeypatch, capsys):
  train = loop.train

  def terminated(_, workdir, *others, **more):
    del others, more
    spec = from_config(monitored.config())
    prepared = monitored.prepared(spec, Terminated())
    return train(spec, workdir, prepared=prepared)

  monkeypatch.setattr(loop, "train", terminated)
  code = main(
    [
      "bigscale",
      "train",
      "--config=configs/fashion_r3gan.py",
      f"--workdir={tmp_path}",
    ]
  )
  assert code == PREEMPTED == 75
  assert "start it again" in capsys.readouterr().err
