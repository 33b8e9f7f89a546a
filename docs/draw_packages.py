"""Writes docs/design/packages.svg from the import rules in tests/test_house.py.

python -m docs.draw_packages

Packages that import each other, by different modules, share a frame. An arrow
is left out if other arrows already lead from its start to its end.
"""

import pathlib
from collections.abc import Iterator

from tests.test_house import FREE, PACKAGE, RULES

PAGE = pathlib.Path(__file__).parent / "design" / "packages.svg"

# Centers of the boxes. A package without a place is an error.
PLACES = {
  "cli": (380, 34),
  "bench": (200, 106),
  "plan": (380, 106),
  "interop": (560, 106),
  "monitor": (200, 204),
  "scaling": (380, 204),
  "report": (560, 204),
  "train": (380, 276),
  "metrics": (460, 368),
  "sampling": (390, 440),
  "losses": (110, 512),
  "models": (270, 512),
  "ops": (190, 584),
  "parallel": (420, 584),
  "data": (600, 584),
  "spec": (380, 656),
}
_WIDTH, _HEIGHT = 104, 34
_SPEC_WIDTH = 640
_FRAME = 22

_Edge = tuple[str, str]


def packages() -> list[str]:
  """Returns the names of the packages, `spec` left out."""
  folders = (path.parent.name for path in PACKAGE.glob("*/__init__.py"))
  return sorted(name for name in folders if name not in (*FREE, "configs"))


def edges() -> set[_Edge]:
  """Returns who may import whom, by package, `cli` left out."""
  found = set()
  for pattern, targets in RULES:
    for name in packages():
      parts = pattern.split("|")
      if name != "cli" and any(part.startswith(f"{name}/") for part in parts):
        found |= {(name, target.split("/")[0]) for target in targets}
  return {(a, b) for a, b in found if a != b}


def reachable(start: str, graph: set[_Edge]) -> set[str]:
  """Returns the packages that arrows lead to from `start`."""
  found: set[str] = set()
  waiting = [start]
  while waiting:
    name = waiting.pop()
    new = {b for a, b in graph if a == name} - found
    found |= new
    waiting += new
  return found


def frame(graph: set[_Edge]) -> list[str]:
  """Returns the packages that import each other."""
  return [name for name in packages() if name in reachable(name, graph)]


def arrows() -> list[_Edge]:
  """Returns the arrows to draw, `FRAME` standing for the framed packages."""
  graph = edges()
  framed = frame(graph)

  def outer(name: str) -> str:
    return "FRAME" if name in framed else name

  between = {(outer(a), outer(b)) for a, b in graph}
  between = {(a, b) for a, b in between if a != b}
  needed = {
    (a, b) for a, b in between if b not in reachable(a, between - {(a, b)})
  }
  inside = {(a, b) for a, b in graph if {a, b} <= set(framed)}
  tops = {outer(name) for name in packages() if name != "cli"}
  tops -= {b for _, b in needed}
  return sorted(needed | inside | {("cli", top) for top in tops})


def page() -> str:
  """Returns the picture as SVG."""
  framed = frame(edges())
  boxes = {name: PLACES[name] for name in [*packages(), "spec"]}
  shapes = [*_frame([boxes[name] for name in framed])]
  corners = _corners([boxes[name] for name in framed])
  for start, end in arrows():
    shapes.append(_arrow(start, end, corners))
  for name, (x, y) in boxes.items():
    shapes += _box(name, x, y)
  return "\n".join([*_HEAD, *shapes, "</svg>", ""])


_HEAD = (
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 690" '
  'font-family="sans-serif" font-size="15" text-anchor="middle">',
  "<title>Packages of bigscale and the packages they may import</title>",
  '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" '
  'markerWidth="8" markerHeight="8" orient="auto-start-reverse">'
  '<path d="M0 0 8 4 0 8z" fill="#5c6bc0"/></marker></defs>',
  '<rect width="760" height="690" fill="#ffffff"/>',
)


def _box(name: str, x: float, y: float) -> Iterator[str]:
  width = _SPEC_WIDTH if name == "spec" else _WIDTH
  label = "spec (imported by every package)" if name == "spec" else name
  yield (
    f'<rect x="{x - width / 2:g}" y="{y - _HEIGHT / 2:g}" width="{width}" '
    f'height="{_HEIGHT}" rx="6" fill="#e8eaf6" stroke="#3949ab"/>'
  )
  yield f'<text x="{x}" y="{y + 5}" fill="#1a237e">{label}</text>'


def _corners(places: list[tuple[int, int]]) -> tuple[float, ...]:
  """Returns left, top, right and bottom of the frame around boxes."""
  xs, ys = zip(*places, strict=True)
  across, down = _WIDTH / 2 + _FRAME, _HEIGHT / 2 + _FRAME
  return min(xs) - across, min(ys) - down, max(xs) + across, max(ys) + down


def _frame(places: list[tuple[int, int]]) -> Iterator[str]:
  left, top, right, bottom = _corners(places)
  yield (
    f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" '
    f'height="{bottom - top:g}" rx="10" fill="#f5f5f5" stroke="#9fa8da" '
    'stroke-dasharray="5 4"/>'
  )


def _arrow(start: str, end: str, corners: tuple[float, ...]) -> str:
  """Returns a line from the edge of one box to the edge of another."""
  (x1, y1), (x2, y2) = (
    _leaving(a, _center(a, b, corners), _center(b, a, corners))
    for a, b in ((start, end), (end, start))
  )
  return (
    f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" '
    'stroke="#5c6bc0" marker-end="url(#head)"/>'
  )


def _center(
  name: str, other: str, corners: tuple[float, ...]
) -> tuple[float, float]:
  """Returns the center of a box, or the frame's point nearest to `other`."""
  if name != "FRAME":
    return PLACES[name]
  left, top, right, bottom = corners
  x, y = PLACES[other]
  return min(max(x, left + 30), right - 30), bottom if y > bottom else top


def _leaving(
  name: str, center: tuple[float, float], to: tuple[float, float]
) -> tuple[float, float]:
  """Returns where the line from a box's center to a point leaves the box."""
  if name == "FRAME":
    return center
  dx, dy = to[0] - center[0], to[1] - center[1]
  across = _WIDTH / 2 / abs(dx) if dx else float("inf")
  down = _HEIGHT / 2 / abs(dy) if dy else float("inf")
  scale = min(across, down)
  return center[0] + dx * scale, center[1] + dy * scale


if __name__ == "__main__":
  PAGE.write_text(page())
