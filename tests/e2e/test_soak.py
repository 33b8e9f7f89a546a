"""Kills a run 20 times; `tests/e2e/soak.py` kills it hundreds of times."""

import pytest

from tests.e2e.soak import Soak

pytestmark = pytest.mark.slow


def test_a_run_killed_20_times_ends_like_an_undisturbed_one(tmp_path):
  found = Soak(tmp_path, steps=400, processes=1, seed=0).run(20)
  assert found["broken"] == []
  assert found["lives"] == 20
  assert found["steps_lost"]["total"] > 0
