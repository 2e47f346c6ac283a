"""tflite files: against a NumPy reading of TensorFlow's definitions, against published accuracies, and damaged."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from numpy.typing import NDArray

from damaged_files import damaged_bytes
from offramp.errors import FormatError
from offramp.formats.tflite import read_tflite
from offramp.nn.describe import describe
from offramp.nn.importer import from_tflite, import_module
from offramp.nn.shared import supernet
from tflite_writer import Model

SHARED = Path(os.environ.get("OFFRAMP_SHARED") or Path(__file__).parents[2] / "shared") / "data" / "mlperf_tiny"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here (OFFRAMP_SHARED)")
GENERATOR = np.random.default_rng(11)
Array = NDArray[np.float64]


def drawn(*shape: int) -> NDArray[np.float32]:
    return GENERATOR.normal(size=shape).astype(np.float32)


STEM = GENERATOR.integers(-127, 128, (4, 3, 3, 2)).astype(np.int8)
STEM_SCALE = (0.01, 0.02, 0.015, 0.03)
STEM_BIAS, DW, DW_BIAS, FC, FC_BIAS = drawn(4), drawn(1, 3, 3, 4), drawn(4), drawn(3, 24), drawn(3)


def small_model(*, last: int = 25) -> bytes:
    """Convolution (int8, per channel, stride 2, SAME, ReLU6), depthwise, addition, max-pool, flatten, dense, `last`."""
    m = Model()
    x = m.tensor((1, 6, 7, 2))
    a, b, c = m.tensor((1, 3, 4, 4)), m.tensor((1, 3, 4, 4)), m.tensor((1, 3, 4, 4))
    d, e, f, g = m.tensor((1, 2, 3, 4)), m.tensor((1, 24)), m.tensor((1, 3)), m.tensor((1, 3))
    stem = m.tensor((4, 3, 3, 2), STEM, scale=STEM_SCALE, zero=(0, 0, 0, 0))
    m.operator(3, [x, stem, m.tensor((4,), STEM_BIAS)], a, {0: ("b", 0), 1: ("i", 2), 2: ("i", 2), 3: ("b", 3)})
    depthwise = [a, m.tensor((1, 3, 3, 4), DW), m.tensor((4,), DW_BIAS)]
    m.operator(4, depthwise, b, {1: ("i", 1), 2: ("i", 1), 3: ("i", 1)})
    m.operator(0, [a, b], c, {0: ("b", 1)})
    m.operator(17, [c], d, {0: ("b", 1), 1: ("i", 1), 2: ("i", 1), 3: ("i", 2), 4: ("i", 2)})
    m.operator(22, [d], e)
    m.operator(9, [e, m.tensor((3, 24), FC), m.tensor((3,), FC_BIAS)], f)
    m.operator(last, [f], g)
    return m.to_bytes(x, g)


GOOD = small_model()


def same_conv(x: Array, weight: Array, stride: int) -> Array:
    """TensorFlow's SAME convolution of (H, W, C) with (K, FY, FX, C); the odd padding is at the end."""
    k, fy, fx, _ = weight.shape
    out = [-(-s // stride) for s in x.shape[:2]]
    total = [max((o - 1) * stride + f - s, 0) for o, f, s in zip(out, (fy, fx), x.shape[:2], strict=True)]
    padded = np.pad(x, [(t // 2, t - t // 2) for t in total] + [(0, 0)])
    y = np.zeros((*out, k))
    for i in range(out[0]):
        for j in range(out[1]):
            patch = padded[i * stride : i * stride + fy, j * stride : j * stride + fx]
            y[i, j] = (weight * patch).sum((1, 2, 3))
    return y


def expected(x: Array) -> Array:
    """The small model on (H, W, C), in TensorFlow's own layout."""
    stem = STEM * np.array(STEM_SCALE).reshape(4, 1, 1, 1)
    a = np.clip(same_conv(x, stem, 2) + STEM_BIAS, 0, 6)
    dw = np.concatenate([same_conv(a[..., i : i + 1], DW[..., i : i + 1].astype(float), 1) for i in range(4)], axis=2)
    c = np.maximum(a + dw + DW_BIAS, 0)
    d = np.maximum.reduce([c[:-1, :-1], c[1:, :-1], c[:-1, 1:], c[1:, 1:]])
    return FC @ d.reshape(-1) + FC_BIAS  # type: ignore[no-any-return]


def test_a_small_model_computes_what_tensorflow_defines(tmp_path: Path) -> None:
    (tmp_path / "small.tflite").write_bytes(small_model())
    network = from_tflite(tmp_path / "small.tflite")
    assert network.input_shape == (2, 6, 7)
    x = drawn(6, 7, 2)
    logits = network(torch.tensor(x).permute(2, 0, 1).unsqueeze(0))
    np.testing.assert_allclose(logits[0].detach().numpy(), expected(x.astype(float)), rtol=1e-4, atol=1e-4)


def test_a_small_model_becomes_a_backbone(tmp_path: Path) -> None:
    (tmp_path / "small.tflite").write_bytes(small_model())
    network = from_tflite(tmp_path / "small.tflite")
    parent = supernet(import_module(network, network.input_shape), [], seed=0).eval()
    x = torch.randn(2, 2, 6, 7)
    torch.testing.assert_close(parent(x)[-1], network(x))


def refused_or_read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.tflite"
        path.write_bytes(content)
        try:
            read_tflite(path)
        except FormatError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def with_byte(at: int, value: int) -> bytes:
    return GOOD[:at] + bytes([value]) + GOOD[at + 1 :]


@pytest.mark.reader
@given(damaged_bytes([GOOD], start=8))
@example(with_byte(743, 127))  # a signalling NaN among the scales
@settings(max_examples=150)
def test_a_damaged_file_is_one_clear_error(content: bytes) -> None:
    """Cut off or changed, it either still reads or is refused; nothing else is raised, no warning either."""
    refused_or_read(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no tflite identifier; wanted a TensorFlow Lite model"),
        (b"\x89PNG\r\n\x1a\n", "no tflite identifier"),
        (small_model()[:100], "bytes|past the end|damaged"),
        (small_model(last=97), "operator number 97 of the tflite schema; wanted one of ADD, AVERAGE_POOL_2D"),
    ],
)
def test_what_is_no_such_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_tflite(tmp_path / "x.tflite")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"cannot be read .*wanted a \.tflite file"):
        read_tflite(tmp_path / "none.tflite")


@needs_shared
@pytest.mark.parametrize(("name", "accuracy"), [("kws_ref_model", 0.902), ("kws_ref_model_float32", 0.901)])
def test_keyword_spotting_reference_reaches_its_accuracy(name: str, accuracy: float) -> None:
    """mlcommons/tiny publishes 90.2 % for the int8 model on these 1,000 samples; here with its weights as reals."""
    samples = np.load(SHARED / "kws01.npz")
    entry = read_tflite(SHARED / "models" / "kws_ref_model.tflite")
    x = (samples["x"].astype(np.float32) - entry.input_zero_point) * entry.input_scale
    with torch.no_grad():
        logits = from_tflite(SHARED / "models" / f"{name}.tflite")(torch.tensor(x).reshape(-1, 1, 49, 10))
    assert float((logits.argmax(1).numpy() == samples["y"]).mean()) == pytest.approx(accuracy, abs=0.002)


@needs_shared
@pytest.mark.parametrize(
    ("name", "blocks", "macs"),
    [
        ("pretrainedResnet", 4, 12_501_632),
        ("pretrainedResnet_quant", 4, 12_501_632),
        ("kws_ref_model", 5, 2_656_768),
        ("vww_96_float", 14, 7_489_664),
        ("vww_96_int8", 14, 7_489_664),
    ],
)
def test_reference_networks_become_backbones(name: str, blocks: int, macs: int) -> None:
    """The same blocks and MACs as our own networks of that name."""
    network = from_tflite(SHARED / "models" / f"{name}.tflite")
    info = describe(import_module(network, network.input_shape, name=name))
    assert info.blocks == blocks
    assert sum(layer.macs for layer in info.layers) == macs
