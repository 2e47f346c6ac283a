"""Candidates as numbers for regressors: sizes, bits and places in [0, 1], not category codes.

A row per candidate, and a row per exit of a candidate (the final one too) for what is predicted exit by exit. What an
exit answers depends on the layers before it and on its own branch alone, so its row knows nothing else: networks that
begin alike teach one another. Only plain values of the space are read; no price and no network.
"""

from collections.abc import Sequence
from math import log2

import numpy as np
from numpy.typing import NDArray

from offramp.ir.architecture import Architecture, ExitChoice
from offramp.search.space import Gene, Space, Treatment

Floats = NDArray[np.float64]


class Features:
    """Features of the candidates of one space."""

    def __init__(self, space: Space) -> None:
        self._space, self._info = space, space.info
        self._macs = {m.index: m.macs for m in space.info.mounting_points}
        self._layers = [x for x in space.info.layers if x.weights]
        self._total = float(sum(x.macs for x in self._layers) or 1)
        self._channels = {g.name: g.channels for g in space.info.width_groups}
        self._kinds = tuple(dict.fromkeys(kind for _, kinds in space.exits for kind in kinds))
        self._places = [self._place(gene) for gene in space.genes]
        self._neutral = [_numbers(gene, gene.neutral) for gene in space.genes]
        self._known: dict[Architecture, tuple[Floats, Floats]] = {}

    def _place(self, gene: Gene) -> int:
        """The first block that a gene changes; one before the first for genes of exits, which have columns apart."""
        info, name = self._info, gene.name
        if name.startswith("exit"):
            return -1
        if gene.part in ("depth", "width"):
            groups = info.depth_groups if gene.part == "depth" else info.width_groups
            return min((b for g in groups if g.name == name for b in g.blocks), default=info.blocks)
        return next((x.block for x in info.layers if x.name == name), info.blocks)

    def rows(self, candidates: Sequence[Architecture]) -> Floats:
        """One row per candidate, [n, F]."""
        return np.asarray([self._both(c)[0] for c in candidates], dtype=np.float64).reshape(len(candidates), -1)

    def _both(self, candidate: Architecture) -> tuple[Floats, Floats]:
        """Its row and the rows of its exits, made once."""
        if candidate not in self._known:
            vector = self._space.encode(candidate).tolist()
            self._known[candidate] = (np.asarray(self._row(candidate, vector)), self._exit_rows(candidate, vector))
        return self._known[candidate]

    def _row(self, candidate: Architecture, vector: Sequence[int]) -> list[float]:
        row = [x for gene, value in zip(self._space.genes, vector, strict=True) for x in _numbers(gene, value)]
        return [*row, *self._summary(candidate, self._info.blocks), len(candidate.exits) / 10]

    def _summary(self, candidate: Architecture, last: int) -> list[float]:
        """Of the layers up to a block: work and weights left, on a log scale; shares that are analog; mean bits."""
        widths, cores = dict(candidate.widths), dict(candidate.cores)
        blocks = {*self._info.kept_blocks(candidate.depths), self._info.blocks}
        work, weights, analog, bits = 0.0, 0.0, 0.0, 0.0
        for x in self._layers:
            if x.block in blocks and x.block <= last:
                full = self._channels.get(x.width_group, 1)
                share = widths.get(x.width_group, full) / full
                work, weights = work + x.macs * share, weights + x.weights * share
                analog += x.macs * share * (x.name in cores)
                bits += x.macs * share * candidate.precision_of(x.name).weight_bits
        logs = [log2(1 + 255 * work / self._total) / 8, log2(1 + weights) / 20]
        return [*logs, work / self._total, analog / (work or 1), bits / (8 * (work or 1))]

    def exit_rows(self, candidate: Architecture) -> Floats:
        """One row per exit, the final one last, [E, G]: layers after the exit read as those of the full backbone."""
        return self._both(candidate)[1]

    def _exit_rows(self, candidate: Architecture, vector: Sequence[int]) -> Floats:
        own = dict(zip((g.name for g in self._space.genes if g.part == "bits"), self._treatments(vector), strict=True))
        rows = []
        for choice in [*candidate.exits, None]:
            last = self._info.blocks if choice is None else choice.mounting_point
            row = [
                x
                for gene, value, place, full in zip(self._space.genes, vector, self._places, self._neutral, strict=True)
                if place >= 0
                for x in (_numbers(gene, value) if place <= last else full)
            ]
            rows.append([*row, *self._summary(candidate, last), *self._branch(choice, own)])
        return np.asarray(rows, dtype=np.float64)

    def shares(self, candidate: Architecture) -> Floats:
        """Share of the candidate's own work that lies before each exit, the final one (1) last, [E]."""
        ends = [*(e.mounting_point for e in candidate.exits), self._info.blocks]
        work = np.asarray([self._summary(candidate, end)[2] for end in ends])
        return np.asarray(work / max(float(work[-1]), 1e-12))

    def _treatments(self, vector: Sequence[int]) -> list[list[float]]:
        return [_numbers(g, v) for g, v in zip(self._space.genes, vector, strict=True) if g.part == "bits"]

    def _branch(self, choice: ExitChoice | None, treatments: dict[str, list[float]]) -> list[float]:
        """Place, size, kind and treatment of an exit's own branch."""
        if choice is None:
            return [1.0, 1.0, 0.0, *(0.0 for _ in self._kinds), 1.0, 1.0, 0.0]
        place = self._macs[choice.mounting_point] / self._total
        size = self._info.branch(choice.mounting_point, choice.branch).macs / self._total
        kinds = [float(k == choice.branch) for k in self._kinds]
        return [0.0, place, size, *kinds, *treatments.get(f"exit{choice.mounting_point}", [1.0, 1.0, 0.0])]


def _numbers(gene: Gene, value: int) -> list[float]:
    choice = gene.choices[value]
    if isinstance(choice, Treatment):
        precision = choice.precision
        return [precision.weight_bits / 8, precision.activation_bits / 8, float(choice.core is not None)]
    if gene.part == "exits":
        return [float(choice is not None)]
    return [value / max(len(gene.choices) - 1, 1)]
