"""Random architectures for the tests of `nn`: drawn from what a backbone says it offers."""

from hypothesis import strategies as st

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.ir.backbone import BackboneInfo
from offramp.nn.describe import describe

SMALL = ("resnet8", "resnet20", "dscnn", "mobilenetv1")
SHAPE, CLASSES = (1, 8, 8), 4


@st.composite
def architectures(draw: st.DrawFn, names: tuple[str, ...] = SMALL) -> Architecture:
    """A legal architecture with any depths, exits and widths."""
    info = describe(draw(st.sampled_from(names)), SHAPE, CLASSES)
    return architecture_of(draw, info)


def architecture_of(draw: st.DrawFn, info: BackboneInfo) -> Architecture:
    depths = tuple(draw(st.integers(g.minimum, len(g.blocks))) for g in info.depth_groups)
    points = draw(st.sets(st.sampled_from(info.open_mounting_points(depths) or (0,)), max_size=3))
    points &= set(info.open_mounting_points(depths))
    exits = tuple(ExitChoice(p, draw(st.sampled_from(info.branch_kinds))) for p in sorted(points))
    base = Architecture(backbone=info.name, depths=depths, exits=exits)
    groups = info.width_groups_of(base)
    widths = {g.name: draw(st.integers(1, g.channels)) for g in groups if draw(st.booleans())}
    kernels = {c.layer: draw(st.sampled_from(c.sizes)) for c in info.kernel_choices}
    return Architecture(
        backbone=info.name,
        depths=depths,
        exits=exits,
        widths=tuple(sorted(widths.items())),
        kernels=tuple(sorted(kernels.items())),
    )
