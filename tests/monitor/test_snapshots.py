"""Snapshots of the state in host memory."""

import dataclasses
import functools
import itertools
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.monitor import snapshots
from bigscale.monitor.snapshots import Ring, snapshot_to_drop
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, MonitorSpec, SpecError, from_config
from bigscale.train.build import build
from tests.parallel.tiny_gans import Case, r3gan

ALONE = MeshSpec(data=1)
SPLIT = MeshSpec(data=4, fsdp=2, weights="zero", min_split_elements=2)
_numbers = itertools.count()


@functools.cache
def built(mesh=ALONE):
  """Returns shapes and shardings of a real state, without compiling."""
  spec = from_config(
    {
      "global_batch_size": 16,
      "total_kimg": 1.0,
      "data": {"source": "emoji"},
      **r3gan(Case("r3gan", "float32")),
    }
  )
  spec = dataclasses.replace(spec, mesh=mesh)
  return build(spec, make_mesh(mesh, jax.devices()[: mesh.data * mesh.fsdp]))


def random_state(abstract):
  """Returns a state on the devices, with new values at each call."""
  rng = np.random.default_rng(next(_numbers))

  def draw(leaf):
    whole = (100 * rng.normal(size=leaf.shape)).astype(leaf.dtype)
    # A copy, because JAX may use this memory, and these states are donated.
    return jax.make_array_from_callback(
      leaf.shape, leaf.sharding, lambda index: np.array(whole[index])
    )

  return jax.tree.map(draw, abstract)


# Donates its input, like a training step.
consume = jax.jit(
  lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0
)


def ring(mesh=ALONE, **settings):
  return Ring(built(mesh).abstract_state, MonitorSpec(**settings))


def fetched(state):
  return jax.tree.map(lambda x: np.array(x), state)


def assert_same(state, wanted):
  assert jax.tree.structure(state) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, state, wanted)


def test_snapshots_are_found_by_step_and_the_newest_stays():
  abstract = built().abstract_state
  states = {step: random_state(abstract) for step in (0, 10, 20, 30)}
  wanted = fetched(states)
  kept = ring(snapshots=2, snapshot_interval=10)
  assert kept.newest(100) is None
  for step, state in states.items():
    kept.take(step, state, {"at": step})
  assert kept.newest(31).step == 30
  assert kept.held == [0, 30]
  found = kept.newest(30)
  assert (found.step, found.data) == (0, {"at": 0})
  assert kept.newest(0) is None
  assert_same(kept.restore(kept.newest(30)), wanted[0])
  assert_same(kept.restore(kept.newest(31)), wanted[30])


def test_a_pinned_snapshot_is_not_dropped():
  abstract = built().abstract_state
  kept = ring(snapshots=3, snapshot_interval=10)
  for step in range(0, 120, 10):
    kept.take(step, random_state(abstract), {})
    if step == 30:
      kept.pinned = 20
  assert 20 in kept.held
  kept.newest(999)
  assert len(kept.held) == 3


def kept_steps(slots, interval, total):
  """Yields the steps of the kept snapshots after each snapshot of a run."""
  held = []
  for now in range(0, total, interval):
    held.append(now)
    if len(held) > slots:
      drop = snapshot_to_drop(held, now, interval)
      held.remove(held[0] if drop is None else drop)
    yield now, held


@pytest.mark.parametrize(
  ("slots", "worst"), [(12, 2.0), (10, 2.5), (8, 3.5), (6, 8.0)]
)
def test_a_state_before_any_onset_is_kept_and_not_much_older(slots, worst):
  """Draws 10,000 pairs of an onset and an alarm up to 20,000 steps later."""
  interval, rng = 200, np.random.default_rng(0)
  runs = dict(
    (now, list(held)) for now, held in kept_steps(slots, interval, 60_000)
  )
  for _ in range(10_000):
    now = int(rng.integers(0, 60_000))
    delay = int(min(now, np.exp(rng.uniform(0, np.log(20_000)))))
    onset = now - delay
    held = runs[now // interval * interval]
    before = [step for step in held if step <= onset]
    assert before, (now, onset, held)
    # The newest snapshot before the onset if all snapshots were kept.
    best = onset // interval * interval
    assert now - before[-1] <= worst * (now - best) + interval


def test_one_on_its_way_counts_as_held():
  kept = ring(snapshots=2)
  kept.take(5, random_state(built().abstract_state), {})
  assert kept.held == [5]


def test_a_snapshot_outlives_the_donated_state_and_its_own_restored_copy():
  state = random_state(built().abstract_state)
  wanted = fetched(state)
  kept = ring()
  kept.take(3, state, {})
  # Donates the state while the copy to the host is in progress.
  moved = consume(state)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
  kept.take(4, moved, {})
  for _ in range(2):
    restored = kept.restore(kept.newest(4))
    assert_same(fetched(restored), wanted)
    consume(restored)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(restored))
  assert_same(
    fetched(kept.restore(kept.newest(5))),
    jax.tree.map(lambda x: x + x.dtype.type(1), wanted),
  )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_states_with_lost_numbers_are_dropped(value):
  abstract = built().abstract_state
  sound, lost = random_state(abstract), random_state(abstract)
  kernel = lost.d.params["logit"]["kernel"]
  params = lost.d.params | {"logit": {"kernel": kernel.at[0, 0].set(value)}}
  kept = ring()
  kept.take(1, sound, {})
  kept.take(2, lost._replace(d=lost.d._replace(params=params)), {})
  assert kept.held == [1, 2]
  assert kept.newest(9).step == 1
  assert kept.held == [1]


def test_lost_numbers_are_looked_for_everywhere():
  """Checks moments of Adam, the average, the spectra and the dials."""
  abstract = built().abstract_state

  def spoilt(path):
    state = random_state(abstract)
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    names = [
      jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves
    ]
    (index, *_) = [i for i, name in enumerate(names) if path in name]
    values = [leaf for _, leaf in leaves]
    values[index] = values[index] * jnp.nan
    return jax.tree.unflatten(structure, values)

  for path in ("g/optimizer/0/nu", "ema/params", "d/spectra", "dials/g_lr"):
    kept = ring(snapshots=1)
    kept.take(1, spoilt(path), {})
    assert kept.newest(2) is None, path


def test_later_ones_are_forgotten_at_a_rollback():
  kept = ring()
  for step in (2, 4, 6):
    kept.take(step, random_state(built().abstract_state), {})
  kept.forget_after(4)
  assert kept.held == [2, 4]
  kept.take(6, random_state(built().abstract_state), {"new": True})
  assert kept.newest(9).data == {"new": True}


def test_split_states_are_held_once_and_go_back_where_they_were():
  abstract = built(SPLIT).abstract_state
  kept = ring(SPLIT)
  # All 8 devices belong to this process, and each shard is stored once.
  whole = sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract)
  )
  assert kept.bytes_each == whole
  split = [
    leaf
    for leaf in jax.tree.leaves(abstract)
    if not leaf.sharding.is_fully_replicated
  ]
  assert len(split) > 20
  state = random_state(abstract)
  wanted = fetched(state)
  kept.take(1, state, {})
  consume(state)
  snapshot = kept.newest(2)
  held = sum(
    part.nbytes for parts in snapshot.leaves for part in parts.values()
  )
  assert held == whole
  counts = {len(parts) for parts in snapshot.leaves}
  assert counts == {1, 2}
  restored = kept.restore(snapshot)
  assert_same(fetched(restored), wanted)
  for leaf, like in zip(
    jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True
  ):
    assert leaf.sharding == like.sharding
    assert leaf.dtype == like.dtype


def test_as_many_are_kept_as_fit_and_a_warning_says_so(caplog):
  each = ring().bytes_each
  gib = 2.5 * each / 2**30
  assert ring(snapshots=2, max_host_gib=gib).slots == 2
  assert not caplog.records
  assert ring(snapshots=3, max_host_gib=gib).slots == 2
  for words in (
    "monitor.snapshots=3",
    f"{each / 2**30:.3g} GiB",
    f"monitor.max_host_gib={gib}",
    "2 are kept",
  ):
    assert words in caplog.text


def test_too_little_memory_for_two_is_refused():
  gib = 1.5 * ring().bytes_each / 2**30
  with pytest.raises(SpecError, match=r"mesh.weights.*monitor.action to 'log'"):
    ring(snapshots=4, max_host_gib=gib)
  assert ring(snapshots=1, max_host_gib=gib).slots == 1


def test_half_of_the_free_memory_is_the_default(monkeypatch, caplog):
  each = ring().bytes_each
  monkeypatch.setattr(snapshots, "free_bytes", lambda: 9.0 * each)
  assert ring(snapshots=4).slots == 4
  assert ring(snapshots=5).slots == 4
  assert "half of the memory that is free here" in caplog.text


def test_free_bytes_is_what_the_system_says():
  free = snapshots.free_bytes()
  with open("/proc/meminfo") as file:
    total = re.search(r"MemTotal: +(\d+) kB", file.read())
  assert 2**20 < free <= int(total[1]) * 1024


def test_a_control_group_counts_where_it_has_less(tmp_path, monkeypatch):
  files = {
    "/proc/meminfo": "MemTotal: 900 kB\nMemAvailable:     800 kB\n",
    "/sys/fs/cgroup/memory.max": "500000\n",
    "/sys/fs/cgroup/memory.current": "100000\n",
  }

  def redirected(path):
    return pathlib.Path(f"{tmp_path}{path}")

  for path, text in files.items():
    place = redirected(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
  here = types.SimpleNamespace(Path=redirected)
  monkeypatch.setattr(snapshots, "pathlib", here)
  assert snapshots.free_bytes() == 400_000
  redirected("/sys/fs/cgroup/memory.max").write_text("max\n")
  assert snapshots.free_bytes() == 800 * 1024
