"""Reads ZigZag core files and Stream system files as they are, older and newer spellings.

ZigZag (github KULeuven-MICAS/zigzag) describes one core: an operational array and memories from low to high. Stream
lists core files and how they are connected. Neither knows a clock: 1000 MHz is taken unless the file has `clock_mhz`.
Costs that ZigZag would ask CACTI for must be written out. This file prices nothing.
"""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from offramp.errors import FormatError
from offramp.formats.memory_ports import moves_of
from offramp.formats.strict_yaml import Faults, read_yaml
from offramp.ir.accelerator import (
    Accelerator,
    ActivationMemory,
    Array,
    Core,
    CoreKind,
    InMemoryArray,
    Link,
    Memory,
    Move,
    Operand,
    Port,
)
from offramp.ir.workload import MATMUL_OPS, Op

CLOCK_MHZ = 1000.0
"""Clock of a file that names none: a cycle is a nanosecond."""

OPERANDS = {"I1": Operand.I, "I2": Operand.W, "O": Operand.O}
"""ZigZag's memory operands under the default links of its mapping files."""

OFF_CHIP_BITS = 1 << 30
"""A memory of this size is DRAM whatever its name."""

T = TypeVar("T", bound=BaseModel)

Size = Annotated[int, Field(ge=0, le=1 << 50)]
Positive = Annotated[int, Field(gt=0, le=1 << 50)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Dimension = Annotated[str, Field(pattern=r"^D\d$")]
PortName = Annotated[str, Field(pattern=r"^r?w?_port_\d+$")]
Direction = Literal["fh", "tl", "fl", "th"]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _PortSpec(_Spec):
    name: PortName
    type: Literal["read", "write", "read_write"]
    bandwidth_min: Positive
    bandwidth_max: Positive
    allocation: list[Annotated[str, Field(pattern=r"^(I[12]|O), ?(fh|tl|fl|th)$")]]


class _MemorySpec(_Spec):
    size: Positive
    r_cost: Amount | None = None
    w_cost: Amount | None = None
    area: Amount | None = None
    latency: Size = 1
    mem_type: str = "sram"
    auto_cost_extraction: bool = False
    operands: Annotated[list[Literal["I1", "I2", "O"]], Field(min_length=1)]
    ports: Annotated[list[_PortSpec] | list[dict[Direction, PortName | None]], Field(union_mode="left_to_right")]
    served_dimensions: list[Dimension] | Literal["all"]
    force_double_buffering: bool = False
    double_buffering_support: bool = False
    shared_memory_group_id: int = -1
    r_bw: Positive | None = None
    w_bw: Positive | None = None
    r_port: Size = 0
    w_port: Size = 0
    rw_port: Size = 0
    min_r_granularity: Positive | None = None
    min_w_granularity: Positive | None = None


class _ArraySpec(_Spec):
    dimensions: Annotated[list[Dimension], Field(min_length=1, max_length=8)]
    sizes: Annotated[list[Size], Field(min_length=1, max_length=8)]
    unit_energy: Amount | None = None
    multiplier_energy: Amount | None = None
    unit_area: Amount | None = None
    multiplier_area: Amount | None = None
    systolic_dimensions: list[Dimension] = []
    is_imc: bool = False
    imc_type: Literal["analog", "digital"] | None = None
    input_precision: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=2, max_length=2)] | None = (
        None
    )
    adc_resolution: Annotated[float, Field(ge=0, le=32)] | None = None
    bit_serial_precision: Annotated[int, Field(ge=1, le=64)] | None = None


class _CoreSpec(_Spec):
    name: str
    type: str = ""
    clock_mhz: Annotated[float, Field(gt=0, le=1e6)] = CLOCK_MHZ
    memories: Annotated[dict[str, _MemorySpec], Field(min_length=1, max_length=64)]
    operational_array: _ArraySpec | None = None
    multipliers: _ArraySpec | None = None
    dataflows: dict[Dimension, list[str]] | None = None
    operand_precision: dict[str, str | int] | None = None


class _GraphSpec(_Spec):
    type: Literal["2d_mesh", "bus"]
    bandwidth: Positive
    nb_rows: Positive = 1
    nb_cols: Positive = 1
    unit_energy_cost: Amount = 0.0
    pooling_core_id: Size | None = None
    simd_core_id: Size | None = None
    offchip_core_id: Size | None = None


class _ConnectionSpec(_Spec):
    type: Literal["link", "bus"] = "link"
    cores: Annotated[list[Size], Field(min_length=2, max_length=256)]
    bandwidth: Positive | None = None


class _StreamSpec(_Spec):
    name: str
    clock_mhz: Annotated[float, Field(gt=0, le=1e6)] = CLOCK_MHZ
    cores: list[str] | dict[Annotated[int, Field(ge=0)], str]
    graph: _GraphSpec | None = None
    offchip_core: str | None = None
    offchip_core_id: Size | None = None
    pooling_core_id: Size | None = None
    simd_core_id: Size | None = None
    core_connectivity: list[str | _ConnectionSpec] = []
    bandwidth: Positive | None = None
    unit_energy_cost: Amount = 0.0
    core_coordinates: dict[int, list[int]] | None = None
    core_memory_sharing: list[str] | None = None
    kernel_library: str | None = None


def is_zigzag(data: dict[str, Any]) -> bool:
    """True for a ZigZag core file (`memories` is a mapping beside an array)."""
    return isinstance(data.get("memories"), dict) or "operational_array" in data or "multipliers" in data


def is_stream(data: dict[str, Any]) -> bool:
    """True for a Stream system file (cores are file names)."""
    cores = data.get("cores")
    listed = list(cores.values()) if isinstance(cores, dict) else cores
    names = isinstance(listed, list) and bool(listed) and all(isinstance(c, str) for c in listed)
    return names or "graph" in data or "core_connectivity" in data


def zigzag_from_data(data: dict[str, Any], where: str) -> Accelerator:
    """A one-core accelerator from a ZigZag file.

    Raises:
        FormatError: not understood; names every fault with its path.
    """
    spec = _validated(_CoreSpec, data, where)
    core = _core(spec, where)
    last = core.memories[-1]
    if set(last.operands) == set(Operand):
        core = replace(core, memories=(*core.memories[:-1], replace(last, off_chip=True)))
    missing = [o for o in Operand if not any(o in m.operands for m in core.memories)]
    if missing:
        raise FormatError(f"$.memories: no memory holds {', '.join(missing)}", wanted="I1, I2 and O", where=where)
    return Accelerator(
        name=spec.name,
        clock_mhz=spec.clock_mhz,
        cores=(core,),
        activation_memories=_activation_memories((core,)),
        source=where,
    )


def stream_from_data(data: dict[str, Any], path: Path) -> Accelerator:
    """A multi-core accelerator from a Stream file; core files are looked for beside it and in `cores/`.

    Raises:
        FormatError: the file or one of its core files is missing or not understood.
    """
    where = str(path)
    spec = _validated(_StreamSpec, data, where)
    files = dict(enumerate(spec.cores)) if isinstance(spec.cores, list) else dict(spec.cores)
    graph = spec.graph
    roles = {
        "pooling": graph.pooling_core_id if graph else spec.pooling_core_id,
        "simd": graph.simd_core_id if graph else spec.simd_core_id,
        "offchip": graph.offchip_core_id if graph else spec.offchip_core_id,
    }
    for role, index in roles.items():
        if index is not None and index not in files:
            raise FormatError(f"$.{role}_core_id: no core {index}", wanted=f"one of {sorted(files)}", where=where)
    cores = {i: _named(_read_core(name, path, i), i, roles) for i, name in files.items()}
    offchip = cores.pop(roles["offchip"]) if roles["offchip"] is not None else None
    if spec.offchip_core:
        offchip = _read_core(spec.offchip_core, path, len(files))
    if not cores:
        raise FormatError("$.cores: only an off-chip core", wanted="at least one core that computes", where=where)
    outer = _offchip_memory(offchip)
    faults = Faults(where)
    for i, core in cores.items():
        for operand in Operand:
            if outer is None and not any(operand in m.operands for m in core.memories):
                faults.add(f"$.cores[{i}]", f"no memory holds {operand} and there is no off-chip core")
    faults.raise_if_any("a place for every operand")
    return Accelerator(
        name=spec.name,
        clock_mhz=spec.clock_mhz,
        cores=tuple(cores.values()),
        offchip=outer,
        activation_memories=_activation_memories(tuple(cores.values())),
        links=_links(spec, cores, where),
        source=where,
    )


def _validated(model: type[T], data: dict[str, Any], where: str) -> T:
    return Faults(where).validated(model, data, "ZigZag's or Stream's format")


def _read_core(name: str, system: Path, index: int) -> Core:
    folders = [system.parent, system.parent / "cores", system.parent.parent, system.parent.parent / "cores"]
    found = [f / name for f in folders if (f / name).is_file()] + [
        f / Path(name).name for f in folders if (f / Path(name).name).is_file()
    ]
    if not found:
        raise FormatError(
            f"$.cores[{index}]: no file {name}", wanted=f"it beside {system.name} or in cores/", where=str(system)
        )
    data = read_yaml(found[0], repeatable=("ports",))
    if not isinstance(data, dict):
        raise FormatError("not a mapping", wanted="a ZigZag core", where=str(found[0]))
    spec = _validated(_CoreSpec, data, str(found[0]))
    return _core(spec, str(found[0]), offchip_allowed=True)


def _named(core: Core, index: int, roles: dict[str, int | None]) -> Core:
    if index == roles["pooling"]:
        return replace(_by_channel(core), name=f"pooling{index}", kind=CoreKind.VECTOR, ops=(Op.MAX_POOL, Op.AVG_POOL))
    if index == roles["simd"]:
        return replace(_by_channel(core), name=f"simd{index}", kind=CoreKind.VECTOR, ops=(Op.ADD,))
    special = roles["pooling"] is not None or roles["simd"] is not None
    ops = tuple(op for op in Op if op in MATMUL_OPS or not special) + (
        (Op.MAX_POOL, Op.AVG_POOL) if special and roles["pooling"] is None else ()
    )
    ops += (Op.ADD,) if special and roles["simd"] is None else ()
    return replace(core, name=f"{core.name}{index}", ops=ops)


def _by_channel(core: Core) -> Core:
    """A core for pooling or additions: the K that Stream's files unroll there are channels, which are groups G here."""
    assert core.array is not None
    dataflow = tuple((d, tuple(("G" if n == "K" else n, f) for n, f in loops)) for d, loops in core.array.dataflow)
    return replace(core, array=replace(core.array, dataflow=dataflow))


def _core(spec: _CoreSpec, where: str, *, offchip_allowed: bool = False) -> Core:
    faults = Faults(where)
    array = spec.operational_array or spec.multipliers
    if array is None:
        raise FormatError("$.operational_array: missing", wanted="a ZigZag core", where=where)
    root = "$.operational_array" if spec.operational_array else "$.multipliers"
    _check_array(array, root, offchip_allowed, faults)
    memories = tuple(_memory(name, m, array, faults) for name, m in spec.memories.items())
    dataflow = _dataflow(spec.dataflows or {}, array, faults)
    in_memory = _in_memory(array, root, spec, faults)
    faults.raise_if_any("ZigZag's format")
    energy = array.unit_energy if array.unit_energy is not None else array.multiplier_energy
    return Core(
        name=spec.name,
        kind=CoreKind.IN_MEMORY if in_memory else CoreKind.DIGITAL,
        array=Array(
            dimensions=tuple(zip(array.dimensions, array.sizes, strict=True)),
            mac_pj=float(energy or 0.0),
            systolic=tuple(array.systolic_dimensions),
            dataflow=dataflow,
        ),
        memories=memories,
        in_memory=in_memory,
    )


def _check_array(array: _ArraySpec, root: str, offchip_allowed: bool, faults: Faults) -> None:
    if len(array.dimensions) != len(array.sizes):
        faults.add(f"{root}.sizes", f"{len(array.sizes)} sizes for {len(array.dimensions)} dimensions")
    if len(set(array.dimensions)) != len(array.dimensions):
        faults.add(f"{root}.dimensions", "a dimension appears twice")
    if min(array.sizes) < 1 and not offchip_allowed:
        faults.add(f"{root}.sizes", "a size of 0 leaves no units")
    if array.unit_energy is None and array.multiplier_energy is None and not array.is_imc:
        faults.add(f"{root}.unit_energy", "missing")
    for d in array.systolic_dimensions:
        if d not in array.dimensions:
            faults.add(f"{root}.systolic_dimensions", f"unknown dimension {d}")


def _in_memory(array: _ArraySpec, root: str, spec: _CoreSpec, faults: Faults) -> InMemoryArray | None:
    if not array.is_imc:
        return None
    if array.imc_type is None or array.input_precision is None or array.bit_serial_precision is None:
        faults.add(root, "an IMC array needs imc_type, input_precision and bit_serial_precision")
        return None
    activation, weight = array.input_precision
    if array.bit_serial_precision > activation:
        faults.add(f"{root}.bit_serial_precision", f"more than the {activation} bits of an activation")
    for name, value in (("input_precision", activation), ("input_precision", weight)):
        if value & (value - 1):
            faults.add(f"{root}.{name}", f"{value} is not a power of 2")
    if len(array.dimensions) < 2:
        faults.add(f"{root}.dimensions", "an IMC array needs word lines and bit lines")
    if "cells" not in spec.memories:
        faults.add("$.memories", "an IMC core needs a memory called cells")
    return InMemoryArray(
        analog=array.imc_type == "analog",
        activation_bits=activation,
        weight_bits=weight,
        bits_per_pass=array.bit_serial_precision,
        adc_bits=float(array.adc_resolution or 0.0),
    )


def _dataflow(
    given: dict[str, list[str]], array: _ArraySpec, faults: Faults
) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    result = []
    for dimension, loops in given.items():
        path = f"$.dataflows.{dimension}"
        if dimension not in array.dimensions:
            faults.add(path, "unknown dimension")
        pairs = []
        for loop in loops:
            name, _, factor = (part.strip() for part in loop.partition(","))
            if name not in ("B", "G", "K", "C", "OY", "OX", "FY", "FX") or not factor.isdecimal() or len(factor) > 9:
                faults.add(path, f"{loop!r} is not a loop and a factor, write K, 32")
            elif int(factor) < 1:
                faults.add(path, f"{loop!r} unrolls less than once")
            else:
                pairs.append((name, int(factor)))
        result.append((dimension, tuple(pairs)))
    return tuple(result)


def _memory(name: str, spec: _MemorySpec, array: _ArraySpec, faults: Faults) -> Memory:
    path = f"$.memories.{name}"
    for key, cost in (("r_cost", spec.r_cost), ("w_cost", spec.w_cost)):
        if cost is None:
            faults.add(f"{path}.{key}", "missing (CACTI is not asked), write the energy of an access in pJ")
    operands = tuple(OPERANDS[o] for o in dict.fromkeys(spec.operands))
    served = array.dimensions if spec.served_dimensions == "all" else spec.served_dimensions
    for dimension in served:
        if dimension not in array.dimensions:
            faults.add(f"{path}.served_dimensions", f"unknown dimension {dimension}")
    ports = _ports(spec, path, faults)
    carried = {use for port in ports for use in port.serves}
    for operand in operands:
        for move in moves_of(operand):
            if (operand, move) not in carried and move is Move.TO_LOW:
                faults.add(f"{path}.ports", f"no port carries {operand} {move}")
    return Memory(
        name=name,
        size_bits=spec.size,
        read_pj=float(spec.r_cost or 0.0),
        write_pj=float(spec.w_cost or 0.0),
        operands=operands,
        ports=ports,
        dimensions=tuple(d for d in array.dimensions if d in served),
        double_buffered=spec.force_double_buffering or spec.double_buffering_support,
        off_chip=_looks_off_chip(name, spec.size),
    )


def _looks_off_chip(name: str, size: int) -> bool:
    return size >= OFF_CHIP_BITS or any(word in name.lower() for word in ("dram", "ddr", "hbm", "offchip"))


def _ports(spec: _MemorySpec, path: str, faults: Faults) -> tuple[Port, ...]:
    uses: dict[str, list[tuple[Operand, Move]]] = {}
    widths: dict[str, tuple[int, int]] = {}
    if all(isinstance(p, _PortSpec) for p in spec.ports):
        for i, port in enumerate(p for p in spec.ports if isinstance(p, _PortSpec)):
            if port.bandwidth_min > port.bandwidth_max:
                faults.add(f"{path}.ports[{i}].bandwidth_min", "more than bandwidth_max")
            pairs = [tuple(part.strip() for part in a.split(",")) for a in port.allocation]
            uses.setdefault(port.name, []).extend((OPERANDS[o], Move(d)) for o, d in pairs)
            widths[port.name] = (port.bandwidth_max, port.bandwidth_min)
    else:
        tables = [p for p in spec.ports if isinstance(p, dict)]
        if len(tables) != len(spec.operands):
            faults.add(f"{path}.ports", f"{len(tables)} entries for {len(spec.operands)} operands")
        for operand, table in zip(spec.operands, tables, strict=False):
            for direction, port_name in table.items():
                if port_name is not None:
                    uses.setdefault(port_name, []).append((OPERANDS[operand], Move(direction)))
        widths = {name: _old_width(name, spec, path, faults) for name in uses}
    return tuple(
        Port(name=n, bits_per_cycle=widths[n][0], granularity_bits=widths[n][1], serves=tuple(u))
        for n, u in uses.items()
    )


def _old_width(name: str, spec: _MemorySpec, path: str, faults: Faults) -> tuple[int, int]:
    if spec.r_bw is None or spec.w_bw is None:
        faults.add(f"{path}.{'r_bw' if spec.r_bw is None else 'w_bw'}", "missing")
        return 1, 1
    sides = [(spec.r_bw, spec.min_r_granularity)] if not name.startswith("w") else []
    sides += [(spec.w_bw, spec.min_w_granularity)] if name.startswith(("w", "rw")) else []
    width = min(w for w, _ in sides)
    return width, min(width, min(g or width for _, g in sides))


def _offchip_memory(core: Core | None) -> Memory | None:
    return replace(core.memories[-1], dimensions=(), off_chip=True) if core and core.memories else None


def _activation_memories(cores: tuple[Core, ...]) -> tuple[ActivationMemory, ...]:
    found = []
    for core in cores:
        both = [m for m in core.memories if not m.off_chip and {Operand.I, Operand.O} <= set(m.operands)]
        if both:
            found.append(
                ActivationMemory(
                    name=f"{core.name}.{both[-1].name}", size_bytes=both[-1].size_bits // 8, cores=(core.name,)
                )
            )
    return tuple(found)


def _links(spec: _StreamSpec, cores: dict[int, Core], where: str) -> tuple[Link, ...]:
    energy = spec.graph.unit_energy_cost if spec.graph else spec.unit_energy_cost
    pairs = _mesh(spec.graph, cores) if spec.graph else _connections(spec, where)
    links = []
    for a, b, width in pairs:
        if a in cores and b in cores and a != b:
            links.append(
                Link(source=cores[a].name, target=cores[b].name, bits_per_cycle=width, pj_per_bit=float(energy))
            )
    return tuple(links)


def _mesh(graph: _GraphSpec, cores: dict[int, Core]) -> list[tuple[int, int, int]]:
    special = [i for i in (graph.pooling_core_id, graph.simd_core_id) if i is not None]
    grid = [i for i in cores if i not in special]
    pairs = [(i, s) for s in special for i in [*grid, *(x for x in special if x < s)]]
    if graph.type == "bus":
        pairs += list(combinations(grid, 2))
    else:
        places = {i: divmod(n, graph.nb_cols) for n, i in enumerate(grid)}
        pairs += [(a, b) for a, b in combinations(grid, 2) if math.dist(places[a], places[b]) == 1]
    return [(a, b, graph.bandwidth) for a, b in pairs]


def _connections(spec: _StreamSpec, where: str) -> list[tuple[int, int, int]]:
    pairs = []
    for i, entry in enumerate(spec.core_connectivity):
        if isinstance(entry, str):
            parts = [p.strip() for p in entry.split(",")]
            ids = [int(p) for p in parts if p.isdecimal() and len(p) < 9]
            width = spec.bandwidth
        else:
            ids, width = entry.cores, entry.bandwidth or spec.bandwidth
        if len(ids) < 2 or width is None:
            raise FormatError(
                f"$.core_connectivity[{i}]: {entry!r} is not a connection",
                wanted="core numbers and a bandwidth",
                where=where,
            )
        pairs += [(a, b, width) for a, b in combinations(ids, 2)]
    return pairs
