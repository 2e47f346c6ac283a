"""The search space as a value: what may be chosen for each part of an `Architecture`, and a candidate as
integers.

Every part is optional and switches off (`without`): depth, width (pruning), kernels, exits, bits, analog cores.
A candidate is also a vector of fixed length, one integer per gene, for pymoo and for surrogates; several
vectors may mean the same network, so strategies compare candidates by their canonical form. Thresholds are no
part of a space: they are solved for (`exits.solve`). A space knows the backbone as plain values and never
prices or trains anything.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import FormatError, choose
from offramp.ir.architecture import Architecture, ExitChoice, Precision
from offramp.ir.backbone import BackboneInfo, BranchInfo
from offramp.ir.workload import Op

Vector = NDArray[np.int64]

PARTS: tuple[str, ...] = ("depth", "width", "kernel", "exits", "bits", "analog")
"""Parts of a space that `without` switches off."""


@dataclass(frozen=True, slots=True)
class BitChoice:
    """Weight and activation bits that one layer (or one exit branch) may have; every pair of them is offered."""

    weights: tuple[int, ...]
    activations: tuple[int, ...]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """All pairs, most bits first."""
        pairs = product(sorted(self.weights, reverse=True), sorted(self.activations, reverse=True))
        return tuple(Precision(w, a) for w, a in pairs)


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a layer is computed: its bits and, on an analog core, that core's name."""

    precision: Precision
    core: str | None = None


@dataclass(frozen=True, slots=True)
class Gene:
    """One integer of a candidate's vector: `choices[value]`; `neutral` is the value that changes nothing.

    `name` is a depth group, width group, layer, or `exit<mounting point>`; `part` is one of `PARTS`.
    """

    part: str
    name: str
    choices: tuple[Any, ...]
    neutral: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """Choices for each part; a name that is not listed stays as the full backbone has it.

    Attributes:
        info: the backbone.
        depths: (depth group, blocks kept).
        widths: (width group, channels kept).
        kernels: (layer, filter sizes).
        exits: (mounting point, branch kinds); each may also be left out.
        max_exits: most early exits of one candidate.
        bits: (layer or `exit<mounting point>`, bits).
        cores: (layer or `exit<mounting point>`, analog cores that it may run on).
        core_precision: (analog core, bits that a layer there has).
        default_precision: bits of everything that is not listed.
        pins: (gene part, gene name, value): genes that are held (`pinned`).
    """

    info: BackboneInfo
    depths: tuple[tuple[str, tuple[int, ...]], ...] = ()
    widths: tuple[tuple[str, tuple[int, ...]], ...] = ()
    kernels: tuple[tuple[str, tuple[int, ...]], ...] = ()
    exits: tuple[tuple[int, tuple[str, ...]], ...] = ()
    max_exits: int = 0
    bits: tuple[tuple[str, BitChoice], ...] = ()
    cores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    core_precision: tuple[tuple[str, Precision], ...] = ()
    default_precision: Precision = field(default_factory=Precision)
    pins: tuple[tuple[str, str, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse choices that the backbone does not have; all faults at once."""
        faults = list(space_faults(self))
        if faults:
            text = "; ".join(f"{path}: {message}" for path, message in faults)
            raise FormatError(text, wanted="choices that the backbone has", where=f"space of {self.info.name}")

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """The vector's positions in order: depths, widths, kernels, exits, treatments."""
        listed = [*_ordinal("depth", self.depths), *_ordinal("width", self.widths), *_ordinal("kernel", self.kernels)]
        listed += [Gene("exits", f"exit{point}", (None, *kinds), 0) for point, kinds in self.exits]
        bits, cores = dict(self.bits), dict(self.cores)
        for name in dict.fromkeys([*bits, *cores]):
            listed.append(self._treatment_gene(name, bits.get(name), cores.get(name, ())))
        held = {(part, name): value for part, name, value in self.pins}
        return tuple(
            Gene(g.part, g.name, (g.choices[held[g.part, g.name]],), 0) if (g.part, g.name) in held else g
            for g in listed
        )

    def _treatment_gene(self, name: str, bits: BitChoice | None, cores: tuple[str, ...]) -> Gene:
        offered = bits.precisions if bits else (self.default_precision,)
        analog = dict(self.core_precision)
        choices = [Treatment(p) for p in offered] + [Treatment(analog[c], c) for c in cores]
        neutral = offered.index(self.default_precision) if self.default_precision in offered else 0
        return Gene("bits", name, tuple(choices), neutral)

    @property
    def upper(self) -> Vector:
        """Largest value of each gene (the smallest is 0)."""
        return np.asarray([len(g.choices) - 1 for g in self.genes], dtype=np.int64)

    @property
    def cardinality(self) -> int:
        """Number of vectors."""
        count = 1
        for gene in self.genes:
            count *= len(gene.choices)
        return count

    @property
    def neutral(self) -> Architecture:
        """The full backbone at default bits, with its final exit alone."""
        return self.decode([g.neutral for g in self.genes])

    @property
    def smallest(self) -> Architecture:
        """The narrowest and shallowest network with the smallest kernels, at default bits and without early exits."""
        sized = ("depth", "width", "kernel")
        return self.decode([0 if g.part in sized else g.neutral for g in self.genes])

    def decode(self, vector: Sequence[int] | Vector) -> Architecture:
        """The candidate that a vector means, in canonical form; values are clipped to their gene's range."""
        values = np.clip(np.asarray(vector, dtype=np.int64), 0, self.upper)
        chosen = [(g, g.choices[v]) for g, v in zip(self.genes, values.tolist(), strict=True)]
        exits = [ExitChoice(int(g.name[4:]), c) for g, c in chosen if g.part == "exits" and c is not None]
        treatments = {g.name: c for g, c in chosen if g.part == "bits"}
        precision, cores = self._treat(treatments, exits)
        candidate = Architecture(
            backbone=self.info.name,
            depths=self._depths({g.name: c for g, c in chosen if g.part == "depth"}),
            widths=tuple(sorted((g.name, c) for g, c in chosen if g.part == "width")),
            kernels=tuple(sorted((g.name, c) for g, c in chosen if g.part == "kernel")),
            exits=tuple(sorted(exits)),
            precision=tuple(sorted(precision.items())),
            default_precision=self.default_precision,
            cores=tuple(sorted(cores.items())),
        )
        return self._limit_exits(self.info.canonical(candidate))

    def _depths(self, chosen: dict[str, int]) -> tuple[int, ...]:
        return tuple(chosen.get(g.name, len(g.blocks)) for g in self.info.depth_groups)

    def _treat(
        self, treatments: dict[str, Treatment], exits: Sequence[ExitChoice]
    ) -> tuple[dict[str, Precision], dict[str, str]]:
        """Per-layer tables; a branch's treatment goes to every layer with weights in it."""
        branch_of = {f"exit{e.mounting_point}": self.info.branch(e.mounting_point, e.branch) for e in exits}
        points = {f"exit{point}" for point, _ in self.exits}
        precision: dict[str, Precision] = {}
        cores: dict[str, str] = {}
        for name, treatment in treatments.items():
            names = [name]
            if name in points:
                names = _treatable(branch_of[name], treatment.core) if name in branch_of else []
            precision |= dict.fromkeys(names, treatment.precision)
            cores |= dict.fromkeys(names, treatment.core) if treatment.core else {}
        return precision, cores

    def _limit_exits(self, candidate: Architecture) -> Architecture:
        """Drop exits that sit closest after another one until there are at most `max_exits`."""
        if len(candidate.exits) <= self.max_exits:
            return candidate
        macs = {m.index: m.macs for m in self.info.mounting_points}
        exits = list(candidate.exits)
        while len(exits) > self.max_exits:
            gaps = [
                macs[e.mounting_point] - (macs[exits[i - 1].mounting_point] if i else 0) for i, e in enumerate(exits)
            ]
            exits.pop(int(np.argmin(gaps)))
        return self.info.canonical(replace(candidate, exits=tuple(exits)))

    def encode(self, candidate: Architecture) -> Vector:
        """The vector of a candidate; what is not in the space goes to the nearest choice, or to the neutral one."""
        full = {g.name: len(g.blocks) for g in self.info.depth_groups}
        numbers: dict[tuple[str, str], int] = {
            **{("depth", n): d for n, d in zip(full, candidate.depths or full.values(), strict=True)},
            **{("width", n): w for n, w in candidate.widths},
            **{("kernel", n): k for n, k in candidate.kernels},
        }
        kinds = {f"exit{e.mounting_point}": e.branch for e in candidate.exits}
        return np.asarray([self._value(g, candidate, numbers, kinds) for g in self.genes], dtype=np.int64)

    def _value(
        self, gene: Gene, candidate: Architecture, numbers: dict[tuple[str, str], int], kinds: dict[str, str]
    ) -> int:
        if gene.part == "exits":
            kind = kinds.get(gene.name)
            return (
                gene.choices.index(kind) if kind in gene.choices else min(int(kind is not None), len(gene.choices) - 1)
            )
        if gene.part == "bits":
            treatment = self._treatment_of(gene.name, candidate, kinds)
            return gene.choices.index(treatment) if treatment in gene.choices else gene.neutral
        wanted = numbers.get((gene.part, gene.name))
        if wanted is None:
            return gene.neutral
        return int(np.argmin(np.abs(np.asarray(gene.choices) - wanted)))

    def _treatment_of(self, name: str, candidate: Architecture, kinds: dict[str, str]) -> Treatment:
        layer = name
        if name in {f"exit{point}" for point, _ in self.exits}:
            if name not in kinds:
                return Treatment(self.default_precision)
            branch = self.info.branch(int(name[4:]), kinds[name])
            layer = (_treatable(branch, "any") or _treatable(branch, None))[0]
        return Treatment(candidate.precision_of(layer), candidate.core_of(layer))

    def repair(self, candidate: Architecture) -> Architecture:
        """The candidate itself when it is in the space, else one near it."""
        return self.decode(self.encode(candidate))

    def sample_vector(self, rng: np.random.Generator) -> Vector:
        """A random vector: each part gets an intensity first, so that sober and extreme candidates both occur."""
        intensity = {part: rng.uniform() for part in PARTS}
        values = [_drawn(g, rng) if rng.uniform() < intensity[g.part] else g.neutral for g in self.genes]
        places = [i for i, g in enumerate(self.genes) if g.part == "exits" and len(g.choices) > 1]
        wanted = set(rng.permutation(places)[: rng.integers(min(self.max_exits, len(places)) + 1)].tolist())
        for i in places:
            values[i] = int(rng.integers(1, len(self.genes[i].choices))) if i in wanted else 0
        return np.asarray(values, dtype=np.int64)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random candidate."""
        return self.decode(self.sample_vector(rng))

    def without(self, *parts: str) -> "Space":
        """The same space with parts switched off: what an ablation needs.

        Raises:
            UserError: a part is not one of `PARTS`.
        """
        emptied: dict[str, Any] = {}
        for part in parts:
            if part not in PARTS:
                raise choose("part of the space", part, PARTS, where="space")
            emptied |= _OFF[part]
        return replace(self, **emptied)

    def offering(self, exits: Collection[ExitChoice]) -> "Space":
        """The same space with no other early exits than these."""
        found = [(point, tuple(k for k in kinds if ExitChoice(point, k) in exits)) for point, kinds in self.exits]
        kept = tuple((point, kinds) for point, kinds in found if kinds)
        return replace(self, exits=kept, max_exits=min(self.max_exits, len(kept)))

    def pinned(self, candidate: Architecture, *parts: str) -> "Space":
        """The same space with the genes of some parts held at a candidate's values ("bits" holds analog cores too)."""
        held = {(part, name): (part, name, value) for part, name, value in self.pins}
        for gene, value in zip(self.genes, self.encode(candidate).tolist(), strict=True):
            if gene.part in parts:
                held.setdefault((gene.part, gene.name), (gene.part, gene.name, value))
        return replace(self, pins=tuple(held.values()))

    @property
    def digest(self) -> str:
        """A short content hash, stable over processes."""
        parts = {
            "backbone": [self.info.name, self.info.input_shape, self.info.classes],
            "genes": [[g.part, g.name, [str(c) for c in g.choices]] for g in self.genes],
            "max_exits": self.max_exits,
            "default": str(self.default_precision),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _drawn(gene: Gene, rng: np.random.Generator) -> int:
    """A random value; digital and analog computing are as likely, however many bit widths one of them offers."""
    analog = [i for i, choice in enumerate(gene.choices) if isinstance(choice, Treatment) and choice.core]
    if analog and rng.uniform() < 0.5:
        return int(rng.choice(analog))
    return int(rng.integers(len(gene.choices)))


def _treatable(branch: BranchInfo, core: str | None) -> list[str]:
    """Layers of a branch that take a treatment: those with weights; on an analog core only dense convolutions.

    A depthwise layer does not fit there, and the branch's classifiers keep full precision, as the backbone's does.
    """
    return [x.name for x in branch.layers if x.weights and (core is None or x.op is Op.CONV)]


_OFF: dict[str, dict[str, Any]] = {
    "depth": {"depths": ()},
    "width": {"widths": ()},
    "kernel": {"kernels": ()},
    "exits": {"exits": (), "max_exits": 0},
    "bits": {"bits": ()},
    "analog": {"cores": ()},
}


def _ordinal(part: str, table: Sequence[tuple[str, tuple[int, ...]]]) -> Iterator[Gene]:
    """Genes whose choices ascend; the largest changes nothing."""
    for name, choices in table:
        yield Gene(part, name, choices, len(choices) - 1)


def space_faults(space: Space) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) for everything in a space that its backbone does not have."""
    info = space.info
    depth_limits = {g.name: (g.minimum, len(g.blocks)) for g in info.depth_groups}
    yield from _number_faults("depths", "blocks", space.depths, depth_limits)
    yield from _number_faults("widths", "channels", space.widths, {g.name: (1, g.channels) for g in info.width_groups})
    sizes = {k.layer: k.sizes for k in info.kernel_choices}
    yield from _number_faults("kernels", "", space.kernels, {name: (s[0], s[-1]) for name, s in sizes.items()})
    for name, choices in space.kernels:
        odd = [c for c in choices if c not in sizes.get(name, choices)]
        if odd:
            yield f"$.kernels.{name}", f"size {odd[0]}, wanted one of {_listed(sizes[name])}"
    yield from _exit_faults(space)
    yield from _treatment_faults(space)


def _number_faults(
    key: str, unit: str, table: Sequence[tuple[str, tuple[int, ...]]], limits: dict[str, tuple[int, int]]
) -> Iterator[tuple[str, str]]:
    for name, choices in table:
        path = f"$.{key}.{name}"
        if name not in limits:
            yield path, f"unknown name, wanted one of {_listed(limits) or 'none: this backbone has no such choice'}"
            continue
        low, high = limits[name]
        if not choices:
            yield path, "no choices"
        elif list(choices) != sorted(set(choices)):
            yield path, f"choices {list(choices)}, wanted ascending, each once"
        elif choices[0] < low or choices[-1] > high:
            bad = choices[0] if choices[0] < low else choices[-1]
            yield path, f"{bad} {unit}".rstrip() + f", wanted {low} to {high}"


def _exit_faults(space: Space) -> Iterator[tuple[str, str]]:
    known = {b.mounting_point: [] for b in space.info.branches}  # type: dict[int, list[str]]
    for branch in space.info.branches:
        known[branch.mounting_point].append(branch.kind)
    for point, kinds in space.exits:
        if point not in known:
            yield f"$.exits.{point}", f"unknown mounting point, wanted one of {_listed(known)}"
        elif not kinds:
            yield f"$.exits.{point}", "no choices"
        elif unknown := [k for k in kinds if k not in known[point]]:
            yield f"$.exits.{point}", f"unknown branch kind {unknown[0]!r}, wanted one of {_listed(known[point])}"
    if not 0 <= space.max_exits <= len(space.exits):
        yield "$.max_exits", f"{space.max_exits}, wanted 0 to {len(space.exits)}, the mounting points listed"


def _treatment_faults(space: Space) -> Iterator[tuple[str, str]]:
    names = {x.name for x in space.info.layers} | {f"exit{m.index}" for m in space.info.mounting_points}
    for name, bits in space.bits:
        if name not in names:
            yield f"$.bits.{name}", "unknown layer; layers of the backbone and exit<mounting point> can be listed"
        elif not bits.weights or not bits.activations:
            yield f"$.bits.{name}", "no choices"
    cores = dict(space.core_precision)
    for name, offered in space.cores:
        if name not in names:
            yield f"$.cores.{name}", "unknown layer; layers of the backbone and exit<mounting point> can be listed"
        for core in offered:
            if core not in cores:
                yield f"$.cores.{name}", f"unknown analog core {core!r}, wanted one of {_listed(cores) or 'none'}"


def _listed(values: Any) -> str:
    return ", ".join(str(v) for v in values)
