"""The mapper: laws on random prices, exhaustive search as a reference, then real networks on shipped chips."""

import itertools
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offramp.cost import schedule_tables
from offramp.cost.beam import SPECULATE, WAIT, Rules, search
from offramp.cost.mapper import GOALS, OBJECTIVES, map_network
from offramp.cost.model import LayerCosts
from offramp.cost.network import NetworkCost
from offramp.cost.problem import Problem, build_problem
from offramp.cost.schedule_tables import OUTER, STAY
from offramp.errors import AccelerationError, InternalError, UserError
from offramp.ir.accelerator import Accelerator, ActivationMemory, Core, CoreKind, Link, Memory, Operand, Port
from offramp.ir.mapping import ExitMode
from offramp.ir.workload import INPUT, Layer, Op, Stage, Workload

DRAM = Memory(
    name="dram",
    size_bits=1 << 40,
    read_pj=100.0,
    write_pj=120.0,
    operands=(Operand.I, Operand.W, Operand.O),
    ports=(Port(name="rw", bits_per_cycle=64, granularity_bits=64, serves=()),),
    dimensions=(),
    off_chip=True,
)


def chip(cores: int, memory_bytes: int = 1 << 20, shared: bool = False, linked: bool = True) -> Accelerator:
    names = tuple(f"c{i}" for i in range(cores))
    memories = (
        (ActivationMemory(name="l1", size_bytes=memory_bytes, cores=names),)
        if shared
        else tuple(ActivationMemory(name=f"{n}.l1", size_bytes=memory_bytes, cores=(n,)) for n in names)
    )
    links = tuple(Link(source=a, target=b, bits_per_cycle=64, pj_per_bit=0.05) for a, b in pairwise(names))
    return Accelerator(
        name="toy",
        clock_mhz=100.0,
        cores=tuple(Core(name=n, kind=CoreKind.DIGITAL) for n in names),
        offchip=DRAM,
        activation_memories=memories,
        links=() if shared or not linked else links,
    )


def conv(name: str, source: str, side: int = 8, channels: int = 8, source_channels: int = 8) -> Layer:
    return Layer(
        name=name, op=Op.CONV, K=channels, C=source_channels, OY=side, OX=side, IY=side, IX=side, inputs=(source,)
    )


def add(name: str, a: str, b: str, side: int = 8, channels: int = 8) -> Layer:
    return (
        Layer(name=name, op=Op.ADD, K=channels, C=1, OY=side, OX=side, IY=side, IX=side, inputs=(a, b))
        if channels == 1
        else Layer(name=name, op=Op.ADD, G=channels, K=1, C=1, OY=side, OX=side, IY=side, IX=side, inputs=(a, b))
    )


def branch(i: int, source: str, side: int = 8) -> tuple[Layer, ...]:
    pool = Layer(
        name=f"x{i}.pool", op=Op.MAX_POOL, G=8, K=1, C=1, OY=4, OX=4, FY=2, FX=2, IY=side, IX=side, stride=(2, 2),
        inputs=(source,),
    )  # fmt: skip
    return (pool, Layer(name=f"x{i}.fc", op=Op.DENSE, K=10, C=128, inputs=(pool.name,)))


def network(blocks: int, exits: tuple[int, ...], residual: bool) -> Workload:
    """A chain of convolutions (a residual addition after every second), exits after some, a classifier."""
    stages: list[Stage] = []
    backbone: list[Layer] = []
    last, skip = INPUT, ""
    for i in range(blocks):
        backbone.append(conv(f"b{i}", last))
        last = f"b{i}"
        if residual and i % 2 == 1:
            if skip:
                backbone.append(add(f"a{i}", last, skip))
                last = f"a{i}"
            skip = last
        if i in exits:
            stages.append(Stage(backbone=tuple(backbone), branch=branch(i, last), mounting_point=i))
            backbone = []
    stages.append(Stage(backbone=tuple(backbone), branch=branch(blocks, last), mounting_point=blocks))
    return Workload("toy", tuple(stages))


def random_costs(workload: Workload, cores: int, seed: int, alike: bool = False) -> LayerCosts:
    """Prices that depend on a layer's name alone; what stays on the chip is never dearer."""
    shape = (4, len(workload.layers), cores)
    cycles, energy = np.empty(shape), np.empty(shape)
    for i, layer in enumerate(workload.layers):
        rng = np.random.default_rng([seed, *layer.name.encode()])
        base = rng.uniform(20, 400, cores)
        power = rng.uniform(1, 50, cores) * base
        if alike:
            base[:], power[:] = base[0], power[0]
        outside = rng.uniform(0.1, 1.5, 2)
        for v in range(4):
            far = outside[0] * (v < 2) + outside[1] * (v % 2 == 0)
            cycles[v, i] = base * (1 + far)
            energy[v, i] = power * (1 + 2 * far)
    return LayerCosts(
        cycles=cycles,
        energy_pj=energy,
        parts={"mac": energy * 0.25, "memory": energy * 0.75},
        utilization=np.full(shape, 0.5),
        peak_bytes=np.full(shape, 64.0),
    )


def exhaustive(p: Problem, objective: str, keeps: tuple[int, ...] = (STAY, OUTER)) -> tuple[float, float]:
    """The best score of any assignment, retention and exit modes, by trying them all."""
    layers, tries, uses = len(p.layers), p.tables.tries, p.tables.layers["uses"]
    cores = itertools.product(*[np.flatnonzero(row) for row in tries])
    ways = [
        Rules(np.array(chosen)[:, None] == np.arange(tries.shape[1]), keep, modes)
        for chosen in cores
        for keep in itertools.product(*[keeps if uses[i] else (OUTER,) for i in range(layers)])
        for modes in itertools.product((WAIT, SPECULATE), repeat=len(p.rates) - 1)
    ]
    found = [search(p, replace(rules, modes=(*rules.modes, WAIT)), GOALS[objective], width=1)[0] for rules in ways]
    return min(OBJECTIVES[objective](*schedule.expected) for schedule in found)


def price(cost: NetworkCost, objective: str) -> float:
    e = cost.expected()
    return OBJECTIVES[objective](e.latency_cycles, e.energy_pj, e.et_joule_cycles)[0]


def score_of(
    workload: Workload, accelerator: Accelerator, costs: LayerCosts, objective: str, **options: object
) -> float:
    return price(map_network(workload, accelerator, costs=costs, objective=objective, **options), objective)  # type: ignore[arg-type]


workloads = st.builds(
    lambda blocks, exits, residual: network(blocks, tuple(sorted(e for e in exits if e < blocks - 1)), residual),
    st.integers(1, 7), st.sets(st.integers(0, 5), max_size=3), st.booleans(),
)  # fmt: skip
chips = st.builds(
    chip, st.integers(1, 3), st.sampled_from([600, 1100, 2000, 1 << 20]), st.booleans(), st.booleans()
)  # fmt: skip
objectives = st.sampled_from(sorted(OBJECTIVES))
seeds = st.integers(0, 10_000)


def rates_for(workload: Workload, seed: int) -> tuple[float, ...]:
    raw = np.random.default_rng(seed).dirichlet(np.ones(len(workload.stages)))
    return tuple(float(r) for r in raw / raw.sum())


LIMIT = 1 + 1e-9


@given(workloads, chips, seeds, objectives)
@example(network(2, (), False), chip(2, 1100, False, False), 34, "edp")
@settings(max_examples=60, deadline=None)
def test_never_worse_than_layer_by_layer_or_any_single_core(
    workload: Workload, accelerator: Accelerator, seed: int, objective: str
) -> None:
    costs = random_costs(workload, len(accelerator.cores), seed)
    rates = rates_for(workload, seed)
    best = score_of(workload, accelerator, costs, objective, exit_rates=rates)
    plain = {"costs": costs, "objective": objective, "exit_rates": rates}
    assert best <= score_of(workload, accelerator, execution="layer-by-layer", **plain) * LIMIT
    for core in accelerator.core_names:
        pinned = {layer.name: core for layer in workload.layers}
        assert best <= score_of(workload, accelerator, pinned=pinned, **plain) * LIMIT


@given(workloads, chips, seeds, objectives, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_exit_that_nobody_takes_never_lowers_the_price(
    workload: Workload, accelerator: Accelerator, seed: int, objective: str, after: int
) -> None:
    stage = workload.stages[after % len(workload.stages)]
    cut = max(1, len(stage.backbone) // 2)
    idle = Stage(backbone=stage.backbone[:cut], branch=branch(99, stage.backbone[cut - 1].name))
    rest = replace(stage, backbone=stage.backbone[cut:])
    stages = [x for s in workload.stages for x in ((idle, rest) if s is stage else (s,))]
    longer = Workload(workload.name, tuple(stages))
    rates = rates_for(workload, seed)
    longer_rates = [r for s, r in zip(workload.stages, rates, strict=True) for r in ((0.0, r) if s is stage else (r,))]
    cores = len(accelerator.cores)
    short = map_network(
        workload, accelerator, costs=random_costs(workload, cores, seed), objective=objective, exit_rates=rates
    )
    long = map_network(
        longer, accelerator, costs=random_costs(longer, cores, seed), objective=objective, exit_rates=longer_rates
    )
    assert price(long, objective) >= price(short, objective) / LIMIT
    assert long.energy_pj >= short.energy_pj / LIMIT
    assert long.expected().latency_cycles >= short.expected().latency_cycles / LIMIT


@given(workloads, chips, seeds, objectives, st.sampled_from(["best", "layer-by-layer"]))
@settings(max_examples=60, deadline=None)
def test_the_expectation_lies_between_the_first_exit_and_the_worst_case(
    workload: Workload, accelerator: Accelerator, seed: int, objective: str, execution: str
) -> None:
    costs = random_costs(workload, len(accelerator.cores), seed)
    rates = rates_for(workload, seed)
    cost = map_network(workload, accelerator, costs=costs, objective=objective, exit_rates=rates, execution=execution)
    mean, worst, first = cost.expected(), cost.worst_case, cost.stages[0]
    assert first.cumulative_cycles / LIMIT <= mean.latency_cycles <= worst.latency_cycles * LIMIT
    assert first.cumulative_pj / LIMIT <= mean.energy_pj <= worst.energy_pj * LIMIT
    assert all(
        a.cumulative_cycles <= b.cumulative_cycles and a.cumulative_pj <= b.cumulative_pj * LIMIT
        for a, b in pairwise(cost.stages)
    )


@given(workloads, chips, seeds, objectives)
@settings(max_examples=60, deadline=None)
def test_a_schedule_is_possible(workload: Workload, accelerator: Accelerator, seed: int, objective: str) -> None:
    costs = random_costs(workload, len(accelerator.cores), seed)
    cost = map_network(workload, accelerator, costs=costs, objective=objective)
    at = {layer.name: layer for layer in cost.layers}
    assert sorted(at) == sorted(layer.name for layer in workload.layers)
    for layer in workload.layers:
        assert all(at[layer.name].start >= at[s].end for s in layer.inputs if s != INPUT)
    for core in accelerator.core_names:
        spans = sorted((x.start, x.end) for x in cost.layers if x.core == core)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
    for memory in accelerator.activation_memories:
        assert cost.level_bytes.get(memory.name, 0) <= memory.size_bytes
    assert cost.energy_pj == pytest.approx(sum(x.energy_pj for x in cost.layers))
    for x in cost.layers:
        assert sum(x.energy_parts.values()) == pytest.approx(x.energy_pj)
        assert 0 <= x.utilization <= 1
    assert cost.latency_cycles == pytest.approx(max(x.end for x in cost.layers))
    assert cost.macs == workload.macs


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("shared", [True, False])
def test_within_five_percent_of_exhaustive_search(objective: str, shared: bool) -> None:
    for seed in range(4):
        workload = network(3, (1,) if seed % 2 else (), residual=seed > 1)
        accelerator = chip(2 if seed % 2 else 3, 600 if seed == 2 else 1 << 20, shared=shared)
        costs = random_costs(workload, len(accelerator.cores), seed)
        rates = rates_for(workload, seed)
        optimum = exhaustive(build_problem(workload, accelerator, costs, rates, {}), objective)[0]
        found = score_of(workload, accelerator, costs, objective, exit_rates=rates)
        assert optimum / LIMIT <= found <= 1.05 * optimum, (seed, found / optimum)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize(
    ("bits", "picojoules", "links", "alike"),
    [(64, 5.0, 2, False), (1, 0.05, 2, False), (4, 5.0, 1, False), (8, 0.0, 0, False), (64, 0.05, 1, True)],
)
def test_within_five_percent_of_exhaustive_search_on_bad_links(
    bits: int, picojoules: float, links: int, alike: bool, objective: str
) -> None:
    """Links that are slow, dear or missing: an output may be better off in the outer memory from the start."""
    for seed in range(3):
        workload = network(1 + seed, (), residual=False)
        accelerator = chip(3, 600 if alike else 1 << 20)
        slow = [replace(link, bits_per_cycle=bits, pj_per_bit=picojoules) for link in accelerator.links]
        accelerator = replace(accelerator, links=tuple(slow[:links]))
        costs = random_costs(workload, 3, seed, alike=alike)
        optimum = exhaustive(build_problem(workload, accelerator, costs, (1.0,), {}), objective)[0]
        assert optimum / LIMIT <= score_of(workload, accelerator, costs, objective) <= 1.05 * optimum, seed


@pytest.mark.slow
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_within_five_percent_of_exhaustive_search_on_eight_layers(objective: str) -> None:
    for seed in range(12):
        workload = network(4 if seed % 2 else 6, (1,) if seed % 2 else (), residual=seed % 3 == 0)
        accelerator = chip(3, 1100 if seed % 4 == 2 else 1 << 20, shared=seed % 5 == 0)
        costs = random_costs(workload, 3, seed, alike=seed % 7 == 0)
        rates = rates_for(workload, seed)
        problem = build_problem(workload, accelerator, costs, rates, {})
        optimum = exhaustive(problem, objective, keeps=(STAY,))[0]
        assert score_of(workload, accelerator, costs, objective, exit_rates=rates) <= 1.05 * optimum


def test_retention_spares_the_outer_memory_and_its_absence_is_layer_by_layer() -> None:
    workload = network(4, (), residual=False)
    costs = random_costs(workload, 1, 3)
    kept = map_network(workload, chip(1), costs=costs)
    tiny = map_network(workload, chip(1, memory_bytes=8), costs=costs)
    plain = map_network(workload, chip(1), costs=costs, execution="layer-by-layer")
    assert kept.energy_pj == pytest.approx(
        costs.energy_pj[1, 0, 0] + costs.energy_pj[3, 1:-1, 0].sum() + costs.energy_pj[2, -1, 0]
    )
    assert plain.energy_pj == pytest.approx(costs.energy_pj[0].sum())
    assert plain.latency_cycles == pytest.approx(costs.cycles[0].sum())
    assert kept.energy_pj < plain.energy_pj
    assert plain.energy_pj >= tiny.energy_pj >= kept.energy_pj


def test_speculation_follows_the_exit_rates() -> None:
    workload = network(6, (2,), residual=False)
    accelerator = chip(2)
    costs = random_costs(workload, 2, 5, alike=True)
    rarely = map_network(workload, accelerator, costs=costs, objective="et", exit_rates=(0.02, 0.98))
    mostly = map_network(workload, accelerator, costs=costs, objective="et", exit_rates=(0.98, 0.02))
    assert rarely.mapping.exit_modes == (ExitMode.SPECULATE,)
    assert mostly.mapping.exit_modes == (ExitMode.WAIT,)
    assert rarely.latency_cycles < mostly.latency_cycles
    assert rarely.stages[0].wasted_pj > 0 == mostly.stages[0].wasted_pj


def test_schedules_outgrow_the_room_that_they_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be freed and what is booked of the outer memory is kept in lists that are made longer when full."""
    workload = network(7, (1, 3), residual=True)
    for size in (8, 1100, 1 << 20):
        accelerator, costs = chip(3, size), random_costs(workload, 3, size)
        monkeypatch.setattr(schedule_tables, "LISTS", 64)
        roomy = map_network(workload, accelerator, costs=costs)
        monkeypatch.setattr(schedule_tables, "LISTS", 1)
        assert map_network(workload, accelerator, costs=costs) == roomy


def test_a_network_of_a_thousand_layers_on_twelve_cores_is_mapped() -> None:
    """The last layer reads the network's input, so nothing that was booked may be forgotten before it is placed."""
    layers = [conv(f"b{i}", f"b{i - 1}" if i else INPUT) for i in range(1000)]
    layers.append(add("end", "b999", INPUT))
    workload, accelerator = Workload("long", (Stage(backbone=tuple(layers)),)), chip(12, 1100)
    cost = map_network(workload, accelerator, costs=random_costs(workload, 12, 1))
    assert all(a.end <= b.start for a, b in pairwise(cost.layers))
    assert cost.energy_pj == pytest.approx(sum(x.energy_pj for x in cost.layers))


def test_a_pinned_layer_stays_on_its_core_and_a_wrong_pin_is_refused() -> None:
    workload = network(3, (), residual=False)
    accelerator = chip(2)
    costs = random_costs(workload, 2, 1)
    cost = map_network(workload, accelerator, costs=costs, pinned={"b1": "c1", "b2": "c0"})
    assert cost.mapping.cores["b1"] == "c1"
    assert cost.mapping.cores["b2"] == "c0"
    with pytest.raises(UserError, match="unknown layer 'nope'"):
        map_network(workload, accelerator, costs=costs, pinned={"nope": "c1"})
    with pytest.raises(AccelerationError, match="unknown core 'c9'"):
        map_network(workload, accelerator, costs=costs, pinned={"b1": "c9"})
    costs.cycles[:, 1, 1] = np.inf
    with pytest.raises(AccelerationError, match="conv layer b1 is pinned to core c1"):
        map_network(workload, accelerator, costs=costs, pinned={"b1": "c1"})


def test_a_layer_that_no_core_takes_names_layer_operator_bits_and_cores() -> None:
    workload = network(3, (), residual=False)
    pools = (Op.MAX_POOL,)
    accelerator = replace(chip(1), cores=(Core(name="c0", kind=CoreKind.VECTOR, ops=pools),))
    with pytest.raises(AccelerationError, match=r"no core runs conv layer b0 \(8-bit weights.*c0 runs max_pool"):
        map_network(workload, accelerator, costs=random_costs(workload, 1, 1))
    costs = random_costs(workload, 1, 1)
    costs.cycles[:, 2] = np.inf
    with pytest.raises(AccelerationError, match="no core has room for conv layer b2"):
        map_network(workload, chip(1), costs=costs)


def test_wrong_requests_are_refused() -> None:
    workload = network(2, (0,), residual=False)
    costs = random_costs(workload, 1, 1)
    with pytest.raises(UserError, match="unknown objective 'speed'"):
        map_network(workload, chip(1), costs=costs, objective="speed")
    with pytest.raises(UserError, match="unknown execution 'fused'"):
        map_network(workload, chip(1), costs=costs, execution="fused")
    with pytest.raises(UserError, match="3 exit rates for 2 exits"):
        map_network(workload, chip(1), costs=costs, exit_rates=(0.2, 0.3, 0.5))
    with pytest.raises(UserError, match="a network without layers"):
        map_network(Workload("none", (Stage(backbone=()),)), chip(1), costs=costs)
    with pytest.raises(InternalError, match="needs costs or a cost_model"):
        map_network(workload, chip(1))
