"""Stores the weights of the FID's Inception-v3 in the cache directory.

`bigscale import --format=inception` writes them once; nothing downloads them.
The file contains a fingerprint of its arrays, so that a damaged file is
refused. Scores record the fingerprint, which distinguishes them from scores
with other weights.
"""

import hashlib
import os
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from bigscale import temporary
from bigscale.metrics import cache
from bigscale.metrics.features import FrozenWeights
from bigscale.metrics.inception import Inception, leaves
from bigscale.spec import FeatureNetwork, SpecError, require

FILE = "inception-v3-fid.npz"

_NOTES = ("fingerprint", "source")
_REMEDY = "write it again with: bigscale import --format=inception FILE"
_MISSING = (
  "there are no weights of the FID's Inception-v3 at {path}, and they are not "
  "downloaded automatically. Get pt_inception-2015-12-05-6726825d.pth (95 MB; "
  "release `fid_weights` of github.com/mseitzer/pytorch-fid), or the same file "
  "from torch-fidelity's release v0.2.0, "
  "weights-inception-2015-12-05-6726825d.pth (github.com/toshas/"
  "torch-fidelity), and run: bigscale import --format=inception FILE. It is "
  f"stored in ${cache.ENVIRONMENT}, or in ~/.cache/bigscale if that is not set"
)


def make_weights(
  arrays: Mapping[str, np.ndarray], source: str = ""
) -> FrozenWeights:
  """Checks arrays and returns them as the network's weights.

  Args:
    arrays: arrays of `inception.leaves`, by path, float32.
    source: readable description of their origin.

  Raises:
    SpecError: names each array that is missing, unexpected, not finite, or of
      another shape or dtype.
  """
  wanted = leaves()
  problems = [f"missing {path}" for path in sorted(set(wanted) - set(arrays))]
  problems += [f"extra {path}" for path in sorted(set(arrays) - set(wanted))]
  for path in sorted(set(wanted) & set(arrays)):
    value, leaf = arrays[path], wanted[path]
    if value.shape != leaf.shape or value.dtype != leaf.dtype:
      problems.append(
        f"{path} is {value.dtype} {list(value.shape)}, not {leaf.dtype} "
        f"{list(leaf.shape)}"
      )
    elif not np.isfinite(value).all():
      problems.append(f"{path} has values that are NaN or infinite")
  lines = "\n  ".join(problems)
  require(
    not problems,
    f"{len(problems)} arrays do not match the FID's Inception-v3:\n"
    f"  {lines}\nDownload the published file again",
  )
  variables = traverse_util.unflatten_dict(dict(arrays), sep="/")
  return FrozenWeights(variables, fingerprint(arrays), source)


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
  """Returns SHA-256 over paths and little-endian float32 values, sorted."""
  digest = hashlib.sha256()
  for path in sorted(arrays):
    digest.update(path.encode())
    digest.update(np.ascontiguousarray(arrays[path], "<f4").tobytes())
  return digest.hexdigest()


def save(weights: FrozenWeights, cache_dir: str | None = None) -> str:
  """Writes the weights file atomically, replacing an older file.

  Args:
    weights: result of `make_weights`.
    cache_dir: see `cache.directory`.

  Returns:
    The path of the file.

  Raises:
    SpecError: the file cannot be written.
  """
  path = os.path.join(cache.directory(cache_dir), FILE)
  arrays = traverse_util.flatten_dict(weights.variables, sep="/")
  notes = {name: np.array(getattr(weights, name)) for name in _NOTES}
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with temporary.replacing(path) as partial, open(partial, "wb") as file:
      np.savez(file, **arrays, **notes)
  except OSError as error:
    raise SpecError(
      f"{path} cannot be written ({error.strerror or error}); set "
      f"{cache.ENVIRONMENT} to a writable directory with 100 MB of free space"
    ) from error
  return path


def load(
  path: str | None = None, *, cache_dir: str | None = None
) -> FrozenWeights:
  """Reads and checks the file that `save` writes.

  Args:
    path: path of the file; None uses the one in the cache.
    cache_dir: see `cache.directory`.

  Raises:
    SpecError: the file is missing (the message says where to get it), damaged
      or of another format.
  """
  path = path or os.path.join(cache.directory(cache_dir), FILE)
  if not os.path.isfile(path):
    raise SpecError(_MISSING.format(path=path))
  arrays = _read(path)
  missing = [name for name in _NOTES if name not in arrays]
  require(
    not missing,
    f"{path} has no {' and no '.join(missing)}, so it was not written by an "
    "import. To use a published file, run: bigscale import "
    f"--format=inception {path}",
  )
  said, source = (str(arrays.pop(name)) for name in _NOTES)
  try:
    weights = make_weights(arrays, source)
  except SpecError as error:
    raise SpecError(f"{path}: {error}; {_REMEDY}") from error
  require(
    weights.fingerprint == said,
    f"{path} is damaged: its arrays have the fingerprint "
    f"{weights.fingerprint[:16]}, but {said[:16]} was written; {_REMEDY}",
  )
  return weights


def _read(path: str) -> dict[str, np.ndarray]:
  try:
    return cache.load(path)
  except cache.UNREADABLE as error:
    raise SpecError(
      f"{path} cannot be read ({error}): it is truncated, damaged or of "
      f"another format; {_REMEDY}"
    ) from error


INCEPTION = FeatureNetwork(
  name="inception",
  weights=lambda cache_dir: load(cache_dir=cache_dir),
  make=lambda weights, mesh: Inception(weights, mesh, "tf1"),
)
INCEPTION_CLEAN = FeatureNetwork(
  name="inception_clean",
  weights=INCEPTION.weights,
  make=lambda weights, mesh: Inception(weights, mesh, "clean"),
)
