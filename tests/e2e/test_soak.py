"""Twenty lives of one run; `tests/e2e/soak.py` has hundreds."""

import pytest

from tests.e2e.soak import Soak

pytestmark = pytest.mark.slow


def test_a_run_of_twenty_lives_ends_as_an_undisturbed_one(tmp_path):
  found = Soak(tmp_path, steps=400, processes=1, seed=0).run(20)
  assert found["broken"] == []
  assert found["lives"] == 20
  assert found["steps_lost"]["total"] > 0
