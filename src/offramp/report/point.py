"""One network on the page: its exits, its layers on their cores, its predicted and measured cost, beside static."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from offramp.ir.trial import Metrics, Trial
from offramp.report.study import Measured, StudyReport
from offramp.report.text import change, exits_of, exits_short, percent, quantity, significant

CORE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999933", "#7a5195")


def core_colours(trials: Sequence[Trial]) -> dict[str, str]:
    """The same colour for the same core on the whole page."""
    names = dict.fromkeys(core for t in trials for _, core in t.cores)
    return {name: CORE_COLOURS[k % len(CORE_COLOURS)] for k, name in enumerate(names)}


def table_html(head: Sequence[str], rows: Sequence[str], *, left: int = 1) -> str:
    """A table from header texts (escaped here) and rows that are HTML already; the first `left` headers lean left."""
    cells = "".join(f"<th{' class=left' if k < left else ''}>{escape(h)}</th>" for k, h in enumerate(head))
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def rate_cell(rate: float | None) -> str:
    """A share as a bar with its figure."""
    if rate is None:
        return "<td>–</td>"
    return f'<td class="bar" style="--share:{min(max(rate, 0.0), 1.0):.4f}"><i></i><span>{percent(rate, 1)}</span></td>'


def versus(value: float, reference: float | None) -> str:
    """The change against static, green when it falls."""
    if not reference:
        return ""
    told = change(value, reference)
    kind = {"−": "down", "+": "up"}.get(told[0], "same")
    return f'<small class="{kind}">{escape(told)}</small>'


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def _number(value: Any, factor: float = 1.0) -> str:
    return significant(float(value) * factor) if isinstance(value, int | float) else "–"


def _threshold(value: float | None) -> str:
    """None: the final exit; beyond every confidence: an exit that nobody takes."""
    if value is None:
        return "takes all"
    return significant(value, 4) if math.isfinite(value) else "nobody"


def exits_html(trial: Trial, measured: Measured | None) -> str:
    """A row per exit: threshold, rate, accuracy, predicted cost of its stage and up to it, measured time."""
    details = trial.details
    stages, accuracies = details.get("stages", []), details.get("exit_accuracies", [])
    clock = details.get("clock_hz")
    head = ["exit", "threshold", "leaves here", "accuracy if all left here"]
    head += ["backbone, cycles", "branch, cycles", "stage, µJ", "up to here, µJ"] if stages else []
    head += ["up to here, ms"] if stages and clock else []
    head += [f"backbone, ms on {measured.device}", f"branch, ms on {measured.device}"] if measured else []
    rows = []
    for k, name in enumerate(exits_of(trial)):
        threshold, accuracy, stage = _at(trial.thresholds, k), _at(accuracies, k), _at(stages, k) or {}
        cells = [
            f"<td class=left>{escape(name)}</td>",
            f"<td>{_threshold(threshold)}</td>",
        ]
        cells += [rate_cell(_at(trial.exit_rates, k)), f"<td>{percent(accuracy) if accuracy is not None else '–'}</td>"]
        if stages:
            both = float(stage.get("backbone_pj", 0.0)) + float(stage.get("branch_pj", 0.0))
            figures = [_number(stage.get("backbone_cycles")), _number(stage.get("branch_cycles"))]
            figures += [_number(both, 1e-6), _number(stage.get("cumulative_pj"), 1e-6)]
            figures += [_number(stage.get("cumulative_cycles"), 1e3 / float(clock))] if clock else []
            cells += [f"<td>{f}</td>" for f in figures]
        if measured:
            times = _at(measured.stages, k) or (None, None)
            cells += [f"<td>{_number(t)}</td>" for t in times]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return table_html(head, rows)


def _drop_html(trial: Trial) -> str:
    """What the exits are expected to cost on data that chose no threshold."""
    drop = trial.details.get("expected_drop")
    if not isinstance(drop, int | float) or not trial.architecture.exits:
        return ""
    told = f"{'cost' if drop > 0 else 'gain'} {percent(abs(drop))} of accuracy" if drop else "cost no accuracy"
    return f"<p>On fresh data the exits are expected to {told} (cross-validation).</p>"


def layers_html(trial: Trial, colours: dict[str, str]) -> str:
    """Every layer as a tile in its core's colour, with weight and activation bits."""
    cores = dict(trial.cores)
    used = dict.fromkeys(cores.values())
    legend = "".join(f'<span style="--core:{colours.get(c, "#888")}"><i></i>{escape(c)}</span>' for c in used)
    tiles = []
    for name, bits in (dict.fromkeys(cores) | dict(trial.bits)).items():
        core = cores.get(name, "")
        text = f"W{bits[0]} A{bits[1]}" if bits else "no weights"
        tiles.append(
            f'<div class="layer" style="--core:{colours.get(core, "#888")}" title="{escape(core)}">'
            f"{escape(name)}<small>{text}</small></div>"
        )
    return f'<div class="legend">{legend}</div><div class="layers">{"".join(tiles)}</div>'


COSTS = {
    "energy_uj": "expected energy",
    "latency_ms": "expected latency",
    "edp": "energy × latency",
    "worst_energy_uj": "worst-case energy",
    "worst_latency_ms": "worst-case latency",
    "macs": "expected MACs",
    "peak_bytes": "peak memory",
}
"""Fields of `Metrics` by what they are called on the page."""


def cost_html(report: StudyReport, trial: Trial, metrics: Metrics) -> str:
    """Predicted and measured cost of a network beside those of the static one."""
    static = report.static.metrics if report.static else None
    rows = [(text, key, float(getattr(metrics, key)), _field(static, key)) for key, text in COSTS.items()]
    own, base = report.measured.get(trial.number), report.measured.get(-1)
    if own:
        rows.append((f"measured latency on {own.device}", "latency_ms", own.latency_ms, _field(base, "latency_ms")))
    if own and own.energy_uj is not None:
        rows.append((f"measured energy on {own.device}", "energy_uj", own.energy_uj, _field(base, "energy_uj")))
    lines = [
        f"<tr><td class=left>{escape(text)}</td><td>{quantity(key, mine)}</td>"
        f"<td>{quantity(key, theirs) if theirs is not None else '–'}</td><td>{versus(mine, theirs)}</td></tr>"
        for text, key, mine, theirs in rows
    ]
    return table_html(["", "this network", "static", "change"], lines)


def _field(figures: Metrics | Measured | None, key: str) -> float | None:
    value = getattr(figures, key, None)
    return None if value is None else float(value)


def point_html(report: StudyReport, trial: Trial, metrics: Metrics, colours: dict[str, str]) -> str:
    """Everything about one point of the front, folded away unless it is the knee."""
    is_knee = report.knee is not None and trial.number == report.knee.number
    figures = f"{percent(metrics.accuracy_val)} · {quantity('energy_uj', metrics.energy_uj)}"
    figures += f" · {quantity('latency_ms', metrics.latency_ms)} · early exits after blocks: {exits_short(trial)}"
    measured = report.measured.get(trial.number)
    tiles = f"<h3>Layers: core, weight bits (W), activation bits (A)</h3>{layers_html(trial, colours)}"
    return (
        f'<details id="trial-{trial.number}"{" open" if is_knee else ""}>'
        f"<summary>Trial {trial.number}{' (knee)' if is_knee else ''}<span>{escape(figures)}</span></summary>"
        f"<h3>Exits</h3>{exits_html(trial, measured)}{_drop_html(trial)}"
        f'<div class="pair"><div><h3>Cost</h3>{cost_html(report, trial, metrics)}</div><div>{tiles}</div></div>'
        "</details>"
    )
