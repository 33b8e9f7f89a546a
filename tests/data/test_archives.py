"""Tests of WebDataset tars and MNIST's idx files."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
from concurrent import futures

import numpy as np
import pytest
from image_files import everything, png

from bigscale.data import images
from bigscale.data.archives import TarSource
from bigscale.data.idx import IdxSource, read_idx
from bigscale.data.manifest import DataError
from bigscale.data.sources import BadRecordError


def write_tar(path, files, mode="w"):
  with tarfile.open(path, mode) as tar:
    for name, data in files:
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return str(path)


def numbered(count, first=0, label=lambda i: i % 3):
  """Returns samples in WebDataset form: an image and its .cls."""
  files = []
  for i in range(first, first + count):
    files.append((f"{i:06d}.png", png(i)))
    files.append((f"{i:06d}.cls", str(label(i)).encode()))
  return files


def whole(paths):
  return TarSource(paths, heldout_fraction=0.0)


def test_files_with_one_stem_form_a_sample_in_tar_order(tmp_path):
  paths = [
    write_tar(tmp_path / "b.tar", numbered(4)),
    write_tar(tmp_path / "a.tar", numbered(5, first=4)),
  ]
  source = whole(paths)
  assert everything(source) == [(i, (i % 3,)) for i in range(9)]
  assert source.class_names == ("0", "1", "2")
  assert source.read_bytes(7) == (png(7), (1,))
  assert source.file_records == (9,)
  np.testing.assert_array_equal(source.labels(), np.arange(9) % 3)
  assert source.check() == ()


def test_splits_are_disjoint_and_complete(tmp_path):
  path = write_tar(tmp_path / "a.tar", numbered(100))
  train = TarSource(path, "train", 0.2)
  heldout = TarSource(path, "heldout", 0.2)
  assert 8 <= len(heldout) <= 32
  found = everything(train) + everything(heldout)
  assert sorted(found) == [(i, (i % 3,)) for i in range(100)]
  assert train.identity != heldout.identity
  more = write_tar(tmp_path / "b.tar", numbered(100, first=100))
  both = everything(TarSource([path, more], "heldout", 0.2))
  assert everything(heldout) == [each for each in both if each[0] < 100]


def test_stems_end_at_the_first_dot_and_include_folders(tmp_path):
  files = [
    ("./x/1.seg.png", png(99)),
    ("./x/1.JPG", images.encode(np.full((4, 4, 3), 8, np.uint8), "jpeg")),
    ("./x/1.cls", b"1\n"),
    ("./y/1.cls", b"0"),
    ("./y/1.png", png(9)),
    ("./y/2.txt", b"no image"),
    ("./y/._1.png", b"of macOS"),
  ]
  source = whole(write_tar(tmp_path / "a.tar", files))
  assert everything(source) == [(8, (1,)), (9, (0,))]


def test_json_gives_one_label_or_several(tmp_path):
  files = []
  for i, tree in enumerate(({"label": 4}, {"labels": [2, 0, 7]}, {"label": 1})):
    files += [(f"{i}.png", png(i)), (f"{i}.json", json.dumps(tree).encode())]
  source = whole(write_tar(tmp_path / "a.tar", files))
  assert everything(source) == [(0, (4,)), (1, (2, 0, 7)), (2, (1,))]
  assert source.num_classes == 8
  np.testing.assert_array_equal(source.labels(), [4, 2, 1])


@pytest.mark.parametrize("extra", [[], [("0.json", b'{"caption": "a"}')]])
def test_a_tar_without_labels_is_unlabeled(tmp_path, extra):
  files = [("0.png", png(3)), *extra]
  source = whole(write_tar(tmp_path / "a.tar", files))
  assert source.num_classes == 0
  assert everything(source) == [(3, ())]
  np.testing.assert_array_equal(source.labels(), [0])


def test_tar_identities_do_not_depend_on_paths(tmp_path):
  os.mkdir(tmp_path / "other")
  first = whole(write_tar(tmp_path / "a.tar", numbered(5)))
  again = whole(write_tar(tmp_path / "other" / "a.tar", numbered(5)))
  assert first.identity == again.identity
  relabeled = numbered(5, label=lambda i: (i + 1) % 3)
  renamed = numbered(5, first=1, label=lambda i: (i - 1) % 3)
  assert (
    len(
      {
        first.identity,
        whole(write_tar(tmp_path / "a.tar", relabeled)).identity,
        whole(write_tar(tmp_path / "a.tar", renamed)).identity,
      }
    )
    == 3
  )


@pytest.mark.parametrize(
  ("files", "message"),
  [
    ([], "is empty"),
    ([("0.txt", b"x")], "is empty"),
    ([("0.png", b"x"), ("0.jpg", b"x")], "two images"),
    ([("0.png", b"x"), ("0.cls", b"cat")], "0.cls in .* is not a label"),
    ([("0.png", b"x"), ("0.cls", b"-1")], "is not a label"),
    ([("0.png", b"x"), ("0.json", b'{"label": "a"}')], "is not a label"),
    ([("0.png", b"x"), ("0.json", b"{")], "is not a label"),
    ([("0.png", b"x"), ("0.cls", b"1"), ("1.png", b"x")], "1 in .* has no"),
  ],
)
def test_invalid_tars_are_rejected(tmp_path, files, message):
  with pytest.raises(DataError, match=message):
    TarSource(write_tar(tmp_path / "a.tar", files))


def test_incomplete_tars_are_rejected(tmp_path):
  with pytest.raises(DataError, match="cannot be read"):
    TarSource(str(tmp_path / "none.tar"))
  with pytest.raises(DataError, match="is empty"):
    TarSource([])
  packed = write_tar(tmp_path / "a.tar.gz", numbered(3), "w:gz")
  with pytest.raises(DataError, match="unpack it"):
    TarSource(packed)
  path = write_tar(tmp_path / "a.tar", numbered(9))
  data = (tmp_path / "a.tar").read_bytes()
  at = data.index(b"000005.png")
  # In the middle of a header, and in the middle of a file.
  for end in (at + 100, at + 520):
    (tmp_path / "cut.tar").write_bytes(data[:end])
    with pytest.raises(DataError, match=r"copy it again|copy or pack"):
      TarSource(str(tmp_path / "cut.tar"))
  # tarfile alone would stop here without an error.
  (tmp_path / "bad.tar").write_bytes(data[:at] + b"!" + data[at + 1 :])
  with pytest.raises(DataError, match=f"damaged at byte {at}"):
    TarSource(str(tmp_path / "bad.tar"))
  assert len(whole(path)) == 9


def test_bad_images_raise_bad_record_errors_with_their_file(tmp_path):
  files = [("0.png", b""), ("1.png", b"<html>"), ("2.png", png(2))]
  path = write_tar(tmp_path / "a.tar", files)
  source = whole(path)
  with pytest.raises(BadRecordError, match=r"a.tar/0, in .*a.tar.*0 bytes"):
    source.read(0)
  with pytest.raises(BadRecordError, match="not decode"):
    source.read(1)
  assert source.read(2).image[0, 0, 0] == 2
  copy = pickle.loads(pickle.dumps(source))
  os.truncate(path, 2060)
  with pytest.raises(BadRecordError, match="but had"):
    copy.read(2)
  (lost,) = source.check()
  assert "2060 bytes, but had" in lost.message
  os.remove(path)
  assert "cannot be read" in source.check()[0].message


def test_check_reports_the_records_of_a_missing_tar(tmp_path):
  paths = [
    write_tar(tmp_path / "a.tar", numbered(4)),
    write_tar(tmp_path / "b.tar", numbered(5, first=4)),
  ]
  source = whole(paths)
  os.remove(paths[1])
  assert [lost.records for lost in source.check()] == [5]
  with pytest.raises(BadRecordError, match="No such file"):
    source.read(4)


def test_pickled_tars_are_thread_safe(tmp_path):
  paths = [
    write_tar(tmp_path / f"{n}.tar", numbered(20, 20 * n)) for n in range(3)
  ]
  source = whole(paths)
  expected = everything(source)
  copy = pickle.loads(pickle.dumps(source))
  assert copy.identity == source.identity
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(everything, [copy] * 8))
  assert found == [expected] * 8


def idx(array):
  head = b"\0\0\x08" + bytes([array.ndim])
  return head + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_idx(path, array):
  data = idx(array)
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return str(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_contain_images_and_labels(tmp_path, suffix):
  pixels = np.arange(60 * 4 * 5, dtype=np.uint32).reshape(60, 4, 5) % 251
  pixels = pixels.astype(np.uint8)
  labels = (np.arange(60) % 7).astype(np.uint8)
  paths = (
    write_idx(tmp_path / f"images{suffix}", pixels),
    write_idx(tmp_path / f"labels{suffix}", labels),
  )
  source = IdxSource(*paths, heldout_fraction=0.0)
  assert source.class_names == tuple("0123456")
  for i in (0, 31, 59):
    image, own = source.read(i)
    np.testing.assert_array_equal(image, pixels[i][..., None])
    assert own == (i % 7,)
  heldout = IdxSource(*paths, "heldout", 0.5)
  train = IdxSource(*paths, "train", 0.5)
  assert len(heldout) + len(train) == 60
  copy = pickle.loads(pickle.dumps(train))
  assert copy.identity == train.identity != heldout.identity
  assert IdxSource(paths[0]).num_classes == 0


def test_an_idx_identity_does_not_depend_on_compression(tmp_path):
  pixels = np.ones((30, 4, 4), np.uint8)
  plain = IdxSource(write_idx(tmp_path / "images", pixels))
  packed = IdxSource(write_idx(tmp_path / "images.gz", pixels))
  assert plain.identity == packed.identity


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "is not an idx file"),
    (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "is not an idx file"),
    (b"\0\0\x08\3\0\0", "is not an idx file"),
    (idx(np.zeros((3, 4), np.uint8))[:-1], "11 values, but claims"),
    (idx(np.zeros((3, 4), np.uint8)) + b"x", "more values, but claims"),
    (
      gzip.compress(idx(np.zeros(99, np.uint8)), mtime=0)[:-9],
      "cannot be read",
    ),
  ],
)
def test_invalid_idx_files_are_rejected(tmp_path, data, message):
  (tmp_path / "images").write_bytes(data)
  with pytest.raises(DataError, match=message):
    read_idx(str(tmp_path / "images"))
  with pytest.raises(DataError, match="cannot be read"):
    read_idx(str(tmp_path / "none"))


def test_mismatched_idx_files_are_rejected(tmp_path):
  pixels = write_idx(tmp_path / "images", np.zeros((30, 4, 4), np.uint8))
  labels = write_idx(tmp_path / "labels", np.zeros(29, np.uint8))
  with pytest.raises(DataError, match="one for every image"):
    IdxSource(pixels, labels)
  with pytest.raises(DataError, match=r"labels has 1 axis.*images first"):
    IdxSource(labels)
  with pytest.raises(DataError, match=r"images has 3 axes.*labels last"):
    IdxSource(pixels, pixels)
  lone = write_idx(tmp_path / "lone", np.array(3, np.uint8))
  with pytest.raises(DataError, match="0 axes"):
    IdxSource(lone)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
  "shape", [(2**31 - 1, 2**31 - 1), (60_000, 28, 28), (2**16,) * 4, (1,) * 99]
)
def test_an_idx_file_with_a_too_large_shape_takes_no_memory(
  tmp_path, suffix, shape
):
  data = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}i", *shape)
  path = tmp_path / f"images{suffix}"
  path.write_bytes(gzip.compress(data) if suffix else data)
  with pytest.raises(DataError, match=r"which does not fit|has 0 values"):
    read_idx(str(path))


def test_a_compressed_idx_file_is_read_no_further_than_its_shape(tmp_path):
  bomb = bytes([0, 0, 8, 1]) + struct.pack(">i", 10) + bytes(1 << 26)
  (tmp_path / "labels.gz").write_bytes(gzip.compress(bomb))
  tracemalloc.start()
  with pytest.raises(DataError, match="more values"):
    read_idx(str(tmp_path / "labels.gz"))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1 << 23
