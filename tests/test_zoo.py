"""Zoo entries: written, read back, refused when anything is off, started from, as accurate as their cards say."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import offramp
from cli_inside import offramp as command
from offramp.api import open_backbone
from offramp.config import Budget
from offramp.data import Dataset, Split, load_dataset
from offramp.errors import DataError, FormatError, UserError
from offramp.formats.accelerator_yaml import load_accelerator
from offramp.ir.architecture import Architecture, ExitChoice
from offramp.learn.predict import accuracies, predict
from offramp.learn.weights import fill, load_weights
from offramp.nn.describe import describe
from offramp.nn.network import EarlyExitNetwork
from offramp.nn.shared import cut_out, supernet
from offramp.nn.widen import widen
from offramp.search.derive import derive_space
from offramp.zoo.card import CARD, LARGEST, MAX_BYTES, SHARED, STATIC
from offramp.zoo.entry import Entry, check_data, entries, find_entry, halved, read_entry, write_entry

DATA = Path(os.environ.get("OFFRAMP_SHARED") or Path(__file__).parents[2] / "shared") / "data"
ENTRIES = entries()
BUDGET = Budget(shared_epochs=1, static_epochs=1, tune_epochs=0, finish_epochs=0, finish_points=2)


def arrays(network: EarlyExitNetwork) -> dict[str, Any]:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def card_of(dataset: Dataset, exits: tuple[ExitChoice, ...]) -> dict[str, Any]:
    listed = [{"mounting_point": e.mounting_point, "branch": e.branch, "accuracy": 0.5} for e in exits]
    return {
        "format": "offramp-zoo",
        "version": 1,
        "backbone": "resnet8",
        "data": {
            "name": dataset.name, "seed": dataset.seed, "input_shape": list(dataset.input_shape),
            "classes": dataset.classes, "train_samples": len(dataset.train),
            "normalization": dataset.normalization.to_json(), "source": "scikit-learn", "licence": "CC BY 4.0",
        },
        "recipe": {
            "command": "offramp search", "commit": "0123abc", "seed": 0, "shared_epochs": 1, "static_epochs": 1,
            "accelerator": "diana", "machine": "a test", "versions": {"offramp": "0.1.0"},
        },
        "accuracy": {"samples": 10, "static": 0.5, "final": 0.5, "exits": listed},
    }  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", seed=0)


@pytest.fixture(scope="module")
def made(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Entry:
    """An entry of untrained weights, as large as a real one."""
    full = open_backbone("resnet8", digits)
    space = derive_space(describe(full), load_accelerator("diana"))
    shared = supernet(full, [ExitChoice(p, kind) for p, kinds in space.exits for kind in kinds], seed=5)
    static = supernet(full, (), seed=6)
    folder = tmp_path_factory.mktemp("zoo") / "resnet8-digits"
    return write_entry(folder, card_of(digits, shared.exits), arrays(shared), arrays(static))


def test_what_was_written_is_read_back_in_half_precision(made: Entry, digits: Dataset) -> None:
    shared = arrays(supernet(open_backbone("resnet8", digits), made.card.exits, seed=5))
    read = made.shared
    assert read.keys() == shared.keys()
    for name, value in shared.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_allclose(read[name], value, rtol=1e-3, atol=1e-7)
    assert made.bytes < 2 * MAX_BYTES and (made.folder / SHARED).stat().st_size < MAX_BYTES


Change = Callable[[Path], object]


def card_with(path: str, value: object) -> Change:
    def change(folder: Path) -> None:
        card = yaml.safe_load((folder / CARD).read_text())
        *keys, last = path.split(".")
        place = card
        for key in keys:
            place = place[key]
        place[last] = value
        (folder / CARD).write_text(yaml.safe_dump(card))

    return change


def flip(name: str) -> Change:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(bytes(content))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / CARD).unlink(), r"no card\.yaml; wanted the folder of a zoo entry"),
        (card_with("format", "offramp-bundle"), r"\$\.format"),
        (card_with("version", 2), r"\$\.version"),
        (card_with("colour", "red"), r"\$\.colour: unknown key"),
        (card_with("accuracy.static", 1.5), r"\$\.accuracy\.static"),
        (card_with("accuracy.static", float("nan")), r"\$\.accuracy\.static"),
        (card_with("recipe.commit", "yesterday"), r"\$\.recipe\.commit"),
        (card_with("files", {SHARED: "0" * 64}), f"no checksum for {STATIC}"),
        (card_with("files", {"../shared.safetensors": "0" * 64}), r"\$\.files"),
        (lambda f: (f / CARD).write_text("a: 1\na: 2\n"), "duplicate key 'a'"),
        (lambda f: (f / CARD).write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda f: (f / SHARED).unlink(), "shared.safetensors is missing"),
        (lambda f: (f / STATIC).unlink(), "static-float.safetensors is missing"),
        (flip(SHARED), "does not have its checksum"),
        (flip(STATIC), "does not have its checksum"),
        (lambda f: (f / SHARED).write_bytes(b"x" * (MAX_BYTES + 1)), f"wanted at most {MAX_BYTES}"),
    ],
)
def test_a_damaged_entry_is_one_clear_error(made: Entry, tmp_path: Path, change: Change, message: str) -> None:
    folder = tmp_path / "entry"
    shutil.copytree(made.folder, folder)
    change(folder)
    with pytest.raises(FormatError, match=message):
        entry = read_entry(folder)
        assert entry.shared and entry.static


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.array([np.nan], np.float32), "reaches nan"), (np.array([1e6], np.float32), "reaches 1e")],
)
def test_numbers_that_half_precision_cannot_hold_are_refused(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        halved({"w": values})


def test_other_splits_subsets_and_data_are_refused(made: Entry, digits: Dataset) -> None:
    check_data(made, digits)
    with pytest.raises(UserError, match=r"split by seed 1; wanted seed 0: .*write --seed 0"):
        check_data(made, load_dataset("digits", seed=1))
    with pytest.raises(UserError, match="no subset"):
        check_data(made, load_dataset("digits", seed=0, subset=400))
    other = replace(digits.normalization, mean=digits.normalization.mean + 0.1)
    with pytest.raises(UserError, match="other means and deviations"):
        check_data(made, replace(digits, normalization=other))


def test_what_the_zoo_does_not_have_is_named(made: Entry) -> None:
    with pytest.raises(UserError, match="no trained weights of dscnn on digits; wanted"):
        find_entry("zoo", "dscnn", "digits")
    with pytest.raises(UserError, match="no trained weights of resnet20 on digits; wanted resnet8 on digits"):
        find_entry(made.folder, "resnet20", "digits")
    with pytest.raises(FormatError, match="no card"):
        find_entry(made.folder.parent, "resnet8", "digits")


def test_a_study_starts_from_an_entry(made: Entry, digits: Dataset, tmp_path: Path) -> None:
    """Both float trainings are skipped: what lies in the run folder is what the entry holds."""
    settings: dict[str, Any] = {"start": str(made.folder), "trials": 2, "budget": BUDGET, "seed": 0}
    result = offramp.design("digits", "resnet8", "diana", run=tmp_path / "run", **settings)
    full = open_backbone("resnet8", digits)
    for name, exits, stored in (("shared", made.card.exits, made.shared), ("weights/static-float", (), made.static)):
        kept = supernet(full, exits, seed=0)
        load_weights(result.run / f"{name}.safetensors", kept)
        for key, value in arrays(kept).items():
            np.testing.assert_array_equal(value, stored[key])
    with pytest.raises(FormatError, match=r"start is absent here"):
        offramp.design("digits", "resnet8", "diana", run=tmp_path / "run", **{**settings, "start": None})


def test_a_wide_entry_brings_its_largest_network_and_the_exits_to_choose_from(digits: Dataset, tmp_path: Path) -> None:
    full, exits = widen(open_backbone("resnet8", digits), 2), (ExitChoice(1, "maxpool_fc"), ExitChoice(2, "gap_fc"))
    largest = supernet(full, (), seed=7)
    static = cut_out(supernet(full, (), seed=6), Architecture(backbone=full.name, widths=full.reference))
    given = [arrays(n) for n in (supernet(full, exits, seed=5), static, largest)]
    card = card_of(digits, exits) | {"widen": 2}
    entry = write_entry(tmp_path / "wide", card, *given)
    assert find_entry(entry.folder, "resnet8-x2", "digits").bytes > 2 * (entry.folder / LARGEST).stat().st_size
    with pytest.raises(UserError, match="no trained weights of resnet8 on digits; wanted resnet8-x2 on digits"):
        find_entry(entry.folder, "resnet8", "digits")
    settings: dict[str, Any] = {"start": str(entry.folder), "trials": 2, "budget": BUDGET, "seed": 0, "widen": 2}
    result = offramp.design("digits", "resnet8", "diana", run=tmp_path / "run", **settings)
    assert {e for t in result.trials for e in t.architecture.exits} <= set(exits)
    for name, network in (("static-float", static), ("largest-float", largest)):
        load_weights(result.run / "weights" / f"{name}.safetensors", network)
        for key, value in arrays(network).items():
            np.testing.assert_array_equal(value, entry.read(f"{name}.safetensors")[key])
    with pytest.raises(FormatError, match=f"no checksum for {LARGEST}"):
        write_entry(tmp_path / "less", card, *given[:2])


def test_freezing_and_starting_from_the_zoo_exclude_each_other(made: Entry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--freeze with --from"):
        offramp.design("digits", "resnet8", "diana", run=tmp_path, start=str(made.folder), freeze=True)


def test_the_command_lists_the_entries() -> None:
    done = command("zoo")
    assert done.returncode == 0
    for entry in ENTRIES:
        assert entry.name in done.stdout


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_entries_of_the_package_are_as_accurate_as_their_cards_say(entry: Entry) -> None:
    card, seen = entry.card, entry.card.accuracy
    try:
        dataset = load_dataset(card.data.name, data_dir=_folder(card.data.name), seed=card.data.seed)
    except DataError as error:
        pytest.skip(f"{card.data.name} is not at hand: {error}")
    check_data(entry, dataset)
    full = widen(open_backbone(card.backbone, dataset), card.widen)
    part = Split(dataset.val.x[: seen.samples], dataset.val.y[: seen.samples])
    assert len(part) == seen.samples and seen.samples >= min(1000, len(dataset.val))
    static = cut_out(supernet(full, (), seed=0), Architecture(backbone=full.name, widths=full.reference))
    for network, arrays_, wanted in (
        (static, entry.static, [seen.static]),
        (supernet(full, card.exits, seed=0), entry.shared, [*(e.accuracy for e in seen.exits), seen.final]),
    ):
        fill(network, arrays_, where=entry.name)
        found = accuracies(predict(network.eval(), part.x), part.y)
        np.testing.assert_allclose(found, wanted, atol=0.0021)


def _folder(name: str) -> Path | None:
    """Where the shared data folder keeps a dataset; None leaves it to OFFRAMP_DATA."""
    return DATA / name if (DATA / name).is_dir() else None
