"""A search space from a backbone and a chip: every choice that some core of the chip can take.

Widths go in steps that the cores' arrays fill (the number of output channels that they unroll side by side),
bits are those that a core takes for the operator, and layers that an analog core can compute get that core as a
choice, which fixes their precision (its weights' bits; its input converter's bits as activation bits). The
first layer, the classifier and the exit branches keep full precision, as the compilers for such chips do (HTVM,
ODiMO). Nothing is priced here.
"""

from collections.abc import Iterator, Sequence
from math import gcd

from offramp.errors import AccelerationError
from offramp.ir.accelerator import Accelerator, Core
from offramp.ir.architecture import Precision
from offramp.ir.backbone import BackboneInfo, KernelChoice, LayerInfo
from offramp.ir.workload import MATMUL_OPS, Layer, Op
from offramp.search.space import BitChoice, Space

WEIGHT_BITS = (2, 4, 8)
"""Weight bits that training offers; 2 is ternary."""

ACTIVATION_BITS = (4, 7, 8)
"""Activation bits that training offers."""

SMALLEST_FILTER = 3
"""Smallest filter in a derived space; a file may list 1."""

ASKED_FOR = ("avgpool_fc",)
"""Branch kinds that a derived space leaves out, since weights of the zoo have no such exits; a file may list them."""

MAX_WIDTH_LEVELS = 8
"""Most widths per group in a derived space; a file may list more."""


def derive_space(
    info: BackboneInfo,
    accelerator: Accelerator,
    *,
    weight_bits: Sequence[int] = WEIGHT_BITS,
    activation_bits: Sequence[int] = ACTIVATION_BITS,
    min_width: float = 0.25,
    protect_ends: bool = True,
) -> Space:
    """Everything that the backbone offers and some core can take.

    Args:
        info: the backbone.
        accelerator: the chip.
        weight_bits: wanted weight bits.
        activation_bits: wanted activation bits.
        min_width: narrowest share of a group's channels.
        protect_ends: first layer and classifier keep the default precision.

    Raises:
        AccelerationError: an operator of the backbone runs on no core at any of the wanted bits.
    """
    layers = [x for x in info.layers if x.weights]
    activations = _activations(info, accelerator, activation_bits)
    offered = {x.name: _weights(x, accelerator, weight_bits, activations) for x in layers}
    default = _default(list(offered.values()), activations)
    inner = layers[1:-1] if protect_ends else layers
    odd = [x for x in layers if x not in inner and default.weight_bits not in offered[x.name]]
    bits = [(x.name, BitChoice(offered[x.name], activations)) for x in [*inner, *odd]]
    analog = [core for core in accelerator.cores if core.analog is not None]
    cores = [(x.name, tuple(c.name for c in analog if takes(c, x.op))) for x in inner]
    kinds = tuple(k for k in info.branch_kinds if k not in ASKED_FOR)
    branches = [
        (f"exit{m.index}", _branch_bits(info, m.index, accelerator, weight_bits, activations))
        for m in info.mounting_points
    ]
    exits = tuple((m.index, tuple(k for k in kinds if _has(info, m.index, k))) for m in info.mounting_points)
    return Space(
        info=info,
        depths=tuple(
            (g.name, tuple(range(g.minimum, len(g.blocks) + 1))) for g in info.depth_groups if g.minimum < len(g.blocks)
        ),
        widths=tuple(_widths(info, accelerator, min_width)),
        kernels=tuple((k.layer, sizes) for k in info.kernel_choices if len(sizes := _offered(k)) > 1),
        exits=exits,
        max_exits=len(exits),
        bits=tuple((name, b) for name, b in [*bits, *branches] if b.weights and b.precisions != (default,)),
        cores=tuple((name, c) for name, c in cores if c),
        core_precision=analog_precision(accelerator, default),
        default_precision=default,
    )


def _offered(choice: KernelChoice) -> tuple[int, ...]:
    """Filter sizes that a search may choose unasked: a single tap keeps little of what the filter has learned."""
    return tuple(size for size in choice.sizes if size >= SMALLEST_FILTER)


def takes(core: Core, op: Op, weight_bits: int | None = None, input_bits: int = 8) -> bool:
    """True when a core runs an operator at these bits; without weight bits, at those of the core's own array."""
    analog = core.analog
    bits = weight_bits if weight_bits is not None else (analog.weight_bits if analog else 8)
    adc = analog.adc_bits if analog and weight_bits is None else 0
    return core.supports(Layer(name=str(op), op=op, K=1, C=1, weight_bits=bits, input_bits=input_bits, adc_bits=adc))


def analog_precision(accelerator: Accelerator, default: Precision) -> tuple[tuple[str, Precision], ...]:
    """Bits of a layer on each analog core: its weights' bits, and its input converter's bits for activations.

    Activations keep the default where a digital core of the chip refuses the converter's bits.
    """
    table = []
    for core in accelerator.cores:
        if core.analog is not None:
            others = [c for c in accelerator.cores if c.analog is None and c.activation_bits]
            fits = all(core.analog.input_bits in c.activation_bits for c in others)
            activation = core.analog.input_bits if fits else default.activation_bits
            table.append((core.name, Precision(core.analog.weight_bits, activation)))
    return tuple(table)


def bit_faults(space: Space, accelerator: Accelerator) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) for bits in a space that no core of the chip supports."""
    ops: dict[str, tuple[Op, ...]] = {x.name: (x.op,) for x in space.info.layers}
    for branch in space.info.branches:
        found = ops.get(f"exit{branch.mounting_point}", ())
        ops[f"exit{branch.mounting_point}"] = found + tuple(x.op for x in branch.layers if x.op in MATMUL_OPS)
    rows = [(f"$.bits.{name}", ops[name], bits) for name, bits in space.bits]
    default = BitChoice((space.default_precision.weight_bits,), (space.default_precision.activation_bits,))
    rows.append(("$.default_bits", tuple({x.op for x in space.info.layers if x.weights}), default))
    for path, needed, bits in rows:
        for op in dict.fromkeys(o for o in needed if o in MATMUL_OPS):
            for w in bits.weights:
                if not any(takes(c, op, w, a) for c in accelerator.cores for a in ACTIVATION_BITS):
                    yield path, f"{w}-bit weights: no core of {accelerator.name} takes them for {op}"
            for a in bits.activations:
                if not any(takes(c, op, w, a) for c in accelerator.cores for w in WEIGHT_BITS):
                    yield path, f"{a}-bit activations: no core of {accelerator.name} takes them for {op}"


def _branch_bits(
    info: BackboneInfo, point: int, accelerator: Accelerator, wanted: Sequence[int], activations: tuple[int, ...]
) -> BitChoice:
    """Bits that every layer of every branch kind at a mounting point finds a core for."""
    layers = [x for b in info.branches if b.mounting_point == point for x in b.layers if x.weights]
    shared = set(wanted).intersection(*(_weights(x, accelerator, wanted, activations) for x in layers))
    return BitChoice(tuple(sorted(shared)), activations)


def _default(offered: Sequence[tuple[int, ...]], activations: Sequence[int]) -> Precision:
    """The most bits that every layer takes; where no number suits all, the most bits of any."""
    shared = set(offered[0]).intersection(*offered) or {w for bits in offered for w in bits}
    return Precision(max(shared), max(activations))


def _has(info: BackboneInfo, point: int, kind: str) -> bool:
    return any(b.mounting_point == point and b.kind == kind for b in info.branches)


def _activations(info: BackboneInfo, accelerator: Accelerator, wanted: Sequence[int]) -> tuple[int, ...]:
    """Activation bits that every operator with weights finds a core for."""
    ops = {x.op for x in info.layers if x.weights}
    found = tuple(
        a for a in sorted(set(wanted))
        if all(any(takes(c, op, w, a) for c in accelerator.cores for w in WEIGHT_BITS) for op in ops)
    )  # fmt: skip
    if not found:
        raise _no_core(_homeless(info, accelerator, wanted), accelerator, WEIGHT_BITS, wanted)
    return found


def _weights(
    layer: LayerInfo, accelerator: Accelerator, wanted: Sequence[int], activations: Sequence[int]
) -> tuple[int, ...]:
    """Weight bits at which some core runs the layer whatever its input's bits are."""
    found = tuple(
        w for w in sorted(set(wanted))
        if all(any(takes(c, layer.op, w, a) for c in accelerator.cores) for a in activations)
    )  # fmt: skip
    if not found:
        raise _no_core(layer, accelerator, wanted, activations)
    return found


def _homeless(info: BackboneInfo, accelerator: Accelerator, activations: Sequence[int]) -> LayerInfo:
    """The layer that the fewest activation bits suit."""

    def suits(layer: LayerInfo) -> int:
        cores = accelerator.cores
        return sum(any(takes(c, layer.op, w, a) for c in cores for w in WEIGHT_BITS) for a in activations)

    return min((x for x in info.layers if x.weights), key=suits)


def _no_core(
    layer: LayerInfo, accelerator: Accelerator, weights: Sequence[int], activations: Sequence[int]
) -> AccelerationError:
    def at(weight_bits: Sequence[int], activation_bits: Sequence[int]) -> str:
        w, a = (", ".join(map(str, bits)) or "any" for bits in (weight_bits, activation_bits))
        return f"at weight bits {w} and activation bits {a}"

    given = f"no core runs {layer.op} layer {layer.name} {at(weights, activations)}"
    cores = "; ".join(
        f"{c.name} runs {', '.join(c.ops)} {at(c.weight_bits, c.activation_bits)}" for c in accelerator.cores
    )
    return AccelerationError(given, wanted=f"a core that does ({cores})", where=f"accelerator {accelerator.name}")


def array_step(accelerator: Accelerator) -> int:
    """Output channels that the digital arrays unroll side by side (their greatest common divisor; 1 when unknown)."""
    factors = []
    for core in accelerator.cores:
        if core.array is None or core.analog is not None or Op.CONV not in core.ops:
            continue
        unrolled = 1
        for _, loops in core.array.dataflow:
            for loop, factor in loops:
                unrolled *= factor if loop == "K" else 1
        factors.append(unrolled if unrolled > 1 else max(size for _, size in core.array.dimensions))
    return gcd(*factors) if factors else 1


def _widths(info: BackboneInfo, accelerator: Accelerator, share: float) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Multiples of the array's step where a group is wide enough for some, of its own step otherwise.

    Shares and steps are those of the reference, where the backbone was widened.
    """
    step, reference = array_step(accelerator), dict(info.reference)
    for group in info.width_groups:
        usual = reference.get(group.name, group.channels)
        fine = step if step > 1 and usual >= 4 * step else max(group.step, usual // 4, 1)
        low = max(1, round(share * usual))
        choices = [w for w in range(fine, group.channels, fine) if w >= low]
        stride = -(-len(choices) // (MAX_WIDTH_LEVELS - 1)) if choices else 1
        kept = (*choices[::-1][::stride][::-1], group.channels)
        if len(kept) > 1:
            yield group.name, kept
