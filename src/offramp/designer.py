"""One study from data to bundles: the sequence behind `offramp.design` and `offramp search`.

It only puts the rooms in a row and decides what lies where in a run folder:

    journal.sqlite      every trial, append-only; the same call continues it
    shared.safetensors  the float weights that all candidates start from (prefixes of channels are candidates)
    weights/            trials, finished points and the static network, as quantization-aware training left them
    bundle/             the knee of the front; bundles/ holds the other points and the static network
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import torch

from offramp.config import Budget, StudyConfig, default_budget
from offramp.cost.engine import FastCostModel
from offramp.cost.network import NetworkCost
from offramp.data import Dataset
from offramp.deploy.bundle import write_bundle
from offramp.deploy.manifest import OperatingPoint, PartCost, Predicted
from offramp.errors import UserError
from offramp.evaluate import (
    COST_OF,
    Evaluated,
    Testbed,
    evaluate,
    judge,
    prepare_candidate,
    prepare_layers,
    price,
    quote,
    take_layers,
    tune,
    with_test,
)
from offramp.exits.guarantee import parse_guarantee
from offramp.exits.policy import PATIENCE, check_policy
from offramp.ir.accelerator import Accelerator
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.ir.trial import Status, Trial, check_objectives
from offramp.learn.closed_form import solve_linear_exits
from offramp.learn.predict import accuracies, predict
from offramp.learn.resume import EpochRecord
from offramp.learn.supernet import Sandwich, SandwichLoss
from offramp.learn.train import FEW_SAMPLES, Objective, OnEpoch, TrainConfig, fit, float_recipe, shared_recipe
from offramp.learn.weights import fill, load_weights, save_weights
from offramp.nn.backbones import Backbone
from offramp.nn.convert import convert
from offramp.nn.describe import describe
from offramp.nn.freeze import folded, freeze_backbone
from offramp.nn.network import EarlyExitNetwork, build
from offramp.nn.quantize import PreparedNetwork
from offramp.nn.shared import cut_out, supernet, take_over
from offramp.nn.widths import sort_channels
from offramp.report.run_folder import FINISH, JOURNAL, STATIC
from offramp.search.constraints import parse_constraints
from offramp.search.derive import derive_space
from offramp.search.front import feasible, worth_finishing
from offramp.search.journal import Journal
from offramp.search.offers import with_offers
from offramp.search.space import Space
from offramp.search.strategy import check_strategy, make_strategy
from offramp.search.study import run_study, trial_seed
from offramp.search.task import Task
from offramp.zoo.card import SHARED
from offramp.zoo.entry import check_data, find_entry

NOT_EXITS = ("depth", "width", "kernel", "bits", "analog")
"""Parts of a space that a frozen backbone does not have."""

STATIC_NUMBER = -1
"""Trial number of the static reference."""

Progress = Callable[[str, int, int, str], None]
"""(phase, done, total, remark); the phases are `shared`, `static`, `search` and `finish`."""

POINTS = {"accurate": 1.0, "balanced": 0.5, "frugal": 0.0}
"""Operating points of a bundle by their place on the accuracy/cost curve, 1 at its most accurate end."""


def versions() -> dict[str, str]:
    """Of the packages that decide figures."""
    return {name: version(name) for name in ("offramp", "torch", "numpy", "pymoo", "scikit-learn", "onnxruntime")}


class Designer:
    """A study: what is searched (`config`), on which data, backbone and chip, and the steps in order.

    Attributes:
        bed: what every candidate is evaluated on.
        space: the candidates.
        folder: the run folder.
    """

    def __init__(
        self,
        config: StudyConfig,
        dataset: Dataset,
        full: Backbone,
        accelerator: Accelerator,
        *,
        space: Space | None = None,
        progress: Progress | None = None,
    ) -> None:
        check_objectives(config.objectives)
        check_strategy(config.strategy)
        guarantee = None if config.guarantee is None else parse_guarantee(config.guarantee)
        aside = None
        if guarantee is not None:
            dataset, aside = dataset.with_certification()
        self.entry = find_entry(config.start, full.name, dataset.name) if config.start is not None else None
        if self.entry is not None:
            check_data(self.entry, dataset)
        if config.freeze:
            full = folded(full)
        self.config, self.dataset, self.folder = config, dataset, config.run
        self.report = progress or (lambda phase, done, total, remark: None)
        space = space or derive_space(describe(full), accelerator)
        self.space = space.without(*NOT_EXITS) if config.freeze else space
        self.bed = Testbed(
            dataset=dataset,
            full=full,
            accelerator=accelerator,
            cost_model=FastCostModel(),
            constraints=parse_constraints(config.constraints),
            objective=next((COST_OF[n] for n in config.objectives if n in COST_OF), "energy"),
            execution=config.execution,
            policy=check_policy(config.policy, where="--policy"),
            accuracy_drop=config.accuracy_drop,
            guarantee=guarantee,
            certification=aside,
            tune_epochs=self.budget.tune_epochs,
            tune_samples=self.budget.tune_samples,
            tune_config=TrainConfig(learning_rate=1e-3),
            frozen=config.freeze,
            solved=config.freeze and len(dataset.train) < FEW_SAMPLES,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        self.neutral = self.space.info.canonical(
            Architecture(backbone=full.name, widths=full.reference, default_precision=self.space.default_precision)
        )
        price(self.bed, self.neutral)

    @property
    def budget(self) -> Budget:
        """As asked for, or derived from the size of the training set."""
        return self.config.budget or default_budget(len(self.dataset.train))

    def journal(self) -> Journal:
        """The run's journal, open for appending.

        Raises:
            FormatError: it is damaged, of another version or begun with another configuration.
        """
        c = self.config
        identity = {
            "data": c.data,
            "backbone": c.backbone,
            "accelerator": c.accelerator,
            "strategy": c.strategy,
            "objectives": c.objectives,
            "constraints": c.constraints,
            "trials": c.trials,
            "seed": c.seed,
            "accuracy_drop": c.accuracy_drop,
            "policy": c.policy,
            "guarantee": c.guarantee,
            "execution": c.execution,
            "subset": c.subset,
            "budget": repr(self.budget),
            "space": self.space.digest,
        }
        if c.freeze:
            identity["freeze"] = True
        if self.entry is not None:
            identity["start"] = self.entry.card.files[SHARED]
        return Journal.open(self.folder / JOURNAL, identity, {"versions": versions()})

    def _epochs(self, phase: str, total: int, remark: str = "") -> OnEpoch:
        def tell(record: EpochRecord) -> None:
            self.report(phase, record.epoch, total, remark or f"train accuracy {record.accuracy:.3f}")

        return tell

    def _train_float(
        self,
        phase: str,
        network: EarlyExitNetwork,
        path: Path,
        *,
        epochs: int,
        seed: int,
        recipe: TrainConfig | None = None,
        objective: Objective | None = None,
        teacher: EarlyExitNetwork | None = None,
    ) -> EarlyExitNetwork:
        """Train float weights; those of an earlier call are loaded in the same layout, so that they compute alike."""
        if path.is_file():
            load_weights(path, network)
            return self._laid_out(network)
        checkpoint = path.with_suffix(".checkpoint")
        if any(p.requires_grad for p in network.parameters()):
            fit(
                network,
                self.dataset.train,
                epochs=epochs,
                seed=seed,
                config=(recipe or float_recipe(len(self.dataset.train))).at_batch(self.budget.batch),
                augmentation=self.dataset.augmentation,
                teacher=teacher,
                objective=objective,
                device=self.bed.device,
                on_epoch=self._epochs(phase, epochs),
                checkpoint=checkpoint,
            )
        save_weights(path, network, phase=phase, seed=str(seed))
        checkpoint.unlink(missing_ok=True)
        return self._laid_out(network)

    def _laid_out(self, network: EarlyExitNetwork) -> EarlyExitNetwork:
        """On the device and in the memory format in which training leaves it."""
        network.to(self.bed.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.eval()

    def _take_from_zoo(self, network: EarlyExitNetwork, path: Path) -> None:
        """Write the entry's tensors of whatever the network has where training looks for those of an earlier call."""
        entry = self.entry
        if entry is None or path.is_file():
            return
        missing = [e for e in network.exits if e not in entry.card.exits]
        if missing:
            given = f"exit {missing[0].branch} at mounting point {missing[0].mounting_point}"
            raise UserError(given, wanted="exits that the card lists", where=f"--from {entry.name}")
        source = supernet(self.bed.full, entry.card.exits, seed=0) if network.exits else network
        fill(source, entry.read(path.name), where=str(entry.folder))
        take_over(network, source)
        save_weights(path, network, zoo=entry.name)

    @cached_property
    def reference(self) -> EarlyExitNetwork:
        """The static network in float, trained alone."""
        return self._alone(self.neutral, "static-float")

    @cached_property
    def teacher(self) -> EarlyExitNetwork:
        """The largest network in float, trained alone: shared weights start from it, what is finished follows it.

        It is the reference itself, unless the space is wider than that.
        """
        if not self.bed.full.reference:
            return self.reference
        return self._alone(replace(self.neutral, widths=()), "largest-float")

    def _alone(self, architecture: Architecture, name: str) -> EarlyExitNetwork:
        plain = cut_out(supernet(self.bed.full, (), seed=self.config.seed), architecture)
        if self.bed.frozen:
            return plain.to(self.bed.device).eval()
        path, seed = self._weights(name), trial_seed(self.config.seed, 1)
        self._take_from_zoo(plain, path)
        return self._train_float("static", plain, path, epochs=self.budget.static_epochs, seed=seed)

    @cached_property
    def shared(self) -> EarlyExitNetwork:
        """The shared weights: the largest network with every exit of the space, trained jointly in float.

        They start from the static network, channels sorted by importance, so that narrow candidates keep what matters,
        and follow it.
        """
        exits = [ExitChoice(point, kind) for point, kinds in self.space.exits for kind in kinds]
        network = supernet(self.bed.full, exits, seed=self.config.seed)
        take_over(network, self.teacher)
        epochs, seed, samples = self.budget.shared_epochs, trial_seed(self.config.seed, 0), len(self.dataset.train)
        path = self.folder / "shared.safetensors"
        self._take_from_zoo(network, path)
        train = partial(self._train_float, "shared", network, path, epochs=epochs, seed=seed)
        if self.bed.frozen:
            freeze_backbone(network)
            if self.bed.solved:
                solve_linear_exits(network.to(self.bed.device), self.dataset.train, seed=seed)
            return train(recipe=TrainConfig())  # AdamW, as in `shared_recipe`
        sort_channels(network)
        late = epochs * (samples // self.budget.batch) * 2 // 3
        whole = None
        if any(gene.part in NOT_EXITS for gene in self.space.genes):
            whole = Sandwich(smallest=self.space.smallest, sample=self.space.sample, rounded_from=late)
        objective = SandwichLoss(network, whole, seed=seed, teacher=self.teacher)
        return train(recipe=shared_recipe(samples), objective=objective)

    def _weights(self, name: str) -> Path:
        return self.folder / "weights" / f"{name}.safetensors"

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "weights" / f"{name}.checkpoint"

    def _keep(self, name: str, done: Evaluated) -> Trial:
        """Weights go to the disk before the journal knows the trial."""
        if done.network is not None:
            save_weights(self._weights(name), done.network, architecture=done.trial.architecture.digest)
        return done.trial

    def search(self, journal: Journal) -> list[Trial]:
        """Every trial of the study; what the journal holds already is not evaluated again."""
        c = self.config
        task = Task(
            space=self.space,
            objectives=c.objectives,
            constraints=self.bed.constraints,
            seed=c.seed,
            trials=c.trials,
            price=lambda architecture: quote(self.bed, architecture),
        )

        def one(architecture: Architecture, number: int, seed: int) -> Trial:
            done = evaluate(self.bed, lambda: self.shared, architecture, number=number, seed=seed)
            return self._keep(f"trial-{number}", done)

        def tell(trial: Trial) -> None:
            m = trial.metrics
            found = f"{m.accuracy_val:.3f} at {m.energy_uj:.3g} uJ" if m else trial.reason
            self.report("search", trial.number + 1, c.trials, f"{trial.status}: {found}")

        strategy = make_strategy(c.strategy, task)
        return run_study(strategy, one, journal, trials=c.trials, seed=c.seed, on_trial=tell)

    def static(self, journal: Journal) -> Evaluated:
        """The same backbone without exits, 8 bit, trained on its own, under its best mapping."""
        name, seed = "static", trial_seed(self.config.seed, 1)
        return self._finished(journal, name, STATIC_NUMBER, self.neutral, self.train_static, seed)

    def train_static(self) -> PreparedNetwork:
        """The static network with its bits, trained on; epochs that its checkpoint holds are not repeated."""
        seed = trial_seed(self.config.seed, 1)
        network = prepare_candidate(self.bed, self.reference, self.neutral, seed=seed)
        return self._train_on("static", network, seed=seed)

    def points(self, trials: Sequence[Trial], wanted: Sequence[int] = ()) -> list[Trial]:
        """The trials to be finished: those wanted by number, else along the front and right behind it.

        A tuned trial is a rough guess of a finished one, so without a wish up to `budget.finish_points` are finished.

        Raises:
            UserError: a wanted trial does not exist, or has no figures.
        """
        found = feasible(trials, self.bed.constraints)
        if not wanted:
            return worth_finishing(found, self.config.objectives, self.budget.finish_points)
        by_number = {t.number: t for t in found}
        for number in wanted:
            if number not in by_number:
                known = ", ".join(map(str, by_number)) or "none"
                raise UserError(f"trial {number}", wanted=f"feasible trials of this run ({known})", where="--finish")
        return [by_number[number] for number in dict.fromkeys(wanted)]

    def finish(self, journal: Journal, trials: Sequence[Trial], wanted: Sequence[int] = ()) -> list[Evaluated]:
        """Points trained on with their own precision, with figures on test data; those finished earlier come along.

        Each is offered exits that it may have dropped too early.
        """
        points, earlier = self.points(trials, wanted), {t.number for t in journal.trials(FINISH)}
        points += [t for t in trials if t.number in earlier - {p.number for p in points}]
        return [self._finish_point(journal, t, i, len(points)) for i, t in enumerate(points)]

    def _finish_point(self, journal: Journal, trial: Trial, index: int, total: int) -> Evaluated:
        self.report("finish", index, total, f"trial {trial.number}")
        name, wanted = f"point-{trial.number}", self._offered(trial)
        done = self._finished(journal, name, trial.number, wanted, partial(self.train_point, trial), trial.seed)
        self.report("finish", index + 1, total, f"trial {trial.number}")
        return done

    def _offered(self, trial: Trial) -> Architecture:
        """A trial with exits that it may have dropped too early; patience may drop none."""
        if self.config.policy == PATIENCE:
            return trial.architecture
        return with_offers(self.space, trial.architecture, self.branch_accuracies)

    def train_point(self, trial: Trial) -> PreparedNetwork:
        """A tuned trial with exits from the shared weights, trained on; epochs of its checkpoint are not repeated."""
        offered, name = self._offered(trial), f"point-{trial.number}"
        if self.budget.finish_float_epochs and not self.bed.frozen:
            network = prepare_candidate(self.bed, self._in_float(name, offered, trial.seed), offered, seed=trial.seed)
        else:
            network = prepare_candidate(self.bed, self.shared, offered, seed=trial.seed)
            take_layers(network, self._load(f"trial-{trial.number}", trial))
        return self._train_on(name, network, seed=trial.seed)

    def _in_float(self, name: str, architecture: Architecture, seed: int) -> EarlyExitNetwork:
        """A candidate cut out of the shared weights and trained in float after the teacher."""
        return self._train_float(
            "finish",
            cut_out(self.shared, architecture, seed=seed),
            self._weights(f"{name}-float"),
            epochs=self.budget.finish_float_epochs,
            seed=seed,
            teacher=self.teacher,
        )

    def _train_on(self, name: str, network: PreparedNetwork, *, seed: int) -> PreparedNetwork:
        """After the same teacher, static or with exits; a checkpoint per epoch lies beside the weights."""
        epochs, batch, checkpoint = self.budget.finish_epochs, self.budget.batch, self._checkpoint(name)
        return tune(
            self.bed, network, epochs=epochs, seed=seed + 1, teacher=self.teacher, batch=batch, checkpoint=checkpoint
        )

    @cached_property
    def branch_accuracies(self) -> dict[ExitChoice, float]:
        """Validation accuracy of every branch of the shared weights."""
        val = self.dataset.val
        found = accuracies(predict(self.shared, val.x), val.y)
        return dict(zip(self.shared.exits, found[:-1].tolist(), strict=True))

    def _load(self, name: str, trial: Trial) -> PreparedNetwork:
        """The network of a trial as it was written."""
        network = prepare_layers(self.bed, trial.architecture, self._bare(trial.architecture), seed=trial.seed)
        load_weights(self._weights(name), network)
        return network.eval()

    def _finished(
        self,
        journal: Journal,
        name: str,
        number: int,
        architecture: Architecture,
        train: Callable[[], PreparedNetwork],
        seed: int,
    ) -> Evaluated:
        """Train on, judge and read test; a point that the journal already holds is loaded."""
        phase = STATIC if number == STATIC_NUMBER else FINISH
        known = {t.number: t for t in journal.trials(phase)}.get(number)
        if known is not None:
            cost = price(self.bed, known.architecture, known.exit_rates)
            network = self._load(name, known)
            return Evaluated(trial=known, network=network, cost=cost, temperatures=_temperatures(known))
        network, first = train(), price(self.bed, architecture)
        done = with_test(
            self.bed, judge(self.bed, architecture, network, first, number=number, seed=seed, finished=True)
        )
        journal.append(self._keep(name, done), phase=phase)
        self._checkpoint(name).unlink(missing_ok=True)
        return done

    def _bare(self, architecture: Architecture) -> EarlyExitNetwork:
        return build(architecture, self.bed.full.input_shape, self.bed.full.classes, seed=0, full=self.bed.full)

    def bundle(self, done: Evaluated, path: Path) -> Path:
        """Write the bundle of a finished point."""
        assert done.network is not None and done.cost is not None and done.trial.metrics is not None
        trial, data = done.trial, self.dataset
        which = "static" if trial.number == STATIC_NUMBER else str(trial.number)
        network = convert(done.network, name=f"{self.bed.full.name}-{which}", temperatures=done.temperatures)
        figures = done.trial.metrics
        return write_bundle(
            path,
            network,
            thresholds=trial.thresholds,
            policy=self.bed.policy,
            operating_points=operating_points(trial),
            architecture=trial.architecture,
            mapping=done.cost.mapping,
            predicted=predicted(done.cost),
            metrics={
                "val": {"accuracy": figures.accuracy_val, "exit_rates": list(trial.exit_rates)},
                "test": {"accuracy": figures.accuracy_test, "exit_rates": trial.details["test_exit_rates"]},
            },
            class_names=data.class_names,
            data={"name": data.name, "seed": data.seed, "normalization": data.normalization.to_json()},
            seed=self.config.seed,
            versions=versions(),
        )


def _temperatures(trial: Trial) -> tuple[float, ...]:
    return tuple(trial.details["temperatures"])


def predicted(cost: NetworkCost) -> Predicted:
    """Prices of stages and branches for a manifest."""

    def part(cycles: float, picojoules: float) -> PartCost:
        return PartCost(latency_ms=cost.milliseconds(cycles), energy_uj=picojoules / 1e6)

    return Predicted(
        accelerator=cost.accelerator,
        stages=tuple(part(s.backbone_cycles, s.backbone_pj) for s in cost.stages),
        branches=tuple(part(s.branch_cycles, s.branch_pj) for s in cost.stages),
    )


def operating_points(trial: Trial) -> dict[str, OperatingPoint]:
    """Named threshold sets from the trial's accuracy/cost curve on validation data."""
    curve = trial.details.get("curve", [])
    if not curve or trial.status is not Status.OK:
        return {}
    return {
        name: OperatingPoint(split="val", **{k: curve[round(place * (len(curve) - 1))][k] for k in curve[0]})
        for name, place in POINTS.items()
    }
