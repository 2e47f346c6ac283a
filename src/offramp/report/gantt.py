"""A schedule as a drawing: one lane per core, link and memory channel, one bar per layer; a page that opens offline.

It gets bars as plain values and knows nothing of prices; `offramp price --gantt` makes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from offramp.report.text import MARK

COLORS = {
    "backbone": "#4269d0",
    "branch": "#efb118",
    "transfer": "#6cc5b0",
    "spill": "#ff725c",
}
"""Colour of each kind of bar (Observable's palette, readable for most colour-blind eyes)."""
HEAD, FOOT, LANE = 150, 70, 42
"""Pixels above and below the lanes (title, legend and marks; the axis), and of a lane."""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="generator" content="{mark}"><title>{title}</title></head>
<body>{drawing}</body>
</html>
"""
_LABEL = {"showarrow": False, "textangle": -40, "font": {"size": 11}}


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
    figure = go.Figure([_trace(kind, bars) for kind in dict.fromkeys(bar.kind for bar in bars)])
    for mark in marks:
        figure.add_vline(x=mark.at, line={"dash": "dot", "color": "#444"})
        figure.add_annotation(x=mark.at, y=1, yref="paper", yanchor="bottom", xanchor="left", text=mark.label, **_LABEL)
    height = HEAD + FOOT + LANE * len(lanes)
    figure.update_layout(
        title={"text": title, "yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 16}},
        barmode="overlay",
        xaxis={"title": "cycles", "rangemode": "tozero"},
        yaxis={"categoryorder": "array", "categoryarray": lanes[::-1], "range": [-0.5, len(lanes) - 0.5]},
        height=height,
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 1 - 42 / height,
            "yanchor": "top",
            "x": 0,
            "xanchor": "left",
        },
        uniformtext={"minsize": 8, "mode": "hide"},
        template="plotly_white",
        margin={"t": HEAD, "b": FOOT},
    )
    drawing = figure.to_html(include_plotlyjs=True, full_html=False, default_height=f"{height}px", div_id="schedule")
    return PAGE.format(mark=MARK, title=escape(title), drawing=drawing)


def _trace(kind: str, bars: Sequence[Bar]) -> go.Bar:
    """All bars of one kind; names that do not fit a bar are left out (pointing at it shows them)."""
    chosen = [bar for bar in bars if bar.kind == kind]
    return go.Bar(
        name=kind,
        orientation="h",
        y=[bar.lane for bar in chosen],
        base=[bar.start for bar in chosen],
        x=[bar.end - bar.start for bar in chosen],
        text=[bar.label for bar in chosen],
        textposition="inside",
        textangle=0,
        insidetextanchor="middle",
        insidetextfont={"size": 10},
        marker={"color": COLORS.get(kind, "#9c6b4e"), "line": {"color": "white", "width": 1}},
        customdata=["<br>".join((f"{bar.start:,.0f} to {bar.end:,.0f}", *bar.detail)) for bar in chosen],
        hovertemplate="<b>%{text}</b> on %{y}<br>%{customdata}<extra></extra>",
    )


def write_gantt(path: str | Path, title: str, bars: Sequence[Bar], marks: Sequence[Mark] = ()) -> Path:
    """Write the page; the path it was written to."""
    target = Path(path)
    target.write_text(gantt_html(title, bars, marks), encoding="utf-8")
    return target
