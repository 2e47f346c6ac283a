"""Readers of accelerators: our format, ZigZag's, Stream's, tables; every fault named, never a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from damaged_files import damaged_bytes, damaged_document, damaged_text
from offramp.errors import AccelerationError, FormatError
from offramp.formats.accelerator_yaml import accelerator_from_data, load_accelerator, shipped_accelerators
from offramp.formats.strict_yaml import parse_yaml
from offramp.formats.table_yaml import table_row
from offramp.ir.accelerator import Accelerator, CoreKind, Move, Operand
from offramp.ir.workload import Layer, Op

GOLDEN = Path(__file__).parent / "golden" / "zigzag"

OWN = """
name: chip
clock_mhz: 100
cores:
  - name: core
    kind: digital
    ops: [conv]
    array: {dimensions: {D1: 4, D2: 4}, mac_pj: 0.1}
    memories:
      - {name: sram, size_bytes: 4096, read_bits_per_cycle: 64, write_bits_per_cycle: 64, read_pj: 1, write_pj: 1}
      - name: dram
        size_bytes: 100000
        ports: 1rw
        read_bits_per_cycle: 32
        write_bits_per_cycle: 32
        read_pj: 9
        write_pj: 9
        off_chip: true
"""

ZIGZAG = """
name: core
memories:
  rf:
    {size: 16, r_cost: 0.1, w_cost: 0.1, area: 0, latency: 1, operands: [O], served_dimensions: [],
     ports: [{name: r_port_1, type: read, bandwidth_min: 16, bandwidth_max: 16, allocation: ["O, tl", "O, th"]},
             {name: w_port_1, type: write, bandwidth_min: 16, bandwidth_max: 16, allocation: ["O, fh", "O, fl"]}]}
  dram:
    {size: 10000000, r_cost: 10, w_cost: 10, area: 0, latency: 1, operands: [I1, I2, O], served_dimensions: [D1],
     ports: [{name: rw_port_1, type: read_write, bandwidth_min: 64, bandwidth_max: 64,
              allocation: ["I1, fh", "I1, tl", "I2, fh", "I2, tl", "O, fh", "O, tl", "O, fl", "O, th"]}]}
operational_array: {unit_energy: 0.1, unit_area: 0, dimensions: [D1], sizes: [8]}
"""

OLD = """
name: old
memories:
  dram:
    size: 10000000
    r_bw: 64
    w_bw: 32
    r_cost: 10
    w_cost: 10
    area: 0
    r_port: 0
    w_port: 0
    rw_port: 1
    latency: 1
    min_r_granularity: 16
    operands: [I1, I2, O]
    ports:
      - {fh: rw_port_1, tl: rw_port_1}
      - {fh: rw_port_1, tl: rw_port_1}
      - {fh: rw_port_1, tl: rw_port_1, fl: rw_port_1, th: rw_port_1}
    served_dimensions: [D1, D2]
multipliers: {input_precision: [8, 8], multiplier_energy: 0.5, multiplier_area: 0, dimensions: [D1, D2], sizes: [3, 3]}
dataflows:
  D1: ["FX, 3"]
"""

TABLE = """
name: board
clock_mhz: 80
active_mw: 30
measured:
  - {op: dense, sizes: {K: 10, C: 64}, latency_us: 12.5}
  - {op: dense, sizes: {K: 10, C: 640}, latency_us: 100}
"""


def load(text: str, where: str = "chip.yaml") -> Accelerator:
    return accelerator_from_data(parse_yaml(text, where), Path(where))


def changed(text: str, *path: str | int, value: Any) -> str:
    data = yaml.safe_load(text)
    at = data
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return str(yaml.safe_dump(data))


def test_shipped_accelerators_load() -> None:
    names = shipped_accelerators()
    assert {"diana", "diana-hierarchy", "edge-tpu-quad"} <= set(names)
    for name in names:
        assert load_accelerator(name).name == name


def test_edge_tpu_quad_is_the_chip_of_the_seed_case() -> None:
    chip = load_accelerator("edge-tpu-quad")
    core = chip.core("core0")
    assert core.array is not None
    assert core.array.units == 1024
    assert [m.size_bits // 8 for m in core.memories] == [4, 4, 32 * 1024, 2 * 1024 * 1024, 1_250_000_000]
    assert sum(1 for link in chip.links if {link.source, link.target} <= {f"core{i}" for i in range(4)}) == 4
    assert chip.core("core3").memories == core.memories


def test_zigzag_and_older_spellings_are_read_as_they_are() -> None:
    new, old = load(ZIGZAG), load(OLD)
    assert new.cores[0].memories[1].off_chip
    assert new.cores[0].memories[0].port(Operand.O, Move.FROM_LOW) is not None
    array = old.cores[0].array
    assert array is not None
    assert array.dataflow == (("D1", (("FX", 3),)),)
    port = old.cores[0].memories[0].ports[0]
    assert (port.bits_per_cycle, port.granularity_bits) == (32, 16)


def test_in_memory_arrays_of_zigzag(tmp_path: Path) -> None:
    text = changed(ZIGZAG, "operational_array", value={
        "is_imc": True, "imc_type": "analog", "input_precision": [8, 8], "bit_serial_precision": 2,
        "adc_resolution": 8, "dimensions": ["D1", "D2"], "sizes": [32, 32],
    })  # fmt: skip
    with pytest.raises(FormatError, match="a memory called cells"):
        load(text)
    assert load_accelerator(GOLDEN / "in-memory-analog.yaml").cores[0].kind is CoreKind.IN_MEMORY


def test_stream_system_with_pooling_simd_and_off_chip_cores(tmp_path: Path) -> None:
    (tmp_path / "cores").mkdir()
    (tmp_path / "core.yaml").write_text(ZIGZAG)
    (tmp_path / "cores" / "old.yaml").write_text(OLD)
    system = tmp_path / "system.yaml"
    system.write_text(
        "name: two\ncores: [core.yaml, core.yaml, old.yaml, old.yaml, old.yaml]\n"
        "graph: {type: 2d_mesh, nb_rows: 1, nb_cols: 2, bandwidth: 32, unit_energy_cost: 0,"
        " pooling_core_id: 2, simd_core_id: 3, offchip_core_id: 4}\n"
    )
    chip = load_accelerator(system)
    assert chip.core_names == ("core0", "core1", "pooling2", "simd3")
    assert chip.core("pooling2").ops == (Op.MAX_POOL, Op.AVG_POOL)
    assert chip.core("simd3").ops == (Op.ADD,)
    assert chip.offchip is not None
    assert {(link.source, link.target) for link in chip.links} >= {("core0", "core1"), ("core1", "pooling2")}
    unrolled = "dataflows: {D1: ['K, 4']}\n"
    (tmp_path / "cores" / "old.yaml").write_text(OLD[: OLD.index("dataflows")] + unrolled)
    (tmp_path / "core.yaml").write_text(ZIGZAG + unrolled)
    flows = {c.name: c.array.dataflow for c in load_accelerator(system).cores if c.array is not None}
    assert flows["core0"] == (("D1", (("K", 4),)),)
    assert flows["pooling2"] == flows["simd3"] == (("D1", (("G", 4),)),)  # channels of pooling and additions
    (tmp_path / "core.yaml").unlink()
    with pytest.raises(FormatError, match=r"\$.cores\[0\]: no file core.yaml"):
        load_accelerator(system)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("cores", 0, "adc_bits"), 6, r"\$.cores\[0\].adc_bits: unknown key"),
        (("cores", 0, "memories", 0, "size_kb"), 4, r"memories\[0\].size_kb: unknown key, write size_b"),
        (("cores", 0, "memories", 0, "size_bytes"), -1, r"\$.cores\[0\].memories\[0\].size_bytes: .*greater than 0"),
        (("cores", 0, "memories", 0, "read_bits_per_cycle"), 0, r"read_bits_per_cycle: .*greater than 0"),
        (("cores", 0, "memories", 0, "size_bytes"), "4 KB", r"size_bytes: .*integer.*4 KB"),
        (("cores", 0, "memories", 0, "read_pj"), float("nan"), r"read_pj: .*finite"),
        (("cores", 0, "memories", 0, "serves"), ["D7"], r"serves: unknown dimension D7, the array has D1, D2"),
        (("cores", 0, "array", "dataflow"), {"D1": {"K": 8}}, r"dataflow.D1: unrolls 8 over 4"),
        (("cores", 0, "ops"), ["convolution"], r"\$.cores\[0\].ops\[0\]"),
        (("cores", 0, "kind"), "analog", r"\$.cores\[0\].analog: an analog core needs it"),
        (("links",), [{"between": ["core", "x"], "bits_per_cycle": 8}], r"\$.links\[0\].between: unknown core x"),
        (("clock_mhz",), 0, r"\$.clock_mhz: .*greater than 0"),
        (("cores",), [], r"\$.cores: .*at least 1"),
    ],
)
def test_faults_of_our_format_name_their_path(path: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load(changed(OWN, *path, value=value))


def test_all_faults_at_once() -> None:
    text = changed(changed(OWN, "clock_mhz", value=-1), "cores", 0, "memories", 0, "size_bytes", value=0)
    with pytest.raises(FormatError, match=r"2 faults: .*clock_mhz.*size_bytes"):
        load(text)


def test_missing_operand_is_named() -> None:
    text = changed(changed(OWN, "cores", 0, "memories", 1, "operands", value=["I", "O"]),
                   "cores", 0, "memories", 0, "operands", value=["I"])  # fmt: skip
    with pytest.raises(FormatError, match="no memory holds operand W"):
        load(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("memories", "dram", "operands"), ["I1", "X"], r"\$.memories.dram.operands\[1\]"),
        (("memories", "dram", "operands"), ["O"], "no memory holds I, W"),
        (("memories", "dram", "served_dimensions"), ["D4"], "unknown dimension D4"),
        (("memories", "rf", "r_cost"), None, r"\$.memories.rf.r_cost: missing"),
        (("operational_array", "sizes"), [0], "leaves no units"),
        (("operational_array", "sizes"), [8, 8], "2 sizes for 1 dimensions"),
        (("dataflows",), {"D1": ["K 8"]}, "is not a loop and a factor"),
        (("speed",), 1, r"\$.speed: unknown key"),
    ],
)
def test_faults_of_zigzag_files_name_their_path(path: tuple[str, ...], value: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load(changed(ZIGZAG, *path, value=value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b", "line 2: duplicate key 'name'"),
        ("a: [1, 2", "wanted YAML"),
        ("a: &x 1\nb: *x", "aliases are not read"),
        ("- 1", "not a mapping"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("[" * 3000, "not YAML"),
        ("2001-99-99: 1", "not YAML"),
    ],
)
def test_text_that_is_no_description(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load(text)


def test_missing_file_and_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        load_accelerator(tmp_path / "none.yaml")
    with pytest.raises(AccelerationError, match="unknown accelerator 'tpu', and no such file; wanted one of diana"):
        load_accelerator("tpu")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match=r"not UTF-8|not YAML"):
        load_accelerator(tmp_path / "bytes.yaml")


def test_a_table_of_measured_times() -> None:
    chip = load(TABLE)
    assert chip.cores[0].ops == (Op.DENSE,)
    layer = Layer(name="fc", op=Op.DENSE, K=10, C=64)
    row = table_row(layer, 12.5)
    assert row == {"op": "dense", "sizes": {"K": 10, "C": 64}, "weight_bits": 8, "input_bits": 8, "output_bits": 8,
                   "latency_us": 12.5}  # fmt: skip
    again = {"name": "board", "clock_mhz": 80.0, "measured": [row]}
    assert load(str(yaml.safe_dump(again))).cores[0].measured[0] == chip.cores[0].measured[0]
    with pytest.raises(FormatError, match=r"\$.measured\[2\]: the same layer as \$.measured\[0\]"):
        load(changed(TABLE, "measured", value=[*yaml.safe_load(TABLE)["measured"], row]))
    with pytest.raises(FormatError, match=r"\$.measured\[0\].latency_us"):
        load(changed(TABLE, "measured", 0, "latency_us", value=0))


STREAM = """
name: two
cores: {0: tpu-core.yaml, 1: tpu-core.yaml, 2: old-core.yaml, 3: old-core.yaml}
offchip_core_id: 3
pooling_core_id: 2
bandwidth: 64
core_connectivity: ["0, 1", {type: link, cores: [1, 2], bandwidth: 32}]
"""
MESH = """
name: mesh
cores: [tpu-core.yaml, tpu-core.yaml, old-core.yaml]
graph: {type: 2d_mesh, nb_rows: 1, nb_cols: 2, bandwidth: 32, unit_energy_cost: 0, offchip_core_id: 2}
"""
GOOD = [yaml.safe_load(text) for text in (OWN, ZIGZAG, OLD, TABLE, STREAM, MESH)]
KNOWN = (
    "D1", "I1", "O", "K, 4", "conv", "all", "rw_port_1", "I1, tl", "hierarchy", "analog", "in_memory", "diana-analog",
    "size_bits", "tpu-core.yaml", "../secret", "\x00", "\ud800", "x" * 5000, "0, 1, 2", 0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a system's core files lie beside it."""
    folder = tmp_path_factory.mktemp("stream")
    (folder / "tpu-core.yaml").write_text(ZIGZAG)
    (folder / "old-core.yaml").write_text(OLD)
    return folder / "system.yaml"


def read_or_refused_in_one_line(read: Callable[[], Accelerator]) -> None:
    try:
        read()
    except (FormatError, AccelerationError) as error:
        assert str(error).isprintable()


def test_undamaged_descriptions_are_read(system: Path) -> None:
    for data in GOOD:
        assert accelerator_from_data(data, system).cores


@pytest.mark.reader
@given(data=damaged_document(GOOD, KNOWN))
@settings(max_examples=300)
def test_damaged_descriptions_never_end_in_a_traceback(system: Path, data: Any) -> None:
    read_or_refused_in_one_line(lambda: accelerator_from_data(data, system))


@pytest.mark.reader
@given(text=damaged_text([OWN, ZIGZAG, OLD, TABLE, STREAM, MESH]))
@settings(max_examples=300)
def test_damaged_text_never_ends_in_a_traceback(system: Path, text: str) -> None:
    read_or_refused_in_one_line(lambda: load(text, str(system)))


@pytest.mark.reader
@given(content=damaged_bytes([OWN.encode(), ZIGZAG.encode(), b"\xff\xfe" + TABLE.encode("utf-16-le")]))
@settings(max_examples=100)
def test_damaged_files_never_end_in_a_traceback(system: Path, content: bytes) -> None:
    file = system.with_name("damaged.yaml")
    file.write_bytes(content)
    read_or_refused_in_one_line(lambda: load_accelerator(file))


@pytest.mark.reader
@given(text=damaged_text([ZIGZAG, OLD]))
@settings(max_examples=100)
def test_damaged_core_files_of_a_system_never_end_in_a_traceback(system: Path, text: str) -> None:
    core = system.with_name("damaged-core.yaml")
    core.write_text(text, encoding="utf-8", errors="replace")
    data = {"name": "two", "cores": ["tpu-core.yaml", core.name]}
    read_or_refused_in_one_line(lambda: accelerator_from_data(data, system))
