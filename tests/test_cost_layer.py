"""Prices of single layers: laws, the published DIANA formulas, tables of times, variants, and how much is batched."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_zoo import add, conv, dense, held_out, mobilenetv2, pool, resnet8, unique_layers
from offramp.cost import engine_compile, engine_memory
from offramp.cost.analytic import analog_cycles, digital_cycles
from offramp.cost.engine import FastCostModel
from offramp.cost.engine_loops import loop_factors, pattern_of
from offramp.cost.engine_windows import union_of
from offramp.cost.model import LayerCosts
from offramp.cost.promotion import promoted
from offramp.cost.variants import core_of_variant
from offramp.formats.accelerator_yaml import accelerator_from_data, load_accelerator
from offramp.formats.table_yaml import table_row
from offramp.ir.accelerator import Accelerator, Core, Memory, Operand, PricingModel
from offramp.ir.workload import Layer, Op

GOLDEN = Path(__file__).parent / "golden" / "zigzag"
NAMES = ("tpu-like", "edge-tpu-like", "eyeriss-like", "meta-like")
CHIPS = {n: load_accelerator(GOLDEN / f"{n}.yaml") for n in (*NAMES, "in-memory-analog", "in-memory-digital")}
CHIPS |= {n: load_accelerator(n) for n in ("diana", "diana-hierarchy", "edge-tpu-quad")}
MODEL = FastCostModel()


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    op = draw(st.sampled_from(list(Op)))
    size, channels = draw(st.integers(1, 20)), draw(st.integers(1, 70))
    if op is Op.DENSE:
        return dense("l", "input", draw(st.integers(1, 300)), channels)
    if op is Op.ADD:
        return add("l", "a", "b", channels, size)
    if op in (Op.MAX_POOL, Op.AVG_POOL):
        return pool("l", "input", channels, size, draw(st.integers(2, 4)), op)
    kernel, stride = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 2))
    if op is Op.DEPTHWISE:
        return conv("l", "input", channels + 1, channels + 1, size, kernel, stride, g=channels + 1)
    return conv("l", "input", draw(st.integers(1, 70)), channels, size, kernel, stride)


def prices(layer: Layer, chip: Accelerator) -> LayerCosts:
    return MODEL.layer_costs([layer], chip)


def peak(core: Core, chip: Accelerator) -> float:
    """Most operations per cycle that a core can do."""
    if core.model is PricingModel.SCALAR:
        return 1.0 / core.cycles_per_operation
    if core.model is PricingModel.DIANA_ANALOG and core.analog:
        return core.analog.rows * core.analog.columns / (core.analog.mvm_ns * chip.clock_mhz / 1e3)
    assert core.array is not None
    return float(core.array.units)


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from(sorted(CHIPS)))
def test_no_layer_is_faster_than_the_array(layer: Layer, name: str) -> None:
    chip = CHIPS[name]
    costs = prices(layer, chip)
    work = layer.operations if layer.has_weights else layer.output_elements * layer.FY * layer.FX
    for i, core in enumerate(chip.cores):
        assert (costs.cycles[:, 0, i] >= work / peak(core, chip) * (1 - 1e-9)).all()
        assert np.isinf(costs.cycles[:, 0, i]).all() or core.supports(layer)
    finite = costs.feasible
    assert (costs.utilization[finite] <= 1.0).all()
    parts = np.sum(list(costs.parts.values()), axis=0)
    np.testing.assert_allclose(parts[finite], costs.energy_pj[finite], rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from(sorted(CHIPS)), st.sampled_from([(8, 4), (8, 2), (4, 2)]))
def test_fewer_weight_bits_never_cost_more_energy(layer: Layer, name: str, bits: tuple[int, int]) -> None:
    more, fewer = (prices(replace(layer, weight_bits=b), CHIPS[name]) for b in bits)
    both = more.feasible & fewer.feasible
    assert (fewer.energy_pj[both] <= more.energy_pj[both] * (1 + 1e-12)).all()


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from(sorted(CHIPS)), st.sampled_from([(8, 7), (8, 4), (7, 4)]))
def test_fewer_bits_everywhere_never_cost_more_energy(layer: Layer, name: str, bits: tuple[int, int]) -> None:
    more, fewer = (
        prices(replace(layer, input_bits=b, output_bits=b, weight_bits=8 if b == 7 else b), CHIPS[name]) for b in bits
    )
    both = more.feasible & fewer.feasible
    assert (fewer.energy_pj[both] <= more.energy_pj[both] * (1 + 1e-12)).all()


def faster(memory: Memory, factor: int) -> Memory:
    return replace(memory, ports=tuple(replace(p, bits_per_cycle=p.bits_per_cycle * factor) for p in memory.ports))


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from(NAMES), st.sampled_from([2, 4]), st.booleans())
def test_more_bandwidth_never_costs_more_cycles(layer: Layer, name: str, factor: int, only_dram: bool) -> None:
    chip = CHIPS[name]
    memories = tuple(m if only_dram and not m.off_chip else faster(m, factor) for m in chip.cores[0].memories)
    wide = replace(chip, cores=(replace(chip.cores[0], memories=memories),))
    slow, fast = prices(layer, chip).cycles, prices(layer, wide).cycles
    both = np.isfinite(slow)
    assert (fast[both] <= slow[both] * (1 + 1e-12)).all()


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from(sorted(CHIPS)), st.sampled_from([2, 8]))
def test_more_memory_than_a_layer_needs_changes_nothing(layer: Layer, name: str, factor: int) -> None:
    chip = CHIPS[name]
    need = 64 * (layer.input_elements + layer.output_elements + layer.weight_elements)

    def larger(core: Core) -> Core:
        grown = (replace(m, size_bits=m.size_bits * factor) if m.size_bits > 2 * need else m for m in core.memories)
        return replace(core, memories=tuple(grown))

    bigger = replace(chip, cores=tuple(larger(c) for c in chip.cores))
    np.testing.assert_array_equal(prices(layer, bigger).cycles, prices(layer, chip).cycles)


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from(NAMES))
def test_activations_on_chip_never_cost_more_energy_at_the_outer_memory(layer: Layer, name: str) -> None:
    costs = prices(layer, CHIPS[name])
    dram = costs.parts["dram"][:, 0, 0]
    if np.isfinite(costs.cycles[3, 0, 0]):
        assert dram[3] <= dram[1] * (1 + 1e-12)
        assert dram[3] <= dram[2] * (1 + 1e-12)
        assert dram[1] <= dram[0] * (1 + 1e-12)


@given(st.lists(st.integers(1, 60), min_size=8, max_size=8))
def test_loop_factors_conserve_the_work(sizes: list[int]) -> None:
    factors = loop_factors(tuple(sizes), tuple(range(8)))
    assert int(np.prod([f for _, f in factors])) == int(np.prod(sizes))
    for loop in range(8):
        assert int(np.prod([f for d, f in factors if d == loop])) == sizes[loop]
    assert len(factors) <= max(6, sum(s > 1 for s in sizes), 1)


def test_equal_factors_are_found_where_no_operand_tells_their_loops_apart() -> None:
    factors = ((0, 2), (0, 2), (1, 3), (2, 2), (3, 5))
    assert pattern_of(factors, tuple(range(8))) == (0, 0, 2, 3, 4)
    assert pattern_of(factors, (0, 1, 0, 3, 4, 5, 6, 7)) == (0, 0, 2, 0, 4)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 100)), min_size=2, max_size=3), st.integers(1, 3))
def test_union_of_windows_equals_counting_cycles(steps: list[tuple[int, int]], repeats: int) -> None:
    periods = np.cumprod([3, *(s for s, _ in steps[1:])])
    allowed = [a % (int(p) + 1) for p, (_, a) in zip(periods, steps, strict=True)]
    total = int(periods[-1]) * repeats
    time_line = np.arange(total)
    wanted = np.any([time_line % p < a for p, a in zip(periods, allowed, strict=True)], axis=0).sum()
    count = [float(total // p) for p in periods]
    windows = (np.array(periods, dtype=np.float64), np.array(allowed, dtype=np.float64), np.array(count))
    assert union_of(*windows, len(count)) == wanted


def test_digital_formula_of_diana() -> None:
    layer = conv("l", "input", 64, 64, 56)
    assert digital_cycles([layer])[0] == np.ceil(64 / 16) * 64 * np.ceil(56 / 16) * 56 * 9
    depthwise = conv("d", "input", 64, 64, 56, g=64)
    assert digital_cycles([depthwise])[0] == 1 * 64 * np.ceil(56 / 16) * 56 * 9


@pytest.mark.parametrize(
    ("k", "c", "kernel", "pixels"), [(64, 64, 3, 4), (512, 128, 3, 1), (64, 64, 1, 8), (16, 16, 3, 4)]
)
def test_analog_formula_of_diana(k: int, c: int, kernel: int, pixels: int) -> None:
    layer = conv("l", "input", c, k, 16, f=kernel)
    wanted = np.ceil(k / 512) * np.ceil(c / 128) * 256 / pixels * 18.2 + 8 * c * kernel**2
    chip = CHIPS["diana"]
    assert analog_cycles([layer], chip.core("analog"), chip.clock_mhz)[0] == pytest.approx(wanted)


def test_diana_bills_weights_by_their_bits_and_transfers_by_their_calls() -> None:
    eight = conv("l", "input", 64, 64, 16)
    costs = MODEL.layer_costs([eight, replace(eight, weight_bits=4)], CHIPS["diana"])
    digital = CHIPS["diana"].core_names.index("digital")
    saved = costs.cycles[3, 0, digital] - costs.cycles[3, 1, digital]
    assert saved == pytest.approx(64 * 64 * 9 * 4 / 128)
    inside = costs.cycles[3, 0, digital]
    assert inside == pytest.approx(digital_cycles([eight])[0] + 64 * 64 * 9 * 8 / 128 + 70)
    assert costs.cycles[0, 0, digital] - inside == pytest.approx(16 * 16 * 128 / 8 + 2 * 70)


def test_in_memory_and_analog_layers_have_their_cores() -> None:
    layer = replace(conv("l", "input", 64, 64, 16), weight_bits=2, input_bits=7, adc_bits=6)
    for name in ("diana", "diana-hierarchy"):
        assert np.isfinite(prices(layer, CHIPS[name]).cycles[0, 0]).tolist() == [False, True, False, False]
    assert np.isinf(prices(layer, CHIPS["in-memory-analog"]).cycles).all()


def test_a_core_without_outer_memory_gets_the_chips() -> None:
    chip = CHIPS["edge-tpu-quad"]
    core = core_of_variant(chip.core("pooling"), chip, 0)
    assert core.memories[-1].off_chip
    kept = core_of_variant(chip.core("core0"), chip, 3).memories[-1]
    assert kept.operands == (Operand.W,)


def test_a_memory_too_small_for_any_tile_is_infeasible() -> None:
    chip = CHIPS["edge-tpu-like"]
    tiny = tuple(replace(m, size_bits=4) if m.name == "rf_1B" else m for m in chip.cores[0].memories)
    small = replace(chip, cores=(replace(chip.cores[0], memories=tiny),))
    assert np.isinf(prices(conv("l", "input", 8, 8, 8), small).cycles).all()


def test_prices_do_not_depend_on_company_or_memory_of_earlier_calls() -> None:
    zoo = unique_layers(resnet8() + held_out())
    chip = CHIPS["edge-tpu-like"]
    together = FastCostModel(remember=False).layer_costs(zoo, chip)
    model = FastCostModel()
    alone = [model.layer_costs([layer], chip) for layer in reversed(zoo)][::-1]
    again = model.layer_costs(zoo, chip)
    for i in range(len(zoo)):
        np.testing.assert_array_equal(alone[i].cycles[:, 0], together.cycles[:, i])
        np.testing.assert_array_equal(alone[i].energy_pj[:, 0], together.energy_pj[:, i])
    np.testing.assert_array_equal(again.energy_pj, together.energy_pj)


@pytest.mark.parametrize("name", ["tpu-like", "edge-tpu-like", "in-memory-analog"])
def test_a_layer_costs_the_same_alone_and_among_many(name: str) -> None:
    many = [x for x in unique_layers(mobilenetv2()) if x.has_weights or name != "in-memory-analog"]
    model = FastCostModel(remember=False)
    together = model.layer_costs(many, CHIPS[name])
    for i, layer in enumerate(many[::3]):
        alone = model.layer_costs([layer], CHIPS[name])
        np.testing.assert_array_equal(alone.cycles[:, 0], together.cycles[:, 3 * i])
        np.testing.assert_array_equal(alone.energy_pj[:, 0], together.energy_pj[:, 3 * i])
        np.testing.assert_array_equal(alone.peak_bytes[:, 0], together.peak_bytes[:, 3 * i])


@settings(deadline=None, max_examples=25)
@given(layers(), st.sampled_from((*NAMES, "in-memory-analog", "diana-hierarchy")))
def test_unrollings_that_are_left_out_as_equal_change_no_price(layer: Layer, name: str) -> None:
    few = FastCostModel(remember=False).layer_costs([layer], CHIPS[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_memory, "_distinct", lambda rows, hierarchy: np.arange(len(rows.factors)))
        every = FastCostModel(remember=False).layer_costs([layer], CHIPS[name])
    np.testing.assert_array_equal(few.cycles, every.cycles)
    np.testing.assert_allclose(few.energy_pj, every.energy_pj, rtol=1e-12)


def test_promotion_ends() -> None:
    layer: Layer | None = replace(conv("l", "input", 8, 8, 8), weight_bits=2, input_bits=3, output_bits=4)
    seen = []
    while layer is not None:
        seen.append((layer.weight_bits, layer.input_bits, layer.output_bits))
        layer = promoted(layer)
    assert seen == [(2, 3, 4), (4, 3, 4), (8, 3, 4), (8, 4, 4), (8, 7, 7), (8, 8, 8)]


def test_cost_grows_no_faster_than_layers() -> None:
    chip = CHIPS["tpu-like"]
    base = [x for x in unique_layers(mobilenetv2()) if x.has_weights]
    many = [replace(x, K=x.K + i) for i in range(6) for x in base]

    def seconds(zoo: list[Layer]) -> float:
        start = time.process_time()
        FastCostModel(remember=False).layer_costs(zoo, chip)
        return time.process_time() - start

    seconds(many)
    few, all_of_them = (min(seconds(zoo) for _ in range(3)) for zoo in (base, many))
    assert all_of_them <= few * 6 * 2.0


def table_chip() -> Accelerator:
    rows = [
        (dense("a", "x", 64, 10), 12.5, None),
        (dense("b", "x", 640, 10), 100.0, 3.0),
        (conv("c", "x", 8, 8, 8), 40.0, None),
    ]
    data = {"name": "board", "clock_mhz": 80, "active_mw": 30, "measured": [table_row(*row) for row in rows]}
    return accelerator_from_data(data, Path("board.yaml"))


def test_table_gives_what_was_measured_and_interpolates_by_its_rule() -> None:
    chip = table_chip()
    zoo = [dense("a", "x", 64, 10), dense("mid", "x", 202, 10), dense("far", "x", 6400, 10), conv("half", "x", 8, 4, 8)]
    costs = MODEL.layer_costs(zoo, chip)
    microseconds = costs.cycles[0, :, 0] / 80
    slope = np.log(100 / 12.5) / np.log(10)
    assert microseconds == pytest.approx([12.5, 12.5 * (202 / 64) ** slope, 1000.0, 20.0])
    assert costs.energy_pj[0, 3, 0] == pytest.approx(20.0 * 30 * 1e3)
    assert (costs.cycles == costs.cycles[:1]).all()
    assert np.isinf(MODEL.layer_costs([add("s", "a", "b", 4, 4)], chip).cycles).all()


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_table_never_prices_more_work_less(a: int, b: int) -> None:
    few, many = sorted((a, b))
    costs = MODEL.layer_costs([dense("a", "x", few, 10), dense("b", "x", many, 10)], table_chip()).cycles[0, :, 0]
    assert costs[0] <= costs[1] * (1 + 1e-12)


def test_a_first_call_that_compiles_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_compile.numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(engine_compile, "PATIENCE", 0.0)
    engine_compile._tell.cache_clear()
    twice = engine_compile.entry(lambda x: 2 * x)
    assert twice(3) == 6
    assert [r.getMessage() for r in caplog.records if r.name == "offramp"] == [engine_compile.COMPILING]
    assert twice(4) == 8
    assert twice(2.5) == 5.0
    assert len(caplog.records) == 1
