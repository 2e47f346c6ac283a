"""The generated C equals the integer reference bit for bit, under sanitizers, for every operator and policy."""

import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_networks import Maker, dscnn, inputs_for, random_network, resnet8
from offramp.deploy import c as kernels
from offramp.deploy.c.arena import lives, plan_arena
from offramp.deploy.c.build import SANITIZED, STRICT, build_host, run_host, time_host
from offramp.deploy.c.decide import FRACTION, POWER, is_sure, log2_of, make_rules, power_of_two, walk
from offramp.deploy.c.generate import generate_c, write_c
from offramp.deploy.c.packing import pack_rows
from offramp.deploy.plan import make_plan
from offramp.deploy.reference import Arithmetic, evaluate, quantize
from offramp.errors import UserError
from offramp.exits.policy import POLICIES, confidence
from offramp.exits.policy import walk as float_walk
from offramp.ir.quantized import Activation, QuantizedNetwork, QuantizedStage

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: apt-get install gcc")


def thresholds_for(network: QuantizedNetwork, policy: str) -> tuple[float, ...]:
    return (2.0 if policy == "patience" else 0.55,) * (len(network.stages) - 1)


QUICK = ("-O1",)
"""For cases beside the sanitized ones, whose compilation takes seconds."""


def same_bits(
    network: QuantizedNetwork,
    folder: Path,
    *,
    policy: str = "max_softmax",
    count: int = 40,
    flags: tuple[str, ...] = SANITIZED,
) -> np.ndarray:
    plan, thresholds = make_plan(network), thresholds_for(network, policy)
    write_c(folder, plan, policy, thresholds)
    program = build_host(folder, len(plan.stages), flags)
    x = quantize(inputs_for(network, count), network.input)
    ran, wanted = run_host(program, plan, x), evaluate(plan, x)
    exits, labels = walk(make_rules(plan, policy, thresholds), wanted.scores)
    np.testing.assert_array_equal(ran.exits, exits)
    np.testing.assert_array_equal(ran.labels, labels)
    np.testing.assert_array_equal(ran.scores, wanted.scores[exits, np.arange(count)])
    return exits


@needs_gcc
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_on_mixed_bits(policy: str, tmp_path: Path) -> None:
    network = resnet8(shape=(3, 12, 12), bits=(8, 4, 2), temperatures=(2.0, 1.0, 0.5))
    exits = same_bits(network, tmp_path, policy=policy, flags=SANITIZED if policy == "max_softmax" else QUICK)
    assert len(set(exits.tolist())) > 1


@needs_gcc
@pytest.mark.parametrize("seed", range(8))
def test_anything_the_contract_allows(seed: int, tmp_path: Path) -> None:
    same_bits(random_network(seed), tmp_path, flags=SANITIZED if seed < 2 else QUICK)


@needs_gcc
def test_depthwise_network_and_analog_blocks(tmp_path: Path) -> None:
    same_bits(dscnn(), tmp_path / "dscnn")
    same_bits(resnet8(shape=(3, 8, 8), bits=(2, 2, 2), analog=(288, 7, 6)), tmp_path / "analog", flags=QUICK)


@needs_gcc
@pytest.mark.parametrize("kind", ["depthwise", "grouped", "conv", "pool", "add"])
def test_whatever_makes_the_logits(kind: str, tmp_path: Path) -> None:
    """Weights of a depthwise convolution at the end were packed for a kernel that did not read them."""
    maker = Maker(3, (3, 5, 4))
    x = maker.conv("input", 6, 3)
    backbone = maker.take()
    if kind == "pool":
        logits = maker.pool(x, (5, 4), average=True)
    elif kind == "add":
        flat = maker.flatten(maker.pool(x, (5, 4), average=True))
        logits = maker.add(maker.dense(flat, 6, logits=False), maker.dense(flat, 6, logits=False))
    else:
        groups = {"depthwise": 6, "grouped": 3, "conv": 1}[kind]
        logits = maker.conv(x, 6, (5, 4), groups=groups, padding=(0, 0, 0, 0), logits=True, activation=Activation.NONE)
    branch = maker.take()
    branch = (*branch[:-1], replace(branch[-1], output=None, activation=Activation.NONE))
    stage = QuantizedStage(mounting_point=0, backbone=backbone, branch=branch, carried=x, logits=logits)
    network = QuantizedNetwork(name=kind, input_shape=(3, 5, 4), input=maker.input, classes=6, stages=(stage,))
    same_bits(network, tmp_path, flags=QUICK)


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed: apt-get install clang")
def test_another_compiler_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "clang")
    same_bits(dscnn(), tmp_path / "dscnn", policy="entropy", flags=("-O3",))
    same_bits(resnet8(shape=(3, 8, 8), bits=(2, 4, 2), analog=(288, 7, 6)), tmp_path / "analog", flags=QUICK)


@needs_gcc
def test_every_shift_rounds_ties_to_even(tmp_path: Path) -> None:
    """`offramp_round` against Python's own integers, at ties, next to them and at the ends of its range."""
    rng, cases = np.random.default_rng(0), []
    for shift in range(1, 62):
        halves = [(2 * k + 1) << (shift - 1) for k in (-3, -2, -1, 0, 1, 2)]
        near = [h + d for h in halves for d in (-1, 0, 1)]
        wide = [int(v) for v in rng.integers(-(2**62) + 1, 2**62, 20)]
        cases += [(v, shift) for v in (*near, *wide, 0, 2**62 - 1, -(2**62) + 1) if abs(v) < 2**62]
    rows = ",\n".join(f"{{INT64_C({v}), {s}}}" for v, s in cases)
    files = {"kernels.h": Path(kernels.__file__).with_name("kernels.h").read_text()}
    files["main.c"] = (
        '#include <stdio.h>\n#include "kernels.h"\n'
        f"static const struct {{ int64_t product; int shift; }} cases[] = {{{rows}}};\n"
        "int main(void) {\n    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)\n"
        '        printf("%d\\n", (int)offramp_round(cases[i].product, cases[i].shift, -2147483647, 2147483647));\n}\n'
    )
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    subprocess.run(["gcc", *STRICT, *SANITIZED, "-o", "round", "main.c"], cwd=tmp_path, check=True)
    found = subprocess.run(["./round"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    exact = [round(Fraction(v, 1 << s)) for v, s in cases]
    assert [int(f) for f in found] == [max(-(2**31) + 1, min(2**31 - 1, e)) for e in exact]


@needs_gcc
def test_c_agrees_with_the_law_and_the_float_policy(tmp_path: Path) -> None:
    network = resnet8(shape=(3, 16, 16), widths=(8, 16, 16))
    plan, x = make_plan(network), quantize(inputs_for(network, 2000), network.input)
    write_c(tmp_path, plan, "max_softmax", (0.6, 0.6))
    ran = run_host(build_host(tmp_path, 3, QUICK), plan, x)
    law = evaluate(plan, x, arithmetic=Arithmetic.REAL).logits
    exits, labels = float_walk("max_softmax", list(law), (0.6, 0.6))
    assert (ran.labels == labels).mean() >= 0.999 and (ran.exits == exits).mean() >= 0.999


@needs_gcc
def test_times_have_a_column_per_part(tmp_path: Path) -> None:
    network = resnet8(shape=(3, 8, 8), widths=(4, 4, 4))
    plan, x = make_plan(network), quantize(inputs_for(network, 3), network.input)
    write_c(tmp_path, plan, "max_softmax", (2.0, 2.0))
    times = time_host(build_host(tmp_path, 3, QUICK), plan, x, 5)
    assert times.shape == (3, 5, 7) and (times > 0).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_memory_plan_never_overlaps_two_that_live_together(seed: int) -> None:
    plan = make_plan(random_network(seed))
    arena, tensors = plan_arena(plan), lives(plan)
    assert arena.floor <= arena.size <= sum(t.size + 3 for t in tensors)
    for a in tensors:
        assert arena.offsets[a.name] + a.size <= arena.size and arena.offsets[a.name] % 4 == 0
        for b in tensors:
            if a is not b and a.start <= b.end and b.start <= a.end:
                first, second = sorted((a, b), key=lambda t: arena.offsets[t.name])
                assert arena.offsets[first.name] + first.size <= arena.offsets[second.name]


def test_resnet8_needs_no_more_than_what_lives_at_once() -> None:
    arena = plan_arena(make_plan(resnet8()))
    gathered = 2 * 4 * 9 * 16  # of the second convolution, for four output positions
    assert arena.size == arena.floor == 3 * 16 * 32 * 32 + gathered


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_packing_takes_its_bits_and_keeps_every_weight(bits: int) -> None:
    rows = np.random.default_rng(0).integers(-(1 << (bits - 1)), 1 << (bits - 1), (5, 32)).astype(np.int8)
    packed = pack_rows(rows, bits)
    assert packed.shape == (5, 32 * bits // 8)
    fields = [(packed >> (bits * f)) & ((1 << bits) - 1) for f in range(8 // bits)]
    half = 1 << (bits - 1)
    back = (np.concatenate(fields, axis=1).astype(int) ^ half) - half
    np.testing.assert_array_equal(back, rows)


def test_weights_take_their_bits_in_flash() -> None:
    sizes = [generate_c(make_plan(resnet8(bits=(b, b, b))), "margin", (0.5, 0.5))[1].weight_bytes for b in (8, 4, 2)]
    assert sizes[0] > 1.7 * sizes[1] - 6000 and sizes[1] > 1.5 * sizes[2] - 6000


@given(d=st.integers(0, 30 << FRACTION))
def test_integer_powers(d: int) -> None:
    got = int(power_of_two(np.array([d]))[0])
    assert abs(got - 2.0 ** (POWER - d / 2**FRACTION)) <= 2 + 2.0 ** (POWER - d / 2**FRACTION) * 1e-6


@given(total=st.integers(1, 2**34))
def test_integer_logarithms(total: int) -> None:
    assert abs(int(log2_of(np.array([total]))[0]) / 2**FRACTION - np.log2(total)) < 1e-5


@given(seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.99))
@settings(max_examples=40, deadline=None)
def test_integer_decisions_differ_only_at_the_threshold(seed: int, threshold: float) -> None:
    plan = make_plan(resnet8(shape=(3, 4, 4), widths=(2, 2, 2)))
    logits = np.random.default_rng(seed).normal(0, 3, (200, 10))
    for policy in ("max_softmax", "margin", "entropy"):
        rule = make_rules(plan, policy, (threshold, threshold))[0]
        scores = np.rint(logits / plan.stages[0].score_unit).astype(np.int64)
        sure = confidence(policy, logits)
        clear = np.abs(sure - threshold) > 1e-5
        np.testing.assert_array_equal(is_sure(rule, scores)[clear], (sure >= threshold)[clear])


@given(
    seed=st.integers(0, 1000), spread=st.sampled_from([1.0, 1e-1, 1e-2, 1e-3]), classes=st.sampled_from([2, 12, 100])
)
@settings(max_examples=40, deadline=None)
def test_nearly_equal_confidences_are_told_apart_to_a_few_steps_of_the_threshold(
    seed: int, spread: float, classes: int
) -> None:
    """Untrained networks give such: at a threshold among them the integer rule and the float policy may part."""
    plan = make_plan(resnet8(shape=(3, 4, 4), widths=(2, 2, 2), classes=classes))
    scores = np.rint(np.random.default_rng(seed).normal(0, spread, (200, classes)) / plan.stages[0].score_unit)
    sure = confidence("entropy", scores * plan.stages[0].score_unit)
    threshold, step = float(np.median(sure)), 2.0**-FRACTION / np.log2(classes)
    rule, clear = make_rules(plan, "entropy", (threshold, threshold))[0], np.abs(sure - threshold) > 4 * step
    np.testing.assert_array_equal(is_sure(rule, scores.astype(np.int64))[clear], (sure >= threshold)[clear])


@pytest.mark.parametrize("policy", ["max_softmax", "margin"])
@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.05, 0.2, 1.0]), classes=st.sampled_from([2, 10, 1000]))
@settings(max_examples=40, deadline=None)
def test_confidences_near_one_are_told_apart(policy: str, seed: int, temperature: float, classes: int) -> None:
    """A sure network's confidences lie within 1e-7 of 1 and of each other; what is missing to 1 decides."""
    network = replace(
        resnet8(shape=(3, 4, 4), widths=(2, 2, 2), classes=classes), temperatures=(temperature,) * 3
    )  # fmt: skip
    plan = make_plan(network)
    unit = plan.stages[0].score_unit
    scores = np.rint(np.random.default_rng(seed).normal(0, temperature, (300, classes)) / unit).astype(np.int64)
    scores[:, 0] += round((16 + np.log(classes)) * temperature / unit)
    behind = np.exp((scores[:, 1:] - scores[:, :1]) * unit / temperature)
    others = behind.sum(axis=1)
    missing = others / (1 + others) if policy == "max_softmax" else (others + behind.max(axis=1)) / (1 + others)
    least = float(np.median(missing))
    rule = make_rules(plan, policy, (1 - least, 1 - least))[0]
    clear = np.abs(missing / least - 1) > 1e-5
    assert least < 1e-5 and clear.sum() > 250
    np.testing.assert_array_equal(is_sure(rule, scores)[clear], (missing <= least)[clear])


@pytest.mark.parametrize(("threshold", "leave"), [(-1.0, True), (0.0, True), (1.0000001, False), (3.0, False)])
def test_thresholds_outside_the_range_mean_always_and_never(threshold: float, leave: bool) -> None:
    scores = np.random.default_rng(0).integers(-(2**20), 2**20, (200, 10))
    scores[0] = 7
    plan = make_plan(resnet8(shape=(3, 4, 4), widths=(2, 2, 2)))
    for policy in ("max_softmax", "margin", "entropy"):
        assert (is_sure(make_rules(plan, policy, (threshold, threshold))[0], scores) == leave).all()


def test_code_is_integer_only_without_heap_and_says_its_memory() -> None:
    code, sizes = generate_c(make_plan(resnet8(shape=(3, 8, 8))), "entropy", (0.5, 0.5))
    text = "".join(code.values())
    for word in ("float", "double", "malloc", "free(", "<math.h>", "<stdlib.h>", "<stdio.h>"):
        assert word not in text.replace("floating", "")
    assert f"#define OFFRAMP_ARENA_BYTES {sizes.arena_bytes}\n" in code["offramp.h"]
    assert "_Static_assert(sizeof arena" in code["offramp.c"]


def test_what_c_cannot_take_is_said() -> None:
    network = resnet8(shape=(3, 4, 4), widths=(2, 2, 2), classes=1100)
    with pytest.raises(UserError, match="1100 classes"):
        generate_c(make_plan(network), "max_softmax", (0.5, 0.5))
    with pytest.raises(UserError, match="exit policy"):
        generate_c(make_plan(dscnn()), "coin", (0.5, 0.5))


@needs_gcc
def test_kernels_are_vectorized_at_o2(tmp_path: Path) -> None:
    """What people compile with; gcc 12 took seven to ten times as long as at -O3. Processor times, in turn."""
    network = resnet8(shape=(3, 16, 16))
    plan, x = make_plan(network), quantize(inputs_for(network, 4), network.input)
    programs = []
    for flags in ("-O2", "-O3"):
        write_c(tmp_path / flags, plan, "max_softmax", thresholds_for(network, "max_softmax"))
        programs.append(build_host(tmp_path / flags, len(plan.stages), (flags,)))
    times = [[float(np.median(time_host(p, plan, x, 5)[:, :, -1])) for p in programs] for _ in range(3)]
    usual, fast = np.min(times, axis=0)
    assert usual < 2 * fast


@pytest.mark.parametrize(
    ("network", "bits", "analog"),
    [
        (resnet8(shape=(3, 8, 8)), 8, 0),
        (resnet8(shape=(3, 8, 8), bits=(8, 4, 2)), 14, 0),
        (resnet8(shape=(3, 8, 8), bits=(2, 2, 2), analog=(288, 7, 6)), 10, 1),
    ],
)
def test_code_that_no_layer_needs_is_left_out(network: QuantizedNetwork, bits: int, analog: int) -> None:
    code = generate_c(make_plan(network), "max_softmax", (0.5, 0.5))[0]["offramp.c"]
    assert f"#define OFFRAMP_BITS {bits}\n#define OFFRAMP_ANALOG {analog}\n" in code
    assert code.index("OFFRAMP_ANALOG") < code.index("offramp_kernels.h")
