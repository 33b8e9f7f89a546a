"""Reads and writes reference statistics of features for the FID.

Files are written in pytorch-fid's format, `mu` and `sigma` in an `.npz`, with
one extra entry, `protocol`: JSON that describes how the statistics were
computed. Other programs' files state little. The following is known:

*   ADM's reference batches (files with `mu_s`) and StyleGAN's sums: images were
    resized as in TensorFlow 1.
*   clean-fid's files: the file name contains the mode, `..._clean_...`.
"""

import io
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale.interop.files import (
  FileError,
  new_folder,
  read_entries,
  require_new,
  sha256,
)
from bigscale.place import is_remote, on_disk, open_object, open_place

# Relative to the largest entry or eigenvalue: the precision of float32.
_TOLERANCE = 1e-5
_MOMENTS = ("mu", "sigma")
# StyleGAN's files store sums over `num_items` rows of features.
_SUMS = ("raw_mean", "raw_cov", "num_items")
# Mean of spatial features, which ADM's files also contain.
_ADM = "mu_s"
_PROTOCOL = "protocol"
# Modes in clean-fid's file names.
_CLEAN_FID = re.compile(r"_(clean|legacy_tensorflow|legacy_pytorch)_")
_AGAIN = (
  "write the file again: bigscale evaluate --write_statistics or bigscale "
  "import --format=stats"
)
_MODES = {
  "clean": "clean",
  "legacy_tensorflow": "tf1",
  "legacy_pytorch": "pytorch",
}


class Statistics(NamedTuple):
  """Moments of features.

  Attributes:
    mean: [D] float64.
    covariance: [D, D] float64, symmetric and positive semi-definite.
    count: number of images, None if unknown.
    resize: how the images were resized for the network, a key of
      `bigscale.metrics.inception_resize.RULES` or `pytorch`; None if unknown.
    feature: name of the network (`bigscale.spec.scores.FEATURES`), None if
      unknown.
    weights: fingerprint of the network's weights, None if unknown.
    source: readable description of the images; "" if unknown.
    label_counts: number of images per class; None if unknown.
  """

  mean: np.ndarray
  covariance: np.ndarray
  count: int | None
  resize: str | None = None
  feature: str | None = None
  weights: str | None = None
  source: str = ""
  label_counts: tuple[float, ...] | None = None


def read_statistics(
  path: str | os.PathLike[str], *, unsafe_pickle: bool = False
) -> Statistics:
  """Reads and checks a file of statistics.

  Args:
    path: a `.npz` or `.pkl` with `mu` [D] and `sigma` [D, D] (TTUR,
      pytorch-fid, clean-fid, `save_statistics`, or ADM's reference batches,
      whose images and spatial features are ignored), or with StyleGAN's
      `raw_mean`, `raw_cov`, `num_items`.
    unsafe_pickle: whether a `.pkl` may run the code it contains.

  Raises:
    FileError: the file cannot be read, or its moments are invalid.
  """
  names = (*_MOMENTS, *_SUMS, _ADM, _PROTOCOL)
  found = read_entries(path, names, unsafe_pickle=unsafe_pickle)
  if all(name in found for name in _SUMS):
    sums = _checked(path, *_from_sums(path, found))
    return sums._replace(resize="tf1")
  if all(name in found for name in _MOMENTS):
    moments = _checked(path, found["mu"], found["sigma"], None)
    if _PROTOCOL in found:
      return _with_protocol(path, moments, found[_PROTOCOL])
    return moments._replace(resize=_resize_of(path, found))
  raise FileError(
    f"{path} has neither {' and '.join(_MOMENTS)} nor {', '.join(_SUMS)}; of "
    f"these it has: {', '.join(found) or 'none'}. Use a file of FID statistics"
  )


def save_statistics(
  path: str | os.PathLike[str], statistics: Statistics
) -> None:
  """Writes a `.npz` atomically, replacing an older file.

  Raises:
    FileError: the file cannot be written.
  """
  said = statistics._asdict()
  arrays = {"mu": said.pop("mean"), "sigma": said.pop("covariance")}
  try:
    content = io.BytesIO()
    np.savez(content, **arrays, **{_PROTOCOL: np.array(json.dumps(said))})
    if not is_remote(path):
      on_disk(path).parent.stat()  # A place would create a missing folder.
    place, name = open_object(path)
    place.write(name, content.getvalue())
  except OSError as error:
    raise FileError(
      f"{path} cannot be written ({error.strerror or error}); choose a "
      "writable path on a disk with free space"
    ) from error


def write_statistics(
  out: str | os.PathLike[str],
  statistics: Statistics,
  path: str | os.PathLike[str],
) -> None:
  """Writes OUT/statistics.npz and OUT/statistics.json.

  Args:
    out: a folder that does not exist or is empty.
    statistics: statistics to write.
    path: file they were read from; its name and digest go into the JSON.

  Raises:
    FileError: the folder is not empty or cannot be written.
  """
  provenance = {
    "source": pathlib.Path(path).name,
    "sha256": sha256(path),
    "dimension": len(statistics.mean),
    "count": statistics.count,
    "resize": statistics.resize,
  }
  named = statistics._replace(
    source=statistics.source or pathlib.Path(path).name
  )
  with new_folder(require_new(out)) as folder:
    save_statistics(folder / "statistics.npz", named)
    text = json.dumps(provenance, indent=2)
    open_place(folder).write("statistics.json", text.encode())


def _from_sums(
  path: str | os.PathLike[str], found: Mapping[str, Any]
) -> tuple[Any, Any, int]:
  mean_sum, product_sum, count = (found[name] for name in _SUMS)
  # In an .npz, the count is a 0-dimensional array.
  count = count.item() if isinstance(count, np.ndarray | np.generic) else count
  if not isinstance(count, int) or count < 2:
    raise FileError(f"{path}: num_items={count!r} must be 2 or more")
  mean = _numbers(path, "raw_mean", mean_sum) / count
  products = _numbers(path, "raw_cov", product_sum) / count
  if products.shape != (mean.size, mean.size):
    return mean, products, count
  return mean, products - np.outer(mean, mean), count


def _resize_of(
  path: str | os.PathLike[str], found: Mapping[str, Any]
) -> str | None:
  if _ADM in found:
    return "tf1"
  mode = _CLEAN_FID.search(pathlib.Path(path).name)
  return _MODES[mode[1]] if mode else None


def _with_protocol(
  path: str | os.PathLike[str], statistics: Statistics, text: Any
) -> Statistics:
  """Adds the values of a file's own protocol to its statistics."""
  kinds = {
    "count": int | None,
    "resize": str | None,
    "feature": str | None,
    "weights": str | None,
    "source": str,
  }
  try:
    said = json.loads(str(text))
    strange = [
      name for name, kind in kinds.items() if not isinstance(said[name], kind)
    ]
  except (ValueError, KeyError, TypeError) as error:
    raise FileError(
      f"{path}: its protocol cannot be read ({error}); {_AGAIN}"
    ) from error
  if strange:
    raise FileError(
      f"{path}: its protocol has no valid {', '.join(strange)}; {_AGAIN}"
    )
  counts = said.get("label_counts")
  if counts is not None and not _are_counts(counts):
    raise FileError(
      f"{path}: its label_counts must be 0 or more and not all 0; {_AGAIN}"
    )
  return statistics._replace(
    **{name: said[name] for name in kinds},
    label_counts=None if counts is None else tuple(counts),
  )


def _are_counts(values: Any) -> bool:
  return (
    isinstance(values, list)
    and all(
      type(value) in (int, float) and math.isfinite(value) and value >= 0
      for value in values
    )
    and sum(values) > 0
  )


def _numbers(path: str | os.PathLike[str], name: str, value: Any) -> np.ndarray:
  array = np.asarray(value)
  if array.dtype.kind not in "fiu":
    raise FileError(
      f"{path}: {name} is an array of {array.dtype}; it must contain numbers"
    )
  return array.astype(np.float64)


def _checked(
  path: str | os.PathLike[str], mu: Any, sigma: Any, count: int | None
) -> Statistics:
  """Returns the moments if they are valid.

  Raises:
    FileError: names the first rule that is violated.
  """
  mean, covariance = _numbers(path, "mu", mu), _numbers(path, "sigma", sigma)
  remedy = "download the file again"
  if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
    raise FileError(
      f"{path}: mu has shape {mean.shape} and sigma {covariance.shape}; they "
      f"must be [D] and [D, D]; {remedy}"
    )
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise FileError(
      f"{path}: mu or sigma has values that are NaN or infinite; {remedy}"
    )
  skew = np.abs(covariance - covariance.T).max(initial=0)
  if skew > _TOLERANCE * np.abs(covariance).max(initial=0):
    raise FileError(
      f"{path}: sigma is not symmetric: entries differ from their transposed "
      f"entries by up to {skew:.3g}; {remedy}"
    )
  values = np.linalg.eigvalsh(covariance)
  if values.size and values[0] < -_TOLERANCE * np.abs(values).max():
    raise FileError(
      f"{path}: sigma has the eigenvalue {values[0]:.3g}, but a covariance has "
      f"none below 0; {remedy}"
    )
  return Statistics(mean, covariance, count)
