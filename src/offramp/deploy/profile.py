"""Measures single layers on a device and writes them as a table that `--accelerator table:FILE` prices with.

A layer is put alone into a network with random weights. On `host` the tensor comes in
channels last, as ONNX Runtime keeps it between layers, and the time of an empty session run is taken off; layers that
end an exit carry that time, because each exit ends one session run, and layers that begin a network carry the
conversion of its real input. On `c` and `qemu-m4` the layer is one function
of the generated code. `qemu-m4` gives instructions, written as microseconds of a core that does one per cycle at its
clock.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from offramp.deploy.c.build import FAST, build_host, time_host
from offramp.deploy.c.cortex import build_cortex, run_cortex
from offramp.deploy.c.generate import write_c
from offramp.deploy.measure import DEVICES, bound_call, machine_name, pinned_core, time_rounds
from offramp.deploy.onnx import GraphWriter, make_model, write_input, write_step
from offramp.deploy.plan import Plan, make_plan
from offramp.errors import UserError, choose
from offramp.formats.table_yaml import table_row
from offramp.ir.quantized import Node, NodeOp, QuantizedNetwork, QuantizedStage, Quantizer
from offramp.ir.workload import INPUT, Layer, Op, Workload

CORTEX_MHZ = 25.0
"""Clock of the mps2-an386 board, on which a cycle is taken for each instruction."""
ALONE = "-DOFFRAMP_ALONE"
"""At -O3 gcc would make a copy of a kernel for this very layer (`kernels.h`), which it does not do in a network."""
LEAST_US = 0.01
QUANTILE = 25
"""The lower quartile stands for a layer: on a busy machine it moves less than the median, on a quiet one they agree."""
OPERATORS = {
    Op.CONV: NodeOp.CONV,
    Op.DEPTHWISE: NodeOp.CONV,
    Op.DENSE: NodeOp.DENSE,
    Op.ADD: NodeOp.ADD,
    Op.MAX_POOL: NodeOp.MAX_POOL,
    Op.AVG_POOL: NodeOp.AVG_POOL,
}


def signature(layer: Layer) -> tuple[Any, ...]:
    """What a table row is looked up by."""
    sizes = (layer.G, layer.B, layer.K, layer.C, layer.OY, layer.OX, layer.FY, layer.FX)
    return (layer.op, *sizes, layer.weight_bits, layer.input_bits, layer.output_bits)


def unique_layers(layers: Iterable[Layer]) -> list[Layer]:
    """One layer of each signature, in order of first appearance; analog layers are left out."""
    found: dict[tuple[Any, ...], Layer] = {}
    for layer in layers:
        if not layer.adc_bits:
            found.setdefault(signature(layer), layer)
    return list(found.values())


def layer_network(layer: Layer) -> QuantizedNetwork:
    """The layer alone as a network, with an exit behind it that only makes it whole.

    Raises:
        UserError: bits that the runtimes do not have.
    """
    bits = (layer.weight_bits, layer.input_bits, layer.output_bits)
    if not all(2 <= b <= 8 for b in bits) or layer.B != 1:
        raise UserError(f"bits {bits}, batch {layer.B}", wanted="2 to 8 bits, batch 1", where=f"layer {layer.name}")
    rng = np.random.default_rng(0)
    source = Quantizer(layer.input_bits, False, 0.05)
    shape = (layer.in_channels, layer.IY, layer.IX)
    keeps = layer.op is Op.MAX_POOL
    output = None if keeps else Quantizer(layer.output_bits, False, 0.05)
    window: dict[str, Any] = {}
    if layer.op not in (Op.ADD, Op.DENSE):
        window = {"kernel": (layer.FY, layer.FX), "stride": layer.stride, "padding": layer.padding}
    if layer.has_weights:
        limit = 1 << (layer.weight_bits - 1)
        sizes = (layer.out_channels, layer.C) + (() if layer.op is Op.DENSE else (layer.FY, layer.FX))
        weight = rng.integers(-limit + (limit > 2), limit, sizes).astype(np.int8)
        window |= {"weight": weight, "weight_bits": layer.weight_bits, "bias": np.zeros(len(weight), np.float32)}
        window |= {"weight_scale": np.full(len(weight), 0.01, np.float32)}
        window |= {"groups": layer.G} if layer.op is not Op.DENSE else {}
    inputs = ("input", "input") if layer.op is Op.ADD else ("input",)
    node = Node(name="layer", op=OPERATORS[layer.op], inputs=inputs, output=output, **window)
    branch = _company(layer, source)
    stage = QuantizedStage(mounting_point=0, backbone=(node,), branch=branch, carried="layer", logits="logits")
    return QuantizedNetwork(name=layer.name, input_shape=shape, input=source, classes=1, stages=(stage,))


def _company(layer: Layer, quantizer: Quantizer) -> tuple[Node, ...]:
    """A branch that uses every kernel once more, so that a compiler cannot tailor one to the layer alone."""

    rows = 1 if layer.stride[0] > 1 else 2  # another stride than the layer's
    size, stride = ((layer.OY - 1) // rows + 1, layer.OX), (rows, 1)

    def other(name: str, source: str, weights: tuple[int, ...], *, last: bool = False, groups: int = 1) -> Node:
        window: dict[str, Any] = (
            {"kernel": weights[2:], "padding": (0, 0, 1, 1), "stride": stride, "groups": groups}
            if len(weights) > 2
            else {}
        )
        return Node(
            name=name, op=NodeOp.CONV if window else NodeOp.DENSE, inputs=(source,), weight=np.ones(weights, np.int8),
            weight_bits=layer.weight_bits, weight_scale=np.full(weights[0], 0.01, np.float32),
            output=None if last else quantizer, **window,
        )  # fmt: skip

    end = other("logits", "dense", (1, 4), last=True)
    if layer.op is Op.DENSE:
        return (other("dense", "layer", (4, layer.out_channels)), end)
    return (
        other("conv", "layer", (4, layer.out_channels, 1, 3)),
        Node(name="add", op=NodeOp.ADD, inputs=("conv", "conv"), output=quantizer),
        Node(name="max", op=NodeOp.MAX_POOL, inputs=("add",)),
        Node(name="pool", op=NodeOp.AVG_POOL, inputs=("max",), kernel=size, output=quantizer),
        other("depthwise", "max", (4, 1, 1, 3), groups=4),
        other("dense", "pool", (4, 4)),
        end,
    )


def layer_model(plan: Plan, *, begins: bool = False) -> onnx.ModelProto:
    """The layer of `layer_network` for ONNX Runtime, channels last at both ends; it `begins`: reads real input."""
    graph, step = GraphWriter(), plan.stages[0].backbone[0]
    dense = step.node.op is NodeOp.DENSE
    channels, rows, columns = plan.input.shape
    sizes = [1, channels, rows, columns] if dense or begins else [1, rows, columns, channels]
    name = plan.input.name if dense else "channels_last"
    if begins:
        name = write_input(graph, plan)
    elif not dense:
        graph.op("Transpose", [name], plan.input.name, perm=[0, 3, 1, 2])
    write_step(graph, step)
    out, shape = step.target.name, [1, step.target.shape[0]]
    if not dense:
        k, oy, ox = step.target.shape
        out, shape = graph.op("Transpose", [out], "out", perm=[0, 2, 3, 1]), [1, oy, ox, k]
    entry = helper.make_tensor_value_info(name, TensorProto.FLOAT if begins else TensorProto.UINT8, sizes)
    return make_model("layer", graph, [entry], [helper.make_tensor_value_info(out, TensorProto.UINT8, shape)])


def empty_model() -> onnx.ModelProto:
    """A session run that does nothing."""
    graph = GraphWriter()
    graph.op("Identity", ["x"], "y")
    ends = [helper.make_tensor_value_info(n, TensorProto.UINT8, [1, 1]) for n in ("x", "y")]
    return make_model("empty", graph, [ends[0]], [ends[1]])


def profile_layers(
    layers: Sequence[Layer],
    device: str,
    *,
    networks: Sequence[Workload] = (),
    rounds: int = 200,
    on_layer: Callable[[Layer, float], None] | None = None,
) -> list[tuple[Layer, float]]:
    """Microseconds of each layer.

    Args:
        layers: what to measure (`unique_layers`).
        device: one of `deploy.measure.DEVICES`.
        networks: where the layers come from: some begin a network there, some end an exit.
        rounds: runs of each.
        on_layer: told of each result as it comes.

    Raises:
        UserError: the device is unknown or its tools are not installed.
    """
    if device not in DEVICES:
        raise choose("device", device, DEVICES, where="--device")
    beginning = {signature(layer) for network in networks for layer in network.layers if INPUT in layer.inputs}
    ending = {signature(stage.branch[-1]) for network in networks for stage in network.stages if stage.branch}
    results = list[tuple[Layer, float]]()
    with pinned_core():
        for layer in layers:
            plan = make_plan(layer_network(layer))
            if device == "host":
                place = signature(layer)
                microseconds = _time_host_layer(plan, rounds, begins=place in beginning, ends_exit=place in ending)
            else:
                microseconds = _time_c_layer(plan, device, rounds)
            results.append((layer, max(microseconds, LEAST_US)))
            if on_layer:
                on_layer(*results[-1])
    return results


def _time_host_layer(plan: Plan, rounds: int, *, begins: bool, ends_exit: bool) -> float:
    times = time_rounds([bound_call(layer_model(plan, begins=begins)), bound_call(empty_model())], rounds)
    whole, empty = np.percentile(times, QUANTILE, axis=0)
    return float(whole if ends_exit else whole - empty)


def _time_c_layer(plan: Plan, device: str, rounds: int) -> float:
    quantizer = plan.input.quantizer
    assert quantizer is not None
    inputs = np.random.default_rng(0).integers(0, quantizer.high + 1, (2, *plan.input.shape))
    with tempfile.TemporaryDirectory(prefix="offramp-") as folder:
        write_c(folder, plan, "max_softmax", ())
        if device == "qemu-m4":
            program = build_cortex(Path(folder), 1, "-O2")
            return float(run_cortex(program, plan, inputs).parts[0]) / CORTEX_MHZ
        program = build_host(folder, 1, (*FAST, ALONE))
        times = time_host(program, plan, inputs, max(rounds // 2, 5))
        return float(np.percentile(times[1:, :, 0], QUANTILE)) / 1e3


TABLE_MARKS = (b"clock_mhz:", b"\ndevice:", b"\nmeasured:")
"""What every table has near its beginning, and no accelerator description has."""


def write_table(path: str | Path, rows: Sequence[tuple[Layer, float]], device: str, name: str = "") -> None:
    """A table file: `--accelerator table:FILE` reads it."""
    data = {
        "name": name or f"measured-{device}",
        "clock_mhz": CORTEX_MHZ if device == "qemu-m4" else 1000.0,
        "device": f"{device}: {'QEMU mps2-an386' if device == 'qemu-m4' else machine_name()}",
        "date": time.strftime("%Y-%m-%d"),
        "measured": [table_row(layer, microseconds) for layer, microseconds in rows],
    }
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False))
