"""Which way imports go: the picture in docs/design.md, held."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each layer may import itself and the ones before it.
LAYERS = [
    {
        "errors",
        "registration",
        "structures",
        "config",
        "paper",
        "grown",
        "runs",
        "progress",
        "show",
        "show_data",
        "suggestions",
        "offline",
    },
    {"data", "model", "distill.losses", "measure.metrics", "measure.selection", "train.optim"},
    {"train.inputs", "train.engine", "train.tracking"},
    {"train.launch", "train.checkpoint"},
    {"distill.teachers"},
    {"measure.evaluate", "measure.folder", "measure.mixers", "measure.heat_map"},
    {"measure.classifier", "measure.predict"},
    {"serve"},
    {"measure.cost", "measure.ensemble"},
    {"distill.checks", "distill.hidden"},
    {"distill.cache"},
    {"distill.signals"},
    {"train.loop"},
    {"train.rehearsal"},
    {"measure.machine"},
    {"measure.plan"},
    {"train.job", "demo", "doctor", "init"},
    {"cli"},
]
FILES = sorted(p for top in ("mbkd", "launchers", "tuning", "analysis") for p in (ROOT / top).rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int | None:
    """The layer of a module of mbkd, such as data.tokens or distill.losses.step_loss."""
    parts = module.split(".")
    for size in (2, 1):
        for number, names in enumerate(LAYERS):
            if ".".join(parts[:size]) in names:
                return number
    return None


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_one_way(file: Path):
    top, *rest = file.relative_to(ROOT).with_suffix("").parts
    for name in imports(file):
        other, _, module = name.partition(".")
        if other in {"launchers", "tuning", "analysis"}:
            assert other == top, f"{file} imports {name}: these never import each other, and mbkd never imports them"
        if top == "mbkd" and other == "mbkd" and rest != ["__init__"] and module and layer(module) is not None:
            mine = layer(".".join(rest))
            assert mine is not None, f"{file} is in no layer"
            assert layer(module) <= mine, f"{file} imports {name}, which stands above it"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("deepspeed", {"mbkd/train/engine.py"}),
        ("ray", {"tuning/pool.py"}),
    ],
)
def test_only_the_one_door_imports(package: str, allowed: set[str]):
    using = {str(f.relative_to(ROOT)) for f in FILES if any(n.split(".")[0] == package for n in imports(f))}
    assert using <= allowed


@pytest.mark.parametrize(
    "module",
    [
        "mbkd.cli",
        "mbkd.paper",
        "mbkd.runs",
        "mbkd.measure.metrics",
        "mbkd.measure.heat_map",
        "mbkd.data.batches",
        "analysis.report",
        "analysis.page",
        "analysis.errors, mbkd.data.tasks",
    ],
)
def test_light_modules_stay_free_of_torch(module: str):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
