"""Users are told about classes without images, and about skipped files."""

import dataclasses
import gzip
import json
import logging
import struct
import tarfile

import numpy as np
import pytest
from built_set import options
from image_files import png, write
from test_archives import write_tar

from bigscale.data import inspect, notes
from bigscale.data import manifest as manifests
from bigscale.data.archives import TarSource
from bigscale.data.arrays import ArraySource, open_npz
from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.idx import IdxSource
from bigscale.data.manifest import DataError
from bigscale.data.mixture import Mixed
from bigscale.data.openers import open_source
from bigscale.data.reading import open_data, open_mix
from bigscale.data.shards import ShardSource
from bigscale.data.subset import Subset
from bigscale.data.synthetic import SyntheticSource
from bigscale.spec import DataSpec, SourceSpec

# Labels from 1 with a gap: classes 0 and 2 have no image.
LABELS = [1, 3, 4, 3, 1, 4, 4, 1]
IMAGES = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4)


def npz(folder):
  path = folder / "set.npz"
  np.savez(path, images=IMAGES, labels=np.array(LABELS))
  return open_npz(str(path), heldout_fraction=0.0)


def idx(folder):
  paths = []
  for name, values in (("images", IMAGES), ("labels", np.array(LABELS, "u1"))):
    head = bytes([0, 0, 8, values.ndim])
    head += struct.pack(f">{values.ndim}i", *values.shape)
    paths.append(str(folder / name))
    with gzip.open(paths[-1], "wb") as file:
      file.write(head + values.tobytes())
  return IdxSource(*paths, heldout_fraction=0.0)


def folder_of_images(folder):
  labels = [[f"{i}.png", label] for i, label in enumerate(LABELS)]
  files = {path: png(i) for i, (path, _) in enumerate(labels)}
  files["dataset.json"] = json.dumps({"labels": labels}).encode()
  return FolderSource(write(folder / "set", files), heldout_fraction=0.0)


def tar(folder):
  files = []
  for i, label in enumerate(LABELS):
    files += [(f"{i}.png", png(i)), (f"{i}.cls", str(label).encode())]
  return TarSource(write_tar(folder / "a.tar", files), heldout_fraction=0.0)


def built(folder):
  path = str(folder / "built")
  build({"train": tar(folder)}, path, options())
  return open_source(path, "train")


def unbuilt_shards(folder):
  """Returns shards whose manifest has no label counts."""
  path = str(folder / "built")
  build({"train": tar(folder)}, path, options())
  manifest = manifests.load(path)
  manifests.save(dataclasses.replace(manifest, made={}), path)
  return ShardSource(path, "train")


SOURCES = (npz, idx, folder_of_images, tar, built, unbuilt_shards)


@pytest.mark.parametrize("make", SOURCES)
def test_classes_without_an_image_are_named(make, tmp_path):
  source = make(tmp_path)
  assert source.num_classes == 5
  assert source.empty_classes() == (0, 2)
  (note,) = notes.of_sources({"train": (source, source)})
  assert note.startswith("2 of 5 classes have no image in ")
  assert f"{source!r}: 0, 2; they are not trained" in note


def test_notes_include_class_names():
  names = ("none", "cat", "dog")
  source = ArraySource(IMAGES[:2], np.array([1, 2]), names, "set", "train", 0.0)
  (note,) = notes.of_source(source, "heldout")
  assert note.endswith(": 0 (none)")


@pytest.mark.parametrize(
  "source",
  [
    SyntheticSource(100, 4, 3),
    SyntheticSource(100, 4, 0),
    ArraySource(IMAGES, heldout_fraction=0.0),
    ArraySource(IMAGES, np.arange(8) % 2, heldout_fraction=0.0),
  ],
)
def test_complete_classes_give_no_note(source):
  assert notes.of_source(source, "train") == ()


def several(folder):
  """Returns a tar in which 0 is never a first label, and 3 never occurs."""
  labels = ([1, 0], [2, 0], [1], [4])
  files = []
  for i, each in enumerate(labels):
    tree = json.dumps({"labels": each}).encode()
    files += [(f"{i}.png", png(i)), (f"{i}.json", tree)]
  return TarSource(write_tar(folder / "b.tar", files), heldout_fraction=0.0)


def test_empty_classes_count_all_labels_of_a_record(tmp_path):
  source = several(tmp_path)
  assert source.empty_classes() == (3,)
  path = str(tmp_path / "set")
  build({"train": source}, path, options(multilabel=True))
  assert open_source(path, "train").empty_classes() == (3,)
  # A subset would have to read labels record by record.
  assert Subset(source, size=3).empty_classes() is None
  assert SyntheticSource(9, 4, 8, 2).empty_classes() == (6,)


def test_a_subset_may_lack_more_classes():
  source = ArraySource(
    np.repeat(IMAGES, 4, 0), np.arange(32), heldout_fraction=0.0
  )
  part = Subset(source, size=30)
  assert len(part.empty_classes()) == 2
  assert Subset(source, classes=4).empty_classes() == ()


def test_subsets_and_mixtures_keep_the_notes_of_sources(tmp_path):
  path = write(tmp_path / "s", {f"{i}.png": png(i) for i in range(40)})
  write(tmp_path / "s", {"notes.txt": b"x"})
  said = FolderSource(path).notes
  assert "1 .txt (the root: 1)" in said[-1]
  spec = DataSpec(
    mixture=(
      SourceSpec(source=path, share=0.5),
      SourceSpec(source="emoji", share=0.5),
    ),
    mixture_labels="none",
  )
  assert Subset(FolderSource(path), size=3).notes == said
  assert isinstance(open_data(spec, "train"), Mixed)
  assert open_data(spec, "train").notes == said
  parts = open_mix(spec, "train").sources
  assert notes.of_sources({"train": parts}) == said


def test_notes_are_logged(caplog):
  with caplog.at_level(logging.WARNING):
    notes.warn(["one", "two"])
  assert [record.getMessage() for record in caplog.records] == [
    "data: one",
    "data: two",
  ]


def test_inspect_and_builds_report_skipped_files(tmp_path):
  files = {f"{'ab'[i % 2]}/{i}.png": png(i) for i in range(40)}
  path = write(tmp_path / "s", files | {"a/x.txt": b"", "@eaDir/x.png": b""})
  found = inspect.facts(path)
  assert any("1 .txt (a: 1)" in note for note in found["notes"])
  words = inspect.text(found)
  assert words.count("1 .txt (a: 1)") == 1
  assert words.count("hidden files left out: 1 .png (@eaDir: 1)") == 1
  built = str(tmp_path / "built")
  build({"train": FolderSource(path)}, built, options())
  told = inspect.inspect(built)
  assert told.count("note: when it was built: s: left out") == 1


def test_unread_files_of_a_tar_are_counted(tmp_path):
  files = [
    ("0.png", png(0)),
    ("0.cls", b"0"),
    ("1.jfif", b"x"),
    ("1.cls", b"1"),
  ]
  files += [("0.txt", b"a caption"), ("0.seg.png", png(1)), ("2.cls", b"1")]
  files += [("x/._0.png", b"x"), ("@eaDir/0.png", b"x"), ("./.DS_Store", b"x")]
  path = write_tar(tmp_path / "a.tar", files)
  with tarfile.open(path, "a") as archive:
    link = tarfile.TarInfo("3.png")
    link.type, link.linkname = tarfile.LNKTYPE, "0.png"
    archive.addfile(link)
  source = TarSource(path, heldout_fraction=0.0)
  assert len(source) == 2
  out, hidden, alone = source.notes
  for part in ("1 .txt", "1 .seg.png", "1 .png that is a link"):
    assert part in out
  assert "2 .png (._*: 1, @eaDir: 1)" in hidden
  assert "labels without an image, 1 in total: 2" in alone


@pytest.mark.parametrize(
  "files",
  [
    [("0.cls", b"1"), ("0.cls", b"2")],
    [("0.cls", b"1"), ("0.json", b'{"label": 2}')],
    [("0.json", b'{"label": 2}'), ("0.cls", b"1")],
  ],
)
def test_two_labels_of_a_sample_are_rejected(tmp_path, files):
  path = write_tar(tmp_path / "a.tar", [("0.png", png(0)), *files])
  with pytest.raises(DataError, match=r"two labels to 0, . and .; keep one"):
    TarSource(path)
  same = [("0.png", png(0)), ("0.cls", b"1"), ("0.json", b'{"label": 1}')]
  path = write_tar(tmp_path / "b.tar", same)
  assert TarSource(path, heldout_fraction=0.0).read(0).labels == (1,)


def test_unused_arrays_of_an_npz_are_named(tmp_path):
  path = str(tmp_path / "set.npz")
  np.savez(path, IMAGES, np.array(LABELS), test_images=IMAGES)
  assert open_npz(path).notes == (f"{path}: unused arrays: arr_1, test_images",)
