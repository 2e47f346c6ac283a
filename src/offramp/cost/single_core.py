"""Everything on one core: the problem with that restriction, and a price that none of its schedules goes below.

A mapper that may use every core must not lose to one that may use a single one. The bound spares most of those
searches: layers on one core run one after another, so their least cycles add up; energies add up on any core.
"""

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
    time, energy = _least(p, "cycles"), _least(p, "energy")
    others = np.where(p.able, energy, np.inf).min(axis=1)
    bounds = []
    for core in distinct_cores(p):
        runs = p.able[:, core]
        times = np.cumsum(np.where(runs, time[:, core], 0.0)).tolist()
        energies = np.cumsum(np.where(runs, energy[:, core], others)).tolist()
        exits = [(r, times[i], energies[i]) for r, i in zip(p.rates, p.last_of_stage, strict=True) if i >= 0]
        both = sum([rate * t * e for rate, t, e in exits]) / PICOJOULES_PER_JOULE
        bounds.append((sum([rate * t for rate, t, _ in exits]), sum([rate * e for rate, _, e in exits]), both))
    return bounds


def _least(p: Problem, figure: str) -> Array:
    """(L, C) least cycles or picojoules of a layer on a core, whole or in stripes, wherever its tensors rest."""
    rows: Array = p.tables.ways[figure].min(axis=2)
    least = rows[: len(p.layers)]
    if p.fusion is not None:
        striped = p.tables.layers["row"]
        least = np.minimum(least, rows[np.where(striped < 0, np.arange(len(striped)), striped)])
    return least
