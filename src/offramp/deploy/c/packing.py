"""Weights as bytes, packed at 8, 4 or 2 bits in planes, in the order in which `kernels.h` reads them (channels last).

A row of n integers at b bits takes n * b / 8 bytes; field f of byte i holds element i + f * (n * b / 8). Rows are
padded with zeros to a multiple of 8 integers (16 at 2 bits, so that a plane is whole words). It knows no C syntax.
"""

import numpy as np
from numpy.typing import NDArray

from offramp.deploy.plan import Step
from offramp.errors import UserError
from offramp.ir.quantized import NodeOp

LANES = 16
Bytes = NDArray[np.uint8]


def storage_bits(weight_bits: int) -> int:
    """Bits that a weight takes in flash."""
    return 2 if weight_bits == 2 else 4 if weight_bits <= 4 else 8


def is_depthwise(step: Step) -> bool:
    """One filter per channel: the depthwise kernel's case, which writes bytes, so not where it gives the logits."""
    channels = step.sources[0].shape[0]
    alone = step.node.op is NodeOp.CONV and step.node.groups == channels == step.target.shape[0] and channels > 1
    return alone and not step.is_logits


def padded(n: int, multiple: int) -> int:
    """The next multiple."""
    return -(-n // multiple) * multiple


def row_multiple(bits: int) -> int:
    """What the length of a row is padded to."""
    return 16 if bits == 2 else 8


def pack_rows(rows: NDArray[np.int8], bits: int) -> Bytes:
    """Rows [R, n] of integers, n a multiple of 8 / bits, as bytes [R, n * bits / 8]."""
    planes = 8 // bits
    fields = rows.astype(np.int64).reshape(len(rows), planes, -1) & ((1 << bits) - 1)
    shifts = (np.arange(planes) * bits).reshape(1, planes, 1)
    return np.asarray((fields << shifts).sum(axis=1).astype(np.uint8))


def pack_weights(step: Step) -> Bytes:
    """All weights of a convolution or dense layer.

    Raises:
        UserError: an analog dense layer that reads rows and columns, which the C kernels do not offer.
    """
    weight, bits = step.node.weight, storage_bits(step.node.weight_bits)
    assert weight is not None
    if is_depthwise(step):
        taps = weight.reshape(len(weight), -1).T
        wide = np.pad(taps, ((0, 0), (0, padded(len(weight), LANES) - len(weight))))
        return pack_rows(wide.reshape(-1, LANES), bits).ravel()
    if step.node.op is NodeOp.DENSE:
        channels, rows, columns = step.sources[0].shape
        if step.analog is not None and rows * columns > 1:
            wanted = "a pooled input (1 x 1) before it"
            raise UserError("an analog dense layer on rows and columns", wanted=wanted, where=f"layer {step.node.name}")
        last = weight.reshape(-1, channels, rows, columns).transpose(0, 2, 3, 1).reshape(len(weight), 1, -1)
    else:
        last = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1, weight.shape[1])
    parts = [
        last[:, :, i : i + block_of(step)].reshape(len(weight), -1) for i in range(0, last.shape[2], block_of(step))
    ]
    wide_parts = [
        pack_rows(np.pad(p, ((0, 0), (0, padded(p.shape[1], row_multiple(bits)) - p.shape[1]))), bits) for p in parts
    ]
    return np.concatenate(wide_parts, axis=1).ravel()


def block_of(step: Step) -> int:
    """Input channels whose products are summed at once: an array block's, or all of a group's."""
    assert step.node.weight is not None
    channels = step.sources[0].size if step.node.op is NodeOp.DENSE else step.node.weight.shape[1]
    return min(channels, step.analog.block) if step.analog is not None else channels


def patch_elements(step: Step) -> int:
    """int16 values of scratch: the gathered input of four output positions (dense: of the one), or for a depthwise
    convolution the unpacked weights of sixteen channels."""
    if step.node.op not in (NodeOp.CONV, NodeOp.DENSE):
        return 0
    area = int(np.prod(step.node.kernel)) if step.node.op is NodeOp.CONV else 1
    if is_depthwise(step):
        return LANES * area
    assert step.node.weight is not None
    channels = step.sources[0].size if step.node.op is NodeOp.DENSE else step.node.weight.shape[1]
    block, multiple = block_of(step), row_multiple(storage_bits(step.node.weight_bits))
    rows = [padded(area * min(block, channels - i), multiple) for i in range(0, channels, block)]
    return (1 if step.node.op is NodeOp.DENSE else 4) * sum(rows)
