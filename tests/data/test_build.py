import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from built_set import NoiseSource, contents, encoded, noise, save
from PIL import Image

from bigscale.data import images, manifest, recipe
from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.manifest import DataError
from bigscale.data.recipe import BuildOptions
from bigscale.data.sources import open_source
from bigscale.data.verify import verify

HERE = os.path.dirname(__file__)
ROOT = os.path.dirname(os.path.dirname(HERE))
OPTIONS = {"name": "set", "encoding": "raw", "records_per_shard": 10}


def options(**changes):
  return BuildOptions(**(OPTIONS | changes))


def pixels(path, split="train"):
  source = open_source(str(path), split)
  return [source.read(i).image.tobytes() for i in range(len(source))]


def folder_of(tmp_path, files):
  """A folder of one class more than the images, so that it has labels."""
  files = {f"a/{name}": data for name, data in files.items()}
  files["b/last.png"] = encoded(noise(8, 99), "PNG")
  folder = save(tmp_path / "folder", files)
  return FolderSource(folder, "train", 0.0)


def rejects(path):
  with open(os.path.join(path, "rejects.jsonl")) as file:
    return [json.loads(line) for line in file]


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
  # Over the whole set, not inside a shard.
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


def test_two_workers_make_the_same_bytes(tmp_path):
  inputs = {"train": NoiseSource(43, bad=(5,)), "heldout": NoiseSource(11)}
  for workers in (1, 2):
    made = options(workers=workers, dedup="exact", max_bad_fraction=0.1)
    build(inputs, str(tmp_path / str(workers)), made)
  one, two = (contents(tmp_path / str(workers)) for workers in (1, 2))
  assert one == two
  # The eleven are among the 43; one of them is spoiled there.
  assert len(pixels(tmp_path / "1")) == 43 - 11


KILLED = """
import sys
sys.path.insert(0, {here!r})
from built_set import NoiseSource
from bigscale.data.build import build
from bigscale.data.recipe import BuildOptions
if __name__ == "__main__":
  build(
    {{"train": NoiseSource(120, bad=(3,), seconds=0.02)}},
    {path!r},
    BuildOptions(name="set", encoding="raw", records_per_shard=10,
      max_bad_fraction=0.1, dedup={dedup!r}, workers={workers}),
  )
"""


def finished(path):
  if not os.path.isdir(path):
    return []
  return [name for name in os.listdir(path) if name.endswith("record.done")]


@pytest.mark.parametrize(("dedup", "workers"), [("none", 1), ("exact", 2)])
def test_killed_and_started_again(tmp_path, dedup, workers):
  path = str(tmp_path / "killed")
  script = tmp_path / "script.py"
  script.write_text(
    KILLED.format(here=HERE, path=path, dedup=dedup, workers=workers)
  )
  process = subprocess.Popen(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": ROOT},
  )
  deadline = time.monotonic() + 60
  while not finished(path) and time.monotonic() < deadline:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  # Ends when nobody holds the pipe any more: its workers follow it.
  process.communicate(timeout=30)
  assert process.returncode == -signal.SIGKILL
  before = set(finished(path))
  assert 1 <= len(before) < 12
  assert not os.path.exists(os.path.join(path, "manifest.json"))
  times = {
    name: os.stat(os.path.join(path, name.removesuffix(".done"))).st_mtime_ns
    for name in before
  }
  # Where the first run and this one differ, so would the identity.
  source = NoiseSource(120, bad=(3,))
  settings = options(dedup=dedup, max_bad_fraction=0.1)
  report = build({"train": source}, path, settings)
  assert report.shards_kept == len(before) == 12 - report.shards_written
  build({"train": source}, str(tmp_path / "whole"), settings)
  assert contents(path) == contents(tmp_path / "whole")
  assert [row["index"] for row in rejects(path)] == [3]
  for name, when in times.items():
    shard = os.path.join(path, name.removesuffix(".done"))
    assert os.stat(shard).st_mtime_ns == when


def interrupt(path, source, made):
  """Ends a build after its second shard."""

  def stop(done, total):
    if done >= 20:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    build({"train": source}, path, made, stop)


def test_torn_files_are_made_again(tmp_path):
  path, source = str(tmp_path / "set"), NoiseSource(40)
  interrupt(path, source, options())
  shards = sorted(n.removesuffix(".done") for n in finished(path))
  os.truncate(os.path.join(path, shards[0]), 100)
  with open(os.path.join(path, f"{shards[1]}.done"), "w") as file:
    file.write('{"file": ')
  with open(os.path.join(path, "train-00003.partial"), "w") as file:
    file.write("torn")
  report = build({"train": source}, path, options())
  assert (report.shards_written, report.shards_kept) == (4, 0)
  build({"train": source}, str(tmp_path / "whole"), options())
  assert contents(path) == contents(tmp_path / "whole")


def test_another_build_does_not_go_on_with_it(tmp_path):
  path = str(tmp_path / "set")
  interrupt(path, NoiseSource(40), options())
  with pytest.raises(DataError, match=r"crop was 'center', is 'none'.*remove"):
    build({"train": NoiseSource(40)}, path, options(crop="none"))
  with pytest.raises(DataError, match=r"train was 'noise:40.*is 'noise:41"):
    build({"train": NoiseSource(41)}, path, options())
  free = options(workers=2, max_bad_fraction=0.5)
  assert build({"train": NoiseSource(40)}, path, free).shards_kept == 2
  with pytest.raises(DataError, match="already holds a data set"):
    build({"train": NoiseSource(40)}, path, options())


def test_stopped_before_tidying_up(tmp_path, monkeypatch):
  path, source = str(tmp_path / "set"), NoiseSource(30)

  def stop(directory):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr("bigscale.data.build._remove_helpers", stop)
    with pytest.raises(KeyboardInterrupt):
      build({"train": source}, path, options())
  assert finished(path)
  assert build({"train": source}, path, options()).shards_kept == 3
  assert len(os.listdir(path)) == 4


def test_a_second_build_at_once_is_refused(tmp_path):
  path, source = str(tmp_path / "set"), NoiseSource(20)

  def again(done, total):
    with pytest.raises(DataError, match="another build is writing"):
      build({"train": source}, path, options())

  build({"train": source}, path, options(), again)


def test_bad_files_are_listed_and_odd_ones_converted(tmp_path):
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
  # What cannot be told from a plain JPEG is kept, nothing else.
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


def test_none_may_be_bad_by_default_in_a_small_set(tmp_path):
  with pytest.raises(DataError, match="allows 0"):
    build({"train": NoiseSource(30, bad=(2,))}, str(tmp_path / "a"), options())


def test_shard_of_which_nothing_is_left(tmp_path):
  path = str(tmp_path / "set")
  source = NoiseSource(9, bad=(3, 4, 5))
  made = options(shuffle=False, records_per_shard=3, max_bad_fraction=0.5)
  report = build({"train": source}, path, made)
  files = [shard.file for shard in report.manifest.shards]
  assert [file[:11] for file in files] == ["train-00000", "train-00002"]
  assert verify(path) == ()
  with pytest.raises(DataError, match="no record of the train split"):
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


def records_of(path):
  from array_record.python.array_record_module import ArrayRecordReader

  built = manifest.load(str(path))
  reader = ArrayRecordReader(str(path / built.shards[0].file), "")
  return reader.read(0, built.shards[0].records)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_files_that_fit_are_kept_byte_for_byte(tmp_path, kind):
  ending = {"jpeg": "jpg", "png": "png"}[kind]
  other = {"jpeg": "png", "png": "jpg"}[kind]
  color, gray = noise(8, 0), noise(8, 1, 1)
  palette = Image.fromarray(color).quantize(8)
  files = {
    f"0.{ending}": encoded(color, kind.upper()),
    f"1.{ending}": encoded(gray, kind.upper()),
    f"2.{ending}": encoded(noise(9, 2), kind.upper()),
    f"3.{other}": encoded(color, {"jpg": "JPEG", "png": "PNG"}[other]),
    "4.gif": encoded(palette, "GIF"),
  }
  if kind == "png":
    files["5.png"] = encoded(palette, "PNG")
    files["6.png"] = encoded(Image.fromarray(color).convert("RGBA"), "PNG")
    files["7.png"] = encoded(
      Image.fromarray(color), "PNG", transparency=(1,) * 3
    )
  source = folder_of(tmp_path, files)
  made = options(resolution=8, encoding=kind, quality=80, shuffle=False)
  build({"train": source}, str(tmp_path / "set"), made)
  written = [record[4:] for record in records_of(tmp_path / "set")]
  kept = [
    name
    for name, data in zip(files, written[: len(files)], strict=True)
    if data == files[name]
  ]
  assert kept == [f"0.{ending}"]
  for index, data in enumerate(written):
    fitted = recipe.fit(source.read(index).image, made)
    if kind == "png":
      np.testing.assert_array_equal(images.decode(data), fitted)
    elif index:
      assert data == images.encode(fitted, "jpeg", 80)


def test_quality_counts(tmp_path):
  sizes = []
  for quality in (30, 95):
    path = str(tmp_path / str(quality))
    made = options(encoding="jpeg", quality=quality)
    build({"train": NoiseSource(10, side=32)}, path, made)
    sizes.append(sum(map(len, records_of(tmp_path / str(quality)))))
  assert 2 * sizes[0] < sizes[1]


def test_sizes_must_agree_where_no_resolution_is_given(tmp_path):
  files = {f"{i}.png": encoded(noise(8, i), "PNG") for i in range(3)}
  files |= {"5.png": encoded(noise(8, 9, width=9), "PNG")}
  path = str(tmp_path / "set")
  source = folder_of(tmp_path, files)
  report = build({"train": source}, path, options(max_bad_fraction=0.5))
  assert report.manifest.schema.image_shape == (8, 8, 3)
  (row,) = rejects(path)
  assert row["reason"].startswith("it is 8 x 9 pixels, not 8 x 8")


def test_gray(tmp_path):
  path, source = str(tmp_path / "set"), NoiseSource(3)
  build({"train": source}, path, options(channels=1, shuffle=False))
  expected = Image.fromarray(source.read(1).image).convert("L")
  got = open_source(path, "train").read(1).image
  np.testing.assert_array_equal(got[..., 0], np.asarray(expected))


def test_group_size(tmp_path):
  sizes = {}
  for group in (0, 1, 16):
    path = tmp_path / str(group)
    made = options(group_size=group, shuffle=False, records_per_shard=16)
    manifest_of = build({"train": Flat(16)}, str(path), made).manifest
    sizes[group] = manifest_of.made["compression"]
    assert pixels(path) == [np.full((8, 8, 3), 5, np.uint8).tobytes()] * 16
  assert sizes == {
    0: "group_size:4,zstd",
    1: "group_size:1,zstd",
    16: "group_size:16,zstd",
  }
  encoded_set = options(encoding="png", group_size=8)
  assert encoded_set.compression == "group_size:8,uncompressed"


class Flat(NoiseSource):
  def read(self, index):
    sample = super().read(index)
    return sample._replace(image=np.full_like(sample.image, 5))


class Labelled(NoiseSource):
  """Records whose labels are given."""

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


def test_unlabelled(tmp_path):
  path = str(tmp_path / "set")
  build({"train": NoiseSource(5, classes=0)}, path, options())
  assert open_source(path, "train").num_classes == 0
  with pytest.raises(DataError, match="has no labels; set multilabel=False"):
    build(
      {"train": NoiseSource(5, classes=0)},
      str(tmp_path / "other"),
      options(multilabel=True),
    )


def test_splits_that_do_not_go_together(tmp_path):
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


def test_directories_that_cannot_be_used(tmp_path):
  save(tmp_path / "old", {"train-00000-of-00001.array_record": b"?"})
  with pytest.raises(DataError, match="shards without a manifest"):
    build({"train": NoiseSource(5)}, str(tmp_path / "old"), options())
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="cannot be made"):
    build({"train": NoiseSource(5)}, str(tmp_path / "file"), options())


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"crop": "middle"}, "crop='middle' is not one of center, random, none"),
    ({"encoding": "bmp"}, "encoding='bmp'"),
    ({"channels": 4}, "channels=4 is not one of 1, 3"),
    ({"dedup": "near"}, "dedup='near'"),
    ({"quality": 0}, r"quality=0 must lie in \[1, 100\]"),
    ({"resolution": -1}, "resolution=-1"),
    ({"records_per_shard": 0}, "records_per_shard=0"),
    ({"workers": 0}, "workers=0"),
    ({"max_bad_fraction": 1.5}, "max_bad_fraction=1.5"),
    ({"name": ""}, "name='' must not be empty"),
  ],
)
def test_options_are_checked(change, message):
  with pytest.raises(DataError, match=message):
    options(**change)


def fit(image, **changes):
  return recipe.fit(image, options(**changes))


def test_center_crop_and_area():
  image = noise(8, 0, width=14)
  np.testing.assert_array_equal(fit(image, resolution=8), image[:, 3:11])
  tall = image.transpose(1, 0, 2)
  np.testing.assert_array_equal(fit(tall, resolution=8), tall[3:11])
  square = noise(12, 1)
  blocks = square.reshape(4, 3, 4, 3, 3).mean((1, 3))
  # Pillow rounds twice: after each axis.
  assert np.abs(fit(square, resolution=4) - blocks).max() < 1
  flat = np.full((5, 5, 1), 77, np.uint8)
  assert (fit(flat, resolution=16) == 77).all()
  assert fit(flat, resolution=16).shape == (16, 16, 3)
  larger = np.asarray(
    Image.fromarray(square).resize((16, 16), Image.Resampling.LANCZOS)
  )
  np.testing.assert_array_equal(fit(square, resolution=16), larger)


def test_random_crop_depends_on_pixels_and_seed():
  found = set()
  for seed in range(40):
    image = noise(8, seed, width=11)
    got = fit(image, resolution=8, crop="random")
    again = fit(image.copy(), resolution=8, crop="random")
    np.testing.assert_array_equal(got, again)
    (start,) = (i for i in range(4) if (image[:, i : i + 8] == got).all())
    found.add(start)
  assert found == {0, 1, 2, 3}
  image = noise(8, 0, width=64)
  crops = {
    fit(image, resolution=8, crop="random", seed=seed).tobytes()
    for seed in range(8)
  }
  assert len(crops) > 3


def test_no_crop_squeezes():
  image = np.zeros((8, 16, 3), np.uint8)
  image[:, 8:] = 200
  got = fit(image, resolution=8, crop="none")
  np.testing.assert_array_equal(got, image[:, ::2])
  mixed = fit(image, resolution=12, crop="none")
  assert mixed.shape == (12, 12, 3)
  np.testing.assert_array_equal(mixed[6, :, 0], [0] * 6 + [200] * 6)
