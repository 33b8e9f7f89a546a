r"""Builds the data sets embedded in the package.

To change them, run:

    python -m bigscale.data.embed --fashion_mnist=DIR --emoji=DIR_OR_TAR \
        --emoji_json=FILE --out=bigscale/data/embedded

Raw data:
  Fashion-MNIST (Zalando SE, MIT): the `t10k-*.gz` idx files of the Debian
    package `dataset-fashion-mnist` (`apt-get download`, `dpkg-deb -x`). To save
    space, only the original test set is embedded. A classifier that is tested
    on it must not be trained on these images.
  Emoji (Google Noto, Apache-2.0): the npm package `emoji-datasource-google`
    16.0.0 (`npm pack`): its 64 px images, unpacked or as the .tgz, and its
    `emoji.json`.

The output bytes are a function of the input. Remove the old manifests first.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator

import numpy as np
from absl import app, flags

from bigscale.data import hashing, ingest
from bigscale.data.idx import read_idx
from bigscale.data.manifest import Schema

_FASHION = flags.DEFINE_string(
  "fashion_mnist", None, "folder of the Fashion-MNIST idx files"
)
_EMOJI = flags.DEFINE_string(
  "emoji", None, "folder or tar of the npm package emoji-datasource-google"
)
_EMOJI_JSON = flags.DEFINE_string(
  "emoji_json", None, "emoji.json of the package; by default the one in --emoji"
)
_OUT = flags.DEFINE_string("out", None, "parent folder of both data sets")

_FASHION_CLASSES = (
  "T-shirt/top",
  "Trouser",
  "Pullover",
  "Dress",
  "Coat",
  "Sandal",
  "Shirt",
  "Sneaker",
  "Bag",
  "Ankle boot",
)
# Unicode's categories, in Unicode's order. "Component", omitted here, has five
# swatches of skin color.
_EMOJI_CLASSES = (
  "Smileys & Emotion",
  "People & Body",
  "Animals & Nature",
  "Food & Drink",
  "Travel & Places",
  "Activities",
  "Objects",
  "Symbols",
  "Flags",
)
_EMOJI_SIDE = 32
_EMOJI_IMAGES = "img/google/64/"
_HELDOUT_FRACTION = 0.1
_SEED = 0
_HELDOUT = 0x48454C44  # `use` argument of `hashing.random_bits`.


def read_emoji(
  files: Callable[[str], bytes], table: list[dict]
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields emoji images [32, 32, 3] uint8 on white, and their categories.

  Skin tone variants are not entries of the table, so they are not read. Of
  images that are equal at this size, only the first is kept.

  Args:
    files: returns the content of a file of the package, given its path.
    table: the package's `emoji.json`.
  """
  seen = set()
  for entry in sorted(table, key=lambda entry: entry["sort_order"]):
    category = entry["category"]
    if category not in _EMOJI_CLASSES or not entry["has_img_google"]:
      continue
    image = _on_white(files(_EMOJI_IMAGES + entry["image"]))
    if image.tobytes() not in seen:
      seen.add(image.tobytes())
      yield image, _EMOJI_CLASSES.index(category)


def _on_white(png: bytes) -> np.ndarray:
  from PIL import Image

  with Image.open(io.BytesIO(png)) as file:
    image = file.convert("RGBA")
  white = Image.new("RGBA", image.size, "white")
  white.alpha_composite(image)
  size = (_EMOJI_SIDE, _EMOJI_SIDE)
  small = white.convert("RGB").resize(size, Image.Resampling.LANCZOS)
  return np.asarray(small)


def _package_files(path: str) -> Callable[[str], bytes]:
  """Returns a function that reads files of an npm package or its tar."""
  if os.path.isdir(path):

    def read(name: str) -> bytes:
      with open(os.path.join(path, name), "rb") as file:
        return file.read()

    return read
  with tarfile.open(path) as tar:  # npm stores all files under package/.
    wanted = (_EMOJI_IMAGES, "emoji.json")
    contents = {
      member.name.partition("/")[2]: tar.extractfile(member).read()
      for member in tar
      if member.isfile() and member.name.partition("/")[2].startswith(wanted)
    }
  return contents.__getitem__


def heldout_mask(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Selects the same fraction of every class to hold out.

  `splits.held_out` would let images be added later, but its fractions are only
  approximate. For classes of a hundred images they would be too inaccurate.

  Args:
    labels: [N] integers.
    fraction: fraction of each class, rounded to whole images; in [0, 1].
    seed: seed of the selection.

  Returns:
    [N] bool, True if held out; a function of the arguments alone.
  """
  ranks = hashing.random_bits(seed, _HELDOUT, np.arange(len(labels)))
  mask = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    count = round(fraction * len(members))
    mask[members[np.argsort(ranks[members])[:count]]] = True
  return mask


def _write(
  samples: list[tuple[np.ndarray, int]], directory: str, **about: object
) -> None:
  labels = np.array([label for _, label in samples])
  heldout = heldout_mask(labels, _HELDOUT_FRACTION, _SEED)
  manifest = ingest.write(
    directory,
    {
      split: [samples[i] for i in np.flatnonzero(heldout == is_heldout)]
      for split, is_heldout in (("train", False), ("heldout", True))
    },
    schema=Schema(encoding="raw", image_shape=samples[0][0].shape),
    # Optimized for size instead of speed: these files are in the package.
    compression="group_size:4,zstd:19",
    **about,
  )
  for shard in manifest.shards:
    print(f"{directory}: {shard.file}: {shard.records}, {shard.bytes} bytes")


def main(argv: list[str]) -> None:
  """Writes both data sets."""
  del argv
  images, labels = (
    read_idx(os.path.join(_FASHION.value, f"t10k-{part}-ubyte.gz"))
    for part in ("images-idx3", "labels-idx1")
  )
  _write(
    list(zip(images[..., None], labels.tolist(), strict=True)),
    os.path.join(_OUT.value, "fashion_mnist"),
    name="fashion_mnist",
    class_names=_FASHION_CLASSES,
    source="Fashion-MNIST, test set (Debian package dataset-fashion-mnist)",
    licence="MIT",
    # Digits and clothes are usually padded, not resized, to 32 px.
    padding=2,
  )
  files = _package_files(_EMOJI.value)
  if _EMOJI_JSON.value:
    with open(_EMOJI_JSON.value, encoding="utf-8") as file:
      table = json.load(file)
  else:
    table = json.loads(files("emoji.json"))
  _write(
    list(read_emoji(files, table)),
    os.path.join(_OUT.value, "emoji"),
    name="emoji",
    class_names=_EMOJI_CLASSES,
    source="Google Noto emoji (npm package emoji-datasource-google 16.0.0), "
    "on white, 32 px",
    licence="Apache-2.0",
  )


if __name__ == "__main__":
  flags.mark_flags_as_required(["fashion_mnist", "emoji", "out"])
  app.run(main)
