"""Tests of advice, tables, comparisons and the cache of plans."""

import copy
import json

import pytest

from bigscale.plan import advice, make, memory, report
from bigscale.plan.sweep import sweep, with_mode
from bigscale.plan.topology import GIB, parse
from bigscale.spec import SpecError, from_config
from tests.e2e import tiny

POD = parse("v5e:16x16")


def spec_of(**changes):
  config = tiny.get_config()
  config.global_batch_size = 2048
  config.mesh = {"data": -1}
  for path, value in changes.items():
    group, name = path.split("__")
    config[group][name] = value
  return from_config(config)


@pytest.fixture
def plan():
  """A plan with numbers similar to BigGAN-128 on a v5e pod."""
  shares = {
    "convolution": 0.45,
    "spectral_norm": 0.2,
    "optimizer": 0.08,
    "orthogonal": 0.0,
    "augmentation": 0.0,
    "elementwise": 0.1,
    "relayout": 0.12,
    "other": 0.0,
    "communication": 0.05,
  }
  return {
    "topology": "v5e:16x16",
    "devices": 256,
    "mesh": {"data": 256, "fsdp": 1, "weights": "replicated"},
    "global_batch_size": 2048,
    "model": "biggan 128 px",
    "effort": "default",
    "precision": "highest",
    "float32_products": {},
    "fits": True,
    "hbm_bytes_per_device": int(2.6 * GIB),
    "hbm_limit_bytes": int(15.75 * GIB),
    "memory": {"state": int(2.04 * GIB)},
    "flops_per_step_per_device": 3.9e12,
    "estimated_step_seconds": 0.1,
    "estimated_mfu": 0.2,
    "cycles_seconds": 0.095,
    "collective_seconds": {"sync": 0.004, "async": 0.003, "exposed": 0.001},
    "collectives": {
      "all-reduce": {
        "count": 52,
        "bytes": 493_000_000,
        "asynchronous": 0,
        "seconds": 0.004,
      }
    },
    "longest_collectives": [
      {
        "kind": "all-reduce",
        "dtype": "bf16",
        "group_size": 256,
        "asynchronous": False,
        "where": "d_update/psum",
        "count": 2,
        "bytes": 352_000_000,
        "seconds": 0.0039,
      }
    ],
    "categories": {},
    "phases": {"d_update": 0.06, "g_update": 0.035},
    "breakdown": shares,
    "parameters": {"g": 70_400_000, "d": 88_000_000},
    "images_per_second": 40960.0,
    "compile_seconds": 366.0,
    "warnings": ["something was assumed"],
    "advice": ["something to do"],
    "compiler_options": {"xla_a": True, "xla_b": 3},
  }


def test_advice_names_the_largest_share_and_what_to_split(plan):
  said = advice.advise(plan, spec_of(), POD)
  assert said[0] == "convolution takes the largest share, 45% of the step"
  assert "spectral norm takes 20%" in said[1]
  assert "mesh.weights='zero' with mesh.fsdp=16" in said[1]
  assert "Adam and the moving average takes 8%" in said[2]
  # 16 x 0.56 GiB of activations, and 2.04 GiB of state.
  assert said[3].startswith("v5e:4x4 is the smallest slice that would fit")


def test_split_runs_get_no_advice_to_split(plan):
  spec = spec_of(mesh__weights="zero", mesh__fsdp=16)
  said = " ".join(advice.advise(plan, spec, POD))
  assert "mesh.weights" not in said


def test_advice_on_latency(plan):
  plan["breakdown"]["communication"] = 0.5
  plan["collectives"]["all-reduce"] |= {"count": 1000, "bytes": 10_000_000}
  said = advice.advise(plan, spec_of(), POD)
  assert any("1000 x all-reduce of 0.01 MB" in one for one in said)


def test_advice_to_fit(plan):
  plan |= {
    "fits": False,
    "hbm_bytes_per_device": 20 * GIB,
    "hbm_limit_bytes": 16 * GIB,
    "memory": {"state": 12 * GIB},
  }
  said = advice.advise(plan, spec_of(), POD)
  assert said[0] == (
    "the run does not fit: each device needs 20.00 GiB but has 16.00 GiB, "
    "4.00 GiB too little"
  )
  # 12 / 2 + 8 <= 0.9 x 16 < 12 + 8 / 2.
  assert "mesh.fsdp=2 would split the 12.00 GiB" in said[1]
  assert said[2] == "optim.microbatches=4 would fit (proportional estimate)"
  assert said[-1] == "the same number of v5p or v6e devices has enough memory"
  plan["hbm_bytes_per_device"] = 200 * GIB
  plan["memory"]["state"] = 100 * GIB
  assert "no single change" in advice.advise(plan, spec_of(), POD)[-1]


@pytest.mark.parametrize(
  ("d_steps", "at_once", "said"), [(2, True, 1), (1, True, 0), (2, False, 0)]
)
def test_advice_to_generate_fakes_separately(plan, d_steps, at_once, said):
  plan |= {"fits": False, "hbm_bytes_per_device": 20 * GIB}
  spec = spec_of(optim__d_steps=d_steps, optim__fakes_at_once=at_once)
  advised = advice.advise(plan, spec, POD)
  found = [one for one in advised if "optim.fakes_at_once=False" in one]
  assert len(found) == said
  assert all(
    "passes of 8 images per device instead of 16" in one for one in found
  )


@pytest.mark.parametrize(
  ("message", "needed", "available"),
  [
    (
      "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, "
      "the total memory required for HLO temporaries (32.00G) exceeds "
      "available HBM (15.75G). HLO module: jit_step.",
      32 * GIB,
      int(15.75 * GIB),
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.12G "
      "of 512.0M hbm. Exceeded hbm capacity by 1.64G.",
      int(17.12 * GIB),
      GIB // 2,
    ),
  ],
)
def test_out_of_memory_messages_are_parsed(message, needed, available):
  assert memory.of_refusal(message) == (needed, available)
  assert memory.of_refusal(message.replace("RESOURCE", "")) is None


def test_text_of_a_plan(plan):
  text = report.text(plan)
  assert "2.60 of 15.75 GiB per device" in text
  assert "100.00 ms = 95.00 cycles + 4.00 synchronous" in text
  assert "collectives + 1.00 exposed of 3.00 asynchronous" in text
  assert "spectral_norm" in text
  assert "20.0%  20.00 ms" in text
  assert "52 x, 493 MB, 4.00 ms, 52 of them synchronous" in text
  assert "2 x, 352 MB, 3.90 ms over 256 at d_update/psum" in text
  assert "- something to do" in text
  assert "xla_a=True\n" in text
  # Shares of zero are not listed.
  assert "orthogonal" not in text


def test_text_of_a_plan_that_does_not_fit(plan):
  plan |= {
    "fits": False,
    "estimated_step_seconds": None,
    "hbm_bytes_per_device": 20 * GIB,
  }
  text = report.text(plan)
  assert "20.00 of 15.75 GiB" in text
  assert "does not fit" in text
  assert "\nstep" not in text


def test_table_of_several_plans(plan):
  failed = {
    "topology": "v5e:2x2",
    "mesh": {"weights": "zero", "fsdp": 16},
    "error": "mesh.fsdp=16 needs more than the 4 devices",
  }
  head, row, error = report.table([plan, failed]).splitlines()
  assert head.split()[0] == "topology"
  assert row.split() == [
    "v5e:16x16", "replicated", "1", "2.60", "yes", "100.00", "95.00", "4.00",
    "1.00", "20.0%", "40960",
  ]  # fmt: skip
  assert error.endswith("needs more than the 4 devices")


def test_changes_since_a_baseline(plan, tmp_path):
  old = copy.deepcopy(plan)
  old["estimated_step_seconds"] = 0.08
  old["collectives"] = {}
  path = tmp_path / "plan.json"
  path.write_text(json.dumps(old))
  changes = report.compare(plan, report.load(str(path)))
  assert changes["estimated_step_seconds"]["change"] == pytest.approx(0.25)
  assert changes["estimated_mfu"]["change"] == 0
  # A change from zero has no ratio, but is listed.
  assert changes["collectives.all-reduce.count"] == {
    "old": 0,
    "new": 52,
    "change": None,
  }
  text = report.comparison_text(changes)
  assert "+25.0%" in text


@pytest.mark.parametrize(
  ("key", "value"), [("effort", "O1"), ("topology", "v5e:8x8")]
)
def test_plans_that_are_not_comparable_are_refused(plan, key, value):
  with pytest.raises(SpecError, match=f"baseline has {key} '{value}'"):
    report.compare(plan, plan | {key: value})


def test_files_without_a_plan_are_refused(tmp_path):
  with pytest.raises(SpecError, match="cannot be read"):
    report.load(str(tmp_path / "none.json"))
  path = tmp_path / "other.json"
  path.write_text("[1]")
  with pytest.raises(SpecError, match="is not a plan"):
    report.load(str(path))


def test_cache_paths_differ_by_everything_that_determines_a_plan(
  monkeypatch, tmp_path
):
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  versions = {"jax": "1"}
  base = make.path_of(spec_of(), POD, "O1", versions)
  assert base.parent == tmp_path / "plans"
  assert base == make.path_of(spec_of(), POD, "O1", {"jax": "1"})
  others = {
    make.path_of(spec_of(mesh__fsdp=2), POD, "O1", versions),
    make.path_of(spec_of(), parse("2xv5e:16x16"), "O1", versions),
    make.path_of(spec_of(), POD, "default", versions),
    make.path_of(spec_of(), POD, "O1", {"jax": "2"}),
  }
  monkeypatch.setattr(make.compiler, "sources", lambda: "other code")
  others.add(make.path_of(spec_of(), POD, "O1", versions))
  assert len(others - {base}) == 5


def test_unreadable_cache_files_are_ignored(
  monkeypatch, tmp_path, plan, caplog
):
  path = tmp_path / "plans" / "one.json"
  assert make.read(path) is None
  assert make.write(path, plan)
  assert make.read(path) == plan
  assert not list(path.parent.glob("*.partial"))
  path.write_text("{")
  assert make.read(path) is None
  assert "planning again" in caplog.text
  blocked = tmp_path / "file"
  blocked.write_text("")
  assert not make.write(blocked / "plans" / "one.json", plan)
  assert "BIGSCALE_CACHE" in caplog.text


def test_modes():
  mesh = with_mode(spec_of(), "zero:16").mesh
  assert (mesh.weights, mesh.fsdp, mesh.data) == ("zero", 16, -1)
  back = with_mode(with_mode(spec_of(), "fsdp:4"), "replicated").mesh
  assert (back.weights, back.fsdp) == ("replicated", 1)


@pytest.mark.parametrize("mode", ["half", "zero", "zero:1", "zero:x", ""])
def test_bad_modes(mode):
  with pytest.raises(SpecError, match=f"--mode={mode}"):
    with_mode(spec_of(), mode)


def test_sweep_continues_after_a_failure():
  pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
  spec = with_mode(spec_of(), "zero:16")
  rows = list(sweep([spec], ["v5e:2x2", "v5e:3x5"], "O1", use_cache=False))
  assert [row["topology"] for row in rows] == ["v5e:2x2", "v5e:3x5"]
  assert "mesh.fsdp=16" in rows[0]["error"]
  assert "rejects topology" in rows[1]["error"]
