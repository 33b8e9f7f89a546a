"""Files of tensors by other programs, read without running any of their code.

NumPy, safetensors and PyTorch files hold numbers. A pickle holds a program:
it is run only where the caller says so. Whatever is wrong with a file is one
`FileError` that names the file, what was found and what to do.
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

from bigscale import temporary
from bigscale.interop import recognize
from bigscale.spec import SpecError

# What trainings call their networks where they save several in one file.
PLAYERS = ("G", "D", "G_ema")


class FileError(SpecError):
  """A file that cannot be read, or a folder that cannot be written."""


def read_tensors(
  path: str | os.PathLike[str], *, unsafe_pickle: bool = False
) -> dict[str, np.ndarray]:
  """Reads all tensors of a file.

  Args:
    path: `.npz`, `.safetensors`, `.pth`, `.pt` or `.bin` (PyTorch), `.pkl`.
    unsafe_pickle: allow a `.pkl` to run the code it holds.

  Returns:
    Arrays of numbers by name. Nested groups and modules are joined with "/":
    "G/linear.weight".

  Raises:
    FileError: the file is missing, damaged, of an unknown kind, needs a
      package or a permission, or holds anything but numbers.
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
      f"{path} holds more than arrays of numbers:\n"
      + "\n".join(strange)
      + "\nSave the networks' weights alone."
    )
  return tensors


def read_entries(
  path: str | os.PathLike[str],
  names: Collection[str],
  *,
  unsafe_pickle: bool = False,
) -> dict[str, Any]:
  """Reads, of a `.npz` or a pickled dictionary, the entries of these names.

  Those that are not there are left out; other entries are not read from a
  `.npz`, however large they are.

  Raises:
    FileError: as `read_tensors`.
  """
  readers = {
    ".npz": lambda path: _read_npz(path, names),
    ".pkl": _unpickle_mapping,
  }
  path = existing_file(path)
  entries = _reader(path, readers, unsafe_pickle)(path)
  return {name: entries[name] for name in names if name in entries}


def existing_file(path: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a file.

  Raises:
    FileError: there is none.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileError(f"there is no file {path}; name one that exists")
  return path


def sha256(path: str | os.PathLike[str]) -> str:
  """The file's digest, in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def require_new(out: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a folder that is to be made.

  Raises:
    FileError: it is there already and not empty.
  """
  path = pathlib.Path(out)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileError(
      f"--out={path} is there already and not empty; name a new folder, or "
      "move this one aside"
    )
  return path


@contextlib.contextmanager
def new_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder that appears under its name when the block ends well.

  Yields:
    Its path until then, a sibling of `out`.

  Raises:
    FileError: it cannot be written.
  """
  partial = temporary.beside(out)
  try:
    partial.mkdir(parents=True)
    yield partial
    partial.rename(out)
  except OSError as error:
    raise FileError(
      f"--out={out} cannot be written ({error.strerror or error}); choose a "
      "folder that you may write to, on a disk with room"
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


Reader = Callable[[pathlib.Path], Mapping[str, Any]]


def _reader(
  path: pathlib.Path, readers: Mapping[str, Reader], unsafe_pickle: bool
) -> Reader:
  """Chooses by the file's ending."""
  ending = path.suffix.lower()
  if ending not in readers:
    raise FileError(
      f"{path} ends in {ending!r}; files of {', '.join(readers)} can be read "
      "here"
    )
  if what := recognize.not_weights(path):
    raise FileError(what)
  if ending == ".pkl" and not unsafe_pickle:
    raise FileError(
      f"{path} is a pickle: reading it runs whatever code it holds, with your "
      "rights. If you trust whoever made it, give --unsafe_pickle; otherwise "
      "have its state_dict() saved as .pth or .npz where it comes from"
    )
  return readers[ending]


@contextlib.contextmanager
def _reading(path: pathlib.Path, kind: str) -> Iterator[None]:
  """Turns what a library says of a bad file into one `FileError`."""
  try:
    yield
  except FileError:
    raise
  # Each of the libraries has a dozen kinds of its own.
  except Exception as error:
    said = recognize.plain(str(error)).splitlines()
    said = [line for line in said if line.strip()]
    raise FileError(
      f"{path} cannot be read as {kind} ({type(error).__name__}: "
      f"{said[0].strip() if said else 'no more is known'}); it may be cut "
      "short or of another kind: compare its size and checksum with its "
      "source's"
    ) from error


def _read_npz(
  path: pathlib.Path, names: Collection[str] | None = None
) -> dict[str, Any]:
  with _reading(path, "a NumPy archive"):
    # NumPy takes all else for a pickle and says so.
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
      "never read; save it as an array of numbers"
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
        # What it is to be told instead, `recognize.torch_refusal` says.
        warnings.simplefilter("ignore")
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
      if what := recognize.torch_refusal(path, error):
        raise FileError(what) from error
      raise
    return _checked_flat(path, recognize.players_of(tree))


def _unpickle(path: pathlib.Path) -> Any:
  """Runs the code in a file. `_reader` has seen that this was asked for."""
  with open(path, "rb") as file, _reading(path, "a pickle"):
    try:
      return pickle.load(file)
    except ImportError as error:
      raise FileError(
        f"{path} needs the code that wrote it ({error}); put the authors' "
        "repository on PYTHONPATH and install what it requires"
      ) from error


def _unpickle_mapping(path: pathlib.Path) -> Mapping[str, Any]:
  tree = _unpickle(path)
  if not isinstance(tree, Mapping):
    raise FileError(
      f"{path} holds a {type(tree).__name__}, not a dictionary of arrays"
    )
  return tree


def _torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise FileError(
      f"{path} is a PyTorch file, and PyTorch is not installed; install it "
      "with `pip install bigscale[torch]`, or convert the file to .safetensors "
      "or .npz where it is"
    ) from error
  return torch


def _refuse_narrow(path: pathlib.Path, dtypes: Mapping[str, Any]) -> None:
  if names := recognize.narrow_floats(dtypes):
    raise FileError(recognize.narrow_refusal(path, names))


def _checked_flat(path: pathlib.Path, tree: Any) -> dict[str, Any]:
  """`_arrays` of a tree's tensors.

  Raises:
    FileError: some are of 8-bit floats.
  """
  leaves = _flat(tree)
  dtypes = {name: getattr(x, "dtype", "") for name, x in leaves.items()}
  _refuse_narrow(path, dtypes)
  return {name: _array(leaf) for name, leaf in leaves.items()}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  """Nested dictionaries and modules to tensors by name."""
  if hasattr(tree, "state_dict"):
    tree = tree.state_dict()
  if isinstance(tree, Mapping):
    leaves = {}
    for key, value in tree.items():
      leaves |= _flat(value, f"{prefix}/{key}" if prefix else str(key))
    return leaves
  return {prefix: tree}


def _array(leaf: Any) -> Any:
  """A tensor as an array; anything else as it is."""
  if hasattr(leaf, "detach"):
    # NumPy has no bfloat16; float32 holds all of it.
    return leaf.detach().cpu().float().numpy()
  return leaf


def _not_numbers(value: Any) -> str:
  """What a value is if it is no array of numbers; "" if it is."""
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
