"""Resuming with moved or changed data, without compiling anything."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from bigscale.cli import common, inspection
from bigscale.cli.main import main
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train import folder as folders
from bigscale.train import loop, sealed
from bigscale.train.build import build
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.reals import open_stream
from tests.e2e import tiny

STEPS = 24


def photos(folder, seed=0, classes=10):
  """Writes BMP images of equal file size in several classes."""
  random = np.random.default_rng(seed)
  for label in range(classes):
    place = folder / f"class{label}"
    place.mkdir(parents=True, exist_ok=True)
    for number in range(8):
      pixels = random.integers(0, 256, (8, 8), np.uint8)
      Image.fromarray(pixels).save(place / f"{number}.bmp")
  return folder


def get_config(source):
  """The config for the command line."""
  return config_of(source)


def config_of(*sources):
  config = tiny.get_config()
  config.data = {"source": str(sources[0]), "flip": True}
  if len(sources) > 1:
    mixture = [{"source": str(s), "share": 0.5} for s in sources]
    config.data = {"mixture": mixture, "mixture_labels": "joint"}
    config.model.num_classes = 10 * len(sources)
  return config


@pytest.fixture(scope="module")
def zeros():
  """Returns a function that builds an all-zero state."""
  made = {}

  def state(built):
    key = built.spec.model
    if key not in made:
      made[key] = jax.tree.map(
        lambda leaf: jax.device_put(
          np.zeros(leaf.shape, leaf.dtype), leaf.sharding
        ),
        built.abstract_state,
      )
    return made[key]

  return state


def finish(config, path, state, change=lambda data: data):
  """Writes the folder of a complete run."""
  spec = from_config(config)
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  stream = open_stream(built)
  folder = folders.create(path, spec, [])
  checkpoints = Checkpoints(folder.path, spec.checkpoint)
  checkpoints.save(STEPS, state(built), change(stream.get_state()), {})
  checkpoints.close()
  stream.close()
  return path


@pytest.fixture
def cached(tmp_path_factory, monkeypatch):
  """Uses one cache, so that a classifier is trained once per data set."""
  place = tmp_path_factory.getbasetemp() / "cache_of_moved_data"
  monkeypatch.setenv("BIGSCALE_CACHE", str(place))


@pytest.fixture
def run(tmp_path, zeros, cached):
  config = config_of(photos(tmp_path / "photos"))
  return finish(config, tmp_path / "run", zeros)


@pytest.fixture
def resumed(run, tmp_path, capsys):
  """Starts the run again and returns the exit code and its messages."""

  def again(*options, source=tmp_path / "photos"):
    common = [f"--config={__file__}:{source}", f"--workdir={run}"]
    code = main(["bigscale", "train", *common, *options])
    return code, capsys.readouterr().err

  return again


def spec_in(run):
  return json.loads((run / "spec.json").read_text())["spec"]


def events(run, kind):
  path = run / "events.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  return [e for e in map(json.loads, lines) if e["event"] == kind]


def test_the_same_data_can_be_resumed(resumed, run):
  code, said = resumed()
  assert code == 0, said
  assert not events(run, "data_moved")


def test_a_changed_image_is_rejected_and_named(resumed, run, tmp_path):
  path = tmp_path / "photos" / "class3" / "2.bmp"
  times = os.stat(path)
  Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
  os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
  before = spec_in(run)
  code, said = resumed()
  assert code == 2
  for words in ("the data changed", f"{tmp_path}/photos", "folder/train@"):
    assert words in said
  assert "Traceback" not in said
  assert spec_in(run) == before
  assert not events(run, "start")


def test_a_repaired_image_is_accepted_with_the_flag(resumed, run, tmp_path):
  path = tmp_path / "photos" / "class3" / "2.bmp"
  Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
  code, said = resumed()
  assert code == 2
  assert "--accept_data" in said
  code, said = resumed("--accept_data")
  assert code == 0, said
  (accepted,) = events(run, "data_accepted")
  assert accepted["old"] != accepted["new"]
  assert accepted["step"] == STEPS
  # Without a record, the order of all records would change.
  path.unlink()
  code, said = resumed("--accept_data")
  assert code == 2
  assert "their order would change" in said


def test_settings_change_on_the_command_line(resumed, run):
  code, said = resumed("--config.data.max_bad_fraction=0.5")
  assert code == 0, said
  (change,) = events(run, "setting_changed")
  assert change["setting"] == "data.max_bad_fraction"
  assert (change["old"], change["new"], change["step"]) == (0.001, 0.5, STEPS)
  assert spec_in(run)["data"]["max_bad_fraction"] == 0.5
  both = ("--config.data.max_bad_fraction=0.5", "--config.optim.g_lr=2e-3")
  code, said = resumed(*both)
  assert code == 2
  for words in ("optim.g_lr.first: 0.001 there, 0.002 here", "--change"):
    assert words in said
  assert "Traceback" not in said
  code, said = resumed(*both, "--change")
  assert code == 0, said
  assert spec_in(run)["optim"]["g_lr"] == {
    "first": 2e-3,
    "last": 2e-3,
    "kimg": 0.0,
  }
  code, said = resumed(*both, "--change", "--config.seed=1")
  assert code == 2
  assert "seed: 0 there, 1 here" in said


def test_moved_data_are_the_same_data(resumed, run, tmp_path):
  before = spec_in(run)
  os.rename(tmp_path / "photos", tmp_path / "elsewhere")
  code, said = resumed()
  assert code == 2
  assert "photos" in said
  assert "--data=PATH" in said
  moved = str(tmp_path / "elsewhere")
  for code, said in (
    resumed(f"--data={moved}"),
    resumed(source=moved),
    resumed(f"--data={moved}", source=moved),
  ):
    assert code == 0, said
  assert spec_in(run) == before
  moves = [event["places"] for event in events(run, "data_moved")]
  assert moves == [[moved]] * 3


def test_other_data_at_another_location_are_rejected(resumed, run, tmp_path):
  photos(tmp_path / "other", seed=1)
  before = spec_in(run)
  other = tmp_path / "other"
  for code, said in (resumed(f"--data={other}"), resumed(source=other)):
    assert code == 2
    assert "the data changed" in said
    assert str(other) in said
    assert spec_in(run) == before
  for options in (["--data="], ["--data=a", "--data=b"]):
    code, said = resumed(*options)
    assert code == 2
    assert "--data" in said


def test_a_run_without_a_checkpoint_keeps_its_source(run, resumed, tmp_path):
  shutil.rmtree(run / "checkpoints")
  photos(tmp_path / "other", seed=1)
  code, said = resumed(source=tmp_path / "other")
  assert code == 2
  assert "contains a different run" in said
  assert "data.source" in said


def test_a_checkpoint_of_an_older_version_is_rejected_with_a_message(
  tmp_path, zeros, resumed, run
):
  def older(data):
    del data["source_form"]
    return data | {"source": "photos/train@0123456789abcdef"}

  shutil.rmtree(run)
  finish(config_of(tmp_path / "photos"), run, zeros, older)
  code, said = resumed()
  assert code == 2
  for words in ("an earlier version", "--init_from", f"{tmp_path}/photos"):
    assert words in said


@pytest.fixture
def mixed(tmp_path, zeros, cached):
  config = config_of(photos(tmp_path / "a"), photos(tmp_path / "b", 1))
  run = finish(config, tmp_path / "run", zeros)
  os.rename(tmp_path / "b", tmp_path / "moved")
  return config, run


def test_sources_of_a_mixture_can_move_separately(mixed, tmp_path):
  config, run = mixed
  before = spec_in(run)
  a, b, moved = (str(tmp_path / name) for name in ("a", "b", "moved"))
  for places in ([f"{b}={moved}"], [a, moved]):
    loop.train(from_config(config), run, data=places)
    assert events(run, "data_moved").pop()["places"] == [a, moved]
    assert spec_in(run) == before
  with pytest.raises(SpecError, match="the data changed"):
    loop.train(from_config(config), run, data=[moved, a])
  with pytest.raises(SpecError, match="one --data=PATH for each"):
    loop.train(from_config(config), run, data=[moved])
  spec = from_config(config)
  parts = spec.data.at([f"{b}={moved}"]).mixture
  assert [part.name for part in parts] == [None, b]


def test_a_mixture_recorded_without_a_new_setting_is_resumed(mixed, tmp_path):
  """Its spec.json has no padding and no names."""
  config, run = mixed
  os.rename(tmp_path / "moved", tmp_path / "b")
  path = run / "spec.json"
  tree = json.loads(path.read_text())
  for part in tree["spec"]["data"]["mixture"]:
    del part["padding"], part["name"]
  del tree["spec"]["data"]["padding"], tree[sealed.KEY]
  path.write_text(json.dumps(tree))
  loop.train(from_config(config), run)
  config.data.mixture = [
    dict(part) | {"share": share}
    for part, share in zip(config.data.mixture, (0.25, 0.75), strict=True)
  ]
  with pytest.raises(SpecError, match=r"data.mixture\[0\].share: 0.5 there"):
    loop.train(from_config(config), run)


def test_scores_use_the_data_of_the_run(run, tmp_path, capsys, caplog):
  def evaluate(*options):
    code = main(["bigscale", "evaluate", f"--workdir={run}", *options])
    return code, capsys.readouterr().err

  photos(tmp_path / "other", seed=1)
  code, said = evaluate(f"--data={tmp_path}/other")
  assert code == 2
  assert "the data changed" in said
  os.rename(tmp_path / "photos", tmp_path / "moved")
  code, said = evaluate()
  assert code == 2
  assert "--data=PATH" in said
  spec = from_config(config_of(tmp_path / "moved"))
  inspection.check_data(spec, common.load(run, None).stream)
  assert not caplog.text
  stream = {"source": "photos/train@0123456789abcdef"}
  # An identity of an earlier version cannot be verified, so it only warns.
  inspection.check_data(spec, stream)
  assert "an earlier version" in caplog.text
  with pytest.raises(SpecError, match="the data changed"):
    inspection.check_data(spec, stream | {"source_form": 2})
  inspection.check_data(spec, {})
