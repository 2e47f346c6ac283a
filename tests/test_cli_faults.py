"""What users get wrong at the shell: one line with what was given and wanted, exit code 2, nothing begun or lost."""

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cli_inside import Done, offramp
from deploy_networks import resnet8
from offramp.cli.app import run
from offramp.data.dataset import load_dataset
from offramp.deploy.bundle import write_bundle
from offramp.ir.architecture import Architecture
from offramp.ir.trial import Status, Trial
from offramp.search.journal import Journal

COMMANDS = ("export", "run", "measure", "profile", "price", "report", "search")
BASE = ("search", "--data", "digits", "--backbone", "resnet8", "--accelerator", "diana", "--subset", "100")
PRICE = ("price", "resnet8", "--accelerator", "diana")
SHORT = ("--epochs", "1", "--tune-epochs", "0", "--finish-epochs", "0")


def refused(done: Done, *parts: str) -> None:
    """One line on stderr with these parts, nothing on stdout, exit code 2."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert done.stderr.startswith("offramp: ") and "internal error" not in done.stderr
    for part in parts:
        assert part in done.stderr


def with_options(words: Iterable[str], changes: dict[str, str]) -> list[str]:
    """A command in which options have other values."""
    command = list(words)
    for option, value in changes.items():
        if option in command:
            command[command.index(option) + 1] = value
        else:
            command += [option, value]
    return command


SEARCH: dict[str, tuple[str, str]] = {
    "--data": ("digit", "unknown dataset 'digit', and no such file or folder; wanted one of digits, cifar10"),
    "--backbone": ("resnet9", "--backbone: unknown backbone 'resnet9'; wanted one of dscnn"),
    "--accelerator": ("dianna", "--accelerator: unknown accelerator 'dianna', and no such file; wanted one of diana"),
    "--objectives": ("accuracy,energy", "--objectives: unknown objective 'energy'; wanted one of accuracy"),
    "--strategy": ("nsga3", "--strategy: unknown strategy 'nsga3'; wanted one of nsga2, random"),
    "--policy": ("max", "--policy: unknown exit policy 'max'; wanted one of entropy"),
    "--execution": ("fast", "--execution: unknown execution 'fast'; wanted one of best"),
    "--without": ("exit", "unknown part of the space 'exit'; wanted one of analog"),
    "--constraint": ("latency_ms<=5ms", "wanted no unit: it stands in the name; write latency_ms<=5"),
    "--widen": ("1e9", "--widen: a widening of 1000000000.0; wanted a factor of 1 to 16; write --widen 2"),
    "--guarantee": ("never wrong", "--guarantee 'never wrong': not a guarantee; wanted accuracy drop <= NUMBER %"),
    "--trials": ("many", "'--trials': Input should be a valid integer"),
    "--epochs": ("0", "'--epochs': Input should be greater than or equal to 1 (given '0')"),
    "--seed": ("-1", "'--seed': Input should be greater than or equal to 0 (given '-1')"),
    "--subset": ("3", "subset 3; wanted 20 to 1438 samples"),
    "--accuracy-drop": ("2", "--accuracy-drop: an accuracy drop of 2.0; wanted a fraction"),
    "--space": ("none.yaml", "none.yaml: cannot be read: No such file"),
}


@pytest.mark.parametrize("option", sorted(SEARCH))
def test_a_wrong_option_of_search_begins_nothing(option: str, tmp_path: Path) -> None:
    """The run folder is not made: the corrected command starts in a clean one."""
    value, message = SEARCH[option]
    refused(offramp(*with_options(BASE, {option: value, "--run": str(tmp_path / "run")})), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("serach",), "No such command 'serach'. Did you mean 'search'?; write offramp --help"),
        (("search", "--data", "digits"), "Missing option '--backbone'; write offramp search --help"),
        (("search", "--data"), "Option '--data' requires an argument"),
        (("run",), "Missing argument 'bundle'; write offramp run --help"),
        (("report", "x", "--colour", "red"), "No such option: --colour"),
        (("price", "resnet8", "resnet20", "--accelerator", "diana"), "unexpected extra argument(s) (resnet20)"),
        (("run", "x", "--data", "digits", "--limit=0"), "'--limit': Input should be greater"),
        (("measure", "x", "--rounds", "1"), "greater than or equal to 5 (given '1')"),
        (("measure", "x", "--rounds", "9", "--rounds", "1"), "greater than or equal to 5 (given '1')"),
        ((*BASE, "--guarantee", ""), "--guarantee '': not a guarantee; wanted accuracy drop <= NUMBER %"),
        ((*PRICE, "--branch", "gap"), "--branch: unknown exit branch 'gap'; wanted one of"),
        ((*PRICE, "--objective", "time"), "--objective: unknown objective 'time'; wanted one of edp"),
        ((*PRICE, "--classes", "99999999999"), "--classes: 99999999999; wanted 2 to 1,048,576 classes"),
        ((*PRICE, "--input-shape", "3,32"), "--input-shape: 3,32; wanted C,H,W, three positive sizes; write 3,32,32"),
        ((*PRICE, "--input-shape", "3;32"), "--input-shape: '3;32'; wanted numbers with commas between; write 3,32,32"),
        ((*PRICE, "--input-shape", f"3,{2**70},3"), "wanted sizes of 1 or more, together at most 268,435,456 values"),
        ((*PRICE, "--gantt", "none/x.html"), "--gantt: none is no folder; wanted a file in a folder that exists"),
        (("profile", "t.yaml", "--backbone", "dscnn", "--weight-bits", "9"), "--weight-bits: '9'; wanted bits from 2"),
        (("report", ".", "--out", "x.html", "--svg", "./x.html"), "--out and --svg: x.html twice; wanted two files"),
    ],
)
def test_a_command_line_that_makes_no_sense(words: tuple[str, ...], message: str) -> None:
    refused(offramp(*words), message)


@pytest.mark.parametrize("columns", [60, 100])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    overview = offramp()
    assert overview == offramp("--help") and overview.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} .*\.$", overview.stdout, re.MULTILINE), f"{command} is cut short"
        shown = offramp(command, "--help")
        assert shown.returncode == 0 and "\x1b" not in shown.stdout
        assert max(map(len, shown.stdout.splitlines())) <= columns
        options = re.findall(r"^  (--\S+)(.*)$", shown.stdout, re.MULTILINE)
        assert options and all(text.strip() for _, text in options)


CHIP: dict[str, Any] = {
    "name": "chip",
    "clock_mhz": 100,
    "cores": [
        {
            "name": "core",
            "kind": "digital",
            "ops": ["conv", "depthwise", "dense", "add", "max_pool", "avg_pool"],
            "array": {"dimensions": {"D1": 4, "D2": 4}, "mac_pj": 0.1},
            "memories": [
                {
                    "name": "sram", "size_bytes": 4096, "read_bits_per_cycle": 64, "write_bits_per_cycle": 64,
                    "read_pj": 1, "write_pj": 1,
                },
                {
                    "name": "dram", "size_bytes": 10**8, "read_bits_per_cycle": 32, "write_bits_per_cycle": 32,
                    "read_pj": 9, "write_pj": 9, "off_chip": True,
                },
            ],
        }
    ],
}  # fmt: skip
CORE, SRAM = "$.cores[0]", "$.cores[0].memories[0]"
CHIPS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (lambda c: c.update(adc_bits=6), f"{CORE}.adc_bits: unknown key"),
    "key with a slip": (lambda c: c["memories"][0].update(size_byte=6), f"{SRAM}.size_byte: unknown key, write size_b"),
    "wrong unit": (lambda c: c["memories"][0].update(size_bytes="4 KB"), f"{SRAM}.size_bytes: "),
    "unit in the value": (lambda c: c["memories"][0].update(read_pj="1 pJ"), "the unit stands in the key"),
    "negative size": (lambda c: c["memories"][0].update(size_bytes=-4), "greater than 0 (given -4)"),
    "no bandwidth": (lambda c: c["memories"][0].update(read_bits_per_cycle=0), f"{SRAM}.read_bits_per_cycle: "),
    "unknown dimension": (lambda c: c["memories"][0].update(serves=["D9"]), "unknown dimension D9, the array has D1"),
    "missing operand": (lambda c: [m.update(operands=["I", "O"]) for m in c["memories"]], "no memory holds operand W"),
    "no room": (lambda c: [m.update(size_bytes=1) for m in c["memories"]], "no core has room for conv layer"),
    "operator": (lambda c: c.update(ops=["conv"]), "no core runs"),
    "bits": (lambda c: c.update(weight_bits=[16]), "no core runs conv layer block0.conv"),
}


@pytest.mark.parametrize("case", sorted(CHIPS))
def test_a_chip_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    change, message = CHIPS[case]
    chip = yaml.safe_load(yaml.safe_dump(CHIP))
    change(chip["cores"][0])
    file = tmp_path / "chip.yaml"
    file.write_text(yaml.safe_dump(chip))
    refused(offramp("price", "resnet8", "--accelerator", str(file)), message)
    if case in ("no room", "operator", "bits"):
        refused(offramp(*with_options(BASE, {"--accelerator": str(file), "--run": str(tmp_path / "run")})), "no core")
        assert not (tmp_path / "run").exists()


def test_the_chip_that_the_faults_start_from_is_sound(tmp_path: Path) -> None:
    (tmp_path / "chip.yaml").write_text(yaml.safe_dump(CHIP))
    assert offramp("price", "resnet8", "--accelerator", str(tmp_path / "chip.yaml")).returncode == 0
    (tmp_path / "chip.yaml").write_text(yaml.safe_dump(CHIP) + "name: again\n")
    refused(offramp("price", "resnet8", "--accelerator", str(tmp_path / "chip.yaml")), "duplicate key 'name'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widths: {block0.conv: []}", "$.widths.block0.conv: no choices"),
        ("widths: {block0.conv: {min: 32, max: 8}}", "bounds reversed: min 32 is above max 8"),
        ("widths: {block0.conv: [512]}", "512 channels, wanted 1 to 16"),
        ("bits: {block0.conv: {weights: [3]}}", "$.bits.block0.conv: 3-bit weights: training offers 2, 4, 8"),
        ("exits: {0: [gap_fc], 0: [gap_fc]}", "line 1: duplicate key 0"),
        ("exitz: {}", "$.exitz: unknown key"),
    ],
)
def test_a_space_that_offers_nothing_usable(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    changes = {"--space": str(tmp_path / "space.yaml"), "--run": str(tmp_path / "run")}
    refused(offramp(*with_options(BASE, changes)), "space.yaml", message)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_dataset("digits", seed=3)
    network = resnet8(shape=data.input_shape, widths=(4, 4, 4), classes=10)
    stored = {"name": "digits", "seed": 3, "normalization": data.normalization.to_json()}
    return write_bundle(tmp_path_factory.mktemp("faults") / "b", network, thresholds=(0.5, 0.5), data=stored, seed=3)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return apply


def part(latency: float) -> dict[str, float]:
    return {"latency_ms": latency, "energy_uj": 1.0}


THREE = [[[1.0]]] * 3
BUNDLES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda b: (b / "stage_0.onnx").write_bytes(b"\x08"), "stage_0.onnx does not have its checksum"),
    "incomplete": (lambda b: (b / "stage_1.onnx").unlink(), "stage_1.onnx is missing; wanted every file"),
    "newer": (edited(lambda m: m.update(version=2)), "version 2; wanted version 1; a newer Offramp may read it"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "no manifest.json; wanted a bundle folder"),
    "no JSON": (lambda b: (b / "manifest.json").write_text("{"), "not JSON"),
    "outside": (edited(lambda m: m["files"].update({"../x": "0" * 64})), "$.files.../x"),
    "seed": (edited(lambda m: m.update(seed=-5)), "$.seed: Input should be greater than or equal to 0"),
    "no thresholds": (edited(lambda m: m.update(operating_points={})), "no operating point 'default'"),
    "rates": (edited(lambda m: m["operating_points"]["default"].update(exit_rates=[1])), "1 exit rates"),
    "costs": (
        edited(lambda m: m.update(predicted={"accelerator": "x", "stages": [part(1)], "branches": []})),
        "predicted cost of 1 stages and 0 branches; wanted of 3 each",
    ),
    "normalization": (edited(lambda m: m["data"].update(normalization={"mean": 1})), "data.normalization: not a norm"),
    "shape of it": (
        edited(
            lambda m: m["data"].update(
                normalization={"mean": [[[1.0]]] * 3, "std": [[[1.0]]] * 3, "scale": 1, "zero": 0}
            )
        ),
        "data.normalization: mean of shape (3, 1, 1); wanted (1, 1, 1)",
    ),
}


@pytest.mark.parametrize("case", sorted(BUNDLES))
def test_a_bundle_that_cannot_be_trusted(case: str, bundle: Path, tmp_path: Path) -> None:
    damage, message = BUNDLES[case]
    copy = tmp_path / "b"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damage(copy)
    refused(offramp("run", str(copy), "--data", "digits", "--limit", "5"), message)


X = np.random.default_rng(0).integers(0, 255, (60, 1, 8, 8), dtype=np.uint8)
Y = np.arange(60) % 10
DATA: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"x": X.reshape(60, 64), "y": Y}, "x has shape (60, 64); wanted 3 or 4 axes; write x.reshape"),
    "another network's": ({"x": X[:, :, :4], "y": Y}, "samples (1, 4, 8) with 10 classes; wanted (1, 8, 8)"),
    "classes": ({"x": X, "y": Y % 3}, "with 3 classes; wanted (1, 8, 8) with 10 classes"),
    "labels": ({"x": X, "y": Y - 1}, "label -1 of sample 0; wanted 0 to 8"),
    "nan": ({"x": np.where(X[7, 0, 0, 0] == X, np.nan, 1.0), "y": Y}, "holds NaN or infinity; wanted finite numbers"),
    "huge": ({"x": X * 1e300, "y": Y}, "wanted numbers up to 1e+18"),
    "type": ({"x": X.astype(str), "y": Y}, "x of type <U3; wanted integers or floats"),
}


@pytest.mark.parametrize("case", sorted(DATA))
def test_data_that_a_network_cannot_take(case: str, bundle: Path, tmp_path: Path) -> None:
    arrays, message = DATA[case]
    np.savez(tmp_path / "mine.npz", **arrays)
    refused(offramp("run", str(bundle), "--data", str(tmp_path / "mine.npz")), message)


def test_data_that_is_cut_off(bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=X, y=Y)
    (tmp_path / "mine.npz").write_bytes((tmp_path / "mine.npz").read_bytes()[:500])
    refused(offramp("run", str(bundle), "--data", str(tmp_path / "mine.npz")), "mine.npz: truncated or damaged")
    (tmp_path / "mine.npz").write_text("x,y")
    refused(offramp("run", str(bundle), "--data", str(tmp_path / "mine.npz")), "mine.npz: no .npz file")


def test_places_that_cannot_be_written(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    refused(offramp(*BASE, "--run", str(file)), "cannot be written: File exists; wanted a writable run folder")
    refused(offramp(*BASE, "--run", str(file / "run")), "cannot be written: Not a directory")
    for name, message in (("report.html", "is no file of a run"), ("bundle", "is no bundle"), ("result.json", "is no")):
        theirs = tmp_path / f"with-{name}"
        theirs.mkdir()
        (theirs / name).write_text("mine")
        refused(offramp(*BASE, "--run", str(theirs)), f"{name} exists and {message}")
        assert [p.name for p in theirs.iterdir()] == [name] and (theirs / name).read_text() == "mine"
    refused(offramp("export", str(bundle), str(file), "--to", "c"), "is a file; wanted a folder")
    refused(offramp("export", str(bundle), str(file / "x.onnx"), "--to", "onnx"), "wanted a path that can be")
    refused(offramp("report", str(tmp_path), "--out", str(tmp_path)), "is a folder; wanted a file to write")
    refused(
        offramp("report", str(tmp_path), "--out", str(file / "x")), "--out: ", "file is no folder; wanted a file in"
    )
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    refused(
        offramp("export", str(bundle), str(loop), "--to", "onnx"), "loop: Too many levels of symbolic links; wanted"
    )
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    measured = ("measure", str(bundle), "--data", "digits", "--out", str(tmp_path / "m.yaml"))
    refused(offramp(*measured), f"--out: {tmp_path} cannot be written in; wanted a folder of your own")
    assert file.read_text() == "mine"


def damaged_run(folder: Path, *statements: str) -> Path:
    """A run folder with one trial, on which SQL was let loose."""
    folder.mkdir()
    with Journal.open(folder / "journal.sqlite", {"seed": 0}) as journal:
        architecture = Architecture(backbone="resnet8")
        journal.append(Trial(number=0, architecture=architecture, status=Status.FAILED, seed=1, reason="nan"))
    database = sqlite3.connect(folder / "journal.sqlite")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    return folder


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("PRAGMA user_version=7", "a journal of version 7; wanted version 1, or another run folder"),
        ("PRAGMA application_id=5", "not a journal of Offramp"),
        ("UPDATE trial SET json='[1'", "damaged: Expecting"),
        ("UPDATE trial SET json='{}'", "damaged: not a trial: 'number'"),
    ],
)
def test_a_run_folder_of_another_version_or_damaged(statement: str, message: str, tmp_path: Path) -> None:
    folder = damaged_run(tmp_path / "run", statement)
    refused(offramp("report", str(folder)), "journal.sqlite: ", message)
    if "PRAGMA" in statement:
        before = (folder / "journal.sqlite").read_bytes()
        refused(offramp(*BASE, "--run", str(folder)), "journal.sqlite: ", message)
        assert (folder / "journal.sqlite").read_bytes() == before


def test_another_configuration_says_what_differs(tmp_path: Path) -> None:
    folder = damaged_run(tmp_path / "run")
    refused(offramp(*BASE, "--run", str(folder)), "begun with another configuration: ", "write --run runs/another-name")


def test_a_floor_that_nothing_meets_ends_with_the_nearest_and_exit_code_2(tmp_path: Path) -> None:
    limits = ("--trials", "1", "--constraint", "accuracy>=0.9999", "--run", str(tmp_path / "run"))
    done = offramp(*BASE, *SHORT, *limits)
    assert done.returncode == 2 and "static" in done.stdout
    assert "the front is empty: none of 1 trials meets accuracy>=0.9999; trial 0 misses by" in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.fixture
def small_disk() -> Iterator[Callable[[], None]]:
    """No file may grow beyond 200 kB, as on a disk that is nearly full, until what is handed out is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_our_fault_and_the_same_command_goes_on(small_disk: Callable[[], None], tmp_path: Path) -> None:
    command = (*BASE, *SHORT, "--trials", "1", "--run", str(tmp_path / "run"))
    done = offramp(*command)
    assert done.returncode == 1 and "internal error" not in done.stderr
    assert "weights could not be written" in done.stderr.splitlines()[-1]
    assert "Free some disk space and run the same command again" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run").rglob("*.part"))
    small_disk()
    assert offramp(*command).returncode == 0


def test_ctrl_c_is_one_line_and_keeps_the_journal(tmp_path: Path) -> None:
    """Into a pipe there are lines and no bars; what was journalled before the interruption is there after it."""
    command = [sys.executable, "-m", "offramp", *BASE, *SHORT, "--trials", "200", "--run", str(tmp_path / "run")]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as search:
        assert search.stderr is not None
        seen = ""
        for line in search.stderr:
            seen += line
            if line.startswith("search 1/200"):
                search.send_signal(signal.SIGINT)
                break
        rest = search.stderr.read()
    assert search.returncode == 130
    assert rest.splitlines()[-1] == "offramp: interrupted; what was found is kept, the same command continues"
    assert "\x1b" not in seen + rest and "━" not in seen + rest and "Traceback" not in rest
    with Journal.read(tmp_path / "run" / "journal.sqlite") as journal:
        assert len(journal.trials()) >= 1


def test_an_interrupt_while_commands_are_imported_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match=r"^130$"):
        run(interrupted)
    assert capsys.readouterr().err.startswith("offramp: interrupted; ")
