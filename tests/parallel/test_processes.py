"""Several real processes: their communication and their failures."""

import json
import socket

import numpy as np
import pytest

from tests import fast_compile
from tests.parallel import battery
from tests.parallel.processes import free_port, run_processes


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """Output of each of two processes with two devices, and of one with four."""

  def run(processes, devices):
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    program = [battery.__file__, "fashion_mnist", folder]
    flags = {"XLA_FLAGS": fast_compile.FLAGS}
    return run_processes(
      program, processes, devices, timeout=240, environ=flags
    )

  two, one = run(2, 2), run(1, 4)
  # Gloo also prints to stdout.
  return [json.loads(d.stdout.splitlines()[-1]) for d in (*one, *two)]


def test_all_processes_receive_decisions(told):
  for words in told[1:]:
    assert (words["processes"], words["devices"]) == (2, 4)
    assert words["broadcast"] == 7.5
    assert words["decided"] == {"from": 0, "x": [0.1, None]}
    assert words["again"] == 1
    assert words["refused"] == "process 0 does not like it"


def test_process_0_receives_all_items(told):
  _, first, second = told
  each = [{"from": 0}, {"from": 1}, {"from": 1}]
  assert first["gathered"] == [each, ["late"], []]
  assert second["gathered"] == [[], [], []]
  assert told[0]["gathered"] == [[{"from": 0}], [], []]


def test_a_difference_is_named_on_every_process(told):
  for words in told[1:]:
    assert "different values of config" in words["differs"]
    assert "model.width: 0 on process 0, 64 on process 1" in words["differs"]


def test_rows_do_not_depend_on_processes_nor_on_the_mesh(told):
  (expected, permuted), *others = [words["rows"] for words in told]
  assert expected == permuted
  assert len({str(step) for step in expected}) == len(expected)
  for rows in others:
    assert rows == [expected, expected]


def test_latents_do_not_depend_on_processes_nor_on_the_mesh(told):
  expected = told[0]["latents"][0]
  assert len(np.unique(expected)) == 16 * 4
  for words in told:
    assert words["latents"] == [expected, expected]


def test_all_processes_embed_with_the_shared_networks(told):
  alone, first, second = [words["looked"] for words in told]
  for looked in (first, second):
    for name in ("mean", "covariance"):
      np.testing.assert_allclose(looked[name], alone[name], rtol=1e-5)
    for name in ("counted", "fingerprint"):
      assert looked[name] == alone[name]
  # Only process 0 keeps the features.
  assert [looked["kept"] for looked in (alone, first, second)] == [20, 20, 0]


def test_all_processes_keep_the_best_and_skip_damage(told):
  """Only one process finds the damage, but all skip the checkpoint."""
  for words in told:
    kept = words["kept"]
    assert kept["kept"] == [1, 4]
    assert kept["restored"] == 1
    ((step, why),) = kept["damaged"]
    assert step == 4
    assert why.startswith("the data position or the metadata differ")
    assert kept["left"] == [1]
    assert kept["scores"] == {"fd_classifier": 1.0}


def test_processes_simulate_slices(told):
  for words in told[1:]:
    assert words["slices"] == [[0, 0], [1, 1]]
    across, unequal, idle = words["impossible"]
    assert "mesh.fsdp=4 would span slices of 2 devices" in across
    assert "mesh.slices=4 does not split 4 CPU devices of 2 process" in unequal
    assert "4 devices idle, which is not possible with 2 processes" in idle


JOIN = """
from bigscale.parallel import multihost
import jax
print(multihost.initialize().kind, jax.process_index(), jax.process_count())
"""


def test_slurm_is_enough():
  """JAX finds the coordinator itself, at the checked port."""
  slurm = {
    "SLURM_JOB_ID": "123",
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_NTASKS": "2",
    "SLURM_LOCALID": "0",
    "JAX_COORDINATOR_PORT": str(free_port()),
  }
  ours = ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")
  done = run_processes(
    ["-c", JOIN],
    2,
    1,
    timeout=120,
    environ=slurm | {f"BIGSCALE_{name}": "" for name in ours},
    each=[{"SLURM_PROCID": "0"}, {"SLURM_PROCID": "1"}],
  )
  assert [d.stdout.split() for d in done] == [
    ["slurm", "0", "2"],
    ["slurm", "1", "2"],
  ]


COMMAND = "from bigscale.cli.main import entry_point; entry_point()"


def test_port_in_use_is_refused():
  """JAX alone would be killed by a signal."""
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    (done,) = run_processes(
      ["-c", COMMAND, "sample", "--workdir=none", "--out=x.png"],
      1,
      1,
      timeout=120,
      environ={
        "BIGSCALE_COORDINATOR": f"127.0.0.1:{port}",
        "BIGSCALE_NUM_PROCESSES": "2",
        "BIGSCALE_PROCESS_ID": "0",
      },
      check=False,
    )
  assert done.code == 2
  assert f"port {port}" in done.stderr
  assert "choose another port" in done.stderr


def test_missing_peer_is_announced():
  """JAX aborts, and the message says what it waited for."""
  (done,) = run_processes(
    ["-c", JOIN],
    1,
    1,
    timeout=120,
    environ={
      "BIGSCALE_COORDINATOR": f"127.0.0.1:{free_port()}",
      "BIGSCALE_NUM_PROCESSES": "3",
      "BIGSCALE_PROCESS_ID": "0",
      "BIGSCALE_START_TIMEOUT": "2",
    },
    check=False,
  )
  assert done.code not in (0, None)
  assert "process 0 of 3 (explicit) waits up to 2 s" in done.stderr


def test_different_configs_end_all_processes(tmp_path):
  config = "--config=configs/fashion_r3gan.py"
  program = ["-c", COMMAND, "train", config, f"--workdir={tmp_path / 'run'}"]
  # Only one process has a different seed.
  script = (
    "import os, sys\n"
    "if os.environ['BIGSCALE_PROCESS_ID'] == '1':"
    " sys.argv.append('--config.seed=5')\n" + COMMAND
  )
  program[1] = script
  done = run_processes(program, 2, 1, timeout=120, check=False)
  for process in done:
    assert process.code == 2, process.stderr
    assert "seed: 0 on process 0, 5 on process 1" in process.stderr
  assert not (tmp_path / "run").exists()
