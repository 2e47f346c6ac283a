"""The law of growth: more memory or more bandwidth never costs more cycles, whatever the core and by however much."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_zoo import add, conv, dense, mobilenetv2, pool, resnet8, unique_layers
from offramp.cost import engine_memory
from offramp.cost.engine import FastCostModel
from offramp.errors import AccelerationError
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.accelerator import Accelerator, Array, Core, CoreKind, Memory, Move, Operand, Port, PricingModel
from offramp.ir.workload import Layer, Op

GOLDEN = Path(__file__).parent / "golden" / "zigzag"
CHIPS = {n: load_accelerator(GOLDEN / f"{n}.yaml") for n in ("tpu-like", "edge-tpu-like", "meta-like")}
CHIPS |= {"in-memory-analog": load_accelerator(GOLDEN / "in-memory-analog.yaml")}
CHIPS |= {n: load_accelerator(n) for n in ("diana-hierarchy", "edge-tpu-quad")}
MODEL = FastCostModel(remember=False)
ROUNDING = 1e-9


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Small layers of every kind."""
    op, size, channels = draw(st.sampled_from(list(Op))), draw(st.integers(1, 12)), draw(st.integers(1, 40))
    if op is Op.DENSE:
        return dense("l", "input", draw(st.integers(1, 200)), channels)
    if op is Op.ADD:
        return add("l", "a", "b", channels, size)
    if op in (Op.MAX_POOL, Op.AVG_POOL):
        return pool("l", "input", channels, size, draw(st.integers(2, 3)), op)
    kernel, stride = draw(st.sampled_from([1, 3])), draw(st.integers(1, 2))
    if op is Op.DEPTHWISE:
        return conv("l", "input", channels + 1, channels + 1, size, kernel, stride, g=channels + 1)
    return conv("l", "input", draw(st.integers(1, 40)), channels, size, kernel, stride)


def memory(
    name: str, size: int, width: int, operands: Sequence[Operand], served: Sequence[str], **more: bool
) -> Memory:
    """A memory with one port to read and one to write."""
    read = tuple((o, m) for o in operands for m in ((Move.TO_HIGH, Move.TO_LOW) if o is Operand.O else (Move.TO_LOW,)))
    write = tuple(
        (o, m) for o in operands for m in ((Move.FROM_HIGH, Move.FROM_LOW) if o is Operand.O else (Move.FROM_HIGH,))
    )
    ports = [Port(name=n, bits_per_cycle=width, granularity_bits=8, serves=s) for n, s in (("r", read), ("w", write))]
    return Memory(
        name=name, size_bits=size, read_pj=1.0, write_pj=1.0, operands=tuple(operands), ports=tuple(ports),
        dimensions=tuple(served), **more,
    )  # fmt: skip


@st.composite
def cores(draw: st.DrawFn) -> Accelerator:
    """Chips with one core: registers of some operands, perhaps a memory in between, one or two last ones, DRAM."""
    sides = draw(st.lists(st.sampled_from([2, 3, 4, 8]), min_size=1, max_size=2))
    dims = tuple((f"D{i + 1}", n) for i, n in enumerate(sides))
    names = [name for name, _ in dims]
    sizes, widths = st.integers(8, 1 << 9), st.sampled_from([8, 16, 24, 64])
    memories = []
    for operand in Operand:
        if draw(st.booleans()):
            served = draw(st.lists(st.sampled_from(names), max_size=1))
            double = draw(st.booleans())
            level = memory(f"rf_{operand}", draw(sizes), draw(widths), [operand], served, double_buffered=double)
            memories.append(level)
    groups = draw(st.sampled_from([["IWO"], ["IO", "W"], ["IO"], ["O", "IO", "W"]]))
    for i, held in enumerate(groups):
        size = draw(st.integers(1 << 8, 1 << 16))
        memories.append(
            memory(f"sram{i}", size, draw(st.sampled_from([16, 64, 256])), [Operand(o) for o in held], names)
        )
    memories.append(memory("dram", 1 << 40, draw(st.sampled_from([8, 64])), list(Operand), names, off_chip=True))
    array = Array(dimensions=dims, mac_pj=0.1)
    return Accelerator(
        name="random",
        clock_mhz=100.0,
        cores=(Core(name="core", kind=CoreKind.DIGITAL, array=array, memories=tuple(memories)),),
    )


@st.composite
def grown(draw: st.DrawFn, chip: Accelerator) -> Accelerator:
    """The chip with some memories larger and some ports wider, by any amount."""

    def larger(own: Memory) -> Memory:
        size = own.size_bits * draw(st.sampled_from([1, 1, 2, 7])) + draw(st.sampled_from([0, 0, 1, 1000]))
        wider = [
            replace(
                p, bits_per_cycle=p.bits_per_cycle * draw(st.sampled_from([1, 1, 2, 5])) + draw(st.sampled_from([0, 3]))
            )
            for p in own.ports
        ]
        return replace(own, size_bits=size, ports=tuple(wider) if draw(st.booleans()) else own.ports)

    return replace(chip, cores=tuple(replace(c, memories=tuple(map(larger, c.memories))) for c in chip.cores))


def shrunk(chip: Accelerator, by: Sequence[int]) -> Accelerator:
    """The chip with its on-chip memories a part of their size, but not below 64 bits."""

    def smaller(core: Core) -> Core:
        parts = zip(core.memories, [*by] * len(core.memories), strict=False)
        return replace(
            core, memories=tuple(m if m.off_chip else replace(m, size_bits=max(m.size_bits // n, 64)) for m, n in parts)
        )

    return replace(chip, cores=tuple(smaller(c) if c.model is PricingModel.HIERARCHY else c for c in chip.cores))


def never_dearer(zoo: list[Layer], small: Accelerator, large: Accelerator) -> None:
    before, after = (MODEL.layer_costs(zoo, chip).cycles for chip in (small, large))
    able = np.isfinite(before)
    assert (after[able] <= before[able] * (1 + ROUNDING)).all()


@settings(max_examples=50, deadline=None)
@given(st.data(), layers(), cores())
def test_more_memory_or_bandwidth_never_costs_more_cycles_on_any_core(
    data: st.DataObject, layer: Layer, chip: Accelerator
) -> None:
    never_dearer([layer], chip, data.draw(grown(chip)))


@settings(max_examples=50, deadline=None)
@given(st.data(), layers(), cores(), st.integers(2, 16), st.integers(4, 16))
def test_more_memory_or_bandwidth_never_costs_more_cycles_at_any_bits(
    data: st.DataObject, layer: Layer, chip: Accelerator, weights: int, activations: int
) -> None:
    layer = replace(layer, weight_bits=weights if layer.has_weights else activations)
    layer = replace(layer, input_bits=activations, output_bits=activations)
    never_dearer([layer], chip, data.draw(grown(chip)))


def test_one_of_two_small_last_memories_grown_until_it_holds_everything_never_costs_cycles() -> None:
    """2,810 and 3,687 cycles where the price knew only all or none of the last memories as holding everything."""
    d1 = ["D1"]
    below = [
        memory("rf_I", 111, 8, [Operand.I], d1, double_buffered=True),
        memory("rf_W", 205, 16, [Operand.W], []),
        memory("sram_O", 44_742, 64, [Operand.O], d1),
        memory("sram_IO", 931, 64, [Operand.I, Operand.O], d1),
    ]
    dram = memory("dram", 1 << 40, 8, list(Operand), d1, off_chip=True)
    small, large = (
        Accelerator(
            name="two", clock_mhz=100.0,
            cores=(
                Core(
                    name="core", kind=CoreKind.DIGITAL, array=Array(dimensions=(("D1", 4),), mac_pj=0.1),
                    memories=(*below, memory("sram_W", size, 16, [Operand.W], d1), dram),
                ),
            ),
        )
        for size in (1_952, 14_664)
    )  # fmt: skip
    layer = replace(add("l", "a", "b", 39, 6), input_bits=7, output_bits=7)
    never_dearer([layer], small, large)


@settings(max_examples=25, deadline=None)
@given(
    st.data(),
    layers(),
    st.sampled_from(sorted(CHIPS)),
    st.lists(st.sampled_from([1, 2, 3, 16]), min_size=1, max_size=3),
)
def test_more_memory_or_bandwidth_never_costs_more_cycles_on_known_chips(
    data: st.DataObject, layer: Layer, name: str, by: list[int]
) -> None:
    small = shrunk(CHIPS[name], by)
    never_dearer([layer], small, data.draw(grown(small)))


@settings(max_examples=50, deadline=None)
@given(st.lists(layers(), min_size=1, max_size=3), st.one_of(cores(), st.sampled_from(sorted(CHIPS)).map(CHIPS.get)))
def test_short_cuts_of_the_search_change_no_price(zoo: list[Layer], chip: Accelerator) -> None:
    quick = MODEL.layer_costs(zoo, chip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_memory, "SLACK", np.inf)
        slow = MODEL.layer_costs(zoo, chip)
    np.testing.assert_array_equal(quick.cycles, slow.cycles)
    np.testing.assert_array_equal(quick.energy_pj, slow.energy_pj)
    np.testing.assert_array_equal(quick.peak_bytes, slow.peak_bytes)


def test_a_core_of_more_memories_than_the_search_has_room_for_is_refused() -> None:
    core = Core(name="tower", kind=CoreKind.DIGITAL, array=Array(dimensions=(("D1", 2),), mac_pj=0.1))
    levels = [memory(f"sram{i}", 64 << i, 64, list(Operand), ["D1"]) for i in range(9)]
    chip = Accelerator(name="high", clock_mhz=100.0, cores=(replace(core, memories=tuple(levels[1:])),))
    assert np.isfinite(MODEL.layer_costs([dense("l", "input", 4, 4)], chip).cycles).any()
    chip = replace(chip, cores=(replace(core, memories=tuple(levels)),))
    with pytest.raises(AccelerationError, match="core tower: 9 memories of one operand; wanted at most 8"):
        MODEL.layer_costs([dense("l", "input", 4, 4)], chip)


@pytest.mark.parametrize("name", ["tpu-like", "in-memory-analog"])
def test_doubling_a_memory_never_costs_cycles_on_whole_networks(name: str) -> None:
    chip = CHIPS[name]
    zoo = [x for x in unique_layers(resnet8() + mobilenetv2()[::4]) if x.has_weights]
    for i, own in enumerate(chip.cores[0].memories):
        memories = list(chip.cores[0].memories)
        memories[i] = replace(own, size_bits=2 * own.size_bits)
        never_dearer(zoo, chip, replace(chip, cores=(replace(chip.cores[0], memories=tuple(memories)),)))
