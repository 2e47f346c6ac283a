"""A chip as frozen values: cores with their arrays and memories, links between them, what they share.

The memory hierarchy follows ZigZag (Mei et al., IEEE TC 2021): every memory serves some operands and some dimensions of
the operational array, and moves data through ports in four directions. Sizes are bits, bandwidths bits per cycle,
access costs picojoules per access of the full port width. Nothing here prices anything; readers live in `formats`.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from offramp.errors import AccelerationError
from offramp.ir.workload import Layer, Op


class Operand(StrEnum):
    """A tensor of a layer; additions read their second input as W."""

    I = "I"  # noqa: E741
    W = "W"
    O = "O"  # noqa: E741


class Move(StrEnum):
    """Direction of data seen from a memory: from or to the level above (high) or below (low)."""

    FROM_HIGH = "fh"
    TO_LOW = "tl"
    FROM_LOW = "fl"
    TO_HIGH = "th"


class CoreKind(StrEnum):
    """What a core is; IN_MEMORY computes exact integers in an SRAM array, ANALOG passes its sums through an ADC."""

    DIGITAL = "digital"
    ANALOG = "analog"
    IN_MEMORY = "in_memory"
    VECTOR = "vector"
    HOST = "host"


class PricingModel(StrEnum):
    """How a core is priced (docs/formulas.md has each model)."""

    HIERARCHY = "hierarchy"
    DIANA_DIGITAL = "diana-digital"
    DIANA_ANALOG = "diana-analog"
    SCALAR = "scalar"
    TABLE = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of a memory: at most `bits_per_cycle`, billed in steps of `granularity_bits`."""

    name: str
    bits_per_cycle: int
    granularity_bits: int
    serves: tuple[tuple[Operand, Move], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One memory level.

    Attributes:
        size_bits: capacity of one instance.
        read_pj, write_pj: energy of one access of the port's full width.
        operands: what it holds.
        dimensions: array dimensions that one instance serves (shared along them); along the others it is repeated.
        double_buffered: tiles take twice their size.
        off_chip: DRAM or whatever stands for it: the level that layer-by-layer execution returns to.
    """

    name: str
    size_bits: int
    read_pj: float
    write_pj: float
    operands: tuple[Operand, ...]
    ports: tuple[Port, ...]
    dimensions: tuple[str, ...]
    double_buffered: bool = False
    off_chip: bool = False

    def port(self, operand: Operand, move: Move) -> Port | None:
        """The port that carries `operand` in direction `move`, or None."""
        for port in self.ports:
            if (operand, move) in port.serves:
                return port
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """The operational array: named dimensions with sizes, and the energy of one operation at full precision.

    `systolic` names dimensions along which operands ripple a unit per cycle. `dataflow` fixes the spatial unrolling of
    some dimensions as (dimension, ((loop, factor), ...)); the others are searched.
    """

    dimensions: tuple[tuple[str, int], ...]
    mac_pj: float
    systolic: tuple[str, ...] = ()
    dataflow: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()

    @property
    def units(self) -> int:
        """Number of multiply-accumulate units."""
        count = 1
        for _, size in self.dimensions:
            count *= size
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemoryArray:
    """An SRAM array that computes exact integers (ZigZag's IMC): first dimension word lines, second bit lines."""

    analog: bool
    activation_bits: int
    weight_bits: int
    bits_per_pass: int
    adc_bits: float = 0

    @property
    def passes(self) -> float:
        """Cycles of one operation when activations enter bit by bit."""
        return self.activation_bits / self.bits_per_pass


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalogArray:
    """An analog array with converters: what training must imitate and what one activation of it takes."""

    rows: int
    columns: int
    input_bits: int
    weight_bits: int
    adc_bits: int
    read_noise: float = 0.0
    mvm_ns: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLayer:
    """One measured time: the operator, loop sizes (G, B, K, C, OY, OX, FY, FX) and bits (weight, input, output)."""

    op: Op
    sizes: tuple[int, int, int, int, int, int, int, int]
    bits: tuple[int, int, int]
    latency_us: float
    energy_uj: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One core.

    Attributes:
        ops: operators it runs.
        weight_bits, activation_bits: precisions it takes; empty takes all.
        array, memories: for the hierarchy model, memories from the array outwards.
        analog: the ADC-limited array of an analog core.
        in_memory: the array of an in-memory core.
        active_mw: power while it works (DIANA and scalar models).
        cycles_per_operation: of the scalar model.
        weight_memory_bits: capacity for weights that stay (0: none known).
        measured: rows of the table model.
    """

    name: str
    kind: CoreKind
    model: PricingModel = PricingModel.HIERARCHY
    ops: tuple[Op, ...] = tuple(Op)
    weight_bits: tuple[int, ...] = ()
    activation_bits: tuple[int, ...] = ()
    array: Array | None = None
    memories: tuple[Memory, ...] = ()
    analog: AnalogArray | None = None
    in_memory: InMemoryArray | None = None
    active_mw: float = 0.0
    cycles_per_operation: float = 1.0
    weight_memory_bits: int = 0
    measured: tuple[MeasuredLayer, ...] = ()

    def refusal(self, layer: Layer) -> str | None:
        """Why this core cannot run `layer`, or None when it can."""
        if layer.op not in self.ops:
            return f"runs {', '.join(self.ops)}"
        if self.analog is not None:
            return _analog_refusal(self.analog, layer)
        if layer.adc_bits != 0:
            return f"has no {layer.adc_bits}-bit ADC"
        if layer.has_weights and self.weight_bits and layer.weight_bits not in self.weight_bits:
            return f"takes weights of {_listed(self.weight_bits)} bits"
        if self.activation_bits and layer.input_bits not in self.activation_bits:
            return f"takes inputs of {_listed(self.activation_bits)} bits"
        return None

    def supports(self, layer: Layer) -> bool:
        """True when this core can run `layer`."""
        return self.refusal(layer) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection between two cores (both ways)."""

    source: str
    target: str
    bits_per_cycle: int
    pj_per_bit: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationMemory:
    """On-chip memory in which activations may stay between layers, shared by `cores`."""

    name: str
    size_bytes: int
    cores: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A chip.

    Attributes:
        offchip: the memory behind all cores (DRAM, or L2 on a chip without one); None when cores bring their own.
        activation_memories: where activations may stay between layers.
        links: between cores; empty when they only meet in a shared memory.
        transfer_setup_cycles: of one DMA call, where the model bills it.
        idle_mw: power of the chip while no core works (part of every core's `active_mw`).
    """

    name: str
    clock_mhz: float
    cores: tuple[Core, ...]
    offchip: Memory | None = None
    activation_memories: tuple[ActivationMemory, ...] = ()
    links: tuple[Link, ...] = ()
    transfer_setup_cycles: int = 0
    idle_mw: float = 0.0
    source: str = field(default="", compare=False)

    @property
    def core_names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(core.name for core in self.cores)

    def core(self, name: str) -> Core:
        """A core by name.

        Raises:
            AccelerationError: there is none of that name.
        """
        for core in self.cores:
            if core.name == name:
                return core
        raise AccelerationError(f"unknown core {name!r}", wanted=f"one of {_listed(self.core_names)}", where=self.name)

    def activation_memory(self, core: str) -> ActivationMemory | None:
        """The on-chip memory that keeps activations for `core`, or None."""
        for memory in self.activation_memories:
            if core in memory.cores:
                return memory
        return None

    def cores_for(self, layer: Layer) -> tuple[int, ...]:
        """Indices of the cores that can run `layer`.

        Raises:
            AccelerationError: no core can; says for each core why not.
        """
        able = tuple(i for i, core in enumerate(self.cores) if core.supports(layer))
        if able:
            return able
        reasons = "; ".join(f"{core.name} {core.refusal(layer)}" for core in self.cores)
        bits = f"{layer.weight_bits}-bit weights, {layer.input_bits}-bit inputs"
        adc = f", {layer.adc_bits}-bit ADC" if layer.adc_bits else ""
        raise AccelerationError(
            f"no core runs {layer.op} layer {layer.name} ({bits}{adc})",
            wanted=reasons,
            where=f"accelerator {self.name}",
            write=f"bits that one of these cores takes, or an accelerator whose `ops` list {layer.op}",
        )


def _analog_refusal(analog: AnalogArray, layer: Layer) -> str | None:
    if layer.op not in (Op.CONV, Op.DENSE) or layer.G != 1:
        return "is analog: conv without groups and dense only"
    if layer.adc_bits != analog.adc_bits:
        return f"is analog: takes adc_bits {analog.adc_bits}"
    if layer.weight_bits != analog.weight_bits:
        return f"takes weights of {analog.weight_bits} bits"
    if analog.rows < layer.FY * layer.FX:
        return f"sums at most {analog.rows} rows"
    return None


def _listed(values: tuple[int, ...] | tuple[str, ...]) -> str:
    return ", ".join(str(v) for v in values)
