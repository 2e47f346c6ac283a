"""A backbone with more channels than it was published with, so that a search may also choose wider layers.

Where a chip computes some layers far cheaper than others (an analog array beside a digital one), a wide layer on the
cheap core can cost less than a narrow one on the other. The network that was brought stays the static reference.
"""

import copy
import math
from dataclasses import replace

from offramp.errors import UserError
from offramp.ir.workload import INPUT
from offramp.nn.backbones import Backbone
from offramp.nn.outline import HEAD, block_name, outline
from offramp.nn.widths import resize

MOST = 16
"""Times the channels; weights grow with its square."""


def widen(full: Backbone, factor: float) -> Backbone:
    """The same backbone with `factor` times the channels in every width group, on torch's meta device.

    Args:
        full: a backbone without weights of its own.
        factor: 1 to `MOST`; numbers of channels are rounded up.

    Raises:
        UserError: the factor is out of range or no number, or the backbone brings weights.
    """
    if not 1 <= factor <= MOST:
        wanted = f"a factor of 1 to {MOST}"
        raise UserError(f"a widening of {factor}", wanted=wanted, where="--widen", write="--widen 2")
    if factor == 1:
        return full
    facts = outline(full)
    if any(not p.is_meta for block in (*full.blocks, full.head) for p in block.parameters()):
        raise UserError(f"{full.name}, which brings weights", wanted="a backbone without", where="--widen")
    root, groups = copy.deepcopy(facts.root), facts.spaces.groups
    kept = {layer: math.ceil(groups[group] * factor) for layer, group in facts.spaces.of.items() if group in groups}
    resize(root, facts.nodes, {INPUT: full.input_shape[0]}, kept)
    return replace(
        full,
        name=f"{full.name}-x{factor:g}",
        blocks=tuple(root.get_submodule(block_name(i)) for i in range(len(full.blocks))),
        head=root.get_submodule(HEAD),
        reference=full.reference or tuple(sorted(groups.items())),
    )
