"""Frozen dataclasses that describe a run.

`from_config` turns a config file (`ml_collections.ConfigDict`) into these
dataclasses. Only the command line handles a ConfigDict. The dataclasses check
every rule that a run must obey and raise a `SpecError` whose message contains
the value, the rule and the remedy.

All schedules are functions of the number of images shown to D, not of steps, so
a change of batch size does not move them (Huang et al. 2024, app. B).
"""

from bigscale.spec.anchor import AnchorSpec
from bigscale.spec.base import (
  Precision,
  Schedule,
  SpecError,
  choose_preset,
  require,
)
from bigscale.spec.changes import Change
from bigscale.spec.count import ImageCount
from bigscale.spec.data import MOST_PADDING, DataSpec, SourceSpec
from bigscale.spec.freeze import from_config, from_json, to_json
from bigscale.spec.model import ModelBase
from bigscale.spec.monitor import MonitorSpec
from bigscale.spec.objective import AugmentSpec, LossSpec, SigmaSpec, TermSpec
from bigscale.spec.operations import OperationsSpec
from bigscale.spec.optim import OptimSpec
from bigscale.spec.run import (
  CheckpointSpec,
  EvalSpec,
  LogSpec,
  MeshSpec,
  RunSpec,
)
from bigscale.spec.sampling import (
  TRUNCATION_RULES,
  SamplingSpec,
  TruncationRule,
)
from bigscale.spec.score_rows import FeatureNetwork, ScoreKind
from bigscale.spec.verdict import VerdictSpec

__all__ = [
  "MOST_PADDING",
  "TRUNCATION_RULES",
  "AnchorSpec",
  "AugmentSpec",
  "Change",
  "CheckpointSpec",
  "DataSpec",
  "EvalSpec",
  "FeatureNetwork",
  "ImageCount",
  "LogSpec",
  "LossSpec",
  "MeshSpec",
  "ModelBase",
  "MonitorSpec",
  "OperationsSpec",
  "OptimSpec",
  "Precision",
  "RunSpec",
  "SamplingSpec",
  "Schedule",
  "ScoreKind",
  "SigmaSpec",
  "SourceSpec",
  "SpecError",
  "TermSpec",
  "TruncationRule",
  "VerdictSpec",
  "choose_preset",
  "from_config",
  "from_json",
  "require",
  "to_json",
]
