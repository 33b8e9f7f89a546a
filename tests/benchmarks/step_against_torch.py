r"""Compares our training step with the same step in plain PyTorch, on a CPU.

  python tests/benchmarks/step_against_torch.py --model=biggan --resolution=32

The two programs run in separate processes and take turns after every step, so
that other load on the machine affects both. Prints medians and their ratio, and
the processor time per step, which depends less on other load.
`--model` is biggan (32 px with ch 16, 64 px with ch 8, batch 64, one D step)
or r3gan (16 or 32 px).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

THREADS = 2


def spec_of(model: str, resolution: int, batch: int):
  """Returns the spec of the run that both programs train."""
  from bigscale.spec import from_config

  if model == "biggan":
    config = _biggan(resolution)
  else:
    config = _r3gan(resolution)
  return from_config(
    {
      "global_batch_size": batch,
      "total_kimg": 1000.0,
      "data": {"source": "fashion_mnist"},
      **config,
    }
  )


def _biggan(resolution: int) -> dict:
  width, latent_dim = {32: (16, 80), 64: (8, 100)}[resolution]
  return {
    "model": {
      "name": "biggan",
      "resolution": resolution,
      "num_classes": 10,
      "latent_dim": latent_dim,
      "g_width": width,
      "d_width": width,
      "shared_dim": 32,
      "spectral_epsilon": 1e-6,
      "num_singular_values": 1,
      "g_attention": (32,) if resolution == 64 else (),
      "d_attention": (32,) if resolution == 64 else (),
    },
    "loss": {"adversarial": "hinge"},
    "optim": {"g_lr": 2e-4, "d_lr": 2e-4, "epsilon": 1e-6},
  }


def _r3gan(resolution: int) -> dict:
  widths = {16: (64, 64, 32), 32: (128, 128, 64, 32)}[resolution]
  return {
    "model": {
      "name": "r3gan",
      "resolution": resolution,
      "num_classes": 10,
      "widths": widths,
      "blocks": (1,) * len(widths),
      "cardinality": tuple(2 * width // 16 for width in widths),
      "spectra_interval": 0,
    },
    "loss": {"adversarial": "rpgan", "r1_gamma": 1.0, "r2_gamma": 1.0},
    "optim": {"g_lr": 2e-4, "d_lr": 2e-4, "ema_half_life_kimg": 500.0},
  }


def make_ours(spec) -> Callable[[], None]:
  """Returns our compiled step."""
  from bigscale.parallel.environment import prepare_cpu

  prepare_cpu()
  import jax

  from bigscale.bench.step import first_state, random_batch
  from bigscale.parallel.mesh import make_mesh
  from bigscale.train.build import build

  built = build(spec, make_mesh(spec.mesh))
  batch = random_batch(built)
  state = first_state(built)
  step = built.step.lower(state, batch).compile()

  def run() -> None:
    nonlocal state
    state, scalars = step(state, batch)
    jax.block_until_ready((state, scalars))

  return run


def make_torch(spec) -> Callable[[], None]:
  """Returns the step in PyTorch."""
  import importlib

  peer = importlib.import_module(f"tests.benchmarks.{spec.model.name}_torch")
  return peer.make_step(spec, THREADS)


def work(side: str, arguments: argparse.Namespace) -> None:
  """Runs a worker, which runs one step per line of stdin."""
  spec = spec_of(arguments.model, arguments.resolution, arguments.batch)
  step = {"ours": make_ours, "torch": make_torch}[side](spec)
  for _ in range(2):
    step()
  print("ready", flush=True)
  for _ in sys.stdin:
    wall, busy = time.perf_counter(), time.process_time()
    step()
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    print(json.dumps([wall, busy]), flush=True)


def start(side: str) -> subprocess.Popen:
  """Starts a worker with the arguments of this command."""
  return subprocess.Popen(
    [sys.executable, *sys.argv, f"--worker={side}"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"OMP_NUM_THREADS": str(THREADS), "JAX_PLATFORMS": "cpu"},
  )


def ask(worker: subprocess.Popen) -> list[float]:
  """Returns the wall and processor seconds of one more step."""
  worker.stdin.write("step\n")
  worker.stdin.flush()
  return json.loads(worker.stdout.readline())


def main() -> None:
  """Prints the comparison."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", choices=["biggan", "r3gan"], required=True)
  parser.add_argument("--resolution", type=int, default=32)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--steps", type=int, default=7)
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    work(arguments.worker, arguments)
    return
  times = {"ours": [], "torch": []}
  workers = {}
  for side in times:
    # Starts them one after the other, so that they do not compile together.
    workers[side] = start(side)
    assert workers[side].stdout.readline() == "ready\n", f"{side} failed"
  for _ in range(arguments.steps):
    for side, worker in workers.items():
      times[side].append(ask(worker))
  for worker in workers.values():
    worker.stdin.close()
    worker.wait()
  medians = {
    side: [statistics.median(column) for column in zip(*rows, strict=True)]
    for side, rows in times.items()
  }
  for side, (wall, busy) in medians.items():
    print(f"{side:5}  {wall:.3f} s a step, {busy:.3f} s of processors")
  ratios = [
    ours / theirs
    for ours, theirs in zip(medians["ours"], medians["torch"], strict=True)
  ]
  print(f"ratio  {ratios[0]:.2f} by time, {ratios[1]:.2f} by processors")


if __name__ == "__main__":
  main()
