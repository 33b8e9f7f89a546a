"""Opens data sources by the names that users give, using a table of kinds.

An opener is called with the rest of the name after its kind, and the split. The
module of a kind is imported when the first such source is opened. Sources
outside this package are named `package.module:Name` or
`package.module:Name:ARGUMENT`.
"""

import contextlib
import difflib
import importlib.util
import os
import sys
from collections.abc import Callable

import numpy as np

from bigscale.data import manifest as manifests
from bigscale.data import places
from bigscale.data.manifest import DataError, EmptySplitError, Split
from bigscale.data.sources import BadRecordError, Record, Source
from bigscale.spec import SpecError, named

EMBEDDED = ("fashion_mnist", "emoji")

_EMBEDDED_DIRECTORY = os.path.join(os.path.dirname(__file__), "embedded")

OPENERS = {
  # Selected by a prefix, such as tfds:mnist.
  "stacked": "bigscale.data.stacked:StackedSource",
  "synthetic": "bigscale.data.synthetic:open_synthetic",
  "tfds": "bigscale.data.tfds:TfdsSource",
  # Selected by the files at a path, or by its extension.
  "folder": "bigscale.data.folders:FolderSource",
  "npz": "bigscale.data.arrays:open_npz",
  "shards": "bigscale.data.shards:ShardSource",
  # Inputs of 'bigscale data build' only (`inputs`).
  "idx": "bigscale.data.idx:IdxSource",
  "tar": "bigscale.data.archives:TarSource",
}
_SCHEMES = ("stacked", "synthetic", "tfds")

_RECIPE = 'docs/how-to/extend.md, "A data source", has a complete example'


def opener(kind: str) -> Callable[..., Source]:
  """Returns the callable that opens sources of a kind, such as `npz`."""
  return named.load(OPENERS[kind], "a data source")


def open_source(
  source: str,
  split: Split,
  padding: int | None = None,
  cache_gb: float = 0.0,
) -> Source:
  """Opens one split of a data set without reading large files.

  Args:
    source: an embedded set (`fashion_mnist`, `emoji`); a directory with a
      `manifest.json`; a folder or zip of images (`folders`); an .npz
      (`arrays`); `tfds:NAME` (`tfds`); `stacked:SOURCE`, a source of digits
      (`stacked`); `synthetic:RECORDS:SIDE:CLASSES` or `...:LABELS`, the number
      of labels per record (`synthetic`); `package.module:Name` or
      `package.module:Name:ARGUMENT`, a subclass of `Source` or a function that
      returns one. It is called with the argument ("" by default) and the split.
    split: `train`, or `heldout` for images that are never trained on.
    padding: see `Source`; None uses the set's own padding, which is 0 unless
      its `manifest` says otherwise.
    cache_gb: see `DataSpec`.

  Raises:
    DataError: the set or split does not exist, or is invalid.
  """
  scheme, rest = _scheme_of(source)
  if scheme == "stacked":
    return opener(scheme)(
      open_source(rest, split, padding, cache_gb), rest, split
    )
  opened = _open(source, split, cache_gb)
  if padding is not None:
    opened.padding = padding
  return opened


def has_own_splits(source: str) -> bool:
  """Returns whether the kind of source defines a held-out split itself."""
  if _scheme_of(source)[0] or source in EMBEDDED:
    return True
  return is_named(source) or places.has_file(source, manifests.FILE_NAME)


def _scheme_of(source: str) -> tuple[str, str]:
  """Splits a source at its scheme, one of `_SCHEMES`; "" without a scheme."""
  scheme, colon, rest = source.partition(":")
  return (scheme, rest) if colon and scheme in _SCHEMES else ("", source)


def is_named(source: str) -> bool:
  """Returns whether a source is `package.module:Name` or `...:Name:ARGUMENT`.

  The module has a dot, or can be imported. Existing paths take precedence.
  """
  module = source.partition(":")[0]
  return (
    _reads_as_name(source)
    and not os.path.exists(source)
    and ("." in module or _is_importable(module))
  )


def _reads_as_name(source: str) -> bool:
  module, _, rest = source.partition(":")
  parts = [*module.split("."), rest.partition(":")[0]]
  return not _scheme_of(source)[0] and all(p.isidentifier() for p in parts)


def _is_importable(module: str) -> bool:
  return module in sys.modules or importlib.util.find_spec(module) is not None


def _open(source: str, split: Split, cache_gb: float) -> Source:
  source = places.user_path(source)
  scheme, rest = _scheme_of(source)
  if source in EMBEDDED:
    directory = os.path.join(_EMBEDDED_DIRECTORY, source)
    return opener("shards")(directory, split)
  if scheme:
    return opener(scheme)(rest, split)
  if is_named(source):
    return _open_named(source, split)
  places.check(source)
  kind, ending = places.kind_of(source), os.path.splitext(source)[1].lower()
  if ending == ".npz" and kind == "file":
    return opener("npz")(source, split)
  if kind == "folder" and places.has_file(source, manifests.FILE_NAME):
    return opener("shards")(source, split, cache_gb=cache_gb)
  if kind == "folder" or (ending == ".zip" and kind == "file"):
    return opener("folder")(source, split)
  hint = "check the path; if the data of a run have moved, pass --data=PATH"
  if close := difflib.get_close_matches(source, EMBEDDED, n=1):
    hint = f"did you mean {close[0]!r}?"
  elif _reads_as_name(source):
    hint = (
      f"no module {source.partition(':')[0]!r} can be imported: check the "
      "name, or add its folder to PYTHONPATH"
    )
  raise DataError(
    f"data.source={source!r} is neither an embedded set "
    f"({', '.join(EMBEDDED)}), nor a directory, .zip or .npz that exists, nor "
    "tfds:NAME, stacked:SOURCE, synthetic:RECORDS:SIDE:CLASSES or "
    f"package.module:Name of your own; {hint}"
  )


def _open_named(source: str, split: Split) -> Source:
  """Opens a source outside this package, and checks that it is complete."""
  module, name, *rest = source.split(":", 2)
  argument = rest[0] if rest else ""
  try:
    make = named.load(f"{module}:{name}", "a data source")
  except SpecError as error:
    raise DataError(str(error)) from error
  lacking = sorted(getattr(make, "__abstractmethods__", ()))
  if lacking:
    raise DataError(
      f"data source {source!r} lacks {', '.join(lacking)}; add what is missing "
      f"to {name}: {_RECIPE}"
    )

  def made(split: Split) -> Source:
    try:
      return make(argument, split)
    except SpecError:
      raise
    except Exception as error:
      raise DataError(
        f"data source {source!r} cannot be opened: {name}({argument!r}, "
        f"{split!r}) failed with {type(error).__name__}: {error}; check the "
        f"argument, and that {name} accepts an argument and a split"
      ) from error

  opened = made(split)
  _check_parts(opened, source)
  if split == "heldout":
    _check_held_out(opened, made("train"), source)
  return opened


def _check_parts(opened: Source, source: str) -> None:
  """Raises `DataError` if a user's source is incomplete."""
  kind = type(opened)
  if not isinstance(opened, Source):
    fault = f"returns {kind.__name__}, which is not a Source"
    remedy = "derive it from bigscale.data.sources.Source"
  elif (kind.content, kind.identity) == (Source.content, Source.identity):
    fault = "lacks content"
    remedy = (
      "add a method that returns a digest of all records, such as "
      "'my_set/train@3f2a'; a run resumes only if the content is equal"
    )
  elif not _are_names(getattr(opened, "class_names", None)):
    fault = "lacks class_names"
    remedy = "set it to a tuple of strings, () if there are no labels"
  elif not len(opened):
    raise EmptySplitError(
      f"this split of data source {source!r} has no records; add records"
    )
  else:
    _check_first(opened, source)
    opened.read = _CheckedRead(opened, source)
    return
  raise DataError(f"data source {source!r} {fault}; {remedy}: {_RECIPE}")


def _are_names(names: object) -> bool:
  return isinstance(names, tuple) and all(type(name) is str for name in names)


def _check_first(opened: Source, source: str) -> None:
  """Raises `DataError` if the first record violates `Source.read`."""
  try:
    record = opened.read(0)
  except BadRecordError:
    # Training counts and replaces bad records.
    return
  except Exception as error:
    raise DataError(
      f"data source {source!r} cannot read record 0: {type(error).__name__}: "
      f"{error}; return Record(image, labels), and raise BadRecordError for a "
      f"record that cannot be used: {_RECIPE}"
    ) from error
  if fault := _fault_of(record, opened.num_classes):
    raise DataError(f"data source {source!r} {fault}: {_RECIPE}")


def _fault_of(record: object, classes: int) -> str:
  """Returns what is wrong with a record of a user's source; "" if nothing."""
  try:
    image, labels = record
  except (TypeError, ValueError):
    return f"reads {type(record).__name__}; return Record(image, labels)"
  sound = isinstance(image, np.ndarray) and image.dtype == np.uint8
  if not sound or image.ndim != 3 or image.shape[2] not in (1, 3):
    what = f"{getattr(image, 'dtype', type(image).__name__)}"
    return (
      f"reads an image of {what} {getattr(image, 'shape', '')}; it must be "
      "uint8 [H, W, C] with C = 1 or 3: convert it in read"
    )
  whole = isinstance(labels, tuple) and all(
    isinstance(label, int | np.integer) for label in labels
  )
  if not whole or bool(labels) != bool(classes):
    rule = "a tuple of integers"
    if not classes:
      rule = "(), because class_names is empty"
  elif not all(0 <= label < classes for label in labels):
    rule = f"in [0, {classes}), because class_names has {classes} names"
  else:
    return ""
  return f"reads labels {labels!r}; they must be {rule}"


class _CheckedRead:
  """Wraps a user's `read`, and turns invalid records into bad records."""

  def __init__(self, source: Source, name: str) -> None:
    self._source, self._name = source, name

  def __call__(self, index: int) -> Record:
    """See `Source.read`; any error or invalid record is a `BadRecordError`."""
    try:
      record = type(self._source).read(self._source, index)
    except BadRecordError:
      raise
    except Exception as error:
      fault = f"read failed with {type(error).__name__}: {error}"
    else:
      fault = _fault_of(record, self._source.num_classes)
    if fault:
      where = f"data.source={self._name}"
      raise BadRecordError(self._source.name, index, fault, where)
    return record


def _check_held_out(heldout: Source, train: Source, source: str) -> None:
  """Raises `DataError` if both splits seem to contain the same records."""
  if len(heldout) != len(train):
    return
  with contextlib.suppress(BadRecordError):
    (image, labels), other = heldout.read(0), train.read(0)
    if labels == other.labels and np.array_equal(image, other.image):
      raise DataError(
        f"data source {source!r} returns the same records for both splits; "
        "held-out records must not be trained on: select records by the split, "
        f"as bigscale.data.splits.held_out does. {_RECIPE}"
      )
