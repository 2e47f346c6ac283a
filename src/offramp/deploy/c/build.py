"""Compiles generated C with the machine's own compiler and runs it: predictions and times of stages and branches.

It knows no bundle and no exit policy: it takes a folder that `generate.write_c` filled.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.deploy.plan import Plan
from offramp.errors import InternalError, UserError

Ints = NDArray[np.int64]
STRICT = ("-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror")
FAST = ("-O3", "-march=native", *(("-mno-avx512f",) if platform.machine() in ("x86_64", "AMD64") else ()))
"""What measurements on the host compile with; gcc 12 makes these loops 1.5 times slower with AVX-512 than with AVX2."""
SANITIZED = ("-O2", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PROGRAM = "offramp_host"


@dataclass(frozen=True, slots=True, eq=False)
class HostRun:
    """Exit, class and scores of every sample."""

    exits: Ints
    labels: Ints
    scores: Ints


def parts_header(exits: int) -> str:
    """A switch over the stages and branches, for programs that time them one by one."""
    cases = "".join(
        f"    case {2 * i}: offramp_stage_{i}({'in' if i == 0 else ''}); break;\n"
        f"    case {2 * i + 1}: offramp_branch_{i}(); break;\n"
        for i in range(exits)
    )
    return (
        "static inline void offramp_part(int part, const int8_t *in) {\n"
        f"    switch (part) {{\n{cases}    default: break;\n    }}\n}}\n"
    )


def compiler() -> str:
    """The C compiler, `$CC` first.

    Raises:
        UserError: there is none.
    """
    for name in (os.environ.get("CC", ""), "gcc", "cc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise UserError("no C compiler", wanted="gcc or clang on the PATH", where="device c", write="apt-get install gcc")


def build_host(folder: str | Path, exits: int, flags: Sequence[str] = FAST) -> Path:
    """Compile generated C with a small program around it; returns the program.

    Raises:
        UserError: there is no compiler.
        InternalError: the generated code does not compile.
    """
    target = Path(folder)
    (target / "offramp_parts.h").write_text(parts_header(exits))
    main = target / "offramp_main.c"
    main.write_text(files("offramp.deploy.c").joinpath("host_main.c").read_text())
    program = target / PROGRAM
    command = [compiler(), *STRICT, *flags, "-o", str(program), str(target / "offramp.c"), str(main)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(f"generated C does not compile: {done.stderr[:2000]}")
    return program


def to_bytes(inputs: Ints) -> bytes:
    """Integers [N, C, H, W] as the C reads them: channels last, one byte each."""
    return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)).astype(np.uint8).tobytes()


def _run(command: list[str], data: bytes) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        raise InternalError(f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')[:2000]}")
    return done.stdout


def run_host(program: Path, plan: Plan, inputs: Ints) -> HostRun:
    """Predictions of a built program for integers [N, C, H, W]."""
    numbers = np.frombuffer(_run([str(program)], to_bytes(inputs)), dtype=np.int32)
    table = numbers.reshape(len(inputs), 2 + plan.network.classes).astype(np.int64)
    return HostRun(exits=table[:, 0], labels=table[:, 1], scores=table[:, 2:])


def time_host(program: Path, plan: Plan, inputs: Ints, rounds: int) -> Ints:
    """Nanoseconds [N, rounds, 2 * exits + 1]: stage 0, branch 0, stage 1, ..., and `offramp_predict` last."""
    raw = _run([*pinned(), str(program), "time", str(rounds)], to_bytes(inputs))
    return np.frombuffer(raw, dtype=np.int64).reshape(len(inputs), rounds, 2 * len(plan.stages) + 1)


def pinned() -> list[str]:
    """A prefix that keeps a program on one core, where the system offers it."""
    return ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
