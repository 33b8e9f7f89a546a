"""A disk that cannot rename a folder is refused before a run writes there."""

import errno
import logging
import os
import pathlib
import shutil

import pytest

from bigscale.cli.main import main
from bigscale.spec import SpecError
from bigscale.train import mount
from tests.e2e import tiny


def refuses(source, target):
  """As gcsfuse does it on a flat bucket, of a folder that is not empty."""
  raise OSError(errno.EMFILE, "Too many open files", os.fspath(source))


def copies_half(source, target):
  shutil.copytree(source, target)


def loses(source, target):
  shutil.rmtree(source)
  pathlib.Path(target).mkdir()


@pytest.mark.parametrize(
  ("rename", "reason"),
  [
    (refuses, r"cannot rename a folder \(Too many open files\)"),
    (copies_half, "a renamed folder is incomplete"),
    (loses, "a renamed folder is incomplete"),
  ],
)
def test_a_disk_that_renames_no_folders_is_refused(
  tmp_path, monkeypatch, rename, reason
):
  monkeypatch.setattr(mount.os, "rename", rename)
  folder = tmp_path / "run"
  with pytest.raises(SpecError, match=rf"{folder}.*{reason}.*Filestore, NFS"):
    mount.check(folder)
  assert not folder.exists()
  folder.mkdir()
  (folder / "file").touch()
  with pytest.raises(SpecError, match=reason):
    mount.check(folder)
  assert os.listdir(folder) == ["file"]


def test_the_command_says_it_before_it_trains(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(mount.os, "rename", refuses)
  words = [f"--config={tiny.__file__}", f"--workdir={tmp_path / 'run'}"]
  assert main(["bigscale", "train", *words]) == 2
  said = capsys.readouterr().err
  assert f"--workdir={tmp_path / 'run'} cannot be used for checkpoints" in said
  assert "Traceback" not in said
  assert not (tmp_path / "run").exists()


def test_others_are_left_as_they_are(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    mount.check(tmp_path)
    mount.check(tmp_path / "new" / "run")
  assert not caplog.records
  assert os.listdir(tmp_path) == ["new"]
  assert os.listdir(tmp_path / "new" / "run") == []


def test_what_cannot_be_written_is_said_by_who_writes(tmp_path):
  (tmp_path / "file").touch()
  mount.check(tmp_path / "file" / "run")
  mount.check("gs://bucket/run")
  assert not pathlib.Path("gs:").exists()


def test_the_type_of_a_mount_is_that_of_the_innermost(tmp_path):
  bucket = tmp_path / "a b" / "bucket"
  (bucket / "run").mkdir(parents=True)
  table = tmp_path / "mounts"
  point = str(bucket).replace(" ", "\\040")
  table.write_text(
    "overlay / overlay rw 0 0\n"
    f"my-bucket {point} fuse.gcsfuse rw 0 0\n"
    f"tmpfs {point}-2 tmpfs rw 0 0\n"
    "torn\n"
  )
  assert mount.kind_of(bucket / "run", str(table)) == "fuse.gcsfuse"
  assert mount.kind_of(tmp_path, str(table)) == "overlay"
  assert mount.kind_of(tmp_path, str(tmp_path / "none")) == ""


def test_a_bucket_that_renames_is_warned_of(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(mount, "kind_of", lambda folder: "fuse.gcsfuse")
  mount.check(tmp_path)
  assert "Unless the bucket has a hierarchical namespace" in caplog.text


def test_a_folder_whose_name_is_no_unicode_is_refused(tmp_path, capsys):
  folder = os.path.join(str(tmp_path), os.fsdecode(b"caf\xe9"))
  words = [f"--config={tiny.__file__}", f"--workdir={folder}"]
  assert main(["bigscale", "train", *words]) == 2
  assert "caf\\udce9 is not valid Unicode" in capsys.readouterr().err
  assert not os.path.exists(folder)
