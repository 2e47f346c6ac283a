"""What a mapped network costs: layers, stages, exits, and the expectation over exit rates, as frozen values.

`NetworkCost` holds the answer of `cost.mapper`. Every figure of an exit counts everything that ran until its decision:
the backbone up to it, every branch evaluated on the way and, where the backbone ran ahead of a decision (speculation),
the layers that had started. It knows neither how the mapping was found nor how a layer is priced.

The measure E*T follows the seed case (arXiv 2512.04705): sum over exits of rate * energy in joules * cycles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from offramp.errors import UserError
from offramp.ir.mapping import Mapping

PICOJOULES_PER_JOULE = 1e12
RATE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One layer on its core: cycles and picojoules, the energy split by part, and its place on the time line.

    `latency_cycles` is `end - start`: it holds waiting for the outer memory when cores compete for it. `stage` counts
    from 0; `branch` marks layers of an exit branch.
    """

    name: str
    op: str
    core: str
    macs: int
    latency_cycles: float
    energy_pj: float
    energy_parts: dict[str, float]
    utilization: float
    start: float
    end: float
    stage: int
    branch: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferCost:
    """A tensor on its way between cores (`link` names the way) or to the outer memory; cycles and picojoules."""

    tensor: str
    consumer: str
    link: str
    start: float
    end: float
    energy_pj: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """The layers between two exits. Cumulative figures are the price of a sample that leaves at this exit.

    Cycles of the parts are the time from the earliest start to the latest end of their layers; picojoules are sums
    over their layers. `cumulative_pj` includes energy wasted by speculation.
    """

    backbone_cycles: float
    branch_cycles: float
    backbone_pj: float
    branch_pj: float
    cumulative_cycles: float
    cumulative_pj: float
    wasted_pj: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedCost:
    """Latency in cycles, energy in picojoules and E*T in joule * cycles."""

    latency_cycles: float
    energy_pj: float
    et_joule_cycles: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """The price of a network on a chip under one mapping.

    Attributes:
        macs: multiply-accumulates of everything, branches included.
        peak_bytes: most bytes of activations alive at once, wherever they rest.
        level_bytes: most bytes in each memory: activation memories by name, `outer` for weights and spilled tensors.
        exit_rates: the rates that the mapping was chosen for; they sum to 1.
    """

    name: str
    accelerator: str
    clock_mhz: float
    mapping: Mapping
    layers: tuple[LayerCost, ...]
    stages: tuple[StageCost, ...]
    macs: int
    peak_bytes: int
    level_bytes: dict[str, int]
    exit_rates: tuple[float, ...]
    transfers: tuple[TransferCost, ...] = field(default=())

    @property
    def latency_cycles(self) -> float:
        """Cycles of a sample that leaves at the last exit."""
        return self.stages[-1].cumulative_cycles

    @property
    def energy_pj(self) -> float:
        """Picojoules of a sample that leaves at the last exit."""
        return self.stages[-1].cumulative_pj

    @property
    def latency_ms(self) -> float:
        """`latency_cycles` at the chip's clock."""
        return self.milliseconds(self.latency_cycles)

    @property
    def worst_case(self) -> ExpectedCost:
        """The price when nothing leaves early."""
        return self.expected((0.0,) * (len(self.stages) - 1) + (1.0,))

    def milliseconds(self, cycles: float) -> float:
        """Cycles at the chip's clock in milliseconds."""
        return cycles / (self.clock_mhz * 1e3)

    def expected(self, exit_rates: Sequence[float] | None = None) -> ExpectedCost:
        """The mean price when a share `exit_rates[i]` of the samples leaves at exit i (default: `self.exit_rates`).

        Raises:
            UserError: not one rate per exit, a negative one, or a sum that is not 1.
        """
        rates = self.exit_rates if exit_rates is None else checked_rates(exit_rates, len(self.stages))
        pairs = [(r, s.cumulative_cycles, s.cumulative_pj) for r, s in zip(rates, self.stages, strict=True) if r]
        return ExpectedCost(
            latency_cycles=sum(r * t for r, t, _ in pairs),
            energy_pj=sum(r * e for r, _, e in pairs),
            et_joule_cycles=sum(r * t * (e / PICOJOULES_PER_JOULE) for r, t, e in pairs),
        )


def checked_rates(rates: Sequence[float], exits: int) -> tuple[float, ...]:
    """`rates` as a tuple, scaled to sum to 1 exactly.

    Raises:
        UserError: not one rate per exit, a negative one or not a number, or a sum that is not 1 (within 1e-6).
    """
    values = tuple(float(r) for r in rates)
    if len(values) != exits:
        given = f"{len(values)} exit rates for {exits} exits"
        raise UserError(given, wanted="one rate per exit, the final one included", where="exit rates")
    total = sum(values)
    if not all(r >= 0 for r in values) or not abs(total - 1) <= RATE_TOLERANCE:
        given = f"{', '.join(f'{r:g}' for r in values)} (sum {total:g})"
        raise UserError(given, wanted="rates from 0 to 1 that sum to 1", where="exit rates")
    return tuple(r / total for r in values)
