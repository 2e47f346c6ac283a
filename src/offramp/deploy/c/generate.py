"""Writes a network as C11: constants, one function per stage and exit branch, and the loop that leaves at an exit.

The output is `offramp.h`, `offramp.c` and the two kernel headers beside this file, copied. Nothing is allocated: one
static arena, its size asserted, holds activations and, while a layer runs, the inputs that it gathers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.deploy.c.arena import Arena, plan_arena, scratch_of
from offramp.deploy.c.decide import Rule, make_rules
from offramp.deploy.c.packing import block_of, is_depthwise, pack_weights, patch_elements, storage_bits
from offramp.deploy.plan import FixedPoint, Plan, Step, Tensor
from offramp.errors import UserError
from offramp.exits.policy import check_policy
from offramp.ir.quantized import NodeOp

FILES = {
    "offramp.h": "written by Offramp",
    "offramp.c": "#define OFFRAMP_BITS ",
    "offramp_kernels.h": "#define OFFRAMP_KERNELS_H",
    "offramp_exits.h": "#define OFFRAMP_EXITS_H",
}
"""The files of the C code, and what each has near its beginning."""
MOST_ELEMENTS = 65535
"""Sizes are 16 bits in the C."""


@dataclass(frozen=True, slots=True)
class CodeSizes:
    """Bytes: the arena, the most of it that one layer gathers into, and packed weights with their tables."""

    arena_bytes: int
    scratch_bytes: int
    weight_bytes: int


@dataclass(slots=True)
class _Writer:
    """Lines of constants and of functions, growing."""

    arena: Arena
    input_name: str
    constants: list[str]
    weight_bytes: int = 0
    count: int = 0

    def array(self, kind: str, name: str, values: Iterable[int]) -> str:
        """A constant array; returns its name."""
        numbers = [int(v) for v in values]
        bits = re.search(r"\d+", kind)
        self.weight_bytes += len(numbers) * int(bits[0] if bits else 8) // 8
        literals = [_literal(v, kind) for v in numbers]
        rows = [", ".join(literals[i : i + 20]) for i in range(0, len(literals), 20)]
        self.constants.append(f"static const {kind} {name}[{len(numbers)}] = {{\n    " + ",\n    ".join(rows) + "};")
        return name

    def place(self, tensor: Tensor) -> str:
        """Where a tensor lies."""
        return "input" if tensor.name == self.input_name else f"BYTES({self.arena.offsets[tensor.name]})"

    def scratch(self, step: Step) -> str:
        """Where a step gathers its input."""
        return f"arena + {self.arena.offsets[scratch_of(step)] // 2}"


def _literal(value: int, kind: str) -> str:
    return f"INT64_C({value})" if kind == "int64_t" else str(value)


def generate_c(plan: Plan, policy: str, thresholds: tuple[float, ...]) -> tuple[dict[str, str], CodeSizes]:
    """The files of the C code by name, and what they need.

    Args:
        plan: the network in integers.
        policy: an exit policy by name.
        thresholds: one per early exit.

    Raises:
        UserError: a shape that the C kernels do not offer.
    """
    rules, arena = make_rules(plan, check_policy(policy), thresholds), plan_arena(plan)
    writer = _Writer(arena, plan.input.name, [])
    bodies = [_stage(writer, plan, index) for index in range(len(plan.stages))]
    scratch = max((patch_elements(step) for stage in plan.stages for step in stage.steps), default=0)
    sizes = CodeSizes(arena.size, 2 * scratch, writer.weight_bytes)
    source = "\n".join(
        [
            f'#include "offramp.h"\n\n{_features(plan)}#include "offramp_exits.h"\n#include "offramp_kernels.h"\n',
            f"static _Alignas(8) int16_t arena[{max(arena.size // 2, 1)}];",
            "#define BYTES(offset) ((uint8_t *)arena + (offset))",
            "static int32_t scores[OFFRAMP_CLASSES];",
            "static const uint8_t *input;\n",
            '_Static_assert(sizeof arena <= OFFRAMP_ARENA_BYTES || OFFRAMP_ARENA_BYTES == 0, "arena");\n',
            *writer.constants,
            *bodies,
            _predict(plan, rules),
        ]
    )
    kernels = {f"offramp_{n}": files("offramp.deploy.c").joinpath(n).read_text() for n in ("kernels.h", "exits.h")}
    return {"offramp.h": _header(plan, sizes), "offramp.c": source + "\n", **kernels}, sizes


def _features(plan: Plan) -> str:
    """What the kernels may leave out (`kernels.h`)."""
    steps = [step for stage in plan.stages for step in stage.steps]
    bits = {storage_bits(step.node.weight_bits) for step in steps if step.node.weight is not None}
    analog = any(step.analog is not None for step in steps)
    return f"#define OFFRAMP_BITS {sum(bits)}\n#define OFFRAMP_ANALOG {int(analog)}\n"


def _header(plan: Plan, sizes: CodeSizes) -> str:
    channels, rows, columns = plan.input.shape
    quantizer = plan.input.quantizer
    assert quantizer is not None
    kind = "int8" if quantizer.signed else "uint8, its bits passed as int8"
    stages = "\n".join(
        f"void offramp_stage_{i}({'const int8_t *in' if i == 0 else 'void'});\nvoid offramp_branch_{i}(void);"
        for i in range(len(plan.stages))
    )
    return f"""/* {_comment(plan.network.name)}: an early-exit network in integers, written by Offramp.
 *
 * Input: {rows} x {columns} x {channels}, channels last, {kind} of {quantizer.bits} bits.
 * The integer is the real value divided by {quantizer.scale!r}, rounded.
 * Not reentrant: activations lie in one static arena.
 */
#ifndef OFFRAMP_H
#define OFFRAMP_H

#include <stdint.h>

#define OFFRAMP_HEIGHT {rows}
#define OFFRAMP_WIDTH {columns}
#define OFFRAMP_CHANNELS {channels}
#define OFFRAMP_INPUT_BYTES {plan.input.size}
#define OFFRAMP_CLASSES {plan.network.classes}
#define OFFRAMP_EXITS {len(plan.stages)}
#define OFFRAMP_ARENA_BYTES {sizes.arena_bytes}

/* Class, exit taken (from 0) and the scores of that exit: logits in units of their own per exit. */
typedef struct {{
    int32_t label;
    int32_t exit;
    int32_t scores[OFFRAMP_CLASSES];
}} offramp_result;

/* 0, or -1 when a pointer is null. */
int offramp_predict(const int8_t *in, offramp_result *out);

/* The parts that offramp_predict calls in order; each works on what the one before left. */
{stages}

#endif
"""


def _comment(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_. -]", "_", text)[:100]


def _stage(writer: _Writer, plan: Plan, index: int) -> str:
    stage = plan.stages[index]
    backbone = [_step(writer, step) for step in stage.backbone]
    branch = [_step(writer, step) for step in stage.branch]
    first = ["input = (const uint8_t *)in;"] if index == 0 else []
    argument = "const int8_t *in" if index == 0 else "void"
    return (
        f"\nvoid offramp_stage_{index}({argument}) {{\n"
        + "".join(f"    {line}\n" for line in first + backbone)
        + f"}}\n\nvoid offramp_branch_{index}(void) {{\n"
        + "".join(f"    {line}\n" for line in branch)
        + "}"
    )


def _step(writer: _Writer, step: Step) -> str:
    """The constants of a step; returns its call."""
    name = f"layer_{writer.count}"
    writer.count += 1
    sizes = (*step.target.shape, *step.sources[0].shape, step.sources[0].size if step.node.op is NodeOp.DENSE else 1)
    if max(sizes) > MOST_ELEMENTS:
        raise UserError(f"a size of {max(sizes)}", wanted=f"at most {MOST_ELEMENTS}", where=f"layer {step.node.name}")
    if step.is_logits and step.target.shape[1] * step.target.shape[2] > 1:
        raise UserError("logits with rows and columns", wanted="1 x 1", where=f"layer {step.node.name}")
    writer.constants.append(f"\n/* {_comment(step.node.name)}: {step.node.op} */")
    out = "NULL, scores" if step.is_logits else f"{writer.place(step.target)}, NULL"
    source = writer.place(step.sources[0])
    if step.node.op is NodeOp.ADD:
        _add(writer, name, step)
        return f"offramp_add(&{name}, {source}, {writer.place(step.sources[1])}, {out});"
    if step.node.op in (NodeOp.MAX_POOL, NodeOp.AVG_POOL):
        _window(writer, name, step, None)
        return f"offramp_pool(&{name}, {int(step.node.op is NodeOp.AVG_POOL)}, {source}, {out});"
    weights = pack_weights(step)
    packed = writer.array("uint8_t", f"{name}_weights", weights)
    if is_depthwise(step):
        _window(writer, name, step, packed)
        return f"offramp_depthwise(&{name}, {source}, {writer.place(step.target)}, {writer.scratch(step)});"
    _conv(writer, name, step, packed)
    kernel = "dense" if step.node.op is NodeOp.DENSE else "conv"
    return f"offramp_{kernel}(&{name}, {source}, {out}, {writer.scratch(step)});"


def _scale(writer: _Writer, name: str, step: Step) -> str:
    if not step.rescale:
        return "{NULL, NULL, NULL, 0, 0}"
    fixed: FixedPoint = step.rescale[0]
    multiplier = writer.array("int32_t", f"{name}_multiplier", fixed.multiplier)
    shift = writer.array("uint8_t", f"{name}_shift", fixed.shift)
    offset = writer.array("int64_t", f"{name}_offset", fixed.offset) if fixed.offset.any() else "NULL"
    return f"{{{multiplier}, {shift}, {offset}, {step.low}, {step.high}}}"


def _struct(writer: _Writer, kind: str, name: str, fields: dict[str, Any]) -> None:
    body = ", ".join(f".{key} = {value}" for key, value in fields.items())
    writer.constants.append(f"static const {kind} {name} = {{{body}}};")


def _signed(tensor: Tensor) -> int:
    assert tensor.quantizer is not None
    return int(tensor.quantizer.signed)


def _bias(writer: _Writer, name: str, bias: NDArray[np.int64] | None) -> str:
    return "NULL" if bias is None else writer.array("int32_t", f"{name}_bias", bias)


def _conv(writer: _Writer, name: str, step: Step, weights: str) -> None:
    node, (channels, rows, columns) = step.node, step.sources[0].shape
    if node.op is NodeOp.DENSE:
        channels, rows, columns = step.sources[0].size, 1, 1
    _struct(
        writer,
        "offramp_conv_layer",
        name,
        {
            "in_h": rows, "in_w": columns, "in_c": channels,
            "out_h": step.target.shape[1], "out_w": step.target.shape[2], "out_c": step.target.shape[0],
            "k_h": node.kernel[0], "k_w": node.kernel[1], "stride_h": node.stride[0], "stride_w": node.stride[1],
            "pad_top": node.padding[0], "pad_left": node.padding[2], "groups": node.groups, "block": block_of(step),
            "in_signed": _signed(step.sources[0]), "weight_bits": storage_bits(node.weight_bits), "weights": weights,
            "bias": _bias(writer, name, step.bias), "array": _array(writer, name, step),
            "scale": _scale(writer, name, step),
        },
    )  # fmt: skip


def _array(writer: _Writer, name: str, step: Step) -> str:
    analog = step.analog
    if analog is None:
        return "NULL"
    fields = {"dac_multiplier": 0, "dac_shift": 1, "dac_low": analog.dac_range[0], "dac_high": analog.dac_range[1]}
    if analog.dac is not None:
        fields |= {"dac_multiplier": int(analog.dac.multiplier[0]), "dac_shift": int(analog.dac.shift[0])}
    fields |= {"adc_multiplier": int(analog.adc.multiplier[0]), "adc_shift": int(analog.adc.shift[0])}
    fields |= {"adc_low": analog.adc_range[0], "adc_high": analog.adc_range[1]}
    _struct(writer, "offramp_array", f"{name}_array", fields)
    return f"&{name}_array"


def _window(writer: _Writer, name: str, step: Step, weights: str | None) -> None:
    node, (channels, rows, columns) = step.node, step.sources[0].shape
    fields: dict[str, Any] = {
        "in_h": rows, "in_w": columns, "channels": channels, "out_h": step.target.shape[1],
        "out_w": step.target.shape[2], "k_h": node.kernel[0], "k_w": node.kernel[1], "stride_h": node.stride[0],
        "stride_w": node.stride[1], "pad_top": node.padding[0], "pad_left": node.padding[2],
        "in_signed": _signed(step.sources[0]), "weight_bits": storage_bits(node.weight_bits),
        "weights": weights or "NULL", "bias": _bias(writer, name, step.bias), "scale": _scale(writer, name, step),
    }  # fmt: skip
    _struct(writer, "offramp_window_layer", name, fields)


def _add(writer: _Writer, name: str, step: Step) -> None:
    a, b = step.rescale
    fields = {
        "size": step.target.size, "a_signed": _signed(step.sources[0]), "b_signed": _signed(step.sources[1]),
        "a_multiplier": int(a.multiplier[0]), "b_multiplier": int(b.multiplier[0]), "shift": int(a.shift[0]),
        "low": step.low, "high": step.high,
    }  # fmt: skip
    _struct(writer, "offramp_add_layer", name, fields)


def _predict(plan: Plan, rules: tuple[Rule, ...]) -> str:
    calls = [
        f"    offramp_stage_{i}({'in' if i == 0 else ''});\n    offramp_branch_{i}();" for i in range(len(plan.stages))
    ]
    for index, rule in enumerate(rules):
        calls[index] += f"\n    {_decision(rule)}\n    out->exit = {index + 1};"
    patient = any(rule.policy == "patience" for rule in rules)
    lines = [
        "\nint offramp_predict(const int8_t *in, offramp_result *out) {",
        *(["    int32_t streak = 0, before = -1;"] if patient else []),
        "    if (!in || !out) return -1;",
        "    out->exit = 0;",
        *calls,
        *(["done:"] if rules else []),
        "    memcpy(out->scores, scores, sizeof scores);",
        "    out->label = offramp_best(scores, OFFRAMP_CLASSES);",
        "    return 0;",
        "}",
    ]
    return "\n".join(lines)


def _decision(rule: Rule) -> str:
    """One exit's test; patience also remembers what was predicted."""
    if rule.policy == "patience":
        now = "offramp_best(scores, OFFRAMP_CLASSES)"
        count = f"streak = {now} == before ? streak + 1 : 1;"
        return f"{count}\n    before = {now};\n    if (streak >= {rule.threshold}) goto done;"
    arguments = f"scores, OFFRAMP_CLASSES, {rule.score_shift}, INT64_C({rule.threshold})"
    return f"if (offramp_{rule.policy}({arguments})) goto done;"


def write_c(folder: str | Path, plan: Plan, policy: str, thresholds: tuple[float, ...]) -> CodeSizes:
    """Write the C files into a folder (made when missing); returns what they need."""
    code, sizes = generate_c(plan, policy, thresholds)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in code.items():
        (target / name).write_text(text)
    return sizes
