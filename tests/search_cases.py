"""A small backbone and two chips as plain values for the tests of the search room."""

import json

from offramp.ir.accelerator import Accelerator, AnalogArray, Array, Core, CoreKind
from offramp.ir.architecture import Architecture
from offramp.ir.backbone import (
    BackboneInfo,
    BranchInfo,
    DepthGroup,
    KernelChoice,
    LayerInfo,
    MountingPoint,
    WidthGroup,
)
from offramp.ir.trial import Metrics, Status, Trial
from offramp.ir.workload import Op
from offramp.search.task import Price

KINDS = ("gap_fc", "dsconv_gap_fc")


def branch(point: int, kind: str) -> BranchInfo:
    name = f"exit{point}"
    fc = LayerInfo(name=f"{name}.fc", op=Op.DENSE, block=point, weights=320, macs=320)
    if kind == "gap_fc":
        return BranchInfo(mounting_point=point, kind=kind, layers=(fc,), width_groups=())
    dw = LayerInfo(name=f"{name}.dw", op=Op.DEPTHWISE, block=point, weights=288, macs=10_000)
    pw = LayerInfo(name=f"{name}.pw", op=Op.CONV, block=point, weights=2048, macs=70_000)
    return BranchInfo(mounting_point=point, kind=kind, layers=(dw, pw, fc), width_groups=())


def backbone(blocks: int = 5) -> BackboneInfo:
    """A plain chain: stem, then blocks of a depthwise and a pointwise convolution, then a classifier."""
    layers = [LayerInfo(name="stem.conv", op=Op.CONV, block=0, weights=864, macs=800_000, width_group="stem.conv")]
    groups = [WidthGroup(name="stem.conv", channels=32, step=4, layers=("stem.conv",), blocks=(0,))]
    for b in range(1, blocks):
        channels = 32 * (1 + b // 3)
        pw, dw = f"b{b}.pw", f"b{b}.dw"
        layers.append(LayerInfo(name=dw, op=Op.DEPTHWISE, block=b, weights=9 * channels, macs=300_000))
        layers.append(LayerInfo(name=pw, op=Op.CONV, block=b, weights=channels**2, macs=1_000_000, width_group=pw))
        groups.append(WidthGroup(name=pw, channels=channels, step=4, layers=(pw,), blocks=(b,)))
    layers.append(LayerInfo(name="head.fc", op=Op.DENSE, block=blocks, weights=640, macs=640))
    points = tuple(
        MountingPoint(index=i, block=f"b{i}", channels=32, height=8, width=8, macs=1_300_000 * (i + 1))
        for i in range(blocks - 1)
    )
    return BackboneInfo(
        name="chain",
        input_shape=(3, 32, 32),
        classes=10,
        blocks=blocks,
        mounting_points=points,
        layers=tuple(layers),
        width_groups=tuple(groups),
        depth_groups=(DepthGroup(name="tail", blocks=tuple(range(2, blocks)), minimum=1),),
        kernel_choices=(KernelChoice(layer="b1.dw", sizes=(3, 5)),),
        branch_kinds=KINDS,
        branches=tuple(branch(p.index, kind) for p in points for kind in KINDS),
    )


def array(k: int = 16) -> Array:
    return Array(dimensions=(("D1", 16), ("D2", k)), mac_pj=0.1, dataflow=(("D1", (("C", 16),)), ("D2", (("K", k),))))


def mixed_chip() -> Accelerator:
    """8-bit digital array (7-bit activations taken too) beside an analog core."""
    digital = Core(name="digital", kind=CoreKind.DIGITAL, weight_bits=(8,), activation_bits=(7, 8), array=array())
    analog = AnalogArray(rows=1152, columns=512, input_bits=7, weight_bits=2, adc_bits=6)
    return Accelerator(
        name="mixed",
        clock_mhz=260,
        cores=(digital, Core(name="imc", kind=CoreKind.ANALOG, ops=(Op.CONV, Op.DENSE), analog=analog)),
    )


def free_chip() -> Accelerator:
    """One core that takes every precision."""
    return Accelerator(name="free", clock_mhz=500, cores=(Core(name="core", kind=CoreKind.DIGITAL, array=array(8)),))


def full_figures(architecture: Architecture) -> tuple[float, float]:
    """Energy (uJ) and accuracy without early exits of an analytic problem, for laws only; never a result."""
    layers = [x for x in backbone().layers_of(architecture) if x.weights and not x.name.startswith("exit")]
    widths, kept = dict(architecture.widths), len(backbone().kept_blocks(architecture.depths))
    energy, loss = 0.1, 0.02 * (5 - kept) ** 1.5
    for x in layers:
        share = min(1.0, widths.get(x.width_group, 32) / 32)
        bits = architecture.precision_of(x.name)
        analog = architecture.core_of(x.name) is not None
        energy += x.macs * share * (0.05 if analog else bits.weight_bits * bits.activation_bits / 64) / 1e6
        loss += 0.01 * (1 - share) ** 2 + (0.012 if analog else 0.0015 * (8 - bits.weight_bits))
    return energy, max(0.1, 0.92 - loss)


def exit_figures(architecture: Architecture) -> tuple[list[float], list[float], list[float]]:
    """Per exit, the final one last: price of leaving (uJ), accuracy, and rate."""
    energy, accuracy = full_figures(architecture)
    costs, accuracies, rates, branches = [], [], [], 0.0
    for e in architecture.exits:
        place, rich = (e.mounting_point + 1) / 5, e.branch == "dsconv_gap_fc"
        branches += 0.08 if rich else 0.01
        costs.append(place * energy + branches)
        accuracies.append(accuracy - (0.12 if rich else 0.25) * (1 - place) ** 2)
        rates.append((1 - sum(rates)) * (accuracies[-1] / accuracy) ** 6 * 0.7)
    return [*costs, energy + branches], [*accuracies, accuracy], [*rates, 1 - sum(rates)]


def price(architecture: Architecture) -> Price:
    """What the analytic problem says before training."""
    costs, _, _ = exit_figures(architecture)
    per_exit = {"energy_uj": tuple(costs), "latency_ms": tuple(c / 2 for c in costs)}
    return Price(per_exit=per_exit, fixed={"peak_bytes": 1000.0, "worst_latency_ms": costs[-1] / 2})


def evaluate(architecture: Architecture, number: int, seed: int) -> Trial:
    """A trial of the analytic problem."""
    costs, accuracies, rates = exit_figures(architecture)
    energy = sum(r * c for r, c in zip(rates, costs, strict=True))
    lost = sum(r * (accuracies[-1] - a) for r, a in zip(rates, accuracies, strict=True))
    metrics = Metrics(
        accuracy_val=accuracies[-1] - 0.4 * lost,
        energy_uj=energy,
        latency_ms=energy / 2,
        worst_latency_ms=costs[-1] / 2,
        worst_energy_uj=costs[-1],
        edp=energy * energy / 2,
        macs=1e6 * energy,
        peak_bytes=1000,
    )
    return Trial(
        number=number,
        architecture=architecture,
        status=Status.OK,
        seed=seed,
        metrics=metrics,
        thresholds=tuple(0.5 for _ in architecture.exits),
        exit_rates=tuple(rates),
        detail=json.dumps({"exit_accuracies": accuracies}),
    )
