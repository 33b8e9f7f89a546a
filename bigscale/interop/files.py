"""Reads tensor files of other programs without running their code.

NumPy, safetensors and PyTorch files contain numbers. A pickle contains a
program, which runs only if the caller allows it. Every problem with a file
becomes one `FileError` that names the file, the problem and the remedy.
"""

import contextlib
import hashlib
import os
import pathlib
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from bigscale import temporary
from bigscale.interop import recognize
from bigscale.place import is_remote, on_disk, open_place
from bigscale.place.paths import path_of
from bigscale.spec import SpecError

# Key prefixes that separate the networks in one file.
PLAYERS = ("G", "D", "G_ema")


class FileError(SpecError):
  """A file that cannot be read, or a folder that cannot be written."""


def read_tensors(
  path: str | os.PathLike[str], *, unsafe_pickle: bool = False
) -> dict[str, np.ndarray]:
  """Reads all tensors of a file.

  Args:
    path: `.npz`, `.safetensors`, `.pth`, `.pt` or `.bin` (PyTorch), `.pkl`.
    unsafe_pickle: whether a `.pkl` may run the code it contains.

  Returns:
    Numeric arrays by name. Nested groups and modules are joined with "/":
    "G/linear.weight".

  Raises:
    FileError: the file is missing, damaged, of an unknown format, needs a
      package or `unsafe_pickle`, or contains anything but numbers.
  """
  path = existing_file(path)
  tensors = _reader(path, _READERS, unsafe_pickle)(path)
  strange = [
    f"  {name}: {what}"
    for name, value in tensors.items()
    if (what := _not_numbers(value))
  ]
  if strange:
    raise FileError(
      f"{path} contains more than numeric arrays:\n"
      + "\n".join(strange)
      + "\nSave only the weights of the networks."
    )
  return tensors


def read_entries(
  path: str | os.PathLike[str],
  names: Collection[str],
  *,
  unsafe_pickle: bool = False,
) -> dict[str, Any]:
  """Reads the named entries of a `.npz` or a pickled dictionary.

  Missing entries are omitted. Other entries of a `.npz` are not read, however
  large they are.

  Raises:
    FileError: see `read_tensors`.
  """
  readers = {
    ".npz": lambda path: _read_npz(path, names),
    ".pkl": _unpickle_mapping,
  }
  path = existing_file(path)
  entries = _reader(path, readers, unsafe_pickle)(path)
  return {name: entries[name] for name in names if name in entries}


def existing_file(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the path of an existing file.

  Raises:
    FileError: the file does not exist.
  """
  path = on_disk(path)
  if not path.is_file():
    raise FileError(f"there is no file {path}; name an existing file")
  return path


def sha256(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file, in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def require_new(out: str | os.PathLike[str]) -> epath.Path:
  """Returns the path or address of a folder that can be created.

  Raises:
    FileError: it exists and is not an empty folder.
  """
  path = path_of(out)
  if is_remote(out):
    used = open_place(out).any()
  else:
    used = path.exists() and (not path.is_dir() or any(path.iterdir()))
  if used:
    raise FileError(
      f"--out={path} exists and is not empty; name a new folder, or move this "
      "one away"
    )
  return path


@contextlib.contextmanager
def new_folder(out: epath.Path) -> Iterator[epath.Path]:
  """Creates a folder that gets its name only if the block succeeds.

  A bucket cannot rename a folder: there, the files appear one by one.

  Yields:
    A temporary path next to `out`, or `out` on a bucket.

  Raises:
    FileError: the folder cannot be written.
  """
  partial = out
  try:
    if is_remote(out):
      yield out
      return
    partial = temporary.beside(out)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(out)
  except OSError as error:
    raise FileError(
      f"--out={out} cannot be written ({error.strerror or error}); choose a "
      "writable folder on a disk with free space"
    ) from error
  finally:
    if partial != out:
      shutil.rmtree(partial, ignore_errors=True)


Reader = Callable[[pathlib.Path], Mapping[str, Any]]


def _reader(
  path: pathlib.Path, readers: Mapping[str, Reader], unsafe_pickle: bool
) -> Reader:
  """Returns the reader for a file's extension."""
  ending = path.suffix.lower()
  if ending not in readers:
    raise FileError(
      f"{path} ends in {ending!r}, but only {', '.join(readers)} files can be "
      "read"
    )
  if what := recognize.not_weights(path):
    raise FileError(what)
  if ending == ".pkl" and not unsafe_pickle:
    raise FileError(
      f"{path} is a pickle: reading it runs any code it contains, with your "
      "permissions. If you trust its author, pass --unsafe_pickle. Otherwise "
      "ask its author for the state_dict() as .pth or .npz"
    )
  return readers[ending]


@contextlib.contextmanager
def _reading(path: pathlib.Path, kind: str) -> Iterator[None]:
  """Turns any error that a library raises into one `FileError`."""
  try:
    yield
  except FileError:
    raise
  # Each library raises a dozen different exceptions.
  except Exception as error:
    said = recognize.plain(str(error)).splitlines()
    said = [line for line in said if line.strip()]
    raise FileError(
      f"{path} cannot be read as {kind} ({type(error).__name__}: "
      f"{said[0].strip() if said else 'no details'}); it may be truncated or "
      "of another format: compare its size and checksum with the original's"
    ) from error


def _read_npz(
  path: pathlib.Path, names: Collection[str] | None = None
) -> dict[str, Any]:
  with _reading(path, "a NumPy archive"):
    # NumPy treats any other file as a pickle, which gives a confusing error.
    if not zipfile.is_zipfile(path):
      raise zipfile.BadZipFile("it is not a whole zip file")
    with np.load(path, allow_pickle=False) as archive:
      chosen = [n for n in archive.files if names is None or n in names]
      return {name: _entry(path, archive, name) for name in chosen}


def _entry(path: pathlib.Path, archive: np.lib.npyio.NpzFile, name: str) -> Any:
  try:
    return archive[name]
  except ValueError as error:
    if "allow_pickle" not in str(error):
      raise
    raise FileError(
      f"{path}: {name} is an array of Python objects, which is a pickle and is "
      "never read; save it as a numeric array"
    ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, Any]:
  from safetensors import safe_open
  from safetensors.numpy import load_file

  with _reading(path, "safetensors"):
    with safe_open(path, framework="numpy") as file:
      names = file.keys()
      dtypes = {name: file.get_slice(name).get_dtype() for name in names}
    _refuse_narrow(path, dtypes)
    return load_file(path)


def _read_torch(path: pathlib.Path) -> dict[str, Any]:
  torch = _torch(path)
  with _reading(path, "a PyTorch file"):
    try:
      with warnings.catch_warnings():
        # `recognize.torch_refusal` replaces PyTorch's warnings.
        warnings.simplefilter("ignore")
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
      if what := recognize.torch_refusal(path, error):
        raise FileError(what) from error
      raise
    return _checked_flat(path, recognize.players_of(tree))


def _unpickle(path: pathlib.Path) -> Any:
  """Runs the code in a file, which `_reader` has checked is allowed."""
  with open(path, "rb") as file, _reading(path, "a pickle"):
    try:
      return pickle.load(file)
    except ImportError as error:
      raise FileError(
        f"{path} needs the code that wrote it ({error}); add the authors' "
        "repository to PYTHONPATH and install its requirements"
      ) from error


def _unpickle_mapping(path: pathlib.Path) -> Mapping[str, Any]:
  tree = _unpickle(path)
  if not isinstance(tree, Mapping):
    raise FileError(
      f"{path} contains a {type(tree).__name__}, not a dictionary of arrays"
    )
  return tree


def _torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise FileError(
      f"{path} is a PyTorch file, but PyTorch is not installed; install it "
      "with `pip install bigscale[torch]`, or convert the file to .safetensors "
      "or .npz on a machine that has it"
    ) from error
  return torch


def _refuse_narrow(path: pathlib.Path, dtypes: Mapping[str, Any]) -> None:
  if names := recognize.narrow_floats(dtypes):
    raise FileError(recognize.narrow_refusal(path, names))


def _checked_flat(path: pathlib.Path, tree: Any) -> dict[str, Any]:
  """Returns the arrays of a tree's tensors, by name.

  Raises:
    FileError: some tensors are 8-bit floats.
  """
  leaves = _flat(tree)
  dtypes = {name: getattr(x, "dtype", "") for name, x in leaves.items()}
  _refuse_narrow(path, dtypes)
  return {name: _array(leaf) for name, leaf in leaves.items()}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  """Flattens nested dictionaries and modules to tensors by name."""
  if hasattr(tree, "state_dict"):
    tree = tree.state_dict()
  if isinstance(tree, Mapping):
    leaves = {}
    for key, value in tree.items():
      leaves |= _flat(value, f"{prefix}/{key}" if prefix else str(key))
    return leaves
  return {prefix: tree}


def _array(leaf: Any) -> Any:
  """Converts a tensor to an array; returns anything else unchanged."""
  if hasattr(leaf, "detach"):
    # NumPy has no bfloat16; float32 represents it exactly.
    return leaf.detach().cpu().float().numpy()
  return leaf


def _not_numbers(value: Any) -> str:
  """Describes a value that is not a numeric array; returns "" if it is one."""
  if not isinstance(value, np.ndarray):
    return f"{type(value).__name__}"
  if value.dtype.kind in "biuf" or value.dtype.name == "bfloat16":
    return ""
  return f"an array of {value.dtype}"


_READERS: dict[str, Reader] = {
  ".npz": _read_npz,
  ".safetensors": _read_safetensors,
  ".pth": _read_torch,
  ".pt": _read_torch,
  ".bin": _read_torch,
  ".pkl": lambda path: _checked_flat(
    path, recognize.players_of(_unpickle(path))
  ),
}
