"""Compares models, losses and training with recordings of the authors' code.

Every `.npz` in $BIGSCALE_GOLDEN_DIR is read, with one case per file and
quantity. The error of a case is the largest difference over a scale: the
array's largest entry. For gradients, a hundredth of the network's largest
gradient is added to the scale, because the gradient of a bias before batch norm
is pure rounding error.

A recording is compared in its own precision. In float64, bigscale and the
authors agree to about 1e-11 in any order of summation. In float32 they cannot:
a step has about a million activations. If one of them is nearer to the kink of
its ReLU, or two are nearer to each other under max pooling, than float32
resolves, rounding decides the direction of a gradient (3e-4 of the largest
entry, seen in recordings of BigGAN). Gradients of float32 recordings are
therefore compared with a loose tolerance, and the float64 recordings prove the
formulas. Training runs in float32, so every float64 recording is also passed
through the float32 networks, with the same loose tolerance.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from golden_biggan import BigganDeepPort, BigganPort
from golden_inception import InceptionPort
from golden_ports import R3ganPort, precision

_DIRECTORY = Path(
  os.environ.get("BIGSCALE_GOLDEN_DIR") or Path(__file__).parents[1] / "golden"
)
_FILES = sorted(_DIRECTORY.glob("*.npz"))
_PORTS = {
  "r3gan": R3ganPort,
  "biggan": BigganPort,
  "biggan_deep": BigganDeepPort,
  "inception": InceptionPort,
}
_INPUTS = ("config", "dim_z", "in/", "G/", "D/", "images_", "shapes")
# Families in which each key is a case of its own.
_APART = ("out", "loss", "run", "features")
_RUN_INPUTS = ("run/z", "run/x", "run/y", "run/yx")
# Quantities that depend on no update and no gradient.
_FORWARD = ("out/", "loss/", "features/")


@functools.cache
def load(path):
  with np.load(path) as data:
    return dict(data)


@functools.cache
def config_of(path) -> dict:
  return json.loads(str(load(path).get("config", "{}")))


def kind_of(path) -> str:
  """Returns which code made the file, based on its contents."""
  data, config = load(path), config_of(path)
  if config.get("dtype", "float32") not in ("float32", "float64"):
    return "unknown"
  if "features/2048" in data:
    return "inception"
  if {"noise", "cardinality", "gamma"} <= set(config):
    return "r3gan"
  if {"ch", "num_D_steps", "svs"} <= set(config):
    return "biggan_deep" if config.get("deep") else "biggan"
  return "unknown"


def recorded_in(path) -> str:
  """Returns the authors' dtype; Inception always uses float32."""
  if kind_of(path) == "inception":
    return "float32"
  return config_of(path).get("dtype", "float32")


@functools.cache
def port_of(path, dtype, platform="cpu"):
  with precision(dtype):
    port = _PORTS[kind_of(path)]
    return port(load(path), config_of(path), dtype, platform)


def quantities(path) -> list[str]:
  """Returns the keys to check; a family (`grad_D/...`) counts as one."""
  if kind_of(path) not in _PORTS:
    return ["all"]
  names = {}
  for key in load(path):
    if key.startswith(_INPUTS) or key in _RUN_INPUTS:
      continue
    family = key.split("/")[0]
    names[key if family in _APART else family] = None
  return list(names)


def arrays(path, quantity) -> dict:
  return {
    key: np.asarray(value, np.float64)
    for key, value in load(path).items()
    if key == quantity or key.startswith(f"{quantity}/")
  }


def without_singular_value(path, key) -> bool:
  """Returns whether the rank exceeds the layer's smaller side."""
  name, rank = key.removeprefix("final_").rsplit("sv", 1)
  weight = load(path)[f"{name}weight"]
  out = weight.shape[0]
  return int(rank) >= min(out, weight.size // out)


def largest_error(theirs, ours, is_gradient) -> float:
  top = {key: np.max(np.abs(value)) for key, value in theirs.items()}
  floor = 0.01 * max(top.values()) if is_gradient else 0.0
  errors = []
  for key, value in theirs.items():
    mine = np.asarray(ours[key], np.float64)
    assert mine.shape == value.shape, key
    # A loss may be zero everywhere.
    scale = top[key] + floor or 1.0
    errors.append(np.max(np.abs(mine - value)) / scale)
  return float(np.max(errors))


def error_of(path, quantity, dtype, platform="cpu") -> float:
  """Returns the error of a case, defined in the module's docstring."""
  with precision(dtype):
    ours = port_of(path, dtype, platform).answer(quantity)
  theirs = arrays(path, quantity)
  if quantity.startswith("final_"):
    theirs = {
      key: value
      for key, value in theirs.items()
      if not without_singular_value(path, key)
    }
  assert set(ours) == set(theirs)
  return largest_error(theirs, ours, quantity.startswith("grad_"))


def tolerance_of(path, quantity, dtype) -> float:
  """Returns the tolerance; in float32 it is larger after gradients and updates.

  It is largest for BigGAN, whose ReLU and pooling have kinks. R3GAN's few
  activations have never been seen to hit one.
  """
  if dtype == "float64":
    return 1e-9
  if quantity.startswith(_FORWARD):
    return 1e-4
  loose = 1 if kind_of(path) == "r3gan" else 10
  return loose * (1e-4 if quantity.startswith("grad_") else 1e-3)


_KNOWN = [path for path in _FILES if kind_of(path) in _PORTS]
_IN_FLOAT64 = [path for path in _KNOWN if recorded_in(path) == "float64"]
# Training in float64 takes minutes on XLA's CPU backend. The fast tier trains
# one of the project's own recordings, differentiates one with attention, and
# samples one in float32. The slow tier does the rest.
_SLOW_QUANTITIES = {
  "biggan_64px_f64": ("run/", "final_", "grad_G"),
  "biggan_deep_64px_f64": ("run/", "final_", "grad_"),
}
_SLOW_IN_FLOAT32 = tuple(_SLOW_QUANTITIES)


def marks_of(path, quantity) -> list:
  slow = _SLOW_QUANTITIES.get(path.stem, ())
  return marks_where(bool(slow) and quantity.startswith(slow))


def marks_where(slow: bool) -> list:
  """Returns the marks of the project's own recordings."""
  own = not os.environ.get("BIGSCALE_GOLDEN_DIR")
  return [pytest.mark.slow] if own and slow else []


_CASES = [
  pytest.param(
    path, quantity, id=f"{path.stem}-{quantity}", marks=marks_of(path, quantity)
  )
  for path in _FILES
  for quantity in quantities(path)
]


def in_float32(is_forward: bool) -> list:
  """Returns the float64 cases to check with the float32 networks."""
  return [
    pytest.param(
      path,
      quantity,
      id=f"{path.stem}-{quantity}",
      marks=marks_where(path.stem in _SLOW_IN_FLOAT32),
    )
    for path in _IN_FLOAT64
    for quantity in quantities(path)
    if quantity.startswith(_FORWARD) == is_forward
  ]


def check(path, quantity, dtype, platform="cpu"):
  error = error_of(path, quantity, dtype, platform)
  limit = tolerance_of(path, quantity, dtype)
  print(f"largest relative error {error:.1e}")  # `pytest -rP` shows it.
  assert error <= limit, f"largest relative error {error:.1e} > {limit:.0e}"


def test_golden_files_exist():
  assert _FILES, f"{_DIRECTORY} contains no .npz"


@pytest.mark.parametrize(("path", "quantity"), _CASES)
def test_golden(path, quantity):
  assert kind_of(path) in _PORTS, (
    f"{path.name} is of unknown kind; its first keys are {list(load(path))[:5]}"
  )
  check(path, quantity, recorded_in(path))


@pytest.mark.parametrize(("path", "quantity"), in_float32(is_forward=True))
def test_golden_in_float32(path, quantity):
  check(path, quantity, "float32")


@pytest.mark.slow
@pytest.mark.parametrize(("path", "quantity"), in_float32(is_forward=False))
def test_golden_training_in_float32(path, quantity):
  check(path, quantity, "float32")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("path", "quantity"),
  [
    pytest.param(path, quantity, id=f"{path.stem}-{quantity}")
    for path in _IN_FLOAT64
    if config_of(path).get("attention")
    for quantity in quantities(path)
    if quantity.startswith(("out/", "grad_"))
  ],
)
def test_golden_in_tpu_form(path, quantity):
  """The TPU form recomputes attention weights, among other differences."""
  check(path, quantity, "float64", "tpu")
