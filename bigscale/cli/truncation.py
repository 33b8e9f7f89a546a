"""Truncation and batch norm statistics of `sample`, `evaluate`, `export`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.cli.common import Trained
from bigscale.cli.flags import Flags
from bigscale.spec import TRUNCATION_RULES, TruncationRule


def define_flags(values: Flags) -> None:
  """Defines the flags that `rule_of` and `under` read."""
  values.heading("Truncation and batch norm")
  values.float(
    "truncation",
    None,
    "Truncation of the latents: smaller values trade variety for fidelity. "
    "Default: no truncation.",
  )
  values.enum(
    "truncation_rule",
    None,
    list(TRUNCATION_RULES),
    "How to truncate. resample: entries outside [-truncation, truncation] are "
    "sampled again (Brock et al. 2019). scale: truncation * truncnorm(-2, 2) "
    "(the official TF-Hub modules and their ports). Default: the rule in the "
    "config, else the rule of the authors of imported weights, else resample.",
  )
  values.integer(
    "standing_batches",
    0,
    "Number of batches, sampled with the same truncation, for standing batch "
    "norm statistics (the BigGAN paper: 100). 0 uses the statistics published "
    "with the weights for this truncation, else the running statistics of "
    "training.",
    lower_bound=0,
  )


class Under(NamedTuple):
  """A generator prepared for one truncation.

  Attributes:
    ema: weights, with the batch norm statistics to use.
    protocol: `truncation`, `truncation_rule`, `batch_norm` (a description of
      the statistics, "" without batch norm) and `standing_batches`, as JSON
      values.
  """

  ema: Any
  protocol: dict[str, Any]


def rule_of(trained: Trained, flag: TruncationRule | None) -> TruncationRule:
  """Returns the truncation rule.

  The first of these that is set: the flag, the spec, the rule of the authors of
  imported weights, `resample`.
  """
  from bigscale.interop import formats

  return (
    flag
    or trained.spec.sampling.truncation_rule
    or formats.truncation_rule(trained.imported.get("format", ""))
    or "resample"
  )


def under(
  trained: Trained,
  truncation: float | None,
  values: Flags,
  class_counts: Sequence[int] = (),
) -> Under:
  """Returns the generator prepared for a truncation.

  Args:
    trained: the restored checkpoint.
    truncation: truncation of the latents, or None.
    values: the flags of `define_flags`.
    class_counts: proportions of the classes to sample. Standing statistics use
      the same proportions. () means uniform.

  Raises:
    SpecError: the truncation is out of the rule's range, or the statistics
      published with the weights are corrupt.
  """
  from bigscale.sampling import latents

  rule = rule_of(trained, values.truncation_rule)
  latents.check_truncation(truncation, rule)
  ema, statistics = _normalized(
    trained, truncation, rule, values.standing_batches, class_counts
  )
  protocol = {
    "truncation": truncation,
    "truncation_rule": rule,
    "batch_norm": statistics,
    "standing_batches": values.standing_batches,
  }
  return Under(ema, protocol)


def sentence(protocol: Mapping[str, Any]) -> str:
  """Returns a sentence that describes a protocol of `Under`."""
  words = "no truncation"
  if protocol["truncation"] is not None:
    rule = protocol["truncation_rule"]
    words = f"truncation {protocol['truncation']} by the rule {rule}"
  if protocol["batch_norm"]:
    words += f"; batch norm statistics: {protocol['batch_norm']}"
  return words


def _normalized(
  trained: Trained,
  truncation: float | None,
  rule: TruncationRule,
  batches: int,
  class_counts: Sequence[int],
) -> tuple[Any, str]:
  """Returns the average with the statistics to use, and their description."""
  import numpy as np

  from bigscale.data.proportions import apportion
  from bigscale.metrics.labels import labels_of
  from bigscale.sampling.standing import STANDING_SEED, standing_statistics

  ema, published = trained.ema, trained.imported.get("standing_statistics")
  if batches:
    batch_size = trained.spec.evaluate.batch_size
    labels = None
    if class_counts:
      counts = apportion(np.array(class_counts), batches * batch_size)
      labels = labels_of(counts.tolist(), STANDING_SEED)
    standing = standing_statistics(
      trained.spec.model,
      trained.built.mesh.devices.flat[0].platform,
      ema,
      batches=batches,
      batch_size=batch_size,
      truncation=truncation,
      rule=rule,
      labels=labels,
    )
    words = f"standing ones of {batches} batches"
    return standing, words if ema.batch_stats else ""
  if not ema.batch_stats:
    return ema, ""
  if published:
    return _published(trained, truncation, rule)
  return ema, trained.imported.get("statistics", "running ones of training")


def _published(
  trained: Trained, truncation: float | None, rule: TruncationRule
) -> tuple[Any, str]:
  """Returns the average with the statistics published with the weights."""
  import jax
  import jax.numpy as jnp

  from bigscale.interop import standing
  from bigscale.sampling import statistics_table

  table = standing.read(trained.path, trained.imported["standing_statistics"])
  at = statistics_table.truncation_like(truncation, rule)
  stats = jax.tree.map(
    lambda leaf, row: jax.device_put(
      jnp.asarray(row, leaf.dtype), leaf.sharding
    ),
    trained.ema.batch_stats,
    statistics_table.statistics_at(table, at),
  )
  words = f"published ones of truncation {at:.4g} under the rule scale"
  return trained.ema._replace(batch_stats=stats), words
