"""Measures how often the intervals of `scaling predict` contain new runs.

  python -m tests.benchmarks.forecast_study --studies=20

Each study is a table of runs from a known law, whose parameters are drawn anew:
4 to 6 sizes, 3 seeds, 8 checkpoints. Forecasts at 4 and 10 times the largest N,
the largest D, or (at the square root of both factors) the largest compute, are
compared with 20 new runs each. Prints, by world, the share of new runs in the
50% and 90% intervals, the median width of the 90% interval (its upper end over
its lower end), and the median of the forecasts over the truth.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from bigscale.scaling.forecast import predict
from bigscale.scaling.laws import Points
from bigscale.scaling.selection import Selection

_NEW_RUNS = 20
_FACTORS = (4, 10)


class World(NamedTuple):
  """A law, and how its runs are trained.

  Attributes:
    draw: returns y(N, D) with random parameters; N and D are in units of the
      middle of the table.
    heavy: whether rows have Student's t noise with 3 degrees of freedom.
    lost: share of the runs of the largest size that collapse.
  """

  draw: Callable[[np.random.Generator], Callable[..., np.ndarray]]
  heavy: bool = False
  lost: float = 0.0


def _powers(rng, **more):
  a, b = rng.uniform(0.25, 0.7), rng.uniform(0.35, 0.9)
  share = rng.uniform(0.3, 0.7)
  floor = np.exp(rng.uniform(np.log(0.02), np.log(0.3)))
  d0, turn, at = more.get("d0", 0.0), more.get("turn", 1.0), more.get("at", 0.0)
  tilt, untuned, rise = (more.get(x, 0.0) for x in ("tilt", "untuned", "rise"))
  largest = more.get("largest", 1.0)

  def y(n, d):
    log_t = np.log((d + d0) / (1 + d0))
    past = np.maximum(np.log(d) - at, 0)
    power = b * (1 + d0) * np.exp(tilt * np.log(n))
    by_d = (1 - share) * np.exp(-power * (log_t + (turn - 1) * past))
    more = rise * (1 - share) * d**-1.8
    total = floor + share * n**-a + by_d + more
    return total * (1 + untuned * (n / largest) ** 0.8)

  return y


WORLDS: Mapping[str, World] = {
  "power": World(_powers),
  "shifted": World(lambda rng: _powers(rng, d0=rng.uniform(0.2, 1.2))),
  "broken": World(
    lambda rng: _powers(
      rng, turn=rng.uniform(1.4, 2.2), at=rng.uniform(-0.5, 0.3)
    )
  ),
  "N-dependent exponent": World(
    lambda rng: _powers(rng, tilt=rng.uniform(0.05, 0.15))
  ),
  "untuned width": World(lambda rng: _powers(rng, untuned=0.08, largest=4.0)),
  "heavy tails": World(_powers, heavy=True),
  "size-dependent collapse": World(_powers, lost=0.4),
  "batch too large": World(
    lambda rng: _powers(rng, rise=rng.uniform(0.3, 0.8))
  ),
}


def _spread(world, rng, length):
  """Returns deviations of log y of one run: its effect and AR(1) within it."""
  rho, row = rng.uniform(0, 0.5), rng.uniform(0.03, 0.06)
  z = (
    rng.standard_t(3, length) / 3**0.5
    if world.heavy
    else rng.normal(size=length)
  )
  within = np.empty(length)
  within[0] = z[0]
  for i in range(1, length):
    within[i] = rho * within[i - 1] + (1 - rho**2) ** 0.5 * z[i]
  return rng.normal() * 0.05 + row * within


def study(name: str, seed: int) -> dict[tuple[str, int], tuple[float, ...]]:
  """Returns shares inside, width and error, by direction and factor."""
  world, rng = WORLDS[name], np.random.default_rng([seed, *name.encode()])
  law = world.draw(rng)
  sizes = np.exp(np.linspace(-1, 1, int(rng.integers(4, 7))) * np.log(4))
  if rng.random() < 0.5:
    lengths = np.linspace(1, 8, 8) / 4.5
  else:
    lengths = np.exp(np.linspace(-1, 1, 8) * np.log(rng.uniform(3, 6)))
  columns: list[list[float]] = []
  for number, size in enumerate(sizes):
    chance = world.lost * ((number + 1) / len(sizes)) ** 2
    for copy in range(3):
      lost = rng.random() < chance
      y = law(size, lengths) * np.exp(_spread(world, rng, 8))
      columns += [
        [size, d, value, 3 * number + copy, lost]
        for d, value in zip(lengths, y, strict=True)
      ]
  x, x2, y, run, lost = np.array(columns).T
  points = Points(
    {"x": x, "x2": x2, "C": x * x2},
    y,
    lost.astype(bool),
    np.unique(run, return_inverse=True)[1],
    np.arange(len(y)),
  )
  names = {"x": "N", "x2": "D", "y": "y", "C": "N D"}
  selection = Selection(points, names, [], 0, "run", None, {})
  at, where = [], []
  for times in _FACTORS:
    for way, n, d in (
      ("N", times, 1),
      ("D", 1, times),
      ("both", times**0.5, times**0.5),
    ):
      at.append((float(sizes[-1] * n), float(lengths[-1] * d)))
      where.append((way, times))
  found = predict.predict(selection, at, seed=seed)
  results = {}
  for key, (n, d), one in zip(where, at, found["forecasts"], strict=True):
    truth = float(law(n, np.array([d]))[0])
    new = truth * np.exp([_spread(world, rng, 8)[-1] for _ in range(_NEW_RUNS)])
    inside = [
      float(((new >= low) & (new <= high)).mean())
      for low, high in (one["interval50"], one["interval90"])
    ]
    low, high = one["interval90"]
    results[key] = (*inside, high / low, one["median"] / truth)
  return results


def main() -> None:
  """Prints the result as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--studies", type=int, default=20)
  parser.add_argument("--worlds", default=",".join(WORLDS))
  flags = parser.parse_args()
  found = {}
  for name in flags.worlds.split(","):
    started = time.process_time()
    all_of = [study(name, seed) for seed in range(flags.studies)]
    found[name] = {
      f"{key[0]} {key[1]}x": {
        "inside50": round(float(np.mean([one[key][0] for one in all_of])), 3),
        "inside90": round(float(np.mean([one[key][1] for one in all_of])), 3),
        "width": round(float(np.median([one[key][2] for one in all_of])), 3),
        "error": round(float(np.median([one[key][3] for one in all_of])), 3),
      }
      for key in all_of[0]
    }
    seconds = (time.process_time() - started) / flags.studies
    found[name]["seconds"] = round(seconds, 2)
    print(json.dumps({name: found[name]}), flush=True)


if __name__ == "__main__":
  main()
