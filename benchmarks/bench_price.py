"""Layer prices against ZigZag and DIANA's published figures, and how fast; writes the tables of docs/validation.md.

    python benchmarks/bench_price.py [--zigzag N]

Ratios are against the recorded CPU-seconds of the goldens; with --zigzag N (and the extra offramp[zigzag]) ZigZag
prices N of the layers of every core in this very run, and a second row scales what is recorded by what these take now.
All times are CPU time of one process and thread.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from scipy.stats import kendalltau  # noqa: E402

from layer_zoo import NETWORKS, add, conv, held_out, pool, resnet, resnet18, unique_layers, with_bits  # noqa: E402
from offramp.cost import engine_spatial, layer_form  # noqa: E402
from offramp.cost.engine import FastCostModel  # noqa: E402
from offramp.formats.accelerator_yaml import load_accelerator  # noqa: E402
from offramp.ir.accelerator import Accelerator  # noqa: E402
from offramp.ir.workload import Layer, Op  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "zigzag"
PAGE = ROOT / "docs" / "validation.md"


def forget() -> None:
    """Nothing of earlier runs helps: layers are new to the engine."""
    engine_spatial._unrollings.cache_clear()
    layer_form.form_of.cache_clear()


def seconds(layers: list[Layer], chip: Accelerator, variants: tuple[int, ...], repeats: int = 3) -> float:
    best = np.inf
    for _ in range(repeats):
        forget()
        start = time.process_time()
        FastCostModel(variants=variants, remember=False).layer_costs(layers, chip)
        best = min(best, time.process_time() - start)
    return float(best)


def golden(path: Path) -> tuple[Accelerator, list[Layer], dict[str, object]]:
    data = json.loads(path.read_text())
    chip = load_accelerator(GOLDEN / f"{path.stem.split('bit')[0].rsplit('-', 1)[0]}.yaml")
    zoo = unique_layers([x for make in NETWORKS.values() for x in make()])
    zoo = zoo if data["layers_of"] == "networks" else held_out()
    zoo = [x for x in zoo if x.has_weights] if chip.cores[0].in_memory else zoo
    return chip, zoo if data["bits"] == 8 else with_bits(zoo, data["bits"]), data


def accuracy() -> str:
    lines = [
        "| core | bits | layers of | variant | n | latency MAPE | worst | energy MAPE | worst | tau cycles | tau pJ |",
        "|" + "---|" * 11,
    ]
    for path in sorted(GOLDEN.glob("*.json")):
        chip, zoo, data = golden(path)
        rows = [i for i, row in enumerate(data["layers"]) if "cycles" in row]
        v = data["variant"]
        costs = FastCostModel(variants=(v,)).layer_costs([zoo[i] for i in rows], chip)
        cells = []
        for ours, key in ((costs.cycles, "cycles"), (costs.energy_pj, "energy_pj")):
            wanted = np.array([data["layers"][i][key] for i in rows])
            error = np.abs(ours[v, :, 0] / wanted - 1)
            cells.append((error.mean(), error.max(), kendalltau(ours[v, :, 0], wanted).statistic))
        (a, b, c), (d, e, f) = cells
        lines.append(
            f"| {chip.name} | {data['bits']} | {data['layers_of']} | {v} | {len(rows)} | {a:.2%} | {b:.1%} "
            f"| {d:.2%} | {e:.1%} | {c:.3f} | {f:.3f} |"
        )
    tools = sorted({json.loads(p.read_text())["tool"] for p in GOLDEN.glob("*.json")})
    return "\n".join(
        [f"Reference: {', '.join(tools)} (goldens with command and date in tests/golden/zigzag).", "", *lines]
    )


def zigzag_now(chip: Accelerator, zoo: list[Layer], recorded: list[float], count: int) -> float:
    """What ZigZag takes now for some layers spread over all, over what was recorded for the same."""
    import zigzag.api  # noqa: F401 - not to be timed

    from offramp.cost.variants import core_of_variant
    from offramp.cost.zigzag import run_zigzag

    chosen = list(range(len(zoo)))[:: max(1, len(zoo) // count)][:count]
    core = core_of_variant(chip.cores[0], chip, 0)
    start = time.process_time()
    for i in chosen:
        run_zigzag(zoo[i], core)
    return (time.process_time() - start) / sum(recorded[i] for i in chosen)


def ratios(name: str, zoo: list[Layer], chip: Accelerator, reference: float, when: str) -> str:
    one, four = seconds(zoo, chip, (0,)), seconds(zoo, chip, (0, 1, 2, 3))
    cells = [name, len(zoo), f"{reference:.0f}", when, f"{one * 1e3:.1f}", f"{reference / one:,.0f}"]
    cells += [f"{four * 1e3:.1f}", f"{4 * reference / four:,.0f}"]
    return "| " + " | ".join(str(c) for c in cells) + " |"


def speed(sample: int) -> str:
    lines = [
        "| core | layers | ZigZag s, 1 variant | measured | ours ms, 1 variant | ratio | ours ms, 4 variants | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("tpu-like", "edge-tpu-like", "in-memory-analog"):
        chip, zoo, data = golden(GOLDEN / f"{name}-8bit.json")
        recorded = [row["seconds"] for row in data["layers"]]
        lines.append(ratios(name, zoo, chip, sum(recorded), f"golden, {data['date']}"))
        if sample:
            now = zigzag_now(chip, zoo, recorded, sample)
            lines.append(
                ratios(name, zoo, chip, sum(recorded) * now, f"golden x {now:.2f}, {sample} layers in this run")
            )
    return "\n".join([*lines, "", growth()])


def spread_seconds(layers: list[Layer], chip: Accelerator, count: int) -> float:
    """Time for `count` of some layers that repeat every ten: tens are drawn evenly, and the mean of ten draws taken."""
    tens = [layers[i : i + 10] for i in range(0, len(layers), 10)]
    draws = max(1, min(10, len(layers) // count))
    parts = [[x for ten in tens[i :: len(layers) // count] for x in ten] for i in range(draws)]
    return float(np.mean([seconds(part, chip, (0, 1, 2, 3), 1) for part in parts]))


def growth() -> str:
    """Time for ever more layers that all differ, of the same mix at every size, and for the most again.

    Layer i is the i-th of ten layers spread over a network, over and over, each time with another number of channels.
    """
    chip = load_accelerator(GOLDEN / "tpu-like.yaml")
    base = [x for x in unique_layers(NETWORKS["mobilenetv2"]()) if x.has_weights]
    mix = base[:: len(base) // 10][:10]
    many = [replace(x, K=x.K + i) for i in range(100) for x in mix]
    took = {n: spread_seconds(many, chip, n) * 1e3 for n in (10, 100, 1000)}
    grown = ", ".join(f"{n} layers {ms:.0f} ms ({ms / n:.2f} each)" for n, ms in took.items())
    known = FastCostModel()
    known.layer_costs(many, chip)
    start = time.process_time()
    known.layer_costs(many, chip)
    again = time.process_time() - start
    head = "Growth (tpu-like, four variants, layers all differ, the same mix at every size)"
    return f"{head}: {grown}; the same 1000 again: {again * 1e3:.0f} ms."


def analog(layer: Layer) -> Layer:
    return replace(layer, weight_bits=2, input_bits=7, adc_bits=6)


def segment() -> list[Layer]:
    """The first segment of ResNet-18 as Stream validates it: the stem and its pooling digital, the rest analog."""
    stem = [conv("conv1", "input", 3, 64, 112, f=7, s=2), pool("pool", "conv1", 64, 56, 2, Op.MAX_POOL)]
    convs = [analog(conv(f"conv{i}", "pool", 64, 64, 56)) for i in range(4)]
    return [
        *stem,
        *convs,
        analog(conv("one", "pool", 64, 64, 56, f=1)),
        *(add(f"add{i}", "a", "b", 64, 56) for i in range(2)),
    ]


def tops_per_watt(layers: list[Layer], chip: Accelerator, variant: int) -> float:
    costs = FastCostModel().layer_costs(layers, chip)
    energy = (
        np.where(np.isfinite(costs.energy_pj[variant]), costs.energy_pj[variant], costs.energy_pj[0]).min(axis=1).sum()
    )
    return 2 * sum(x.macs for x in layers) / float(energy)


def mixed(layers: list[Layer]) -> list[Layer]:
    """First layer, dense layers and 1x1 convolutions digital, the other convolutions analog."""
    return [analog(x) if x.op is Op.CONV and i and x.FX > 1 else x for i, x in enumerate(layers)]


def diana() -> str:
    lines = ["| figure | published | model | ours | error |", "|---|---|---|---|---|"]

    def row(figure: str, published: float, model: str, ours: float, unit: str) -> None:
        lines.append(
            f"| {figure} | {published:,g} {unit} | {model} | {ours:,.4g} {unit} | {ours / published - 1:+.1%} |"
        )

    for name in ("diana", "diana-hierarchy"):
        costs = FastCostModel().layer_costs(segment(), load_accelerator(name))
        row(
            "first segment of ResNet-18 on silicon",
            8.12e5,
            f"{name}, layer by layer",
            costs.cycles[0].min(axis=1).sum(),
            "cycles",
        )
    chip = load_accelerator("diana")
    array, digital, core = chip.core("analog").analog, chip.core("digital"), chip.core("analog")
    assert array is not None
    row("peak digital 8/8/8", 14, "diana", 2 * 256 * chip.clock_mhz / digital.active_mw / 1e3, "TOPS/W")
    row("peak analog 7/1.5/6", 600, "diana", 2 * array.rows * array.columns / (array.mvm_ns * core.active_mw), "TOPS/W")
    for name in ("diana", "diana-hierarchy"):
        chip = load_accelerator(name)
        row("CIFAR-10 network (ResNet-20)", 7.02, name, tops_per_watt(mixed(resnet(3)), chip, 3), "TOPS/W")
        row("ImageNet network (ResNet-18)", 5.56, name, tops_per_watt(mixed(resnet18()), chip, 0), "TOPS/W")
    return "\n".join(lines)


def write(section: str, text: str) -> None:
    """Replace the part of the page between this section's marks."""
    page = PAGE.read_text()
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    head, rest = page.split(begin)
    PAGE.write_text(head + begin + "\n" + text + "\n" + end + rest.split(end)[1])
    print(f"\n## {section}\n{text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--zigzag", type=int, default=0, help="layers per core to price with ZigZag in this run")
    sample = parser.parse_args().zigzag
    write("accuracy", accuracy())
    write("speed", speed(sample))
    write("diana", diana())


if __name__ == "__main__":
    main()
