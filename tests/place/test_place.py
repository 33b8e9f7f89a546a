"""The contract of a place, on a disk, on gs:// and on s3://."""

import concurrent.futures
import pathlib
import subprocess
import sys

import pytest

from bigscale import place
from bigscale.place import door
from bigscale.place.base import Entry
from bigscale.spec import SpecError


@pytest.fixture(params=["disk", "gs", "s3"])
def address(request, tmp_path):
  if request.param == "disk":
    return str(tmp_path / "root")
  return request.getfixturevalue(f"{request.param}_bucket")


@pytest.fixture
def files(address):
  return place.open_place(address)


def names(entries):
  return [entry.name for entry in entries]


def test_a_new_place_is_empty(files):
  assert files.list() == []
  assert files.list("a") == []
  assert files.entry("a") is None
  files.delete("a")


def test_files_are_read_as_written(files):
  odd = "a/b c#d?e{0}%2Fé.txt"
  for name, data in (
    (odd, b"hello"),
    ("empty", b""),
    ("big", b"x" * 3_000_000),
  ):
    files.write(name, data)
    assert files.read(name) == data
  assert files.entry(odd)[:2] == (odd, 5)
  files.write(odd, b"other text")
  assert files.read(odd) == b"other text"


def test_ranges_end_with_the_file(files):
  files.write("a", b"0123456789")
  assert files.read_range("a", 2, 5) == b"234"
  assert files.read_range("a", 8, 50) == b"89"
  assert files.read_range("a", 10, 50) == b""
  assert files.read_range("a", 3, 3) == b""


def test_listings_are_sorted_and_recursive(files):
  for name in ("b", "a/2", "a/1", "a.txt", "ab/c/d", "A"):
    files.write(name, name.encode())
  assert names(files.list()) == ["A", "a.txt", "a/1", "a/2", "ab/c/d", "b"]
  assert names(files.list("a")) == ["a.txt", "a/1", "a/2", "ab/c/d"]
  assert names(files.list("a/")) == ["a/1", "a/2"]
  assert names(files.list("ab/c/")) == ["ab/c/d"]
  assert files.list()[1] == files.entry("a.txt")


def test_folders_share_their_files_with_the_place(files):
  files.folder("a/b").write("c", b"1")
  assert files.read("a/b/c") == b"1"
  assert names(files.folder("a").list()) == ["b/c"]
  # The prefix of a folder ends with a slash.
  assert files.folder("a/b").list("c") == files.folder("a/b").list()
  files.write("a/bc", b"2")
  assert names(files.folder("a/b").list()) == ["c"]
  assert place.open_place(files.folder("a").url).read("bc") == b"2"


def test_every_write_changes_the_version(files):
  files.write("a", b"1")
  first = files.entry("a").version
  files.write("a", b"2")
  assert files.entry("a").version != first
  assert isinstance(files.entry("a"), Entry)


def test_a_version_is_read_or_none(files):
  files.write("a", b"0123")
  version = files.entry("a").version
  assert files.read("a", version) == b"0123"
  assert files.read_range("a", 1, 3, version) == b"12"
  files.write("a", b"4567")
  for read in (files.read, lambda *args: files.read_range("a", 1, 3, args[1])):
    with pytest.raises(place.ChangedError, match="has changed"):
      read("a", version)
  assert files.read("a", files.entry("a").version) == b"4567"
  with pytest.raises(FileNotFoundError):
    files.read("b", version)


def test_any_asks_for_one_file(files):
  assert not files.any()
  files.write("a/b", b"1")
  assert files.any()
  assert files.any("a/")
  assert not files.any("b")


def test_missing_files_are_an_error(files):
  files.write("a", b"1")
  for read in (files.read, lambda name: files.read_range(name, 0, 1)):
    with pytest.raises(FileNotFoundError):
      read("b")
  files.delete("a")
  assert files.list() == []
  with pytest.raises(FileNotFoundError):
    files.read("a")


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "./a", "a//b"])
def test_names_outside_of_the_place_are_refused(files, name):
  for use in (files.read, files.entry, files.delete, files.folder):
    with pytest.raises(SpecError, match="relative path"):
      use(name)
  with pytest.raises(SpecError, match="relative path"):
    files.write(name, b"")


def test_one_of_sixteen_creates_a_file(files):
  with concurrent.futures.ThreadPoolExecutor(16) as threads:
    for race in range(2):
      name = f"race/{race}"
      won = threads.map(lambda i, n=name: files.create(n, b"%d" % i), range(16))
      won = list(won)
      assert won.count(True) == 1
      assert files.read(name) == b"%d" % won.index(True)
  assert files.create("race/0", b"0") is False
  assert len(files.list()) == 2


def test_other_processes_are_seen_at_once(files, address):
  code = (
    "import sys; from bigscale import place;"
    "place.open_place(sys.argv[1]).write('new', b'data')"
  )
  assert files.list() == []
  assert files.entry("new") is None
  subprocess.run([sys.executable, "-c", code, address], check=True)
  assert names(files.list()) == ["new"]
  assert files.entry("new").size == 4


def test_unfinished_files_are_not_listed(tmp_path):
  files = place.open_place(tmp_path)
  files.write("a", b"1")
  (tmp_path / ".a.host.1-0.partial").write_bytes(b"")
  assert names(files.list()) == ["a"]


def test_links_to_a_folder_above_end(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "b").symlink_to(tmp_path)
  (tmp_path / "a" / "c").write_bytes(b"1")
  assert names(place.open_place(tmp_path).list()) == ["a/c"]


@pytest.mark.parametrize(
  ("path", "reason"),
  [
    ("http://host/run", "http:// is not supported; use a gs:// or s3://"),
    ("gcs://bucket/run", "gcs:// is not supported"),
    ("gs://", "has no bucket"),
    ("s3:///run", "has no bucket"),
    (pathlib.Path("gs://bucket/run"), "is an address, but a path"),
    (pathlib.Path("/home/gs://bucket/run"), "is an address, but a path"),
  ],
)
def test_impossible_addresses_are_refused(path, reason):
  with pytest.raises(SpecError, match=reason):
    place.open_place(path)


@pytest.mark.parametrize("path", ["gs://b/x", "S3://b/x", "http://x"])
def test_addresses_never_become_local_paths(path):
  assert place.is_remote(path)
  with pytest.raises(SpecError, match="use a local path"):
    place.on_disk(path)


def test_local_addresses_are_paths(tmp_path):
  assert not place.is_remote(f"file://{tmp_path}")
  assert place.on_disk(f"file://{tmp_path}") == tmp_path
  assert place.parent_and_name("gs://b/a/c.tar") == ("gs://b/a", "c.tar")
  assert place.parent_and_name("gs://b/c.tar") == ("gs://b", "c.tar")
  assert place.parent_and_name("/a/c.tar") == ("/a", "c.tar")


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_missing_buckets_are_named(request, scheme):
  request.getfixturevalue(f"{scheme}_bucket")
  with pytest.raises(SpecError, match="'absent', which does not exist"):
    place.open_place(f"{scheme}://absent/run")


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gcs"), ("s3", "s3")])
def test_missing_packages_are_named(monkeypatch, scheme, extra):
  monkeypatch.setattr(door, "_accessed", set())
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
  for module in ("gcsfs.core", "s3fs"):
    monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(SpecError, match=rf"pip install 'bigscale\[{extra}\]'"):
    place.open_place(f"{scheme}://bucket/run")


def test_a_bucket_is_checked_once(gs_bucket, monkeypatch):
  monkeypatch.setattr(door, "_accessed", set())
  before = place.requests().total()
  for name in "abc":
    place.open_place(f"{gs_bucket}/{name}")
  assert place.requests().total() == before + 1
