"""A backbone that stays as it was brought, so that exit branches alone learn.

Its batch norms are folded into its convolutions first: what is left has no statistics that training or calibration
could move. Freezing a prepared network holds the steps of the backbone's quantizers too, so every candidate of a study
gives the same final answers.
"""

from torch import nn

from offramp.errors import UserError
from offramp.ir.quantized import NodeOp
from offramp.nn.backbones import Backbone
from offramp.nn.fold import fold_batchnorm
from offramp.nn.graph import FusedNode
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.outline import HEAD, block_name
from offramp.nn.quantize import PreparedNetwork
from offramp.nn.shared import supernet


def has_weights(full: Backbone) -> bool:
    """True when the backbone brings weights of its own; those made by name do not."""
    return not any(p.is_meta for part in (*full.blocks, full.head) for p in part.parameters())


def folded(full: Backbone) -> Backbone:
    """The same function without batch norms.

    Raises:
        UserError: the backbone brings no weights.
    """
    if not has_weights(full):
        wanted = "a .tflite file, or a module with trained weights"
        raise UserError(f"the untrained backbone {full.name}", wanted=wanted, where="--freeze")
    plain = fold_batchnorm(supernet(full, (), seed=0).eval())
    blocks = tuple(plain.get_submodule(block_name(i)) for i in range(len(full.blocks)))
    return Backbone(full.name, full.input_shape, full.classes, blocks, plain.get_submodule(HEAD))


def freeze_backbone(network: EarlyExitNetwork | PreparedNetwork) -> None:
    """No gradient for blocks and head, in place; exit branches go on learning."""
    for part in backbone_parts(network):
        part.requires_grad_(False)


def linear_branches(network: EarlyExitNetwork | PreparedNetwork) -> list[tuple[FusedNode, ...]]:
    """The layers of every exit branch that is pooling and one linear layer, which comes last."""
    found = []
    for stage in network.stage_nodes[:-1]:
        weighted = [node for node in stage.branch if node.op in (NodeOp.CONV, NodeOp.DENSE)]
        if weighted == [stage.branch[-1]] and weighted[0].op is NodeOp.DENSE:
            found.append(stage.branch)
    return found


def freeze_linear_branches(network: EarlyExitNetwork | PreparedNetwork) -> None:
    """No gradient for exit branches that are pooling and one linear layer, in place: they were solved."""
    for node in (node for branch in linear_branches(network) for node in branch):
        if isinstance(network, PreparedNetwork):
            network.layer(node.name).requires_grad_(False)
        else:
            network.get_submodule(node.module).requires_grad_(False)


def backbone_parts(network: EarlyExitNetwork | PreparedNetwork) -> list[nn.Module]:
    """Everything that is not an exit branch."""
    if isinstance(network, PreparedNetwork):
        last = network.stage_nodes[-1].branch
        nodes = [*(node for stage in network.stage_nodes for node in stage.backbone), *last]
        return [network.input, *(network.layer(node.name) for node in nodes)]
    return [network.get_submodule(name) for name in (*map(block_name, network.blocks), HEAD)]
