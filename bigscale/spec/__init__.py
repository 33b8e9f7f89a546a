"""The frozen description of a run.

A config file (`ml_collections.ConfigDict`) is turned into these dataclasses at
the door by `from_config`; nothing below the command line sees
a ConfigDict. Every rule a run must obey is checked here, and a broken one is a
`SpecError` whose message names the value, the rule and the remedy.

All schedules are functions of images shown to D, never of steps, so that a
change of batch size leaves them where they were (Huang et al. 2024, app. B).
"""

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
from bigscale.spec.run import (
  CheckpointSpec,
  EvalSpec,
  LogSpec,
  MeshSpec,
  OperationsSpec,
  OptimSpec,
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
