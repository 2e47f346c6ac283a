"""A static memory plan: every activation gets an offset in one arena; only tensors that never live together share it.

Greedy by size, largest first, each at the lowest offset that is free over its whole life (Pisarchyk & Lee, "Efficient
memory management for deep neural net inference", 2020). A tensor lives from the step that makes it to the last that
reads it; a carried tensor lives over the exit branch. A step's scratch lives for that step. The network's input is the
caller's and is not in the arena.
"""

from dataclasses import dataclass

from offramp.deploy.c.packing import patch_elements
from offramp.deploy.plan import Plan, Step

ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class Life:
    """A tensor's bytes and the first and last step that need it."""

    name: str
    size: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Arena:
    """Offsets in bytes by tensor, and the size of the whole; `floor` is the most that is ever alive at once."""

    offsets: dict[str, int]
    size: int
    floor: int


def scratch_of(step: Step) -> str:
    """The name under which a step's scratch has its offset; no tensor has a space in its name."""
    return f"scratch of {step.target.name}"


def lives(plan: Plan) -> list[Life]:
    """When each activation and each step's scratch is needed, in execution order with every branch taken."""
    steps = [step for stage in plan.stages for step in stage.steps]
    last = {source.name: at for at, step in enumerate(steps) for source in step.sources}
    tensors = [
        Life(step.target.name, step.target.size, at, last.get(step.target.name, at))
        for at, step in enumerate(steps)
        if not step.is_logits
    ]
    scratch = [Life(scratch_of(step), 2 * patch_elements(step), at, at) for at, step in enumerate(steps)]
    return [*tensors, *(life for life in scratch if life.size)]


def plan_arena(plan: Plan) -> Arena:
    """Offsets for every activation and every step's scratch."""
    tensors = lives(plan)
    placed: list[tuple[Life, int]] = []
    for tensor in sorted(tensors, key=lambda t: (-t.size, t.start)):
        offset = 0
        for other, at in sorted(placed, key=lambda p: p[1]):
            together = tensor.start <= other.end and other.start <= tensor.end
            if together and offset < at + other.size and at < offset + tensor.size:
                offset = -(-(at + other.size) // ALIGNMENT) * ALIGNMENT
        placed.append((tensor, offset))
    offsets = {tensor.name: offset for tensor, offset in placed}
    size = max((offset + tensor.size for tensor, offset in placed), default=0)
    floor = max((sum(t.size for t in tensors if t.start <= s.start <= t.end) for s in tensors), default=0)
    return Arena(offsets, -(-size // ALIGNMENT) * ALIGNMENT, floor)
