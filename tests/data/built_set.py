"""Sources and image folders for tests of builds."""

import io
import json
import os
import signal
import time

import numpy as np
from PIL import Image

from bigscale.data import manifest
from bigscale.data.folders import FolderSource
from bigscale.data.openers import open_source
from bigscale.data.recipe import BuildOptions
from bigscale.data.sources import BadRecordError, Record, Source

OPTIONS = {"name": "set", "encoding": "raw", "records_per_shard": 10}


class NoiseSource(Source):
  """Records with unique random pixels, equal in every process."""

  def __init__(self, records, side=8, classes=3, bad=(), seconds=0.0, seed=0):
    self.class_names = tuple("abcdefgh"[:classes])
    self.identity = f"noise:{records}:{side}:{classes}:{sorted(bad)}:{seed}"
    self._records = records
    self._side, self._bad, self._seconds, self._seed = side, bad, seconds, seed

  @property
  def image_shape(self):
    return (self._side, self._side, 3)

  def __len__(self):
    return self._records

  def read(self, index):
    time.sleep(self._seconds)
    if index in self._bad:
      raise BadRecordError(self.identity, index, "it is spoiled", "nowhere")
    rng = np.random.default_rng((self._seed, index))
    image = rng.integers(0, 256, (self._side, self._side, 3), np.uint8)
    return Record(
      image, (index % self.num_classes,) if self.num_classes else ()
    )

  def labels(self):
    return np.arange(len(self), dtype=np.int32) % max(1, self.num_classes)


def encoded(image, kind, **settings):
  """Encodes a Pillow image or an array [H, W, C] uint8 as a file."""
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  file = io.BytesIO()
  image.save(file, kind, **settings)
  return file.getvalue()


def noise(side, seed, channels=3, width=None):
  shape = (side, width or side, channels)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(folder, files):
  """Writes {name: bytes} below a folder, and returns its path."""
  for name, data in files.items():
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
      file.write(data)
  return str(folder)


def contents(directory):
  """Returns {name: bytes} of a directory."""
  found = {}
  for name in sorted(os.listdir(directory)):
    with open(os.path.join(directory, name), "rb") as file:
      found[name] = file.read()
  return found


def die(shared, task):
  """Kills the calling process, as the kernel does when memory runs out."""
  os.kill(os.getpid(), signal.SIGKILL)


def options(**changes):
  return BuildOptions(**(OPTIONS | changes))


def pixels(path, split="train"):
  source = open_source(str(path), split)
  return [source.read(i).image.tobytes() for i in range(len(source))]


def folder_of(tmp_path, files):
  """Returns a folder with one extra image in a second class, for labels."""
  files = {f"a/{name}": data for name, data in files.items()}
  files["b/last.png"] = encoded(noise(8, 99), "PNG")
  folder = save(tmp_path / "folder", files)
  return FolderSource(folder, "train", 0.0)


def rejects(path):
  with open(os.path.join(path, "rejects.jsonl")) as file:
    return [json.loads(line) for line in file]


def records_of(path):
  from array_record.python.array_record_module import ArrayRecordReader

  built = manifest.load(str(path))
  reader = ArrayRecordReader(str(path / built.shards[0].file), "")
  return reader.read(0, built.shards[0].records)
