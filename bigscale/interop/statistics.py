"""Reference statistics of features, as others publish them for the FID."""

import json
import os
import pathlib
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

# Of the largest entry and of the largest eigenvalue: what float32 leaves.
_TOLERANCE = 1e-5
_MOMENTS = ("mu", "sigma")
# StyleGAN's sums over `num_items` rows of features.
_SUMS = ("raw_mean", "raw_cov", "num_items")


class Statistics(NamedTuple):
  """Moments of features.

  Attributes:
    mean: [D] float64.
    covariance: [D, D] float64, symmetric and positive semi-definite.
    count: of images behind them, None where the file does not say.
  """

  mean: np.ndarray
  covariance: np.ndarray
  count: int | None


def read_statistics(
  path: str | os.PathLike[str], *, unsafe_pickle: bool = False
) -> Statistics:
  """Reads and checks a file of statistics.

  Args:
    path: a `.npz` with `mu` [D] and `sigma` [D, D] (TTUR, ADM's reference
      batches, whose images and `mu_s`, `sigma_s` are left alone), or a `.pkl`
      with these or with StyleGAN's `raw_mean`, `raw_cov`, `num_items`.
    unsafe_pickle: allow a `.pkl` to run the code it holds.

  Raises:
    FileError: the file cannot be read, or its moments are not moments.
  """
  names = (*_MOMENTS, *_SUMS)
  found = read_entries(path, names, unsafe_pickle=unsafe_pickle)
  if all(name in found for name in _SUMS):
    return _checked(path, *_from_sums(path, found))
  if all(name in found for name in _MOMENTS):
    return _checked(path, found["mu"], found["sigma"], None)
  raise FileError(
    f"{path} has neither {' and '.join(_MOMENTS)} nor {', '.join(_SUMS)}; of "
    f"these it has: {', '.join(found) or 'none'}. Name a file of FID "
    "statistics"
  )


def write_statistics(
  out: str | os.PathLike[str],
  statistics: Statistics,
  path: str | os.PathLike[str],
) -> None:
  """Writes OUT/statistics.npz and OUT/statistics.json.

  Args:
    out: a folder that is not there or empty.
    statistics: become `mean` and `covariance`.
    path: where they were read; its name and digest go into the JSON.

  Raises:
    FileError: the folder holds something, or cannot be written.
  """
  provenance = {
    "source": pathlib.Path(path).name,
    "sha256": sha256(path),
    "dimension": len(statistics.mean),
    "count": statistics.count,
  }
  with new_folder(require_new(out)) as folder:
    np.savez(
      folder / "statistics.npz",
      mean=statistics.mean,
      covariance=statistics.covariance,
    )
    (folder / "statistics.json").write_text(json.dumps(provenance, indent=2))


def _from_sums(
  path: str | os.PathLike[str], found: Mapping[str, Any]
) -> tuple[Any, Any, int]:
  mean_sum, product_sum, count = (found[name] for name in _SUMS)
  if not isinstance(count, int) or count < 2:
    raise FileError(f"{path}: num_items={count!r} must be 2 or more")
  mean = _numbers(path, "raw_mean", mean_sum) / count
  products = _numbers(path, "raw_cov", product_sum) / count
  if products.shape != (mean.size, mean.size):
    return mean, products, count
  return mean, products - np.outer(mean, mean), count


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
