"""The whole network as one ONNX file with nested `If` nodes, for runtimes that have control flow; one sample at a time.

Inside: stage 0, its exit's decision, `If(leave) then this exit's answer else (stage 1, its decision, If(...))`. Only
the branch that is taken runs. Decisions follow `offramp.exits.policy` in float32 with the thresholds and temperatures
written into the file. Weights are stored so that no x86 kernel can saturate (`exact_weights` of `deploy.onnx`), since
other runtimes do not know of our session option.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

from offramp.deploy.onnx import GraphWriter, logits_name, make_model, write_input, write_step
from offramp.deploy.plan import Plan
from offramp.exits.policy import check_policy

MARK = "offramp: the whole network, exits inside"
"""Documentation string of every such file; a stage of a bundle has none."""
LOGITS, LABEL, EXIT = "logits", "label", "exit"


def single_model(plan: Plan, policy: str, thresholds: tuple[float, ...]) -> onnx.ModelProto:
    """One file: float32 [1, C, H, W] in; logits [1, classes], label [1] and exit [1] of the exit taken out.

    Args:
        plan: the network in integers.
        policy: an exit policy by name.
        thresholds: one per early exit.
    """
    writer = GraphWriter(exact_weights=True)
    source = write_input(writer, plan)
    _write_stage(writer, plan, 0, check_policy(policy), thresholds, "")
    entry = helper.make_tensor_value_info(source, TensorProto.FLOAT, [1, *plan.input.shape])
    model = make_model(plan.network.name, writer, [entry], _outputs(plan, ""))
    model.doc_string = MARK
    return model


def _outputs(plan: Plan, suffix: str) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(f"{LOGITS}{suffix}", TensorProto.FLOAT, [1, plan.network.classes]),
        helper.make_tensor_value_info(f"{LABEL}{suffix}", TensorProto.INT64, [1]),
        helper.make_tensor_value_info(f"{EXIT}{suffix}", TensorProto.INT64, [1]),
    ]


def _write_stage(
    writer: GraphWriter, plan: Plan, index: int, policy: str, thresholds: tuple[float, ...], suffix: str
) -> None:
    """A stage and all that follows it; the three results get `suffix`, since names are unique in the file."""
    stage = plan.stages[index]
    for step in stage.steps:
        write_step(writer, step)
    logits = logits_name(stage)
    label = writer.op("ArgMax", [logits], f"exit{index}/label", axis=1, keepdims=0)
    if index == len(plan.stages) - 1:
        _answer(writer, index, logits, label, suffix)
        return
    leave = _decide(writer, plan, index, policy, thresholds[index], logits, label)
    then = GraphWriter()
    _answer(then, index, logits, label, f"{suffix}/then")
    inner = GraphWriter(exact_weights=True, flat=set(writer.flat))
    _write_stage(inner, plan, index + 1, policy, thresholds, f"{suffix}/else")
    branches = {
        "then_branch": _graph(then, f"exit{index}", _outputs(plan, f"{suffix}/then")),
        "else_branch": _graph(inner, f"stage{index + 1}", _outputs(plan, f"{suffix}/else")),
    }
    results = [f"{LOGITS}{suffix}", f"{LABEL}{suffix}", f"{EXIT}{suffix}"]
    writer.nodes.append(helper.make_node("If", [leave], results, name=f"exit{index}/if", **branches))


def _graph(writer: GraphWriter, name: str, outputs: list[onnx.ValueInfoProto]) -> onnx.GraphProto:
    return helper.make_graph(writer.nodes, name, [], outputs, writer.initializers())


def _answer(writer: GraphWriter, index: int, logits: str, label: str, suffix: str) -> None:
    writer.op("Identity", [logits], f"{LOGITS}{suffix}")
    writer.op("Identity", [label], f"{LABEL}{suffix}")
    number = writer.constant(f"{EXIT}{suffix}/number", np.array([index], np.int64))
    writer.op("Identity", [number], f"{EXIT}{suffix}")


def _decide(writer: GraphWriter, plan: Plan, index: int, policy: str, threshold: float, logits: str, label: str) -> str:
    """A boolean [1]: whether the sample leaves at this exit."""
    name = f"exit{index}"
    if policy == "patience":
        confidence = _streak(writer, index, label)
    else:
        confidence = _confidence(writer, plan, index, policy, logits)
    bound = writer.constant(f"{name}/threshold", np.array([threshold], np.float32))
    below = writer.op("Less", [confidence, bound], f"{name}/below")
    return writer.op("Not", [below], f"{name}/leave")


def _confidence(writer: GraphWriter, plan: Plan, index: int, policy: str, logits: str) -> str:
    """A confidence [1] from one exit's logits."""
    name = f"exit{index}"
    temperature = writer.constant(f"{name}/temperature", np.float32(plan.temperatures[index]))
    scaled = writer.op("Div", [logits, temperature], f"{name}/scaled")
    shares = writer.op("Softmax", [scaled], f"{name}/shares", axis=1)
    if policy == "max_softmax":
        return writer.op("ReduceMax", [shares], f"{name}/confidence", axes=[1], keepdims=0)
    axis = writer.constant(f"{name}/axis", np.array([1], np.int64))
    if policy == "entropy":
        logs = writer.op("LogSoftmax", [scaled], f"{name}/logs", axis=1)
        total = writer.op(
            "ReduceSum", [writer.op("Mul", [shares, logs], f"{name}/terms"), axis], f"{name}/sum", keepdims=0
        )
        most = writer.constant(f"{name}/most", np.float32(max(math.log(plan.network.classes), 1e-30)))
        one = writer.constant(f"{name}/one", np.float32(1))
        return writer.op("Add", [writer.op("Div", [total, most], f"{name}/share"), one], f"{name}/confidence")
    count = writer.constant(f"{name}/two", np.array([min(2, plan.network.classes)], np.int64))
    writer.nodes.append(helper.make_node("TopK", [shares, count], [f"{name}/best", f"{name}/which"], axis=1))
    signs = writer.constant(f"{name}/signs", np.array([[1.0, -1.0][: min(2, plan.network.classes)]], np.float32))
    terms = writer.op("Mul", [f"{name}/best", signs], f"{name}/terms")
    return writer.op("ReduceSum", [terms, axis], f"{name}/confidence", keepdims=0)


def _streak(writer: GraphWriter, index: int, label: str) -> str:
    """How many exits in a row, this one included, predict this label, [1]."""
    one = writer.constant(f"exit{index}/one", np.array([1], np.float32))
    if index == 0:
        return writer.op("Identity", [one], "exit0/streak")
    same = writer.op("Equal", [label, f"exit{index - 1}/label"], f"exit{index}/same")
    longer = writer.op("Add", [f"exit{index - 1}/streak", one], f"exit{index}/longer")
    return writer.op("Where", [same, longer, one], f"exit{index}/streak")
