"""What the collapse monitor costs a step.

On this machine, a whole training with it and without, by turns:

  python -m tests.benchmarks.monitor_overhead --config=configs/fashion_r3gan.py

On a TPU slice, by the compiler's estimate, of the step as it is, of the step
without the norms that the monitor takes in it, and of the probe:

  python -m tests.benchmarks.monitor_overhead \
      --config=configs/biggan_imagenet128.py --topology=v5e:16x16 --effort=O1
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from bigscale.parallel.environment import prepare_cpu


def main() -> None:
  """Prints one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", required=True)
  parser.add_argument("--topology")
  parser.add_argument("--effort", default="O1")
  parser.add_argument("--weights", default="zero:16")
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--batch", type=int, default=0)
  flags = parser.parse_args()
  prepare_cpu()
  found = _on_tpu(flags) if flags.topology else _here(flags)
  print(json.dumps(found, indent=2))


def _spec(flags: argparse.Namespace) -> Any:
  import importlib.util

  from bigscale.spec import from_config

  path, _, argument = flags.config.partition(":")
  named = importlib.util.spec_from_file_location("benchmarked", path)
  module = importlib.util.module_from_spec(named)
  named.loader.exec_module(module)
  config = module.get_config(*([argument] if argument else []))
  if flags.batch:
    config.global_batch_size = flags.batch
  return from_config(config)


def _here(flags: argparse.Namespace) -> dict[str, Any]:
  """Medians over rounds of the seconds of `steps` steps."""
  from bigscale.parallel.mesh import make_mesh
  from bigscale.train import loop
  from bigscale.train.build import build
  from bigscale.train.hooks import evaluator_of

  spec = _spec(flags)
  kimg = flags.steps * spec.images_per_step / 1000
  spec = dataclasses.replace(
    spec,
    total_kimg=kimg,
    evaluate=dataclasses.replace(spec.evaluate, kimg=0, num_samples=100),
    checkpoint=dataclasses.replace(spec.checkpoint, kimg=0),
    log=dataclasses.replace(spec.log, samples_kimg=0, tensorboard=False),
  )
  built = build(spec, make_mesh(spec.mesh))
  evaluator = evaluator_of(spec)
  seconds: dict[str, list[float]] = {"off": [], "checkpoint": []}
  for turn in range(flags.rounds + 1):
    for action, times in seconds.items():
      monitor = dataclasses.replace(spec.monitor, action=action)
      mine = dataclasses.replace(spec, monitor=monitor)
      with tempfile.TemporaryDirectory() as run:
        loop.train(
          mine,
          run,
          prepared=loop.Prepared(built._replace(spec=mine), evaluator),
        )
        spent = _seconds(pathlib.Path(run) / "metrics.jsonl")
      if turn:  # The first compiles.
        times.append(spent)
  off, on = (statistics.median(times) for times in seconds.values())
  pairs = zip(seconds["checkpoint"], seconds["off"], strict=True)
  return {
    "steps": flags.steps,
    "milliseconds_a_step": 1000 * off / flags.steps,
    "overhead": on / off - 1,
    "overhead_of_pairs": [a / b - 1 for a, b in pairs],
  }


def _seconds(metrics: pathlib.Path) -> float:
  """From the second row to the last row of steps."""
  rows = [json.loads(line) for line in metrics.read_text().splitlines()]
  steps = [row for row in rows if "d/loss" in row]
  return steps[-1]["seconds"] - steps[1]["seconds"]


def _on_tpu(flags: argparse.Namespace) -> dict[str, Any]:
  from bigscale.parallel.mesh import make_mesh
  from bigscale.plan import compile, topology
  from bigscale.train.build import build

  spec = _spec(flags)
  mode, _, fsdp = flags.weights.partition(":")
  mesh_spec = dataclasses.replace(
    spec.mesh, weights=mode, fsdp=int(fsdp or 1), data=-1
  )
  spec = dataclasses.replace(spec, mesh=mesh_spec)
  slice_ = topology.parse(flags.topology)
  mesh = make_mesh(spec.mesh, devices=topology.devices(slice_))
  hints = {"d_steps": spec.optim.d_steps, "microbatches": 1}

  def seconds(lowered: Any) -> float:
    started = time.perf_counter()
    found = compile.program(lowered, slice_, mesh, flags.effort, hints)
    print(f"compiled in {time.perf_counter() - started:.0f} s", flush=True)
    return found["estimated_step_seconds"]

  built = build(spec, mesh)
  arguments = (built.abstract_state, built.abstract_batch)
  probe = seconds(built.probe.lower(*arguments, built.abstract_heldout))
  step = seconds(built.step.lower(*arguments))
  with _no_norms():
    plain = build(spec, mesh)
    bare = seconds(plain.step.lower(*arguments))
  interval = spec.monitor.interval
  return {
    "effort": flags.effort,
    "step_seconds": step,
    "norms": step / bare - 1,
    "probe_seconds": probe,
    "probe": probe / interval / bare,
    "interval": interval,
    "overhead": (step + probe / interval) / bare - 1,
  }


@contextmanager
def _no_norms() -> Iterator[None]:
  """A step that knows its gradients' norms alone."""
  from bigscale.monitor import probes

  def only_gradients(gradients: Any, updates: Any, params: Any) -> Any:
    del updates, params
    return {"grad_norm": probes.norm(gradients)}

  with (
    mock.patch.object(probes, "movement", only_gradients),
    mock.patch.object(probes, "distance", return_value=0.0),
  ):
    yield


if __name__ == "__main__":
  main()
