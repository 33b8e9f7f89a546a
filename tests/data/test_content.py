"""Identities depend on content: what changes them, and what is read."""

import logging
import os
import pickle
import shutil
import threading

import numpy as np
import pytest
from image_files import image, write, write_zip
from test_archives import write_tar

from bigscale import cache_folder
from bigscale.data import content, ingest
from bigscale.data.archives import TarSource
from bigscale.data.folders import FolderSource
from bigscale.data.idx import IdxSource
from bigscale.data.manifest import DataError, Schema
from bigscale.data.mixture import identity_of
from bigscale.data.openers import open_source
from bigscale.data.reading import open_data, open_mix
from bigscale.spec import DataSpec, SourceSpec
from tests.data.built_set import encoded

HOUR = 3600 * 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """An empty cache, and no digests in memory."""
  monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "cache"))
  monkeypatch.setattr(content, "_known", {})
  return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
  """Names of the files whose bytes are read."""
  found = []
  read = content._read

  def noted(path, size, whole):
    found.append(os.path.basename(path))
    return read(path, size, whole)

  monkeypatch.setattr(content, "_read", noted)
  return found


@pytest.fixture
def later(monkeypatch):
  """Advances the clock, so that newly written files are old."""
  now = content.time.time_ns
  monkeypatch.setattr(content.time, "time_ns", lambda: now() + HOUR)


def forget(monkeypatch):
  """Drops the digests in memory, as in a new process."""
  monkeypatch.setattr(content, "_known", {})


def bmp(number):
  """Returns BMP files of equal size."""
  return encoded(image(number), "BMP")


def files_of(numbers, name=lambda i: f"{'ab'[i % 2]}/{i:03d}.bmp"):
  return {name(i): bmp(number) for i, number in enumerate(numbers)}


def in_folder(path, numbers):
  return FolderSource(write(path / "set", files_of(numbers)), "train", 0.0)


def in_zip(path, numbers):
  os.makedirs(path, exist_ok=True)
  return FolderSource(
    write_zip(path / "set.zip", files_of(numbers)), "train", 0.0
  )


def in_tar(path, numbers):
  os.makedirs(path, exist_ok=True)
  files = files_of(numbers, lambda i: f"{i:03d}.bmp")
  return TarSource(write_tar(path / "a.tar", files.items()), "train", 0.0)


def in_npz(path, numbers):
  os.makedirs(path, exist_ok=True)
  np.savez(path / "set.npz", images=np.stack([image(n) for n in numbers]))
  return open_source(str(path / "set.npz"), "train")


def in_idx(path, numbers):
  os.makedirs(path, exist_ok=True)
  pixels = np.stack([image(n)[..., 0] for n in numbers]).astype(np.uint8)
  head = bytes([0, 0, 8, 3]) + np.array(pixels.shape, ">i4").tobytes()
  (path / "images").write_bytes(head + pixels.tobytes())
  return IdxSource(str(path / "images"), None, "train", 0.0)


def in_shards(path, numbers):
  shutil.rmtree(path, ignore_errors=True)
  ingest.write(
    str(path),
    {"train": [(image(n), 0) for n in numbers]},
    name="set",
    schema=Schema(encoding="raw", image_shape=(4, 4, 3)),
    class_names=(),
    source="",
    licence="",
  )
  return open_source(str(path), "train")


KINDS = {
  make.__name__.removeprefix("in_"): make
  for make in (in_folder, in_zip, in_tar, in_npz, in_idx, in_shards)
}
BEFORE, AFTER = list(range(40)), [*range(39), 99]


def times_of(folder):
  return {
    path: os.stat(path).st_mtime_ns
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize("kind", KINDS)
def test_changed_pixels_change_the_identity(kind, tmp_path, later):
  """Sizes and modification times stay equal, as after rsync with times.

  The cache has digests of the earlier files.
  """
  before = KINDS[kind](tmp_path / "set", BEFORE).identity
  times = times_of(tmp_path / "set")
  after = KINDS[kind](tmp_path / "set", AFTER)
  for path, time in times.items():
    os.utime(path, ns=(time, time))
  assert after.identity != before
  back = KINDS[kind](tmp_path / "set", BEFORE)
  assert back.identity == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_the_same_identity(kind, tmp_path):
  here = KINDS[kind](tmp_path / "here", BEFORE)
  there = KINDS[kind](tmp_path / "there" / "deeper", BEFORE)
  assert there.identity == here.identity
  assert pickle.loads(pickle.dumps(there)).identity == here.identity


@pytest.mark.parametrize("ending", ["", ".zip", ".npz"])
def test_a_renamed_copy_has_the_same_identity(ending, tmp_path):
  make = {"": in_folder, ".zip": in_zip, ".npz": in_npz}[ending]
  identity = make(tmp_path, BEFORE).identity
  os.rename(tmp_path / f"set{ending}", tmp_path / f"other{ending}")
  path = str(tmp_path / f"other{ending}")
  if ending == ".npz":
    renamed = open_source(path, "train")
  else:
    renamed = FolderSource(path, "train", 0.0)
  assert renamed.identity == identity
  assert renamed.name == "other/train"


def test_names_labels_and_splits_change_the_identity(tmp_path):
  files = files_of(BEFORE)
  names = {
    "same": files,
    "moved": {f"x{name}": data for name, data in files.items()},
    "relabeled": {
      name.replace("a/", "c/"): data for name, data in files.items()
    },
    "fewer": dict(list(files.items())[:-1]),
  }
  sources = [
    FolderSource(write(tmp_path / name, each), "train", 0.0)
    for name, each in names.items()
  ]
  sources += [
    FolderSource(str(tmp_path / "same"), split)
    for split in ("train", "heldout")
  ]
  assert len({source.identity for source in sources}) == len(sources)


def test_tfds_identities_depend_on_bytes(tmp_path, later, monkeypatch):
  from bigscale.data import tfds
  from tests.data import tiny_tfds

  builder = tiny_tfds.TinyTfds(kind="tensor", data_dir=str(tmp_path / "a"))
  builder.download_and_prepare(file_format="array_record")
  before = tfds.TfdsSource(f"tiny_tfds@{tmp_path}/a").identity
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  assert tfds.TfdsSource(f"tiny_tfds@{tmp_path}/b").identity == before
  # The same pixels upside down, so every record keeps its length.
  samples = [(x[::-1], label) for x, label in tiny_tfds.samples()]
  monkeypatch.setattr(tiny_tfds, "samples", lambda: samples)
  shutil.rmtree(tmp_path / "a")
  again = tiny_tfds.TinyTfds(kind="tensor", data_dir=str(tmp_path / "a"))
  again.download_and_prepare(file_format="array_record")
  after = tfds.TfdsSource(f"tiny_tfds@{tmp_path}/a")
  assert after.outline == tfds.TfdsSource(f"tiny_tfds@{tmp_path}/b").outline
  assert after.identity != before


def test_identities_of_subsets_and_mixtures_depend_on_content(tmp_path, later):
  def identities(numbers):
    path = write(tmp_path / "set", files_of(numbers))
    halves = (
      SourceSpec(source=path, share=0.5),
      SourceSpec(source="emoji", share=0.5),
    )
    specs = (
      DataSpec(source=path),
      DataSpec(source=path, subset=5),
      DataSpec(mixture=halves),
    )
    return [
      each
      for spec in specs
      for each in (
        identity_of(*open_mix(spec, "train")),
        open_data(spec, "train").identity,
      )
    ]

  before, after = identities(BEFORE), identities(AFTER)
  assert all(a != b for a, b in zip(before, after, strict=True))


def test_only_changed_files_are_read_again(tmp_path, reads, later, monkeypatch):
  source = in_folder(tmp_path, BEFORE)
  identity = source.identity
  assert len(reads) == 40
  # A second source, in this process and in a new one.
  for _ in range(2):
    again = FolderSource(str(tmp_path / "set"), "train", 0.0)
    assert again.identity == identity
    assert len(reads) == 40
    forget(monkeypatch)
  write(tmp_path / "set", {"a/004.bmp": bmp(99)})
  assert FolderSource(str(tmp_path / "set"), "train", 0.0).identity != identity
  assert reads[40:] == ["004.bmp"]


def test_splits_share_the_digests_of_files(tmp_path, reads, later):
  write(tmp_path / "set", files_of(BEFORE))
  sources = [
    FolderSource(str(tmp_path / "set"), split, 0.3)
    for split in ("train", "heldout", "train")
  ]
  assert len({source.identity for source in sources}) == 2
  assert len(reads) == len(set(reads)) == 40


def test_digests_of_files_just_written_are_not_cached(
  tmp_path, reads, monkeypatch
):
  """With timestamps in seconds, both versions have the same time."""
  source = in_folder(tmp_path, BEFORE)
  before = source.identity
  stat = content._stat
  frozen = {}

  def coarse(path):
    return frozen.setdefault(path, stat(path))

  monkeypatch.setattr(content, "_stat", coarse)
  assert FolderSource(str(tmp_path / "set"), "train", 0.0).identity == before
  write(tmp_path / "set", {"a/004.bmp": bmp(99)})
  assert FolderSource(str(tmp_path / "set"), "train", 0.0).identity != before
  assert len(reads) == 120


def test_digests_of_files_that_change_while_read_are_not_cached(
  tmp_path, later, monkeypatch, cache
):
  source = in_folder(tmp_path, BEFORE)
  read = content._read

  def disturbed(path, size, whole):
    found = read(path, size, whole)
    os.utime(path)
    return found

  monkeypatch.setattr(content, "_read", disturbed)
  assert source.identity
  assert not cache.exists()


def _cut(data):
  return data[: len(data) // 2]


def _flip(data):
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _other_arrays(data):
  del data
  import io

  file = io.BytesIO()
  np.savez(file, keys=np.zeros((3, 4)), values=np.zeros(2))
  return file.getvalue()


@pytest.mark.parametrize(
  "damage", [_cut, _flip, lambda data: b"", _other_arrays]
)
def test_a_damaged_cache_is_replaced(
  tmp_path, reads, later, cache, damage, monkeypatch, caplog
):
  identity = in_folder(tmp_path, BEFORE).identity
  (path,) = cache.iterdir()
  path.write_bytes(damage(path.read_bytes()))
  for expected in (80, 80):
    forget(monkeypatch)
    again = FolderSource(str(tmp_path / "set"), "train", 0.0)
    assert again.identity == identity
    assert len(reads) == expected
  assert caplog.text.count("corrupt") == 1


def test_an_unwritable_cache_gives_a_warning(
  tmp_path, reads, later, monkeypatch, caplog
):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "file" / "c"))
  identity = in_folder(tmp_path, BEFORE).identity
  assert cache_folder.ENVIRONMENT in caplog.text
  # This process keeps the digests in memory.
  again = FolderSource(str(tmp_path / "set"), "train", 0.0)
  assert again.identity == identity
  assert len(reads) == 40


def test_concurrent_writers_do_not_mix_digests(tmp_path, later):
  """At any time, a reader finds its own digest or none."""
  root = str(tmp_path / "set")
  wrong = []

  def work(worker):
    for turn in range(20):
      kept = content._Digests(root)
      pairs = {
        kept.key_of(f"{worker}/{turn}/{n}"): bytes([worker]) * content._SIZE
        for n in range(50)
      }
      kept.add(pairs)
      for other in range(4):
        for n in range(50):
          key = kept.key_of(f"{other}/{turn}/{n}")
          found = content._Digests(root)._kept.get(key) if n == 0 else None
          if found not in (None, bytes([other]) * content._SIZE):
            wrong.append((worker, other, turn))

  threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong
  assert [path for path in (tmp_path / "cache").iterdir()]
  assert not list((tmp_path / "cache").glob("*.partial"))


@pytest.fixture
def few(monkeypatch):
  """Limits complete reads to 20 files, and samples to 5."""
  monkeypatch.setattr(content, "MOST_FILES", 20)
  monkeypatch.setattr(content, "_SAMPLED", 5)


def test_large_trees_are_sampled_and_noted(tmp_path, few, reads, later):
  source = in_folder(tmp_path, BEFORE)
  assert source.identity.endswith(" by 5 of 40 files")
  assert len(reads) == 5
  copy = in_folder(tmp_path / "copy", BEFORE)
  assert copy.identity == source.identity
  sampled = int(reads[0].removesuffix(".bmp"))
  numbers = list(BEFORE)
  numbers[sampled] = 99
  assert in_folder(tmp_path / "other", numbers).identity != source.identity
  # Names and sizes of all files are covered.
  larger = write(
    tmp_path / "larger" / "set",
    {
      name: data + (b"x" if name not in reads else b"")
      for name, data in files_of(BEFORE).items()
    },
  )
  assert FolderSource(larger, "train", 0.0).identity != source.identity


def test_large_files_are_sampled(tmp_path, monkeypatch):
  data = bytearray(np.random.default_rng(0).bytes(4_000_000))
  path = tmp_path / "large"
  path.write_bytes(data)
  sizes = np.array([len(data)])
  monkeypatch.setattr(content, "MOST_BYTES", 1000)
  before = content.of_files(str(tmp_path), ["large"], sizes, "set")
  assert before.note == " by 1 of 1 files"
  _, read = content._read(str(path), len(data), whole=False)
  assert read == 16 * 65536
  for place in (0, len(data) - 1):
    data[place] ^= 1
    path.write_bytes(data)
    after = content.of_files(str(tmp_path), ["large"], sizes, "set")
    assert after != before
    data[place] ^= 1


def test_unreadable_files_give_a_warning_and_change_the_identity(
  tmp_path, caplog, later
):
  source = in_folder(tmp_path, BEFORE)
  os.remove(tmp_path / "set" / "a" / "004.bmp")
  with caplog.at_level(logging.WARNING):
    lacking = source.identity
  assert "1 files of set/train cannot be read" in caplog.text
  assert "004.bmp" in caplog.text
  write(tmp_path / "set", {"a/004.bmp": bmp(4)})
  whole = FolderSource(str(tmp_path / "set"), "train", 0.0)
  assert whole.identity != lacking


def test_pipes_named_like_images_do_not_block(tmp_path, caplog):
  source = in_folder(tmp_path, BEFORE)
  os.remove(tmp_path / "set" / "a" / "004.bmp")
  os.mkfifo(tmp_path / "set" / "a" / "004.bmp")
  assert source.identity
  assert "it is not a regular file" in caplog.text


def test_long_reads_are_announced_and_timed(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(content, "_MUCH_BYTES", 100)
  monkeypatch.setattr(content, "_LONG", 0.0)
  assert in_folder(tmp_path, BEFORE).identity
  assert "reading 40 files of set/train (0.0 GB)" in caplog.text
  assert "GB in" in caplog.text


def test_an_outline_reads_a_few_files(tmp_path, reads):
  """Processes that are given the identity need not read the files."""
  here = in_folder(tmp_path / "here", BEFORE)
  there = in_folder(tmp_path / "there", BEFORE)
  assert here.outline == there.outline
  assert not reads
  # Copies on the disks of several hosts may differ.
  inverted = in_folder(tmp_path / "other", [255 - n for n in BEFORE])
  assert inverted.outline != here.outline


def test_error_messages_do_not_read_the_data(tmp_path, reads):
  source = in_folder(tmp_path, BEFORE)
  write(tmp_path / "set", {"a/000.bmp": b"BM"})
  with pytest.raises(DataError, match="record 0 of set/train"):
    source.read(0)
  assert repr(source) == "FolderSource(set/train)"
  assert not reads
