"""Everything on one core: the problem with that restriction, and a price that none of its schedules goes below.

A mapper that may use every core must not lose to one that may use a single one. The bound spares most of those
searches: layers on one core run one after another, so their least cycles add up; energies add up on any core.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from offramp.cost.model import Array
from offramp.cost.network import PICOJOULES_PER_JOULE
from offramp.cost.problem import Problem


def distinct_cores(p: Problem) -> list[int]:
    """One of each kind of core, teams left out."""
    first = {p.alike[core]: core for core in reversed(range(len(p.memory_of))) if len(p.members[core]) == 1}
    return sorted(first.values())


def on_one_core(p: Problem, core: int) -> Problem | None:
    """The problem in which `core` runs every layer that it can run; None when that is no restriction."""
    runs = p.able[:, core, None]
    only = np.arange(len(p.memory_of)) == core
    tries = np.where(runs, only, p.tables.tries)
    if np.array_equal(tries, p.tables.tries):
        return None
    return replace(p, able=np.where(runs, only, p.able), tables=p.tables._replace(tries=tries))


def single_core_bounds(p: Problem) -> list[tuple[float, float, float]]:
    """Least expected (cycles, picojoules, E*T) of a schedule with every layer on one core that it runs.

    One bound for each of `distinct_cores`; layers that it does not run take no time and the least energy.
    """
    cores = distinct_cores(p)
    time, energy = _least(p, "cycles"), _least(p, "energy")
    others = np.where(p.able, energy, np.inf).min(axis=1, keepdims=True)
    runs = p.able[:, cores]
    times = np.where(runs, time[:, cores], 0.0).cumsum(axis=0)
    energies = np.where(runs, energy[:, cores], others).cumsum(axis=0)
    exits = [(rate, last) for rate, last in zip(p.rates, p.last_of_stage, strict=True) if last >= 0]
    rates, ends = [rate for rate, _ in exits], [last for _, last in exits]
    bounds = []
    for ts, es in zip(times[ends].T.tolist(), energies[ends].T.tolist(), strict=True):
        both = sum([r * t * e for r, t, e in zip(rates, ts, es, strict=True)]) / PICOJOULES_PER_JOULE
        bounds.append((_mean(rates, ts), _mean(rates, es), both))
    return bounds


def _mean(rates: Sequence[float], figures: Sequence[float]) -> float:
    return sum([rate * figure for rate, figure in zip(rates, figures, strict=True)])


def _least(p: Problem, figure: str) -> Array:
    """(L, C) least cycles or picojoules of a layer on a core, whole or in stripes, wherever its tensors rest."""
    costs: Array = p.costs.cycles if figure == "cycles" else p.costs.energy_pj
    least: Array = costs.min(axis=0)
    if p.fusion is not None:
        striped = p.tables.layers["row"]
        rows = np.where(striped < 0, np.arange(len(striped)), striped)
        least = np.minimum(least, p.tables.ways[figure].min(axis=2)[rows])
    return least
