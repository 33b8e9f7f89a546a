"""Compares a run's step with and without its compiler options.

Options that are off by default in XLA are rarely tested. On a new kind of chip,
one step shows whether they change the gradients.
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

# Largest relative difference that rounding can explain.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
# A weight with a smaller share of the gradient's norm has only noise.
_SHARE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """Comparison of a step with and without compiler options.

  Attributes:
    devices: number and kind of the devices.
    options: compiler options that are compared with none.
    differences: difference of gradients relative to their norm, by network; NaN
      if they are not finite.
    worst: path and relative difference of the weight that differs most, by
      network.
    tolerance: largest difference that rounding can explain.
    seconds: median seconds of a step with and without the options.
  """

  devices: str
  options: dict[str, str | bool | int]
  differences: dict[str, float]
  worst: dict[str, tuple[str, float]]
  tolerance: float
  seconds: tuple[float, float]

  @property
  def agrees(self) -> bool:
    """Whether rounding can explain all differences."""
    return all(x <= self.tolerance for x in self.differences.values())

  def __str__(self) -> str:
    rows = [("devices", self.devices)]
    rows += [
      ("" if i else "options", f"{name}={self.options[name]}")
      for i, name in enumerate(sorted(self.options))
    ] or [("options", "none on this platform, so both programs are the same")]
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
    verdict = "the options are safe on these devices"
    if not self.agrees:
      verdict = (
        f"the difference exceeds {self.tolerance:g}, so do not use these "
        "options here; to find the cause, disable them one at a time with "
        "--config.operations.compiler_options=NAME="
      )
    rows.append(("verdict", verdict))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows)


def measure(spec: RunSpec, steps: int) -> Comparison:
  """Compiles a run's step with and without options, and compares one step.

  After the first step, Adam's first moments are proportional to the gradients,
  so these are compared.

  Args:
    spec: spec of the run. Its data source is not read.
    steps: number of steps to time, after warm-up steps.

  Raises:
    SpecError: `steps` is less than 1, or the spec does not fit the devices.
  """
  require(steps >= 1, f"steps={steps} must be at least 1")
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
  """Returns the relative difference, and the weight that differs most."""
  sizes = {path: np.linalg.norm(x) for path, x in expected.items()}
  apart = {p: np.linalg.norm(found[p] - x) for p, x in expected.items()}
  whole = float(np.linalg.norm(list(sizes.values())))
  own = {
    path: float(apart[path] / max(sizes[path], _SHARE * whole))
    for path in expected
  }
  # NaN ranks as the largest difference.
  worst = max(own, key=lambda path: np.nan_to_num(own[path], nan=np.inf))
  return float(np.linalg.norm(list(apart.values()))) / whole, (
    worst,
    own[worst],
  )
