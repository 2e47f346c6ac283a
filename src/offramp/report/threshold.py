"""The threshold explorer: accuracy against cost of one trained network as its thresholds move.

The operating points come from the trial (`detail["curve"]`, made by the exact solver on validation data); nothing is
computed in the browser but which of them is shown.
"""

from html import escape
from typing import Any

from offramp.ir.trial import Trial
from offramp.report.study import StudyReport
from offramp.report.text import exits_of

KEYS = ("accuracy", "energy_uj", "latency_ms", "thresholds", "exit_rates")


def curve_of(trial: Trial) -> list[dict[str, Any]]:
    """The operating points of a trial by rising accuracy; empty when it has none."""
    given = trial.details.get("curve", [])
    return sorted(({k: p.get(k) for k in KEYS} for p in given), key=lambda p: (p["accuracy"], p["energy_uj"] or 0.0))


def explorer_data(report: StudyReport) -> list[dict[str, Any]]:
    """Name, exits and operating points of every point of the front that has some, the knee first."""
    knee = report.knee.number if report.knee else None
    order = sorted((t for t, _ in report.front), key=lambda t: t.number != knee)
    now = {t.number: m.energy_uj for t, m in report.front}
    rows = [
        {
            "number": t.number,
            "exits": exits_of(t),
            "points": curve_of(t),
            "knee": t.number == knee,
            "now": now[t.number],
        }
        for t in order
    ]
    return [row for row in rows if row["points"]]


def explorer_html(report: StudyReport) -> str:
    """The section, or nothing when no point has a curve; `page.js` brings it to life."""
    rows = explorer_data(report)
    if not rows:
        return ""
    options = "".join(
        f'<option value="{k}">trial {row["number"]}{" (knee)" if row["knee"] else ""}</option>'
        for k, row in enumerate(rows)
    )
    note = "Each position of the slider is one setting of the thresholds, solved on validation data."
    return (
        '<section id="thresholds"><h2>Threshold explorer</h2>'
        f'<p class="note">{escape(note)} The network and its weights stay the same.</p>'
        f'<div class="controls"><label>network <select id="explorer-trial">{options}</select></label>'
        '<label class="wide">operating point <input type="range" id="explorer-point" min="0" value="0"></label></div>'
        '<div class="pair"><div class="figure" id="explorer-figure"></div><div id="explorer-table"></div></div>'
        "</section>"
    )
