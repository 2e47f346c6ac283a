"""A small backbone and two chips as plain values for the tests of the search room."""

from offramp.ir.accelerator import Accelerator, AnalogArray, Array, Core, CoreKind
from offramp.ir.backbone import (
    BackboneInfo,
    BranchInfo,
    DepthGroup,
    KernelChoice,
    LayerInfo,
    MountingPoint,
    WidthGroup,
)
from offramp.ir.workload import Op

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
