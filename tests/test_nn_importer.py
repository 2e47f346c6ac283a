"""A user's own networks: cut, given exits, narrowed and lowered with their weights; what is not supported is named."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.errors import UserError
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.ir.workload import Op
from offramp.nn.describe import describe
from offramp.nn.importer import import_module
from offramp.nn.lower import lower
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.shared import cut_out, supernet
from offramp.nn.widths import sort_channels


class LeNet(nn.Module):
    """Functional pooling and activations, a view, dropout and a log-softmax, as in many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool, self.drop = nn.MaxPool2d(2, 2), nn.Dropout()
        self.f1, self.f2 = nn.Linear(16 * 4 * 4, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.c1(x), 2))
        x = self.pool(F.relu(self.c2(x)))
        x = self.drop(F.relu(self.f1(x.view(x.size(0), -1))))
        return F.log_softmax(self.f2(x), dim=1)


class Basic(nn.Module):
    """A residual block that adds in place."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(outs), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        down = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
        self.downsample = down if (ins, stride) != (outs, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)  # type: ignore[no-any-return]


class SmallResNet(nn.Module):
    """The layout of the usual ImageNet ResNet, small; the batch size is read at the start and used at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Basic(8, 8, 1), Basic(8, 8, 1))
        self.layer2 = nn.Sequential(Basic(8, 16, 2), Basic(16, 16, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(self.layer2(self.layer1(x)), 1)
        return self.fc(x.reshape(batch, -1))  # type: ignore[no-any-return]


def plain() -> nn.Sequential:
    """A Sequential with uneven padding, separable convolutions, average pooling and a grouped convolution."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(2, 8, 3, 2),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, "same", groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 4 * 4, 7),
        nn.Softmax(1),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "lenet": (LeNet, (1, 28, 28), 2),
    "resnet": (SmallResNet, (3, 32, 32), 5),
    "plain": (plain, (2, 16, 16), 3),
}


def imported(case: str) -> tuple[nn.Module, EarlyExitNetwork, Tensor]:
    make, shape, blocks = CASES[case]
    torch.manual_seed(0)
    module = make().eval()
    full = import_module(module, shape, name=case)
    assert len(full.blocks) == blocks
    exits = [ExitChoice(i, "dsconv_gap_fc") for i in range(blocks - 1)]
    return module, supernet(full, exits, seed=0).eval(), torch.randn(3, *shape)


@pytest.mark.parametrize("case", CASES)
def test_the_imported_network_says_what_the_original_says(case: str) -> None:
    """Without its softmax: probabilities are compared."""
    module, network, x = imported(case)
    said = module(x)
    said = said if case == "resnet" else said.log() if case == "plain" else said
    torch.testing.assert_close(network(x)[-1].log_softmax(1), said.log_softmax(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_it_lowers_sorts_and_narrows_like_any_other(case: str) -> None:
    _, network, x = imported(case)
    info = describe(network.full)
    assert {layer.name for layer in lower(network).layers} >= {layer.name for layer in info.layers}
    before = network(x)
    sort_channels(network)
    for a, b in zip(network(x), before, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    widths = tuple(sorted((g.name, max(1, g.channels // 2)) for g in info.width_groups))
    child = cut_out(network, Architecture(backbone=case, exits=network.exits, widths=widths)).eval()
    assert [y.shape for y in child(x)] == [y.shape for y in before]
    assert lower(child).macs < lower(network).macs


def test_cuts_lie_after_blocks_and_behind_pools() -> None:
    _, network, _ = imported("resnet")
    info = describe(network.full)
    assert [(p.channels, p.height) for p in info.mounting_points] == [(8, 8), (8, 8), (8, 8), (16, 4)]
    assert [g.blocks for g in info.depth_groups] == [(1, 2), (4,)]
    assert {g.name for g in info.width_groups} >= {"block0.conv1", "block1.layer1.0.conv1"}
    assert [c.sizes for c in info.kernel_choices] == [(3, 5, 7)]


def test_layers_of_a_plain_sequence_keep_their_geometry() -> None:
    _, network, _ = imported("plain")
    first, dw, pw, grouped, pool, fc = (layer for layer in lower(network).layers if "exit" not in layer.name)
    assert (first.padding, first.OY, first.stride) == ((0, 1, 0, 1), 8, (2, 2))
    assert (dw.op, dw.padding, pw.op) == (Op.DEPTHWISE, (1, 1, 1, 1), Op.CONV)
    assert (grouped.op, grouped.G, grouped.K, grouped.C) == (Op.CONV, 3, 4, 4)
    assert (pool.op, pool.FY, pool.stride, fc.C) == (Op.AVG_POOL, 2, (2, 2), 192)


def test_a_grouped_convolution_fixes_the_channels_around_it() -> None:
    _, network, _ = imported("plain")
    assert [g.name for g in describe(network.full).width_groups] == ["block0.1"]


class Odd(nn.Module):
    """A network around one part that should be refused."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part, self.fc = nn.Conv2d(1, 4, 3, padding=1), part, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.part(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Branching(nn.Module):
    """Control flow that depends on data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Constant(nn.Module):
    """A free parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.SiLU(), "mine.part: SiLU is not supported; wanted Conv2d"),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), "mine.part.1: batch norm after conv, which is not a bare"),
        (nn.Sequential(nn.ReLU(), nn.ReLU6()), "mine.part.1: activation after conv, which is not a bare"),
        (nn.Conv2d(4, 4, 3, dilation=2), "mine.part: a convolution with dilation"),
        (nn.MaxPool2d(2, ceil_mode=True), "mine.part: MaxPool2d is not supported"),
        (Branching(), r"mine: torch.fx cannot trace this module \(TraceError"),
        (Constant(), "mine.part_scale: reads the parameter or constant part.scale"),
        (nn.Conv2d(5, 4, 3), r"part: a tensor of shape \(4, 8, 8\) arrives; wanted 5 channels"),
        (nn.MaxPool2d(9), r"part: a \(9, 9\) window on a map of \(8, 8\); wanted a larger input"),
    ],
)
def test_what_is_not_supported_is_named_with_its_path(part: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_module(Odd(part), (1, 8, 8), name="mine")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "no place where an exit could sit"),
        (nn.Sequential(nn.Conv2d(1, 4, 3)), r"an output of shape \(4, 6, 6\); wanted logits"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(5, 3)), "wanted 5 features, flattened"),
    ],
)
def test_a_network_that_is_no_classifier_or_cannot_be_cut(module: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_module(module, (1, 8, 8), name="mine")


def test_the_users_module_stays_as_it_is() -> None:
    module = SmallResNet()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    network = supernet(import_module(module, (3, 32, 32)), [], seed=0)
    for p in network.parameters():
        p.data.zero_()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
