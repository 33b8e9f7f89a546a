"""Tests of the detection of a dead discriminator."""

import pytest

from bigscale.monitor.dead import dead_step, is_dead

DEAD = {"d/grad_norm": 0.0, "d/logit_real": 0.1, "d/logit_fake": 0.1}
ALIVE = DEAD | {"d/grad_norm": 0.2}


def rows(*kinds):
  return [{"step": 10 * n, **kind} for n, kind in enumerate(kinds)]


def test_dead_means_no_gradient_and_equal_logits():
  assert is_dead(DEAD)
  assert not is_dead(ALIVE)
  assert not is_dead(DEAD | {"d/logit_fake": -1.0})
  assert not is_dead({"d/grad_norm": 0.0})
  assert not is_dead({})


@pytest.mark.parametrize(
  ("kinds", "step"),
  [
    ((ALIVE, DEAD, DEAD, DEAD), 10),
    ((DEAD, DEAD, DEAD), 0),
    ((ALIVE, DEAD, DEAD, {"eval/fid": 3.0}, DEAD), 10),
    # Single rows with a gradient.
    ((ALIVE, DEAD, ALIVE, DEAD, DEAD, DEAD, ALIVE, DEAD, DEAD), 10),
    ((DEAD, ALIVE, ALIVE, DEAD, DEAD, DEAD), 30),
    ((DEAD, DEAD, DEAD, ALIVE, ALIVE), None),
    ((ALIVE, DEAD, DEAD), None),
    ((), None),
  ],
)
def test_dead_step_is_the_first_step_of_the_dead_end(kinds, step):
  assert dead_step(rows(*kinds)) == step
