"""Steps and images of a run whose batch size changes."""

import pytest

from bigscale.spec import ImageCount

UNIFORM = ImageCount(((0, 8),))
# 100 steps of 8 images, 50 of 32, then 4 per step.
CHANGED = UNIFORM.going_on(100, 32).going_on(150, 4)


def test_images_add_up_step_by_step():
  assert CHANGED.pieces == ((0, 8), (100, 32), (150, 4))
  sizes = [8] * 100 + [32] * 50 + [4] * 30
  for step in range(len(sizes) + 1):
    assert CHANGED.images(step) == sum(sizes[:step])
    assert CHANGED.kimg(step) == sum(sizes[:step]) / 1000


@pytest.mark.parametrize("count", [UNIFORM, CHANGED])
def test_step_of_inverts_kimg(count):
  for step in range(1, 200):
    assert count.step_of(count.kimg(step)) == step
    assert count.step_of((count.images(step) + 1) / 1000) == step + 1


def test_steps_are_exact_in_floating_point():
  assert ImageCount(((0, 32),)).step_of(22.4) == 700
  assert ImageCount(((0, 32),)).step_of(0.0) == 0


def test_rollback_before_a_change_uses_the_new_size():
  back = CHANGED.going_on(40, 4)
  assert back.pieces == ((0, 8), (40, 4))
  assert CHANGED.going_on(100, 4).pieces == ((0, 8), (100, 4))
  assert CHANGED.going_on(120, 4).pieces == ((0, 8), (100, 32), (120, 4))
  assert CHANGED.going_on(0, 4).pieces == ((0, 4),)
  assert CHANGED.going_on(170, 4) == CHANGED


def test_json_round_trip_of_counts():
  assert ImageCount.of(CHANGED.to_json()) == CHANGED


@pytest.mark.parametrize("kimg", [0.1, 0.064, 1.0, 0.0001])
def test_is_due_with_a_constant_batch_size(kimg):
  every = UNIFORM.every(kimg)
  due = [s for s in range(1, 500) if UNIFORM.is_due(kimg, s)]
  assert due == list(range(every, 500, every))
  assert not UNIFORM.is_due(0.0, 8)


def test_intervals_count_images_across_a_change():
  """The interval stays 160 images for every batch size."""
  due = [s for s in range(1, 181) if CHANGED.is_due(0.16, s)]
  assert due[:6] == [20, 40, 60, 80, 100, 105]
  assert all(CHANGED.images(s) % 160 == 0 for s in due)
  assert len(due) == CHANGED.images(180) // 160


def test_multiples_are_kept_after_a_change_between_them():
  # 824 images, 24 more than the fifth multiple of 160.
  count = UNIFORM.going_on(103, 16)
  due = [count.images(s) for s in range(1, 150) if count.is_due(0.16, s)]
  # 960 lies between two steps; the nearest step is used.
  assert due[4:7] == [800, 952, 1112]
