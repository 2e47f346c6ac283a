"""`offramp zoo`: lists the trained weights that come with the package. No torch."""

import json
from typing import Annotated

import typer
from rich.table import Table

from offramp.cli.app import app, console
from offramp.zoo.entry import entries


@app.command("zoo")
def zoo_command(as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False) -> None:
    """List trained weights that `offramp search --from zoo` can start from."""
    known = entries()
    if as_json:
        typer.echo(json.dumps({entry.name: entry.card.model_dump(mode="json") for entry in known}))
        return
    table = Table(
        "entry", "--backbone", "--widen", "--data", "--seed", "static", "supernet", "best early exit", "samples", "MB"
    )
    for entry in known:
        card, seen = entry.card, entry.card.accuracy
        best = max((e.accuracy for e in seen.exits), default=0.0)
        accuracies = [f"{value:.4f}" for value in (seen.static, seen.final, best)]
        size = f"{entry.bytes / 1e6:.1f}"
        table.add_row(
            entry.name,
            card.backbone,
            f"{card.widen:g}",
            card.data.name,
            str(card.data.seed),
            *accuracies,
            str(seen.samples),
            size,
        )
    console().print(table)
    console().print("accuracies are of float weights on validation samples; a study quantizes, tunes and tests anew")
