"""Folding batch norm and collecting its statistics: the function stays, names stay, modes come back."""

import torch
from torch import nn

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.nn.fold import collecting_norms, fold_batchnorm
from offramp.nn.network import EarlyExitNetwork, build

ARCHITECTURES = {
    "resnet8": (3, 16, 16),
    "mobilenetv1": (3, 32, 32),
    "dscnn": (1, 49, 10),
}


def lively(name: str, seed: int = 0) -> EarlyExitNetwork:
    """A network whose batch norms differ from the identity, with negative gains among them."""
    architecture = Architecture(backbone=name, exits=(ExitChoice(1, "conv_gap_fc"),))
    network = build(architecture, ARCHITECTURES[name], 5, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.normal_(generator=generator)
            assert module.running_var is not None
            module.running_var.abs_().add_(0.2)
    return network.eval()


def test_folding_leaves_the_function_and_the_names() -> None:
    for name, shape in ARCHITECTURES.items():
        network = lively(name)
        folded = fold_batchnorm(network).eval()
        x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        assert [n.name for n in folded.nodes] == [n.name for n in network.nodes]
        for a, b in zip(network(x), folded(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_folding_does_not_touch_the_original() -> None:
    network = lively("resnet8")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    fold_batchnorm(network)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_collected_norms_hold_the_statistics_of_the_batches_and_modes_come_back() -> None:
    network = lively("resnet8")
    first = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    weights = {k: v.clone() for k, v in network.named_parameters()}
    with torch.no_grad(), collecting_norms(network):
        for i in range(3):
            network(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(i)))
    handle.remove()
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, torch.cat(seen).mean(dim=(0, 2, 3)))
    assert first.momentum == 0.1
    assert not network.training
    assert all(torch.equal(v, weights[k]) for k, v in network.named_parameters())
