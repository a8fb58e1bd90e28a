"""Claims about the direction of imports, as in the picture in docs/design.md."""

import ast
import runpy
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# The layers of docs/design.md from the bottom up. Each layer imports itself and the layers below it.
LAYERS = [
    {"errors", "registration", "precision"},
    {"config"},
    {"files"},
    {"result", "runs", "terminal", "distributed"},
    {"data"},
    {"model"},
    {"provenance"},
    {"inputs"},
    {"evaluate"},
    {"distill", "ensemble"},
    {"train"},
    {"estimate", "predict", "onboarding"},
    {"serve", "demo"},
    {"api"},
    {"cli"},
]
OURS = {"mbkd", "launchers", "tuning", "analysis"}
OPTIONAL = {"wandb", "mlflow"}  # trackers that a user chooses and installs
FILES = sorted(p for top in ("mbkd", "launchers", "tuning", "analysis") for p in (ROOT / top).rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Return every module that a file imports, including imports inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int | None:
    """Return the layer of a module of mbkd, such as data.tokens or distill.losses.step_loss."""
    return next((number for number, names in enumerate(LAYERS) if module.split(".", maxsplit=1)[0] in names), None)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_to_lower_layers_only(file: Path):
    top, *rest = file.relative_to(ROOT).with_suffix("").parts
    for name in imports(file):
        other, _, module = name.partition(".")
        if other in {"launchers", "tuning", "analysis"}:
            assert other == top, f"{file} imports {name}: these never import each other, and mbkd never imports them"
        if (
            top == "mbkd"
            and other == "mbkd"
            and rest not in (["__init__"], ["__main__"])
            and module
            and layer(module) is not None
        ):
            mine = layer(".".join(rest))
            assert mine is not None, f"{file} is in no layer"
            assert layer(module) <= mine, f"{file} imports {name}, which is in a higher layer"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("deepspeed", {"mbkd/distributed.py", "mbkd/train/engine.py", "mbkd/distill/teachers.py"}),
        ("ray", {"tuning/pool.py"}),
    ],
)
def test_only_listed_modules_import(package: str, allowed: set[str]):
    using = {str(f.relative_to(ROOT)) for f in FILES if any(n.split(".")[0] == package for n in imports(f))}
    assert using <= allowed


@pytest.mark.parametrize(
    "module",
    [
        "mbkd.cli",
        "mbkd.config.paper",
        "mbkd.runs",
        "mbkd.evaluate.metrics",
        "mbkd.evaluate.heat_map",
        "mbkd.data.batches",
        "analysis.report",
        "analysis.page",
        "analysis.errors, mbkd.data.tasks",
    ],
)
def test_light_modules_stay_free_of_torch(module: str):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_package_that_is_imported_is_declared():
    """An undeclared package, installed only as a dependency, may disappear with the next version of its parent."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    declared = {canonicalize_name(Requirement(x).name) for x in chain(project["dependencies"], extras)}
    distributions = packages_distributions()
    for file in FILES:
        for package in {name.split(".")[0] for name in imports(file)} - sys.stdlib_module_names - OURS - OPTIONAL:
            names = {canonicalize_name(x) for x in distributions.get(package, [package])}
            assert names & declared, f"{file} imports {package}, which pyproject.toml does not name"


def test_wheels_hold_each_requirement_that_other_versions_of_the_given_packages_may_not_install():
    wheels = runpy.run_path(str(ROOT / "launchers" / "wheels.py"))

    def requirements(name):
        wishes = [Requirement(line) for line in requires(name) or ()]
        return {canonicalize_name(x.name) for x in wishes if x.marker is None or x.marker.evaluate({"extra": ""})}

    there = set(wheels["THERE"]).union(*map(requirements, wheels["THERE"]))
    collected = wheels["needed"](["mbkd"], wheels["direct"](wheels["THERE"])).keys()
    assert requirements("mbkd") | requirements("deepspeed") | {"mbkd"} <= collected | there
    assert not collected & there
