"""A tiny run of several processes, with a fault in the first evaluation.

faulty_scores.py WORKDIR WHAT, with WHAT a key of `FAULTS`.
"""

import itertools
import os
import signal
import sys
import time

import jax
from ml_collections import ConfigDict

from bigscale.parallel import interruption
from bigscale.train import evaluation
from tests.e2e import faulty


def get_config() -> ConfigDict:
  """24 steps, evaluated in the middle and at the end, in 50 batches."""
  config = faulty.get_config()
  config.operations.hang_seconds = 60.0
  config.evaluate.update(
    kimg=12 * 8 / 1000, num_samples=100, batch_size=2, classifier_steps=10
  )
  return config


def _fail() -> None:
  """Process 0 runs out of memory during the comparison."""

  def compare(*arguments: object) -> None:
    raise MemoryError("Unable to allocate 9 GiB")

  _once(evaluation.Evaluator, "compare", compare)


def _terminate_while_0_compares() -> None:
  """Process 1 gets SIGTERM while process 0 compares for a minute."""

  def compare(*arguments: object) -> None:
    for _ in range(600):
      time.sleep(0.1)
      interruption.point()

  _once(evaluation.Evaluator, "compare", compare)
  usual = evaluation.look

  def look(*arguments: object) -> object:
    looked = usual(*arguments)
    _end_process(1)
    return looked

  evaluation.look = look


def _terminate_while_all_draw() -> None:
  """Process 1 gets SIGTERM at the third of 50 batches of one second each."""
  usual = evaluation.draw_for_scores

  def draw(*arguments: object) -> object:
    for number, batch in enumerate(usual(*arguments)):
      if number == 2:
        _end_process(1)
      time.sleep(1)
      yield batch

  evaluation.draw_for_scores = draw


def _end_process(index: int) -> None:
  if jax.process_index() == index:
    os.kill(os.getpid(), signal.SIGTERM)


def _once(owner: object, name: str, call: object) -> None:
  """Replaces a method for its first call."""
  usual, turns = getattr(owner, name), itertools.count()
  setattr(owner, name, lambda *a: (usual if next(turns) else call)(*a))


FAULTS = {
  "nothing": lambda: None,
  "fail": _fail,
  "terminate_comparing": _terminate_while_0_compares,
  "terminate_drawing": _terminate_while_all_draw,
}


def main() -> None:
  """Trains with the real program, because its exit codes are tested."""
  from bigscale.cli import main as program

  workdir, what = sys.argv[1:]
  FAULTS[what]()
  sys.argv = [
    "bigscale",
    "train",
    f"--config={__file__}",
    f"--workdir={workdir}",
  ]
  program.entry_point()


if __name__ == "__main__":
  main()
