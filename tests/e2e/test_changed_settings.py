"""Settings that change when a run resumes: what is taken, told and kept right.

One run is trained to its middle and copied for each test. Batches of two sizes
make two programs; other settings share them.
"""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.report import write_report
from bigscale.scaling.flops import training_flops
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train import loop
from bigscale.train.build import build
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.disturb import Disturbance
from bigscale.train.reals import open_stream
from tests.e2e import tiny

# The first life: 8 steps of 8 images.
FIRST, SMALL, LARGE = 8, 8, 16


def spec_of(**settings):
  """The run of `tiny`, all scores and watching off; names with __ for dots."""
  config = tiny.get_config()
  config.total_kimg = 0.192
  config.evaluate.num_samples = 66
  config.evaluate.classifier_steps = 2
  config.log.samples_kimg = 0.0
  config.log.tensorboard = False
  config.checkpoint.keep = 20
  config.monitor = {"action": "off"}
  for name, value in settings.items():
    *groups, field = name.split("__")
    at = config
    for group in groups:
      at = at[group]
    at[field] = value
  return from_config(config)


class Programs:
  """Built once for each batch size."""

  def __init__(self):
    self._built = {}

  def prepared(self, spec, disturbance=None):
    key = json.dumps(
      [spec.global_batch_size, dataclasses.asdict(spec.optim)], sort_keys=True
    )
    if key not in self._built:
      mesh = make_mesh(MeshSpec(), jax.devices()[:1])
      self._built[key] = build(spec, mesh)
    return loop.Prepared(
      self._built[key]._replace(spec=spec),
      disturbance=disturbance or Disturbance(),
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    cache = tmp_path_factory.mktemp("cache")
    patch.setenv("BIGSCALE_CACHE", str(cache))
    yield Programs()


@pytest.fixture(scope="module")
def begun(tmp_path_factory, programs):
  """The first life."""
  path = tmp_path_factory.mktemp("begun") / "run"
  spec = spec_of(total_kimg=FIRST * SMALL / 1000)
  loop.train(spec, path, prepared=programs.prepared(spec))
  return path


@pytest.fixture
def run(begun, tmp_path):
  path = tmp_path / "run"
  shutil.copytree(begun, path)
  return path


class Reader(Disturbance):
  """Writes down what every step reads."""

  def __init__(self):
    self.images = {}

  def batch(self, step, attempt, batch):
    self.images[attempt, step] = np.array(batch.images)
    return batch


def lines(run, name):
  return list(map(json.loads, (run / name).read_text().splitlines()))


def events(run, kind):
  return [e for e in lines(run, "events.jsonl") if e["event"] == kind]


def written(run):
  return json.loads((run / "spec.json").read_text())["spec"]


def notes(run, spec, step):
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  checkpoints = Checkpoints(run, spec.checkpoint)
  try:
    return checkpoints.restore(built.abstract_state, step)
  finally:
    checkpoints.close()


def test_settings_that_change_no_number_are_taken_and_told(run, programs):
  spec = spec_of(
    evaluate__kimg=0.096,
    evaluate__num_samples=70,
    log__steps=4,
    checkpoint__kimg=0.048,
    data__threads=2,
    data__prefetch=3,
    data__max_bad_fraction=0.5,
    data__bad_records="error",
    operations={"hang_seconds": 100.0},
    sampling={"truncation_rule": "scale"},
    monitor={"action": "checkpoint", "verdict": {"block": 5}},
  )
  loop.train(spec, run, prepared=programs.prepared(spec))
  found = {e["setting"]: e for e in events(run, "setting_changed")}
  assert found.keys() == {
    *("total_kimg", "evaluate.kimg", "evaluate.num_samples", "log.steps"),
    *("checkpoint.kimg", "data.threads", "data.prefetch"),
    *("data.max_bad_fraction", "data.bad_records"),
    *("operations.hang_seconds", "sampling.truncation_rule"),
    *("monitor.action", "monitor.verdict.block"),
  }
  kimg = found["checkpoint.kimg"]
  assert (kimg["step"], kimg["old"], kimg["new"]) == (FIRST, 0.032, 0.048)
  assert written(run) == json.loads(json.dumps(dataclasses.asdict(spec)))
  scored = [
    r["step"] for r in lines(run, "metrics.jsonl") if "eval/fd_classifier" in r
  ]
  # At the end of the first life, too.
  assert scored == [FIRST, 12, 24]
  page = write_report(run).read_text()
  assert "checkpoint.kimg" in page
  # The next start finds nothing to tell.
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
      {"optim__g_lr": 2e-3, "global_batch_size": 16, "log__steps": 3},
      False,
      ["optim.g_lr.first: 0.001 there, 0.002 here", "8 there, 16", "--change"],
    ),
  ],
)
def test_what_is_refused_changes_nothing(run, settings, change, words):
  before = written(run)
  with pytest.raises(SpecError) as error:
    loop.train(spec_of(**settings), run, change=change)
  for word in words:
    assert word in str(error.value)
  assert "log.steps" not in str(error.value)
  assert written(run) == before
  assert not events(run, "setting_changed")


def test_rates_change_where_asked_and_moments_stay(run, programs):
  spec = spec_of(
    optim__g_lr=2e-3, optim__ema_half_life_kimg=None, total_kimg=0.08
  )
  reader = Reader()
  state = loop.train(
    spec, run, prepared=programs.prepared(spec, reader), change=True
  ).state
  # The step by hand, from the state that the first life has left.
  first = notes(run, spec_of(), FIRST)
  built = programs.prepared(spec).built
  by_hand = first.state
  for step in (9, 10):
    batch = built.abstract_batch._replace(images=reader.images[0, step])
    labels = np.zeros(batch.images.shape[:2], np.int32)
    del labels
  stream = open_stream(built)
  stream.set_state(first.data)
  for _ in (9, 10):
    by_hand, _ = built.step(by_hand, next(stream))
  stream.close()
  jax.tree.map(np.testing.assert_array_equal, state, by_hand)
  found = {e["setting"]: e for e in events(run, "setting_changed")}
  assert found["optim.ema_half_life_kimg"]["new"] is None
  assert "schedules go on" in found["optim.g_lr.first"]["consequence"]
