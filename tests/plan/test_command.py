"""Tests of the output and errors of `bigscale plan`."""

import importlib.util
import json

import pytest

from bigscale.cli.main import main
from bigscale.plan import make, topology
from bigscale.plan.goodput import forecast
from bigscale.plan.topology import GIB
from bigscale.spec import from_config
from tests.e2e import tiny

CONFIG = f"--config={tiny.__file__}"
VERSIONS = {"libtpu": "0"}

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU compiler, libtpu, is not installed",
)


def bigscale(*args):
  """Runs the command in this process."""
  return main(["bigscale", "plan", *args])


def refused(capsys, *args):
  assert bigscale(*args) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith("bigscale: ")
  assert "Traceback" not in captured.err
  return captured.err


@pytest.fixture
def kept(monkeypatch, tmp_path):
  """A cached plan, so the command does not compile."""
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  monkeypatch.setattr(make.compiler, "versions", lambda: VERSIONS)
  plan = {
    "topology": "v5e:1x1",
    "devices": 1,
    "mesh": {"data": 1, "fsdp": 1, "weights": "replicated"},
    "global_batch_size": 8,
    "model": "r3gan 8 px",
    "effort": "default",
    "fits": False,
    "hbm_bytes_per_device": 20 * GIB,
    "hbm_limit_bytes": 16 * GIB,
    "memory": {"state": GIB},
    "flops_per_step_per_device": None,
    "estimated_step_seconds": None,
    "estimated_mfu": None,
    "collectives": {},
    "parameters": {"g": 7000, "d": 8000},
    "compile_seconds": 1.0,
    "warnings": [],
    "advice": ["v5e:2x2 would fit (proportional estimate)"],
  }
  path = make.path_of(
    from_config(tiny.get_config()),
    topology.parse("v5e:1x1"),
    "default",
    VERSIONS,
  )
  assert make.write(path, plan)
  return plan


def test_a_plan_that_does_not_fit_exits_with_zero(kept, capsys):
  assert bigscale(CONFIG, "--topology=v5e:1x1") == 0
  out = capsys.readouterr().out
  assert "20.00 of 16.00 GiB" in out
  assert "- v5e:2x2 would fit" in out


@pytest.mark.parametrize("flag", ["--require-fit", "--require_fit"])
def test_require_fit(kept, capsys, flag):
  assert bigscale(CONFIG, "--topology=v5e:1x1", flag) == 2
  assert "does not fit" in capsys.readouterr().out


def test_json(kept, capsys):
  assert bigscale(CONFIG, "--topology=v5e:1x1", "--json") == 0
  assert json.loads(capsys.readouterr().out) == kept


def test_baseline(kept, capsys, tmp_path):
  path = tmp_path / "old.json"
  path.write_text(json.dumps(kept | {"hbm_bytes_per_device": 10 * GIB}))
  common = (CONFIG, "--topology=v5e:1x1", f"--baseline={path}")
  assert bigscale(*common) == 0
  assert "+100.0%" in capsys.readouterr().out
  assert bigscale(*common, "--json") == 0
  changes = json.loads(capsys.readouterr().out)["changes"]
  assert changes["hbm_bytes_per_device"]["change"] == 1
  path.write_text(json.dumps(kept | {"effort": "O1"}))
  assert "are not comparable" in refused(capsys, *common)


def test_refusals(capsys, monkeypatch):
  assert "--topology is missing" in refused(capsys, CONFIG)
  assert "--config is missing" in refused(capsys, "--topology=v5e:4x4")
  error = refused(capsys, CONFIG, "--topology=h100:8")
  assert "unknown topology 'h100:8'" in error
  assert "v5e:16x16" in error
  both = refused(capsys, CONFIG, "--topology=v5e:2x2,v5e:4x4")
  assert "add --sweep" in both
  assert "--effort" in refused(capsys, CONFIG, "--effort=O9")
  mode = refused(capsys, CONFIG, "--topology=v5e:2x2", "--mode=half")
  assert "--mode=half is unknown" in mode
  # 8 images on 16 devices.
  batch = refused(
    capsys, CONFIG, "--topology=v5e:4x4", "--mode=replicated", "--no_cache"
  )
  assert "not divisible by 16 devices" in batch
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  missing = refused(capsys, CONFIG, "--topology=v5e:2x2")
  assert "pip install 'bigscale[tpu-plan]'" in missing


def test_help(capsys):
  assert bigscale("--help") == 0
  out = capsys.readouterr().out
  assert "--topology=v5e:16x16" in out
  assert "--baseline" in out


def test_goodput(kept, capsys, monkeypatch):
  monkeypatch.setattr(forecast, "_FAULTS", 30)
  arguments = (CONFIG, "--topology=v5e:1x1", "--goodput")
  # The plan does not fit, so it has no time of a step.
  assert "--assume=step_seconds=NUMBER" in refused(capsys, *arguments)
  assume = "--assume=step_seconds=0.1,checkpoint_seconds=600"
  assert bigscale(*arguments, assume) == 0
  out = capsys.readouterr().out
  assert "\n4,096  12.2 h" in out
  assert "checkpoint_seconds 600" in out
  assert bigscale(*arguments, assume, "--json") == 0
  found = json.loads(capsys.readouterr().out)["goodput"]
  assert [one["chips"] for one in found["machines"]] == [1, 256, 1024, 4096]


def test_goodput_flags_are_checked_before_planning(capsys):
  assume = "--assume=step_seconds=1"
  assert "add --goodput" in refused(capsys, CONFIG, assume)
  message = refused(capsys, CONFIG, "--goodput", "--assume=x=1")
  assert "they are step_seconds, state_gib" in message
  two = "--topology=v5e:1x1,v5e:2x2"
  assert "omit --sweep" in refused(capsys, CONFIG, two, "--sweep", "--goodput")
