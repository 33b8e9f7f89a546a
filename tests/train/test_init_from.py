"""A new run takes the weights of another run, and nothing else."""

import json

import jax
import numpy as np
import pytest

from bigscale.interop import assemble, r3gan
from bigscale.metrics.evaluator import Scored
from bigscale.ops.spectral import flatten
from bigscale.spec import SpecError, from_config
from bigscale.train import init_from, loop, scoring
from tests.e2e import tiny
from tests.interop import synthetic


def spec_of(**model):
  """Returns a spec with two steps."""
  config = tiny.smallest(spectra_interval=0, **model)
  config.total_kimg = 0.016
  config.log.tensorboard = False
  return from_config(config)


class _NoEvaluation:
  """Scores nothing, so these tests train no classifier."""

  def __init__(self, *arguments):
    del arguments

  def run(self, step, ema):
    del step, ema
    return Scored({"fd_classifier": 1.0})


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
  """Imports a run, which has only G, at step 0."""
  folder = tmp_path_factory.mktemp("imported")
  spec = spec_of()
  leaves = synthetic.leaves(spec.model)
  tensors = synthetic.theirs(r3gan.g_sources(spec.model), leaves)
  np.savez(folder / "g.npz", **tensors)
  made = assemble.read_run("r3gan", folder / "g.npz", spec=spec)
  assemble.write_run(folder / "run", made)
  return folder / "run", made


@pytest.fixture(scope="module")
def trained(imported):
  """Trains the imported run for two steps."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scoring, "Evaluation", _NoEvaluation)
    return loop.train(spec_of(), imported[0])


@pytest.fixture
def first_state(monkeypatch):
  """Runs `train(...)` up to its first step; returns (state, steps done)."""
  monkeypatch.setattr(
    loop._Run,
    "until_the_end",
    lambda self, state, first, accept_data: (state, first),
  )
  return loop.train


def assert_same(ours, theirs):
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_array_equal(a, b)


def is_zero(tree) -> bool:
  return not any(map(np.any, jax.tree.leaves(tree)))


def test_an_imported_run_can_be_trained(imported, trained):
  _, made = imported
  assert int(trained.state.step) == 2
  before = flatten(made.state.ema.params)["basis"]
  after = flatten(trained.state.ema.params)["basis"]
  assert 0 < np.abs(before - after).max() < 0.1
  assert not is_zero(trained.state.g.optimizer)


def test_only_weights_are_taken(trained, tmp_path, first_state):
  new, source = tmp_path / "new", trained.folder.path
  state, first = first_state(spec_of(), new, init_from=source)
  assert (int(state.step), first) == (0, 0)
  for name in ("g", "d"):
    ours, theirs = getattr(state, name), getattr(trained.state, name)
    assert_same(ours[:3], theirs[:3])
    assert is_zero(ours.optimizer)
  assert_same(state.ema, trained.state.ema)
  events = (new / "events.jsonl").read_text().splitlines()
  (event,) = [e for e in map(json.loads, events) if e["event"] == "init_from"]
  assert (event["step"], event["of_step"]) == (0, 2)
  assert event["run"] == str(source)

  # The new run has its own checkpoint, so the other run may be missing.
  again, _ = first_state(spec_of(), new, init_from=tmp_path / "gone")
  assert_same(again, state)


def test_differences_between_models_are_named(imported, tmp_path):
  new = tmp_path / "new"
  with pytest.raises(SpecError) as caught:
    loop.train(spec_of(latent_dim=9), new, init_from=imported[0])
  assert "model.latent_dim: 8 in the other run, 9 in this one" in str(
    caught.value
  )
  assert "model.widths" not in str(caught.value)
  assert not new.exists(), "a rejected run must not create its folder"


def test_folders_without_a_checkpoint(imported, tmp_path):
  assert not init_from.has_checkpoint(tmp_path)
  assert init_from.has_checkpoint(imported[0])
  (tmp_path / "checkpoints").mkdir()
  (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
  assert not init_from.has_checkpoint(tmp_path)


def test_an_untrained_discriminator_is_reported(imported):
  notes = imported[1].notes
  assert notes["discriminator"].startswith("initialized with seed 0")
  assert notes["model"] == "from --config"
