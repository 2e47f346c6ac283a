"""The strategies by name. All are ask/tell (`search.task`) and deterministic for a seed."""

from collections.abc import Callable

from offramp.errors import choose
from offramp.search.evolution import Nsga2
from offramp.search.random_search import RandomSearch
from offramp.search.sequence import SequentialSearch
from offramp.search.surrogate import SurrogateSearch
from offramp.search.task import Strategy, Task

STRATEGIES: dict[str, Callable[[Task], Strategy]] = {
    "random": RandomSearch,
    "nsga2": Nsga2,
    "sequence": SequentialSearch,
    "surrogate": SurrogateSearch,
}
"""Name -> maker."""


def check_strategy(name: str) -> str:
    """The name itself, before anything is begun for it.

    Raises:
        UserError: the name is unknown; the message lists what is known.
    """
    if name not in STRATEGIES:
        raise choose("strategy", name, STRATEGIES, where="--strategy")
    return name


def make_strategy(name: str, task: Task) -> Strategy:
    """A strategy by name for a task.

    Raises:
        UserError: the name is unknown.
    """
    return STRATEGIES[check_strategy(name)](task)
