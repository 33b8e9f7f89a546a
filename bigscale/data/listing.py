"""Lists the images in a folder or zip, with the numbers needed to read them.

Hidden files are not listed: names that start with a dot, and the thumbnail and
trash folders of network storage, macOS and Windows. All other files that are
not listed are counted.
"""

import array
import collections
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bigscale.data.encoded import (
  IMAGE_EXTENSIONS,
  RangeFile,
  check_size,
)
from bigscale.data.manifest import DataError
from bigscale.data.places import is_remote, open_file
from bigscale.place import open_place

LABELS_FILE = "dataset.json"

_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")


# Lowercase names. Folders with these names are not listed.
_HIDDEN = frozenset(
  (
    "__macosx",
    "network trash folder",
    "temporary items",
    "@eadir",
    "#recycle",
    "#snapshot",
    "~snapshot",
    "@tmp",
    "@recycle",
    "@recently-snapshot",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
  )
)


class Listing(NamedTuple):
  """Files below a root.

  Attributes:
    paths: paths relative to the root, sorted.
    numbers: [N, 1] int64, sizes. For a zip [N, 5]: size, CRC-32, offset of the
      local header, compressed size and compression method (-1 if encrypted).
    left_out: counts of other files by folder and extension. "" is the root, or
      no extension.
    hidden: counts of hidden files by the name that hides them (`._*` stands
      for all such names of macOS) and extension.
    versions: versions of the files in a bucket (`Entry`); () elsewhere.
  """

  paths: list[str]
  numbers: np.ndarray
  left_out: Mapping[tuple[str, str], int]
  hidden: Mapping[tuple[str, str], int]
  versions: tuple[str, ...] = ()


class _FileFilter:
  """Decides which files are listed, and counts the others."""

  def __init__(self) -> None:
    self.left_out: collections.Counter[tuple[str, str]] = collections.Counter()
    self.hidden: collections.Counter[tuple[str, str]] = collections.Counter()

  def lists(self, path: str) -> bool:
    """Returns whether a file is listed, given its path below the root."""
    folder, _, name = path.rpartition("/")
    return self.lists_in(folder, hidden_by(folder), name)

  def lists_in(self, folder: str, hides: str, name: str) -> bool:
    """Returns whether a file is listed.

    Args:
      folder: folder of the file, relative to the root.
      hides: name that hides the folder; "" if the folder is not hidden.
      name: name of the file.
    """
    lower = name.lower()
    hides = hides or hidden_by(name)
    if hides:
      self.hidden[hides, os.path.splitext(lower)[1]] += 1
    elif lower.endswith(IMAGE_EXTENSIONS) or name == LABELS_FILE:
      return True
    else:
      self.leave_out(folder, name)
    return False

  def leave_out(self, folder: str, name: str, why: str = "") -> None:
    """Counts a file that is not listed; `why` is appended to its extension."""
    self.left_out[folder, os.path.splitext(name.lower())[1] + why] += 1

  def listing(
    self,
    paths: list[str],
    numbers: np.ndarray,
    versions: list[str] | None = None,
  ) -> Listing:
    """Returns the listed files, sorted, and the counts."""
    order = sorted(range(len(paths)), key=paths.__getitem__)
    return Listing(
      [paths[row] for row in order],
      numbers[order],
      dict(self.left_out),
      dict(self.hidden),
      tuple(versions[row] for row in order) if versions else (),
    )


def hidden_by(path: str) -> str:
  """Returns the name in a path that hides the file; "" if there is none."""
  for name in path.split("/"):
    if name.startswith("._"):
      return "._*"
    if name in (".", ".."):
      continue
    if name.startswith(".") or name.lower() in _HIDDEN:
      return name
  return ""


def list_folder(root: str) -> Listing:
  """Lists the images and `dataset.json` files of a folder, at any depth.

  Links are followed. A million local files take seconds. A bucket lists a
  thousand files at a time.

  Raises:
    DataError: a folder cannot be read, or a name has a backslash.
  """
  paths: list[str] = []
  sizes = array.array("q")
  versions: list[str] = []
  file_filter = _FileFilter()
  try:
    remote = is_remote(root)
    found = (
      _scan_remote(root, file_filter) if remote else _scan(root, file_filter)
    )
    for path, size, version in found:
      if "\\" in path:
        raise DataError(
          f"{root} has a file named {path!r}: a Windows archive was unpacked "
          "without creating its folders; unpack it with another program, or "
          "use the .zip itself"
        )
      paths.append(path)
      sizes.append(size)
      if remote:
        versions.append(version)
  except OSError as error:
    raise DataError(
      f"{error.filename or root} cannot be listed ({error.strerror or error}); "
      "check the path and its read permission"
    ) from error
  numbers = np.array(sizes, np.int64)[:, None]
  return file_filter.listing(paths, numbers, versions)


def _scan(
  root: str, file_filter: _FileFilter
) -> Iterator[tuple[str, int, str]]:
  """Yields path, size and "" of the listed files below a local root."""
  waiting = [("", "")]
  while waiting:
    folder, hides = waiting.pop()
    try:
      with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
          path = folder + entry.name
          if entry.is_dir():
            if not (entry.is_symlink() and _leads_back(entry.path)):
              waiting.append((f"{path}/", hides or hidden_by(entry.name)))
          elif file_filter.lists_in(folder[:-1], hides, entry.name):
            size = _size_of(entry)
            if size is None:
              file_filter.leave_out(
                folder[:-1], entry.name, " that is not a regular file"
              )
            else:
              yield path, size, ""
    except PermissionError:  # For example lost+found.
      if not hides:
        raise


def _size_of(entry: os.DirEntry) -> int | None:
  """Returns a file's size in bytes; None for pipes, which block on reading."""
  try:
    found = entry.stat()
  except OSError:  # A broken link, which raises an error when it is read.
    return 0
  return found.st_size if stat.S_ISREG(found.st_mode) else None


def _leads_back(link: str) -> bool:
  target = os.path.realpath(link)
  here = os.path.realpath(os.path.dirname(link))
  return os.path.commonpath([target, here]) == target


def _scan_remote(
  root: str, file_filter: _FileFilter
) -> Iterator[tuple[str, int, str]]:
  """Yields path, size and version of the listed files of a bucket."""
  for entry in open_place(root).list():
    if file_filter.lists(entry.name):
      yield entry


def list_zip(path: str) -> Listing:
  """Lists the images and `dataset.json` files of a zip.

  Backslashes also separate names, as in zips of old Windows programs.

  Raises:
    DataError: the zip cannot be read, a name points outside of it, or two
      different files have the same name.
  """
  try:
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
      infos = archive.infolist()
  except (OSError, zipfile.BadZipFile) as error:
    raise DataError(
      f"{path} is not a readable zip ({error}); copy it again or pack it again"
    ) from error
  file_filter = _FileFilter()
  found: dict[str, zipfile.ZipInfo] = {}
  for name, info in _zip_files(infos, path):
    other = found.get(name)
    if other is None:
      if file_filter.lists(name):
        found[name] = info
    elif (other.CRC, other.file_size) != (info.CRC, info.file_size):
      raise DataError(
        f"{path} has two different files named {name!r}; pack its folder again"
      )
  numbers = [
    (
      info.file_size,
      info.CRC,
      info.header_offset,
      info.compress_size,
      -1 if info.flag_bits & 1 else info.compress_type,
    )
    for info in found.values()
  ]
  return file_filter.listing(
    list(found), np.array(numbers, np.int64).reshape(-1, 5)
  )


def _zip_files(
  infos: Iterable[zipfile.ZipInfo], path: str
) -> Iterator[tuple[str, zipfile.ZipInfo]]:
  """Yields the files of a zip, named `folder/file` relative to its root."""
  for info in infos:
    name = info.orig_filename.replace("\\", "/")
    if name.endswith("/"):
      continue
    parts = name.split("/")
    absolute = not parts[0] or parts[0][1:] == ":"
    if absolute or ".." in parts or "\0" in name:
      raise DataError(
        f"{path} has a file named {info.orig_filename!r}, which points outside "
        "of the zip; pack it again from inside its folder"
      )
    yield "/".join(part for part in parts if part not in ("", ".")), info


def unpack(file: RangeFile, numbers: np.ndarray) -> bytes:
  """Returns a file of a zip, given its row of `Listing.numbers`.

  Thread-safe, and does not keep the zip's directory in memory.

  Raises:
    OSError: the zip cannot be read.
    ValueError: the file differs from the listing.
  """
  size, crc, _, packed_size, method = numbers.tolist()
  data = file.read(_start_of(file, numbers), check_size(packed_size))
  if method == zipfile.ZIP_DEFLATED:
    data = _inflate(data, size + 1)
  if zlib.crc32(data) != crc:
    raise ValueError("it does not match its checksum in the zip")
  return data


def unpack_first(file: RangeFile, numbers: np.ndarray, size: int) -> bytes:
  """Returns up to the first `size` bytes of a file of a zip; see `unpack`."""
  packed_size, method = numbers[3:].tolist()
  data = file.read(_start_of(file, numbers), min(packed_size, size))
  return _inflate(data, size) if method == zipfile.ZIP_DEFLATED else data


def _start_of(file: RangeFile, numbers: np.ndarray) -> int:
  """Returns the offset of a file's content in a zip."""
  start, method = numbers[2].item(), numbers[4].item()
  if method not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
    how = "encrypted" if method < 0 else f"packed by method {method}"
    raise ValueError(
      f"it is {how}, but only stored or deflated files are read: pack the zip "
      "again without a password, using deflate"
    )
  header = file.read(start, _ZIP_LOCAL_HEADER.size)
  if len(header) < _ZIP_LOCAL_HEADER.size or header[:4] != b"PK\3\4":
    raise ValueError("the zip's directory has a wrong offset for it")
  _, name, extra = _ZIP_LOCAL_HEADER.unpack(header)
  return start + _ZIP_LOCAL_HEADER.size + name + extra


def _inflate(data: bytes, size: int) -> bytes:
  try:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
  except zlib.error as error:
    raise ValueError(f"it cannot be decompressed ({error})") from error
