import operator

import built_set
import pytest

from bigscale.data.manifest import DataError
from bigscale.data.workers import each


def drawn(counts, total):
  for number in range(total):
    counts.append(number)
    yield number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once_and_tasks_are_consumed_lazily(workers):
  counts = []
  results = each(operator.mul, 3, drawn(counts, 40), workers)
  found = [next(results)]
  assert len(counts) <= 4 * workers
  found += results
  assert sorted(found) == [3 * number for number in range(40)]
  assert len(counts) == 40


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_are_raised(workers):
  with pytest.raises(ZeroDivisionError):
    list(each(operator.floordiv, 1, [1, 0, 1], workers))


def test_a_killed_worker_is_an_error():
  with pytest.raises(DataError, match="one of 2 workers was killed"):
    list(each(built_set.die, None, range(5), 2))
