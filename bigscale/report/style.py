"""The style sheet of the page, for light and dark, narrow and wide screens."""

# Colors of the monitor's verdicts in tables and drawings.
LEVEL_COLORS = {
  "ok": "#4cae6e",
  "warn": "#d9a02b",
  "rollback": "#d6453d",
  "stop": "#8c2f39",
}

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #22262b; --soft: #6a717b;
  --line: #e3e3de; --accent: #2a6fb5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1c2024; --ink: #e3e6e9; --soft: #98a0aa;
    --line: #30363c; --accent: #6cace8;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .35rem; }
h2 {
  font-size: 1.1rem; margin: 2.6rem 0 .8rem; padding-top: .9rem;
  border-top: 1px solid var(--line);
}
p { margin: .3rem 0; }
.soft, figcaption, .remark { color: var(--soft); }
.remark { font-size: .8rem; }
code, .mono {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
    monospace;
  font-size: .86em; overflow-wrap: anywhere;
}
.notes {
  margin: 1rem 0; padding: .6rem 1rem; border-left: 3px solid #d99a2b;
  background: var(--card); list-style: none;
}
.cards {
  display: grid; gap: .8rem; margin: 1.4rem 0;
  grid-template-columns: repeat(auto-fit, minmax(165px, 1fr));
}
.card, figure.chart {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
}
.card { padding: .75rem .95rem; }
.card b {
  display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums;
}
.card span { display: block; font-size: .82rem; color: var(--soft); }
.charts {
  display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr));
}
.remark + .charts { margin-top: .7rem; }
figure { margin: 0; min-width: 0; }
figure.chart { padding: .7rem .8rem .8rem; }
figure.chart h3 {
  font-size: .9rem; font-weight: 600; margin: 0 0 .3rem;
  overflow-wrap: anywhere;
}
figure.chart svg { display: block; width: 100%; height: auto; }
figure.chart svg text { font-family: inherit !important; }
.legend {
  display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .35rem 0 0;
  padding: 0; list-style: none; font-size: .8rem; color: var(--soft);
}
.legend.many { font-size: .7rem; gap: 0 .7rem; }
.legend li { overflow-wrap: anywhere; }
.legend i {
  display: inline-block; width: 1.3em; height: 0; margin-right: .4em;
  vertical-align: .25em;
}
.growth { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.samples {
  flex: 1 1 300px; align-content: start; display: grid; gap: .8rem;
  grid-template-columns: repeat(2, 1fr);
}
.last { flex: 1.75 1 420px; max-width: 680px; }
.samples img, .last img {
  display: block; width: 100%; height: auto; border-radius: 6px;
}
figcaption { font-size: .82rem; margin-top: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; width: 100%; }
th, td {
  text-align: left; vertical-align: top; padding: .32rem .9rem .32rem 0;
  border-bottom: 1px solid var(--line);
}
th { font-weight: 600; color: var(--soft); }
td.number, th.number {
  text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
}
tr.best td { color: var(--accent); font-weight: 600; }
table.decisions td { overflow-wrap: anywhere; }
.level { border-left: .6em solid var(--soft); padding-left: .45em; }
.level { font-weight: 600; white-space: nowrap; }
table.facts th { width: 17rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); }
@media print { main { max-width: none; } figure { break-inside: avoid; } }
""" + "".join(
  f".level.{level} {{ border-color: {color}; }}\n"
  for level, color in LEVEL_COLORS.items()
)
