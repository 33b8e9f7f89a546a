"""Settings that change when a run resumes.

One run is trained to its middle and copied for each test.
"""

import dataclasses
import itertools
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from bigscale.data import pipeline
from bigscale.data.manifest import DataError
from bigscale.data.verify import verify
from bigscale.parallel import rows
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import batch_sharding
from bigscale.report import write_report
from bigscale.report.read import read_run
from bigscale.report.timeline import timeline
from bigscale.scaling.flops import training_flops
from bigscale.spec import SpecError, from_config
from bigscale.train import folder as folders
from bigscale.train import loop
from bigscale.train.build import build
from bigscale.train.checkpoint import CheckpointReader
from bigscale.train.disturb import Disturbance
from bigscale.train.reals import open_stream
from bigscale.train.rollback import Guard
from tests.e2e import tiny
from tests.train.test_loop_scores import Scores

# The first start trains 8 steps of 8 images. All starts train 192 images.
FIRST, SMALL, LARGE, KIMG = 8, 8, 16, 0.192


def spec_of(**settings):
  """Returns a spec of the smallest network; `__` in a name means a dot."""
  config = tiny.smallest(spectra_interval=0)
  config.total_kimg = KIMG
  # With a schedule, the weights depend on the image count.
  fall = {"first": 1e-3, "last": 1e-4, "kimg": KIMG}
  config.optim = dict(config.optim) | {"g_lr": fall}
  config.evaluate = {"num_samples": 4, "batch_size": 4}
  config.log = {"steps": 1, "num_samples": 4, "tensorboard": False}
  config.checkpoint = {"kimg": 0.032, "keep": 20}
  config.monitor = {"action": "off", "num_samples": 4}
  for name, value in settings.items():
    *groups, field = name.split("__")
    at = config
    for group in groups:
      if group not in at:
        at[group] = {}
      at = at[group]
    at[field] = value
  return from_config(config)


def grown_spec(**settings):
  """Returns a spec with twice the batch size and other rates."""
  rates = {"optim__d_lr": 2e-3, "optim__ema_half_life_kimg": None}
  return spec_of(global_batch_size=LARGE, **rates, **settings)


class Programs:
  """The programs of each batch size, built once."""

  def __init__(self):
    self._built = {}

  def prepared(self, spec, disturbance=None):
    key = spec.global_batch_size
    if key not in self._built:
      mesh = make_mesh(spec.mesh, jax.devices()[:1])
      built = build(spec, mesh)
      for first in self._built.values():
        # These do not depend on the batch size.
        built = built._replace(init=first.init, sample=first.sample)
      self._built[key] = built
    return loop.Prepared(
      self._built[key]._replace(spec=spec),
      Scores(itertools.cycle((1,))),
      disturbance or Disturbance(),
    )


@pytest.fixture(scope="module")
def programs():
  return Programs()


@pytest.fixture(scope="module")
def begun(tmp_path_factory, programs):
  """The run after its first start."""
  path = tmp_path_factory.mktemp("begun") / "run"
  reader = Reader()
  spec = spec_of(total_kimg=FIRST * SMALL / 1000)
  loop.train(spec, path, prepared=programs.prepared(spec, reader))
  np.save(path / "read.npy", reader.all(0))
  return path


@pytest.fixture
def run(begun, tmp_path):
  path = tmp_path / "run"
  shutil.copytree(begun, path)
  return path


class Reader(Disturbance):
  """Records the batch of each step, and puts NaN into D at one step."""

  def __init__(self, spoiled=None):
    self.images = {}
    self.spoiled = spoiled

  def batch(self, step, attempt, batch):
    self.images[attempt, step] = np.array(batch.images)
    return batch

  def state(self, step, attempt, state):
    if (attempt, step) != self.spoiled:
      return state
    params = jax.tree.map(lambda x: x * np.float32("nan"), state.d.params)
    return state._replace(d=state.d._replace(params=params))

  def all(self, attempt, after=0):
    """Returns the images [N, H, W, C] of all steps of an attempt."""
    return np.concatenate(
      [
        images.reshape(-1, *images.shape[2:])
        for (of, step), images in sorted(self.images.items())
        if of == attempt and step > after
      ]
    )


def lines(run, name):
  return list(map(json.loads, (run / name).read_text().splitlines()))


def events(run, kind):
  return [e for e in lines(run, "events.jsonl") if e["event"] == kind]


def changed(run):
  return {e["setting"]: e for e in events(run, "setting_changed")}


def written(run):
  return json.loads((run / "spec.json").read_text())["spec"]


def restored(run, built, step=None):
  checkpoints = CheckpointReader(run)
  try:
    return checkpoints.restore(built.abstract_state, step)
  finally:
    checkpoints.close()


def records(spec, first, count):
  """Returns images of the stream, read in batches of another size."""
  stream = pipeline.make(
    spec.data,
    resolution=4,
    channels=1,
    num_classes=10,
    global_batch_size=4,
    batches_per_step=1,
    seed=spec.seed,
  )
  start = {"records_consumed": first, "skipped": []}
  stream.set_state(stream.get_state() | start)
  batches = [next(stream).images for _ in range(count // 4)]
  stream.close()
  return np.concatenate(batches).reshape(-1, 4, 4, 1)


def test_settings_that_do_not_affect_results_may_change(run, programs):
  spec = spec_of(
    evaluate__kimg=0.096,
    evaluate__num_samples=5,
    log__steps=4,
    checkpoint__kimg=0.048,
    data__threads=2,
    data__prefetch=3,
    data__max_bad_fraction=0.5,
    data__bad_records="error",
    operations__hang_seconds=100.0,
    sampling__truncation_rule="scale",
    monitor__action="checkpoint",
    monitor__verdict={"quiet": 5},
    mesh__min_split_elements=1,
  )
  loop.train(spec, run, prepared=programs.prepared(spec))
  found = changed(run)
  assert found.keys() == {
    *("total_kimg", "evaluate.kimg", "evaluate.num_samples", "log.steps"),
    *("checkpoint.kimg", "data.threads", "data.prefetch"),
    *("data.max_bad_fraction", "data.bad_records"),
    *("operations.hang_seconds", "sampling.truncation_rule"),
    *("monitor.action", "monitor.verdict.quiet", "mesh.min_split_elements"),
  }
  kimg = found["checkpoint.kimg"]
  assert (kimg["step"], kimg["old"], kimg["new"]) == (FIRST, 0.032, 0.048)
  assert written(run) == json.loads(json.dumps(dataclasses.asdict(spec)))
  logged = lines(run, "metrics.jsonl")
  scored = [r["step"] for r in logged if "eval/fd_classifier" in r]
  # The first start also evaluated at its end.
  assert scored == [FIRST, 12, 24]
  # The next start finds no changes.
  loop.train(spec, run, prepared=programs.prepared(spec))
  assert len(events(run, "setting_changed")) == len(found)


@pytest.mark.parametrize(
  ("settings", "change", "words"),
  [
    ({"seed": 1}, True, ["seed: 0 there, 1 here", "another folder"]),
    ({"model__latent_dim": 16}, True, ["model.latent_dim: 8 there, 16 here"]),
    ({"loss__r1_gamma": 1.0}, True, ["loss.r1_gamma.first: 0.5 there"]),
    ({"optim__d_steps": 2}, True, ["optim.d_steps: 1 there, 2 here"]),
    ({"data__flip": False}, True, ["data.flip: True there, False here"]),
    (
      {"optim__d_lr": 2e-3, "global_batch_size": 16, "log__steps": 3},
      False,
      ["optim.d_lr.first: 0.001 there, 0.002 here", "8 there, 16", "--change"],
    ),
  ],
)
def test_a_refused_change_leaves_the_run_unchanged(
  run, settings, change, words
):
  before = written(run)
  with pytest.raises(SpecError) as error:
    loop.train(spec_of(**settings), run, change=change)
  for word in words:
    assert word in str(error.value)
  assert "log.steps" not in str(error.value)
  assert written(run) == before
  assert not changed(run)


def test_a_failed_start_records_no_change(run, programs):
  """The change is recorded by the next start that succeeds."""
  state = run / "checkpoints" / str(FIRST)
  shutil.rmtree(run / "checkpoints")
  state.mkdir(parents=True)
  spec = spec_of(log__steps=4)
  before = written(run)
  with pytest.raises(SpecError, match="no undamaged checkpoint"):
    loop.train(spec, run, prepared=programs.prepared(spec))
  assert written(run) == before


@pytest.fixture(scope="module")
def grown(begun, programs, tmp_path_factory):
  """The run after a second start with `grown_spec`."""
  path = tmp_path_factory.mktemp("grown") / "run"
  shutil.copytree(begun, path)
  spec, reader = grown_spec(), Reader()
  prepared = programs.prepared(spec, reader)
  result = loop.train(spec, path, prepared=prepared, change=True)
  return path, spec, reader, result, prepared.built


def test_after_a_batch_size_change_every_image_is_read_once(begun, grown):
  _, spec, reader, _, _ = grown
  read = np.concatenate([np.load(begun / "read.npy"), reader.all(0)])
  # Each step reads two batches, one for D and one for G.
  assert len(read) == 2 * 192
  np.testing.assert_array_equal(read, records(spec, 0, 2 * 192))


def test_after_a_batch_size_change_the_state_equals_a_manual_loop(grown):
  run, _, _, result, built = grown
  first = restored(run, built, FIRST)
  stream = open_stream(built)
  stream.set_state(first.data)
  where = batch_sharding(built.mesh)
  batches = [rows.to_global(next(stream), where) for _ in range(8)]
  assert stream.get_state() == restored(run, built).data
  stream.close()

  def by_hand(count):
    state = restored(run, built, FIRST).state
    moments = jax.tree.leaves(state.d.optimizer)
    assert all(np.any(leaf) for leaf in moments)
    for number, batch in enumerate(batches):
      state, _ = built.step(state, batch, np.float32(count(number)))
    return jax.tree.map(np.asarray, state)

  state = by_hand(lambda number: FIRST * SMALL + number * LARGE)
  jax.tree.map(np.testing.assert_array_equal, result.state, state)
  # The test would fail if images were computed from the step number.
  wrong = by_hand(lambda number: (FIRST + number) * LARGE)
  wrong = jax.tree.leaves(wrong.g.params)
  right = jax.tree.leaves(state.g.params)
  assert any((a != b).any() for a, b in zip(wrong, right, strict=True))


def test_progress_is_counted_in_images(grown):
  run, spec, _, result, built = grown
  assert int(result.state.step) == 16
  logged = lines(run, "metrics.jsonl")
  kimg = {row["step"]: row["kimg"] for row in logged}
  assert kimg[FIRST] == 0.064
  assert kimg[9] == pytest.approx(0.080)
  assert kimg[16] == pytest.approx(0.192)
  small = dataclasses.replace(spec, global_batch_size=SMALL)
  flops = [8 * training_flops(each).per_step for each in (small, spec)]
  totals = [r["perf/total_flops"] for r in logged if "perf/total_flops" in r]
  assert totals[-1] == pytest.approx(sum(flops), rel=1e-12)
  saved = sorted(int(p.name) for p in (run / "checkpoints").glob("[0-9]*"))
  # Every 32 images.
  assert saved == [4, 8, 10, 12, 14, 16]
  meta = restored(run, built).meta
  assert meta["batches"] == [[0, SMALL], [FIRST, LARGE]]
  assert meta["kimg"] == pytest.approx(0.192)
  assert meta["flops"]["total"] == totals[-1]


def test_changes_are_in_events_and_report(grown):
  run, *_ = grown
  rates = changed(run)["optim.d_lr.first"]
  assert (rates["old"], rates["new"]) == (1e-3, 2e-3)
  assert "schedules continue" in rates["consequence"]
  assert changed(run)["optim.ema_half_life_kimg"]["new"] is None
  found = changed(run)["global_batch_size"]
  assert (found["step"], found["old"], found["new"]) == (FIRST, SMALL, LARGE)
  assert "counted in images" in found["consequence"]
  (_, start) = events(run, "start")
  assert start["batches"] == [[0, SMALL], [FIRST, LARGE]]
  record = read_run(run)
  assert record.kimg_at(4) == pytest.approx(0.032)
  assert record.kimg_at(16) == pytest.approx(0.192)
  page = write_report(run).read_text()
  for words in (
    *("global_batch_size: 8 to 16", "counted in images"),
    *("optim.d_lr.first: 0.001 to 0.002", "settings changed"),
  ):
    assert words in page


def test_a_third_start_continues_the_image_count(grown, tmp_path, programs):
  path = tmp_path / "run"
  shutil.copytree(grown[0], path)
  spec = grown_spec(total_kimg=0.224)
  state = loop.train(spec, path, prepared=programs.prepared(spec)).state
  assert int(state.step) == 18
  assert lines(path, "metrics.jsonl")[-1]["kimg"] == pytest.approx(0.224)


def test_a_rollback_to_a_step_before_the_change(run, programs):
  """From step 9 with 80 images to step 4 with 32; 10 more steps remain."""
  monitor = {
    "action": "rollback",
    "rewind": 4,
    "interval": 100,
    "num_samples": 4,
    "snapshot_interval": 100,
  }
  spec = grown_spec(monitor=monitor)
  reader = Reader(spoiled=(0, 9))
  prepared = programs.prepared(spec, reader)
  result = loop.train(spec, run, prepared=prepared, change=True)
  (back,) = events(run, "rollback")
  assert back["to_step"] == 4
  assert back["batches"] == [[0, SMALL], [4, LARGE]]
  assert int(result.state.step) == 14
  logged = [r for r in lines(run, "metrics.jsonl") if r["attempt"] == 1]
  assert logged[0]["kimg"] == pytest.approx(0.048)
  assert logged[-1]["kimg"] == pytest.approx(0.192)
  # The rollback skips all records that were read from step 5 on: 4 steps of the
  # first start, and the dispatched steps of the second.
  left = max(step for attempt, step in reader.images if attempt == 0)
  read = 2 * (4 * SMALL + (left - FIRST) * LARGE)
  first = 2 * 4 * SMALL
  assert back["skipped"] == [first, first + read]
  np.testing.assert_array_equal(
    reader.all(1), records(spec, first + read, 2 * 10 * LARGE)
  )
  small = dataclasses.replace(spec, global_batch_size=SMALL)
  step = {
    n: training_flops(each).per_step for n, each in ((8, small), (16, spec))
  }
  abandoned = 4 * step[8] + (left - FIRST) * step[16]
  last = [r for r in logged if "perf/spent_flops" in r][-1]
  assert last["perf/total_flops"] == pytest.approx(4 * step[8] + 10 * step[16])
  assert last["perf/spent_flops"] - last["perf/total_flops"] == (
    pytest.approx(abandoned)
  )
  history = timeline(read_run(run))
  (ended,) = [s for s in history.returns if s.attempt == 1]
  assert ended.target == pytest.approx(0.032)
  assert ended.start == pytest.approx(0.064 + (left - FIRST) * LARGE / 1000)


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """40 PNG files of ten classes."""
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path / "cache"))
  folder, random = tmp_path / "photos", np.random.default_rng(0)
  for number in range(40):
    place = folder / str(number % 10) / f"{number}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (4, 4), np.uint8)).save(place)
  return folder


def photo_spec(photos, **settings):
  return spec_of(data={"source": str(photos), "flip": True}, **settings)


def test_the_remedies_for_bad_records_work(
  photos, tmp_path, programs, monkeypatch
):
  run = tmp_path / "run"
  declared = []
  monkeypatch.setattr(
    Guard, "expect_change", lambda _, step: declared.append(step)
  )
  begin = photo_spec(photos, total_kimg=FIRST * SMALL / 1000)
  loop.train(begin, run, prepared=programs.prepared(begin))
  sound = tmp_path / "sound"
  shutil.copytree(photos, sound)
  for path in sorted(photos.rglob("*.png"))[::3]:
    path.write_bytes(bytes(path.stat().st_size))

  def resume(**settings):
    flags = {"accept_data": settings.pop("accept_data", False)}
    spec = photo_spec(photos, **settings)
    loop.train(spec, run, prepared=programs.prepared(spec), **flags)

  with pytest.raises(DataError, match=r"the data changed.*--accept_data"):
    resume()
  with pytest.raises(DataError, match="data verify") as refused:
    resume(accept_data=True)
  assert len(verify(str(photos))) == 14
  assert ".png" in str(refused.value)
  (enough,) = re.findall(
    r"--config.data.max_bad_fraction=(\S+)\)", str(refused.value)
  )
  enough = float(enough)
  resume(accept_data=True, data__max_bad_fraction=enough)
  assert changed(run)["data.max_bad_fraction"]["new"] == enough
  (accepted, again) = events(run, "data_accepted")
  assert accepted["step"] == again["step"] == FIRST
  assert accepted["old"] != accepted["new"]
  # The verdict does not compare other records with the earlier ones.
  assert FIRST in declared
  # With the original files again, no flag is needed.
  shutil.rmtree(photos)
  shutil.copytree(sound, photos)
  resume(data__max_bad_fraction=0.0, total_kimg=0.2)
  assert lines(run, "events.jsonl")[-1]["event"] == "done"


def test_accept_data_does_not_allow_fewer_records(photos, tmp_path, programs):
  run = tmp_path / "run"
  spec = photo_spec(photos, total_kimg=FIRST * SMALL / 1000)
  loop.train(spec, run, prepared=programs.prepared(spec))
  next(photos.rglob("1*.png")).unlink()
  with pytest.raises(DataError, match="their order would change"):
    loop.train(spec, run, prepared=programs.prepared(spec), accept_data=True)
  assert not events(run, "data_accepted")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_run_survives_the_loss_of_its_spec_file(run, programs, damage):
  path = run / "spec.json"
  whole = path.read_bytes()
  path.unlink()
  if damage == "truncated":
    path.write_bytes(whole[: len(whole) // 2])
  spec = spec_of(total_kimg=0.08)
  # Reading and resuming raise errors with the same remedy.
  with pytest.raises(SpecError, match="start the run again with the same"):
    folders.open_existing(run)
  if damage == "truncated":
    with pytest.raises(SpecError, match="move only this file away"):
      loop.train(spec, run, prepared=programs.prepared(spec))
    path.rename(run / "spec.damaged")
  # Settings of another run are refused.
  other = spec_of(seed=1)
  with pytest.raises(SpecError, match="seed: 0 there, 1 here"):
    loop.train(other, run, prepared=programs.prepared(other))
  assert not path.exists()
  result = loop.train(spec, run, prepared=programs.prepared(spec))
  assert int(result.state.step) == 10
  assert folders.open_existing(run)[1] == spec
  assert changed(run).keys() == {"total_kimg"}
