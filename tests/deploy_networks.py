"""Converted networks made by hand for the tests of `deploy`: real shapes, random weights, scales that fit the data."""

from dataclasses import replace
from typing import Any

import numpy as np

from offramp.deploy.plan import make_plan
from offramp.deploy.reference import evaluate, quantize
from offramp.ir.quantized import (
    Activation,
    AnalogNumbers,
    Node,
    NodeOp,
    QuantizedNetwork,
    QuantizedStage,
    Quantizer,
)


def strength(weight: np.ndarray) -> float:
    """Root mean square of integer weights, never quite 0."""
    return max(float(np.sqrt(np.mean(np.square(weight.astype(float))))), 0.3)


class Maker:
    """Grows nodes; follows shapes and the root mean square of real values so that each scale suits its tensor."""

    def __init__(self, seed: int, shape: tuple[int, int, int], *, bits: int = 8, signed: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.input = Quantizer(bits, signed, 2.6 / (1 << (bits - 1)))
        self.shapes = {"input": shape}
        self.rms = {"input": 1.0}
        self.quantizers = {"input": self.input}
        self.nodes: list[Node] = []
        self.count = 0

    def take(self) -> tuple[Node, ...]:
        nodes, self.nodes = tuple(self.nodes), []
        return nodes

    def _add(self, node: Node, shape: tuple[int, int, int], rms: float) -> str:
        self.nodes.append(node)
        self.shapes[node.name], self.rms[node.name] = shape, rms
        self.quantizers[node.name] = node.output or self.quantizers[node.inputs[0]]
        return node.name

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def _output(self, rms: float, bits: int, activation: Activation) -> Quantizer:
        signed = activation is Activation.NONE
        return Quantizer(bits, signed, float(np.float32(3.0 * rms / ((1 << (bits - signed)) - 1))))

    def _weights(self, shape: tuple[int, ...], bits: int) -> tuple[np.ndarray, np.ndarray]:
        limit = (1 << (bits - 1)) - 1
        weight = np.clip(np.rint(self.rng.normal(0, max(limit / 2.5, 0.8), shape)), -limit, limit).astype(np.int8)
        scale = (self.rng.uniform(0.5, 1.5, shape[0]) * 0.3 / limit).astype(np.float32)
        return weight, scale

    def conv(
        self, source: str, channels: int, kernel: int | tuple[int, int] = 3, stride: int | tuple[int, int] = 1, *,
        groups: int = 1, bits: int = 8, out_bits: int = 8, activation: Activation = Activation.RELU,
        analog: tuple[int, int, int] | None = None, padding: tuple[int, int, int, int] | None = None,
        logits: bool = False, bias: bool = True,
    ) -> str:  # fmt: skip
        c, h, w = self.shapes[source]
        fy, fx = (kernel, kernel) if isinstance(kernel, int) else kernel
        sy, sx = (stride, stride) if isinstance(stride, int) else stride
        pad = padding or (fy // 2, fy // 2, fx // 2, fx // 2)
        weight, scale = self._weights((channels, c // groups, fy, fx), bits)
        shape = (channels, (h + pad[0] + pad[1] - fy) // sy + 1, (w + pad[2] + pad[3] - fx) // sx + 1)
        extra = {"kernel": (fy, fx), "stride": (sy, sx), "padding": pad, "groups": groups}
        return self._sum(
            "conv", NodeOp.CONV, source, weight, scale, shape, extra, bits, out_bits, activation, analog, logits, bias
        )

    def dense(
        self, source: str, channels: int, *, bits: int = 8, out_bits: int = 8, activation: Activation = Activation.NONE,
        analog: tuple[int, int, int] | None = None, logits: bool = True, bias: bool = True,
    ) -> str:  # fmt: skip
        weight, scale = self._weights((channels, int(np.prod(self.shapes[source]))), bits)
        return self._sum(
            "dense",
            NodeOp.DENSE,
            source,
            weight,
            scale,
            (channels, 1, 1),
            {},
            bits,
            out_bits,
            activation,
            analog,
            logits,
            bias,
        )

    def _sum(
        self, kind: str, op: NodeOp, source: str, weight: np.ndarray, scale: np.ndarray, shape: tuple[int, int, int],
        extra: dict[str, Any], bits: int, out_bits: int, activation: Activation, analog: tuple[int, int, int] | None,
        logits: bool, bias: bool,
    ) -> str:  # fmt: skip
        fan = int(np.prod(weight.shape[1:]))
        spread = np.sqrt(fan) * strength(weight) * float(scale.mean()) * self.rms[source]
        numbers = self._analog(source, weight, analog) if analog else None
        offsets = (self.rng.normal(0, 0.5 * spread, len(weight))).astype(np.float32) if bias else None
        node = Node(
            name=self._name(kind), op=op, inputs=(source,), weight=weight, weight_bits=bits, weight_scale=scale,
            bias=offsets, activation=activation, analog=numbers,
            output=None if logits else self._output(spread, out_bits, activation), **extra,
        )  # fmt: skip
        return self._add(node, shape, spread if activation is Activation.NONE else spread * 0.7)

    def _analog(self, source: str, weight: np.ndarray, analog: tuple[int, int, int]) -> AnalogNumbers:
        rows, input_bits, adc_bits = analog
        before = self.quantizers[source]
        entering = Quantizer(input_bits, before.signed, before.scale * 2.0 ** (before.bits - input_bits))
        used = entering if before.bits > input_bits else before
        fan = min(rows, int(np.prod(weight.shape[1:])))
        spread = np.sqrt(fan) * strength(weight) * self.rms[source] / used.scale
        adc = Quantizer(adc_bits, True, float(np.float32(3.0 * spread / (1 << (adc_bits - 1)))))
        return AnalogNumbers(rows=rows, input=entering, adc=adc)

    def add(self, a: str, b: str, *, out_bits: int = 8, activation: Activation = Activation.RELU) -> str:
        rms = float(np.hypot(self.rms[a], self.rms[b]))
        node = Node(
            name=self._name("add"), op=NodeOp.ADD, inputs=(a, b), activation=activation,
            output=self._output(rms, out_bits, activation),
        )  # fmt: skip
        return self._add(node, self.shapes[a], rms)

    def pool(
        self, source: str, kernel: tuple[int, int], stride: tuple[int, int] | None = None, *, average: bool = False,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> str:  # fmt: skip
        c, h, w = self.shapes[source]
        sy, sx = stride or kernel
        shape = (
            c,
            (h + padding[0] + padding[1] - kernel[0]) // sy + 1,
            (w + padding[2] + padding[3] - kernel[1]) // sx + 1,
        )
        before = self.quantizers[source]
        node = Node(
            name=self._name("pool"), op=NodeOp.AVG_POOL if average else NodeOp.MAX_POOL, inputs=(source,),
            kernel=kernel, stride=(sy, sx), padding=padding,
            output=Quantizer(before.bits, before.signed, before.scale * 0.618034) if average else None,
        )  # fmt: skip
        return self._add(node, shape, self.rms[source] * (0.6 if average else 1.3))

    def flatten(self, source: str) -> str:
        node = Node(name=self._name("flatten"), op=NodeOp.FLATTEN, inputs=(source,))
        return self._add(node, self.shapes[source], self.rms[source])

    def gap_fc(self, source: str, classes: int, **kwargs: Any) -> str:
        _, h, w = self.shapes[source]
        return self.dense(self.flatten(self.pool(source, (h, w), average=True)), classes, **kwargs)


BRANCHES = ("gap_fc", "conv_gap_fc", "ds_gap_fc", "maxpool_fc", "maxpool_2fc", "avgpool_fc")


def branch(maker: Maker, kind: str, source: str, classes: int) -> str:
    """The kinds of exit branch."""
    c, h, w = maker.shapes[source]
    if kind == "conv_gap_fc":
        return maker.gap_fc(maker.conv(source, 16), classes)
    if kind == "ds_gap_fc":
        return maker.gap_fc(maker.conv(maker.conv(source, c, groups=c), 16, 1), classes)
    if "pool" in kind:
        kernel = (max(h // 4, 1), max(w // 4, 1))
        flat = maker.flatten(maker.pool(source, kernel, average=kind == "avgpool_fc"))
        if kind == "maxpool_2fc":
            flat = maker.dense(flat, 24, logits=False, activation=Activation.RELU6)
        return maker.dense(flat, classes)
    return maker.gap_fc(source, classes)


def block(maker: Maker, source: str, channels: int, stride: int, bits: int, **kwargs: Any) -> str:
    """A residual block of ResNet-8."""
    out = maker.conv(source, channels, 3, stride, bits=bits, **kwargs)
    out = maker.conv(out, channels, 3, 1, bits=bits, activation=Activation.NONE, **kwargs)
    c = maker.shapes[source][0]
    skip = (
        source if c == channels and stride == 1 else maker.conv(source, channels, 1, stride, activation=Activation.NONE)
    )
    return maker.add(out, skip)


def resnet8(
    seed: int = 0, *, shape: tuple[int, int, int] = (3, 32, 32), widths: tuple[int, int, int] = (16, 32, 64),
    bits: tuple[int, int, int] = (8, 8, 8), classes: int = 10, kinds: tuple[str, str] = ("gap_fc", "maxpool_fc"),
    analog: tuple[int, int, int] | None = None, temperatures: tuple[float, ...] = (), exits: bool = True,
) -> QuantizedNetwork:  # fmt: skip
    """MLPerf Tiny's ResNet-8 with an exit after each of the first two blocks."""
    maker = Maker(seed, shape)
    x, stages = maker.conv("input", widths[0]), []
    kept: tuple[Node, ...] = ()
    for i, width in enumerate(widths):
        x = block(maker, x, width, 1 if i == 0 else 2, bits[i], analog=analog)
        backbone = kept + maker.take()
        if not exits and i < 2:
            kept = backbone
            continue
        kept = ()
        logits = branch(maker, "gap_fc" if i == 2 else kinds[i], x, classes)
        stages.append(
            QuantizedStage(mounting_point=i, backbone=backbone, branch=maker.take(), carried=x, logits=logits)
        )
    network = QuantizedNetwork(
        name="resnet8",
        input_shape=shape,
        input=maker.input,
        classes=classes,
        stages=tuple(stages),
        temperatures=temperatures,
    )
    return balanced(network)


def dscnn(seed: int = 0, *, classes: int = 12, width: int = 24, bits: int = 4) -> QuantizedNetwork:
    """A depthwise-separable keyword network on (1, 49, 10), as MLPerf Tiny's DS-CNN."""
    maker = Maker(seed, (1, 49, 10))
    x = maker.conv("input", width, (10, 4), (2, 2), padding=(4, 5, 1, 2))
    stages = []
    for i in range(3):
        x = maker.conv(x, width, 3, groups=width, bits=8 if i else bits, out_bits=7)
        x = maker.conv(x, width, 1, bits=bits, activation=Activation.RELU6)
        backbone = maker.take()
        logits = branch(maker, ("ds_gap_fc", "maxpool_2fc", "gap_fc")[i], x, classes)
        stages.append(
            QuantizedStage(mounting_point=i, backbone=backbone, branch=maker.take(), carried=x, logits=logits)
        )
    network = QuantizedNetwork(
        name="dscnn", input_shape=(1, 49, 10), input=maker.input, classes=classes, stages=tuple(stages)
    )
    return balanced(network)


def random_network(seed: int) -> QuantizedNetwork:
    """Anything that the contract allows, small: mixed bits, groups, strides, analog layers, signed tensors, pools."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 5)), int(rng.integers(6, 13)), int(rng.integers(6, 13)))
    signed = bool(rng.integers(2))
    maker = Maker(seed, shape, bits=int(rng.choice([8, 7])) if signed else 8, signed=signed)
    classes = int(rng.integers(2, 11))
    x, stages = "input", []
    for i in range(int(rng.integers(1, 4))):
        for _ in range(int(rng.integers(1, 4))):
            x = _random_node(maker, rng, x)
        backbone = maker.take()
        logits = branch(maker, str(rng.choice(BRANCHES)), x, classes)
        stages.append(
            QuantizedStage(mounting_point=i, backbone=backbone, branch=maker.take(), carried=x, logits=logits)
        )
    temperatures = tuple(float(t) for t in rng.uniform(0.5, 2.0, len(stages))) if rng.integers(2) else ()
    network = QuantizedNetwork(
        name=f"random{seed}", input_shape=shape, input=maker.input, classes=classes, stages=tuple(stages),
        temperatures=temperatures,
    )  # fmt: skip
    return balanced(network)


def _random_node(maker: Maker, rng: np.random.Generator, x: str) -> str:
    c, h, w = maker.shapes[x]
    bits, out_bits = int(rng.choice([2, 4, 8])), int(rng.choice([4, 7, 8]))
    activation = Activation(rng.choice([a.value for a in Activation]))
    width, kind = (
        int(rng.integers(1, 21)),
        str(rng.choice(["conv", "depthwise", "grouped", "analog", "add", "pool", "point"])),
    )
    if kind == "depthwise":
        return maker.conv(
            x, c, 3, int(rng.integers(1, 3)), groups=c, bits=bits, out_bits=out_bits, activation=activation
        )
    if kind == "grouped" and c % 2 == 0:
        return maker.conv(x, 2 * width, 3, groups=2, bits=bits, out_bits=out_bits, activation=activation)
    if kind == "analog":
        return maker.conv(
            x, width, 3, bits=2, out_bits=out_bits, activation=activation, analog=(int(rng.integers(9, 80)), 7, 6)
        )
    if kind == "add":
        y = maker.conv(x, c, (3, 1), bits=bits, out_bits=out_bits, activation=activation)
        return maker.add(y, x, out_bits=out_bits, activation=activation)
    if kind == "pool" and min(h, w) >= 4:
        return maker.pool(x, (3, 2), (2, 2), average=bool(rng.integers(2)), padding=(1, 1, 0, 0))
    if kind == "point":
        return maker.conv(x, width, 1, bits=bits, out_bits=out_bits, activation=activation, bias=False)
    return maker.conv(
        x, width, 3, int(rng.integers(1, 3)), bits=bits, out_bits=out_bits, activation=activation, padding=(1, 1, 0, 2)
    )


def inputs_for(network: QuantizedNetwork, count: int, seed: int = 0) -> np.ndarray:
    """Real inputs, float32 [N, C, H, W]: smooth patterns of differing strength in noise, so that samples differ."""
    rng, (c, h, w) = np.random.default_rng(seed), network.input_shape
    rows, columns = np.linspace(0, 3, h)[:, None], np.linspace(0, 3, w)
    phase = rng.uniform(0, 6, (4, count, c, 1, 1))
    waves = np.sin(phase[0] * rows + phase[1]) * np.cos(phase[2] * columns + phase[3])
    values = rng.uniform(-1.5, 1.5, (count, c, 1, 1)) + waves + rng.normal(0, 0.3, (count, c, h, w))
    return (values if network.input.signed else np.abs(values)).astype(np.float32)


def balanced(network: QuantizedNetwork, spread: float = 2.0) -> QuantizedNetwork:
    """The same network with logits of mean 0 and a useful spread over samples, so that every class and exit is met."""
    inputs = quantize(inputs_for(network, 64, seed=99), network.input)
    stages = []
    for stage, logits in zip(network.stages, evaluate(make_plan(network), inputs).logits, strict=True):
        last = stage.branch[-1]
        gain = np.float32(spread / max(float(logits.std(axis=0).mean()), 1e-6))
        bias = (np.zeros(network.classes) if last.bias is None else last.bias) - logits.mean(axis=0)
        node = replace(last, weight_scale=last.weight_scale * gain, bias=(bias * gain).astype(np.float32))
        stages.append(replace(stage, branch=(*stage.branch[:-1], node)))
    return replace(network, stages=tuple(stages))
