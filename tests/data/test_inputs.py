import gzip
import io
import tarfile

import numpy as np
import pytest
from built_set import encoded, noise, save
from marked_set import write

from bigscale.data.inputs import open_inputs
from bigscale.data.manifest import DataError


def lengths(*arguments):
  return {
    split: len(source) for split, source in open_inputs(*arguments).items()
  }


@pytest.fixture
def folder(tmp_path):
  names = [f"{'ab'[i % 2]}/{i}.png" for i in range(40)]
  return save(
    tmp_path / "folder", {name: encoded(noise(4, 0), "PNG") for name in names}
  )


def test_a_folder_is_split_by_fraction(folder):
  parts = lengths(folder, "", 0.25)
  assert sum(parts.values()) == 40
  assert 4 <= parts["heldout"] <= 16
  assert lengths(folder, "", 0.0) == {"train": 40}
  with pytest.raises(DataError, match="none is in the heldout split"):
    open_inputs(folder, "", 1e-9)


def test_all_of_another_input_is_held_out(folder, tmp_path):
  names = ("a/1.png", "b/2.png", "b/3.png")
  other = save(
    tmp_path / "other", {n: encoded(noise(4, 0), "PNG") for n in names}
  )
  assert lengths(folder, other, 0.25) == {"train": 40, "heldout": 3}


def test_existing_splits_are_kept(folder, tmp_path, marked):
  save(tmp_path / "split", {"test/a/1.png": encoded(noise(4, 0), "PNG")})
  path = save(
    tmp_path / "split",
    {f"train/a/{i}.png": encoded(noise(4, 0), "PNG") for i in range(9)},
  )
  assert lengths(path, "", 0.0) == {"train": 9, "heldout": 1}
  write(str(tmp_path / "set"), marked)
  assert lengths(str(tmp_path / "set"), "", 0.25) == {"train": 23}
  assert lengths("emoji") == {"train": 1704, "heldout": 188}


def test_tars(tmp_path):
  for number in range(2):
    with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
      for index in range(10):
        stem = f"{number}{index}"
        for name, data in {
          f"{stem}.png": encoded(noise(4, index), "PNG"),
          f"{stem}.cls": str(index % 2).encode(),
        }.items():
          member = tarfile.TarInfo(name)
          member.size = len(data)
          tar.addfile(member, io.BytesIO(data))
  assert lengths(str(tmp_path / "*.tar"), "", 0.0) == {"train": 20}
  assert lengths(str(tmp_path / "1.tar"), "", 0.0) == {"train": 10}
  with pytest.raises(DataError, match="matches no file"):
    open_inputs(str(tmp_path / "no*.tar"))


def test_idx(tmp_path):
  for name, values in {
    "images": np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4),
    "labels": np.arange(5, dtype=np.uint8),
  }.items():
    head = (
      bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    )
    with gzip.open(tmp_path / name, "wb") as file:
      file.write(head + values.tobytes())
  images, labels = str(tmp_path / "images"), str(tmp_path / "labels")
  inputs = open_inputs(f"idx:{images},{labels}", "", 0.0)
  assert len(inputs["train"]) == 5
  assert inputs["train"].read(3).labels == (3,)
  with pytest.raises(DataError, match="write idx:IMAGES,LABELS"):
    open_inputs(f"idx:{images}")


def test_missing_inputs_are_rejected(folder):
  with pytest.raises(DataError, match="neither an embedded set"):
    open_inputs("/nowhere/at/all")
  with pytest.raises(DataError, match=r"heldout=1.0 must lie in \[0, 1\)"):
    open_inputs(folder, "", 1.0)
