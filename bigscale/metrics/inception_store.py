"""Weights of the FID's Inception-v3, kept in the cache directory.

`bigscale import --format=inception` writes them, once; nothing downloads them.
The file holds a fingerprint of its own arrays, so that a damaged one is
refused, and scores name it, so that other weights are not taken for these.
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
_REMEDY = "write it again: bigscale import --format=inception FILE"
_MISSING = (
  "there are no weights of the FID's Inception-v3 at {path}, and nothing is "
  "downloaded here. Get pt_inception-2015-12-05-6726825d.pth (95 MB; release "
  "`fid_weights` of github.com/mseitzer/pytorch-fid) or the same file of "
  "torch-fidelity's release v0.2.0, weights-inception-2015-12-05-6726825d.pth "
  "(github.com/toshas/torch-fidelity), and write: bigscale import "
  f"--format=inception FILE. It is kept in ${cache.ENVIRONMENT}, else in "
  "~/.cache/bigscale"
)


def make_weights(
  arrays: Mapping[str, np.ndarray], source: str = ""
) -> FrozenWeights:
  """Takes arrays as the network's weights.

  Args:
    arrays: those of `inception.leaves`, by path, float32.
    source: where they are from; for people.

  Raises:
    SpecError: names what is missing, extra, of another shape or type, or not
      finite.
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
    f"{len(problems)} arrays are not as the FID's Inception-v3 has them:\n"
    f"  {lines}\nTake the published file from its source again",
  )
  variables = traverse_util.unflatten_dict(dict(arrays), sep="/")
  return FrozenWeights(variables, fingerprint(arrays), source)


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
  """SHA-256 over paths and little-endian float32 values, sorted by path."""
  digest = hashlib.sha256()
  for path in sorted(arrays):
    digest.update(path.encode())
    digest.update(np.ascontiguousarray(arrays[path], "<f4").tobytes())
  return digest.hexdigest()


def save(weights: FrozenWeights, cache_dir: str | None = None) -> str:
  """Writes the file, whole or not at all, in the place of an older one.

  Args:
    weights: from `make_weights`.
    cache_dir: see `cache.directory`.

  Returns:
    Its path.

  Raises:
    SpecError: it cannot be written.
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
      f"{cache.ENVIRONMENT} to a directory that you may write to, with 100 MB "
      "of room"
    ) from error
  return path


def load(
  path: str | None = None, *, cache_dir: str | None = None
) -> FrozenWeights:
  """Reads what `save` wrote, and checks all of it.

  Args:
    path: of such a file; None takes the one in the cache.
    cache_dir: see `cache.directory`.

  Raises:
    SpecError: there is no such file (the message says where to get it), or it
      is damaged or of another kind.
  """
  path = path or os.path.join(cache.directory(cache_dir), FILE)
  if not os.path.isfile(path):
    raise SpecError(_MISSING.format(path=path))
  arrays = _read(path)
  missing = [name for name in _NOTES if name not in arrays]
  require(
    not missing,
    f"{path} has no {' and no '.join(missing)}: it is not what an import "
    "wrote. To use a published file, write: bigscale import "
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
    f"{weights.fingerprint[:16]}, and {said[:16]} were written; {_REMEDY}",
  )
  return weights


def _read(path: str) -> dict[str, np.ndarray]:
  try:
    return cache.load(path)
  except cache.UNREADABLE as error:
    raise SpecError(
      f"{path} cannot be read ({error}): it is cut short, damaged or of "
      f"another kind; {_REMEDY}"
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
