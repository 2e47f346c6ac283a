"""The generated C on a Cortex-M4: cross-compiled with Debian's gcc, run under QEMU (mps2-an386) with semihosting.

QEMU counts instructions exactly (`-icount`) but models no pipeline and no memory: these are instructions, not cycles.
"""

import shutil
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.deploy.c.build import STRICT, parts_header, to_bytes
from offramp.deploy.plan import Plan
from offramp.errors import InternalError, UserError

Ints = NDArray[np.int64]
GCC, SIZE, QEMU = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
PACKAGES = "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
TARGET = ("-mcpu=cortex-m4", "-mthumb", "-ffunction-sections", "-fdata-sections")
TIMED = 3
"""Samples whose stages and branches are counted one by one (as in `cortex_main.c`)."""


@dataclass(frozen=True, slots=True, eq=False)
class CortexRun:
    """What a Cortex-M4 did.

    Attributes:
        exits, labels: per sample.
        instructions: of `offramp_predict`, per sample.
        parts: of stage 0, branch 0, stage 1, ..., each on its own; the median of the first samples.
    """

    exits: Ints
    labels: Ints
    instructions: Ints
    parts: Ints


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of flash (code, constants, initial data) and of static RAM of the network alone."""

    flash_bytes: int
    ram_bytes: int


def missing_tools() -> list[str]:
    """Which of the needed programs are not installed."""
    return [tool for tool in (GCC, SIZE, QEMU) if shutil.which(tool) is None]


def _call(command: list[str], where: Path, timeout: float) -> str:
    try:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise InternalError(f"{command[0]} took more than {timeout:.0f} s") from error
    if done.returncode:
        raise InternalError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[:2000]}")
    return done.stdout


def build_cortex(folder: str | Path, exits: int, optimization: str = "-O2") -> Path:
    """Cross-compile generated C with a small program around it; returns the program.

    Raises:
        UserError: a tool is not installed.
        InternalError: the code does not compile.
    """
    missing, target = missing_tools(), Path(folder).resolve()
    if missing:
        raise UserError(f"{', '.join(missing)} not found", wanted="the tools", where="device qemu-m4", write=PACKAGES)
    (target / "offramp_parts.h").write_text(parts_header(exits))
    room = files("offramp.deploy.c")
    for name in ("cortex_main.c", "mps2.ld"):
        (target / name).write_text(room.joinpath(name).read_text())
    flags = [*STRICT, *TARGET, optimization]
    _call([GCC, *flags, "-c", "offramp.c", "-o", "offramp_m4.o"], target, 300)
    link = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-T", "mps2.ld"]
    _call([GCC, *flags, *link, "cortex_main.c", "offramp_m4.o", "-o", "offramp_m4.elf"], target, 300)
    return target / "offramp_m4.elf"


def footprint(program: Path) -> Footprint:
    """Flash and RAM of the network's object file, from `arm-none-eabi-size`."""
    line = _call([SIZE, "offramp_m4.o"], program.parent, 60).splitlines()[1].split()
    text, data, bss = (int(v) for v in line[:3])
    return Footprint(flash_bytes=text + data, ram_bytes=data + bss)


def run_cortex(program: Path, plan: Plan, inputs: Ints, *, timeout: float = 600) -> CortexRun:
    """Run integers [N, C, H, W] on the emulated board."""
    folder = program.parent
    (folder / "samples.bin").write_bytes(to_bytes(inputs))
    board = [QEMU, "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=5"]
    _call([*board, "-semihosting-config", "enable=on,target=native", "-kernel", program.name], folder, timeout)
    raw = np.frombuffer((folder / "results.bin").read_bytes(), dtype=np.uint32).astype(np.int64)
    table = raw.reshape(-1, 3 + 2 * len(plan.stages))
    if len(table) != len(inputs):
        raise InternalError(f"the board answered {len(table)} of {len(inputs)} samples")
    parts = np.median(table[:TIMED, 3:], axis=0).astype(np.int64)
    return CortexRun(exits=table[:, 0], labels=table[:, 1], instructions=table[:, 2], parts=parts)
