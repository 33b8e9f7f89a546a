import io
import os

import numpy as np
import pytest
from marked_set import RECORDS, read, write
from PIL import Image

from bigscale.data import embed, ingest, manifest
from bigscale.data.manifest import DataError, Schema
from bigscale.data.openers import open_source
from bigscale.data.verify import verify


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_written_records_are_read_back(tmp_path, encoding, channels):
  shape = (12, 6, 7, channels)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  path = str(tmp_path / "set")
  write(path, images, encoding)
  assert verify(path) == ()
  source = open_source(path, "train")
  np.testing.assert_array_equal(read(source, range(12))[0], images)


def test_jpeg_records_are_read_back_approximately(tmp_path):
  ramp = np.linspace(0, 255, 16 * 16 * 3).reshape(1, 16, 16, 3)
  write(str(tmp_path / "set"), ramp.astype(np.uint8), "jpeg")
  got, _ = read(open_source(str(tmp_path / "set"), "train"), [0])
  assert np.abs(got - ramp).mean() < 3


def test_several_labels(tmp_path, marked):
  labels = [tuple({i % 3, i % 2}) for i in range(RECORDS)]
  schema = Schema(encoding="raw", image_shape=(4, 4, 1), multilabel=True)
  path = str(tmp_path / "set")
  about = {"name": "x", "source": "a test", "licence": "none"}
  ingest.write(
    path,
    {"train": list(zip(marked, labels, strict=True))},
    schema=schema,
    class_names=("a", "b", "c"),
    **about,
  )
  source = open_source(path, "train")
  assert [source.read(i).labels for i in range(RECORDS)] == labels
  with pytest.raises(DataError, match=r"image 1 has no label.*3 classes"):
    ingest.write(
      str(tmp_path / "other"),
      {"train": [(marked[0], (0, 1)), (marked[1], ())]},
      schema=schema,
      class_names=("a", "b", "c"),
      **about,
    )


def test_shards_and_manifest(directory):
  built = manifest.load(directory)
  assert [shard.records for shard in built.shards] == [5, 5, 5, 5, 3]
  assert set(os.listdir(directory)) == {
    "manifest.json",
    *(f"train-{i:05d}-of-00005.array_record" for i in range(5)),
  }


def test_unlabeled(tmp_path, marked):
  path = str(tmp_path / "set")
  write(path, marked, class_names=())
  source = open_source(path, "train")
  assert source.num_classes == 0
  assert {source.read(i).labels for i in range(RECORDS)} == {()}


def test_an_existing_set_is_not_overwritten(directory, marked):
  with pytest.raises(DataError, match="already contains a data set"):
    write(directory, marked)


@pytest.mark.parametrize(
  ("sample", "message"),
  [
    ((np.zeros((4, 5, 1), np.uint8), 0), r"\(4, 5, 1\)"),
    ((np.zeros((4, 4, 1), np.float32), 0), "float32"),
    ((np.zeros((4, 4, 1), np.uint8), 2), r"image 1 has label 2.*\[0, 2\)"),
    ((np.zeros((4, 4, 1), np.uint8), -1), "label -1"),
  ],
)
def test_invalid_samples_are_rejected(tmp_path, sample, message):
  good = (np.zeros((4, 4, 1), np.uint8), 0)
  with pytest.raises(DataError, match=message):
    ingest.write(
      str(tmp_path / "set"),
      {"train": [good, sample]},
      name="x",
      schema=Schema(encoding="raw", image_shape=(4, 4, 1)),
      class_names=("a", "b"),
      source="a test",
      licence="none",
    )
  assert not os.path.exists(tmp_path / "set" / "manifest.json")


def test_a_directory_that_cannot_be_created(tmp_path, marked):
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="file/set cannot be created"):
    write(str(tmp_path / "file" / "set"), marked)


def test_empty_split(tmp_path, marked):
  with pytest.raises(DataError, match="train split has no images"):
    write(str(tmp_path / "set"), marked[:0])


def test_the_same_fraction_of_every_class_is_held_out():
  labels = np.repeat([0, 1, 2, 3], [100, 40, 7, 3])
  mask = embed.heldout_mask(labels, 0.1, seed=0)
  assert np.bincount(labels[mask], minlength=4).tolist() == [10, 4, 1, 0]
  again = embed.heldout_mask(labels, 0.1, seed=0)
  np.testing.assert_array_equal(mask, again)
  assert (mask != embed.heldout_mask(labels, 0.1, seed=1)).any()


def test_emoji_are_unique_on_white_and_exclude_components():
  def png(color):
    file = io.BytesIO()
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste(color, (0, 0, 64, 32))
    image.save(file, "PNG")
    return file.getvalue()

  files = {
    "img/google/64/r.png": png("red"),
    "img/google/64/b.png": png("blue"),
  }
  rows = [("r", "Flags", 3), ("r", "Objects", 2), ("b", "Component", 1)]
  rows += [("b", "Smileys & Emotion", 4)]
  table = [
    {
      "image": f"{image}.png",
      "category": category,
      "sort_order": order,
      "has_img_google": True,
    }
    for image, category, order in rows
  ]
  (red, objects), (blue, smileys) = embed.read_emoji(files.__getitem__, table)
  assert (objects, smileys) == (6, 0)
  assert red.shape == (32, 32, 3)
  assert red[4, 4].tolist() == [255, 0, 0]
  assert blue[4, 4].tolist() == [0, 0, 255]
  assert red[28, 28].tolist() == [255, 255, 255]
