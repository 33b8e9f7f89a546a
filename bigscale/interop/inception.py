"""Reads the FID's Inception-v3 from PyTorch files, for `metrics.inception`.

pytorch-fid and torch-fidelity publish the same state dict. Following PyTorch's
hub, its file name contains the first digits of the file's SHA-256.
"""

import os
import pathlib
import re

from bigscale.interop import tensors as layouts
from bigscale.interop.files import (
  FileError,
  existing_file,
  read_tensors,
  sha256,
)
from bigscale.interop.tensors import Tensors, TensorsError, TensorSource
from bigscale.metrics.features import FrozenWeights
from bigscale.metrics.inception import leaves
from bigscale.metrics.inception_store import make_weights

FORMAT = "pytorch-fid's and torch-fidelity's Inception-v3 of 2015"

_DIGEST_IN_NAME = re.compile(r".*-([0-9a-f]{8})\.(pth|pt)")
_NAMES = {
  "conv/kernel": ("conv.weight", layouts.CONV),
  "bn/scale": ("bn.weight", layouts.SAME),
  "bn/bias": ("bn.bias", layouts.SAME),
  "bn/mean": ("bn.running_mean", layouts.SAME),
  "bn/var": ("bn.running_var", layouts.SAME),
  "fc/kernel": ("fc.weight", layouts.DENSE),
  "fc/bias": ("fc.bias", layouts.SAME),
}


def read_weights(
  path: str | os.PathLike[str], *, unsafe_pickle: bool = False
) -> FrozenWeights:
  """Reads the weights from a state dict in a file.

  Args:
    path: a file in any format of `files.read_tensors`. If the name of a `.pth`
      or `.pt` ends in eight hexadecimal digits, the file's SHA-256 must begin
      with them.
    unsafe_pickle: see `files.read_tensors`.

  Raises:
    FileError: the file cannot be read, or does not match the digest in its
      name.
    TensorsError: names every missing, unexpected and misshaped tensor.
    SpecError: values are not finite.
  """
  path = existing_file(path)
  digest = _checked_digest(path)
  found = read_tensors(path, unsafe_pickle=unsafe_pickle)
  try:
    return weights(found, f"{path.name}, SHA-256 {digest}")
  except TensorsError as error:
    raise TensorsError(
      f"{path} does not contain the Inception-v3 of the FID, which has 1008 "
      f"outputs and differs from torchvision's: {error}"
    ) from error


def weights(tensors: Tensors, source: str = "") -> FrozenWeights:
  """Converts a `FeatureExtractorInceptionV3.state_dict()`.

  Args:
    tensors: tensors by PyTorch name; `num_batches_tracked` is optional.
    source: see `FrozenWeights`.

  Raises:
    TensorsError: names every missing, unexpected and misshaped tensor.
    SpecError: values are not finite.
  """
  counters = {n for n in tensors if n.endswith(".bn.num_batches_tracked")}
  shapes = leaves()
  arrays = layouts.fetch(tensors, sources(), shapes, ignored=counters)
  return make_weights(arrays, source)


def sources() -> dict[str, TensorSource]:
  """Returns the file's tensor for each array of the network, by path."""
  found = {}
  for path in leaves():
    # "params/Mixed_5b/branch1x1/conv/kernel": a collection, then module names.
    *modules, kind, leaf = path.split("/")[1:]
    name, layout = _NAMES[f"{kind}/{leaf}"]
    found[path] = TensorSource(".".join([*modules, name]), layout)
  return found


def _checked_digest(path: pathlib.Path) -> str:
  digest = sha256(path)
  named = _DIGEST_IN_NAME.fullmatch(path.name)
  if named and not digest.startswith(named[1]):
    raise FileError(
      f"{path} must have a SHA-256 that begins with {named[1]}, as its name "
      f"says, but it begins with {digest[:8]}: the file is truncated or was "
      "changed; download it again, or rename it if you changed it yourself"
    )
  return digest
