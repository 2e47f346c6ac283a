"""Where activations rest between layers, expressed as a core's memories: what stays on chip never meets DRAM.

Variant `2 * input_on_chip + output_on_chip` of `cost.model` takes the input and/or the output out of the off-chip
memory, so that the highest on-chip memory that holds them is the top of their hierarchy. A core without memory behind
it gets the accelerator's.
"""

from dataclasses import replace

from offramp.ir.accelerator import Accelerator, Core, Memory, Move, Operand, Port


def with_outer_memory(core: Core, chip: Accelerator) -> Core:
    """The core with the accelerator's off-chip memory on top, when it has none of its own."""
    if chip.offchip is None or any(m.off_chip for m in core.memories) or core.array is None:
        return core
    outer = replace(chip.offchip, dimensions=tuple(name for name, _ in core.array.dimensions), off_chip=True)
    return replace(core, memories=(*core.memories, outer))


def core_of_variant(core: Core, chip: Accelerator, variant: int) -> Core:
    """The core as `variant` uses it."""
    core = with_outer_memory(core, chip)
    dropped = {Operand.I} if variant & 2 else set()
    dropped |= {Operand.O} if variant & 1 else set()
    for operand in set(dropped):
        if not any(operand in m.operands for m in core.memories if not m.off_chip):
            dropped.remove(operand)  # nowhere on chip to stay
    memories = [_without(m, dropped) if m.off_chip else m for m in core.memories]
    return replace(core, memories=tuple(m for m in memories if m.operands))


def second_input_on_chip(core: Core, chip: Accelerator) -> Core:
    """The core for additions that find both inputs on chip: their second input, which is read as W, rests there too."""
    core = with_outer_memory(core, chip)
    if not any(Operand.W in m.operands for m in core.memories if not m.off_chip):
        return core
    memories = [_without(m, {Operand.W}) if m.off_chip else m for m in core.memories]
    return replace(core, memories=tuple(m for m in memories if m.operands))


def _without(memory: Memory, dropped: set[Operand]) -> Memory:
    if not dropped:
        return memory
    ports = tuple(replace(p, serves=_kept(p, dropped)) for p in memory.ports)
    return replace(
        memory,
        operands=tuple(o for o in memory.operands if o not in dropped),
        ports=tuple(p for p in ports if p.serves),
    )


def _kept(port: Port, dropped: set[Operand]) -> tuple[tuple[Operand, Move], ...]:
    return tuple((o, move) for o, move in port.serves if o not in dropped)
