"""What a study is asked to do, as frozen values; everything that can be derived from the data is derived here.

Budgets are counted in epochs, never in seconds, so that the same seed gives the same journal on any machine.
"""

from dataclasses import dataclass
from pathlib import Path

from offramp.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long each phase trains.

    Attributes:
        shared_epochs: epochs of the shared weights, all exits together.
        static_epochs: epochs of the static reference in float, alone.
        tune_epochs: epochs of quantization-aware training that every trial gets.
        tune_samples: most training samples of such an epoch.
        finish_epochs: epochs that the points of the front and the static reference get at the end.
        finish_float_epochs: epochs in float, alone and at its own size, that a finished point gets before those: what
            was pruned far recovers there, at a fraction of the price of an epoch with bits and noise.
        finish_points: most points of the front that are finished and reported.
        batch: samples per step where a phase trains on the whole training set; large ones fill a GPU.
    """

    shared_epochs: int
    static_epochs: int
    tune_epochs: int
    finish_epochs: int
    finish_float_epochs: int = 0
    finish_points: int = 8
    tune_samples: int = 8192
    batch: int = 64

    def __post_init__(self) -> None:
        """Refuse negative budgets and float weights that were never trained."""
        if (
            min(self.shared_epochs, self.static_epochs) < 1
            or min(self.tune_epochs, self.finish_epochs, self.finish_float_epochs) < 0
            or min(self.finish_points, self.batch) < 1
        ):
            wanted = "at least 1 epoch of float training, 1 finished point, 1 sample per step"
            raise UserError(f"a budget of {self}", wanted=wanted, where="budget")


def default_budget(samples: int) -> Budget:
    """A budget for a training set of this many samples: small sets get more epochs, large ones fewer.

    1,200 digits: 40 / 4 / 16 epochs; 45,000 CIFAR-10 images: 12 / 1 / 4.
    """

    def epochs(presentations: int, low: int, high: int) -> int:
        return max(low, min(high, round(presentations / max(samples, 1))))

    return Budget(
        shared_epochs=epochs(540_000, 12, 40),
        static_epochs=epochs(540_000, 12, 40),
        tune_epochs=epochs(45_000, 1, 4),
        finish_epochs=epochs(180_000, 4, 16),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """One study: what is searched, for what, how long and where it is written.

    Attributes:
        objectives: names of `ir.trial.OBJECTIVES`; the first two span the report's front.
        constraints: texts such as `latency_ms<=5`.
        accuracy_drop: how much accuracy (a fraction) the exits may cost a network against the best of its exits;
            thresholds are solved for it, on validation data for a trial, for fresh data when it is finished.
        guarantee: a text such as `accuracy drop <= 1 % with probability 0.95` that finished
            networks keep; half of the validation samples are set aside for it.
        freeze: leave the backbone's weights as they were brought; exits alone are searched and trained.
        start: `zoo`, or the folder of a zoo entry, whose float weights take the place of both float trainings.
    """

    data: str
    backbone: str
    accelerator: str
    run: Path
    data_dir: Path | None = None
    strategy: str = "surrogate"
    objectives: tuple[str, ...] = ("accuracy", "energy_uj")
    constraints: tuple[str, ...] = ()
    trials: int = 24
    seed: int = 0
    accuracy_drop: float = 0.002
    policy: str = "max_softmax"
    guarantee: str | None = None
    execution: str = "best"
    budget: Budget | None = None
    subset: int | None = None
    freeze: bool = False
    start: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers outside their range; names are checked by the rooms that own them."""
        if self.trials < 1:
            raise UserError(f"{self.trials} trials", wanted="at least 1", where="--trials", write="--trials 24")
        if not 0 <= self.accuracy_drop < 1:
            raise UserError(
                f"an accuracy drop of {self.accuracy_drop}",
                wanted="a fraction from 0 to 1",
                where="--accuracy-drop",
                write="--accuracy-drop 0.002",
            )
        if len(self.objectives) < 2:
            raise UserError(
                f"{len(self.objectives)} objective(s)",
                wanted="at least two",
                where="--objectives",
                write="--objectives accuracy,energy_uj",
            )
        if self.freeze and self.start:
            raise UserError(
                f"--freeze with --from {self.start}",
                wanted="one of them: zoo weights are there to be trained on",
                where="--from",
            )
