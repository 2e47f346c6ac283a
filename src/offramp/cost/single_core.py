"""Everything on one core: the problem with that restriction, and a price that none of its schedules goes below.

A mapper that may use every core must not lose to one that may use a single one. The bound spares most of those
searches: layers on one core run one after another, so their least cycles add up; energies add up on any core.
"""

from dataclasses import replace

from offramp.cost.network import PICOJOULES_PER_JOULE
from offramp.cost.problem import Problem, must_move


def distinct_cores(p: Problem) -> list[int]:
    """One of each kind of core, teams left out."""
    first = {p.alike[core]: core for core in reversed(range(len(p.memory_of))) if len(p.members[core]) == 1}
    return sorted(first.values())


def on_one_core(p: Problem, core: int) -> Problem | None:
    """The problem in which `core` runs every layer that it can run; None when that is no restriction."""
    cores_of = [(core,) if core in able else free for able, free in zip(p.able, p.cores_of, strict=True)]
    if cores_of == p.cores_of:
        return None
    able = [(core,) if core in own else own for own in p.able]
    return replace(p, able=able, cores_of=cores_of, must_move=must_move(p.inputs, cores_of, p.memory_of))


def single_core_bound(p: Problem, core: int) -> tuple[float, float, float]:
    """Least expected (cycles, picojoules, E*T) of a schedule with every layer on `core` that it runs."""
    time = energy = 0.0
    prefixes = []
    for layer, able in enumerate(p.able):
        cores = (core,) if core in able else able
        time += _least(p, layer, core)[0] if core in able else 0.0
        energy += min([_least(p, layer, c)[1] for c in cores])
        prefixes.append((time, energy))
    exits = [(rate, *prefixes[last]) for rate, last in zip(p.rates, p.last_of_stage, strict=True) if last >= 0]
    both = sum(rate * t * e for rate, t, e in exits) / PICOJOULES_PER_JOULE
    return sum(rate * t for rate, t, _ in exits), sum(rate * e for rate, _, e in exits), both


def _least(p: Problem, layer: int, core: int) -> tuple[float, float]:
    """Least cycles and least picojoules of a layer on a core, whole or in stripes, wherever its tensors rest."""
    cycles, energy = p.cycles[layer][core], p.energy[layer][core]
    if layer in p.striped:
        cycles, energy = [*cycles, *p.striped[layer].cycles[core]], [*energy, *p.striped[layer].energy[core]]
    return min(cycles), min(energy)
