"""A small set whose images show their record number and orientation."""

import numpy as np

from bigscale.data import ingest
from bigscale.data.manifest import Schema

RECORDS = 23


def images():
  """Returns [23, 4, 4, 1]: left column the record number plus 1, the rest 0."""
  marked = np.zeros((RECORDS, 4, 4, 1), np.uint8)
  marked[:, :, 0, 0] = np.arange(1, RECORDS + 1)[:, None]
  return marked


def read(source, indices):
  """Returns images [N, H, W, C] and first labels [N] of records."""
  samples = [source.read(int(index)) for index in indices]
  labels = [sample.labels[0] if sample.labels else 0 for sample in samples]
  return np.stack([sample.image for sample in samples]), np.array(labels)


def write(path, images, encoding="raw", class_names=("a", "b", "c")):
  """Writes shards of five records, with label i mod K for image i."""
  labels = np.arange(len(images)) % max(1, len(class_names))
  return ingest.write(
    path,
    {"train": zip(images, labels.tolist(), strict=True)},
    name="marked",
    schema=Schema(encoding=encoding, image_shape=images.shape[1:]),
    class_names=class_names,
    source="a test",
    licence="none",
    records_per_shard=5,
  )
