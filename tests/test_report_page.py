"""The page: one file that opens offline, with everything in it that the study holds, and nothing that it could run."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.ir.trial import Status
from offramp.report.page import page_html, write_report
from offramp.report.plots import front_svg
from offramp.report.study import Measured, StudyReport
from offramp.report.threshold import curve_of
from report_study import made_study

ATTACK = "</script><script>alert('1')</script><img src=x onerror=alert(1)> & \"quoted\""
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Reader(HTMLParser):
    """Elements, attributes, ids and the text of the page; complains when elements do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "script":
            self.scripts.append(data)
        elif not self.stack or self.stack[-1] != "style":
            self.words += data + " "


def read(report: StudyReport) -> Reader:
    reader = Reader()
    reader.feed(page_html(report))
    reader.close()
    assert reader.stack == []
    return reader


def data_of(reader: Reader) -> dict[str, Any]:
    return json.loads(reader.scripts[0])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def report() -> StudyReport:
    return made_study()


@pytest.fixture(scope="module")
def page(report: StudyReport) -> Reader:
    return read(report)


def test_plotly_is_inside_once_and_nothing_is_loaded(page: Reader) -> None:
    assert page.tags.count("script") == 3
    assert sum("plotly.js v" in s[:200] for s in page.scripts) == 1
    assert not [a for a in page.attributes if a[0] in ("src", "srcset", "data", "action", "style-src")]
    assert all(v is not None and v.startswith("#trial-") for k, v in page.attributes if k == "href")
    assert "link" not in page.tags
    own = [s for s in page.scripts if "plotly.js v" not in s[:200]]
    assert not [s for s in own if re.search(r"https?://|@import|fetch\(|XMLHttpRequest|innerHTML", s)]


def test_every_trial_is_in_the_pictures(report: StudyReport, page: Reader) -> None:
    figures = data_of(page)["figures"]
    for name, cost in (("energy-figure", "energy_uj"), ("latency-figure", "latency_ms")):
        assert name in page.ids
        traces = {t.get("name"): t for t in figures[name]["data"]}
        shown = traces["trials"]["customdata"] + traces["front"]["customdata"]
        assert sorted(shown) == [t.number for t, _ in report.evaluated]
        assert traces["front"]["customdata"] == [t.number for t, _ in report.front]
        assert traces["front"]["x"] == [getattr(m, cost) for _, m in report.front]
        assert traces["knee"]["customdata"] == [report.knee.number if report.knee else None]
        assert traces["static"]["customdata"] == ["static"]
    assert figures["progress-figure"]["data"][0]["x"] == [n for n, _ in report.hypervolume]


def test_every_point_of_the_front_is_told_in_full(report: StudyReport, page: Reader) -> None:
    for trial, figures in report.front:
        assert f"trial-{trial.number}" in page.ids
        assert f"{100 * figures.accuracy_val:.2f} %" in page.words
        for core in set(dict(trial.cores).values()):
            assert core in page.words
    knee = report.knee
    assert knee is not None
    for (name, (weight, activation)), rate in zip(knee.bits, knee.exit_rates, strict=False):
        assert name in page.words
        assert f"W{weight} A{activation}" in page.words
        assert f"{100 * rate:.1f} %" in page.words
    assert "measured latency on host" in page.words
    assert "backbone, ms on host" in page.words


def test_failures_and_provenance_are_shown(report: StudyReport, page: Reader) -> None:
    assert "8x8x64 weights do not fit any core" in page.words
    assert "the loss was not finite in epoch 2" in page.words
    for key, value in report.meta.items():
        assert key in page.words
        assert value in page.words


def test_the_explorer_has_the_operating_points_of_the_front(report: StudyReport, page: Reader) -> None:
    rows = data_of(page)["explorer"]
    assert rows[0]["knee"]
    assert {r["number"] for r in rows} == {t.number for t, _ in report.front}
    for row in rows:
        accuracies = [p["accuracy"] for p in row["points"]]
        assert accuracies == sorted(accuracies)
        assert len(row["exits"]) == len(row["points"][0]["exit_rates"])
    bare = replace(report, trials=tuple(replace(t, detail="{}") for t in report.trials))
    assert "explorer-trial" not in read(bare).ids
    assert curve_of(bare.trials[0]) == []


def test_whatever_a_user_wrote_is_escaped(report: StudyReport) -> None:
    hostile = Architecture(backbone=ATTACK, exits=(ExitChoice(1, ATTACK),))
    trials = tuple(
        replace(
            t,
            architecture=hostile,
            reason=ATTACK,
            cores=((ATTACK, ATTACK),),
            bits=((ATTACK, (8, 8)),),
            exit_rates=(0.5, 0.5),
        )
        for t in report.trials
    )
    measured = {k: replace(m, device=ATTACK) for k, m in report.measured.items()}
    bad = replace(report, title=ATTACK, trials=trials, measured=measured, meta={ATTACK: ATTACK})
    reader = read(bad)
    assert reader.tags.count("script") == 3
    assert "img" not in reader.tags
    assert ATTACK in reader.words
    assert data_of(reader)["explorer"][0]["exits"][0] == f"after block 1 ({ATTACK})"
    hover = data_of(reader)["figures"]["energy-figure"]["data"][0]["text"][0]
    assert "<img" not in hover and "<script" not in hover
    ElementTree.fromstring(front_svg(bad))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_small_and_empty_studies_make_a_page(report: StudyReport, count: int) -> None:
    reader = read(StudyReport(title="small", trials=report.trials[:count]))
    assert ("It is empty" in reader.words) == (count == 0)
    assert read(StudyReport(title="none", trials=(report.trials[3],), static=report.static)).ids


def test_a_trial_that_says_little_is_shown(report: StudyReport) -> None:
    some = report.front[0][0]
    bare = replace(some, detail="{}", bits=(), cores=(), exit_rates=(), thresholds=())
    assert f"trial-{bare.number}" in read(StudyReport(title="bare", trials=(bare,))).ids


def test_infeasible_trials_with_figures_are_marked(report: StudyReport) -> None:
    late = replace(report.front[0][0], status=Status.INFEASIBLE, reason="latency_ms 3 above 2")
    reader = read(replace(report, trials=(*report.trials[1:], late)))
    names = [t.get("name") for t in data_of(reader)["figures"]["energy-figure"]["data"]]
    assert "infeasible" in names
    assert "latency_ms 3 above 2" in reader.words


def test_the_page_is_written_whole_or_not_at_all(
    report: StudyReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    write_report(path, report)
    first = path.read_text(encoding="utf-8")
    assert first == page_html(report)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, replace(report, title="another"))
    assert path.read_text(encoding="utf-8") == first
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_svg_shows_every_trial(report: StudyReport) -> None:
    root = ElementTree.fromstring(front_svg(report))
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(report.evaluated) + len(report.front)
    for circle in circles:
        assert 0 <= float(circle.get("cx", "nan")) <= 720
        assert 0 <= float(circle.get("cy", "nan")) <= 420
    for few in (report.trials[:0], report.trials[:1], report.trials[3:4]):
        ElementTree.fromstring(front_svg(StudyReport(title="few", trials=few)))


def test_the_svg_has_room_for_what_was_finished(report: StudyReport) -> None:
    """A finished network may be better than every trial and dearer than the static network."""
    trial, metrics = report.front[0]
    better = replace(trial, metrics=replace(metrics, accuracy_val=0.99, energy_uj=90.0))
    root = ElementTree.fromstring(front_svg(replace(report, finished=(better,), chosen=(better.number,))))
    for circle in root.findall(".//{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx", "nan")) <= 720
        assert 34 <= float(circle.get("cy", "nan")) <= 420


def test_measured_energy_stands_beside_predicted(report: StudyReport) -> None:
    number = report.front[0][0].number
    timed = {number: Measured(device="board", latency_ms=2.5, energy_uj=77.0)}
    reader = read(replace(report, measured=timed))
    assert "measured energy on board" in reader.words
    assert "77 µJ" in reader.words


def test_exits_that_nobody_takes_and_figures_that_json_has_not(report: StudyReport) -> None:
    some = next(t for t, _ in report.front if t.thresholds)
    detail = json.loads(some.detail)
    detail["curve"][0]["thresholds"] = [float("inf")] * len(some.thresholds)
    closed = replace(some, thresholds=(float("inf"),) * len(some.thresholds), detail=json.dumps(detail))
    reader = read(StudyReport(title="closed", trials=(closed,)))
    assert "nobody" in reader.words
    points = data_of(reader)["explorer"][0]["points"]
    assert [None] * len(some.thresholds) in [p["thresholds"] for p in points]


@pytest.mark.parametrize(
    ("drop", "told"),
    [
        (0.0035, "expected to cost 0.35 % of accuracy"),
        (0.0, "expected to cost no accuracy"),
        (-0.002, "expected to gain 0.20 % of accuracy"),
        (None, ""),
    ],
)
def test_what_exits_are_expected_to_cost_fresh_data_is_told(report: StudyReport, drop: float | None, told: str) -> None:
    trials = [replace(t, detail=json.dumps({**t.details, "expected_drop": drop})) for t in report.trials]
    page = page_html(replace(report, trials=tuple(trials)))
    early = sum(bool(t.architecture.exits) for t, _ in report.front)
    assert early and page.count("On fresh data") == (early if told else 0)
    assert told in page


def test_finished_networks_that_are_beaten_are_shown_as_such(report: StudyReport) -> None:
    finished = tuple(t for t, _ in report.evaluated[:12])
    reader = read(replace(report, finished=finished))
    assert "finished, but beaten" in reader.words
    assert {f"trial-{t.number}" for t in finished} <= set(reader.ids)
