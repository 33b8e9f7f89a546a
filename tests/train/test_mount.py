"""A disk that cannot rename folders is rejected before a run starts."""

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
  """Fails like gcsfuse on a flat bucket if the folder is not empty."""
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
def test_a_disk_that_cannot_rename_folders_is_rejected(
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


def test_the_command_fails_before_it_trains(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(mount.os, "rename", refuses)
  words = [f"--config={tiny.__file__}", f"--workdir={tmp_path / 'run'}"]
  assert main(["bigscale", "train", *words]) == 2
  said = capsys.readouterr().err
  assert f"--workdir={tmp_path / 'run'} cannot be used for checkpoints" in said
  assert "Traceback" not in said
  assert not (tmp_path / "run").exists()


def test_other_disks_pass(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    mount.check(tmp_path)
    mount.check(tmp_path / "new" / "run")
  assert not caplog.records
  assert os.listdir(tmp_path) == ["new"]
  assert os.listdir(tmp_path / "new" / "run") == []


def test_folders_that_are_not_writable_pass(tmp_path):
  (tmp_path / "file").touch()
  mount.check(tmp_path / "file" / "run")
  mount.check("gs://bucket/run")
  assert not pathlib.Path("gs:").exists()


def test_the_type_is_that_of_the_innermost_mount(tmp_path):
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


def test_a_bucket_causes_a_warning(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(mount, "kind_of", lambda folder: "fuse.gcsfuse")
  mount.check(tmp_path)
  assert "Unless the bucket has a hierarchical namespace" in caplog.text


def test_a_folder_name_that_is_not_unicode_is_rejected(tmp_path, capsys):
  folder = os.path.join(str(tmp_path), os.fsdecode(b"caf\xe9"))
  words = [f"--config={tiny.__file__}", f"--workdir={folder}"]
  assert main(["bigscale", "train", *words]) == 2
  assert "caf\\udce9 is not valid Unicode" in capsys.readouterr().err
  assert not os.path.exists(folder)
