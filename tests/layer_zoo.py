"""Layer lists of known networks, written out by hand: inputs of pricing tests and of the benchmark.

ResNet-8 and DS-CNN follow MLPerf Tiny's reference models, MobileNetV2 the 12 blocks of docs (arXiv 2512.04705). The
networks themselves live in `nn`; these lists exist so that prices are tested without torch.
"""

from dataclasses import replace

from offramp.ir.workload import Layer, Op


def conv(
    name: str,
    source: str,
    c: int,
    k: int,
    size: int | tuple[int, int],
    f: int | tuple[int, int] = 3,
    s: int = 1,
    g: int = 1,
) -> Layer:
    """A convolution with `same` padding; `size` is the output's (rows, columns), c and k count all groups."""
    oy, ox = (size, size) if isinstance(size, int) else size
    fy, fx = (f, f) if isinstance(f, int) else f
    return Layer(
        name=name, op=Op.DEPTHWISE if g == c == k and g > 1 else Op.CONV, G=g, K=k // g, C=c // g, OY=oy, OX=ox,
        FY=fy, FX=fx, IY=oy * s, IX=ox * s, stride=(s, s),
        padding=((fy - 1) // 2, fy // 2, (fx - 1) // 2, fx // 2), inputs=(source,),
    )  # fmt: skip


def dense(name: str, source: str, c: int, k: int) -> Layer:
    return Layer(name=name, op=Op.DENSE, K=k, C=c, inputs=(source,))


def add(name: str, a: str, b: str, channels: int, size: int) -> Layer:
    return Layer(name=name, op=Op.ADD, G=channels, K=1, C=1, OY=size, OX=size, IY=size, IX=size, inputs=(a, b))


def pool(
    name: str, source: str, channels: int, size: int, window: int | tuple[int, int], op: Op = Op.AVG_POOL
) -> Layer:
    fy, fx = (window, window) if isinstance(window, int) else window
    return Layer(
        name=name, op=op, G=channels, K=1, C=1, OY=size, OX=size, FY=fy, FX=fx, IY=size * fy, IX=size * fx,
        stride=(fy, fx), inputs=(source,),
    )  # fmt: skip


def resnet8() -> list[Layer]:
    return resnet(1)


def resnet(blocks: int) -> list[Layer]:
    """The CIFAR-10 ResNet with three stacks of `blocks` blocks: 1 is MLPerf Tiny's ResNet-8, 3 is ResNet-20."""
    layers = [conv("conv1", "input", 3, 16, 32)]
    source, channels, size = "conv1", 16, 32
    for i, k in enumerate((16, 32, 64)):
        for j in range(blocks):
            name = f"s{i}" if j == 0 else f"s{i}{j}"
            s = 2 if i and not j else 1
            size //= s
            layers.append(conv(f"{name}a", source, channels, k, size, s=s))
            layers.append(conv(f"{name}b", f"{name}a", k, k, size))
            shortcut = source
            if s == 2:
                layers.append(conv(f"{name}c", source, channels, k, size, f=1, s=2))
                shortcut = f"{name}c"
            layers.append(add(name, shortcut, f"{name}b", k, size))
            source, channels = name, k
    return [*layers, pool("pool", source, 64, 1, 8), dense("fc", "pool", 64, 10)]


def resnet18() -> list[Layer]:
    """ResNet-18 for ImageNet (He et al., CVPR 2016)."""
    layers = [conv("conv1", "input", 3, 64, 112, f=7, s=2), pool("pool1", "conv1", 64, 56, 2, Op.MAX_POOL)]
    source, channels, size = "pool1", 64, 56
    for i, k in enumerate((64, 128, 256, 512)):
        for j in range(2):
            name = f"s{i}{j}"
            s = 2 if i and not j else 1
            size //= s
            layers += [conv(f"{name}a", source, channels, k, size, s=s), conv(f"{name}b", f"{name}a", k, k, size)]
            shortcut = source
            if s == 2:
                layers.append(conv(f"{name}c", source, channels, k, size, f=1, s=2))
                shortcut = f"{name}c"
            layers.append(add(name, shortcut, f"{name}b", k, size))
            source, channels = name, k
    return [*layers, pool("pool", source, 512, 1, 7), dense("fc", "pool", 512, 1000)]


def ds_cnn() -> list[Layer]:
    layers = [replace(conv("conv1", "input", 1, 64, (25, 5), f=(10, 4), s=2), IY=49, IX=10)]
    source = "conv1"
    for i in range(4):
        layers.append(conv(f"dw{i}", source, 64, 64, (25, 5), g=64))
        layers.append(conv(f"pw{i}", f"dw{i}", 64, 64, (25, 5), f=1))
        source = f"pw{i}"
    return [*layers, pool("pool", source, 64, 1, (25, 5)), dense("fc", "pool", 64, 12)]


BLOCKS = (
    (16, 32, 1, 3), (24, 96, 1, 3), (24, 144, 1, 3), (32, 144, 1, 3), (32, 192, 1, 3), (64, 192, 2, 3),
    (64, 384, 1, 3), (96, 384, 1, 7), (96, 576, 1, 7), (160, 576, 2, 7), (160, 960, 1, 7), (320, 960, 1, 7),
)  # fmt: skip
"""(output channels, expanded channels, stride, depthwise kernel) of the 12 inverted-residual blocks."""


def mobilenetv2() -> list[Layer]:
    layers = [conv("conv1", "input", 3, 32, 32)]
    source, channels, size = "conv1", 32, 32
    for i, (k, wide, s, f) in enumerate(BLOCKS):
        start = source
        if wide != channels:
            layers.append(conv(f"b{i}e", source, channels, wide, size, f=1))
            source = f"b{i}e"
        size //= s
        layers.append(conv(f"b{i}d", source, wide, wide, size, f=f, s=s, g=wide))
        layers.append(conv(f"b{i}p", f"b{i}d", wide, k, size, f=1))
        source = f"b{i}p"
        if s == 1 and k == channels:
            layers.append(add(f"b{i}", start, source, k, size))
            source = f"b{i}"
        channels = k
    return [*layers, pool("pool", source, 320, 4, 2, Op.MAX_POOL), dense("fc", "pool", 5120, 10)]


NETWORKS = {"resnet8": resnet8, "ds-cnn": ds_cnn, "mobilenetv2": mobilenetv2}


def unique_layers(layers: list[Layer]) -> list[Layer]:
    """The first of every set of layers that differ in name and source alone."""
    seen: dict[Layer, Layer] = {}
    for layer in layers:
        seen.setdefault(replace(layer, name="", inputs=("input",) * len(layer.inputs)), layer)
    return list(seen.values())


def with_bits(layers: list[Layer], bits: int) -> list[Layer]:
    return [replace(x, weight_bits=bits, input_bits=bits, output_bits=bits) for x in layers]


def held_out() -> list[Layer]:
    """Layers of none of these networks: odd sizes, groups, batches, large strides, long vectors."""
    grouped = conv("grouped", "input", 48, 96, 14, f=5, g=4)
    return [
        conv("odd", "input", 37, 51, (19, 23), f=(3, 5)),
        grouped,
        replace(conv("batched", "input", 16, 24, 12), B=4),
        conv("stem", "input", 3, 64, 56, f=7, s=2),
        conv("wide", "input", 512, 512, 7),
        conv("point", "input", 256, 1000, 4, f=1),
        conv("tall", "input", 40, 40, (61, 1), f=(9, 1), g=40),
        conv("deepwise", "input", 288, 288, 10, f=5, s=2, g=288),
        dense("long", "input", 4096, 1000),
        replace(conv("mixed", "input", 64, 64, 16), weight_bits=2, input_bits=8, output_bits=8),
        add("sum", "a", "b", 100, 9),
        pool("max", "input", 33, 11, 3, Op.MAX_POOL),
    ]
