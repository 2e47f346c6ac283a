"""Laws of the search space: vectors and candidates, derivation from a chip, the file and its faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import AccelerationError, FormatError, UserError
from offramp.ir.accelerator import Accelerator
from offramp.ir.architecture import Architecture, ExitChoice, Precision
from offramp.ir.backbone import KernelChoice
from offramp.ir.workload import Op
from offramp.search.derive import array_step, derive_space
from offramp.search.space import PARTS, BitChoice, Space
from offramp.search.space_yaml import parse_space, read_space, space_text, write_space
from search_cases import backbone, free_chip, mixed_chip

INFO = backbone()
CHIPS = [mixed_chip(), free_chip()]
SPACES = [derive_space(INFO, chip) for chip in CHIPS]
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=80, deadline=None)
@given(seeds, st.sampled_from(SPACES), st.integers(0, 3))
def test_a_candidate_survives_its_vector(seed: int, space: Space, limit: int) -> None:
    space = replace(space, max_exits=limit)
    rng = np.random.default_rng(seed)
    candidate = space.decode(rng.integers(0, space.upper + 1))
    assert len(candidate.exits) <= limit
    assert INFO.canonical(candidate) == candidate
    assert space.repair(candidate) == candidate
    assert Architecture.from_json(candidate.to_json()) == candidate
    vector = space.encode(candidate)
    assert len(vector) == len(space.genes) and np.all((vector >= 0) & (vector <= space.upper))
    assert len(space.sample(rng).exits) <= limit


def test_the_neutral_candidate_is_the_full_backbone() -> None:
    for space in SPACES:
        assert space.neutral == Architecture(backbone="chain")
        assert space.repair(space.neutral) == space.neutral


def test_an_analog_layer_has_the_precision_of_its_core() -> None:
    space = SPACES[0]
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(50):
        candidate = space.sample(rng)
        for layer, core in candidate.cores:
            assert core == "imc" and candidate.precision_of(layer) == Precision(2, 7)
            assert not layer.endswith(".dw") and layer not in ("stem.conv", "head.fc")
            seen += 1
        assert all(p.weight_bits == 8 for layer, p in candidate.precision if candidate.core_of(layer) is None)
    assert seen > 20


def test_the_classifier_of_an_analog_branch_stays_digital() -> None:
    """A branch on the analog core: its dense convolution goes there; one that has none stays as it is."""
    space = replace(SPACES[0], cores=(*SPACES[0].cores, ("exit1", ("imc",))))
    genes = {(g.part, g.name): i for i, g in enumerate(space.genes)}
    vector = space.encode(space.neutral)
    treatments = space.genes[genes["bits", "exit1"]].choices
    vector[genes["bits", "exit1"]] = [t.core for t in treatments].index("imc")
    for kind, there in (("dsconv_gap_fc", {"exit1.pw": "imc"}), ("gap_fc", {})):
        vector[genes["exits", "exit1"]] = space.genes[genes["exits", "exit1"]].choices.index(kind)
        candidate = space.decode(vector)
        assert dict(candidate.cores) == there
        assert [p for name, p in candidate.precision if name.startswith("exit")] == [Precision(2, 7)] * len(there)
        assert space.repair(candidate) == candidate


def test_bits_follow_the_chip() -> None:
    assert {b for _, b in SPACES[0].bits} == {BitChoice((8,), (7, 8))}
    assert {b for _, b in SPACES[1].bits} == {BitChoice((2, 4, 8), (4, 7, 8))}
    assert not SPACES[1].cores


def test_widths_are_multiples_of_what_the_array_likes() -> None:
    assert [array_step(c) for c in CHIPS] == [16, 8]
    widths = dict(SPACES[1].widths)
    assert widths["b1.pw"] == (8, 16, 24, 32) and widths["b4.pw"] == (16, 24, 32, 40, 48, 56, 64)
    assert dict(SPACES[0].widths)["b4.pw"] == (16, 32, 48, 64)


def test_a_single_tap_is_a_choice_for_those_who_ask() -> None:
    layer = INFO.kernel_choices[0].layer
    info = replace(INFO, kernel_choices=(KernelChoice(layer=layer, sizes=(1, 3)),))
    assert derive_space(info, CHIPS[0]).kernels == ()
    asked = parse_space(f"kernels: {{{layer}: [1, 3]}}", info, CHIPS[0])
    assert {asked.decode([i]).kernels for i in range(2)} == {(), ((layer, 1),)}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_switches_off(part: str) -> None:
    rng = np.random.default_rng(1)
    space = SPACES[0].without(part)
    candidates = [space.sample(rng) for _ in range(30)]
    field = {"depth": "depths", "width": "widths", "kernel": "kernels", "exits": "exits", "analog": "cores"}.get(part)
    assert space.digest != SPACES[0].digest
    if field:
        assert not any(getattr(c, field) for c in candidates)
    else:
        assert all(c.core_of(layer) for c in candidates for layer, _ in c.precision)
    assert SPACES[0].without(*PARTS).cardinality == 1
    with pytest.raises(UserError, match="unknown part of the space 'exit'"):
        space.without("exit")


def test_too_many_exits_lose_those_that_sit_closest() -> None:
    space = replace(SPACES[0], max_exits=1)
    crowded = Architecture(backbone="chain", exits=tuple(ExitChoice(i) for i in range(4)))
    assert len(space.repair(crowded).exits) == 1


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0, 1]), st.lists(st.sampled_from(PARTS), unique=True))
def test_the_file_reads_back_equal(index: int, off: list[str]) -> None:
    space = SPACES[index].without(*off)
    assert parse_space(space_text(space), INFO, CHIPS[index]) == space


def test_a_file_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    write_space(path, SPACES[0])
    assert read_space(path, INFO, CHIPS[0]).digest == SPACES[0].digest
    with pytest.raises(FormatError, match=r"missing\.yaml: cannot be read"):
        read_space(tmp_path / "missing.yaml", INFO, CHIPS[0])


def test_a_short_file_offers_little() -> None:
    text = "backbone: chain\nwidths: {b1.pw: {min: 8, max: 32, step: 10}}\nexits: {1: gap_fc}\ncores: {b2.pw: [imc]}\n"
    space = parse_space(text, INFO, CHIPS[0])
    assert [g.choices for g in space.genes][:2] == [(8, 18, 28, 32), (None, "gap_fc")]
    assert space.max_exits == 1 and space.cardinality == 16


FAULTS = [
    ("widht: {}", r"\$\.widht: unknown key"),
    ("widths: {b1.pw: [8]}\nwidths: {}", r"line 2.*duplicate key 'widths'"),
    ("widths: {b1.pw: []}", r"\$\.widths\.b1\.pw: no choices"),
    ("widths: {b1.pw: {min: 32, max: 8}}", r"bounds reversed: min 32 is above max 8"),
    ("widths: {b1.pw: {min: 8, max: 32, step: 0}}", r"whole numbers, step above 0"),
    ("widths: {b1.pw: [0, 8]}", r"0 channels, wanted 1 to 32"),
    ("widths: {b1.pw: [8, 512]}", r"512 channels, wanted 1 to 32"),
    ("widths: {b1.pw: [8, -2]}", r"wanted a list of whole numbers"),
    ("widths: {b1.pw: [8, 8]}", r"lists a choice twice"),
    ("widths: {b9.pw: [8]}", r"\$\.widths\.b9\.pw: unknown name, wanted one of stem\.conv"),
    ("depths: {tail: [7]}", r"7 blocks, wanted 1 to 3"),
    ("kernels: {b1.dw: [4]}", r"size 4, wanted one of 3, 5"),
    ("exits: {17: [gap_fc]}", r"\$\.exits\.17: unknown mounting point"),
    ("exits: {a: [gap_fc]}", r"key 'a', wanted a mounting point"),
    ("exits: {1: [gap]}", r"unknown branch kind 'gap', wanted one of gap_fc"),
    ("exits: {1: []}", r"\$\.exits\.1: no choices"),
    ("exits: {1: gap_fc}\nmax_exits: 4", r"\$\.max_exits: 4, wanted 0 to 1"),
    ("bits: {b1.pw: {weights: [3]}}", r"\$\.bits\.b1\.pw: 3-bit weights: no core of mixed takes them for conv"),
    ("bits: {b1.pw: {activations: [4]}}", r"4-bit activations: no core of mixed takes them"),
    ("bits: {b1.pw: {}}", r"wanted \{weights: \[\.\.\.\], activations"),
    ("bits: {exit1: {weights: [4]}}", r"\$\.bits\.exit1: 4-bit weights: no core"),
    ("default_bits: {weights: 4}", r"\$\.default_bits: 4-bit weights: no core"),
    ("cores: {b1.pw: [npu]}", r"unknown analog core 'npu', wanted one of imc"),
    ("backbone: resnet8", r"'resnet8', but the study's backbone is 'chain'"),
    ("[1, 2]", r"space\.yaml: list"),
    ("widths: 3", r"\$\.widths: 3, wanted a mapping"),
    ("widths: {b1.pw: []}\nexits: {1: []}", r"2 faults: \$\.exits\.1: no choices; \$\.widths\.b1\.pw: no choices"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[t.splitlines()[0] for t, _ in FAULTS])
def test_faults_of_a_file_are_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_space(text, INFO, CHIPS[0])


def test_an_operator_that_no_core_runs_is_an_error() -> None:
    core = replace(mixed_chip().cores[0], ops=(Op.CONV,))
    with pytest.raises(AccelerationError, match=r"activation bits|no core runs depthwise layer b1\.dw"):
        derive_space(INFO, Accelerator(name="poor", clock_mhz=1, cores=(core,)))
    narrow = replace(mixed_chip().cores[0], weight_bits=(16,))
    with pytest.raises(AccelerationError, match="bits"):
        derive_space(INFO, Accelerator(name="wide", clock_mhz=1, cores=(narrow,)))
