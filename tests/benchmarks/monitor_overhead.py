"""Measures the cost of the collapse monitor per step.

On this machine, it times the parts in turns: the step, the step without the
norms and singular values that only the monitor uses, and the parts outside the
step, divided by their intervals:

  python -m tests.benchmarks.monitor_overhead --config=configs/fashion_r3gan.py

For a TPU slice, it prints the compiler's estimates for the step, for the step
without the norms and singular values that only the monitor uses, for the probe
and for the anchor's programs (with --anchor_only, only for these):

  python -m tests.benchmarks.monitor_overhead \
      --config=configs/biggan_imagenet128.py --topology=v5e:16x16 --effort=O1
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from bigscale.parallel.environment import prepare_cpu


def main() -> None:
  """Prints the result as one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", required=True)
  parser.add_argument("--topology")
  parser.add_argument("--effort", default="O1")
  parser.add_argument("--weights", default="zero:16")
  parser.add_argument("--rounds", type=int, default=6)
  parser.add_argument("--batch", type=int, default=0)
  parser.add_argument("--anchor_only", action="store_true")
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
  """Returns the median time of each part; the parts take turns."""
  import jax
  import numpy as np

  from bigscale.monitor.snapshots import Ring
  from bigscale.monitor.verdict import Verdict
  from bigscale.parallel.mesh import make_mesh
  from bigscale.train import loop
  from bigscale.train.anchor_programs import place_variables
  from bigscale.train.build import build
  from bigscale.train.state import average_of

  spec = _spec(flags)
  mesh = make_mesh(spec.mesh)
  built = build(spec, mesh)
  with _no_norms():
    plain = build(_without_spectra(spec), mesh)
  state = built.init(np.int32(0))
  stream = loop.open_stream(built)
  batch = jax.device_put(
    next(stream), jax.tree.map(lambda x: x.sharding, built.abstract_batch)
  )
  stream.close()
  heldout = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), built.abstract_heldout
  )
  ring = Ring(built.abstract_state, spec.monitor)
  verdict = Verdict(
    spec.monitor.verdict, kinks=[*map(spec.count.step_of, spec.kinks_kimg)]
  )
  row: dict[str, float] = {}
  number = 0

  # Number of steps that update the singular values once.
  together = spec.model.spectra_interval or 1

  def step() -> None:
    nonlocal state, row
    for _ in range(together):
      state, scalars = built.step(state, batch)
    jax.block_until_ready(state)
    row = {k: float(x) for k, x in jax.device_get(scalars).items()}

  def bare() -> None:
    nonlocal state
    for _ in range(together):
      state, _ = plain.step(state, batch)
    jax.block_until_ready(state)

  def probe() -> None:
    jax.block_until_ready(built.probe(state, batch, heldout))

  def snapshot() -> None:
    ring.take(number, state, {})
    ring.newest(number + 1)

  anchor, network = _anchor(built)
  variables = place_variables(network, mesh)
  labels = np.zeros(anchor.count, np.int32)
  latents = np.zeros((anchor.count, spec.model.latent_dim), np.float32)

  def sketch() -> None:
    jax.device_get(anchor.sketch(state))

  def compare() -> None:
    """Runs the programs of one look; the host's part is below 5 ms."""
    images, own, hashes = anchor.pick(batch)
    found = [anchor.describe(variables, images, own), hashes]
    for weights in (state.ema, average_of(state.g)):
      drawn = built.sample(weights, latents, labels)
      found.append(anchor.describe(variables, drawn, labels))
    jax.device_get(found)

  def judge(values: dict[str, float]) -> None:
    nonlocal number
    number += 1
    verdict.update(number, values)

  parts = {
    "step": step,
    "bare": bare,
    "probe": probe,
    "snapshot": snapshot,
    "anchor": compare,
    "sketch": sketch,
    "verdict_all": lambda: judge(row),
    "verdict": lambda: judge(
      {k: x for k, x in row.items() if "/sigma" not in k}
    ),
  }
  times: dict[str, list[float]] = {name: [] for name in parts}
  for turn in range(flags.rounds + 1):
    for name, part in parts.items():
      started = time.perf_counter()
      part()
      if turn:  # The first turn compiles.
        spent = time.perf_counter() - started
        calls = together if name in ("step", "bare") else 1
        times[name].append(spent / calls)
  found = {name: statistics.median(each) for name, each in times.items()}
  monitor = spec.monitor
  every_step = statistics.median(
    a - b for a, b in zip(times["step"], times["bare"], strict=True)
  )
  each = (
    every_step
    + found["verdict"]
    + (found["probe"] + found["verdict_all"]) / monitor.interval
    + (found["anchor"] + 2 * found["sketch"]) / monitor.interval
    + found["snapshot"] / monitor.snapshot_interval
  )
  return {
    "rounds": flags.rounds,
    "milliseconds": {name: 1000 * value for name, value in found.items()},
    "in_the_step": every_step / found["bare"],
    "beside_it": (each - every_step) / found["bare"],
    "overhead": each / found["bare"],
  }


def _anchor(built: Any) -> tuple[Any, Any]:
  """Returns the anchor's programs and their untrained classifier."""
  import jax
  import numpy as np

  from bigscale.metrics.classifier import Classifier, abstract_variables
  from bigscale.train.anchor_programs import make_programs

  model = built.spec.model
  shape = (model.resolution, model.resolution, model.image_channels)
  classes = max(model.num_classes, 2)
  variables = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), abstract_variables(classes, shape)
  )
  classifier = Classifier(variables, classes, shape)
  return make_programs(built, classifier), classifier


def _without_spectra(spec: Any) -> Any:
  """Disables singular values, except those that the model divides by."""
  if spec.model.spectra_interval == 1:
    bare = dataclasses.replace(spec.model, num_singular_values=1)
  else:
    bare = dataclasses.replace(spec.model, spectra_interval=10**9)
  return dataclasses.replace(spec, model=bare)


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

  def seconds(lowered: Any) -> dict[str, float]:
    started = time.perf_counter()
    found = compile.program(lowered, slice_, mesh, flags.effort, hints)
    took = time.perf_counter() - started
    print(f"compiled in {took:.0f} s", file=sys.stderr, flush=True)
    return {
      "cycles": found["cycles_seconds"],
      "with_messages": found["estimated_step_seconds"],
    }

  built = build(spec, mesh)
  arguments = (built.abstract_state, built.abstract_batch)
  look = _look_on_tpu(built, seconds)
  if flags.anchor_only:
    return look
  probe = seconds(built.probe.lower(*arguments, built.abstract_heldout))
  step = seconds(built.step.lower(*arguments))
  with _no_norms():
    plain = build(_without_spectra(spec), mesh)
    lowered = plain.step.lower(plain.abstract_state, plain.abstract_batch)
    bare = seconds(lowered)
  interval = spec.monitor.interval
  return {
    "effort": flags.effort,
    "interval": interval,
    "seconds": {"step": step, "bare": bare, "probe": probe},
    "anchor": look,
    "in_the_step": {k: step[k] / bare[k] - 1 for k in bare},
    "probe": {k: probe[k] / interval / bare[k] for k in bare},
    "overhead": {
      k: (step[k] + (probe[k] + look["look"][k]) / interval) / bare[k] - 1
      for k in bare
    },
  }


def _look_on_tpu(
  built: Any, seconds: Callable[[Any], dict[str, float]]
) -> dict[str, Any]:
  """Returns the estimates for the anchor's programs, and of a whole look."""
  import jax
  import numpy as np

  from bigscale.parallel.sharding import replicated

  anchor, network = _anchor(built)
  where, model = replicated(built.mesh), built.spec.model
  side, channels = model.resolution, model.image_channels

  def abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  variables = jax.tree.map(
    lambda x: abstract(x.shape, x.dtype), network.variables
  )
  count = anchor.count
  labels = abstract((count,), np.int32)
  images = abstract((count, side, side, channels), np.uint8)
  latents = abstract((count, model.latent_dim), np.float32)
  state = built.abstract_state
  lowered = {
    "pick": anchor.pick.lower(built.abstract_batch),
    "describe": anchor.describe.lower(variables, images, labels),
    "sample": built.sample.lower(state.ema, latents, labels),
    "sketch": anchor.sketch.lower(state),
  }
  found = {name: seconds(one) for name, one in lowered.items()}
  calls = {"pick": 1, "describe": 3, "sample": 2, "sketch": 2}
  found["look"] = {
    key: sum(calls[name] * found[name][key] for name in calls)
    for key in found["pick"]
  }
  return {"count": count, "interval": built.spec.monitor.interval, **found}


@contextmanager
def _no_norms() -> Iterator[None]:
  """Removes all norms but the gradients' from steps built in this context."""
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
