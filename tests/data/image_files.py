"""Small image files whose pixels identify them, in folders and zips."""

import os
import zipfile

import numpy as np

from bigscale.data import images


def image(number):
  return np.full((4, 4, 3), number, np.uint8)


def png(number):
  return images.encode(image(number), "png")


def write(root, files):
  for path, data in files.items():
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
      file.write(data)
  return str(root)


def write_zip(path, files, method=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", method) as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  return str(path)


def everything(source):
  """Returns (pixel value, labels) of every record."""
  samples = [source.read(i) for i in range(len(source))]
  return [(int(s.image[0, 0, 0]), s.labels) for s in samples]
