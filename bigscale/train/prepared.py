"""What a caller of `train` provides, and what it gets."""

from collections.abc import Mapping
from typing import NamedTuple

from bigscale.metrics.evaluate import Opened
from bigscale.metrics.evaluator import Evaluator
from bigscale.train.build import Built
from bigscale.train.disturb import Disturbance
from bigscale.train.folder import RunFolder
from bigscale.train.state import GanState


class Result(NamedTuple):
  """The result of a training run.

  Attributes:
    folder: folder of the run.
    state: state after the last step.
    scores: scores of the last evaluation.
    failed: reasons by name of the scores missing from the last evaluation.
  """

  folder: RunFolder
  state: GanState
  scores: dict[str, float]
  failed: Mapping[str, str] = {}


class Prepared(NamedTuple):
  """Objects that a caller of `train` may provide, for example to share them.

  Attributes:
    built: functions of the run; None builds them.
    evaluator: evaluator of the run's data, or its opened inputs; None opens
      the inputs.
    disturbance: fault injection into the steps.
  """

  built: Built | None = None
  evaluator: Evaluator | Opened | None = None
  disturbance: Disturbance = Disturbance()
