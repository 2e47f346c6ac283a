"""Reads a table of measured layer times: an accelerator whose one core costs what was measured.

The file lists layers by operator, loop sizes and bits with a latency each; `deploy measure` writes such files. What a
layer that is not in the table costs is the business of `cost.table`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from offramp.formats.strict_yaml import Faults
from offramp.ir.accelerator import Accelerator, Core, CoreKind, MeasuredLayer, PricingModel
from offramp.ir.workload import Layer, Op

SIZE_NAMES = ("G", "B", "K", "C", "OY", "OX", "FY", "FX")
"""Loop sizes of a row, in the order of `MeasuredLayer.sizes`; those not given are 1."""

Bits = Annotated[int, Field(ge=1, le=64)]
Size = Annotated[int, Field(ge=1, le=1 << 40)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _RowSpec(_Spec):
    op: Literal["conv", "depthwise", "dense", "add", "max_pool", "avg_pool"]
    sizes: dict[Literal["G", "B", "K", "C", "OY", "OX", "FY", "FX"], Size]
    weight_bits: Bits = 8
    input_bits: Bits = 8
    output_bits: Bits = 8
    latency_us: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
    energy_uj: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None


class _TableSpec(_Spec):
    name: Annotated[str, Field(min_length=1, max_length=80)]
    clock_mhz: Annotated[float, Field(gt=0, le=1e6)]
    active_mw: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    device: str = ""
    date: str = ""
    measured: Annotated[list[_RowSpec], Field(min_length=1, max_length=100_000)]


def table_from_data(data: dict[str, Any], where: str) -> Accelerator:
    """An accelerator from a table of measured times.

    Raises:
        FormatError: not understood, or the same layer twice; names every fault with its path.
    """
    faults = Faults(where)
    spec = faults.validated(_TableSpec, data, "a table of measured layer times")
    rows = [_row(r) for r in spec.measured]
    seen: dict[tuple[object, ...], int] = {}
    for i, row in enumerate(rows):
        first = seen.setdefault((row.op, row.sizes, row.bits), i)
        if first != i:
            faults.add(f"$.measured[{i}]", f"the same layer as $.measured[{first}]")
    faults.raise_if_any("each layer once")
    core = Core(
        name="device",
        kind=CoreKind.HOST,
        model=PricingModel.TABLE,
        ops=tuple(op for op in Op if any(r.op is op for r in rows)),
        measured=tuple(rows),
        active_mw=float(spec.active_mw),
    )
    return Accelerator(name=spec.name, clock_mhz=float(spec.clock_mhz), cores=(core,), source=where)


def _row(spec: _RowSpec) -> MeasuredLayer:
    g, b, k, c, oy, ox, fy, fx = (spec.sizes.get(n, 1) for n in SIZE_NAMES)  # type: ignore[call-overload]
    return MeasuredLayer(
        op=Op(spec.op),
        sizes=(g, b, k, c, oy, ox, fy, fx),
        bits=(spec.weight_bits, spec.input_bits, spec.output_bits),
        latency_us=float(spec.latency_us),
        energy_uj=None if spec.energy_uj is None else float(spec.energy_uj),
    )


def table_row(layer: Layer, latency_us: float, energy_uj: float | None = None) -> dict[str, Any]:
    """A row of `measured` for a layer, as plain values to write as YAML."""
    sizes = {n: getattr(layer, n) for n in SIZE_NAMES if getattr(layer, n) != 1}
    row: dict[str, Any] = {"op": str(layer.op), "sizes": sizes}
    row |= {"weight_bits": layer.weight_bits, "input_bits": layer.input_bits, "output_bits": layer.output_bits}
    row["latency_us"] = float(latency_us)
    return row if energy_uj is None else row | {"energy_uj": float(energy_uj)}
