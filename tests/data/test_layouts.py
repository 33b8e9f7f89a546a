"""Common layouts of folders and zips: splits, and files that are not read.

Ambiguous layouts raise an error, and every skipped file is noted.
"""

import json
import os
import stat
import zipfile

import pytest
from image_files import everything, image, png, write, write_zip

from bigscale.data import images, split_names
from bigscale.data.folders import FolderSource
from bigscale.data.inputs import BothSplits, open_inputs
from bigscale.data.manifest import DataError
from bigscale.data.split_names import Assigned


@pytest.fixture(params=["folder", "zip"])
def place(request, tmp_path):
  """Writes files as a folder or a zip, and returns the path."""

  def make(files):
    if request.param == "folder":
      return write(tmp_path / "set", files)
    return write_zip(tmp_path / "set.zip", files)

  return make


def pets(prefix="", each=3, first=0):
  """Returns files of cats and dogs below a folder."""
  return {
    f"{prefix}{name}/{number}.png": png(first + each * label + number)
    for label, name in enumerate(("cat", "dog"))
    for number in range(each)
  }


def said(source, *parts):
  """Returns whether one note contains all parts."""
  return any(all(part in note for part in parts) for note in source.notes)


PAIRS = [
  ("train", "val"),
  ("Train", "Test"),
  ("TRAIN", "VALID"),
  ("training", "testing"),
  ("Training", "Validation"),
  ("train", "dev"),
  ("train", "eval"),
  ("train", "held_out"),
  ("train2017", "val2017"),
  ("train_2014", "val_2014"),
  ("Training_Set", "Test_Set"),
  ("trainset", "testset"),
  ("TrainImages", "TestImages"),
  ("images-train", "images-val"),
  ("train", "test1"),
  ("train_256", "val_256"),
  ("trainval", "test"),
  ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
  ("seg_train", "seg_test"),
  ("asl_alphabet_train", "asl_alphabet_test"),
  ("bounding_box_train", "bounding_box_test"),
]


@pytest.mark.parametrize(("train", "heldout"), PAIRS)
def test_folders_named_like_splits_are_the_splits(place, train, heldout):
  path = place(pets(f"{train}/") | pets(f"{heldout}/", first=100))
  source = FolderSource(path)
  assert source.class_names == ("cat", "dog")
  assert [value for value, _ in everything(source)] == list(range(6))
  other = FolderSource(path, "heldout")
  assert everything(other) == [(100 + i, (i // 3,)) for i in range(6)]
  assert said(source, f"{train}/ (6 images) is the train split", heldout)
  assert source.notes == other.notes


@pytest.mark.parametrize(("train", "heldout"), PAIRS[:3])
def test_splits_without_classes_have_no_labels(place, train, heldout):
  files = {f"{train}/{i}.png": png(i) for i in range(5)}
  path = place(files | {f"{heldout}/0.png": png(9)})
  assert everything(FolderSource(path)) == [(i, ()) for i in range(5)]
  assert everything(FolderSource(path, "heldout")) == [(9, ())]


@pytest.mark.parametrize(
  "names",
  [
    ("train_1", "train_2"),
    ("trainA", "trainB", "testA", "testB"),
    ("train.X1", "train.X2", "val.X"),
    ("train2014", "train2017", "val2017"),
    ("Train", "train", "test"),
    ("train", "val", "validation"),
    ("test", "val"),
    ("cat", "dog", "Test"),
    ("cat", "dog", "val2017"),
    ("train", "cifar_test"),
    ("cats_train", "cats_test", "dogs_train", "dogs_test"),
    ("train_hq", "test"),
  ],
)
def test_ambiguous_split_names_are_rejected(place, names):
  files = {
    name: data for each in names for name, data in pets(each + "/").items()
  }
  path = place(files)
  for split in ("train", "heldout"):
    with pytest.raises(DataError, match=r"named like.*name the two splits"):
      FolderSource(path, split)


def test_splits_inside_of_classes_are_rejected(place):
  files = pets("cat/train/") | pets("cat/test/") | pets("dog/train/")
  with pytest.raises(
    DataError, match="in cat: train/ and test/ are splits ins"
  ):
    FolderSource(place(files))


def test_test_images_inside_of_one_class_are_rejected(place):
  files = pets() | {"cat/test/9.png": png(9)}
  with pytest.raises(DataError, match="in cat: test/ is named like a held-out"):
    FolderSource(place(files))


def test_splits_inside_of_the_train_split_are_rejected(place):
  files = pets("train/train/") | pets("train/val/") | pets("test/")
  with pytest.raises(DataError, match="in train: train/ and val/ are splits"):
    FolderSource(place(files))


def test_a_train_folder_of_classes_next_to_other_folders_is_rejected(place):
  with pytest.raises(DataError, match="train/ is named like a split and has 2"):
    FolderSource(place(pets("train/") | pets("backup/")))


@pytest.mark.parametrize("name", ["train", "bullet_train", "test_tube"])
def test_a_class_named_like_a_split_is_noted(place, name):
  files = {
    f"{each}/{i}.png": png(i) for each in ("car", name) for i in range(4)
  }
  source = FolderSource(place(files), heldout_fraction=0.0)
  assert set(source.class_names) == {"car", name}
  assert said(source, f"{name}/ is a class, despite being named like a split")


def test_folders_besides_the_two_splits_are_noted(place):
  files = pets("train/") | pets("val/") | pets("test/", each=2)
  files |= pets("train_extra/", each=5) | {"cover.png": png(7)}
  source = FolderSource(place(files))
  assert said(source, "val/ (6 images) is the held-out split")
  assert said(source, "not read", "test/ (4 images)", "train_extra/ (10 ima")
  assert said(source, "not read", "loose images (1)")


@pytest.mark.parametrize("other", ["unlabeled", "train_extra", "extra2017"])
def test_folders_next_to_a_lone_train_folder_are_not_classes(place, other):
  files = pets("train/", each=20) | pets(f"{other}/", first=100)
  source, heldout = (
    FolderSource(place(files), s) for s in ("train", "heldout")
  )
  assert source.class_names == heldout.class_names == ("cat", "dog")
  assert all(v < 100 for v, _ in everything(source) + everything(heldout))
  assert said(source, "not read", f"{other}/ (6 images)")


def test_one_folder_inside_a_split_does_not_hide_its_classes(place):
  files = pets("seg_train/seg_train/") | pets("seg_test/seg_test/", first=100)
  path = place(files | {"seg_pred/seg_pred/0.png": png(99)})
  assert FolderSource(path).class_names == ("cat", "dog")
  heldout = FolderSource(path, "heldout")
  assert everything(heldout) == [(100 + i, (i // 3,)) for i in range(6)]
  assert said(heldout, "not read", "seg_pred/ (1 images)")


def test_a_held_out_split_of_one_class_keeps_its_label(place):
  path = place(pets("train/") | {"val/dog/0.png": png(50)})
  assert everything(FolderSource(path, "heldout")) == [(50, (1,))]


def test_a_loose_image_next_to_train_does_not_remove_labels(place):
  path = place(pets("train/", each=20) | {"cover.png": png(99)})
  source = FolderSource(path)
  assert source.class_names == ("cat", "dog")
  assert said(source, "not read", "loose images (1)")


def test_unused_class_folders_are_noted(place):
  path = place(pets("pets/", each=20) | {"cover.png": png(99)})
  source = FolderSource(path)
  assert not source.class_names
  assert said(source, "there are no labels", "pets/")


def test_training_on_a_lone_test_folder_is_noted(place):
  source = FolderSource(place(pets("test/", each=20)))
  assert source.class_names == ("cat", "dog")
  assert said(source, "all images are in test/", "used for training")


def test_classes_that_differ_only_in_case_are_noted(tmp_path):
  files = {f"{name}/{i}.png": png(i) for name in ("Cat", "cat") for i in (1, 2)}
  source = FolderSource(write(tmp_path / "set", files), heldout_fraction=0.0)
  assert said(source, "differ only in case: Cat, cat")


def test_dataset_json_overrides_split_names(place):
  files = pets() | {f"test/{i}.png": png(i) for i in range(4)}
  labels = [[path, 0] for path in files]
  table = {"dataset.json": json.dumps({"labels": labels}).encode()}
  source = FolderSource(place(files | table), heldout_fraction=0.0)
  assert len(source) == 10
  assert said(source, "test/ is named like a held-out split", "one set")


def test_all_jpeg_extensions_are_read_and_counted(place):
  jpeg = images.encode(image(7), "jpeg")
  endings = ("jpg", "JPEG", "jfif", "JFIF", "jpe", "jif", "pjpeg", "pjp")
  files = {f"{i}.{ending}": jpeg for i, ending in enumerate(endings)}
  source = FolderSource(place(files), heldout_fraction=0.0)
  assert len(everything(source)) == len(endings)
  assert said(source, "images by extension", "2 .jfif", "1 .jpe")


def test_other_files_are_counted_by_extension_and_folder(place):
  files = pets() | {"cat/a.avif": b"", "cat/b.AVIF": b"", "dog/c.avif": b""}
  source = FolderSource(place(files | {"README": b"", "dog/d.txt": b""}))
  assert said(source, "left out", "3 .avif (cat: 2, dog: 1)")
  assert said(source, "1 without extension (the root: 1)", "1 .txt (dog: 1)")


def test_a_clean_set_has_no_notes(place):
  assert FolderSource(place(pets(each=20))).notes == ()


HIDDEN = [
  *("cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.png", "@EADIR/cat/0.png"),
  *("#recycle/cat/0.png", "cat/#Recycle/0.png", "lost+found/0.png"),
  *("$RECYCLE.BIN/0.png", "System Volume Information/0.png"),
  *("__MACOSX/cat/0.png", "cat/._0.png", "cat/deep/._1.png", "._cat/2.png"),
  *(".git/0.png", "cat/.thumbnails/0.png", "Thumbs.db", "cat/Thumbs.db"),
  *(".DS_Store", "cat/.DS_Store", "desktop.ini", "cat/@Recycle/0.png"),
]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_system_files_are_hidden_at_any_depth(place, hidden):
  source = FolderSource(place(pets() | {hidden: png(99)}), heldout_fraction=0.0)
  assert [value for value, _ in everything(source)] == list(range(6))
  assert source.class_names == ("cat", "dog")
  (note,) = source.notes
  assert "hidden files left out: 1 " in note
  assert "left out, without" not in note


def test_unreadable_hidden_folders_are_skipped(tmp_path):
  root = write(tmp_path / "set", pets() | {"lost+found/0.png": b""})
  os.chmod(os.path.join(root, "lost+found"), 0)
  try:
    assert len(FolderSource(root, heldout_fraction=0.0)) == 6
  finally:
    os.chmod(os.path.join(root, "lost+found"), stat.S_IRWXU)


def test_an_empty_folder_error_lists_other_files(place):
  files = {"a.zip": b"", "b.zip": b"", "@eaDir/x.png": b""}
  with pytest.raises(DataError, match=r"2 .zip \(the root: 2\).*1 .png \(@eaD"):
    FolderSource(place(files))


def named_zip(path, files):
  """Writes a zip with names that Python's writer would change."""
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in files:
      info = zipfile.ZipInfo("x")
      info.filename = name
      archive.writestr(info, data)
  return str(path)


def test_backslashes_in_a_zip_separate_names(tmp_path):
  files = [(name.replace("/", "\\"), data) for name, data in pets().items()]
  files += [("cat\\._0.png", b"of macOS"), ("@eaDir\\cat\\0.png", png(9))]
  source = FolderSource(
    named_zip(tmp_path / "set.zip", files), heldout_fraction=0.0
  )
  assert source.class_names == ("cat", "dog")
  assert [value for value, _ in everything(source)] == list(range(6))


def test_names_with_backslashes_in_a_folder_are_rejected(tmp_path):
  root = write(tmp_path / "set", {"cat\\0.png": png(0), "dog\\0.png": png(1)})
  with pytest.raises(DataError, match="unpacked without creating its folders"):
    FolderSource(root)


@pytest.mark.parametrize(
  "name",
  [
    *("/etc/cat/0.png", "../cat/0.png", "cat/../../0.png", "\\cat\\0.png"),
    *("C:\\cat\\0.png", "c:/cat/0.png", "..\\0.png", "//host/cat/0.png"),
  ],
)
def test_names_that_point_outside_of_a_zip_are_rejected(tmp_path, name):
  path = named_zip(tmp_path / "set.zip", [*pets().items(), (name, png(9))])
  with pytest.raises(DataError, match="which points outside of the zip"):
    FolderSource(path)


def test_a_leading_dot_in_zip_names_is_ignored(tmp_path):
  files = [(f"./{name}", data) for name, data in pets().items()]
  source = FolderSource(named_zip(tmp_path / "s.zip", files), "train", 0.0)
  assert [value for value, _ in everything(source)] == list(range(6))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["cat/0.png", "cat\\0.png", "./cat/0.png"])
def test_a_zip_with_duplicate_names_is_rejected(tmp_path, again):
  path = named_zip(tmp_path / "set.zip", [*pets().items(), (again, png(9))])
  with pytest.raises(DataError, match=r"two different files named 'cat/0.png'"):
    FolderSource(path)
  path = named_zip(tmp_path / "same.zip", [*pets().items(), (again, png(0))])
  assert len(FolderSource(path, heldout_fraction=0.0)) == 6


def with_table(rows, more=()):
  files = pets()
  table = {"labels": [[path, 0] for path in files] + rows}
  return files | {"dataset.json": json.dumps(table).encode(), **dict(more)}


@pytest.mark.parametrize("path", ["cat/0.png", "cat\\0.png", "./cat/0.png"])
def test_two_labels_for_one_image_are_rejected(place, path):
  with pytest.raises(DataError, match=r"two labels to cat/0.png, 0 and 1"):
    FolderSource(place(with_table([[path, 1]])))
  assert len(FolderSource(place(with_table([[path, 0]])), "train", 0.0)) == 6


@pytest.mark.parametrize("label", [True, "1", 1.0, None, [1]])
def test_labels_that_are_not_integers_are_rejected(place, label):
  with pytest.raises(DataError, match="create it again"):
    FolderSource(place(with_table([["cat/9.png", label]])))


def test_duplicate_keys_in_dataset_json_are_rejected(place):
  content = b'{"labels": [["a.png", 0]], "labels": [["a.png", 1]]}'
  with pytest.raises(DataError, match="a duplicate key"):
    FolderSource(place({"a.png": png(0), "dataset.json": content}))


def test_missing_images_of_dataset_json_are_noted(place):
  source = FolderSource(
    place(with_table([["cat/gone.png", 1], ["cat/x.avif", 1]])), "train", 0.0
  )
  assert said(source, "names files that are not among the images, 2 in total")


def test_images_missing_from_dataset_json_are_rejected(place):
  files = with_table([], {"cat/new.png": png(9), "dog/new.png": png(9)})
  with pytest.raises(
    DataError, match=r"no label for cat/new.png, nor for 1 oth"
  ):
    FolderSource(place(files))


def test_an_unused_dataset_json_is_noted(place):
  files = pets() | {"cat/dataset.json": b'{"labels": null}'}
  source = FolderSource(place(files), heldout_fraction=0.0)
  assert source.class_names == ("cat", "dog")
  assert said(source, "cat/dataset.json is not used")


def test_both_splits_note_unread_folders(tmp_path):
  path = write(tmp_path / "set", pets("train/") | pets("val/") | pets("test/"))
  whole = BothSplits(path)
  assert len(whole) == 12
  assert said(whole, "not read", "test/ (6 images)")


def test_both_splits_report_errors_of_the_held_out_split(tmp_path):
  # Held-out images without a class must not be ignored.
  path = write(tmp_path / "set", pets("train/") | {"val/a.png": png(0)})
  with pytest.raises(DataError, match=r"val/a.png is not in a class folder"):
    BothSplits(path)


def test_an_ignored_held_out_split_is_noted(tmp_path):
  both = write(tmp_path / "both", pets("train/") | pets("val/", each=2))
  inputs = open_inputs(both, both)
  for source in inputs.values():
    assert len(source) == 6
    assert said(source, "its own held-out split (4 images) is not read")


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    *(("train", "train"), ("Trn", "train"), ("TRAINING-2", "train")),
    *(("dev-set", "heldout"), ("Held Out", "heldout"), ("valdata", "heldout")),
    *(("unlabeled2017", "other"), ("strain", None), ("latest", None)),
    *(("contest", None), ("interval", None), ("device", None), ("0", None)),
    *(("trainer", None), ("evaluate_me", None), ("testament", None)),
  ],
)
def test_split_names_match_whole_words(name, kind):
  found = split_names.parse(name)
  assert (found and found.kind) == kind


def test_the_preferred_held_out_folder_is_used():
  names = ["test", "train", "dev", "heldout", "trainval"]
  assert split_names.assign(names) == Assigned("train", "heldout")
  names.remove("heldout")
  assert split_names.assign(names) == Assigned("train", "dev")
