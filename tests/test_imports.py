"""Imports run one way, so that a part can be read, tested and changed without those built on it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import tiny_audio

PACKAGE = Path(tiny_audio.__file__).parent
LAYERS = [
    {"errors", "config", "config_errors", "custom_metrics", "files", "lengths", "pages", "pocket", "progress"},
    {"decoders", "decoding", "spooled"},
    {"audio", "mel", "text", "pieces", "prompt"},
    {"data"},
    {"model"},
    {"evaluation"},
    {"training"},
    {"inference", "inspection", "judge", "publish", "benchmark", "plot", "sweep", "formats"},
    {"serve"},
    {"cli", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a module imports, wherever in the file it does."""
    parts = ("tiny_audio", *path.relative_to(PACKAGE).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(parts[: -node.level]) if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*module, alias.name] for alias in node.names] if len(module) == 1 else [module]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "tiny_audio" and len(name) > 1}
    return found - {"__version__"}


def imported_modules(path: Path) -> set[Path]:
    """Modules of the package that a module imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            places = [base / alias.name for alias in node.names] + [base]
            found |= {file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")}
    return {file for file in found if file.is_file()} - {PACKAGE / "__init__.py", path}


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({path: imported_modules(path) for path in PACKAGE.rglob("*.py")}).prepare()


def test_every_room_has_a_level():
    rooms = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert rooms - {"__pycache__", "configs", "py"} <= set(LEVEL)


def test_imports_run_one_way():
    wrong = []
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for other in imported_rooms(path):
            seen += 1
            if LEVEL[other] > LEVEL[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert seen > 30, "the walk found the package's imports"
    assert wrong == []
