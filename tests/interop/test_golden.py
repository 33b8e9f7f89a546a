"""Our models, losses and training against recordings of the authors' code.

Every `.npz` in $BIGSCALE_GOLDEN_DIR is read, one case a file and quantity. The
error of a case is the largest difference over a scale: the array's largest
entry; for gradients, that plus a hundredth of the network's largest, since a
bias before a batch norm has pure round-off for a gradient.

A step has about a million activations, and where one lies nearer to the kink
of its ReLU, or two nearer to each other under a max-pooling, than float32 can
tell, round-off decides which way a gradient goes. So a case that misses is
tried again from weights that are moved by a unit in their last place, as
another order of summation would: a formula that differs from the authors'
misses every time. What was found by computing the first step of G in float64:

- `biggan_64px`: the input of G's last ReLU at sample 1, row 55, column 4,
  channel 0 is +1.9e-7 in a map that reaches 6.6. In float64 as it is, the
  gradients miss the recorded ones by 2.9e-4, and by 3.3e-5 with that one
  slope at 0, as PyTorch had it; in float32 both occur, by draw.
- `biggan_deep_64px`: float64 gives the recorded gradients to 1.3e-5. Float32
  misses by 1.1e-4 where two values of -0.548480 that differ by 7.7e-8 change
  places in a max-pooling (`attention3/g` of G: sample 0, window 5, 2, channel
  9), and by 2.3e-4 where an input of a ReLU of G's `block7`, +2.5e-7 in a map
  that reaches 34, falls below 0 (sample 4, row 44, column 55, channel 1).
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from golden_biggan import BigganDeepPort, BigganPort
from golden_inception import InceptionPort
from golden_ports import R3ganPort

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
# Computations a case may try, the first from the weights as they are.
_DRAWS = 16
_INPUTS = ("config", "dim_z", "in/", "G/", "D/", "images_", "shapes")
# Families whose members are cases of their own.
_APART = ("out", "loss", "run", "features")
_RUN_INPUTS = ("run/z", "run/x", "run/y", "run/yx")


@functools.cache
def load(path):
  with np.load(path) as data:
    return dict(data)


def kind_of(path) -> str:
  """Which code made the file, from what is inside."""
  data = load(path)
  if "config" not in data:
    return "inception" if "features/2048" in data else "unknown"
  config = json.loads(str(data["config"]))
  if config.get("deep"):
    return "biggan_deep"
  if {"noise", "cardinality", "gamma"} <= set(config):
    return "r3gan"
  if {"ch", "hier", "num_D_steps"} <= set(config):
    return "biggan"
  return "unknown"


@functools.cache
def port_of(path):
  data = load(path)
  return _PORTS[kind_of(path)](data, json.loads(str(data.get("config", "{}"))))


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
    errors.append(np.max(np.abs(mine - value)) / (top[key] + floor))
  return float(np.max(errors))


def error_of(path, quantity, draw) -> float:
  """The error of a case, as the module's docstring has it."""
  ours, theirs = port_of(path).answer(quantity, draw), arrays(path, quantity)
  if quantity.startswith("final_"):
    theirs = {
      key: value
      for key, value in theirs.items()
      if not without_singular_value(path, key)
    }
  assert set(ours) == set(theirs)
  return largest_error(theirs, ours, quantity.startswith("grad_"))


def tolerance_of(quantity) -> float:
  """More for what several updates have passed through."""
  return 1e-3 if quantity.startswith(("run/", "final_")) else 1e-4


def errors_until(path, quantity, tolerance) -> list[float]:
  """Errors of a case, draw by draw, up to the first within the tolerance."""
  errors = []
  for draw in range(_DRAWS):
    errors.append(error_of(path, quantity, draw))
    if errors[-1] <= tolerance:
      break
  return errors


_CASES = [
  pytest.param(path, quantity, id=f"{path.stem}-{quantity}")
  for path in _FILES
  for quantity in quantities(path)
]


def test_golden_files_exist():
  assert _FILES, f"{_DIRECTORY} holds no .npz"


@pytest.mark.parametrize(("path", "quantity"), _CASES)
def test_golden(path, quantity):
  kind = kind_of(path)
  assert kind in _PORTS, (
    f"{path.name} is of unknown kind; its keys begin {list(load(path))[:5]}"
  )
  tolerance = tolerance_of(quantity)
  errors = errors_until(path, quantity, tolerance)
  # `pytest -rP` shows it, and with it the cases that needed another draw.
  print(f"largest relative error {errors[-1]:.1e}, draws {len(errors)}")
  assert errors[-1] <= tolerance, f"largest relative errors, by draw: {errors}"
