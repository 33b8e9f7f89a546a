"""Data sets, archives and folders on gs:// and s3:// are read as on a disk."""

import os
import pickle

import numpy as np
import pytest
from image_files import everything, png, write, write_zip
from test_archives import numbered, write_idx, write_tar

from bigscale import place
from bigscale.cli.main import main
from bigscale.data import pipeline
from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.inputs import open_inputs
from bigscale.data.manifest import FILE_NAME, DataError
from bigscale.data.openers import open_source
from bigscale.data.order import Order
from bigscale.data.sources import BadRecordError
from bigscale.data.upload import build_at
from bigscale.data.verify import verify
from bigscale.spec import DataSpec
from tests.data.built_set import NoiseSource, options
from tests.place.proxy import Fault


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  folder = tmp_path / "cache"
  monkeypatch.setenv("BIGSCALE_CACHE", str(folder))
  return folder


@pytest.fixture(params=["gs", "s3"])
def bucket(request):
  return request.getfixturevalue(f"{request.param}_bucket")


def put(folder, address):
  """Copies a local folder to an address, which it returns."""
  target = place.open_place(address)
  for entry in place.open_place(folder).list():
    target.write(entry.name, place.open_place(folder).read(entry.name))
  return address


def noise_set(folder, records=25, **changes):
  build({"train": NoiseSource(records)}, str(folder), options(**changes))
  return str(folder)


def copies(cache):
  return sorted((cache / "shards").glob("*.array_record"))


FOUR = {f"{name}/{i}.png": png(i) for name in "ab" for i in (1, 2)}


def animals():
  return {
    f"{name}/deep/{number:03d}.png": png(20 * label + number)
    for label, name in enumerate(("ape", "bee", "cat"))
    for number in range(12)
  } | {"__MACOSX/x.png": b"x", "notes.txt": b"y"}


def test_every_kind_of_input_equals_its_local_copy(tmp_path, bucket):
  root = tmp_path / "files"
  root.mkdir()
  write(root / "set", animals())
  write_zip(root / "set.zip", animals())
  write_tar(root / "a.tar", numbered(40))
  write_tar(root / "b.tar", numbered(40, first=40))
  write_idx(root / "images", np.arange(960, dtype=np.uint8).reshape(60, 4, 4))
  write_idx(root / "labels.gz", (np.arange(60) % 3).astype(np.uint8))
  np.savez(
    root / "x.npz",
    images=np.arange(60 * 48, dtype=np.uint8).reshape(60, 4, 4, 3),
    labels=np.arange(60) % 3,
  )
  noise_set(root / "shards")
  put(root, bucket)
  for name in ("set", "set.zip", "*.tar", "a.tar", "x.npz", "shards", "idx"):
    paths = f"{root}/{name}", f"{bucket}/{name}"
    if name == "idx":
      paths = [f"idx:{at}/images,{at}/labels.gz" for at in (root, bucket)]
    local, remote = map(open_inputs, paths)
    assert local.keys() == remote.keys()
    for split in local:
      assert remote[split].content() == local[split].content(), name
      assert remote[split].outline == local[split].outline
      copy = pickle.loads(pickle.dumps(remote[split]))
      assert everything(copy) == everything(local[split])
      assert remote[split].check() == ()
      assert remote[split].class_names == local[split].class_names


@pytest.mark.parametrize("name", ["set", "set.zip", "a.tar"])
def test_changed_objects_are_an_error_not_other_data(tmp_path, gs_bucket, name):
  for number in (0, 50):
    root = tmp_path / f"{number}"
    files = {f"{c}/{i}.png": png(number + i) for c in "ab" for i in range(30)}
    write(root / "set", files)
    write_zip(root / "set.zip", files)
    write_tar(
      root / "a.tar", [(f"{i}.png", png(number + i)) for i in range(60)]
    )
  put(tmp_path / "0", gs_bucket)
  source = open_inputs(f"{gs_bucket}/{name}")["train"]
  content, first = source.content(), everything(source)
  put(tmp_path / "50", gs_bucket)
  with pytest.raises(place.ChangedError, match="has changed"):
    source.read(0)
  changed = open_inputs(f"{gs_bucket}/{name}")["train"]
  assert changed.content() != content
  assert everything(changed) != first


def test_vanished_objects_are_bad_records(tmp_path, gs_bucket):
  write(tmp_path / "set", FOUR)
  put(tmp_path / "set", gs_bucket)
  source = FolderSource(gs_bucket, heldout_fraction=0.0)
  place.open_place(gs_bucket).delete("a/1.png")
  with pytest.raises(BadRecordError, match=r"a/1.png.*cannot be read"):
    source.read(0)


def test_outages_are_not_bad_records(tmp_path, faulty, monkeypatch):
  monkeypatch.setattr("bigscale.place.door.PATIENCE_SECONDS", 0.2)
  proxy, address = faulty("gs")
  noise_set(tmp_path / "shards")
  write(tmp_path / "set", FOUR)
  put(tmp_path, address)
  for name in ("set", "shards"):
    source = open_source(f"{address}/{name}", "train")
    proxy.add(Fault("status", times=10_000))
    with pytest.raises(place.StoreError, match="kept failing"):
      source.read(0)
    proxy.clear()
    assert source.read(0)


def test_shards_are_copied_once_and_verified(tmp_path, bucket, cache):
  local = open_source(noise_set(tmp_path / "set"), "train")
  source = open_source(put(tmp_path / "set", f"{bucket}/set"), "train")
  assert copies(cache) == []
  assert everything(source) == everything(local)
  assert len(copies(cache)) == 3
  before = place.requests().total()
  again = pickle.loads(pickle.dumps(source))
  assert everything(again) == everything(local)
  assert place.requests().total() == before
  # The name of a copy is its digest, so it also serves copies of the set.
  other = open_source(put(tmp_path / "set", f"{bucket}/other"), "train")
  before = place.requests().total()
  assert everything(other) == everything(local)
  assert place.requests().total() == before


@pytest.mark.parametrize(
  ("damage", "reason"),
  [
    (lambda data: data[:-1] + b"x", "is not the one in the manifest"),
    (lambda data: data[:-9], "is not the one in the manifest"),
    (lambda data: data + b"x", "is not the one in the manifest"),
    (None, "does not exist, but the manifest lists it"),
  ],
)
def test_damaged_shards_are_never_read(
  tmp_path, gs_bucket, cache, damage, reason
):
  noise_set(tmp_path / "set")
  source = open_source(put(tmp_path / "set", gs_bucket), "train")
  files = place.open_place(gs_bucket)
  (name, *_) = [e.name for e in files.list() if e.name.startswith("train")]
  if damage is None:
    files.delete(name)
  else:
    files.write(name, damage(files.read(name)))
  with pytest.raises(BadRecordError, match=reason):
    source.read(0)
  assert source.read(15)
  assert len(copies(cache)) == 1
  assert len(source.check()) == (damage is None or len(damage(b"x" * 9)) != 9)
  (fault,) = verify(gs_bucket)
  assert reason in fault


def test_cut_downloads_are_repeated(tmp_path, faulty):
  proxy, address = faulty("gs")
  local = open_source(noise_set(tmp_path / "set"), "train")
  source = open_source(put(tmp_path / "set", address), "train")
  proxy.damage(0.3, seed=3)
  assert everything(source) == everything(local)


def test_the_oldest_copies_make_room(tmp_path, gs_bucket, cache):
  noise_set(tmp_path / "set")
  put(tmp_path / "set", gs_bucket)
  sizes = [path.stat().st_size for path in (tmp_path / "set").glob("train*")]
  limit = (sum(sizes) - min(sizes) / 2) / 1e9
  source = open_source(gs_bucket, "train", cache_gb=limit)
  local = open_source(str(tmp_path / "set"), "train")
  assert everything(source) == everything(local)
  assert len(copies(cache)) == 2
  fresh = open_source(gs_bucket, "train", cache_gb=limit)
  assert everything(fresh) == everything(local)
  assert sum(path.stat().st_size for path in copies(cache)) <= limit * 1e9


def stream(address, **changes):
  spec = DataSpec(source=address, **changes)
  return pipeline.make(
    spec,
    resolution=8,
    channels=3,
    num_classes=3,
    global_batch_size=5,
    batches_per_step=1,
    seed=0,
  )


@pytest.mark.parametrize(
  "workers", [0, pytest.param(1, marks=pytest.mark.slow)]
)
def test_a_stream_equals_that_of_the_local_set(
  tmp_path, gs_bucket, cache, workers
):
  put(noise_set(tmp_path / "set", records=60), gs_bucket)
  changes = {"shuffle_files": 2, "workers": workers}
  with_copies = stream(gs_bucket, **changes)
  plain = stream(str(tmp_path / "set"), **changes)
  for _ in range(18):
    got, want = next(with_copies), next(plain)
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(got.labels, want.labels)
  assert with_copies.identity == plain.identity
  with_copies.close()
  plain.close()
  assert len(copies(cache)) == 6


def test_the_next_window_is_copied_while_one_is_read(
  tmp_path, gs_bucket, cache
):
  put(noise_set(tmp_path / "set", records=80), gs_bucket)
  opened = stream(gs_bucket, shuffle_files=2, prefetch=1)
  next(opened)
  records = opened._batches.records
  (order,) = records.orders
  wanted = order.files(0, 0) + order.files(0, 1)
  source = records.mix.sources[0]
  source._cache._pool.shutdown()
  names = {source._shards[number].sha256 for number in wanted}
  assert {path.stem for path in copies(cache)} == names
  opened.close()
  # The window after an epoch's last is the first of the next epoch.
  assert order.files(0, 4) == order.files(1, 0)
  assert {n for w in range(4) for n in order.files(0, w)} == {*range(8)}


def test_the_windows_of_an_order_are_those_it_reads():
  for changes in ({"shuffle": True}, {"shuffle": False}):
    order = Order((7, 5, 9, 4, 6), together=2, seed=3, **changes)
    starts = np.cumsum([0, *order.file_records])
    for position in range(3 * order.length):
      (index,) = order.indices(np.array([position]))
      file = int(np.searchsorted(starts, index, side="right")) - 1
      assert file in order.files(*order.window(position))
    assert order.files(0, 5 if not order.shuffle else 3) == order.files(1, 0)


def test_windows_that_do_not_fit_the_disk_are_refused(tmp_path, gs_bucket):
  put(noise_set(tmp_path / "set", records=60), gs_bucket)
  size = max(path.stat().st_size for path in (tmp_path / "set").glob("train*"))
  limit = 3.5 * size / 1e9
  with pytest.raises(DataError, match=r"set data.shuffle_files=3, free disk"):
    stream(gs_bucket, cache_gb=limit)
  with pytest.raises(DataError, match=r"set data.shuffle_files=3"):
    stream(gs_bucket, cache_gb=limit, subset=20)
  stream(gs_bucket, cache_gb=limit, shuffle_files=3).close()


def test_a_full_disk_is_an_error(tmp_path, gs_bucket, monkeypatch):
  source = open_source(put(noise_set(tmp_path / "set"), gs_bucket), "train")

  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("bigscale.data.shard_cache.open", full, raising=False)
  with pytest.raises(OSError, match="No space left"):
    source.read(0)


def test_builds_are_uploaded_with_the_manifest_last(tmp_path, bucket, cache):
  local = build({"train": NoiseSource(25)}, str(tmp_path / "set"), options())
  report = build_at({"train": NoiseSource(25)}, f"{bucket}/set", options())
  assert report == local
  files = place.open_place(f"{bucket}/set")
  names = [entry.name for entry in files.list()]
  assert names == sorted(os.listdir(tmp_path / "set"))
  assert verify(f"{bucket}/set") == ()
  source = open_source(f"{bucket}/set", "train")
  assert source.identity == open_source(str(tmp_path / "set"), "train").identity
  assert [*(cache / "uploads").rglob("*.array_record")] == []
  with pytest.raises(DataError, match="already contains a data set"):
    build_at({"train": NoiseSource(25)}, f"{bucket}/set", options())


def test_interrupted_uploads_continue(gs_bucket, monkeypatch):
  address = gs_bucket
  inputs = {"train": NoiseSource(45)}
  writes, write_file = [], type(place.open_place(address)).write

  def failing(self, name, data):
    if len(writes) == 2:
      raise place.StoreError("the store fails")
    writes.append(name)
    write_file(self, name, data)

  monkeypatch.setattr(type(place.open_place(address)), "write", failing)
  with pytest.raises(place.StoreError):
    build_at(inputs, address, options())
  files = place.open_place(address)
  assert files.entry(FILE_NAME) is None
  with pytest.raises(DataError, match="is empty"):
    open_source(address, "train")
  with pytest.raises(DataError, match="a different unfinished build"):
    build_at({"train": NoiseSource(46)}, address, options())
  writes.clear()
  writes.append("")

  def counting(self, name, data):
    writes.append(name)
    write_file(self, name, data)

  monkeypatch.setattr(type(files), "write", counting)
  report = build_at(inputs, address, options())
  # The first two shards were uploaded before, and none is built again.
  assert len(writes) == 1 + 3
  assert (report.shards_written, report.shards_kept) == (0, 5)
  assert verify(address) == ()


def test_builds_never_write_to_a_folder_named_like_an_address(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match="is an address"):
    build({"train": NoiseSource(5)}, "gs://bucket/set", options())
  assert os.listdir(tmp_path) == []


def test_commands_read_and_write_addresses(tmp_path, gs_bucket, capsys):
  write(tmp_path / "set", animals())
  put(tmp_path / "set", f"{gs_bucket}/images")
  words = ["build", f"--input={gs_bucket}/images", f"--out={gs_bucket}/set"]
  more = ["--resolution=4", "--workers=1", "--encoding=raw"]
  assert main(["bigscale", "data", *words, *more]) == 0
  assert main(["bigscale", "data", "inspect", f"{gs_bucket}/set"]) == 0
  assert "ape" in capsys.readouterr().out
  assert main(["bigscale", "data", "verify", f"{gs_bucket}/set"]) == 0
  assert not os.path.exists("gs:")


@pytest.mark.parametrize(
  ("address", "reason"),
  [
    ("gs://absent/set", "'absent', which does not exist"),
    ("http://host/set", "http:// is not supported"),
  ],
)
def test_unusable_addresses_exit_with_2(gs_bucket, capsys, address, reason):
  for command in ("inspect", "verify"):
    assert main(["bigscale", "data", command, address]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
