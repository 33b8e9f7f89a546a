"""A digest of the JSON values in a checkpoint.

The digest covers the step, the position of the data stream and the metadata,
which include the fingerprints of the arrays. It is stored in both JSON files,
so a single damaged file cannot pass for a file of an older version, which has
no digest.
"""

from collections.abc import Mapping
from typing import Any

from absl import logging

from bigscale.train import sealed

_DIGEST = "digest"


def seal(
  step: int, data: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns `data` and `meta`, each with the digest of all arguments."""
  digest = {_DIGEST: sealed.digest([step, dict(data), dict(meta)])}
  return {**data, **digest}, {**meta, **digest}


def unseal(
  step: int, data: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the original arguments of `seal`.

  Values without a digest, from older versions, are accepted with a warning.

  Raises:
    sealed.SealError: if the values do not match the digest.
  """
  data, meta = dict(data), dict(meta)
  digests = data.pop(_DIGEST, None), meta.pop(_DIGEST, None)
  if digests == (None, None):
    logging.warning(
      "checkpoint %d was written by a version without a digest of the data "
      "position and metadata: damage to them would go unnoticed",
      step,
    )
    return data, meta
  digest = sealed.digest([step, data, meta])
  if digests != (digest, digest):
    raise sealed.SealError(
      "the data position or the metadata differ from what was saved"
    )
  return data, meta
