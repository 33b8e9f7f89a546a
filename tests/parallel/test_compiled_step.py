"""Collectives and memory of the compiled step."""

import functools
import math

import jax
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.plan import hlo
from bigscale.train.build import build
from tests import fast_compile
from tests.parallel.tiny_gans import Case, spec_of


@functools.cache
def built_and_compiled(case):
  spec = spec_of(case)
  devices = jax.devices()[: case.mesh[0] * case.mesh[1]]
  built = build(spec, make_mesh(spec.mesh, devices))
  step = built.step.lower(built.abstract_state, built.abstract_batch)
  return built, step.compile(fast_compile.OPTIONS)


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")


@functools.cache
def sent(case):
  """Returns (kind, bytes, whether it is in a loop) of each collective."""
  _, compiled = built_and_compiled(case)
  module = hlo.parse(compiled.as_text())
  repeated = set()
  for computation in module.computations.values():
    for one in computation.instructions:
      if one.opcode == "while":
        repeated |= reached(module, called(one))
  return [
    (one.opcode, hlo.size_in_bytes(one.shape), computation.name in repeated)
    for computation in module.computations.values()
    for one in computation.instructions
    if one.opcode in COLLECTIVES
  ]


def called(one):
  names = ("body", "condition", "calls", "to_apply")
  return [*filter(None, map(one.attribute, names)), *one.branches]


def reached(module, names):
  found, waiting = set(), list(names)
  while waiting:
    name = waiting.pop()
    if name in found:
      continue
    found.add(name)
    for one in module.computations[name].instructions:
      waiting += called(one)
  return found


def weight_bytes(case):
  built, _ = built_and_compiled(case)
  return [
    sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(p.params))
    for p in (built.abstract_state.g, built.abstract_state.d)
  ]


REPLICATED = Case("r3gan_small", "float32", (4, 1), microbatches=2)
SPLIT = Case("r3gan_small", "float32", (1, 4), "zero", microbatches=2)


def test_gradients_cross_devices_once():
  """Each update has one all-reduce, for any number of microbatches."""
  g, d = weight_bytes(REPLICATED)
  large = [
    size
    for kind, size, _ in sent(REPLICATED)
    if kind == "all-reduce" and size > min(g, d) / 10
  ]
  assert len(large) == 2
  assert g + d <= sum(large) < 1.02 * (g + d)
  assert not any(repeated for _, _, repeated in sent(REPLICATED))


def test_split_gradients_are_scattered_once():
  """In mode zero, no all-reduce is as large as the weights."""
  g, d = weight_bytes(SPLIT)
  scattered = [
    size for kind, size, _ in sent(SPLIT) if kind == "reduce-scatter"
  ]
  # Each device receives a quarter; small leaves are replicated.
  assert 0.8 * (g + d) / 4 < sum(scattered) <= (g + d) / 4
  largest = max(size for kind, size, _ in sent(SPLIT) if kind == "all-reduce")
  assert largest < min(g, d) / 4
  assert not any(repeated for _, _, repeated in sent(SPLIT))


@pytest.mark.parametrize("case", [REPLICATED, SPLIT], ids=lambda c: c.weights)
def test_state_is_donated(case):
  """Without donation, the step would hold two copies of the state."""
  built, compiled = built_and_compiled(case)
  held = sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(built.abstract_state)
  )
  assert compiled.memory_analysis().alias_size_in_bytes >= 0.99 * held
