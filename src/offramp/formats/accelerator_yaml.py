"""Reads accelerator descriptions: our own YAML, shipped names, and (by shape) ZigZag's, Stream's and measured tables.

Units stand in key names (`size_bytes`, `read_bits_per_cycle`, `read_pj`, `clock_mhz`). Every fault of a file is
reported at once with its path. This file knows nothing of prices; docs/accelerators.md is the reference of the
format.
"""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from offramp.errors import AccelerationError, FormatError, choose
from offramp.formats.memory_ports import PORT_LAYOUTS, ports_of
from offramp.formats.strict_yaml import Faults, read_yaml
from offramp.formats.table_yaml import table_from_data
from offramp.formats.zigzag_yaml import is_stream, is_zigzag, stream_from_data, zigzag_from_data
from offramp.ir.accelerator import (
    Accelerator,
    ActivationMemory,
    AnalogArray,
    Array,
    Core,
    CoreKind,
    InMemoryArray,
    Link,
    Memory,
    Operand,
    PricingModel,
)
from offramp.ir.workload import Op

LOOPS = ("B", "G", "K", "C", "OY", "OX", "FY", "FX")
"""Loop dimensions that a dataflow may name."""

Positive = Annotated[int, Field(gt=0, le=1 << 50)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.+-]+$")]
Bits = Annotated[int, Field(ge=1, le=64)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _MemorySpec(_Spec):
    name: Name
    size_bytes: Positive | None = None
    size_bits: Positive | None = None
    operands: Annotated[list[Literal["I", "W", "O"]], Field(min_length=1)] = ["I", "W", "O"]
    serves: Literal["all"] | list[Name] = "all"
    ports: Literal["1rw", "2rw", "1r1w", "2r2w"] = "1r1w"
    read_bits_per_cycle: Positive
    write_bits_per_cycle: Positive
    granularity_bits: Positive | None = None
    read_pj: Amount
    write_pj: Amount
    double_buffered: bool = False
    off_chip: bool = False


class _ArraySpec(_Spec):
    dimensions: Annotated[dict[Name, Positive], Field(min_length=1, max_length=8)]
    mac_pj: Amount
    systolic: list[Name] = []
    dataflow: dict[Name, dict[Literal["B", "G", "K", "C", "OY", "OX", "FY", "FX"], Positive]] = {}


class _AnalogSpec(_Spec):
    rows: Positive
    columns: Positive
    input_bits: Bits
    weight_bits: Bits
    adc_bits: Bits
    read_noise: Amount = 0.0
    mvm_ns: Amount = 0.0


class _InMemorySpec(_Spec):
    analog: bool
    activation_bits: Bits
    weight_bits: Bits
    bits_per_pass: Bits
    adc_bits: Amount = 0.0


class _CoreSpec(_Spec):
    name: Name
    copies: Annotated[int, Field(ge=1, le=1024)] = 1
    kind: Literal["digital", "analog", "in_memory", "vector", "host"]
    model: Literal["hierarchy", "diana-digital", "diana-analog", "scalar"] = "hierarchy"
    ops: Annotated[list[Literal["conv", "depthwise", "dense", "add", "max_pool", "avg_pool"]], Field(min_length=1)]
    weight_bits: list[Bits] = []
    activation_bits: list[Bits] = []
    array: _ArraySpec | None = None
    memories: list[_MemorySpec] = []
    analog: _AnalogSpec | None = None
    in_memory: _InMemorySpec | None = None
    active_mw: Amount = 0.0
    cycles_per_operation: Rate = 1.0
    weight_memory_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 0


class _LinkSpec(_Spec):
    between: Annotated[list[Name], Field(min_length=2, max_length=2)]
    bits_per_cycle: Positive
    pj_per_bit: Amount = 0.0


class _ActivationMemorySpec(_Spec):
    name: Name
    size_bytes: Positive
    cores: Annotated[list[Name], Field(min_length=1)]


class _AcceleratorSpec(_Spec):
    name: Name
    clock_mhz: Rate
    source: str = ""
    idle_mw: Amount = 0.0
    transfer_setup_cycles: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    offchip: _MemorySpec | None = None
    cores: Annotated[list[_CoreSpec], Field(min_length=1, max_length=256)]
    activation_memories: list[_ActivationMemorySpec] = []
    links: list[_LinkSpec] = []


def shipped_accelerators() -> list[str]:
    """Names that `load_accelerator` knows without a file."""
    folder = resources.files("offramp.accelerators")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """A shipped accelerator by name, or one from a YAML file in our format, ZigZag's, Stream's or a table of times.

    `table:FILE` is accepted for a table of measured times as well.

    Raises:
        AccelerationError: neither a shipped name nor a file.
        FormatError: the file is not understood; names every fault with its path.
    """
    text = str(name_or_path).removeprefix("table:")
    if text in shipped_accelerators():
        path = Path(str(resources.files("offramp.accelerators") / f"{text}.yaml"))
    elif Path(text).suffix in (".yaml", ".yml") or (text and Path(text).exists()):
        path = Path(text)
    else:
        error = choose("accelerator", text, shipped_accelerators(), where="--accelerator")
        given = f"{error.given}, and no such file"
        raise AccelerationError(given, wanted=error.wanted, where=error.where, write=error.write)
    try:
        data = read_yaml(path)
    except FormatError:
        # ZigZag ships a core (tpu_like) whose memory lists `ports` twice; like ZigZag we take the last, there only.
        data = read_yaml(path, repeatable=("ports",))
        if not (isinstance(data, dict) and is_zigzag(data)):
            raise
    return accelerator_from_data(data, path)


def accelerator_from_data(data: Any, path: Path) -> Accelerator:
    """Build an accelerator from parsed YAML; `path` names it and is where Stream's core files are looked for.

    Raises:
        FormatError: not a description that is understood.
    """
    if not isinstance(data, dict):
        raise FormatError("not a mapping", wanted="an accelerator description", where=str(path))
    if "measured" in data:
        return table_from_data(data, str(path))
    if is_stream(data):
        return stream_from_data(data, path)
    if is_zigzag(data):
        return zigzag_from_data(data, str(path))
    return _own_from_data(data, str(path))


def _own_from_data(data: dict[str, Any], where: str) -> Accelerator:
    faults = Faults(where)
    spec = faults.validated(_AcceleratorSpec, data, "the keys of docs/accelerators.md")
    _check(spec, faults)
    faults.raise_if_any("a consistent description")
    return _build(spec, where)


def _core_names(core: _CoreSpec) -> list[str]:
    return [core.name] if core.copies == 1 else [f"{core.name}{i}" for i in range(core.copies)]


def _check(spec: _AcceleratorSpec, faults: Faults) -> None:
    names = [name for core in spec.cores for name in _core_names(core)]
    for name in sorted({n for n in names if names.count(n) > 1}):
        faults.add("$.cores", f"the name {name} appears twice")
    if spec.offchip is not None:
        _check_size(spec.offchip, "$.offchip", faults)
    for i, core in enumerate(spec.cores):
        _check_core(core, f"$.cores[{i}]", spec.offchip, faults)
    groups = [(f"$.links[{i}].between", link.between) for i, link in enumerate(spec.links)]
    groups += [(f"$.activation_memories[{i}].cores", m.cores) for i, m in enumerate(spec.activation_memories)]
    for path, given in groups:
        for name in given:
            if name not in names:
                faults.add(path, f"unknown core {name}, there are {', '.join(names)}")


def _check_core(core: _CoreSpec, path: str, offchip: _MemorySpec | None, faults: Faults) -> None:
    if (core.kind == "analog") != (core.analog is not None):
        faults.add(f"{path}.analog", "an analog core needs it and no other core has it")
    if (core.kind == "in_memory") != (core.in_memory is not None):
        faults.add(f"{path}.in_memory", "an in_memory core needs it and no other core has it")
    if core.model == "diana-analog" and core.analog is None:
        faults.add(f"{path}.model", "diana-analog needs `analog`")
    if core.model.startswith("diana") and offchip is None:
        faults.add("$.offchip", f"missing, model {core.model} needs it")
    if core.model != "hierarchy":
        return
    if core.array is None:
        faults.add(f"{path}.array", "missing, the hierarchy model needs it")
        return
    _check_hierarchy(core, core.array, path, offchip, faults)


def _check_hierarchy(
    core: _CoreSpec, array: _ArraySpec, path: str, offchip: _MemorySpec | None, faults: Faults
) -> None:
    dimensions = ", ".join(array.dimensions)
    used = [(f"{path}.array.systolic", d) for d in array.systolic]
    used += [(f"{path}.array.dataflow", d) for d in array.dataflow]
    for j, memory in enumerate(core.memories):
        _check_size(memory, f"{path}.memories[{j}]", faults)
        used += [(f"{path}.memories[{j}].serves", d) for d in memory.serves if memory.serves != "all"]
        if memory.granularity_bits and memory.granularity_bits > min(
            memory.read_bits_per_cycle, memory.write_bits_per_cycle
        ):
            faults.add(f"{path}.memories[{j}].granularity_bits", "more than the bandwidth")
    for where, dimension in used:
        if dimension not in array.dimensions:
            faults.add(where, f"unknown dimension {dimension}, the array has {dimensions}")
    for dimension, loops in array.dataflow.items():
        product = 1
        for factor in loops.values():
            product *= factor
        if product > array.dimensions.get(dimension, product):
            faults.add(f"{path}.array.dataflow.{dimension}", f"unrolls {product} over {array.dimensions[dimension]}")
    for operand in ("I", "W", "O"):
        if offchip is None and not any(operand in m.operands for m in core.memories):
            faults.add(f"{path}.memories", f"no memory holds operand {operand}")


def _check_size(memory: _MemorySpec, path: str, faults: Faults) -> None:
    if (memory.size_bytes is None) == (memory.size_bits is None):
        faults.add(f"{path}.size_bytes", "give size_bytes or size_bits, one of them")


def _memory(spec: _MemorySpec, dimensions: tuple[str, ...], *, off_chip: bool = False) -> Memory:
    operands = tuple(Operand(o) for o in ("I", "W", "O") if o in spec.operands)
    return Memory(
        name=spec.name,
        size_bits=spec.size_bits or 8 * (spec.size_bytes or 0),
        read_pj=float(spec.read_pj),
        write_pj=float(spec.write_pj),
        operands=operands,
        ports=ports_of(
            PORT_LAYOUTS[spec.ports],
            operands,
            spec.read_bits_per_cycle,
            spec.write_bits_per_cycle,
            spec.granularity_bits,
        ),
        dimensions=dimensions if spec.serves == "all" else tuple(d for d in dimensions if d in spec.serves),
        double_buffered=spec.double_buffered,
        off_chip=spec.off_chip or off_chip,
    )


def _cores(spec: _CoreSpec) -> Iterator[Core]:
    dimensions = tuple(spec.array.dimensions) if spec.array else ()
    array = spec.array and Array(
        dimensions=tuple(spec.array.dimensions.items()),
        mac_pj=float(spec.array.mac_pj),
        systolic=tuple(spec.array.systolic),
        dataflow=tuple((d, tuple(loops.items())) for d, loops in spec.array.dataflow.items()),
    )
    for name in _core_names(spec):
        yield Core(
            name=name,
            kind=CoreKind(spec.kind),
            model=PricingModel(spec.model),
            ops=tuple(Op(op) for op in spec.ops),
            weight_bits=tuple(sorted(set(spec.weight_bits))),
            activation_bits=tuple(sorted(set(spec.activation_bits))),
            array=array or None,
            memories=tuple(_memory(m, dimensions) for m in spec.memories),
            analog=AnalogArray(**spec.analog.model_dump()) if spec.analog else None,
            in_memory=InMemoryArray(**spec.in_memory.model_dump()) if spec.in_memory else None,
            active_mw=float(spec.active_mw),
            cycles_per_operation=float(spec.cycles_per_operation),
            weight_memory_bits=spec.weight_memory_bytes * 8,
        )


def _build(spec: _AcceleratorSpec, where: str) -> Accelerator:
    cores = tuple(core for s in spec.cores for core in _cores(s))
    return Accelerator(
        name=spec.name,
        clock_mhz=float(spec.clock_mhz),
        cores=cores,
        offchip=_memory(spec.offchip, (), off_chip=True) if spec.offchip else None,
        activation_memories=tuple(
            ActivationMemory(name=m.name, size_bytes=m.size_bytes, cores=tuple(m.cores))
            for m in spec.activation_memories
        ),
        links=tuple(
            Link(
                source=link.between[0],
                target=link.between[1],
                bits_per_cycle=link.bits_per_cycle,
                pj_per_bit=float(link.pj_per_bit),
            )
            for link in spec.links
        ),
        transfer_setup_cycles=spec.transfer_setup_cycles,
        idle_mw=float(spec.idle_mw),
        source=where,
    )
