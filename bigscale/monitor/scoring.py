"""Defines the outcome of a run, and rates with 95% intervals.

Intervals are Wilson's for proportions and the exact Poisson interval for rates
of events. Scores are Frechet distances, so lower is better.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Scores = Sequence[tuple[int, float]]
Outcome = Literal["lost", "harmed", "unharmed"]

# A score counts as good if it is at most this multiple of its reference, plus
# the noise of both.
AS_GOOD = 1.1
# A run is lost once its scores stay above this multiple of the best one so far.
LOST = 2.0
# A run is lost if it ends above this multiple of its undisturbed twin.
LOST_TO_TWIN = 1.5
# A run is harmed, but not lost, if it ends above this multiple of its twin.
HARMED = 1.2
# Number of last scores whose mean is a run's final score.
LAST = 3
_Z95 = 1.959964
# One-sided 95% quantile of a normal distribution.
_Z95_ONE_SIDED = 1.644854


class End(NamedTuple):
  """The outcome of a run.

  Attributes:
    outcome: `lost`, `harmed` or `unharmed`.
    lost_step: step from which the run was lost; None if it was not.
    why: `own_best`, `twin`, `dead` or `not_finite` if it was lost, else "".
    ratio: final score over the twin's; None without a twin, or if the run ended
      early.
  """

  outcome: Outcome
  lost_step: int | None
  why: str
  ratio: float | None


def wilson(successes: int, trials: int) -> dict[str, Any]:
  """Returns a proportion with Wilson's 95% interval.

  Without trials, the proportion and the interval are None.
  """
  if not trials:
    return {"count": 0, "of": 0, "share": None, "interval95": None}
  share = successes / trials
  z2 = _Z95**2 / trials
  middle = (share + z2 / 2) / (1 + z2)
  half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
  return {
    "count": successes,
    "of": trials,
    "share": share,
    "interval95": [max(0.0, middle - half), min(1.0, middle + half)],
  }


def poisson(count: int, steps: int, per: int = 10_000) -> dict[str, Any]:
  """Returns a rate of events with its exact 95% interval (Garwood 1936).

  Args:
    count: number of events.
    steps: number of steps in which they were counted.
    per: number of steps that the rate refers to.
  """
  from scipy import stats

  if not steps:
    return {"count": count, "steps": 0, "rate": None, "interval95": None}
  low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
  high = stats.chi2.ppf(0.975, 2 * count + 2) / 2
  scale = per / steps
  return {
    "count": count,
    "steps": steps,
    f"per_{per}": count * scale,
    "interval95": [float(low * scale), float(high * scale)],
  }


def lost_step(scores: Scores, ended: int | None) -> int | None:
  """Returns the step at which a run was lost; None if it was not.

  A run is lost at the first score from which on every score is more than twice
  the best score before, or else at the step at which it diverged.

  Args:
    scores: pairs of a step and its score; lower is better.
    ended: step at which the run ended with values that are not finite; None if
      it did not.
  """
  best, lost = math.inf, None
  for step, score in scores:
    if not math.isfinite(score) or score > LOST * best:
      lost = step if lost is None else lost
      continue
    lost, best = None, min(best, score)
  return ended if lost is None else lost


def lost_to_twin_step(scores: Scores, twin: Scores) -> int | None:
  """Returns the step from which a run was lost to its twin; None if it was not.

  A run is lost if the mean of its last scores is more than `LOST_TO_TWIN` times
  the twin's. The step is that of the first score from which on every score is
  as bad, or of the last score.
  """
  ratio = ratio_to_twin(scores, twin)
  if ratio is None or ratio <= LOST_TO_TWIN:
    return None
  usual, found = dict(twin), scores[-1][0]
  for step, score in reversed(scores):
    if step not in usual or score <= LOST_TO_TWIN * usual[step]:
      break
    found = step
  return found


def ratio_to_twin(scores: Scores, twin: Scores) -> float | None:
  """Returns the ratio of the means of the last scores; None without scores."""
  if not scores or not twin:
    return None
  return final(scores) / final(twin)


def final(scores: Scores) -> float:
  """Returns the mean of the last scores."""
  return statistics.fmean(score for _, score in scores[-LAST:])


def end_of(
  scores: Scores,
  twin: Scores,
  *,
  ended: int | None = None,
  dead: int | None = None,
) -> End:
  """Returns the outcome of a run.

  Args:
    scores: pairs of a step and its score.
    twin: scores of the undisturbed run with the same seed; empty if the run
      has none, or if other settings from the first step on make its scores
      incomparable.
    ended: step at which the run ended with values that are not finite.
    dead: step from which D was dead until the end.
  """
  found = {
    "not_finite": ended,
    "dead": dead,
    "own_best": lost_step(scores, None),
    "twin": lost_to_twin_step(scores, twin) if ended is None else None,
  }
  lost = {why: step for why, step in found.items() if step is not None}
  ratio = ratio_to_twin(scores, twin) if ended is None else None
  if lost:
    why = min(lost, key=lambda name: lost[name])
    return End("lost", lost[why], why, ratio)
  harmed = ratio is not None and ratio > HARMED
  return End("harmed" if harmed else "unharmed", None, "", ratio)


def noise(runs: Sequence[Scores]) -> float:
  """Returns the noise of a score: the deviation of its logarithm.

  It is estimated from undisturbed runs as the root mean square of the deviation
  of each score from the mean of its two neighbors. The first third of a run is
  left out, because scores fall steeply there.
  """
  found = []
  for scores in runs:
    logs = [math.log(score) for _, score in scores[len(scores) // 3 :]]
    triples = zip(logs, logs[1:], logs[2:], strict=False)
    found += [y - (x + z) / 2 for x, y, z in triples]
  if not found:
    return 0.0
  # The variance of such a deviation is 1.5 times that of a score.
  return math.sqrt(statistics.fmean(x * x for x in found) / 1.5)


def limit(deviation: float, count: int, others: int) -> float:
  """Returns the largest ratio of two means of scores that counts as equal.

  It is `AS_GOOD` times the 95% quantile of the ratio of equally good scores.

  Args:
    deviation: noise of the logarithm of one score.
    count: number of scores in the first mean.
    others: number of scores in the second mean.
  """
  spread = deviation * math.sqrt(1 / count + 1 / others)
  return AS_GOOD * math.exp(_Z95_ONE_SIDED * spread)


def level_at(scores: Scores, step: int) -> float | None:
  """Returns the mean of the scores before and after a step; None if missing."""
  before = [score for at, score in scores if at <= step][-1:]
  after = [score for at, score in scores if at > step][:1]
  near = before + after
  return statistics.fmean(near) if near else None


def spread(values: Sequence[float]) -> dict[str, float | None]:
  """Returns the median and the 10th percentile; None without values."""
  if not values:
    return {"median": None, "percentile10": None}
  ordered = sorted(values)
  return {
    "median": statistics.median(ordered),
    "percentile10": ordered[int(0.1 * (len(ordered) - 1))],
  }


def share_text(share: Mapping[str, Any]) -> str:
  """Formats a proportion with its interval."""
  if share["share"] is None:
    return "-"
  low, high = share["interval95"]
  return (
    f"{share['count']} of {share['of']}, {share['share']:.0%} "
    f"({low:.0%} to {high:.0%})"
  )


def rate_text(rate: Mapping[str, Any]) -> str:
  """Formats a rate of events with its interval."""
  if rate["interval95"] is None:
    return "-"
  low, high = rate["interval95"]
  return (
    f"{rate['count']} in {rate['steps']:,} steps, {rate['per_10000']:.2f} per "
    f"10,000 ({low:.2f} to {high:.2f})"
  )
