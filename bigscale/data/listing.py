"""Images in a folder or zip: their paths, and what it takes to read them."""

import array
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent import futures
from typing import NamedTuple

import numpy as np
from etils import epath

from bigscale.data.encoded import IMAGE_EXTENSIONS, RangeFile, is_remote
from bigscale.data.manifest import DataError

LABELS_FILE = "dataset.json"

_REMOTE_STATS_AT_ONCE = 32
_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")


class Listing(NamedTuple):
  """Files below a root.

  Attributes:
    paths: relative to the root, sorted.
    numbers: [N, 1] int64, their sizes; of a zip [N, 5]: size, CRC-32, start of
      the local header, packed size and method (-1 where it is encrypted).
  """

  paths: list[str]
  numbers: np.ndarray


def list_folder(root: str) -> Listing:
  """Lists the images and `dataset.json` files of a folder, at any depth.

  A million local files take seconds; links are followed. Remote ones are asked
  for their sizes one by one, some at a time.

  Raises:
    DataError: a folder cannot be read.
  """
  paths: list[str] = []
  sizes = array.array("q")
  try:
    found = _scan_remote(root) if is_remote(root) else _scan(root)
    for path, size in found:
      paths.append(path)
      sizes.append(size)
  except OSError as error:
    raise DataError(
      f"{error.filename or root} cannot be listed ({error.strerror or error}); "
      "check the path and the right to read it"
    ) from error
  return _sorted(paths, np.array(sizes, np.int64)[:, None])


def _scan(root: str) -> Iterator[tuple[str, int]]:
  """Paths and sizes of what is listed below a local root."""
  waiting = [""]
  while waiting:
    folder = waiting.pop()
    with os.scandir(os.path.join(root, folder)) as entries:
      for entry in entries:
        if _is_hidden(entry.name):
          continue
        path = folder + entry.name
        if entry.is_dir():
          if not (entry.is_symlink() and _leads_back(entry.path)):
            waiting.append(f"{path}/")
        elif _is_listed(entry.name):
          yield path, _size_of(entry)


def _size_of(entry: os.DirEntry) -> int:
  try:
    return entry.stat().st_size
  except OSError:  # a link to nothing: who reads it will say so
    return 0


def _leads_back(link: str) -> bool:
  target = os.path.realpath(link)
  here = os.path.realpath(os.path.dirname(link))
  return os.path.commonpath([target, here]) == target


def _scan_remote(root: str) -> list[tuple[str, int]]:
  top = epath.Path(root)
  files = [
    epath.Path(folder) / name
    for folder, _, names in top.walk()
    for name in names
    if _is_listed(name)
  ]
  paths = [file.relative_to(top).as_posix() for file in files]
  with futures.ThreadPoolExecutor(_REMOTE_STATS_AT_ONCE) as pool:
    sizes = pool.map(lambda file: file.stat().length, files)
    return [
      (path, size)
      for path, size in zip(paths, sizes, strict=True)
      if not any(_is_hidden(part) for part in path.split("/"))
    ]


def _is_hidden(name: str) -> bool:
  return name.startswith(".") or name == "__MACOSX"


def _is_listed(name: str) -> bool:
  return name.lower().endswith(IMAGE_EXTENSIONS) or name == LABELS_FILE


def _sorted(paths: list[str], numbers: np.ndarray) -> Listing:
  order = sorted(range(len(paths)), key=paths.__getitem__)
  return Listing([paths[row] for row in order], numbers[order])


def list_zip(path: str) -> Listing:
  """Lists the images and `dataset.json` files of a zip.

  Raises:
    DataError: it is no zip that can be read.
  """
  try:
    with epath.Path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
      infos = {info.filename: info for info in archive.infolist()}
  except (OSError, zipfile.BadZipFile) as error:
    raise DataError(
      f"{path} is not a readable zip ({error}); copy it again or pack it again"
    ) from error
  infos = {
    name: info
    for name, info in infos.items()
    if _is_listed(os.path.basename(name))
    and not any(_is_hidden(part) for part in name.split("/"))
  }
  numbers = [
    (
      info.file_size,
      info.CRC,
      info.header_offset,
      info.compress_size,
      -1 if info.flag_bits & 1 else info.compress_type,
    )
    for info in infos.values()
  ]
  return _sorted(list(infos), np.array(numbers, np.int64).reshape(-1, 5))


def unpack(file: RangeFile, numbers: np.ndarray) -> bytes:
  """A file of a zip, by its numbers in the listing.

  Needs no directory of the zip in memory, and any threads may call it.

  Raises:
    OSError: the zip cannot be read.
    ValueError: the file in it is not as listed.
  """
  size, crc, _, packed_size, method = numbers.tolist()
  data = file.read(_start_of(file, numbers), packed_size)
  if method == zipfile.ZIP_DEFLATED:
    data = _inflate(data, size + 1)
  if zlib.crc32(data) != crc:
    raise ValueError("it is not what its checksum in the zip says")
  return data


def unpack_first(file: RangeFile, numbers: np.ndarray, size: int) -> bytes:
  """The first bytes of a file of a zip, so many at most; errors likewise."""
  packed_size, method = numbers[3:].tolist()
  data = file.read(_start_of(file, numbers), min(packed_size, size))
  return _inflate(data, size) if method == zipfile.ZIP_DEFLATED else data


def _start_of(file: RangeFile, numbers: np.ndarray) -> int:
  """Where the content of a file of a zip begins."""
  start, method = numbers[2].item(), numbers[4].item()
  if method not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
    how = "encrypted" if method < 0 else f"packed by method {method}"
    raise ValueError(f"it is {how}, and only stored or deflated is read")
  header = file.read(start, _ZIP_LOCAL_HEADER.size)
  if len(header) < _ZIP_LOCAL_HEADER.size or header[:4] != b"PK\3\4":
    raise ValueError("the zip does not have it where its directory says")
  _, name, extra = _ZIP_LOCAL_HEADER.unpack(header)
  return start + _ZIP_LOCAL_HEADER.size + name + extra


def _inflate(data: bytes, size: int) -> bytes:
  try:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
  except zlib.error as error:
    raise ValueError(f"it does not unpack ({error})") from error
