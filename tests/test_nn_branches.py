"""Exit branches: their sizes as published, on maps of every size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import UserError
from offramp.nn.branches import BRANCHES, branch
from offramp.nn.graph import trace_block
from offramp.nn.layers import avg_pool_to, max_pool_to


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 33), st.integers(1, 33)),
    kind=st.sampled_from(sorted(BRANCHES)),
    classes=st.integers(2, 12),
)
@settings(max_examples=60, deadline=None)
def test_every_kind_takes_every_map(shape: tuple[int, int, int], kind: str, classes: int) -> None:
    module = branch(kind, shape, classes).eval()
    logits = module(torch.randn(2, *shape))
    assert logits.shape == (2, classes)
    assert trace_block(module, "exit0").nodes


@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_pooling_reaches_four_by_four_or_what_is_there(height: int, width: int) -> None:
    for pool, shape in (max_pool_to((2, height, width), 4), avg_pool_to((2, height, width), 4)):
        assert shape == (2, min(4, height), min(4, width))
        assert tuple(pool(torch.zeros(1, 2, height, width)).shape[1:]) == shape


def test_means_are_those_of_the_windows() -> None:
    pool, _ = avg_pool_to((1, 8, 5), 4)
    x = torch.arange(40.0).reshape(1, 1, 8, 5)
    windows = [[x[0, 0, 2 * i : 2 * i + 2, j : j + 2].mean() for j in range(4)] for i in range(4)]
    assert torch.equal(pool(x)[0, 0], torch.tensor(windows))


def test_pool_and_two_linear_layers_have_the_published_sizes() -> None:
    """SEEDCASE.md: 16C -> classes, and 16C -> 8C -> classes with ReLU6 between."""
    one, two = branch("maxpool_fc", (320, 8, 8), 10), branch("maxpool_2fc", (320, 8, 8), 10)
    assert one.get_parameter("fc.weight").shape == (10, 5120)
    assert two.get_parameter("fc1.weight").numel() + two.get_parameter("fc2.weight").numel() == 13_132_800
    assert isinstance(two.get_submodule("relu"), torch.nn.ReLU6)


def test_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown exit branch 'gap'; wanted one of avgpool_fc, conv_gap_fc"):
        branch("gap", (16, 8, 8), 10)
