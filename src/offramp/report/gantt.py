"""A schedule as a drawing: one lane per core, link and memory channel, one bar per layer; a page that opens offline.

It gets bars as plain values and knows nothing of prices; `offramp price --gantt` makes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

COLORS = {
    "backbone": "#4269d0",
    "branch": "#efb118",
    "transfer": "#6cc5b0",
    "spill": "#ff725c",
}
"""Colour of each kind of bar (Observable's palette, readable for most colour-blind eyes)."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that occupies a lane from `start` to `end` (cycles); `detail` lines show when pointed at."""

    lane: str
    label: str
    kind: str
    start: float
    end: float
    detail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment that concerns all lanes, such as an exit's decision."""

    label: str
    at: float


def gantt_html(title: str, bars: Sequence[Bar], marks: Sequence[Mark] = ()) -> str:
    """The drawing as one HTML page with its script inside."""
    lanes = list(dict.fromkeys(bar.lane for bar in bars))
    figure = go.Figure()
    for kind in dict.fromkeys(bar.kind for bar in bars):
        chosen = [bar for bar in bars if bar.kind == kind]
        figure.add_trace(
            go.Bar(
                name=kind,
                orientation="h",
                y=[bar.lane for bar in chosen],
                base=[bar.start for bar in chosen],
                x=[bar.end - bar.start for bar in chosen],
                text=[bar.label for bar in chosen],
                textposition="inside",
                insidetextanchor="middle",
                marker={"color": COLORS.get(kind, "#9c6b4e"), "line": {"color": "white", "width": 1}},
                customdata=["<br>".join((f"{bar.start:,.0f} to {bar.end:,.0f}", *bar.detail)) for bar in chosen],
                hovertemplate="<b>%{text}</b> on %{y}<br>%{customdata}<extra></extra>",
            )
        )
    for mark in marks:
        figure.add_vline(x=mark.at, line={"dash": "dot", "color": "#444"}, annotation_text=mark.label)
    figure.update_layout(
        title=title,
        barmode="overlay",
        xaxis={"title": "cycles", "rangemode": "tozero"},
        yaxis={"categoryorder": "array", "categoryarray": lanes[::-1]},
        height=220 + 46 * len(lanes),
        legend={"orientation": "h", "y": -0.25},
        template="plotly_white",
        margin={"t": 90},
    )
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def write_gantt(path: str | Path, title: str, bars: Sequence[Bar], marks: Sequence[Mark] = ()) -> Path:
    """Write the page; the path it was written to."""
    target = Path(path)
    target.write_text(gantt_html(title, bars, marks), encoding="utf-8")
    return target
