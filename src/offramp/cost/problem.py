"""The mapper's view of a workload on a chip: plain tables, made once, read millions of times.

Cost arrays become nested lists (an index into a list is several times faster than into an array), links become routes
between memories and cores, and every tensor gets its consumers. It decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from offramp.cost.fusion import Fusion, Stripes
from offramp.cost.hybrid import Teams
from offramp.cost.model import LayerCosts
from offramp.errors import AccelerationError, choose
from offramp.ir.accelerator import Accelerator, Core, Memory, Operand
from offramp.ir.workload import INPUT, Layer, Workload

Costs = list[list[list[float]]]
"""[layer][core][variant]"""

HOPELESS = 10.0
"""A core this many times slower (and no cheaper) than another is left out for a layer that is not pinned to it."""

Prices = tuple[list[float], list[float]]
"""Cycles and picojoules of one layer on one core, by variant."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way of a tensor from an activation memory to a core: cycles and picojoules per byte, indices of its links."""

    cycles_per_byte: float
    pj_per_byte: float
    links: tuple[int, ...]


class Way(NamedTuple):
    """How a layer runs on a core: prices and buffers, whole or in stripes; `input_bytes` of all its inputs."""

    cycles: list[float]
    energy: list[float]
    working: list[float]
    input_bytes: float
    output_bytes: float
    times: int


@dataclass(frozen=True, slots=True, eq=False)
class StripedLayer:
    """A layer in stripes: its rows in buffers and the prices of all stripes together, [core][variant]."""

    stripes: Stripes
    cycles: list[list[float]]
    energy: list[list[float]]
    working: list[list[float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A workload, a chip and the prices of every layer on every core, as tables.

    Attributes:
        stage_of, in_branch, last_of_stage: where each layer belongs.
        inputs: producers of each layer by index (-1: the network's input); `readers` of its output, one per use of it,
            and how many `uses` that makes.
        able, cores_of: cores that can run each layer (the one that it is pinned to), and those of them worth a try.
        alike: cores with the same number have the same prices and an activation memory of the same size.
        memory_of: activation memory of each core (-1: none), of `memory_bytes` and `memory_read` picojoules per byte;
            `routes[memory][core]` lead from one to another.
        outer_cycles, outer_read, outer_write: cycles and picojoules per byte of the outer memory.
        striped: layers that may run in stripes (`cost.fusion`), by index.
        members: the cores that a core stands for: itself, or those of a team (`cost.hybrid`).
        must_move: [layer][core]: some reader of the layer's output cannot run where the core's memory is.
        rates, reach: share of samples that leave at each exit, and that reach each stage.
    """

    workload: Workload
    accelerator: Accelerator
    costs: LayerCosts
    layers: tuple[Layer, ...]
    stage_of: list[int]
    in_branch: list[bool]
    last_of_stage: list[int]
    inputs: list[tuple[int, ...]]
    readers: list[list[int]]
    uses: list[int]
    weight_bytes: list[float]
    input_bytes: list[float]
    output_bytes: list[float]
    cycles: Costs
    energy: Costs
    ways: list[list[Way]]
    able: list[tuple[int, ...]]
    cores_of: list[tuple[int, ...]]
    alike: list[int]
    memory_of: list[int]
    memory_bytes: list[int]
    memory_read: list[float]
    routes: list[list[Route | None]]
    outer_cycles: float
    outer_read: float
    outer_write: float
    rates: tuple[float, ...]
    reach: tuple[float, ...]
    last_input_reader: int
    must_move: list[list[bool]]
    members: list[tuple[int, ...]]
    teams: Teams | None
    fusion: Fusion | None
    striped: "dict[int, StripedLayer]"


def build_problem(
    workload: Workload,
    accelerator: Accelerator,
    costs: LayerCosts,
    rates: tuple[float, ...],
    pinned: Mapping[str, str],
    fusion: Fusion | None = None,
    teams: Teams | None = None,
) -> Problem:
    """Turn a workload, a chip and prices into tables.

    Raises:
        AccelerationError: no core runs a layer, or not the one that it is pinned to.
        UserError: `pinned` names a layer or core that does not exist.
    """
    layers = workload.layers
    index = {layer.name: i for i, layer in enumerate(layers)}
    inputs = [tuple(-1 if s == INPUT else index[s] for s in layer.inputs) for layer in layers]
    readers = _readers(inputs)
    cycles: Costs = costs.cycles.transpose(1, 2, 0).tolist()
    energy: Costs = costs.energy_pj.transpose(1, 2, 0).tolist()
    memory_of = [_memory_index(accelerator, name) for name in accelerator.core_names]
    stage_of = [s for s, stage in enumerate(workload.stages) for _ in (*stage.backbone, *stage.branch)]
    outer = _outer_rates(accelerator)
    able = _allowed(layers, accelerator, cycles, pinned)
    cores_of = [_worth_a_try(cores, *prices) for cores, *prices in zip(able, cycles, energy, strict=True)]
    return Problem(
        workload=workload,
        accelerator=accelerator,
        costs=costs,
        layers=layers,
        stage_of=stage_of,
        in_branch=[
            b for stage in workload.stages for b in (*(False for _ in stage.backbone), *(True for _ in stage.branch))
        ],
        last_of_stage=[
            max((i for i, s in enumerate(stage_of) if s <= k), default=-1) for k in range(len(workload.stages))
        ],
        inputs=inputs,
        readers=readers,
        uses=[len(reading) for reading in readers],
        weight_bytes=[layer.weight_elements * layer.weight_bits / 8 for layer in layers],
        input_bytes=[_input_bytes(layer) for layer in layers],
        output_bytes=[_output_bytes(layer) for layer in layers],
        cycles=cycles,
        energy=energy,
        ways=_ways(layers, cycles, energy, costs.peak_bytes.transpose(1, 2, 0).tolist()),
        able=able,
        cores_of=cores_of,
        must_move=must_move(inputs, cores_of, memory_of),
        members=_members(accelerator, teams),
        teams=teams,
        fusion=fusion,
        striped=_striped(fusion) if fusion is not None else {},
        alike=_alike(accelerator, cycles, memory_of),
        memory_of=memory_of,
        memory_bytes=[m.size_bytes for m in accelerator.activation_memories],
        memory_read=[
            _access_pj_per_byte(accelerator, m, write=False) for m in range(len(accelerator.activation_memories))
        ],
        routes=_routes(accelerator, memory_of),
        outer_cycles=outer[0],
        outer_read=outer[1],
        outer_write=outer[2],
        rates=rates,
        reach=tuple(sum(rates[i:]) for i in range(len(rates))),
        last_input_reader=max((i for i, sources in enumerate(inputs) if -1 in sources), default=-1),
    )


def _ways(layers: Sequence[Layer], cycles: Costs, energy: Costs, working: Costs) -> list[list[Way]]:
    table = []
    for layer, *prices in zip(layers, cycles, energy, working, strict=True):
        read = _input_bytes(layer) * len(layer.inputs)
        made = _output_bytes(layer)
        table.append([Way(t, e, w, read, made, 1) for t, e, w in zip(*prices, strict=True)])
    return table


def _input_bytes(layer: Layer) -> float:
    return layer.input_elements * layer.input_bits / 8


def _output_bytes(layer: Layer) -> float:
    return layer.output_elements * layer.output_bits / 8


def _readers(inputs: Sequence[tuple[int, ...]]) -> list[list[int]]:
    readers: list[list[int]] = [[] for _ in inputs]
    for layer, sources in enumerate(inputs):
        for source in sources:
            if source >= 0:
                readers[source].append(layer)
    return readers


def _members(accelerator: Accelerator, teams: Teams | None) -> list[tuple[int, ...]]:
    names = accelerator.core_names
    known = teams.cores if teams is not None else {}
    return [tuple(names.index(m) for m in known[name]) if name in known else (i,) for i, name in enumerate(names)]


def _striped(fusion: Fusion) -> dict[int, StripedLayer]:
    table = {}
    for layer, stripes in fusion.layers.items():
        cycles, energy, working = (
            values[:, stripes.row].T
            for values in (fusion.costs.cycles, fusion.costs.energy_pj, fusion.costs.peak_bytes)
        )
        many = stripes.count
        table[layer] = StripedLayer(stripes, (cycles * many).tolist(), (energy * many).tolist(), working.tolist())
    return table


def must_move(
    inputs: Sequence[tuple[int, ...]], cores_of: Sequence[tuple[int, ...]], memory_of: Sequence[int]
) -> list[list[bool]]:
    """[layer][core]: some reader of the layer's output cannot run where the core's memory is."""
    table = [[False] * len(memory_of) for _ in inputs]
    for reader, sources in enumerate(inputs):
        near = {memory_of[c] for c in cores_of[reader]}
        for source in sources:
            if source >= 0:
                table[source] = [moves or m not in near for moves, m in zip(table[source], memory_of, strict=True)]
    return table


def _memory_index(accelerator: Accelerator, core: str) -> int:
    memory = accelerator.activation_memory(core)
    return -1 if memory is None else accelerator.activation_memories.index(memory)


def _allowed(
    layers: Sequence[Layer], accelerator: Accelerator, cycles: Costs, pinned: Mapping[str, str]
) -> list[tuple[int, ...]]:
    known = {layer.name for layer in layers}
    for name, core in pinned.items():
        if name not in known:
            raise choose("layer", name, known, where="pinned cores")
        accelerator.core(core)
    rows = zip(layers, cycles, strict=True)
    return [_able(layer, accelerator, time, pinned.get(layer.name)) for layer, time in rows]


def _able(layer: Layer, accelerator: Accelerator, cycles: list[list[float]], wish: str | None) -> tuple[int, ...]:
    """Cores with a finite price for a layer, or the one that it is pinned to."""
    names = accelerator.core_names
    able = tuple(c for c in range(len(names)) if min(cycles[c]) < inf)
    where = f"accelerator {accelerator.name}"
    if not able:
        accelerator.cores_for(layer)
        given = f"no core has room for {layer.op} layer {layer.name}"
        raise AccelerationError(given, wanted="a core whose memories hold the smallest tile of it", where=where)
    if wish is None:
        return able
    if names.index(wish) not in able:
        why = accelerator.core(wish).refusal(layer) or "has no room for it"
        given = f"{layer.op} layer {layer.name} is pinned to core {wish}, which {why}"
        raise AccelerationError(given, wanted=f"one of {', '.join(names[c] for c in able)}", where=where)
    return (names.index(wish),)


def _worth_a_try(able: tuple[int, ...], cycles: list[list[float]], energy: list[list[float]]) -> tuple[int, ...]:
    prices = [(cycles[c], energy[c]) for c in able]
    return tuple(c for c, own in zip(able, prices, strict=True) if not _hopeless(own, prices))


def _hopeless(own: Prices, others: list[Prices]) -> bool:
    """True when another core is `HOPELESS` times faster and no dearer in every variant: overlap cannot mend that."""
    return any(
        all(t * HOPELESS < mine for t, mine in zip(other[0], own[0], strict=True))
        and all(e <= mine for e, mine in zip(other[1], own[1], strict=True))
        for other in others
    )


def _alike(accelerator: Accelerator, cycles: Costs, memory_of: Sequence[int]) -> list[int]:
    """A number per core, the same for cores that are copies of one another with memories of their own."""
    numbers: dict[object, int] = {}
    shared = [memory_of.count(m) > 1 for m in memory_of]
    out = []
    for c in range(len(accelerator.cores)):
        size = accelerator.activation_memories[memory_of[c]].size_bytes if memory_of[c] >= 0 else 0
        key = (c,) if shared[c] else (size, tuple(tuple(row[c]) for row in cycles))
        out.append(numbers.setdefault(key, len(numbers)))
    return out


def _outer_memory(accelerator: Accelerator) -> Memory | None:
    if accelerator.offchip is not None:
        return accelerator.offchip
    return next((m for core in accelerator.cores for m in core.memories if m.off_chip), None)


def _width(memory: Memory) -> int:
    return max((port.bits_per_cycle for port in memory.ports), default=8)


def _outer_rates(accelerator: Accelerator) -> tuple[float, float, float]:
    memory = _outer_memory(accelerator)
    if memory is None:
        return 0.0, 0.0, 0.0
    width = _width(memory)
    return 8 / width, memory.read_pj * 8 / width, memory.write_pj * 8 / width


def _activation_level(core: Core) -> Memory | None:
    on_chip = [m for m in core.memories if not m.off_chip and {Operand.I, Operand.O} & set(m.operands)]
    return max(on_chip, key=lambda m: m.size_bits, default=None)


def _access_pj_per_byte(accelerator: Accelerator, memory: int, write: bool) -> float:
    """Energy of one byte in or out of an activation memory; 0 where the core's model does not describe it."""
    for name in accelerator.activation_memories[memory].cores:
        level = _activation_level(accelerator.core(name))
        if level is not None:
            return (level.write_pj if write else level.read_pj) * 8 / _width(level)
    return 0.0


def _routes(accelerator: Accelerator, memory_of: Sequence[int]) -> list[list[Route | None]]:
    names = accelerator.core_names
    table: list[list[Route | None]] = []
    for m, memory in enumerate(accelerator.activation_memories):
        read = _access_pj_per_byte(accelerator, m, write=False)
        row: list[Route | None] = []
        for c in range(len(names)):
            if memory_of[c] < 0 or memory_of[c] == m:
                row.append(None)
                continue
            write = _access_pj_per_byte(accelerator, memory_of[c], write=True)
            row.append(_shortest(accelerator, set(memory.cores), names[c], read + write))
        table.append(row)
    return table


def _shortest(accelerator: Accelerator, sources: set[str], target: str, access_pj: float) -> Route | None:
    """The route with the fewest links (breadth first), as wide as its narrowest link."""
    frontier: list[tuple[str, tuple[int, ...]]] = [(name, ()) for name in sorted(sources)]
    seen = set(sources)
    while frontier:
        name, path = frontier.pop(0)
        if name == target:
            hops = [accelerator.links[i] for i in path]
            energy = access_pj + 8 * sum(hop.pj_per_bit for hop in hops)
            return Route(8 / min(hop.bits_per_cycle for hop in hops), energy, path) if hops else None
        for i, link in enumerate(accelerator.links):
            if name in (link.source, link.target):
                other = link.target if name == link.source else link.source
                if other not in seen:
                    seen.add(other)
                    frontier.append((other, (*path, i)))
    return None
