"""Interprets a run's events: attempts, restarts and image counts."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from bigscale.spec import ImageCount


def is_number(value: Any) -> bool:
  """Returns whether a JSON value is a number, finite or not."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
  """Returns whether a JSON value is a finite number."""
  try:
    return is_number(value) and math.isfinite(value)
  except OverflowError:
    # The value is an integer beyond the range of float.
    return False


def attempt_of(row: dict[str, Any]) -> int:
  """Returns the attempt of a row or an event."""
  attempt = row.get("attempt")
  return int(attempt) if is_finite(attempt) else 0


def standing(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the events without those that a restart discarded.

  A restart resumes from a saved state and discards the steps after it. It
  removes their rows from metrics.jsonl but keeps their events in events.jsonl.
  """
  standing: list[dict[str, Any]] = []
  for event in events:
    if event.get("event") == "start" and is_finite(event.get("step")):
      moment = _moment(event)
      standing = [known for known in standing if _moment(known) <= moment]
    standing.append(event)
  return standing


def _moment(event: dict[str, Any]) -> tuple[int, float]:
  # A rollback is kept if the state that it restored is kept.
  step = event.get("to_step" if event.get("event") == "rollback" else "step")
  return attempt_of(event), step if is_finite(step) else 0


def counts_by_attempt(
  events: Iterable[Mapping[str, Any]],
) -> dict[int, ImageCount]:
  """Returns the image count of each attempt whose batch size has changed.

  Events of starts and rollbacks contain the image count if the batch size has
  changed. A later start without an image count resumed from a state before the
  change, because the steps after the change were never saved.

  Args:
    events: the events that `standing` returns.

  Returns:
    Image counts by attempt. {} if the batch size never changed.
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
  """Returns the image count of an attempt.

  Args:
    counts: image counts by attempt, for at least one attempt.
    attempt: the attempt. None means the latest.
  """
  known = [a for a in counts if attempt is None or a <= attempt]
  # Attempts before the first change have the first batch size throughout.
  return counts[max(known)] if known else _first_size(counts[min(counts)])


def _first_size(count: ImageCount) -> ImageCount:
  return ImageCount(count.pieces[:1])
