"""What a core takes, why it refuses, and what an accelerator knows of its memories."""

import pytest

from offramp.errors import AccelerationError
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.accelerator import Core, CoreKind
from offramp.ir.workload import Layer, Op


def layer(op: Op = Op.CONV, **changes: int) -> Layer:
    sizes = {"K": 32, "C": 16, "OY": 8, "OX": 8, "FY": 3, "FX": 3, "IY": 8, "IX": 8} | changes
    return Layer(name="l", op=op, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "cores"),
    [
        ({}, {"digital", "host"}),
        ({"weight_bits": 2}, {"digital", "host"}),
        ({"weight_bits": 2, "adc_bits": 6}, {"analog"}),
        ({"weight_bits": 3}, {"host"}),
    ],
)
def test_diana_takes_what_its_cores_can(changes: dict[str, int], cores: set[str]) -> None:
    diana = load_accelerator("diana")
    assert {diana.cores[i].name for i in diana.cores_for(layer(**changes))} == cores


def test_analog_refuses_groups_depthwise_and_other_converters() -> None:
    analog = load_accelerator("diana").core("analog")
    ok = layer(weight_bits=2, adc_bits=6)
    assert analog.supports(ok)
    assert "adc_bits 6" in str(analog.refusal(layer(weight_bits=2, adc_bits=8)))
    assert "adc_bits 6" in str(analog.refusal(layer(weight_bits=2)))
    assert "2 bits" in str(analog.refusal(layer(weight_bits=8, adc_bits=6)))
    assert "without groups" in str(analog.refusal(layer(weight_bits=2, adc_bits=6, G=2)))
    assert "runs conv" in str(analog.refusal(layer(Op.DEPTHWISE, weight_bits=2, adc_bits=6)))


def test_a_layer_that_nobody_takes_is_one_clear_error() -> None:
    diana = load_accelerator("diana")
    with pytest.raises(
        AccelerationError, match=r"no core runs depthwise layer l .*6-bit ADC.*digital has no 6-bit ADC"
    ):
        diana.cores_for(layer(Op.DEPTHWISE, adc_bits=6))


def test_unknown_core_lists_the_known() -> None:
    with pytest.raises(AccelerationError, match="digital, analog, simd, host"):
        load_accelerator("diana").core("npu")


def test_activation_memories_say_who_shares_what() -> None:
    diana, quad = load_accelerator("diana"), load_accelerator("edge-tpu-quad")
    shared = diana.activation_memory("digital")
    assert shared is diana.activation_memory("analog")
    assert shared is not None
    assert shared.size_bytes == 256 * 1024
    own = [quad.activation_memory(f"core{i}") for i in range(4)]
    assert [m.size_bytes for m in own if m] == [2 * 1024 * 1024] * 4
    assert len({m.name for m in own if m}) == 4


def test_a_core_without_lists_takes_all_bits() -> None:
    core = Core(name="any", kind=CoreKind.DIGITAL)
    assert core.supports(layer(weight_bits=5, input_bits=3))
    assert not core.supports(layer(adc_bits=6))
