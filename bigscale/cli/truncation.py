"""How `sample`, `evaluate` and `export` truncate latents, and normalize."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.cli.common import Trained
from bigscale.cli.flags import Flags
from bigscale.spec import TRUNCATION_RULES, TruncationRule


def define_flags(values: Flags) -> None:
  """The flags that `rule_of` and `under` read."""
  values.float(
    "truncation",
    None,
    "narrow the latents: less variety, more fidelity. The rule says how",
  )
  values.enum(
    "truncation_rule",
    None,
    list(TRUNCATION_RULES),
    "resample: draw entries beyond the truncation again (Brock et al. 2019); "
    "scale: truncation * truncnorm(-2, 2) (the official TF-Hub modules and "
    "their ports). By default that of the config, then that of the weights' "
    "authors, then resample",
  )
  values.integer(
    "standing_batches",
    0,
    "normalize by the mean statistics of so many batches of the same "
    "truncation (the paper: 100); 0 takes those published with the weights "
    "for this truncation, else the running ones of training",
    lower_bound=0,
  )


class Under(NamedTuple):
  """A generator under one truncation.

  Attributes:
    ema: its weights, with the statistics that batch norm is to use.
    protocol: `truncation`, `truncation_rule`, `batch_norm` (which statistics
      these are, "" without batch norm) and `standing_batches`, plain JSON.
  """

  ema: Any
  protocol: dict[str, Any]


def rule_of(trained: Trained, asked: TruncationRule | None) -> TruncationRule:
  """Returns the rule: of the flag, the spec, the weights' authors, or ours."""
  from bigscale.interop.formats import AUTHORS_RULES

  return (
    asked
    or trained.spec.sampling.truncation_rule
    or AUTHORS_RULES.get(trained.imported.get("format", ""))
    or "resample"
  )


def under(
  trained: Trained,
  truncation: float | None,
  values: Flags,
  class_counts: Sequence[int] = (),
) -> Under:
  """Returns the generator to sample under a truncation.

  Args:
    trained: the run.
    truncation: of the latents.
    values: the flags of `define_flags`.
    class_counts: proportions of the classes that will be sampled, which
      standing statistics are to share; uniform where there are none.

  Raises:
    SpecError: the truncation is out of the rule's range, or the statistics
      that were published with the weights are damaged.
  """
  from bigscale.sampling import latents

  rule = rule_of(trained, values.truncation_rule)
  latents.check_truncation(truncation, rule)
  ema, said = _normalized(
    trained, truncation, rule, values.standing_batches, class_counts
  )
  protocol = {
    "truncation": truncation,
    "truncation_rule": rule,
    "batch_norm": said,
    "standing_batches": values.standing_batches,
  }
  return Under(ema, protocol)


def sentence(protocol: Mapping[str, Any]) -> str:
  """Returns the same for people."""
  said = "no truncation"
  if protocol["truncation"] is not None:
    rule = protocol["truncation_rule"]
    said = f"truncation {protocol['truncation']} by the rule {rule}"
  if protocol["batch_norm"]:
    said += f"; batch norm's statistics: {protocol['batch_norm']}"
  return said


def _normalized(
  trained: Trained,
  truncation: float | None,
  rule: TruncationRule,
  batches: int,
  class_counts: Sequence[int],
) -> tuple[Any, str]:
  """The average with the statistics to use, and which they are."""
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
    anew = standing_statistics(
      trained.spec.model,
      trained.built.mesh.devices.flat[0].platform,
      ema,
      batches=batches,
      batch_size=batch_size,
      truncation=truncation,
      rule=rule,
      labels=labels,
    )
    said = f"standing ones of {batches} batches"
    return anew, said if ema.batch_stats else ""
  if not ema.batch_stats:
    return ema, ""
  if published:
    return _published(trained, truncation, rule)
  return ema, trained.imported.get("statistics", "running ones of training")


def _published(
  trained: Trained, truncation: float | None, rule: TruncationRule
) -> tuple[Any, str]:
  """With the statistics that came with the weights."""
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
  said = f"published ones of truncation {at:.4g} under the rule scale"
  return trained.ema._replace(batch_stats=stats), said
