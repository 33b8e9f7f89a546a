"""Detection of a dead discriminator in the rows of a run."""

import pytest

from bigscale.monitor.dead import dead_step, is_dead

DEAD = {"d/grad_norm": 0.0, "d/logit_real": 0.1, "d/logit_fake": 0.1}
ALIVE = DEAD | {"d/grad_norm": 0.2}


def rows(*kinds):
  return [{"step": 10 * n, **kind} for n, kind in enumerate(kinds)]


def test_one_without_gradient_that_says_the_same_of_all():
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
    # A ReLU becomes active for single rows.
    ((ALIVE, DEAD, ALIVE, DEAD, DEAD, DEAD, ALIVE, DEAD, DEAD), 10),
    ((DEAD, ALIVE, ALIVE, DEAD, DEAD, DEAD), 30),
    ((DEAD, DEAD, DEAD, ALIVE, ALIVE), None),
    ((ALIVE, DEAD, DEAD), None),
    ((), None),
  ],
)
def test_the_step_from_which_on_it_was_dead(kinds, step):
  assert dead_step(rows(*kinds)) == step
