"""The one loop: ask, evaluate, journal, tell. A journal is continued by playing it back through the same loop.

The strategy is deterministic, so replaying the trials that are journalled brings it to the state it had; only
then is something evaluated. Whether a study was killed or not, equal seeds give equal journals. The evaluator
is a callable: this file knows neither networks nor prices. A trial that diverges, or that the chip cannot take,
is a value like others.
"""

import time
from collections.abc import Callable

import numpy as np

from offramp.errors import AccelerationError, FormatError, InfeasibleError, InternalError, TrainingError
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Status, Trial
from offramp.search.journal import Journal
from offramp.search.task import Strategy

Evaluate = Callable[[Architecture, int, int], Trial]
"""(architecture, trial number, trial seed) -> trial."""


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of a trial's own randomness, 0 .. 2^31 - 1."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0] >> 1)


def run_study(
    strategy: Strategy,
    evaluate: Evaluate,
    journal: Journal,
    *,
    trials: int,
    seed: int,
    batch: int = 1,
    time_budget: float | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> list[Trial]:
    """Search until `trials` are evaluated, the time is used up or the space is exhausted.

    Args:
        strategy: a fresh one; its state is rebuilt from the journal.
        evaluate: makes a trial of a candidate. `TrainingError` becomes a failed trial, `InfeasibleError` and
            `AccelerationError` an infeasible one; anything else ends the study.
        journal: open for appending; its trials are played back and not evaluated again.
        trials: how many in all, those already journalled included.
        seed: of the study; every trial's own seed comes from it and its number.
        batch: how many are asked for at once (part of the study's identity).
        time_budget: seconds of evaluation in all, those already journalled included.
        on_trial: called after each trial, played back or new.

    Returns:
        all trials by number.

    Raises:
        FormatError: the journal holds another search than this strategy and seed would make.
        InternalError: the journal could not be written; what it holds is kept.
    """
    recorded, asked_for = journal.trials(), journal.asked()
    spent = sum(journal.seconds().values())
    done: list[Trial] = []
    while len(done) < trials:
        candidates = strategy.ask(batch)[: trials - len(done)]
        answers: list[Trial] = []
        for candidate in candidates:
            number = len(done)
            if number < len(recorded):
                _check_replay(journal, number, candidate, asked_for[number])
                trial = recorded[number]
            elif time_budget is not None and spent >= time_budget:
                return done
            else:
                trial, seconds = _evaluated(evaluate, candidate, number, trial_seed(seed, number))
                spent += seconds
                journal.append(trial, asked=candidate.digest, seconds=seconds)
            answers.append(trial)
            done.append(trial)
            if on_trial is not None:
                on_trial(trial)
        if not candidates:
            break
        strategy.tell(answers)
    return done


def _evaluated(evaluate: Evaluate, candidate: Architecture, number: int, seed: int) -> tuple[Trial, float]:
    start = time.perf_counter()
    try:
        trial = evaluate(candidate, number, seed)
    except TrainingError as error:
        trial = Trial(number=number, architecture=candidate, status=Status.FAILED, seed=seed, reason=str(error))
    except (InfeasibleError, AccelerationError) as error:
        trial = Trial(number=number, architecture=candidate, status=Status.INFEASIBLE, seed=seed, reason=str(error))
    if trial.number != number:
        raise InternalError(f"trial {number} came back as number {trial.number}")
    return trial, time.perf_counter() - start


def _check_replay(journal: Journal, number: int, candidate: Architecture, asked: str) -> None:
    if candidate.digest != asked:
        raise FormatError(
            f"trial {number} is another candidate than this search would ask for",
            wanted="the same space, strategy, seed and batch, or another run folder",
            where=str(journal.path),
            write="--run runs/another-name",
        )
