"""`offramp export`: a bundle as integer-only C11 or as one ONNX file with nested `If` nodes. No torch."""

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.app import app, console
from offramp.deploy.bundle import DEFAULT_POINT, Bundle, open_bundle
from offramp.deploy.c.generate import FILES, write_c
from offramp.deploy.single_file import MARK, single_model
from offramp.errors import UserError, choose
from offramp.target import check_target

TARGETS = ("c", "onnx")


@app.command("export", short_help="Write a bundle as C or as one ONNX file.")
def export_command(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder")],
    out: Annotated[Path, typer.Argument(help="folder to make (c) or file to write (onnx)")],
    to: Annotated[str, typer.Option("--to", help="c or onnx")],
    point: Annotated[str, typer.Option("--point", help="operating point whose thresholds are written")] = DEFAULT_POINT,
) -> None:
    """Write a bundle as code or as a single file, with the thresholds of one operating point."""
    if to not in TARGETS:
        raise choose("target", to, TARGETS, where="--to")
    opened = open_bundle(bundle)
    if to == "c":
        _export_c(opened, out, point)
    else:
        _export_onnx(opened, out, point)


def _export_c(bundle: Bundle, out: Path, point: str) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", wanted="a folder", where="OUT")
    out.mkdir(parents=True, exist_ok=True)
    for name, mark in FILES.items():
        check_target(out / name, (mark.encode(),), kind="code of ours", where="OUT")
    sizes = write_c(out, bundle.plan, bundle.manifest.policy, bundle.point(point).thresholds)
    console().print(
        f"{out}/offramp.c: activations {sizes.arena_bytes} bytes, of them gathered inputs {sizes.scratch_bytes}, "
        f"weights and tables {sizes.weight_bytes} bytes"
    )


def _export_onnx(bundle: Bundle, out: Path, point: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    check_target(out, (MARK.encode(),), kind="ONNX file of ours", where="OUT")
    model = single_model(bundle.plan, bundle.manifest.policy, bundle.point(point).thresholds)
    content = model.SerializeToString()
    out.write_bytes(content)
    console().print(f"{out}: {len(content)} bytes")
