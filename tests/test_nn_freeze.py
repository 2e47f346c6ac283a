"""A frozen backbone: folded once, untouched by training, calibration and the choice of exits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import offramp
from offramp.api import open_backbone
from offramp.config import Budget
from offramp.data import load_dataset
from offramp.errors import UserError
from offramp.ir.architecture import ExitChoice
from offramp.ir.trial import Trial
from offramp.learn.train import fit
from offramp.nn.backbones import backbone
from offramp.nn.freeze import backbone_parts, folded, freeze_backbone, has_weights
from offramp.nn.importer import import_module
from offramp.nn.quantize import calibrate, prepare
from offramp.nn.shared import supernet
from tflite_writer import Model

BUDGET = Budget(shared_epochs=2, static_epochs=1, tune_epochs=1, finish_epochs=1, finish_points=3)


def network() -> nn.Sequential:
    """Two convolutions with batch norms that have seen data."""
    torch.manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    for _ in range(20):
        made(torch.randn(64, 1, 8, 8) * 2 + 1)
    return made.eval()


def test_folding_keeps_the_function_and_leaves_no_batch_norm() -> None:
    net = network()
    full = import_module(net, (1, 8, 8))
    plain = folded(full)
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(supernet(plain, (), seed=0).eval()(x)[-1], net(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for part in (*plain.blocks, plain.head) for m in part.modules())
    assert has_weights(full) and not has_weights(backbone("resnet8", (1, 8, 8), 10))


def test_a_backbone_without_weights_cannot_be_frozen() -> None:
    with pytest.raises(UserError, match=r"the untrained backbone resnet8; wanted a \.tflite file"):
        folded(backbone("resnet8", (1, 8, 8), 10))


@pytest.mark.parametrize("prepared", [False, True])
def test_training_moves_exits_alone(prepared: bool) -> None:
    data = load_dataset("digits", seed=0, subset=200)
    plain = supernet(folded(import_module(network(), (1, 8, 8))), [ExitChoice(0, "dsconv_gap_fc")], seed=0)
    made = prepare(plain) if prepared else plain
    if prepared:
        calibrate(made, [torch.as_tensor(data.train.x)])  # type: ignore[arg-type]
    freeze_backbone(made)
    held = [p.clone() for part in backbone_parts(made) for p in part.state_dict().values()]
    before = {name: p.clone() for name, p in made.named_parameters() if p.requires_grad}
    fit(made, data.train, epochs=1, seed=0)
    after = [p for part in backbone_parts(made) for p in part.state_dict().values()]
    assert held and all(torch.equal(a, b) for a, b in zip(held, after, strict=True))
    moved = dict(made.named_parameters())
    assert before and any(not torch.equal(before[name], moved[name]) for name in before)


def final_accuracy(trial: Trial) -> float:
    return float(trial.details["exit_accuracies"][-1])


def test_every_candidate_of_a_frozen_study_ends_in_the_same_answers(tmp_path: Path) -> None:
    found = offramp.design(
        "digits", network(), "diana", run=tmp_path / "run", trials=4, budget=BUDGET, subset=300, freeze=True
    )
    assert found.static.architecture.exits == ()
    assert any(t.architecture.exits for t in found.trials)
    for trial in found.trials:
        a = trial.architecture
        assert not (a.depths or a.widths or a.kernels or a.precision or a.cores)
        assert final_accuracy(trial) == final_accuracy(found.static.trial)
    with pytest.raises(UserError, match="freeze is absent here"):
        offramp.design("digits", network(), "diana", run=tmp_path / "run", trials=4, budget=BUDGET, subset=300)


def test_where_every_exit_is_solved_epochs_change_nothing(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("exits: {0: [gap_fc, maxpool_fc]}\n", encoding="utf-8")
    none = Budget(shared_epochs=1, static_epochs=1, tune_epochs=0, finish_epochs=0, finish_points=1)
    figures = []
    for number, budget in enumerate((none, BUDGET)):
        found = offramp.design(
            "digits", network(), "diana", run=tmp_path / str(number), trials=3, budget=budget, subset=300, freeze=True,
            space=space,
        )  # fmt: skip
        figures.append([(t.architecture, t.details["exit_accuracies"], t.thresholds) for t in found.trials])
    assert figures[0] == figures[1]
    assert any(architecture.exits for architecture, _, _ in figures[0])


def tflite(path: Path, classes: int = 10) -> Path:
    """conv 3x3 to 6 (ReLU), conv 3x3 stride 2 to 8 (ReLU), flatten, dense."""
    rng, m = np.random.default_rng(0), Model()
    x, a, b, c, d = (m.tensor(s) for s in ((1, 8, 8, 1), (1, 8, 8, 6), (1, 4, 4, 8), (1, 128), (1, classes)))
    for ins, out, shape, stride in ((x, a, (6, 3, 3, 1), 1), (a, b, (8, 3, 3, 6), 2)):
        weight = m.tensor(shape, rng.normal(0, 0.3, shape).astype(np.float32))
        bias = m.tensor(shape[:1], np.zeros(shape[0], np.float32))
        m.operator(3, [ins, weight, bias], out, {0: ("b", 0), 1: ("i", stride), 2: ("i", stride), 3: ("b", 1)})
    m.operator(22, [b], c)
    dense = m.tensor((classes, 128), rng.normal(0, 0.1, (classes, 128)).astype(np.float32))
    m.operator(9, [c, dense, m.tensor((classes,), np.zeros(classes, np.float32))], d)
    path.write_bytes(m.to_bytes(x, d))
    return path


def test_a_tflite_file_is_a_backbone_that_takes_real_values(tmp_path: Path) -> None:
    path = tflite(tmp_path / "own.tflite")
    found = offramp.design(
        "digits", path, "diana", run=tmp_path / "run", trials=2, budget=BUDGET, subset=300, freeze=True
    )
    assert found.static.metrics.macs == 64 * 6 * 9 + 16 * 8 * 54 + 1280
    real = load_dataset("digits", seed=0, normalize=False)
    assert open_backbone(path, real).name == "own"
    with pytest.raises(UserError, match=r"normalised samples; wanted real values.*normalize=False"):
        open_backbone(path, load_dataset("digits", seed=0))
    with pytest.raises(UserError, match="a network of 7 classes; wanted the 10 classes of digits"):
        open_backbone(tflite(tmp_path / "seven.tflite", 7), real)
