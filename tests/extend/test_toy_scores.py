"""Scores and a feature network outside the package, named in a config."""

import dataclasses
import json
import linecache
import math
import pathlib

import jax
import numpy as np
import pytest

from bigscale.cli.main import main
from bigscale.metrics import looking, share
from bigscale.metrics.evaluate import make_evaluator
from bigscale.metrics.features import open_network
from bigscale.metrics.looking import Asked
from bigscale.parallel.mesh import make_mesh
from bigscale.report.missing import missing_scores
from bigscale.report.read import read_run
from bigscale.scaling import collect, runs, sweep
from bigscale.spec import (
  CheckpointSpec,
  DataSpec,
  EvalSpec,
  MeshSpec,
  SpecError,
  from_config,
)
from bigscale.spec.scores import Score, identity
from bigscale.train import loop
from bigscale.train.best import Ranking
from tests.e2e import tiny
from tests.scaling import test_sweep

pytest_plugins = ["tests.metrics.conftest"]

SHARPNESS = "toy_scores:Sharpness"
SPREAD = "toy_scores:Spread/toy_network:Random"
NEAREST = "toy_scores:Nearest/toy_network:Random"
DISTANCE = "fd/toy_network:Random"
SCORES = (SPREAD, SHARPNESS, NEAREST, DISTANCE)
COLUMNS = ("spread_random", "sharpness", "nearest_random", "fd_random")
BROKEN = """
from bigscale.spec import FeatureNetwork, ScoreKind

def make(**changes):
  return ScoreKind(**{
    "name": "mine", "columns": {"mine": "more"}, "over": "pixels",
    "compute": lambda samples: {"mine": 1.0}, **changes})
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  """`module(code)` writes a user's module and returns its name."""
  monkeypatch.syspath_prepend(tmp_path)
  names = []

  def write(code):
    names.append(f"user_{tmp_path.name}_{len(names)}".replace("-", "_"))
    (tmp_path / f"{names[-1]}.py").write_text(BROKEN + code)
    return names[-1]

  return write


def evaluator(textures, cache, scores=SCORES, **changes):
  settings = {"resolution": 8, "channels": 1, "num_classes": 3} | changes
  return make_evaluator(
    DataSpec(source=textures),
    num_samples=60,
    scores=scores,
    cache_dir=str(cache),
    **settings,
  )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
  ("heading", "toy"),
  [
    ("A score", "toy_scores.py"),
    ("A feature network", "toy_network.py"),
  ],
)
def test_docs_contain_the_toy(heading, toy):
  here = pathlib.Path(__file__).parent
  text = (here.parents[1] / "docs" / "how-to" / "extend.md").read_text()
  section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
  recipe = section.partition("```python\n")[2].partition("```")[0]
  assert len(recipe.splitlines()) > 10
  assert recipe in (here / toy).read_text()


def test_columns_have_the_short_names_of_the_rows():
  spec = EvalSpec(scores=SCORES)
  assert spec.columns == COLUMNS
  assert spec.rises("sharpness")
  assert not spec.rises("nearest_random")
  assert Score.parse("toy_scores:Spread/classifier").name == "spread_classifier"
  assert Score.parse("kid/inception") == Score.parse("kid_inception")


def test_scores_have_floors(textures, make_images, cache):
  one = evaluator(textures, cache)
  images, labels = make_images(60, seed=5)
  scores = one.score([(images, labels)])
  assert scores.keys() == set(COLUMNS)
  floors = {name: one.reference[f"{name}_floor"] for name in COLUMNS}
  for name in COLUMNS:
    assert math.isfinite(floors[name])
  assert scores["sharpness"] == pytest.approx(floors["sharpness"], rel=0.2)
  assert scores["spread_random"] == pytest.approx(1, abs=0.3)
  grey = one.score([(np.full_like(images, 128), labels)])
  assert grey["sharpness"] == 0
  assert grey["spread_random"] < 0.01
  assert grey["fd_random"] > 5 * scores["fd_random"]
  protocol = json.loads(json.dumps(one.reference["protocol"]))
  assert protocol["networks"]["random"]["fingerprint"]
  assert protocol["sharpness"]["within"] == "class"
  # The second time, the result comes from the cache.
  assert evaluator(textures, cache).reference == one.reference


def test_a_failing_score_does_not_affect_others(
  textures, make_images, cache, module
):
  name = module(
    "Nan = make(compute=lambda samples: {'mine': float('nan')})\n"
    "Bug = make(name='bug', compute=lambda samples: 1 / 0)\n"
    "Less = make(name='less', compute=lambda samples: {'other': 1.0})\n"
    "Text = make(name='text', compute=lambda samples: {'mine': 'high'})\n"
    "Flag = make(name='flag', compute=lambda samples: {'mine': True})\n"
  )
  bad = [f"{name}:{kind}" for kind in ("Bug", "Less")]
  with pytest.raises(SpecError, match="both log the column 'mine'"):
    EvalSpec(scores=(*bad, f"{name}:Nan"))
  for kind, words in (
    ("Nan", "mine returned mine=nan, which is not finite"),
    ("Bug", "bug failed with ZeroDivisionError: division by zero; fix user_"),
    ("Less", "less must return a number for its column 'mine'"),
    (
      "Text",
      "text must return a number for its column 'mine', but returned {'",
    ),
    ("Flag", "flag must return a number for its column 'mine'"),
  ):
    one = evaluator(textures, cache, (f"{name}:{kind}", SHARPNESS))
    scored = one.compare(look(one, make_images(60, seed=5)))
    assert scored.scores.keys() == {"sharpness"}
    (why,) = scored.failed.values()
    assert words in why


def look(evaluator, samples):
  return looking.look(evaluator.asked, [samples])


@pytest.mark.parametrize(
  ("code", "score", "words"),
  [
    ("X = make(columns={'mine': 'up'})", "{}:X", "direction 'up'; use 'more'"),
    ("X = make(columns={})", "{}:X", "does not say which way is better"),
    ("X = make(name='fd')", "{}:X", "has the name 'fd'.*another name"),
    ("X = make()", "{}:X/classifier", "over pixels, but names the network"),
    ("X = make()", "{}:Y", "does not define 'Y'; it defines .*make, X"),
    ("X = 3", "{}:X", "has the type int; make it a bigscale.spec.ScoreKind"),
    ("import nowhere", "{}:X", "ModuleNotFoundError.*; install nowhere, which"),
    ("X = ", "{}:X", "failed with SyntaxError.*; fix the module"),
    ("import sys; sys.exit(3)", "{}:X", "failed with SystemExit: 3; fix"),
    ("X = make()", "fd/{}:X", "ScoreKind; make it a .*FeatureNetwork"),
    (
      "X = FeatureNetwork(name='classifier', weights=make, make=make)",
      "fd/{}:X",
      "has the name 'classifier'.*another name",
    ),
    (
      "X = FeatureNetwork(name='x', weights=None, make=make)",
      "fd/{}:X",
      "weights=None; it must be a function",
    ),
  ],
)
def test_invalid_rows_are_refused(module, code, score, words):
  with pytest.raises(SpecError, match=f"(?s){words}"):
    EvalSpec(scores=(score.format(module(code)),))


def test_two_networks_with_one_name_are_refused(module):
  name = module("X = FeatureNetwork(name='random', weights=make, make=make)")
  scores = (DISTANCE, f"kid/{name}:X")
  with pytest.raises(SpecError, match="both log the network 'random'"):
    EvalSpec(scores=scores)


def test_incomplete_networks_are_refused(module):
  code = "X = FeatureNetwork(name='x', weights=str, make=lambda w, m: {})"
  with pytest.raises(SpecError, match=r"has no name and no dimension.* embed"):
    open_network(f"{module(code)}:X")


def test_requirements_are_checked_before_sampling(textures, cache):
  scores = ("is/toy_network:Random", DISTANCE, "intra_fd/toy_network:Random")
  with pytest.raises(SpecError) as error:
    evaluator(textures, cache, scores, num_classes=0)
  for words in (
    "is_random: is_random needs 1 classes or more",
    "intra_fd_random: intra_fd_random compares within",
  ):
    assert words in str(error.value)


def test_the_best_checkpoint_needs_a_finite_score():
  spec = from_config(tiny.get_config())
  evaluate = EvalSpec(scores=SCORES)
  # The first column has no direction.
  measured = dataclasses.replace(spec, evaluate=evaluate)
  assert measured.best_score == "sharpness"
  best = CheckpointSpec(best="spread_random")
  with pytest.raises(SpecError, match="neither better when higher nor"):
    dataclasses.replace(measured, checkpoint=best)
  with pytest.raises(SpecError, match="can rank checkpoints"):
    dataclasses.replace(spec, evaluate=EvalSpec(scores=(SPREAD,)))
  ranking = Ranking(1, "sharpness", SCORES)
  values = (math.nan, 0.2, 0.7, math.inf, -math.inf, 0.1)
  for step, value in enumerate(values):
    ranking.put(step, {"sharpness": value})
  assert ranking.best(range(len(values))) == [2]


@pytest.mark.parametrize(
  ("values", "best", "collapsed"),
  [
    ((0.5, 0.7, 0.6), 0.7, None),
    ((0.7, 0.3, 0.2), 0.7, 16),
    # A fraction of a score that can be negative has no meaning.
    ((-5.0, 0.5, -1.0), 0.5, None),
  ],
)
def test_a_sweep_uses_the_direction(tmp_path, values, best, collapsed):
  (run,) = sweep.expand(test_sweep.settings(a={"seed": [4]}))
  folder = runs.folder_of(tmp_path, run)
  folder.mkdir(parents=True)
  test_sweep.say(folder, "done", 24)
  spec = dataclasses.replace(
    from_config(tiny.get_config()), evaluate=EvalSpec(scores=(SHARPNESS,))
  )
  record = test_sweep.recorded([], spec=spec)
  for step, value in zip((8, 16, 24), values, strict=True):
    record.rows.append({"step": step, "eval/sharpness": value})
  row = collect.row_of(tmp_path, run, record)
  assert row["best_sharpness"] == best
  assert row["collapsed_step"] == collapsed


def test_other_processes_build_the_same_network():
  network = open_network("toy_network:Random")
  asked = Asked((network,), (("fd",),), 10, 2, features=("toy_network:Random",))
  (told,) = json.loads(json.dumps(share._describe(asked)))["networks"]
  mesh = make_mesh(MeshSpec(data=1), jax.devices()[:1])
  again = share._receive(told, network.variables, mesh)
  assert again.fingerprint == network.fingerprint
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
  np.testing.assert_array_equal(
    again.embed(images).features, network.embed(images).features
  )


def test_a_changed_file_is_another_score(module, tmp_path):
  name = module("X = make()")
  before = identity(f"{name}:X")
  assert identity("fd") == "fd"
  (tmp_path / f"{name}.py").write_text(BROKEN + "X = make()\n# Changed.\n")
  linecache.clearcache()
  assert identity(f"{name}:X") != before


def test_training_with_user_scores(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path / "cache"))
  config = tiny.get_config().unlock()
  config.model.update(
    resolution=4, widths=(4,), blocks=(1,), cardinality=(2,), spectra_interval=0
  )
  config.total_kimg = 6 * 8 / 1000
  config.log = {"steps": 1, "num_samples": 4, "tensorboard": False}
  config.evaluate = {
    "kimg": 0.016,
    "num_samples": 20,
    "batch_size": 20,
    "num_reals": 500,
    "scores": SCORES,
  }
  config.checkpoint = {"keep": 1, "best": "sharpness"}
  config.monitor = {"action": "off"}
  run = tmp_path / "run"
  loop.train(from_config(config), str(run))
  rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
  scored = {row["step"]: row for row in rows if "eval/sharpness" in row}
  assert set(scored) == {2, 4, 6}
  for row in scored.values():
    assert all(f"eval/{name}" in row for name in COLUMNS)
  # The last checkpoint had no score yet when it was saved.
  sharpest = max((2, 4), key=lambda step: scored[step]["eval/sharpness"])
  kept = {int(path.name) for path in (run / "checkpoints").iterdir()}
  assert kept == {sharpest, 6}
  assert missing_scores(read_run(run)) == []
  flags = [f"--workdir={run}", f"--metrics={SHARPNESS},{DISTANCE}"]
  assert main(["bigscale", "evaluate", *flags]) == 0
  said = json.loads(capsys.readouterr().out)
  assert said["sharpness"] == pytest.approx(scored[6]["eval/sharpness"])
  assert said["reference"]["fd_random_floor"] >= 0
  assert main(["bigscale", "report", f"--workdir={run}"]) == 0
  assert "sharpness" in (run / "report.html").read_text()
