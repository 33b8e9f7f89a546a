"""Stores that fail, behind a proxy: repeats, limits and clear messages."""

import concurrent.futures
import time

import pytest

from bigscale import place
from bigscale.place import retry
from bigscale.spec import SpecError
from tests.place.proxy import Fault

SCHEMES = pytest.mark.parametrize("scheme", ["gs", "s3"])
KINDS = ("status", "drop", "lose", "cut")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
  monkeypatch.setattr(retry, "_FIRST_PAUSE", 0.01)


@SCHEMES
def test_transient_errors_are_repeated(faulty, scheme):
  proxy, address = faulty(scheme)
  files = place.open_place(address)
  data = bytes(range(256)) * 100
  for kind in KINDS:
    for use in (
      lambda n=kind: files.write(n, data),
      lambda n=kind: files.read(n) == data,
      lambda n=kind: files.read_range(n, 10, 90) == data[10:90],
      lambda n=kind: files.entry(n).size == len(data),
      lambda n=kind: [entry.name for entry in files.list(n)] == [n],
      lambda n=kind: files.create(f"new {n}", data),
      lambda n=kind: files.delete(f"new {n}"),
    ):
      proxy.clear()
      proxy.add(Fault(kind))
      assert use() in (True, None)
      if kind != "cut":  # Some answers have no body.
        assert len(proxy.seen) >= 2
  proxy.clear()
  for status in (408, 429, 500, 502, 503, 504):
    proxy.add(Fault("status", status))
    assert files.read("drop") == data
  assert len(proxy.seen) == 12
  assert files.entry("new drop") is None


@SCHEMES
def test_requests_are_counted(faulty, scheme):
  proxy, address = faulty(scheme)
  files = place.open_place(address)
  proxy.clear()
  before = place.requests()
  proxy.add(Fault("status"))
  files.write("a", b"1")
  files.read("a")
  files.list()
  files.entry("a")
  assert (place.requests() - before).total() == len(proxy.seen) == 5


@SCHEMES
def test_one_creator_wins_although_answers_are_lost(faulty, scheme):
  proxy, address = faulty(scheme)
  files = place.open_place(address)
  with concurrent.futures.ThreadPoolExecutor(16) as threads:
    for race in range(3):
      proxy.damage(0.3, seed=race, kinds=("lose", "drop", "status"))
      # All write the same bytes, so content does not tell who won.
      won = threads.map(
        lambda _, r=race: files.create(f"{r}", b"same"), range(16)
      )
      assert sum(won) == 1


@SCHEMES
def test_random_faults_change_nothing(faulty, scheme):
  proxy, address = faulty(scheme)
  files = place.open_place(address)
  proxy.damage(0.3, seed=1)
  for i in range(20):
    files.write(f"{i:02}", b"%d" % i * 1000)
  assert [entry.name for entry in files.list()] == [
    f"{i:02}" for i in range(20)
  ]
  assert all(files.read(f"{i:02}") == b"%d" % i * 1000 for i in range(20))


@SCHEMES
def test_patience_ends(faulty, scheme):
  proxy, address = faulty(scheme)
  place.open_place(address).list()  # Connects, which takes long with s3fs.
  files = place.open_place(address, patience=0.3)
  proxy.clear()
  proxy.add(Fault("status", 503, times=1000))
  start = time.monotonic()
  with pytest.raises(place.StoreError, match=r"writing .*a kept failing for 0"):
    files.write("a", b"1")
  assert time.monotonic() - start < 2
  assert len(proxy.seen) >= 4


@SCHEMES
def test_silent_servers_time_out(faulty, scheme):
  proxy, address = faulty(scheme)
  place.open_place(address).list()
  files = place.open_place(address, patience=0.5)
  proxy.add(Fault("hang", seconds=3.0, times=1))
  start = time.monotonic()
  assert files.list() == []
  assert 0.4 < time.monotonic() - start < 2


@SCHEMES
@pytest.mark.parametrize("status", [401, 403])
def test_refusals_are_not_repeated(faulty, scheme, status):
  proxy, address = faulty(scheme)
  files = place.open_place(address)
  proxy.clear()
  proxy.add(Fault("status", status, times=100))
  remedy = {"gs": "gcloud auth", "s3": "AWS_ACCESS_KEY_ID"}[scheme]
  with pytest.raises(PermissionError, match=rf"was refused.*{remedy}"):
    files.read("a")
  assert len(proxy.seen) == 1


@SCHEMES
def test_refusals_at_the_door_name_the_remedy(faulty, scheme, monkeypatch):
  proxy, address = faulty(scheme)
  monkeypatch.setattr("bigscale.place.door._accessed", set())
  proxy.add(Fault("status", 403, times=100))
  with pytest.raises(SpecError, match=r"cannot be accessed: listing .*refused"):
    place.open_place(address)


def test_missing_credentials_name_the_remedy(s3_bucket, monkeypatch, tmp_path):
  for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    monkeypatch.delenv(name)
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setattr("bigscale.place.door._accessed", set())
  with pytest.raises(SpecError, match=r"credentials.*set AWS_ACCESS_KEY_ID"):
    place.open_place(s3_bucket)


def test_a_dead_server_is_an_error(faulty, monkeypatch):
  proxy, address = faulty("gs")
  files = place.open_place(address, patience=0.3)
  proxy.close()
  with pytest.raises(place.StoreError, match="kept failing"):
    files.list()
