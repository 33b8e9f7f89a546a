"""Writes docs/reference/goodput.md, with the constants of a forecast.

python -m docs.make_goodput
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator

from bigscale.plan.goodput.costs import Costs
from bigscale.spec.describe import meaning_of

PAGE = pathlib.Path(__file__).parent / "reference" / "goodput.md"

_TEXT = """\
# Goodput

<!-- Written by `python -m docs.make_goodput`. -->

Goodput is the share of the wall time that is spent in training steps whose
result is kept. `bigscale plan --goodput` forecasts it: it plans the step, then
simulates the run with faults, saves, evaluations and restarts, on the planned
slice and on 256, 1,024 and 4,096 chips of the same family. The larger machines
are assumed to take as long for a step, with as many samples on each chip.

## What is simulated

The run trains until the next of a save, an evaluation, a fault, or a change of
its speed by a slow host. Faults arrive at random, at a constant rate a chip.
After a fault:

1. The other processes notice, and end.
2. Something starts the processes again, after replacing the host if it is lost.
3. The processes start, restore the newest checkpoint that survived the fault,
   and load the compiled step.
4. The steps after that checkpoint are done again.

A fault can also strike in 1 to 3, which then begin again. A save stops the
training while the state is copied to the host. Its checkpoint is complete only
after it is written, and is lost if a fault strikes before. Before a preemption
with notice, the run saves, so no step is lost. `tests/plan/goodput` compares
the simulation with Daly's expected time, and with cases computed by hand.

`tests/benchmarks/goodput_kills.py` compares it with real runs. One process
trained 1,000 steps of 0.5 s on a CPU, saved every 40 steps, and was killed at
random times. The simulation met kills at the same times, with the means of the
run's own events as constants:

| kills | goodput measured | simulated | wall seconds measured | simulated |
|---|---|---|---|---|
| 7, all before the first save | 0.505 | 0.524 | 1,018 | 996 |
| 6, while training and starting | 0.639 | 0.669 | 796 | 770 |

The scores and samples at the end, 12 s, are not in the simulation. Runs with
several processes and on TPUs were not compared.

## The columns

Each column has other intervals of the checkpoints:

- *as configured*: `checkpoint.kimg`.
- *Young/Daly*: the optimum for the cost C of a save and the mean time M between
  faults, about sqrt(2 C M).
- *best*: the best of intervals around it, by simulation.
- *with local copies*: Young/Daly, with checkpoints also on the hosts, each with
  a copy on another host. bigscale does not write such copies yet.

The interval of Young 1974 is the first-order optimum. The one here minimizes
the expected time of Daly 2006, "A higher order estimate of the optimum
checkpoint interval for restart dumps". Below the table, the text names the
`checkpoint.kimg` of that interval.

## Constants

`--assume=NAME=NUMBER,...` changes a constant. [measured] was measured with this
project, [paper] or a name in brackets is from a paper, [chosen] is a setting of
this project. [plan] and [config] are taken from the run. A [nominal] figure is
a rule of thumb: set it to what your machine does, because the forecast is no
better than its constants. [Llama 3] is Grattafiori et al. 2024, "The Llama 3
Herd of Models", sec. 3.3.4: 419 unexpected interruptions in 54 days on 16,384
GPUs, about 78% of them attributed to hardware.
"""


def page() -> str:
  """Returns the page."""
  return "\n".join([_TEXT, *_table()]) + "\n"


def _table() -> Iterator[str]:
  yield "| constant | default | meaning |"
  yield "|---|---|---|"
  for field in dataclasses.fields(Costs):
    default = "" if math.isnan(field.default) else f"{field.default:g}"
    yield f"| `{field.name}` | {default} | {meaning_of(Costs, field.name)} |"


if __name__ == "__main__":
  PAGE.write_text(page())
