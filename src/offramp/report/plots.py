"""The figures of a report: Plotly figures as plain dictionaries, and the front as an SVG for a README.

Plotly draws them in the reader's browser; nothing is drawn here but the SVG, which is written by hand so that no
second plotting library is needed. Colours follow Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from offramp.ir.pareto import front_indices
from offramp.ir.trial import Metrics, Status, Trial
from offramp.report.study import StudyReport
from offramp.report.text import MARK, bits_short, cores_short, exits_short, percent, significant

FRONT, KNEE, STATIC, FAINT, BROKEN = "#0072b2", "#d55e00", "#009e73", "#8a94a3", "#cc79a7"
COST_TITLES = {"energy_uj": "energy per inference (µJ)", "latency_ms": "latency per inference (ms)"}
Figure = dict[str, Any]
Points = Sequence[tuple[Trial, Metrics]]


def hover(trial: Trial, metrics: Metrics) -> str:
    """What a point says when it is pointed at (Plotly's own small HTML, escaped)."""
    lines = [
        f"<b>trial {trial.number}</b>",
        f"accuracy {percent(metrics.accuracy_val)} (validation)",
        f"{significant(metrics.energy_uj)} µJ, {significant(metrics.latency_ms)} ms",
        f"early exits after blocks: {escape(exits_short(trial))}",
        f"weight bits × layers: {escape(bits_short(trial))}",
        f"layers on cores: {escape(cores_short(trial))}",
    ]
    return "<br>".join(lines)


def _markers(points: Points, cost: str, name: str, marker: dict[str, Any], **more: Any) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [float(getattr(m, cost)) for _, m in points],
        "y": [100 * m.accuracy_val for _, m in points],
        "text": [hover(t, m) for t, m in points],
        "customdata": [t.number for t, _ in points],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
        **more,
    }


def _stairs(points: Points, cost: str) -> Figure:
    """The line of the best points in this very picture."""
    pairs = [(float(getattr(m, cost)), -m.accuracy_val) for _, m in points]
    best = [pairs[i] for i in front_indices(pairs)]
    line = {"color": FRONT, "width": 2, "shape": "hv"}
    xs, ys = [x for x, _ in best], [-100 * y for _, y in best]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "line": line,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def front_figure(report: StudyReport, cost: str) -> Figure:
    """Accuracy against a cost: every trial faint, the front bold, the knee and the static network marked.

    Args:
        cost: `energy_uj` or `latency_ms`.
    """
    others = [p for p in report.evaluated if p not in report.front]
    broken = [(t, t.metrics) for t in report.trials if t.status is Status.INFEASIBLE and t.metrics is not None]
    knee = [p for p in report.front if report.knee is not None and p[0].number == report.knee.number]
    traces = [_markers(others, cost, "trials", {"color": FAINT, "size": 7, "opacity": 0.45})]
    if broken:
        marker = {"color": BROKEN, "size": 7, "opacity": 0.6, "symbol": "x-thin-open"}
        traces.append(_markers(broken, cost, "infeasible", marker))
    if report.beaten:
        traces.append(
            _markers(report.beaten, cost, "finished, but beaten", {"color": FRONT, "size": 8, "opacity": 0.45})
        )
    traces.append(_stairs(report.front, cost))
    ring = {"color": FRONT, "size": 11, "line": {"width": 1.5, "color": "#ffffff"}}
    traces.append(_markers(report.front, cost, "front", ring))
    traces.append(_markers(knee, cost, "knee", {"color": KNEE, "size": 17, "symbol": "star"}))
    if report.static is not None and report.static.metrics is not None:
        marker = {"color": STATIC, "size": 14, "symbol": "diamond"}
        static = _markers([(report.static, report.static.metrics)], cost, "static", marker)
        static["text"] = [static["text"][0].replace(f"trial {report.static.number}", "static network")]
        traces.append(static | {"customdata": ["static"]})
    axes = {
        "xaxis": {"title": {"text": COST_TITLES[cost]}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "accuracy, validation (%)"}},
    }
    return {"data": traces, "layout": axes | {"legend": {"orientation": "h", "y": 1.12, "x": 0}}}


def progress_figure(report: StudyReport) -> Figure:
    """Hypervolume over trials."""
    numbers, volumes = [n for n, _ in report.hypervolume], [v for _, v in report.hypervolume]
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": numbers,
        "y": volumes,
        "line": {"color": FRONT, "width": 2.5, "shape": "hv"},
        "fill": "tozeroy",
        "fillcolor": "rgba(0,114,178,0.10)",
        "hovertemplate": "trial %{x}: %{y:.3f}<extra></extra>",
    }
    axes = {
        "xaxis": {"title": {"text": "trial"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "hypervolume"}, "rangemode": "tozero"},
    }
    return {"data": [line], "layout": axes | {"showlegend": False}}


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two bounds."""
    raw = (high - low) / wanted or 1.0
    magnitude = 10.0 ** np.floor(np.log10(raw))
    step = float(min((m for m in (1, 2, 5, 10) if m * magnitude >= raw), default=10) * magnitude)
    first = int(np.ceil(low / step - 1e-9))
    return [step * k for k in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def front_svg(report: StudyReport, cost: str = "energy_uj", *, width: int = 720, height: int = 420) -> str:
    """The front as a small SVG picture: the same marks as `front_figure`, readable on light and dark pages."""
    points = [(float(getattr(m, cost)), 100 * m.accuracy_val) for _, m in report.evaluated]
    static = report.static.metrics if report.static else None
    fixed = [(float(getattr(static, cost)), 100 * static.accuracy_val)] if static else []
    if not points:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"><desc>{MARK}</desc></svg>'
    chosen = [(float(getattr(m, cost)), 100 * m.accuracy_val) for _, m in report.front]
    every = np.array(points + chosen + fixed)
    span = max(float(np.ptp(every[:, 1])), 0.5)
    right, bottom, top = every[:, 0].max() * 1.05, every[:, 1].min() - 0.08 * span, every[:, 1].max() + 0.08 * span
    left_edge, lower_edge, upper_edge = 64, height - 52, 34

    def at(x: float, y: float) -> tuple[float, float]:
        across = left_edge + (width - left_edge - 20) * x / right
        return round(across, 1), round(lower_edge - (lower_edge - upper_edge) * (y - bottom) / (top - bottom), 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        f'font-size="13"><desc>{MARK}</desc><rect width="{width}" height="{height}" fill="#ffffff"/>'
    ]
    for x in _ticks(0.0, right):
        px, _ = at(x, bottom)
        out.append(f'<path d="M{px} {lower_edge}V{upper_edge}" stroke="#e3e7ec"/>')
        out.append(f'<text x="{px}" y="{lower_edge + 18}" text-anchor="middle" fill="#4a5260">{x:g}</text>')
    for y in _ticks(bottom, top):
        _, py = at(0.0, y)
        out.append(f'<path d="M{left_edge} {py}H{width - 20}" stroke="#e3e7ec"/>')
        out.append(f'<text x="{left_edge - 8}" y="{py + 4}" text-anchor="end" fill="#4a5260">{y:g}</text>')
    middle = (left_edge + width - 20) // 2
    out.append(f'<text x="{middle}" y="{height - 12}" text-anchor="middle" fill="#1d2430">{COST_TITLES[cost]}</text>')
    out.append(f'<text x="{left_edge}" y="20" fill="#1d2430">{escape(report.title)}: accuracy, validation (%)</text>')
    out += _svg_marks(at, points, chosen, fixed)
    return "".join(out) + "</svg>\n"


def _svg_marks(at: Any, points: Any, chosen: Any, fixed: Any) -> list[str]:
    out = []
    for x, y in points:
        px, py = at(x, y)
        out.append(f'<circle cx="{px}" cy="{py}" r="3.5" fill="{FAINT}" opacity="0.4"/>')
    best = [chosen[i] for i in front_indices([(x, -y) for x, y in chosen])]
    steps = [at(*best[0])] if best else []
    for (_, before), (x, y) in pairwise(best):
        steps += [at(x, before), at(x, y)]
    path = "L".join(f"{px} {py}" for px, py in steps)
    out.append(f'<path d="M{path}" fill="none" stroke="{FRONT}" stroke-width="2"/>')
    for x, y in chosen:
        px, py = at(x, y)
        out.append(f'<circle cx="{px}" cy="{py}" r="5.5" fill="{FRONT}" stroke="#ffffff"/>')
    for x, y in fixed:
        px, py = at(x, y)
        out.append(f'<path d="M{px} {py - 8}l8 8l-8 8l-8 -8z" fill="{STATIC}"/>')
        out.append(f'<text x="{px - 12}" y="{py + 4}" text-anchor="end" fill="{STATIC}">static</text>')
    return out
