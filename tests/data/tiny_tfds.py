"""A TFDS builder of a few emoji, prepared without TensorFlow."""

import io

import numpy as np
import tensorflow_datasets as tfds

from bigscale.data import images
from bigscale.data.openers import open_source

CLASSES = ("round", "square", "other")
RECORDS = 24


def samples(count=RECORDS):
  """Returns images [32, 32, 3] uint8 and labels i mod K."""
  emoji = open_source("emoji", "train")
  return [(emoji.read(i).image, i % len(CLASSES)) for i in range(count)]


class TinyTfds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Emoji with made-up classes, and one extra label feature."""

  VERSION = tfds.core.Version("1.0.0")
  name = "tiny_tfds"
  # Catalog metadata, which this builder does not have.
  pkg_dir_path = None

  def __init__(self, kind="encoded", splits=("train",), **arguments):
    self._kind = kind
    self._splits = splits
    super().__init__(**arguments)

  def _info(self):
    picture = tfds.features.Image(shape=(32, 32, 3))
    if self._kind == "tensor":
      picture = tfds.features.Tensor(shape=(32, 32, 3), dtype=np.uint8)
    label = tfds.features.ClassLabel(names=list(CLASSES))
    known = {"note": tfds.features.Text(), "picture": picture}
    if self._kind != "unlabeled":
      known["kind"] = label
    if self._kind in ("several", "supervised"):
      known["coarse"] = label
    supervised = ("picture", "kind") if self._kind == "supervised" else None
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(known),
      supervised_keys=supervised,
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self._splits}

  def _generate_examples(self, split):
    for number, (image, label) in enumerate(samples()):
      if split != "train":
        image = 255 - image
      picture = io.BytesIO(images.encode(image, "png"))
      example = {
        "note": f"{split} {number}",
        "picture": image if self._kind == "tensor" else picture,
        "kind": label,
        "coarse": 0,
      }
      yield number, {key: example[key] for key in self.info.features}
