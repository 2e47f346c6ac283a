"""A user's own networks: cut, given exits, narrowed and lowered with their weights; what is not supported is named."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

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
    assert [c.sizes for c in info.kernel_choices] == [(1, 3, 5, 7), *[(1, 3)] * 8]


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


class Step(nn.Module):
    """A part that is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


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
        (Step(lambda x: x[:, :1]), "mine.getitem: a part of a tensor"),
        (Step(lambda x: x.mT), "mine.getattr_1: the attribute mT of a tensor"),
        (Step(lambda x: x + x.size(1)), "mine.add: a size of a tensor, which only flattening may read"),
        (Step(lambda x: F.avg_pool2d(x, x.size()[2:])), "mine.avg_pool2d: a pooling window that is worked out"),
        (Step(lambda x: x.view(3, -1)), "mine.view: a reshape that is not a flattening"),
        (Step(lambda x: x.view(x.size(1), -1)), "mine.view: a reshape that is not a flattening"),
        (Step(lambda x: torch.flatten(x, 1, 2)), "mine.flatten: a reshape that is not a flattening"),
        (Step(lambda x: torch.mean(input=x, dim=(2, 3))), "mine.mean: an input that is given by keyword"),
        (Step(lambda x: x.mean((x.size(2), 3))), "mine.mean: a mean that is not over height and width"),
        (nn.Flatten(2), "mine.part: a flattening of dimensions 2 to -1"),
        (
            nn.Sequential(nn.ZeroPad2d(-1), nn.Conv2d(4, 4, 3, padding=1)),
            r"mine.part.0: zero padding of \(-1, -1, -1, -1\)",
        ),
        (nn.Sequential(nn.ZeroPad2d(1), Step(lambda x: x.flatten(1))), "mine.flatten: zero padding before something"),
        (nn.AvgPool2d(2, divisor_override=1), "mine.part: AvgPool2d is not supported"),
        (Step(lambda x: F.avg_pool2d(x, 2, 2, 0, False, True, 3)), "mine.avg_pool2d: pooling with"),
        (nn.BatchNorm2d(4, track_running_stats=False), "mine.part: batch norm without running statistics"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "mine.part: weights that are computed from others"),
        (prune.identity(nn.Conv2d(4, 4, 1), "weight"), "mine: this module cannot be copied"),
        (nn.MaxPool2d(3, 2, 1), "mine.part: a padded max pool of values below 0; wanted a ReLU before it"),
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
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
            "mine.3: a max pool that gives the logits; wanted a convolution",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3), nn.Softmax(0)),
            "mine.4: Softmax is not supported",
        ),
    ],
)
def test_a_network_that_is_no_classifier_or_cannot_be_cut(module: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_module(module, (1, 8, 8), name="mine")


class TwoHeads(nn.Module):
    """Two linear layers read one mean, so that its map alone crosses to the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(1, 4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x)).mean((2, 3))
        return self.a(y) + self.b(y)  # type: ignore[no-any-return]


def test_a_mean_that_drops_its_axes_may_end_a_block() -> None:
    module, x = TwoHeads().eval(), torch.randn(2, 1, 8, 8)
    network = supernet(import_module(module, (1, 8, 8)), [], seed=0).eval()
    assert [n.name for n in network.stage_nodes[0].backbone] == ["block0.conv", "block0.mean"]
    torch.testing.assert_close(network(x)[-1], module(x))


def test_weights_of_another_precision_become_float32() -> None:
    module, x = SmallResNet().double().eval(), torch.randn(2, 3, 32, 32)
    network = supernet(import_module(module, (3, 32, 32)), [], seed=0).eval()
    torch.testing.assert_close(network(x)[-1], module(x.double()).float(), atol=1e-5, rtol=1e-4)


def test_channels_of_a_norm_without_weights_are_sorted() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 2),
    ).eval()  # fmt: skip
    network, x = supernet(import_module(module, (1, 8, 8)), [], seed=0).eval(), torch.randn(2, 1, 8, 8)
    sort_channels(network)
    torch.testing.assert_close(network(x)[-1], module(x))


def test_the_users_module_stays_as_it_is() -> None:
    module = SmallResNet()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    network = supernet(import_module(module, (3, 32, 32)), [], seed=0)
    for p in network.parameters():
        p.data.zero_()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
