"""Every family in every weight mode between processes.

The cases cover each pair of values of family, weight mode, microbatches and D
updates. All of them train in float64 in one start of the processes.
"""

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from bigscale.parallel import multihost
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import Placement
from bigscale.spec import MeshSpec
from bigscale.train.build import build
from tests.parallel import matrix, tiny_gans
from tests.parallel.tiny_gans import Case

# (family, weight mode, microbatches, D updates).
PAIRS = (
  ("r3gan", "replicated", 2, 2),
  ("r3gan", "zero", 1, 2),
  ("r3gan", "fsdp", 1, 1),
  ("biggan", "replicated", 1, 2),
  ("biggan", "zero", 2, 1),
  ("biggan", "fsdp", 2, 2),
  ("biggan_deep", "replicated", 2, 1),
  ("biggan_deep", "zero", 2, 2),
  ("biggan_deep", "fsdp", 1, 1),
)


def case(family: str, weights: str, parts: int, d_steps: int) -> Case:
  """Returns a case on four devices with penalties in every other step."""
  return Case(
    family,
    mesh=(2, 2),
    weights=weights,
    microbatches=parts,
    d_steps=d_steps,
    update="forward",
    interval=2,
  )


CASES = [case(*pair) for pair in PAIRS]
# Half a minute of processor time each; the other families take minutes.
R3GAN = [c for c in CASES if c.model == "r3gan"]


@pytest.mark.parametrize(
  ("processes", "cases"),
  [
    pytest.param(2, R3GAN, id="2-r3gan", marks=pytest.mark.slow),
    pytest.param(2, CASES[3:6], id="2-biggan", marks=pytest.mark.slow),
    pytest.param(2, CASES[6:], id="2-biggan_deep", marks=pytest.mark.slow),
    pytest.param(4, R3GAN, id="4-r3gan", marks=pytest.mark.slow),
    pytest.param(4, CASES[3:6], id="4-biggan", marks=pytest.mark.slow),
    pytest.param(4, CASES[6:], id="4-biggan_deep", marks=pytest.mark.slow),
  ],
)
def test_float64_agrees_with_one_process(tmp_path, processes, cases):
  """Training on one device agrees with four devices in several processes."""
  found = matrix.run(
    tmp_path,
    cases,
    processes=processes,
    devices=4 // processes,
    timeout=600 * len(cases),
  )
  assert found.keys() == {case.name for case in cases}
  for case in cases:
    alone = matrix.arrays(case.reference)
    assert alone[-1].dtype == np.float64
    worst = tiny_gans.worst(alone, found[case.name])
    assert worst < 1e-8, (case.name, worst)


SENDS = {
  "psum",
  "psum_invariant",
  "all_gather",
  "all_gather_invariant",
  "reduce_scatter",
  "all_to_all",
  "ppermute",
}


def senders(jaxpr, inside=False):
  """Yields the collectives in loops and branches of a program."""
  found, seen, waiting = set(), set(), [(jaxpr, inside)]
  while waiting:
    jaxpr, inside = waiting.pop()
    if (id(jaxpr), inside) in seen:
      continue
    seen.add((id(jaxpr), inside))
    for one in jaxpr.eqns:
      name, params = one.primitive.name, one.params
      if inside and name in SENDS:
        found.add(name)
      nested = inside or name in ("while", "cond")
      if name == "scan":
        nested = inside or params["unroll"] < params["length"]
      for inner in jaxprs_in_params(params):
        waiting.append((inner, nested))
  return found


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
  "case",
  [
    case("r3gan", "fsdp", 2, 2)._replace(dtype="float32"),
    pytest.param(
      case("biggan", "zero", 2, 2)._replace(dtype="float32"),
      marks=pytest.mark.slow,
    ),
  ],
  ids=lambda case: case.model,
)
def test_no_loop_sends_between_processes(monkeypatch, case, apart):
  """Otherwise, Gloo could match messages that do not belong together."""
  if apart:
    monkeypatch.setattr(Placement, "loops_may_send", False)
  spec = tiny_gans.spec_of(case)
  built = build(spec, make_mesh(spec.mesh, jax.devices()[:4]))
  traced = built.step.trace(built.abstract_state, built.abstract_batch)
  found = senders(traced.jaxpr.jaxpr)
  assert bool(found) != apart, found


def test_one_process_may_use_loops():
  """A single process may use loops, whatever its devices."""
  mesh = make_mesh(MeshSpec(), jax.devices()[:4])
  assert Placement(mesh).loops_may_send


def test_mixed_up_messages_are_explained():
  """Gloo's own message is a line of C++ and two sizes."""
  gloo = (
    "UNKNOWN: Gloo AllGather failed: [enforce fail at gloo/transport/tcp/"
    "pair.cc:459] op.preamble.length <= op.nbytes. 216 vs 192. "
  )
  error, other = map(jax.errors.JaxRuntimeError, (gloo, "UNKNOWN: reset"))
  multihost.fail(error)
  multihost.fail(other)
  (note,) = error.__notes__
  assert "different orders" in note
  assert "--virtual_devices" in note
  assert not hasattr(other, "__notes__")
