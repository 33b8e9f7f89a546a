"""Unusual files in folders and archives do not break training."""

import contextlib
import io
import json
import os

import numpy as np
import pytest
from built_set import options
from image_files import png, write, write_zip
from PIL import Image
from test_archives import write_tar

from bigscale.data import images, inspect
from bigscale.data.archives import TarSource
from bigscale.data.arrays import ArraySource
from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.inputs import open_inputs
from bigscale.data.manifest import DataError
from bigscale.data.mixture import Mixed
from bigscale.data.openers import open_source
from bigscale.data.reading import open_data
from bigscale.data.subset import Subset
from bigscale.spec import DataSpec, SourceSpec
from bigscale.train.writers import JsonLines

FOLDERS = {f"{'ab'[i % 2]}/{i}.png": png(i) for i in range(40)}


def test_a_pipe_named_like_an_image_is_skipped_and_noted(tmp_path):
  root = write(tmp_path / "set", FOLDERS)
  os.mkfifo(os.path.join(root, "a", "stream.png"))
  source = FolderSource(root, heldout_fraction=0.0)
  assert len(source) == 40
  assert "1 .png that is not a regular file (a: 1)" in " ".join(source.notes)


@pytest.mark.parametrize("name", ["~snapshot", "@tmp"])
def test_folders_of_file_servers_are_not_classes(tmp_path, name):
  root = write(tmp_path / "set", FOLDERS | {f"{name}/a/1.png": png(1)})
  assert FolderSource(root).class_names == ("a", "b")


def huge_labels(tmp_path):
  label = 1_700_000_000
  table = {"labels": [["0.png", 0], ["1.png", label]]}
  files = {"0.png": png(0), "1.png": png(1)}
  tagged = {"0.cls": b"0", "1.cls": str(label).encode()}
  return {
    "npz": lambda: ArraySource(np.zeros((2, 4, 4), "u1"), np.array([0, label])),
    "dataset.json": lambda: FolderSource(
      write(
        tmp_path / "f", files | {"dataset.json": json.dumps(table).encode()}
      )
    ),
    "tar": lambda: TarSource(
      write_tar(tmp_path / "t.tar", list({**files, **tagged}.items()))
    ),
  }


@pytest.mark.parametrize("kind", ["npz", "dataset.json", "tar"])
def test_labels_that_are_ids_are_rejected(tmp_path, kind):
  with pytest.raises(DataError, match=r"1,700,000,001 classes.*from 0"):
    huge_labels(tmp_path)[kind]()


def test_deeply_nested_json_is_rejected(tmp_path):
  text = b'{"labels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
  root = write(tmp_path / "f", {"0.png": png(0), "dataset.json": text})
  with pytest.raises(DataError, match="not a readable JSON file"):
    FolderSource(root)
  tar = write_tar(tmp_path / "t.tar", [("0.png", png(0)), ("0.json", text)])
  with pytest.raises(DataError, match="is not a label"):
    TarSource(tar)


def test_archive_extensions_may_have_any_case(tmp_path):
  write_zip(tmp_path / "A.ZIP", FOLDERS)
  assert open_source(str(tmp_path / "A.ZIP"), "train").num_classes == 2
  np.savez(tmp_path / "a.npz", images=np.zeros((90, 4, 4), "u1"))
  os.rename(tmp_path / "a.npz", tmp_path / "A.NPZ")
  assert len(open_source(str(tmp_path / "A.NPZ"), "train")) > 40


@pytest.mark.parametrize("prefix", ["file://", "~"])
def test_held_out_images_do_not_depend_on_the_form_of_a_path(
  tmp_path, monkeypatch, prefix
):
  write(tmp_path / "set", FOLDERS)
  np.savez(tmp_path / "a.npz", images=np.zeros((40, 4, 4), "u1"))
  write_tar(tmp_path / "a.tar", list(FOLDERS.items()))
  monkeypatch.setenv("HOME", str(tmp_path))
  place = "~" if prefix == "~" else f"file://{tmp_path}"
  for name in ("set", "a.npz", "a.tar"):
    assert [*open_inputs(f"{place}/{name}", "", 0.0)] == ["train"]


def pillow(kind):
  file = io.BytesIO()
  Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(file, kind)
  return file.getvalue()


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "TIFF", "WEBP", "PNG"])
def test_damaged_files_raise_only_value_error(kind):
  data = pillow(kind)
  rng = np.random.default_rng(0)
  for _ in range(60):
    bytes_ = bytearray(data)
    for place in rng.integers(0, min(len(data), 400), 4):
      bytes_[place] = rng.integers(256)
    for read in (images.decode, images.shape_of):
      with contextlib.suppress(ValueError):
        read(bytes(bytes_))


@pytest.mark.parametrize("kind", ["DDS", "EPS", "ICO", "PCX"])
def test_unsupported_image_formats_are_not_decoded(kind):
  for read in (images.decode, images.shape_of):
    with pytest.raises(
      ValueError, match="it is not a valid file of type PNG, JPEG"
    ):
      read(pillow(kind))


@pytest.mark.parametrize(
  "tars",
  [
    {"set-train-000": ["0.png"], "set-val-000": ["0.png"]},
    {"a": ["train/x/0.png", "val/x/1.png"]},
    {"a": ["data/Train/0.png"], "b": ["data/Test/0.png"]},
  ],
)
def test_tars_of_both_splits_are_rejected(tmp_path, tars):
  paths = [
    write_tar(tmp_path / f"{tar}.tar", [(name, png(1)) for name in names])
    for tar, names in tars.items()
  ]
  with pytest.raises(DataError, match=r"like splits.*--heldout_input"):
    TarSource(paths, heldout_fraction=0.0)


def test_tars_of_one_split_or_of_similar_classes_are_read(tmp_path):
  paths = [
    write_tar(
      tmp_path / f"train-{n}.tar", [(f"{c}/{n}.png", png(n)) for c in "ab"]
    )
    for n in range(2)
  ]
  source = TarSource(paths, heldout_fraction=0.0)
  assert len(source) == 4
  assert "not in folders (a, b)" in " ".join(source.notes)
  path = write_tar(
    tmp_path / "c.tar",
    [("bullet_train/0.png", png(0)), ("test_tube/1.png", png(1))],
  )
  assert len(TarSource(path, heldout_fraction=0.0)) == 2


def test_truncated_and_concatenated_tars_are_reported(tmp_path):
  first = write_tar(tmp_path / "a.tar", [("0.png", png(0)), ("1.png", png(1))])
  with open(first, "rb") as file:
    data = file.read()
  (tmp_path / "cut.tar").write_bytes(data[: 2 * 512 * 2])
  cut = TarSource(str(tmp_path / "cut.tar"), heldout_fraction=0.0)
  assert "no end mark" in " ".join(cut.notes)
  (tmp_path / "joined.tar").write_bytes(data + data)
  with pytest.raises(DataError, match="goes on after its end mark"):
    TarSource(str(tmp_path / "joined.tar"))


def test_subsets_and_mixtures_count_all_labels():
  several = "synthetic:300:4:6:3"
  mixture = (
    SourceSpec(source=several, share=0.5),
    SourceSpec(source="synthetic:400:4:2:2", share=0.5),
  )
  part = open_data(DataSpec(source=several, classes=4, subset=90), "train")
  mixed = open_data(DataSpec(mixture=mixture), "train")
  assert (type(part), type(mixed)) == (Subset, Mixed)
  for source in (part, mixed):
    counts = np.zeros(source.num_classes)
    for index in range(len(source)):
      labels = source.read(index).labels
      assert source.labels_of(index) == labels
      counts[list(labels)] += 1 / len(labels)
    np.testing.assert_allclose(source.label_counts(), counts)


def test_builds_accept_names_that_are_not_unicode(tmp_path):
  root = os.fsencode(write(tmp_path / "set", FOLDERS))
  os.rename(root + b"/b", root + b"/caf\xe9")
  with open(root + b"/caf\xe9/bad\xe9.png", "wb") as file:
    file.write(b"<html>")
  out = str(tmp_path / "out")
  inputs = open_inputs(os.fsdecode(root))
  build(inputs, out, options(max_bad_fraction=0.5))
  assert open_source(out, "train").class_names == ("a", "caf\udce9")
  with open(os.path.join(out, "rejects.jsonl"), encoding="utf-8") as file:
    (reject,) = map(json.loads, file)
  assert os.fsencode(reject["where"]) == root + b"/caf\xe9/bad\xe9.png"
  rows = JsonLines(tmp_path / "m.jsonl")
  rows.write({"class_share/caf\udce9": 1.0})
  assert rows.rows() == [{"class_share/caf\udce9": 1.0}]


def test_inspect_reads_folders_with_broken_links(tmp_path):
  root = write(tmp_path / "set", FOLDERS)
  os.symlink("/nowhere", os.path.join(root, "a", "gone.png"))
  found = inspect.facts(root)["splits"]
  assert sum(split["unreadable_headers"] for split in found.values()) == 1


def test_a_jpeg_that_claims_a_gigapixel_takes_no_memory():
  data = bytearray(pillow("JPEG"))
  sides = data.index(b"\xff\xc0") + 5
  data[sides : sides + 4] = (40_000).to_bytes(2, "big") * 2
  for read in (images.decode, images.shape_of):
    with pytest.raises(ValueError, match=r"40000 x 40000|decompression bomb"):
      read(bytes(data))


def test_an_unrelated_manifest_is_reported(tmp_path):
  root = write(tmp_path / "set", FOLDERS | {"manifest.json": b'{"icons": []}'})
  with pytest.raises(DataError, match="move it out of the folder"):
    open_source(root, "train")
