"""Statistics count every record at most once, and report skipped records."""

import io
import json
import tarfile

import numpy as np
import pytest
from built_set import NoiseSource, encoded, noise

from bigscale.data import heldout, reading
from bigscale.data.archives import TarSource
from bigscale.data.manifest import DataError
from bigscale.data.reading import Reader, allowed_bad, read_many
from bigscale.data.sources import Record, Source
from bigscale.spec import DataSpec

_BAD = (3, 4, 11)


def test_unreadable_records_are_left_out_and_not_replaced(
  caplog,
):
  source = NoiseSource(20, bad=_BAD)
  reader = Reader(source, (8, 8, 3))
  images, labels = reader.read(range(20))
  good = [i for i in range(20) if i not in _BAD]
  assert len(images) == len(labels) == reader.images_read == 17
  np.testing.assert_array_equal(labels, source.labels()[good])
  assert len({image.tobytes() for image in images}) == 17
  assert sorted(reader.unreadable) == list(_BAD)
  assert reader.facts()["unreadable"] == 3
  assert reader.facts()["unreadable_example"] == "nowhere: it is spoiled"
  assert "left out of statistics: nowhere" in caplog.text
  np.testing.assert_array_equal(
    read_many(source, range(20), 8, 3).images, images
  )


def test_too_many_bad_records_raise_an_error():
  source = NoiseSource(20, bad=_BAD)
  Reader(source, (8, 8, 3), 3).read(range(20))
  with pytest.raises(DataError, match=r"3 or more records .*allows 2.*spoiled"):
    Reader(source, (8, 8, 3), 2).read(range(20))


def test_chunks_without_usable_records_are_skipped(monkeypatch):
  monkeypatch.setattr(reading, "_CHUNK", 2)
  chunks = list(Reader(NoiseSource(6, bad=(2, 3)), (8, 8, 3)).chunks(range(6)))
  assert [len(images) for images, _ in chunks] == [2, 2]


@pytest.mark.parametrize(
  ("spec", "allowed"),
  [({}, 1), ({"max_bad_fraction": 0.5}, 500), ({"bad_records": "error"}, 0)],
)
def test_statistics_allow_as_many_bad_records_as_training(spec, allowed):
  assert allowed_bad(DataSpec(source="emoji", **spec), 1000) == allowed


class Several(Source):
  """Records with one to three labels."""

  class_names = tuple("abc")
  identity = "several"
  given = ((0,), (0, 1), (0, 1, 2)) * 100

  def __len__(self):
    return len(self.given)

  def read(self, index):
    image = np.zeros((4, 4 + index % 2, 1), np.uint8)
    return Record(image, self.given[index])

  def labels(self):
    return np.array([labels[0] for labels in self.given], np.int32)


def test_several_labels_count_in_parts_and_one_is_sampled():
  reader = Reader(Several(), (4, 4, 3))
  _, labels = reader.read(range(300))
  expected = 100 * np.array([1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3])
  np.testing.assert_allclose(reader.label_counts, expected)
  drawn = np.bincount(labels)
  np.testing.assert_allclose(drawn, expected, atol=25)
  assert all(
    label in given for label, given in zip(labels, Several.given, strict=True)
  )
  # The choice does not depend on the order of reading.
  np.testing.assert_array_equal(
    read_many(Several(), [7, 8, 200], 4, 3).labels, labels[[7, 8, 200]]
  )
  assert (reader.resized, reader.recoloured) == (150, 300)


def test_unreadable_held_out_images_are_replaced(
  monkeypatch,
):
  def open_with(bad):
    source = NoiseSource(200, bad=bad)
    monkeypatch.setattr(heldout, "open_data", lambda *args: source)
    batch = heldout.Heldout(
      DataSpec(source="emoji"),
      resolution=8,
      channels=3,
      num_classes=3,
      count=40,
      rows=np.arange(40),
      seed=0,
    ).batch(0)
    keys = {
      source.read(i).image.tobytes(): i for i in range(200) if i not in bad
    }
    return [keys[image.tobytes()] for image in batch.images[0]]

  whole = open_with(())
  bad = tuple(whole[:10])
  torn = open_with(bad)
  assert not set(torn) & set(bad)
  moved = [(a, b) for a, b in zip(whole, torn, strict=True) if a in bad]
  # Using the next record would count it twice.
  assert all(b != a + 1 for a, b in moved)
  assert all(a == b for a, b in zip(whole, torn, strict=True) if a not in bad)


def test_class_counts_agree_with_and_without_reading(tmp_path):
  given = [(0,), (1, 2), (2,), (0, 1, 2)] * 5
  with tarfile.open(tmp_path / "set.tar", "w") as tar:
    for number, labels in enumerate(given):
      text = json.dumps({"labels": labels}).encode()
      files = {"png": encoded(noise(4, number), "PNG"), "json": text}
      for ending, data in files.items():
        info = tarfile.TarInfo(f"{number:02d}.{ending}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
  source = TarSource(str(tmp_path / "set.tar"), heldout_fraction=0)
  reader = Reader(source, (4, 4, 3))
  reader.read(range(20))
  expected = 5 * np.array([1 + 1 / 3, 1 / 2 + 1 / 3, 1.5 + 1 / 3])
  np.testing.assert_allclose(reader.label_counts, expected)
  np.testing.assert_allclose(source.label_counts(), expected)
