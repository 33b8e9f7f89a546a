"""Our models, losses and training against recordings of the authors' code.

Every `.npz` in $BIGSCALE_GOLDEN_DIR is read, one case a file and quantity. The
error of a case is the largest difference over a scale: the array's largest
entry; for gradients, that plus a hundredth of the network's largest, since a
bias before a batch norm has pure round-off for a gradient.

A recording is compared in the precision in which it was made. In float64 ours
and theirs agree to about 1e-11, whatever the order of summation. In float32
they cannot: a step has about a million activations, and where one lies nearer
to the kink of its ReLU, or two nearer to each other under a max-pooling, than
float32 can tell, round-off decides which way a gradient goes (3e-4 of the
largest entry, seen in recordings of BigGAN). So what a float32 recording says
of gradients is compared at a loose tolerance, and the float64 recordings prove
the formulas. What runs in training is float32: every float64 recording is
passed through our float32 networks once more, at the same loose tolerance.
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
# Families whose members are cases of their own.
_APART = ("out", "loss", "run", "features")
_RUN_INPUTS = ("run/z", "run/x", "run/y", "run/yx")
# No update and no gradient lies before these.
_FORWARD = ("out/", "loss/", "features/")


@functools.cache
def load(path):
  with np.load(path) as data:
    return dict(data)


@functools.cache
def config_of(path) -> dict:
  return json.loads(str(load(path).get("config", "{}")))


def kind_of(path) -> str:
  """Which code made the file, from what is inside."""
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
  """The dtype in which the authors' code computed; Inception knows one."""
  if kind_of(path) == "inception":
    return "float32"
  return config_of(path).get("dtype", "float32")


@functools.cache
def port_of(path, dtype, platform="cpu"):
  with precision(dtype):
    port = _PORTS[kind_of(path)]
    return port(load(path), config_of(path), dtype, platform)


def quantities(path) -> list[str]:
  """Keys with an answer; those of a family (`grad_D/...`) make one."""
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
  """Whether a layer's smaller side is below the rank of this tracker."""
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
    # A loss may be zero throughout.
    scale = top[key] + floor or 1.0
    errors.append(np.max(np.abs(mine - value)) / scale)
  return float(np.max(errors))


def error_of(path, quantity, dtype, platform="cpu") -> float:
  """The error of a case, as the module's docstring has it."""
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
  """In float32 more for gradients, and for what updates passed through.

  Most of BigGAN: its ReLU and its pooling have kinks, which R3GAN's maps of
  few values were never seen to meet.
  """
  if dtype == "float64":
    return 1e-9
  if quantity.startswith(_FORWARD):
    return 1e-4
  loose = 1 if kind_of(path) == "r3gan" else 10
  return loose * (1e-4 if quantity.startswith("grad_") else 1e-3)


_KNOWN = [path for path in _FILES if kind_of(path) in _PORTS]
_IN_FLOAT64 = [path for path in _KNOWN if recorded_in(path) == "float64"]
# Trainings in float64 take XLA's CPU backend minutes. Of the project's own
# recordings one is trained in the fast tier, the others in the slow one; one
# with attention is differentiated, and one is drawn in float32.
_SLOW_QUANTITIES = {
  "biggan_64px_f64": ("run/", "final_"),
  "biggan_deep_64px_f64": ("run/", "final_", "grad_"),
}
_SLOW_IN_FLOAT32 = tuple(_SLOW_QUANTITIES)


def marks_of(path, quantity) -> list:
  slow = _SLOW_QUANTITIES.get(path.stem, ())
  return marks_where(bool(slow) and quantity.startswith(slow))


def marks_where(slow: bool) -> list:
  """Marks of the project's own recordings."""
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
  """Cases of float64 recordings to pass through our float32 networks."""
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
  assert _FILES, f"{_DIRECTORY} holds no .npz"


@pytest.mark.parametrize(("path", "quantity"), _CASES)
def test_golden(path, quantity):
  assert kind_of(path) in _PORTS, (
    f"{path.name} is of unknown kind; its keys begin {list(load(path))[:5]}"
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
def test_golden_as_written_for_tpus(path, quantity):
  """Attention that makes its weights again, and what else differs there."""
  check(path, quantity, "float64", "tpu")
