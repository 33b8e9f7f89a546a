"""Reference statistics of features, as others publish them for the FID.

Ours are written as pytorch-fid's are, `mu` and `sigma` in an `.npz`, with one
entry more, `protocol`: JSON that says how they came about. Others' files say
little. What is known of them is

*   ADM's reference batches (those with `mu_s`) and StyleGAN's sums: images
    were resized as TensorFlow 1 did;
*   clean-fid's: the mode stands in the file's name, `..._clean_...`.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigscale import temporary
from bigscale.interop.files import (
  FileError,
  new_folder,
  read_entries,
  require_new,
  sha256,
)

# Of the largest entry and of the largest eigenvalue: what float32 leaves.
_TOLERANCE = 1e-5
_MOMENTS = ("mu", "sigma")
# StyleGAN's sums over `num_items` rows of features.
_SUMS = ("raw_mean", "raw_cov", "num_items")
# Of spatial features, which ADM's files hold besides.
_ADM = "mu_s"
_PROTOCOL = "protocol"
# Parts of clean-fid's file names.
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
    count: of images behind them, None where the file does not say.
    resize: how these came to the network's size, of
      `bigscale.metrics.inception_resize.RULES` or `pytorch`; None where nobody
      says.
    feature: name of the network (`bigscale.spec.scores.FEATURES`), None where
      the file does not say.
    weights: fingerprint of the network's, None where the file does not say.
    source: of the images, for people; "" where the file does not say.
    label_counts: images of each class; None where the file does not say.
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
      pytorch-fid, clean-fid, what `save_statistics` writes, ADM's reference
      batches, whose images and spatial features are left alone), or with
      StyleGAN's `raw_mean`, `raw_cov`, `num_items`.
    unsafe_pickle: allow a `.pkl` to run the code it holds.

  Raises:
    FileError: the file cannot be read, or its moments are not moments.
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
    f"these it has: {', '.join(found) or 'none'}. Name a file of FID "
    "statistics"
  )


def save_statistics(
  path: str | os.PathLike[str], statistics: Statistics
) -> None:
  """Writes a `.npz`, whole or not at all, in the place of an older one.

  Raises:
    FileError: it cannot be written.
  """
  path = pathlib.Path(path)
  said = statistics._asdict()
  arrays = {"mu": said.pop("mean"), "sigma": said.pop("covariance")}
  try:
    with temporary.replacing(path) as partial, open(partial, "wb") as file:
      np.savez(file, **arrays, **{_PROTOCOL: np.array(json.dumps(said))})
  except OSError as error:
    raise FileError(
      f"{path} cannot be written ({error.strerror or error}); choose a place "
      "that you may write to, on a disk with room"
    ) from error


def write_statistics(
  out: str | os.PathLike[str],
  statistics: Statistics,
  path: str | os.PathLike[str],
) -> None:
  """Writes OUT/statistics.npz and OUT/statistics.json.

  Args:
    out: a folder that is not there or empty.
    statistics: as `save_statistics` has them.
    path: where they were read; its name and digest go into the JSON.

  Raises:
    FileError: the folder holds something, or cannot be written.
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
    (folder / "statistics.json").write_text(json.dumps(provenance, indent=2))


def _from_sums(
  path: str | os.PathLike[str], found: Mapping[str, Any]
) -> tuple[Any, Any, int]:
  mean_sum, product_sum, count = (found[name] for name in _SUMS)
  # In an .npz it is an array of no dimensions.
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
  """With what a file of ours says of itself."""
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
      f"{path}: its protocol has no sound {', '.join(strange)}; {_AGAIN}"
    )
  counts = said.get("label_counts")
  if counts is not None and not _are_counts(counts):
    raise FileError(
      f"{path}: its label_counts must be numbers of 0 or more that are not "
      f"all 0; {_AGAIN}"
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
      f"{path}: {name} is an array of {array.dtype}; it must hold numbers"
    )
  return array.astype(np.float64)


def _checked(
  path: str | os.PathLike[str], mu: Any, sigma: Any, count: int | None
) -> Statistics:
  """The moments, if they can be some.

  Raises:
    FileError: names the first rule that is broken.
  """
  mean, covariance = _numbers(path, "mu", mu), _numbers(path, "sigma", sigma)
  remedy = "take the file from its source again"
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
      f"{path}: sigma is not symmetric: entries differ from their mirrors by "
      f"up to {skew:.3g}; {remedy}"
    )
  values = np.linalg.eigvalsh(covariance)
  if values.size and values[0] < -_TOLERANCE * np.abs(values).max():
    raise FileError(
      f"{path}: sigma has the eigenvalue {values[0]:.3g}, and a covariance "
      f"has none below 0; {remedy}"
    )
  return Statistics(mean, covariance, count)
