"""Reads the description of a prepared TFDS set without running its code."""

from typing import Any

import numpy as np

from bigscale.data.manifest import DataError, Split
from bigscale.data.splits import SPLITS

_HELDOUT_SPLITS = ("validation", "test")
_HELDOUT_TAIL = ("train[:95%]", "train[95%:]")


def open_info(name: str) -> Any:
  """Returns the TFDS info of a prepared set, read from its files alone."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import file_adapters

  name, _, data_dir = name.partition("@")
  where = data_dir or tfds.core.constants.DATA_DIR
  build = (
    f"prepare it with `tfds build {name.partition(':')[0]} "
    f"--data_dir={where} --file_format=array_record`, or in Python with "
    f"tfds.builder({name!r}, data_dir={where!r}).download_and_prepare("
    "file_format='array_record')"
  )
  info = _find_builder(name, data_dir, where, build).info
  wanted = file_adapters.FileFormat.ARRAY_RECORD
  if wanted not in info.available_file_formats():
    raise DataError(
      f"TFDS set {name!r} in {where} is in the format "
      f"{info.file_format.value}, which has no random access; remove it or "
      f"choose another folder, and {build}"
    )
  if info.file_format != wanted:
    info.set_file_format(wanted, override=True, override_if_initialized=True)
  return info


def _find_builder(name: str, data_dir: str, where: str, build: str) -> Any:
  """Returns a builder that reads a set; messages include `build`."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import naming, registered

  try:
    namespace = naming.parse_builder_name_kwargs(name)[0].namespace
    if namespace:
      raise DataError(
        f"TFDS set {name!r} belongs to namespace {namespace}, which is fetched "
        "from the network; prepare it and build shards from its folder"
      )
    arguments = {"data_dir": data_dir} if data_dir else {}
    return tfds.core.read_only_builder.builder_from_files(name, **arguments)
  except (registered.DatasetNotFoundError, FileNotFoundError) as error:
    raise DataError(
      f"TFDS set {name!r} is not prepared in {where}; {build}"
    ) from error
  except ImportError as error:
    raise DataError(
      f"TFDS set {name!r} has features that need a package which is not "
      f"installed ({error}); install it (`pip install tensorflow-cpu`)"
    ) from error
  except DataError:
    raise
  except Exception as error:  # TFDS raises many types for unreadable files.
    reason = str(error).partition("\n")[0]
    raise DataError(
      f"TFDS set {name!r} in {where} cannot be opened ({reason}); check the "
      f"name, which is NAME, NAME:VERSION or NAME/CONFIG:VERSION, or {build}"
    ) from error


def choose_split(info: Any, split: Split, name: str) -> str:
  """Returns the split in TFDS syntax, for example "train[95%:]"."""
  if "train" not in info.splits:
    raise DataError(
      f"TFDS set {name!r} has no train split, only {', '.join(info.splits)}; "
      "build shards from it, or use another set"
    )
  for other in _HELDOUT_SPLITS:
    if other in info.splits:
      return "train" if split == "train" else other
  return _HELDOUT_TAIL[split == "heldout"]


def notes_on(info: Any, name: str) -> tuple[str, ...]:
  """Returns a note about the splits that are not read."""
  read = [choose_split(info, s, name).partition("[")[0] for s in SPLITS]
  rest = {key: each.num_examples for key, each in info.splits.items()}
  rest = [
    f"{key} ({n:,} records)" for key, n in rest.items() if key not in read
  ]
  if not rest:
    return ()
  return (
    f"TFDS set {name}: {read[1]} is held out; splits not read: "
    f"{', '.join(rest)}",
  )


def choose_features(info: Any, name: str) -> tuple[str, str | None]:
  """Returns the keys of image and label; the label's is None without labels.

  Raises:
    DataError: it is unclear which features they are.
  """
  from tensorflow_datasets import features

  known = info.features
  if not isinstance(known, features.FeaturesDict):
    raise DataError(
      f"TFDS set {name!r} has no named features; it must have an Image"
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
    f"among {kinds}; exactly one is needed, or supervised_keys must name it: "
    "build shards from the set with the feature you want"
  )
