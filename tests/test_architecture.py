"""The floor plan as law: who may import whom, no circles, no torch below, and the size budgets."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "offramp"
FILES = sorted(p for p in SOURCE.rglob("*.py"))
LEVEL = {
    "errors": 0, "target": 1, "ir": 1, "accelerators": 1, "formats": 2, "data": 2, "exits": 2,
    "cost": 3, "nn": 3, "learn": 3, "search": 3, "zoo": 3, "evaluate": 4, "deploy": 5, "report": 5, "fleet": 5,
    "config": 6, "contracts": 6, "designer": 6, "api": 7, "cli": 8, "__init__": 9, "__main__": 9,
}  # fmt: skip
SAME_LEVEL = {("learn", "nn"), ("designer", "config")}
NEVER = {
    ("deploy", "evaluate"),
    ("deploy", "nn"),
    ("deploy", "learn"),
    ("report", "evaluate"),
    ("report", "nn"),
}
TORCH_ROOMS = {"nn", "learn", "evaluate", "designer", "api", "cli", "fleet"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "util", "helper"}


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    known = {module_of(p) for p in FILES}
    return {m for m in imports_of(path) if m in known and m != "offramp"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_point_down(path: Path) -> None:
    here = room_of(module_of(path))
    for target in own_imports(path):
        there = room_of(target)
        allowed = here == there or LEVEL[there] < LEVEL[here] or (here, there) in SAME_LEVEL
        assert allowed and (here, there) not in NEVER, f"{here} -> {there}: {path} imports {target}"


def test_no_import_circles() -> None:
    graph = {module_of(p): own_imports(p) - {module_of(p)} for p in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"circle: {' -> '.join((*trail, module))}"
        if module in done:
            return
        for target in graph[module]:
            if not module.startswith(target + "."):
                visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_torch_stays_in_its_rooms(path: Path) -> None:
    uses = any(m == "torch" or m.startswith("torch.") for m in imports_of(path))
    assert not uses or room_of(module_of(path)) in TORCH_ROOMS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "module docstring missing"
    assert len(path.read_text().splitlines()) <= 500
    assert path.stem not in FORBIDDEN_NAMES


def function_lengths() -> dict[str, int]:
    lengths = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lengths[f"{path.relative_to(SOURCE)}:{node.name}:{node.lineno}"] = (
                    (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 1
                )
    return lengths


def test_functions_are_short() -> None:
    lengths = function_lengths()
    long = {k: v for k, v in lengths.items() if v > 60}
    assert not long, long
    assert statistics.median(lengths.values()) <= 8


def test_every_raises_has_match() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
                assert any(k.arg == "match" for k in node.keywords), (
                    f"{path}:{node.lineno}: pytest.raises without match"
                )
