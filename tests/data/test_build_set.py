import os

import numpy as np
import pytest
from built_set import (
  NoiseSource,
  contents,
  encoded,
  folder_of,
  noise,
  options,
  pixels,
  rejects,
  save,
)
from PIL import Image

from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source
from bigscale.data.verify import verify


def test_every_record_once_in_hashed_order(tmp_path):
  source, path = NoiseSource(35), str(tmp_path / "set")
  seen = []
  report = build(
    {"train": source, "heldout": NoiseSource(4, seed=1)},
    path,
    options(seed=7, licence="MIT", source="a test"),
    lambda *done: seen.append(done),
  )
  made = report.manifest
  assert [shard.records for shard in made.of("train")] == [10, 10, 10, 5]
  assert [shard.records for shard in made.of("heldout")] == [4]
  assert set(os.listdir(path)) == {
    "manifest.json",
    *(shard.file for shard in made.shards),
  }
  assert verify(path) == ()
  built, originals = open_source(path, "train"), {}
  for index in range(35):
    image, labels = source.read(index)
    originals[image.tobytes()] = (index, labels)
  order = []
  for index in range(35):
    image, labels = built.read(index)
    original, expected = originals[image.tobytes()]
    assert labels == expected
    order.append(original)
  assert sorted(order) == list(range(35))
  assert order != sorted(order)
  # Shuffled over the whole set, not within a shard.
  assert max(order[:10]) > 20
  assert made.class_names == ("a", "b", "c")
  assert made.made["splits"]["train"]["label_counts"] == [12, 12, 11]
  assert (made.made["seed"], made.made["shuffle"]) == (7, True)
  assert (made.licence, made.source) == ("MIT", "a test")
  assert seen[-1] == (39, 39)
  assert (report.shards_written, report.shards_kept) == (5, 0)


def test_order_follows_the_seed_or_the_input(tmp_path):
  source = NoiseSource(25)
  for name, changes in {
    "0": {},
    "1": {"seed": 1},
    "none": {"shuffle": False},
  }.items():
    build({"train": source}, str(tmp_path / name), options(**changes))
  assert pixels(tmp_path / "0") != pixels(tmp_path / "1")
  expected = [source.read(i).image.tobytes() for i in range(25)]
  assert pixels(tmp_path / "none") == expected


def test_two_workers_write_the_same_bytes(tmp_path):
  inputs = {"train": NoiseSource(43, bad=(5,)), "heldout": NoiseSource(11)}
  for workers in (1, 2):
    made = options(workers=workers, dedup="exact", max_bad_fraction=0.1)
    build(inputs, str(tmp_path / str(workers)), made)
  one, two = (contents(tmp_path / str(workers)) for workers in (1, 2))
  assert one == two
  # The 11 held-out records are also among the 43, one of which is spoiled.
  assert len(pixels(tmp_path / "1")) == 43 - 11


def test_bad_files_are_listed_and_unusual_ones_converted(tmp_path):
  good = {f"{i}.jpg": encoded(noise(8, i), "JPEG") for i in range(8)}
  gray16 = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
  clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
  source = folder_of(
    tmp_path,
    good
    | {
      "bad_cut.jpg": encoded(noise(64, 1), "JPEG")[:-2000],
      "bad_empty.png": b"",
      "bad_text.png": b"not an image",
      "cmyk.jpg": encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
      "gray.png": encoded(noise(8, 50, 1), "PNG"),
      "wide.png": encoded(gray16, "PNG"),
      "clear.png": encoded(clear, "PNG"),
    },
  )
  path = str(tmp_path / "set")
  report = build(
    {"train": source},
    path,
    options(resolution=8, encoding="jpeg", shuffle=False, max_bad_fraction=0.2),
  )
  assert report.rejects == 3
  cut, empty, text = rejects(path)
  assert [row["index"] for row in (cut, empty, text)] == [8, 9, 10]
  assert {row["source"] for row in (cut, empty, text)} == {source.identity}
  assert "not decode" in cut["reason"]
  assert "0 bytes" in empty["reason"]
  assert "not decode" in text["reason"]
  assert verify(path) == ()
  built = open_source(path, "train")
  clear, cmyk, gray, wide = (built.read(i).image for i in range(8, 12))
  assert cmyk[4, 4, 0] > 200
  assert cmyk[4, 4, 1] < 60
  assert (clear > 250).all()
  assert (np.ptp(gray.astype(int), axis=-1) < 4).all()
  assert np.abs(wide.astype(int) - 0x80).max() < 3
  # Only files that decode like a plain JPEG are kept.
  made = report.manifest.made["splits"]["train"]
  assert made["files_kept_as_they_were"] == 8
  assert (made["rejects"], made["input_records"]) == (3, 16)


@pytest.mark.parametrize("dedup", ["none", "exact"])
def test_too_many_bad_records(tmp_path, dedup):
  path, source = str(tmp_path / "set"), NoiseSource(30, bad=(2, 11, 17))
  message = r"3 records.* allows 1 .*it is spoiled.*rejects\.jsonl"
  made = {"shuffle": False, "dedup": dedup}
  with pytest.raises(DataError, match=message):
    build({"train": source}, path, options(max_bad_fraction=0.05, **made))
  assert not os.path.exists(os.path.join(path, "manifest.json"))
  assert rejects(path)[0]["index"] == 2
  report = build({"train": source}, path, options(max_bad_fraction=0.1, **made))
  assert report.rejects == 3
  assert (report.shards_kept > 0) == (dedup == "none")
  assert [row["index"] for row in rejects(path)] == [2, 11, 17]
  assert len(pixels(path)) == 27


def test_small_sets_allow_no_bad_records_by_default(tmp_path):
  with pytest.raises(DataError, match="allows 0"):
    build({"train": NoiseSource(30, bad=(2,))}, str(tmp_path / "a"), options())


def test_an_empty_shard_is_not_written(tmp_path):
  path = str(tmp_path / "set")
  source = NoiseSource(9, bad=(3, 4, 5))
  made = options(shuffle=False, records_per_shard=3, max_bad_fraction=0.5)
  report = build({"train": source}, path, made)
  files = [shard.file for shard in report.manifest.shards]
  assert [file[:11] for file in files] == ["train-00000", "train-00002"]
  assert verify(path) == ()
  with pytest.raises(
    DataError, match="no usable record is left in the train split"
  ):
    build(
      {"train": NoiseSource(3, bad=(0, 1, 2))},
      str(tmp_path / "other"),
      options(resolution=8, max_bad_fraction=1.0),
    )


def test_duplicates(tmp_path):
  files = {f"{i}.png": encoded(noise(8, i), "PNG") for i in range(6)}
  files["7.bmp"] = encoded(noise(8, 2), "BMP")
  files["8.png"] = encoded(noise(8, 4), "PNG", compress_level=0)
  source = folder_of(tmp_path, files)
  heldout = save(
    tmp_path / "heldout",
    {
      "a/1.png": encoded(noise(8, 3), "PNG"),
      "b/1.png": encoded(noise(8, 60), "PNG"),
    },
  )
  inputs = {"train": source, "heldout": FolderSource(heldout, "train", 0.0)}
  path = str(tmp_path / "set")
  made = options(dedup="exact", shuffle=False)
  report = build(inputs, path, made)
  kept = [noise(8, i).tobytes() for i in (0, 1, 2, 4, 5, 99)]
  assert pixels(path) == kept
  assert len(pixels(path, "heldout")) == 2
  assert report.duplicates == 3
  splits = report.manifest.made["splits"]
  assert splits["train"]["duplicates"] == 3
  assert splits["heldout"]["duplicates"] == 0
  build(inputs, str(tmp_path / "all"), options())
  assert len(pixels(tmp_path / "all")) == 9


def test_sizes_must_agree_without_a_resolution(tmp_path):
  files = {f"{i}.png": encoded(noise(8, i), "PNG") for i in range(3)}
  files |= {"5.png": encoded(noise(8, 9, width=9), "PNG")}
  path = str(tmp_path / "set")
  source = folder_of(tmp_path, files)
  report = build({"train": source}, path, options(max_bad_fraction=0.5))
  assert report.manifest.schema.image_shape == (8, 8, 3)
  (row,) = rejects(path)
  assert row["reason"].startswith("it is 8 x 9 pixels, not 8 x 8")


def test_the_first_image_does_not_decide_the_size(tmp_path, caplog):
  files = {f"{i}.png": encoded(noise(8, i), "PNG") for i in range(1, 9)}
  files |= {"0.png": encoded(noise(5, 9), "PNG")}
  path = str(tmp_path / "set")
  source = folder_of(tmp_path, files)
  report = build({"train": source}, path, options(max_bad_fraction=0.2))
  assert report.manifest.schema.image_shape == (8, 8, 3)
  (row,) = rejects(path)
  assert row["reason"].startswith("it is 5 x 5 pixels, not 8 x 8 like most")
  assert "0.png" in caplog.text


class Labelled(NoiseSource):
  """Records with given labels."""

  def __init__(self, given, classes):
    super().__init__(len(given), classes=classes)
    self._given = given

  def read(self, index):
    return super().read(index)._replace(labels=self._given[index])


def test_several_labels(tmp_path):
  given = [(0,), (1, 2), (0, 1, 2)]
  source = Labelled(given, 3)
  with pytest.raises(DataError, match=r"labels \(1, 2\).*multilabel=True"):
    build({"train": source}, str(tmp_path / "one"), options(shuffle=False))
  path = str(tmp_path / "set")
  report = build(
    {"train": source}, path, options(multilabel=True, shuffle=False)
  )
  built = open_source(path, "train")
  assert [built.read(i).labels for i in range(3)] == given
  assert report.manifest.made["splits"]["train"]["label_counts"] == [2, 2, 2]


def test_labels_that_are_not_labels(tmp_path):
  source, path = Labelled([(0,), (3,), (-1,), ()], 3), str(tmp_path / "set")
  build({"train": source}, path, options(max_bad_fraction=1.0))
  assert [row["reason"] for row in rejects(path)] == [
    "its labels (3,) are not all in [0, 3)",
    "its labels (-1,) are not all in [0, 3)",
    "it has no label",
  ]


def test_unlabeled(tmp_path):
  path = str(tmp_path / "set")
  build({"train": NoiseSource(5, classes=0)}, path, options())
  assert open_source(path, "train").num_classes == 0
  with pytest.raises(DataError, match="has no labels; set multilabel=False"):
    build(
      {"train": NoiseSource(5, classes=0)},
      str(tmp_path / "other"),
      options(multilabel=True),
    )


def test_mismatched_splits_are_rejected(tmp_path):
  path = str(tmp_path / "set")
  other = NoiseSource(5)
  other.class_names = ("a", "x", "c")
  with pytest.raises(DataError, match="classes a, x, c, but train has a, b, c"):
    build({"train": NoiseSource(5), "heldout": other}, path, options())
  with pytest.raises(DataError, match=r"\(none\), but train has a, b, c"):
    build(
      {"train": NoiseSource(5), "heldout": NoiseSource(5, classes=0)},
      path,
      options(),
    )
  fewer = {"train": NoiseSource(5), "heldout": NoiseSource(5, classes=2)}
  assert build(fewer, path, options()).manifest.class_names == ("a", "b", "c")
  with pytest.raises(DataError, match="no train split"):
    build({"heldout": NoiseSource(5)}, str(tmp_path / "x"), options())
  with pytest.raises(DataError, match="has no records"):
    build({"train": NoiseSource(0)}, str(tmp_path / "x"), options())


def test_unusable_directories_are_rejected(tmp_path):
  save(tmp_path / "old", {"train-00000-of-00001.array_record": b"?"})
  with pytest.raises(DataError, match="shards but no manifest"):
    build({"train": NoiseSource(5)}, str(tmp_path / "old"), options())
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="cannot be created"):
    build({"train": NoiseSource(5)}, str(tmp_path / "file"), options())
