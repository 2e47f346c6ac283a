"""Tensor shapes along fused layers, by the published size formulas: no tensor is made, no forward pass runs.

Works on modules on torch's meta device. A shape is (C, H, W); after flattening it is (features, 1, 1).
"""

from collections.abc import Mapping, Sequence

from torch import nn

from offramp.errors import UserError
from offramp.ir.quantized import NodeOp
from offramp.nn.graph import FusedNode, Padding, Pool, padding_of
from offramp.nn.layers import Shape


def window(pool: Pool, shape: Shape, where: str) -> tuple[tuple[int, int], tuple[int, int], Padding]:
    """Kernel, stride and padding of a pooling layer on a map of `shape`; adaptive pooling gets its regular window.

    Raises:
        UserError: an adaptive pooling whose windows would differ in size.
    """
    if pool.output is None:
        return pool.kernel, pool.stride, pool.padding
    if shape[1] % pool.output[0] or shape[2] % pool.output[1]:
        given = f"adaptive pooling from {shape[1:]} to {pool.output} has windows of several sizes"
        raise UserError(given, wanted="a divisor of the map's size", where=where)
    kernel = (shape[1] // pool.output[0], shape[2] // pool.output[1])
    return kernel, kernel, (0, 0, 0, 0)


def total_padding(node: FusedNode, module: nn.Conv2d) -> Padding:
    """The convolution's own padding and that of a padding module before it."""
    a, b = padding_of(module), node.pad
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])


def _slide(shape: Shape, kernel: Sequence[int], stride: Sequence[int], padding: Padding, where: str) -> tuple[int, int]:
    high = (shape[1] + padding[0] + padding[1] - kernel[0]) // stride[0] + 1
    wide = (shape[2] + padding[2] + padding[3] - kernel[1]) // stride[1] + 1
    if high < 1 or wide < 1:
        raise UserError(f"a {tuple(kernel)} window on a map of {shape[1:]}", wanted="a larger input", where=where)
    return high, wide


def _mismatch(node: FusedNode, given: Shape, wanted: str) -> UserError:
    return UserError(f"a tensor of shape {given} arrives", wanted=wanted, where=node.name)


def output_shape(root: nn.Module, node: FusedNode, inputs: Sequence[Shape]) -> Shape:
    """The shape that a layer makes from its inputs' shapes.

    Raises:
        UserError: the shapes do not fit the layer.
    """
    shape = inputs[0]
    if node.op is NodeOp.ADD:
        if inputs[1] != shape:
            raise _mismatch(node, inputs[1], f"{shape} as on the other side of the addition")
        return shape
    if node.op is NodeOp.FLATTEN:
        return (shape[0] * shape[1] * shape[2], 1, 1)
    if node.pool is not None:
        kernel, stride, padding = window(node.pool, shape, node.name)
        return (shape[0], *_slide(shape, kernel, stride, padding, node.name))
    module = root.get_submodule(node.module)
    if isinstance(module, nn.Conv2d):
        if module.in_channels != shape[0]:
            raise _mismatch(node, shape, f"{module.in_channels} channels")
        padding = total_padding(node, module)
        return (module.out_channels, *_slide(shape, module.kernel_size, module.stride, padding, node.name))
    assert isinstance(module, nn.Linear)
    if (module.in_features, 1, 1) != shape:
        raise _mismatch(node, shape, f"{module.in_features} features, flattened")
    return (module.out_features, 1, 1)


def propagate(root: nn.Module, nodes: Sequence[FusedNode], known: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shape of every layer's output by name, `known` (the inputs) included."""
    shapes = dict(known)
    for node in nodes:
        shapes[node.name] = output_shape(root, node, [shapes[i] for i in node.inputs])
    return shapes
