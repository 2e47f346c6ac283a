"""Candidates as numbers for regressors: sizes, bits and places in [0, 1], not category codes.

A row per candidate, and a row per exit of a candidate (the final one too) for what is predicted exit by exit.
Only plain values of the space are read; no price and no network.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offramp.ir.architecture import Architecture
from offramp.search.space import Gene, Space, Treatment

Floats = NDArray[np.float64]


class Features:
    """Features of the candidates of one space."""

    def __init__(self, space: Space) -> None:
        self._space, self._info = space, space.info
        self._macs = {m.index: m.macs for m in space.info.mounting_points}
        self._layers = [x for x in space.info.layers if x.weights]
        self._total = float(sum(x.macs for x in self._layers) or 1)
        self._kinds = space.info.branch_kinds

    def rows(self, candidates: Sequence[Architecture]) -> Floats:
        """One row per candidate, [n, F]."""
        return np.asarray([self._row(c) for c in candidates], dtype=np.float64).reshape(len(candidates), -1)

    def _row(self, candidate: Architecture) -> list[float]:
        vector = self._space.encode(candidate).tolist()
        row = [x for gene, value in zip(self._space.genes, vector, strict=True) for x in _numbers(gene, value)]
        return row + self._summary(candidate)

    def _summary(self, candidate: Architecture) -> list[float]:
        """Share of the full backbone's work that is left, that is analog, and mean bits weighted by work."""
        groups = {g.name: g.channels for g in self._info.width_groups}
        widths, cores = dict(candidate.widths), dict(candidate.cores)
        blocks = {*self._info.kept_blocks(candidate.depths), self._info.blocks}
        work, analog, bits = 0.0, 0.0, 0.0
        for x in self._layers:
            if x.block in blocks:
                share = x.macs * widths.get(x.width_group, groups.get(x.width_group, 1)) / groups.get(x.width_group, 1)
                work += share
                analog += share * (x.name in cores)
                bits += share * candidate.precision_of(x.name).weight_bits
        return [work / self._total, analog / (work or 1), bits / (8 * (work or 1)), len(candidate.exits) / 10]

    def exit_rows(self, candidate: Architecture) -> Floats:
        """One row per exit, the final one last, [E, F + G]."""
        row, rows, before = self._row(candidate), [], 0.0
        for i, choice in enumerate(candidate.exits):
            place = self._macs[choice.mounting_point] / self._total
            branch = self._info.branch(choice.mounting_point, choice.branch).macs / self._total
            kinds = [float(k == choice.branch) for k in self._kinds]
            rows.append([*row, place, place - before, branch, i / 10, 0.0, *kinds])
            before = place
        rows.append([*row, 1.0, 1.0 - before, 0.0, len(candidate.exits) / 10, 1.0, *(0.0 for _ in self._kinds)])
        return np.asarray(rows, dtype=np.float64)


def _numbers(gene: Gene, value: int) -> list[float]:
    choice = gene.choices[value]
    if isinstance(choice, Treatment):
        precision = choice.precision
        return [precision.weight_bits / 8, precision.activation_bits / 8, float(choice.core is not None)]
    if gene.part == "exits":
        return [float(choice is not None)]
    return [value / max(len(gene.choices) - 1, 1)]
