"""What a run's events say of its attempts, and of the images in them."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from bigscale.spec import ImageCount


def is_number(value: Any) -> bool:
  """Whether a value read from JSON is a number, finite or not."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
  """Whether a value read from JSON is a finite number."""
  try:
    return is_number(value) and math.isfinite(value)
  except OverflowError:
    # A whole number of hundreds of digits.
    return False


def attempt_of(row: dict[str, Any]) -> int:
  """The attempt that a row or an event belongs to."""
  attempt = row.get("attempt")
  return int(attempt) if is_finite(attempt) else 0


def standing(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Leaves out what came after the state that a restart went on from.

  Rows of metrics are cut at a restart, events are not.
  """
  standing: list[dict[str, Any]] = []
  for event in events:
    if event.get("event") == "start" and is_finite(event.get("step")):
      moment = _moment(event)
      standing = [known for known in standing if _moment(known) <= moment]
    standing.append(event)
  return standing


def _moment(event: dict[str, Any]) -> tuple[int, float]:
  # A rollback stands if the state that it went back to does.
  step = event.get("to_step" if event.get("event") == "rollback" else "step")
  return attempt_of(event), step if is_finite(step) else 0


def counts_by_attempt(
  events: Iterable[Mapping[str, Any]],
) -> dict[int, ImageCount]:
  """Returns the images of attempts, {} where all steps show as many.

  A start and a rollback say them where the batch size has changed. A start that
  says nothing goes on from before the change: what an earlier one said of its
  attempt was never saved.

  Args:
    events: that stand (`standing`).
  """
  found: dict[int, ImageCount] = {}
  for event in events:
    attempt = attempt_of(event)
    if event.get("batches"):
      with contextlib.suppress(TypeError, ValueError):
        found[attempt] = ImageCount.of(event["batches"])
    elif event.get("event") == "start" and found:
      found[attempt] = _first_size(count_in(found, attempt))
  return found


def count_in(
  counts: Mapping[int, ImageCount], attempt: int | None = None
) -> ImageCount:
  """Returns the images of an attempt.

  Args:
    counts: by attempt, of some attempts; at least one.
    attempt: None takes the latest.
  """
  known = [a for a in counts if attempt is None or a <= attempt]
  # Before the first change all steps are alike.
  return counts[max(known)] if known else _first_size(counts[min(counts)])


def _first_size(count: ImageCount) -> ImageCount:
  return ImageCount(count.pieces[:1])
