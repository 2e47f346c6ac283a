"""The reference cost model: ZigZag itself behind the same contract, layer by layer, cached on disk.

`zigzag-dse` is an optional extra and is imported only here and only when asked for. It is given the same core, layer
and bits, searches temporal mappings with LOMA (six loop factors, uneven) for its three best spatial mappings and
keeps the one of least latency. What is on chip in a variant is taken out of the off-chip memory, as ZigZag's own
data-locality stage does.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from offramp.cost.layer_form import Form, form_of
from offramp.cost.model import VARIANTS, Array, CoreCosts, LayerCosts, infeasible, join
from offramp.cost.variants import core_of_variant
from offramp.errors import AccelerationError
from offramp.ir.accelerator import Accelerator, Core, Memory, Operand, PricingModel
from offramp.ir.workload import Layer

MEMORY_OPERAND = {Operand.I: "I1", Operand.W: "I2", Operand.O: "O"}
"""Our operands under ZigZag's default links."""

LOOP_FACTORS, SPATIAL_MAPPINGS = 6, 3
"""ZigZag's own defaults (zigzag.api): loop factors that LOMA permutes, spatial mappings that it tries."""


@dataclass(frozen=True, slots=True)
class ZigZagCostModel:
    """Prices layers with ZigZag; seconds per layer the first time, then from the cache.

    Attributes:
        cache: folder of results by content hash; None for no cache.
        variants: which variants to price; the others are infinite.
    """

    cache: Path | None = field(default_factory=lambda: default_cache())
    variants: tuple[int, ...] = tuple(range(VARIANTS))

    def layer_costs(self, layers: Sequence[Layer], accelerator: Accelerator) -> LayerCosts:
        """Price every layer on every core of the hierarchy model.

        Raises:
            AccelerationError: zigzag-dse is not installed, or a core has no memory hierarchy.
        """
        for core in accelerator.cores:
            if core.model is not PricingModel.HIERARCHY:
                raise AccelerationError(
                    f"core {core.name} is priced by {core.model}",
                    wanted="cores with an array and memories for the zigzag backend",
                    where=f"accelerator {accelerator.name}",
                    write="--backend fast",
                )
        return join([self._core_costs(layers, core, accelerator) for core in accelerator.cores])

    def _core_costs(self, layers: Sequence[Layer], core: Core, chip: Accelerator) -> CoreCosts:
        costs = infeasible(len(layers))
        for variant in self.variants:
            priced = core_of_variant(core, chip, variant)
            for i, layer in enumerate(layers):
                if core.supports(layer):
                    self._fill(costs, variant, i, self._result(layer, priced))
        return costs

    def _fill(self, costs: CoreCosts, variant: int, index: int, result: dict[str, Any]) -> None:
        if not result:
            return
        costs.cycles[variant, index] = result["cycles"]
        costs.energy_pj[variant, index] = result["energy_pj"]
        costs.utilization[variant, index] = result["utilization"]
        for name, value in result["parts"].items():
            zero: Array = np.zeros_like(costs.cycles)
            costs.parts.setdefault(name, zero)[variant, index] = value

    def _result(self, layer: Layer, core: Core) -> dict[str, Any]:
        if self.cache is None:
            return run_zigzag(layer, core)
        path = self.cache / f"{_key(layer, core)}.json"
        if path.is_file():
            try:
                return dict(json.loads(path.read_text()))
            except ValueError:
                path.unlink()  # a torn write: price again
        result = run_zigzag(layer, core)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(result))
        temporary.replace(path)
        return result


def default_cache() -> Path:
    """The user's cache folder for reference results."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offramp" / "zigzag"


def zigzag_version() -> str:
    """The installed version of zigzag-dse.

    Raises:
        AccelerationError: it is not installed; says what to install.
    """
    try:
        return metadata.version("zigzag-dse")
    except metadata.PackageNotFoundError as error:
        raise AccelerationError(
            "the reference cost model zigzag-dse is not installed",
            wanted="the optional extra",
            where="--backend zigzag",
            write="pip install 'offramp[zigzag]'",
        ) from error


def _key(layer: Layer, core: Core) -> str:
    text = [zigzag_version(), repr(form_of(layer)), repr(replace(core, name="")), LOOP_FACTORS, SPATIAL_MAPPINGS]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:32]


def run_zigzag(layer: Layer, core: Core) -> dict[str, Any]:
    """Price one layer on one core (its memories as they are) with ZigZag.

    Returns:
        cycles, energy_pj, utilization and energy parts; empty when ZigZag finds no mapping.

    Raises:
        AccelerationError: zigzag-dse is not installed.
    """
    zigzag_version()
    from zigzag.mapping.temporal_mapping import TemporalMappingType
    from zigzag.opt.loma.engine import NoValidLoopOrderingFoundException
    from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
    from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
    from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
    from zigzag.stages.results.reduce_stages import MinimalLatencyStage

    logging.getLogger("zigzag").setLevel(logging.ERROR)
    form = form_of(layer)
    stages = [MinimalLatencyStage, SpatialMappingGeneratorStage, MinimalLatencyStage]
    stages += [TemporalMappingGeneratorStage, CostModelStage]
    run = stages[0](
        stages[1:],
        accelerator=_accelerator(repr(core), core),
        layer=_layer_node(form, core),
        loma_lpf_limit=LOOP_FACTORS,
        loma_show_progress_bar=False,
        nb_mappings_generated=SPATIAL_MAPPINGS,
        enable_mix_spatial_mapping_generation=core.in_memory is not None,
        access_same_data_considered_as_no_access=True,
        temporal_mapping_type=TemporalMappingType.UNEVEN,
    )
    try:
        evaluation = next(iter(run.run()))[0]
    except NoValidLoopOrderingFoundException:
        return {}
    return _summary(evaluation, core)


def _summary(evaluation: Any, core: Core) -> dict[str, Any]:
    parts = {"mac": float(evaluation.mac_energy)}
    for operand, levels in evaluation.mem_energy_breakdown.items():
        held = [m for m in core.memories if Operand(str(operand)) in m.operands]
        for memory, energy in zip(held, levels, strict=True):
            parts[memory.name] = parts.get(memory.name, 0.0) + float(energy)
    return {
        "cycles": float(evaluation.latency_total2),
        "energy_pj": float(evaluation.energy_total),
        "utilization": float(evaluation.mac_utilization2),
        "parts": parts,
        "onload": float(evaluation.data_onloading_cycle),
        "offload": float(evaluation.data_offloading_cycle),
        "stall": float(evaluation.stall_slack_comb),
        "spatial": str(evaluation.spatial_mapping_int),
        "temporal": str(evaluation.temporal_mapping),
    }


@lru_cache(maxsize=64)
def _accelerator(_: str, core: Core) -> Any:
    from zigzag.parser.accelerator_factory import AcceleratorFactory
    from zigzag.parser.accelerator_validator import AcceleratorValidator

    validator = AcceleratorValidator(core_as_zigzag(core))
    if not validator.validate():
        raise AccelerationError(
            f"core {core.name} does not fit ZigZag's rules: {validator.validator.errors}",
            wanted="memory and port names, dimensions D1, D2, ... as ZigZag spells them",
            where="--backend zigzag",
        )
    return AcceleratorFactory(validator.normalized_data).create()


def core_as_zigzag(core: Core) -> dict[str, Any]:
    """A core in the words of ZigZag's accelerator files."""
    assert core.array is not None
    array: dict[str, Any] = {
        "dimensions": [name for name, _ in core.array.dimensions],
        "sizes": [size for _, size in core.array.dimensions],
        "systolic_dimensions": list(core.array.systolic),
        "unit_energy": core.array.mac_pj,
        "unit_area": 1.0,
    }
    if core.in_memory is not None:
        spec = core.in_memory
        array |= {
            "is_imc": True,
            "imc_type": "analog" if spec.analog else "digital",
            "input_precision": [spec.activation_bits, spec.weight_bits],
            "bit_serial_precision": spec.bits_per_pass,
            "adc_resolution": spec.adc_bits,
        }
    return {
        "name": core.name or "core",
        "operational_array": array,
        "memories": {m.name: _memory_as_zigzag(m) for m in core.memories},
    }


def _memory_as_zigzag(memory: Memory) -> dict[str, Any]:
    return {
        "size": memory.size_bits,
        "r_cost": memory.read_pj,
        "w_cost": memory.write_pj,
        "area": 0.0,
        "latency": 1,
        "operands": [MEMORY_OPERAND[o] for o in memory.operands],
        "served_dimensions": list(memory.dimensions),
        "force_double_buffering": memory.double_buffered,
        "ports": [
            {
                "name": port.name,
                "type": "read_write" if port.name.startswith("rw") else "read" if port.name[0] == "r" else "write",
                "bandwidth_min": port.granularity_bits,
                "bandwidth_max": port.bits_per_cycle,
                "allocation": [f"{MEMORY_OPERAND[o]}, {move}" for o, move in port.serves],
            }
            for port in memory.ports
        ],
    }


def _layer_node(form: Form, core: Core) -> Any:
    from zigzag.parser.workload_factory import LayerNodeFactory

    constant = {"W": 0, "I": -1} if form.constant_weights else {"W": -2, "I": -1}
    data = {
        "id": 0,
        "name": "layer",
        "operator_type": form.operator,
        "equation": form.equation,
        "loop_dims": [name for name, _ in form.loops],
        "loop_sizes": [size for _, size in form.loops],
        "dimension_relations": list(form.relations),
        "operand_precision": {"W": form.weight_bits, "I": form.input_bits}
        | {"O": form.partial_bits, "O_final": form.output_bits},
        "operand_source": constant,
        "pr_loop_dims": ["IX", "IY"] if form.relations else None,
        "pr_loop_sizes": [form.IX, form.IY] if form.relations else None,
        "padding": None,
    }
    names = {name for name, _ in form.loops}
    mapping: dict[str, Any] = {"name": "default", "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}
    assert core.array is not None
    fixed = {d: [f"{n}, {f}" for n, f in loops if n in names] for d, loops in core.array.dataflow}
    mapping["spatial_mapping"] = {d: loops for d, loops in fixed.items() if loops} or None
    if core.in_memory is not None:
        mapping["spatial_mapping_hint"] = {d: list(loops) for d, loops in form.in_memory_hints(core.array)}
    return LayerNodeFactory(data, [mapping]).create()


def core_description(core: Core) -> str:
    """A core as one line of JSON (what the cache key and the goldens call the same core)."""
    return json.dumps(asdict(replace(core, name="")), sort_keys=True, default=str)
