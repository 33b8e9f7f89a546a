"""Reads images from WebDataset tar files."""

import collections
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

from bigscale.data import content, notes, split_names, splits
from bigscale.data.encoded import (
  IMAGE_EXTENSIONS,
  EncodedSource,
  PackedNames,
  RangeFile,
  check_length,
)
from bigscale.data.listing import hidden_by
from bigscale.data.manifest import DataError, Split
from bigscale.data.places import local_path, open_file
from bigscale.data.sources import MissingFile

_CHUNK_BYTES = 1 << 20
# Some data sets store captions and whole tables next to an image.
_MAX_LABEL_BYTES = 1 << 24


class _Record(NamedTuple):
  """A sample of a tar: the byte range of its image, and its labels."""

  name: str
  tar: int
  offset: int
  size: int
  labels: tuple[int, ...]


class _Counts:
  """Counts the files of the tars that are not read."""

  def __init__(self) -> None:
    self.left_out: collections.Counter[tuple[str, str]] = collections.Counter()
    self.hidden: collections.Counter[tuple[str, str]] = collections.Counter()
    self.without_image: list[str] = []
    self.without_end: list[str] = []
    self.folders: set[str] = set()

  def notes(self, what: str) -> tuple[str, ...]:
    """Returns one sentence per kind of file; `what` names the tars."""
    found = []
    if self.left_out:
      found.append(
        f"left out, neither images nor labels: {notes.by_ending(self.left_out)}"
      )
    if self.hidden:
      found.append(f"hidden files left out: {notes.by_ending(self.hidden)}")
    if self.without_image:
      found.append(
        f"labels without an image, {len(self.without_image):,} in total: "
        f"{notes.listed(self.without_image)}"
      )
    if self.without_end:
      found.append(
        "no end mark, so files may be missing: "
        f"{notes.listed(self.without_end)}"
      )
    return tuple(f"{what}: {sentence}" for sentence in found)


class TarSource(EncodedSource):
  """A split of the images in tar files that follow the WebDataset layout.

  Files of one tar whose names agree up to the first dot form a sample: an
  image, and its label in `.cls` (a number) or `.json` (`{"label": 3}` or
  `{"labels": [3, 7]}`). Other files and samples without an image are skipped
  and counted in `notes`. Opening a source reads all headers and labels once,
  which takes two minutes per million samples, and keeps about 60 bytes per
  sample. The identity covers names, sizes, labels and the bytes of the tars
  (`content`).

  A hash of the tar's name and the sample's name decides whether an image is
  held out. By default, about 5% of every class are held out. Adding tars does
  not move other images between the splits.

  Args:
    paths: path of one uncompressed tar, or paths of several in order; `gs://`
      and `s3://` addresses also work.
    split: `train` or `heldout`.
    heldout_fraction: fraction of the images that is held out.

  Raises:
    DataError: a tar cannot be read, there is no image, only some images have a
      label, a label is not a number, or a sample has two different labels.
  """

  def __init__(
    self,
    paths: str | Sequence[str],
    split: Split = "train",
    heldout_fraction: float = splits.HELDOUT_FRACTION,
  ) -> None:
    splits.check_split(split)
    paths = [paths] if isinstance(paths, str) else list(paths)
    self._files = [_open(local_path(path)) for path in paths]
    counts = _Counts()
    records = [
      record
      for tar, file in enumerate(self._files)
      for record in _scan(file.path, tar, counts)
    ]
    what = ", ".join(paths[:2]) + (", ..." if len(paths) > 2 else "")
    self.notes = counts.notes(what)
    if not records:
      raise DataError(
        f"{what or 'a list of tars'} is empty: no file name continues after "
        f"its first dot with one of {', '.join(IMAGE_EXTENSIONS)}; check the "
        f"path{''.join(f'; {note}' for note in self.notes)}"
      )
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    split_names.check_tars(stems, counts.folders)
    names = _check_labels(records, self._files)
    if not names:
      class_notes = split_names.folders_without_labels(counts.folders)
      self.notes += tuple(f"{what}: {sentence}" for sentence in class_notes)
    heldout = splits.held_out(
      splits.places_of(record.name for record in records), heldout_fraction
    )
    own = [records[row] for row in splits.rows_of(split, heldout, what)]
    self._names = PackedNames([record.name for record in own])
    self._places = np.array([record[1:4] for record in own], np.int64)
    digest = hashlib.sha256(self._names.digest())
    digest.update(self._places[:, 2].astype("<i8").tobytes())
    labels = [label for record in own for label in record.labels]
    super().__init__(
      "tar",
      os.path.basename(self._files[0].path).removesuffix(".tar"),
      split,
      names,
      np.array(labels, np.int32),
      _ends(own) if names else None,
      digest.digest(),
    )

  def __len__(self) -> int:
    return len(self._names)

  def check(self) -> tuple[MissingFile, ...]:
    """See `Source`: checks that every tar exists and has its original size."""
    counts = np.bincount(self._places[:, 0], minlength=len(self._files))
    found: tuple[MissingFile, ...] = ()
    for file, records in zip(self._files, counts.tolist(), strict=True):
      found += file.find_missing(records)
    return found

  def _read_content(self) -> content.Content:
    paths = [file.path for file in self._files]
    sizes = np.array([file.size for file in self._files])
    return content.of_files("", paths, sizes, self.name)

  def _size(self, index: int) -> int:
    return int(self._places[index, 2])

  def _whole(self, index: int) -> bytes:
    tar, offset, size = self._places[index].tolist()
    return check_length(self._files[tar].read(offset, size), size)

  def _first_bytes(self, index: int, size: int) -> bytes:
    tar, offset, whole = self._places[index].tolist()
    return self._files[tar].read(offset, min(size, whole))

  def _where(self, index: int) -> str:
    tar = self._files[int(self._places[index, 0])].path
    return f"{self._names[index]}, in {tar}"


def _open(path: str) -> RangeFile:
  try:
    return RangeFile(path)
  except OSError as error:
    raise DataError(
      f"{path} cannot be read ({error}); copy it again, or check the path"
    ) from error


def _ends(records: list[_Record]) -> np.ndarray | None:
  counts = [len(record.labels) for record in records]
  return None if set(counts) == {1} else np.cumsum(counts, dtype=np.int64)


def _scan(path: str, tar: int, counts: _Counts) -> list[_Record]:
  """Returns the samples of a tar, in its order."""
  images: dict[str, tuple[int, int]] = {}
  labels: dict[str, tuple[int, ...]] = {}
  try:
    with open_file(path) as file:
      for member in _members(file, path, counts):
        folder, name = os.path.split(member.name)
        hides = hidden_by(member.name.replace("\\", "/"))
        if hides:
          counts.hidden[hides, os.path.splitext(name)[1].lower()] += 1
          continue
        stem, _, extension = name.partition(".")
        key = f"{folder}/{stem}"
        extension = f".{extension.lower()}"
        if not member.isreg():
          counts.left_out[folder, f"{extension} that is a link"] += 1
        elif extension in IMAGE_EXTENSIONS:
          if key in images:
            raise DataError(
              f"{path} has two images named {key}, but a sample has one image: "
              "rename or remove one of them"
            )
          images[key] = (member.offset_data, member.size)
          counts.folders.add(os.path.normpath(folder))
        elif extension in (".cls", ".json"):
          file.seek(member.offset_data)
          # One extra byte shows that a label file is too long.
          text = file.read(min(member.size, _MAX_LABEL_BYTES + 1))
          found = _parse_label(text, extension, f"{member.name} in {path}")
          known = labels.setdefault(key, found) or found
          if found and known != found:
            raise DataError(
              f"{path} assigns two labels to {key.lstrip('/')}, "
              f"{_format(known)} and {_format(found)}; keep one"
            )
          labels[key] = known
        else:
          counts.left_out[folder, extension.rstrip(".")] += 1
  except (OSError, EOFError) as error:
    raise DataError(
      f"{path} cannot be read ({error}); copy it again, or check the path"
    ) from error
  counts.without_image += [
    key.lstrip("/")
    for key, found in labels.items()
    if found and key not in images
  ]
  own = os.path.basename(path)
  return [
    _Record(f"{own}/{key}".replace("//", "/"), tar, *place, labels.get(key, ()))
    for key, place in images.items()
  ]


def _format(labels: tuple[int, ...]) -> str:
  return str(list(labels) if len(labels) > 1 else labels[0])


def _members(
  file: IO[bytes], path: str, counts: _Counts
) -> Iterator[tarfile.TarInfo]:
  """Yields the files and links of a tar, and checks the tar to its end."""
  try:
    with tarfile.open(fileobj=file, mode="r:") as tar:
      while (member := tar.next()) is not None:
        tar.members.clear()  # Otherwise the list grows by one object per file.
        if not member.isdir() and not member.issparse():
          yield member
      file.seek(tar.offset)
      end = file.read(tarfile.BLOCKSIZE)
  except tarfile.TarError as error:
    raise DataError(
      f"{path} is not a valid tar ({error}); copy it again, or unpack it if it "
      "is compressed"
    ) from error
  # tarfile treats a damaged header as the end of the archive.
  if end.strip(b"\0"):
    raise DataError(
      f"{path} is damaged at byte {tar.offset}: no file starts there; copy or "
      "pack it again"
    )
  if not end:
    counts.without_end.append(path)
  while more := file.read(_CHUNK_BYTES):
    if more.strip(b"\0"):
      raise DataError(
        f"{path} goes on after its end mark, as concatenated tars do; pass the "
        "tars one by one, or pack them again"
      )


def _parse_label(text: bytes, extension: str, where: str) -> tuple[int, ...]:
  """Returns the labels of a `.cls` or `.json`; () if a `.json` has none."""
  try:
    if len(text) > _MAX_LABEL_BYTES:
      raise ValueError(f"it has more than {_MAX_LABEL_BYTES:,} bytes")
    if extension == ".cls":
      found = [int(text)]
    else:
      tree = json.loads(text)
      tree = tree if isinstance(tree, dict) else {}
      found = tree.get("labels", tree.get("label"))
      found = [] if found is None else found
      found = found if isinstance(found, list) else [found]
    if all(type(each) is int and 0 <= each < 2**31 for each in found):
      return tuple(found)
    reason = f"it contains {found}"
  except (ValueError, RecursionError) as error:
    reason = str(error)
  raise DataError(
    f"{where} is not a label ({reason}); write a number from 0 into a .cls, or "
    '{"label": 3} into a .json'
  )


def _check_labels(
  records: list[_Record], files: list[RangeFile]
) -> tuple[str, ...]:
  """Returns the class names; () if there are no labels."""
  if not any(record.labels for record in records):
    return ()
  for record in records:
    if not record.labels:
      raise DataError(
        f"{record.name} in {files[record.tar].path} has no label, but other "
        "images have one; add a .cls or .json file, or remove the image"
      )
  most = max(max(record.labels) for record in records)
  return splits.number_names(most + 1, files[0].path)
