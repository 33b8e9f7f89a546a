"""Builds the HTML page from charts, sample grids and tables.

All text from the run's files is escaped here; drawings contain no such text.
The page's content security policy also forbids scripts and network requests.
"""

import base64
import datetime
import html
import io
import json
import shlex
from collections.abc import Iterable
from typing import Any

from bigscale.report import goodput
from bigscale.report.charts import Chart
from bigscale.report.curves import (
  class_share_chart,
  distance_chart,
  other_charts,
  signal_charts,
  singular_value_charts,
  training_charts,
)
from bigscale.report.decisions import LoggedDecision, decisions, summary
from bigscale.report.facts import (
  best_evaluation,
  cards,
  changed_settings,
  evaluations,
  headline,
  number,
  subtitle,
  title,
)
from bigscale.report.missing import missing_scores
from bigscale.report.read import Run, Sample
from bigscale.report.style import CSS

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_EARLIER_SAMPLES = 6
_EMBEDDED_BYTES = 600_000
_MOST_EVENTS = 200
_MOST_DECISIONS = 100
_MOST_REASONS = 6
_MANY = 8


def escape(text: str) -> str:
  """Returns a text as HTML, with Python escapes for unprintable characters."""
  return html.escape(
    "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
  )


def render(run: Run) -> str:
  """Returns the page of a run as a complete HTML document."""
  body = "\n".join(
    [
      f"<h1>{escape(title(run))}</h1>",
      f'<p class="soft">{escape(subtitle(run))}</p>',
      _notes(run),
      _cards(run),
      _samples(run),
      _evaluation(run),
      _section("Training", _charts(training_charts(run))),
      _monitor(run),
      _section("Singular values", _charts(singular_value_charts(run))),
      _section("Changed settings", _facts(changed_settings(run))),
      _section("Speed", _charts(other_charts(run, _is_speed))),
      _section("Wall time", _facts(goodput.table(run.events))),
      _section("Other signals", _charts(other_charts(run, _is_other))),
      _events(run),
      _origin(run),
    ]
  )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{escape(title(run))}</title>\n<style>{CSS}</style>\n</head>\n"
    f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def _is_speed(name: str) -> bool:
  # FLOP totals grow linearly; a card shows the last value.
  return name.startswith("perf/") and not name.endswith("_flops")


def _is_evaluation(name: str) -> bool:
  return name.startswith("eval/")


def _is_other(name: str) -> bool:
  return not name.startswith("perf/") and not _is_evaluation(name)


def _section(heading: str, content: str) -> str:
  """Returns a section of the page, or "" if there is no content."""
  if not content:
    return ""
  return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>"


def _notes(run: Run) -> str:
  notes = list(run.notes)
  notes += [missing.as_text() for missing in missing_scores(run)]
  if not run.rows:
    notes.append("No step has been logged yet.")
  if not notes:
    return ""
  items = "".join(f"<li>{escape(note)}</li>" for note in notes)
  return f'<ul class="notes">{items}</ul>'


def _cards(run: Run) -> str:
  shown = "".join(
    f'<div class="card"><span>{escape(card.label)}</span>'
    f"<b>{escape(card.value)}</b><span>{escape(card.remark)}</span></div>"
    for card in cards(run)
  )
  facts = _facts(headline(run))
  return (f'<div class="cards">{shown}</div>' if shown else "") + facts


def _facts(facts: Iterable[tuple[str, str]]) -> str:
  rows = "".join(
    f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
    for name, value in facts
  )
  if not rows:
    return ""
  return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def _charts(charts: Iterable[Chart]) -> str:
  charts = list(charts)
  if not charts:
    return ""
  figures = "\n".join(_figure(chart) for chart in charts)
  remark = ""
  if any(chart.thinned for chart in charts):
    remark = (
      '<p class="remark">Many rows: curves are averages over bins, bands show '
      "the minimum and maximum of each bin.</p>"
    )
  return f'{remark}<div class="charts">\n{figures}\n</div>'


def _figure(chart: Chart) -> str:
  legend = ""
  entries = [entry for entry in chart.legend if entry[0] != chart.title]
  if entries:
    items = "".join(
      f'<li><i style="border-top:3px {style} {color}"></i>{escape(label)}</li>'
      for label, color, style in entries
    )
    many = " many" * (len(entries) > _MANY)
    legend = f'<ul class="legend{many}">{items}</ul>'
  remark = (
    f'<p class="remark">{escape(chart.remark)}</p>' if chart.remark else ""
  )
  svg = chart.svg.replace("<svg", '<svg role="img"', 1)
  return (
    f'<figure class="chart"><h3>{escape(chart.title)}</h3>{svg}'
    f"{legend}{remark}</figure>"
  )


def _samples(run: Run) -> str:
  if not run.samples:
    return ""
  *earlier, last = run.samples
  if len(earlier) > _EARLIER_SAMPLES:
    stride = (len(earlier) - 1) / (_EARLIER_SAMPLES - 1)
    earlier = [earlier[round(i * stride)] for i in range(_EARLIER_SAMPLES)]
  figures = "".join(_image(run, sample, width=480) for sample in earlier)
  strip = f'<div class="samples">{figures}</div>' if figures else ""
  last_figure = f'<div class="last">{_image(run, last, width=1280)}</div>'
  return _section("Samples", f'<div class="growth">{strip}{last_figure}</div>')


def _image(run: Run, sample: Sample, width: int) -> str:
  caption = f"step {sample.step:,}"
  if sample.kimg is not None:
    caption += f", {number(sample.kimg)} kimg"
  kind, content = _fitted(run.place.read(sample.name), width)
  source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
  return (
    f'<figure><img src="{source}" alt="samples at {caption}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _fitted(content: bytes, width: int) -> tuple[str, bytes]:
  """Returns the format and bytes of an image; large images are shrunk."""
  if len(content) <= _EMBEDDED_BYTES:
    return "png", content
  from PIL import Image

  try:
    with Image.open(io.BytesIO(content)) as picture:
      picture.thumbnail((width, 4 * width))
      smaller = io.BytesIO()
      picture.convert("RGB").save(smaller, format="JPEG", quality=90)
  except (OSError, SyntaxError, ValueError):
    # The file is truncated or corrupt; the browser shows what it can.
    return "png", content
  return "jpeg", smaller.getvalue()


def _evaluation(run: Run) -> str:
  first = (distance_chart(run), class_share_chart(run))
  others = other_charts(run, _is_evaluation)
  content = _charts([*filter(None, first), *others])
  table = evaluations(run)
  if table.rows:
    best = best_evaluation(run)
    content += (
      f"<details><summary>{len(table.rows)} evaluations</summary>"
      f"{_table(table.header, table.rows, best)}</details>"
    )
  return _section("Evaluation", content)


def _table(
  header: list[str], rows: list[list[str]], best: int | None = None
) -> str:
  """Returns a table of numbers, with the row `best` highlighted."""
  head = "".join(f'<th class="number">{escape(name)}</th>' for name in header)
  body = "".join(
    f"<tr{' class=best' * (i == best)}>"
    + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row)
    + "</tr>"
    for i, row in enumerate(rows)
  )
  return (
    f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
    f"<tbody>{body}</tbody></table></div>"
  )


def _monitor(run: Run) -> str:
  """Returns the section with the monitor's decisions and signals."""
  made = decisions(run)
  if not (run.rows or made):
    return ""
  facts = _facts(summary(run))
  table = _decisions(made)
  return _section("Monitor", facts + table + _charts(signal_charts(run)))


def _decisions(made: list[LoggedDecision]) -> str:
  if not made:
    return ""
  shown = made[-_MOST_DECISIONS:]
  left_out = len(made) - len(shown)
  remark = (
    f'<p class="remark">{left_out} earlier decisions are in events.jsonl.</p>'
    if left_out
    else ""
  )
  return (
    '<div class="scroll"><table class="decisions"><thead><tr>'
    '<th class="number">step</th><th class="number">attempt</th>'
    '<th>decision</th><th>signal</th><th class="number">value</th>'
    '<th class="number">reference</th><th>rule</th></tr></thead>'
    f"<tbody>{''.join(map(_decision, shown))}</tbody></table></div>{remark}"
  )


def _decision(decision: LoggedDecision) -> str:
  """Returns one table row per reason, or one row if there are no reasons."""
  reasons = decision.reasons[:_MOST_REASONS]
  more = len(decision.reasons) - len(reasons)
  bodies = [
    f"<td>{escape(reason.signal)}</td>"
    f'<td class="number">{escape(reason.value)}</td>'
    f'<td class="number">{escape(reason.reference)}</td>'
    f"<td>{escape(reason.rule)}</td>"
    for reason in reasons
  ]
  texts = [decision.text] * bool(decision.text) + [f"{more} more"] * (more > 0)
  bodies += [f'<td colspan="4">{escape(text)}</td>' for text in texts]
  bodies = bodies or ['<td colspan="4"></td>']
  span = f' rowspan="{len(bodies)}"'
  kind = decision.kind if decision.is_level else "act"
  first = (
    f'<td class="number"{span}>{escape(decision.step)}</td>'
    f'<td class="number"{span}>{decision.attempt}</td>'
    f'<td{span}><b class="level {escape(kind)}">{escape(decision.kind)}</b>'
    "</td>"
  )
  return "".join(
    f"<tr>{first if i == 0 else ''}{body}</tr>" for i, body in enumerate(bodies)
  )


def _events(run: Run) -> str:
  if not run.events:
    return ""
  rows = []
  for event in run.events[-_MOST_EVENTS:]:
    rest = ", ".join(
      f"{key}={_event_value(value)}"
      for key, value in event.items()
      if key not in ("event", "step", "time")
    )
    step = event.get("step")
    rows.append(
      f"<tr><td>{escape(_clock(event.get('time')))}</td>"
      f'<td class="number">{escape("" if step is None else str(step))}</td>'
      f"<td>{escape(str(event.get('event', '')))}</td>"
      f'<td class="mono">{escape(rest)}</td></tr>'
    )
  left_out = len(run.events) - len(rows)
  remark = (
    f'<p class="remark">{left_out} earlier events are in events.jsonl.</p>'
    if left_out
    else ""
  )
  return _section(
    "Events",
    '<div class="scroll"><table><thead><tr><th>time (UTC)</th>'
    '<th class="number">step</th><th>event</th><th>details</th></tr></thead>'
    f"<tbody>{''.join(rows)}</tbody></table></div>{remark}",
  )


def _event_value(value: Any) -> str:
  if isinstance(value, (dict, list)):
    return json.dumps(value, ensure_ascii=False)
  return number(value) if isinstance(value, float) else str(value)


def _clock(seconds: Any) -> str:
  try:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
  except (TypeError, ValueError, OverflowError, OSError):
    return ""
  return moment.strftime("%Y-%m-%d %H:%M:%S")


def _origin(run: Run) -> str:
  """Returns the section with the run's command, settings and versions."""
  content = ""
  if run.command:
    content += f"<p><code>{escape(shlex.join(run.command))}</code></p>"
  if run.spec:
    settings = _facts(_settings(run.spec))
    content += f"<details><summary>Resolved spec</summary>{settings}</details>"
  if run.versions:
    versions = ((name, str(value)) for name, value in run.versions.items())
    content += (
      f"<details><summary>Versions</summary>{_facts(versions)}</details>"
    )
  return _section("Origin", content)


def _settings(
  tree: dict[str, Any], prefix: str = ""
) -> Iterable[tuple[str, str]]:
  """Yields the path and text of each field. A schedule counts as one field."""
  for key, value in tree.items():
    if isinstance(value, dict) and set(value) != {"first", "last", "kimg"}:
      yield from _settings(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", _setting(value)


def _setting(value: Any) -> str:
  if isinstance(value, dict):
    first, last, kimg = value["first"], value["last"], value["kimg"]
    if first == last:
      return str(first)
    return f"{first} to {last} over {kimg} kimg, cosine"
  if isinstance(value, list):
    return ", ".join(map(str, value)) or "none"
  return str(value)
