"""`offramp report`: makes the page of a run folder again from its journal, even while a search is running. No torch."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.app import app
from offramp.errors import UserError
from offramp.report.page import write_report
from offramp.report.plots import front_svg
from offramp.report.run_folder import PAGE, read_run
from offramp.report.text import MARK
from offramp.target import check_target


@app.command("report", short_help="Write the page of a run.")
def report_command(
    run: Annotated[Path, typer.Argument(help="the run folder (it holds journal.sqlite)")],
    out: Annotated[Path | None, typer.Option("--out", help="the page; RUN/report.html when not given")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="also write the front as an SVG picture")] = None,
) -> None:
    """Write the report of a run as one HTML page that opens offline."""
    for path, kind, where in ((out, "report of ours", "--out"), (svg, "picture of ours", "--svg")):
        if path is not None:
            check_target(path, (MARK.encode(),), kind=kind, where=where)
    if out is not None and svg is not None and out.resolve() == svg.resolve():
        raise UserError(f"{svg} twice", wanted="two files", where="--out and --svg")
    study = read_run(run)
    page = out or run / PAGE
    write_report(page, study)
    if svg is not None:
        svg.write_text(front_svg(study), encoding="utf-8")
    typer.echo(str(page))
