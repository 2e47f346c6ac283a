"""One self-contained HTML page about a study: it opens offline, the Plotly script is inside, once.

The page takes values (`report.study`) and knows no journal and no torch. Whatever comes from a file or a user is
escaped; figures reach the browser as JSON in which `<` cannot end the script.
"""

import json
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from offramp.ir.trial import Metrics, Trial
from offramp.report.plots import front_figure, progress_figure
from offramp.report.point import core_colours, point_html, rate_cell, table_html, versus
from offramp.report.study import POINTS_LOST, StudyReport
from offramp.report.text import MARK, bits_short, change, cores_short, exits_short, percent, quantity
from offramp.report.threshold import explorer_data, explorer_html


def write_report(path: Path, report: StudyReport) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: the folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(page_html(report), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def page_html(report: StudyReport) -> str:
    """The whole page as text."""
    own = files("offramp.report")
    style, script = (own.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = [_header(report), _cards(report), _charts(report), _front_table(report), _points(report)]
    body += [explorer_html(report), _progress(report), _unsuccessful(report), _provenance(report)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{MARK}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{style}</style></head>\n<body><main>{''.join(body)}</main>\n"
        f'<script type="application/json" id="report-data">{_json(_data(report))}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>{script}</script></body></html>\n"
    )


def _data(report: StudyReport) -> dict[str, Any]:
    figures = {}
    if report.evaluated:
        figures = {
            "energy-figure": front_figure(report, "energy_uj"),
            "latency-figure": front_figure(report, "latency_ms"),
        }
        figures["progress-figure"] = progress_figure(report)
    return {"figures": figures, "explorer": explorer_data(report)}


def _json(value: Any) -> str:
    """JSON that is safe inside a script element; infinity and NaN, which JSON has not, become null."""
    return (
        json.dumps(_finite(value), allow_nan=False)
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _header(report: StudyReport) -> str:
    told = ", ".join(o.removesuffix("_uj").removesuffix("_ms").replace("_", " ") for o in report.objectives)
    count = f"{len(report.trials)} trials, {len(report.evaluated)} evaluated, {len(report.unsuccessful)}"
    note = f"{count} infeasible or failed; objectives: {told}."
    return f'<header><h1>{escape(report.title)}</h1><p class="note">{escape(note)}</p></header>'


def _card(figure: str, text: str) -> str:
    return f'<div class="card"><b>{escape(figure)}</b><span>{escape(text)}</span></div>'


def _cards(report: StudyReport) -> str:
    """The answer first: what the best points save at half a point of accuracy lost."""
    cards = []
    static = report.static.metrics if report.static else None
    if static:
        cards.append(_card(percent(static.accuracy_val), f"static network, {quantity('energy_uj', static.energy_uj)}, "
                           f"{quantity('latency_ms', static.latency_ms)}"))  # fmt: skip
        for key, name in (("energy_uj", "energy"), ("latency_ms", "latency")):
            best = report.best_within(key)
            lost = f"at most {100 * POINTS_LOST:g} points lost (validation)"
            if best is None:
                cards.append(_card("–", f"{name}: no point with {lost}"))
            else:
                figure = change(getattr(best[1], key), getattr(static, key))
                cards.append(_card(figure, f"{name}, {lost}: trial {best[0].number}"))
    knee = report.knee
    if knee and knee.metrics:
        text = f"knee, trial {knee.number}: {quantity('energy_uj', knee.metrics.energy_uj)}"
        cards.append(
            _card(percent(knee.metrics.accuracy_val), f"{text}, {quantity('latency_ms', knee.metrics.latency_ms)}")
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _charts(report: StudyReport) -> str:
    if not report.evaluated:
        return '<section><h2>The front</h2><p class="note">It is empty: no trial was evaluated.</p></section>'
    note = "Up and to the left is better. Click a point of the front to see the network."
    return (
        f'<section><h2>The front</h2><p class="note">{note}</p><div class="pair">'
        '<div class="figure" id="energy-figure"></div><div class="figure" id="latency-figure"></div></div></section>'
    )


MARKS = {"knee": " ★", "beaten": " <small>finished, but beaten</small>"}
HEAD = ("network", "accuracy, val.", "test", "energy", "latency", "worst latency", "MACs", "peak memory")


def _front_table(report: StudyReport) -> str:
    if not report.front:
        return ""
    rows = []
    if report.static and report.static.metrics:
        rows.append(_front_row(report, report.static, report.static.metrics, "static"))
    rows += [_front_row(report, t, m, "knee" if t is report.knee else "") for t, m in report.front]
    rows += [_front_row(report, t, m, "beaten") for t, m in report.beaten]
    head = [*HEAD, "exits after", "leave early", "weight bits × layers", "layers on cores"]
    return f'<section id="front"><h2>Points of the front</h2>{table_html(head, rows)}</section>'


def _front_row(report: StudyReport, trial: Trial, metrics: Metrics, kind: str) -> str:
    static = report.static.metrics if report.static and kind != "static" else None
    name = "static" if kind == "static" else f'<a href="#trial-{trial.number}">trial {trial.number}</a>'
    test = percent(metrics.accuracy_test) if metrics.accuracy_test is not None else "–"
    cells = [percent(metrics.accuracy_val), test]
    for key in ("energy_uj", "latency_ms"):
        value = float(getattr(metrics, key))
        cells.append(f"{quantity(key, value)} {versus(value, getattr(static, key) if static else None)}")
    cells += [quantity(k, float(getattr(metrics, k))) for k in ("worst_latency_ms", "macs", "peak_bytes")]
    early = rate_cell(sum(trial.exit_rates[:-1])) if len(trial.exit_rates) > 1 else "<td>–</td>"
    text = [exits_short(trial), bits_short(trial), cores_short(trial)]
    return (
        f'<tr class="{kind}"><td class=left>{name}{MARKS.get(kind, "")}</td>'
        f"{''.join(f'<td>{c}</td>' for c in cells)}<td>{escape(text[0])}</td>{early}"
        f"<td class=wrap>{escape(text[1])}</td><td class=wrap>{escape(text[2])}</td></tr>"
    )


def _points(report: StudyReport) -> str:
    if not report.front:
        return ""
    networks = report.front + report.beaten
    colours = core_colours([t for t, _ in networks])
    points = "".join(point_html(report, t, m, colours) for t, m in networks)
    note = "Predicted figures are expected values over the exits."
    return f'<section><h2>Each network of the front</h2><p class="note">{note}</p>{points}</section>'


def _progress(report: StudyReport) -> str:
    if not report.evaluated:
        return ""
    told = ", ".join(report.objectives)
    note = f"Hypervolume of ({told}) over trials: 1 would be one network with the best of everything that was seen."
    return (
        f'<section><h2>Progress of the search</h2><p class="note">{escape(note)}</p>'
        '<div class="figure low" id="progress-figure"></div></section>'
    )


def _unsuccessful(report: StudyReport) -> str:
    if not report.unsuccessful:
        return ""
    rows = [
        f"<tr><td class=left>{t.number}</td><td class=left>{escape(t.status)}</td>"
        f'<td class="left wrap">{escape(t.reason or "no reason was given")}</td>'
        f"<td class=left>{escape(exits_short(t))}</td></tr>"
        for t in report.unsuccessful
    ]
    table = table_html(["trial", "status", "reason", "exits after"], rows, left=4)
    folded = f"<details><summary>{len(rows)} of {len(report.trials)}</summary>{table}</details>"
    return f"<section><h2>Infeasible and failed trials</h2>{folded}</section>"


def _provenance(report: StudyReport) -> str:
    lines: Sequence[str] = [f"<dt>{escape(k)}</dt><dd><code>{escape(v)}</code></dd>" for k, v in report.meta.items()]
    return f"<section><h2>Where this comes from</h2><dl>{''.join(lines)}</dl></section>" if lines else ""
