"""Folders and zips of images: listing, labels, splits, bad files."""

import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import zipfile
from concurrent import futures

import numpy as np
import pytest
from image_files import everything, image, png, write, write_zip

from bigscale.data import images
from bigscale.data.folders import FolderSource
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source
from bigscale.data.sources import BadRecordError


def animals(each=20):
  """Three classes; pixels identify the image."""
  return {
    f"{name}/deep/{number:03d}.png": png(each * label + number)
    for label, name in enumerate(("ape", "bee", "cat"))
    for number in range(each)
  }


@pytest.fixture(params=["folder", "stored", "deflated"])
def place(request, tmp_path):
  """Writes files as a folder or a zip, and returns the path."""

  def make(files):
    if request.param == "folder":
      return write(tmp_path / "set", files)
    methods = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
    return write_zip(tmp_path / "set.zip", files, methods[request.param])

  return make


def test_the_first_directory_is_the_class(place):
  source = open_source(place(animals()), "train")
  assert source.class_names == ("ape", "bee", "cat")
  found = everything(source) + everything(
    open_source(place(animals()), "heldout")
  )
  assert sorted(found) == [(i, (i // 20,)) for i in range(60)]
  np.testing.assert_array_equal(
    source.labels(), [labels[0] for _, labels in everything(source)]
  )
  assert source.file_records == (len(source),)
  assert source.check() == ()


def test_read_bytes_returns_the_file(place):
  source = FolderSource(place(animals()), heldout_fraction=0.0)
  assert source.read_bytes(21) == (png(21), (1,))


def test_records_are_sorted_by_path(tmp_path):
  files = animals()
  forward = write(tmp_path / "a" / "set", files)
  backward = write(tmp_path / "b" / "set", dict(reversed(files.items())))
  assert everything(FolderSource(forward)) == everything(FolderSource(backward))
  assert FolderSource(forward).identity == FolderSource(backward).identity


@pytest.mark.parametrize("change", ["add", "rename", "resize", "relabel"])
def test_changed_content_changes_the_identity(tmp_path, change):
  files = animals()
  before = FolderSource(write(tmp_path / "a" / "set", files))
  first = next(iter(files))
  if change == "add":
    files["ape/new.png"] = png(99)
  elif change == "rename":
    files["ape/deep/first.png"] = files.pop(first)
  elif change == "resize":
    files[first] += b"more"
  else:
    files = {f.replace("ape/", "dog/"): data for f, data in files.items()}
  after = FolderSource(write(tmp_path / "b" / "set", files))
  assert before.identity != after.identity


def test_a_class_without_heldout_images_changes_the_identity(tmp_path):
  files = {"train/a/1.png": png(1), "train/b/1.png": png(1)}
  files["val/a/1.png"] = png(1)
  root = write(tmp_path / "set", files)
  before = FolderSource(root, "heldout").identity
  write(root, {"train/c/1.png": png(1)})
  assert FolderSource(root, "heldout").identity != before


def test_zip_identity_covers_pixels(tmp_path):
  files = {f"{name}.bmp": bytes([60] * 70) for name in "abcdefgh"}
  before = FolderSource(write_zip(tmp_path / "set.zip", files))
  files = {name: data[:-1] + b"!" for name, data in files.items()}
  after = FolderSource(write_zip(tmp_path / "set.zip", files))
  assert before.identity != after.identity


def test_adding_images_moves_no_others_between_splits(tmp_path):
  root = write(tmp_path / "set", animals(40))
  before = set(everything(FolderSource(root, "heldout", 0.2)))
  more = {
    f"ape/new/{i}.png": images.encode(image(200)[:2], "png") for i in range(200)
  }
  write(root, more)
  after = everything(FolderSource(root, "heldout", 0.2))
  assert before == {each for each in after if each[0] != 200}
  assert before
  new = sum(each[0] == 200 for each in after)
  assert 20 <= new <= 60


def test_files_without_folders_have_no_labels(place):
  files = {f"{number}.png": png(number) for number in range(30)}
  source = FolderSource(place(files), heldout_fraction=0.0)
  assert source.num_classes == 0
  assert sorted(everything(source)) == [(number, ()) for number in range(30)]
  assert not source.labels().any()


def test_a_folder_around_everything_is_not_a_class(place):
  wrapped = {f"set/images/{path}": data for path, data in animals().items()}
  assert FolderSource(place(wrapped)).class_names == ("ape", "bee", "cat")


def test_one_folder_of_images_has_no_labels(place):
  files = {f"images/{number}.png": png(number) for number in range(30)}
  assert FolderSource(place(files)).num_classes == 0


def test_only_image_extensions_of_any_case_are_read(tmp_path):
  jpeg = images.encode(image(7), "jpeg")
  files = {
    "a.jpg": jpeg,
    "b.JPEG": jpeg,
    "c.Png": png(7),
    "._a.jpg": b"resource fork",
    ".hidden/a.jpg": b"x",
    "__MACOSX/a.jpg": b"x",
    "notes.txt": b"x",
    "jpg": b"x",
  }
  for path in (
    write(tmp_path / "set", files),
    write_zip(tmp_path / "set.zip", files),
  ):
    source = FolderSource(path, heldout_fraction=0.0)
    assert [v for v, _ in everything(source)] == [7, 7, 7]


@pytest.mark.parametrize("other", ["heldout", "val", "validation", "test"])
def test_split_folders_are_the_splits(place, other):
  files = {f"train/{path}": data for path, data in animals(2).items()}
  files |= {f"{other}/bee/a.png": png(100), f"{other}/cat/a.png": png(101)}
  path = place(files)
  train, heldout = FolderSource(path), FolderSource(path, "heldout")
  assert everything(train) == [(i, (i // 2,)) for i in range(6)]
  assert heldout.class_names == train.class_names == ("ape", "bee", "cat")
  assert everything(heldout) == [(100, (1,)), (101, (2,))]


def test_a_class_missing_from_train_is_rejected(tmp_path):
  files = {f"train/{path}": data for path, data in animals(2).items()}
  root = write(tmp_path / "set", files | {"val/dog/a.png": png(1)})
  with pytest.raises(
    DataError, match=r"val/dog/a.png is not in a class folder"
  ):
    FolderSource(root, "heldout")


def test_an_image_outside_of_class_folders_is_rejected(place):
  with pytest.raises(DataError, match=r"stray.png is not in a class folder"):
    FolderSource(place(animals() | {"stray.png": png(1)}))


def stylegan(labels):
  files = {f"{i // 10:05d}/img{i:08d}.png": png(i) for i in range(40)}
  if labels == "every":
    labels = [[path, i % 3] for i, path in enumerate(files)]
  return files | {"dataset.json": json.dumps({"labels": labels}).encode()}


def test_dataset_json_gives_labels_instead_of_folders(place):
  source = FolderSource(place(stylegan("every")), heldout_fraction=0.0)
  assert source.class_names == ("0", "1", "2")
  assert everything(source) == [(i, (i % 3,)) for i in range(40)]


def test_dataset_json_without_labels_is_unlabeled(place):
  assert FolderSource(place(stylegan(None))).num_classes == 0


def test_dataset_json_at_the_root_covers_both_split_folders(place):
  labels = [["train/a.png", 4], ["train/b.png", 0], ["test/a.png", 2]]
  files = {path: png(label) for path, label in labels}
  files["dataset.json"] = json.dumps({"labels": labels}).encode()
  path = place(files)
  assert everything(FolderSource(path)) == [(4, (4,)), (0, (0,))]
  assert everything(FolderSource(path, "heldout")) == [(2, (2,))]
  assert FolderSource(path, "heldout").num_classes == 5


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"{", "not a readable JSON"),
    (b"[]", "it has no 'labels'"),
    (b'{"labels": [["a.png", -1]]}', "-1"),
    (b'{"labels": [["a.png", [0.5, 1.0]]]}', "0.5"),
    (b'{"labels": []}', "must be"),
    (b'{"labels": [["other.png", 1]]}', "no label for a.png"),
  ],
)
def test_an_invalid_dataset_json_is_rejected(place, content, message):
  with pytest.raises(DataError, match=message):
    FolderSource(place({"a.png": png(1), "dataset.json": content}))


def test_an_empty_folder_or_zip_is_rejected(tmp_path):
  for path in (
    write(tmp_path / "set", {"notes.txt": b"x"}),
    write_zip(tmp_path / "set.zip", {"notes.txt": b"x"}),
  ):
    with pytest.raises(DataError, match=r"set.* is empty: no file in it"):
      open_source(path, "train")


def test_an_invalid_zip_is_rejected(tmp_path):
  path = write_zip(tmp_path / "set.zip", animals())
  with open(path, "r+b") as file:
    file.truncate(os.path.getsize(path) // 2)
  with pytest.raises(DataError, match="is not a readable zip"):
    FolderSource(path)


def test_bad_images_raise_bad_record_errors_with_their_file(place):
  jpeg = images.encode(image(9), "jpeg")
  path = place({"a.jpg": jpeg[:-20], "b.png": b"", "c.png": b"<html>"})
  source = FolderSource(path, heldout_fraction=0.0)
  for index, reason in enumerate(("not decode", "0 bytes", "not decode")):
    with pytest.raises(BadRecordError, match=reason) as caught:
      source.read(index)
    assert caught.value.index == index
    assert caught.value.source == source.name
    assert "abc"[index] + "." in str(caught.value)
    assert source.read_bytes(index)[1] == ()
  with pytest.raises(IndexError):
    source.read(3)


def test_a_changed_or_missing_file_is_a_bad_record(tmp_path):
  root = write(tmp_path / "set", {"a.png": png(1), "b.png": png(2)})
  source = FolderSource(root, heldout_fraction=0.0)
  with open(os.path.join(root, "a.png"), "ab") as file:
    file.write(b"x")
  os.remove(os.path.join(root, "b.png"))
  with pytest.raises(BadRecordError, match="but had"):
    source.read(0)
  with pytest.raises(BadRecordError, match="No such file"):
    source.read(1)
  shutil.rmtree(root)
  (lost,) = source.check()
  assert "no longer there" in lost.message
  assert lost.records == 2


def test_a_damaged_byte_in_a_zip_is_a_bad_record(tmp_path):
  data = os.urandom(1000)
  path = write_zip(tmp_path / "set.zip", {"a.png": data, "b.png": png(1)})
  whole = pathlib.Path(path).read_bytes()
  at = whole.index(data) + 500
  with open(path, "r+b") as file:
    file.seek(at)
    file.write(bytes([whole[at] ^ 1]))
  source = FolderSource(path, heldout_fraction=0.0)
  with pytest.raises(BadRecordError, match="its checksum"):
    source.read_bytes(0)
  assert source.read(1).image[0, 0, 0] == 1
  with open(path, "ab") as file:
    file.write(b"x")
  assert "but had" in source.check()[0].message


def test_a_zip_may_have_extra_fields(tmp_path):
  info = zipfile.ZipInfo("a.png")
  info.extra = b"UT\x05\x00\x01\0\0\0\0"
  with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
    archive.writestr(info, png(7))
  source = FolderSource(str(tmp_path / "s.zip"), heldout_fraction=0.0)
  assert everything(source) == [(7, ())]


def test_an_unsupported_zip_compression_is_a_bad_record(tmp_path):
  path = write_zip(tmp_path / "s.zip", {"a.png": png(1)}, zipfile.ZIP_BZIP2)
  source = FolderSource(path, heldout_fraction=0.0)
  with pytest.raises(BadRecordError, match="packed by method 12"):
    source.read(0)


def test_pickled_sources_are_thread_safe(place):
  source = FolderSource(place(animals(60)), heldout_fraction=0.0)
  source.read(0)
  copy = pickle.loads(pickle.dumps(source))
  assert copy.identity == source.identity
  expected = everything(source)
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(everything, [copy] * 24))
  assert found == [expected] * 24


def test_another_process_reads_the_same_records(place):
  path = place(animals())
  program = (
    "import sys; from bigscale.data.folders import FolderSource as F\n"
    "s = F(sys.argv[1]); print(s.identity, s.read(5).labels, len(s))"
  )
  printed = subprocess.run(
    [sys.executable, "-c", program, path],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, "PYTHONHASHSEED": "7"},
  ).stdout.strip()
  source = FolderSource(path)
  assert printed == f"{source.identity} {source.read(5).labels} {len(source)}"


def test_links_are_followed_but_cycles_are_not(tmp_path):
  write(tmp_path / "elsewhere", {"x.png": png(5)})
  root = write(tmp_path / "set", {"ape/a.png": png(1), "bee/b.png": png(2)})
  os.symlink(tmp_path / "elsewhere", os.path.join(root, "cat"))
  os.symlink(root, os.path.join(root, "ape", "again"))
  os.symlink("nowhere.png", os.path.join(root, "ape", "gone.png"))
  source = FolderSource(root, heldout_fraction=0.0)
  assert source.class_names == ("ape", "bee", "cat")
  assert len(source) == 4
  with pytest.raises(BadRecordError, match="No such file"):
    source.read(1)
  assert source.read(3).image[0, 0, 0] == 5


def test_unicode_names_are_read(place):
  files = {
    "Schöne Dinge/ä %20 b.png": png(1),
    "日本/図.png": png(2),
    "日本/c.png": png(3),
  }
  source = FolderSource(place(files), heldout_fraction=0.0)
  assert source.class_names == ("Schöne Dinge", "日本")
  assert [value for value, _ in everything(source)] == [1, 3, 2]


def test_file_urls_are_local_paths(tmp_path):
  root = write(tmp_path / "set", animals())
  url, plain = FolderSource(f"file://{root}"), FolderSource(root)
  assert url.identity == plain.identity
  assert everything(url) == everything(plain)
