"""Which features of a TFDS set are the image and the label."""

from typing import Any

import numpy as np

from bigscale.data.manifest import DataError


def choose(info: Any, name: str) -> tuple[str, str | None]:
  """Returns the keys of image and label; the second is None without labels.

  Raises:
    DataError: it is not clear which they are.
  """
  from tensorflow_datasets import features

  known = info.features
  if not isinstance(known, features.FeaturesDict):
    raise DataError(
      f"TFDS set {name!r} holds no named features; it must have an Image"
    )
  pictures = [key for key, each in known.items() if _is_image(each)]
  classes = [
    key for key, each in known.items() if type(each) is features.ClassLabel
  ]
  supervised = [key for key in info.supervised_keys or () if type(key) is str]
  image = _only(pictures, supervised, "image", known, name)
  label = _only(classes, supervised, "label", known, name) if classes else None
  return image, label


def _is_image(feature: Any) -> bool:
  from tensorflow_datasets import features

  if type(feature) is features.Image:
    return feature.np_dtype in (np.uint8, np.uint16)
  shape = feature.shape if type(feature) is features.Tensor else ()
  return len(shape) == 3 and feature.np_dtype == np.uint8


def _only(
  keys: list[str], supervised: list[str], what: str, known: Any, name: str
) -> str:
  preferred = [key for key in keys if key in supervised]
  if len(preferred) == 1 or len(keys) == 1:
    return (preferred or keys)[0]
  kinds = ", ".join(f"{key} ({type(known[key]).__name__})" for key in known)
  raise DataError(
    f"TFDS set {name!r} has {len(keys)} features that could be the {what}, "
    f"among {kinds}; it must have one, or name it in supervised_keys: build "
    "shards from it with the one you mean"
  )
