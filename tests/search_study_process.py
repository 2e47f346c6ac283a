"""A study in a process of its own, to be killed: `python search_study_process.py JOURNAL STRATEGY TRIALS PAUSE`."""

import sys
import time
from pathlib import Path

from offramp.ir.architecture import Architecture
from offramp.ir.trial import Trial
from offramp.search.derive import derive_space
from offramp.search.journal import Journal
from offramp.search.strategy import make_strategy
from offramp.search.study import run_study
from offramp.search.task import Task
from search_cases import backbone, evaluate, mixed_chip

SEED, BATCH = 5, 3


def main(path: str, strategy: str, trials: int, pause: float) -> None:
    space = derive_space(backbone(), mixed_chip())
    task = Task(space=space, objectives=("accuracy", "energy_uj"), seed=SEED, trials=trials)

    def slow(architecture: Architecture, number: int, seed: int) -> Trial:
        time.sleep(pause)
        return evaluate(architecture, number, seed)

    with Journal.open(Path(path), {"space": space.digest, "seed": SEED, "strategy": strategy}) as journal:
        run_study(make_strategy(strategy, task), slow, journal, trials=trials, seed=SEED, batch=BATCH)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
