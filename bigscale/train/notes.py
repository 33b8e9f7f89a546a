"""What a checkpoint holds besides arrays: one digest covers it all.

That is the position of the stream, the notes, among them the fingerprints of
the arrays, and of which step they are. The digest stands in both files that
hold these, so that no single damaged file can pass for an old one without a
digest.
"""

from collections.abc import Mapping
from typing import Any

from absl import logging

from bigscale.train import sealed

_DIGEST = "digest"


def seal(
  step: int, data: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns both with the digest of all."""
  digest = {_DIGEST: sealed.digest([step, dict(data), dict(meta)])}
  return {**data, **digest}, {**meta, **digest}


def unseal(
  step: int, data: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns what `seal` was given.

  Notes of versions that took no digest are taken as they are, with a warning.

  Raises:
    sealed.SealError: they are not what was saved.
  """
  data, meta = dict(data), dict(meta)
  digests = data.pop(_DIGEST, None), meta.pop(_DIGEST, None)
  if digests == (None, None):
    logging.warning(
      "checkpoint %d is of a version that took no digest of the stream's "
      "position and the notes: damage there would not be noticed",
      step,
    )
    return data, meta
  digest = sealed.digest([step, data, meta])
  if digests != (digest, digest):
    raise sealed.SealError(
      "the stream's position or the notes are not what was saved"
    )
  return data, meta
