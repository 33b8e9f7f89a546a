"""A run's step with its compiler options and without, on the devices here.

Few people run the options that are off by default in XLA. On a new kind of
chip, one step shows whether gradients are the same with them.
"""

import dataclasses
import statistics

import jax
import numpy as np

from bigscale.bench import step as bench
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import RunSpec, require
from bigscale.train.build import Built, build
from bigscale.types import PyTree

# Largest relative difference that rounding explains.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
# A weight with a smaller share of the gradient's norm holds only noise.
_SHARE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """What options change.

  Attributes:
    devices: kind and number of those that ran it.
    options: compared with none of them.
    differences: by network, of gradients, relative to their norm; NaN where
      they are not finite.
    worst: by network, the weight that differs most, relative to its own norm.
    tolerance: of differences.
    seconds: of a step, the median, with and without.
  """

  devices: str
  options: dict[str, str | bool | int]
  differences: dict[str, float]
  worst: dict[str, tuple[str, float]]
  tolerance: float
  seconds: tuple[float, float]

  @property
  def agrees(self) -> bool:
    """Whether all differences are of rounding."""
    return all(x <= self.tolerance for x in self.differences.values())

  def __str__(self) -> str:
    rows = [("devices", self.devices)]
    rows += [
      ("" if i else "options", f"{name}={self.options[name]}")
      for i, name in enumerate(sorted(self.options))
    ] or [("options", "none here: both programs are the same")]
    for network, difference in self.differences.items():
      path, own = self.worst[network]
      rows.append(
        (
          f"gradient of {network.upper()}",
          f"differs by {difference:.1e}, most in {path} ({own:.1e})",
        )
      )
    with_them, without = (f"{1e3 * s:.1f} ms" for s in self.seconds)
    rows.append(("step, median", f"{with_them} with, {without} without"))
    verdict = "the options are safe here"
    if not self.agrees:
      verdict = (
        f"more than {self.tolerance:g}: do not use them here; leave out one "
        "after the other with --config.operations.compiler_options=NAME="
      )
    rows.append(("verdict", verdict))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows)


def measure(spec: RunSpec, steps: int) -> Comparison:
  """Compiles the run's step twice, and compares one step from the start.

  Gradients are read from Adam's first moments, which hold nothing else then.

  Args:
    spec: of the run; its data source is not read.
    steps: to time, after some to warm up.

  Raises:
    SpecError: no steps to time, or the spec does not fit the devices.
  """
  require(steps >= 1, f"steps={steps} must be 1 or more")
  mesh = make_mesh(spec.mesh)
  ours = build(spec, mesh)
  none = tuple(f"{name}=" for name in ours.compiler_options)
  operations = dataclasses.replace(spec.operations, compiler_options=none)
  plain = build(dataclasses.replace(spec, operations=operations), mesh)
  found = [_one_step(built, steps) for built in (ours, plain)]
  (gradients, fast), (expected, slow) = found
  compared = {n: _compare(gradients[n], expected[n]) for n in expected}
  half = spec.model.bf16_stages > 0
  devices = list(mesh.devices.flat)
  return Comparison(
    devices=f"{len(devices)} x {devices[0].device_kind}",
    options=dict(ours.compiler_options),
    differences={name: one[0] for name, one in compared.items()},
    worst={name: one[1] for name, one in compared.items()},
    tolerance=_TOLERANCE["bfloat16" if half else "float32"],
    seconds=(fast, slow),
  )


def _one_step(
  built: Built, steps: int
) -> tuple[dict[str, dict[str, np.ndarray]], float]:
  """Returns gradients by network and weight, and the median time of a step."""
  step = built.step.lower(built.abstract_state, built.abstract_batch).compile()
  state, _ = step(bench.first_state(built), bench.random_batch(built))
  gradients = {"g": _moments(state, "g"), "d": _moments(state, "d")}
  return gradients, statistics.median(bench.time_steps(built, step, steps))


def _moments(state: PyTree, network: str) -> dict[str, np.ndarray]:
  """Returns Adam's first moments by path, as whole arrays on the host."""

  def is_adam(node: PyTree) -> bool:
    return hasattr(node, "mu")

  optimizer = getattr(state, network).optimizer
  (adam,) = filter(is_adam, jax.tree.leaves(optimizer, is_leaf=is_adam))
  leaves = jax.tree_util.tree_leaves_with_path(adam.mu)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(
      leaf, np.float64
    )
    for path, leaf in leaves
  }


def _compare(
  found: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> tuple[float, tuple[str, float]]:
  """Returns the difference of all weights, and the weight that differs most."""
  sizes = {path: np.linalg.norm(x) for path, x in expected.items()}
  apart = {p: np.linalg.norm(found[p] - x) for p, x in expected.items()}
  whole = float(np.linalg.norm(list(sizes.values())))
  own = {
    path: float(apart[path] / max(sizes[path], _SHARE * whole))
    for path in expected
  }
  # What is not a number comes first.
  worst = max(own, key=lambda path: np.nan_to_num(own[path], nan=np.inf))
  return float(np.linalg.norm(list(apart.values()))) / whole, (
    worst,
    own[worst],
  )
