"""Regenerates tests/golden/zigzag/*.json: what ZigZag says of the layers of `layer_zoo` on the cores beside them.

Needs the extra: pip install 'offramp[zigzag]'. About five CPU-seconds per layer; results are reviewed and committed.
    python benchmarks/zigzag_goldens.py tpu-like 8
"""

import datetime
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from layer_zoo import NETWORKS, held_out, unique_layers, with_bits  # noqa: E402
from offramp.cost.variants import core_of_variant  # noqa: E402
from offramp.cost.zigzag import run_zigzag, zigzag_version  # noqa: E402
from offramp.formats.accelerator_yaml import load_accelerator  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "zigzag"
KEPT = ("cycles", "energy_pj", "utilization", "parts", "onload", "offload", "stall")


def main(chip: str, bits: int, layers_of: str = "networks", variant: int = 0) -> None:
    accelerator = load_accelerator(GOLDEN / f"{chip}.yaml")
    core = core_of_variant(accelerator.cores[0], accelerator, variant)
    zoo = unique_layers([x for make in NETWORKS.values() for x in make()]) if layers_of == "networks" else held_out()
    if core.in_memory is not None:
        zoo = [x for x in zoo if x.has_weights]
    rows = []
    for layer in with_bits(zoo, bits) if bits != 8 else zoo:
        start = time.process_time()
        result = run_zigzag(layer, core)
        rows.append({"layer": layer.name, "seconds": round(time.process_time() - start, 2)})
        rows[-1] |= {k: result[k] for k in KEPT} if result else {}
        print(chip, bits, rows[-1]["layer"], rows[-1]["seconds"], flush=True)
    suffix = "" if (layers_of, variant) == ("networks", 0) else f"-{layers_of}-{variant}"
    head = {
        "tool": f"zigzag-dse {zigzag_version()}",
        "command": f"python benchmarks/zigzag_goldens.py {chip} {bits} {layers_of} {variant}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "bits": bits,
        "variant": variant,
        "layers_of": layers_of,
    }
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    text = json.dumps(head, indent=1)[:-2] + ',\n "layers": [\n' + lines + "\n ]\n}\n"
    (GOLDEN / f"{chip}-{bits}bit{suffix}.json").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4], *(int(v) for v in sys.argv[4:5]))
