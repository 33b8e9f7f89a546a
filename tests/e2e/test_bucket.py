"""A run on gs:// or s3:// does what a run on a disk does."""

import json
import re

import jax
import numpy as np
import pytest

from bigscale.cli.main import main
from bigscale.parallel.mesh import make_mesh
from bigscale.place import log, open_place
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train import loop
from bigscale.train.build import build
from bigscale.train.checkpoint import CheckpointReader
from bigscale.train.claim import Claim
from bigscale.train.disturb import Disturbance
from bigscale.train.evaluation import evaluator_of
from bigscale.train.home import BucketHome
from bigscale.train.lease import Lease
from bigscale.train.preemption import PreemptedError
from tests.e2e import monitored, tiny
from tests.e2e.test_preemption import TERMINATED_AT, Terminated
from tests.place import servers

KILLED_AT = 10


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request):
  """The address of a bucket."""
  server = request.getfixturevalue(f"{request.param}_server")
  with pytest.MonkeyPatch.context() as patch:
    found = servers.environment(request.param, server.endpoint)
    for name, value in found.items():
      patch.setenv(name, value)
    yield f"{request.param}://{servers.BUCKET}"


@pytest.fixture(scope="module")
def spec():
  config = tiny.smallest()
  config.total_kimg = 0.128
  config.checkpoint.keep_best = 1
  config.operations = {"lease_seconds": 1.0}
  config.log.trackers = ("csv",)
  return from_config(config)


@pytest.fixture(scope="module")
def prepared(spec):
  """The programs and the evaluator, which the runs share."""
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  return loop.Prepared(built, evaluator_of(spec))


class KilledError(BaseException):
  """Stands for SIGKILL."""


def kill(patch, spec, url, prepared):
  """Trains until `KILLED_AT`; nothing is written or released after that."""
  after = loop._Run._after

  def after_then_die(self, step, *rest):
    leaving = after(self, step, *rest)
    if step == KILLED_AT:
      raise KilledError
    return leaving

  patch.setattr(loop._Run, "_after", after_then_die)
  patch.setattr(BucketHome, "close", lambda self, _: self._outbox.close())
  patch.setattr(Lease, "release", lambda self: self._stop.set())
  with pytest.raises(KilledError):
    loop.train(spec, url, prepared=prepared)


@pytest.fixture(scope="module")
def runs(bucket, spec, prepared, tmp_path_factory):
  """An undisturbed run on a disk, and one on a bucket that was killed once."""
  alone = tmp_path_factory.mktemp("disk") / "run"
  loop.train(spec, alone, prepared=prepared)
  killed = f"{bucket}/killed/run"
  with pytest.MonkeyPatch.context() as patch:
    kill(patch, spec, killed, prepared)
  parts = log.all_parts(open_place(killed), "metrics")
  assert len(parts) > 1, "the first start wrote its rows in parts"
  loop.train(spec, killed, prepared=prepared)
  return f"{alone}", killed


def rows(url):
  lines = log.read(open_place(url), "metrics").splitlines()
  return [
    {
      name: value
      for name, value in json.loads(line).items()
      if name != "seconds" and not name.startswith("perf/")
    }
    for line in lines
  ]


def final_state(url, prepared):
  reader = CheckpointReader(url)
  try:
    return reader.restore(prepared.built.abstract_state)
  finally:
    reader.close()


def test_rows_and_arrays_are_those_of_a_disk(runs, spec, prepared):
  one, other = (final_state(url, prepared) for url in runs)
  assert one.step == other.step == spec.total_steps
  assert one.data == other.data
  jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
  assert rows(runs[0]) == rows(runs[1])


def test_the_files_are_those_of_a_disk(runs):
  names = [{entry.name for entry in open_place(url).list()} for url in runs]
  disk, bucket = (
    {name.split("/state/")[0] for name in each} - {"checkpoints", "healthy"}
    for each in names
  )
  private = re.compile(
    r"\.lock|(leases|beats)/\d{6}|(csv|programs)/.*|.*commit_success.txt"
  )
  differing = {n for n in disk ^ bucket if not private.fullmatch(n)}
  assert differing == set()
  # Their names contain the time.
  assert all(any(name.startswith("csv/") for name in each) for each in names)


def test_the_starts_are_counted_and_requests_reported(runs):
  place = open_place(runs[1])
  assert len(place.list("leases/")) == 2
  events = [json.loads(x) for x in log.read(place, "events").splitlines()]
  assert [e["step"] for e in events if e["event"] == "start"] == [0, 8]
  lines = log.read(place, "metrics").splitlines()
  assert any(json.loads(x).get("perf/store_requests", 0) > 0 for x in lines)


def test_commands_read_a_run_and_write_nothing_to_it(
  runs, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  before = open_place(runs[1]).list()
  run = f"--workdir={runs[1]}"
  assert main(["bigscale", "report", run]) == 0
  assert "<svg" in (tmp_path / "report.html").read_text()
  assert main(["bigscale", "monitor", "replay", runs[1]]) == 0
  assert main(["bigscale", "sample", run, "--num=4", "--out=a.png"]) == 0
  assert (tmp_path / "a.png").stat().st_size > 0
  assert open_place(runs[1]).list() == before
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "report.html"]
  capsys.readouterr()


@pytest.mark.slow
def test_other_runs_and_exports_start_from_a_bucket(
  runs, bucket, spec, prepared, tmp_path, capsys
):
  run = f"--workdir={runs[1]}"
  assert main(["bigscale", "evaluate", run, "--num=80"]) == 0, (
    capsys.readouterr().err
  )
  exported = f"{bucket}/exports/g.zip"
  assert main(["bigscale", "export", run, f"--out={exported}"]) == 0
  assert open_place(f"{bucket}/exports").entry("g.zip").size > 0
  url = f"{bucket}/child"
  loop.train(spec, url, prepared=prepared, init_from=runs[1])
  events = log.read(open_place(url), "events").splitlines()
  (start,) = [e for e in map(json.loads, events) if e["event"] == "init_from"]
  assert start["run"] == runs[1]
  capsys.readouterr()


@pytest.mark.slow
def test_sigterm_saves_the_current_step(bucket, tmp_path):
  spec = from_config(monitored.config())
  url = f"{bucket}/ended"
  ending = monitored.prepared(spec, Terminated())
  with pytest.raises(PreemptedError, match=f"step {TERMINATED_AT} is saved"):
    loop.train(spec, url, prepared=ending)
  resumed = loop.train(
    spec, url, prepared=monitored.prepared(spec, Disturbance())
  )
  straight = monitored.run(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, resumed.state, straight.state)
  assert rows(url) == rows(f"{tmp_path}")


@pytest.mark.slow
def test_a_rollback_equals_that_on_a_disk(bucket, tmp_path):
  rolled = {"action": "rollback", "rewind": 3}
  disk = monitored.run(tmp_path, faults={0: monitored.FAULT}, **rolled)
  url = f"{bucket}/rolled"
  spec = from_config(monitored.config(**rolled))
  faulty = monitored.Watched({0: monitored.FAULT})
  found = loop.train(spec, url, prepared=monitored.prepared(spec, faulty))
  jax.tree.map(np.testing.assert_array_equal, found.state, disk.state)
  assert rows(url) == rows(f"{tmp_path}")


def test_a_complete_run_does_nothing_when_it_starts_again(runs, spec, prepared):
  before = rows(runs[1])
  loop.train(spec, runs[1], prepared=prepared)
  assert rows(runs[1]) == before


def test_a_run_in_use_is_refused_before_anything_is_compiled(
  bucket, spec, tmp_path, capsys
):
  url = f"{bucket}/in/use"
  holder = Lease(1.0)
  holder.take(url)
  try:
    with pytest.raises(SpecError, match=r"in use by another run \(process"):
      loop.train(spec, url)
  finally:
    holder.release()
  assert not open_place(url).any("spec.json")


@pytest.mark.parametrize(
  ("workdir", "message"),
  [
    ("gs://no-such-bucket/run", "does not exist"),
    ("hdfs://host/run", "checkpoints cannot be there"),
    ("gs:/bucket/run", "is an address"),
  ],
)
def test_an_address_that_cannot_be_used_is_refused(
  gs_bucket, workdir, message, capsys
):
  code = main(
    ["bigscale", "train", f"--config={tiny.__file__}", f"--workdir={workdir}"]
  )
  assert code == 2
  assert message in capsys.readouterr().err


def test_disks_keep_their_lock(tmp_path, spec):
  from bigscale.train import resume

  assert isinstance(resume.new_claim(tmp_path, spec), Claim)
