"""Collect wheels for a machine without a network: run `make wheels`, then copy the folder.

usage: python launchers/wheels.py [--out wheels] [--there torch transformers ...] [--python 3.12]

Collects mbkd, DeepSpeed and their dependencies in the versions of constraints.txt, except packages that the machine
already has (--there) and the direct dependencies of those packages. DeepSpeed is built from source, because the index
has no wheel. Ray, which only sweeps need, is included with --sweeps only.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Container, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Packages that environment modules and container images of clusters provide.
THERE = ("torch", "transformers", "scikit-learn", "pandas", "pyarrow")
MANYLINUX = (28, 27, 24, 17, 12, 5)  # minor versions of glibc; pip matches each exactly


def direct(names: Sequence[str]) -> set[str]:
    """Return the packages `names` and their direct dependencies.

    Dependencies of dependencies differ between versions: an older transformers needs typer, but not pydantic.
    """
    wishes = [Requirement(line) for name in names for line in metadata.requires(name) or ()]
    return {
        *names,
        *(canonicalize_name(x.name) for x in wishes if x.marker is None or x.marker.evaluate({"extra": ""})),
    }


def needed(names: list[str], there: Container[str] = ()) -> dict[str, str]:
    """Return the packages `names` and their dependencies, except `there`, with the installed versions."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, set[str]]] = [(name, set()) for name in names if name not in there]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, frozenset(extras)) in done:
            continue
        done.add((name, frozenset(extras)))
        found[name] = metadata.version(name)
        for line in metadata.requires(name) or ():
            wish = Requirement(line)
            wanted = wish.marker is None or any(wish.marker.evaluate({"extra": x}) for x in ("", *extras))
            if wanted and canonicalize_name(wish.name) not in there:
                waiting.append((canonicalize_name(wish.name), wish.extras))
    return found


def pip(*arguments: str) -> None:
    """Run pip without compiling DeepSpeed's operations, which mbkd does not use."""
    environment = os.environ | {"DS_BUILD_OPS": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: pip {' '.join(arguments)}\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("wheels"), help="the folder (default: wheels)")
    parser.add_argument(
        "--there", nargs="*", default=THERE, help=f"packages on the other machine (default: {' '.join(THERE)})"
    )
    parser.add_argument("--python", help="Python version there, such as 3.12, on x86-64 Linux (default: this one)")
    parser.add_argument("--sweeps", action="store_true", help="include Ray")
    wanted = parser.parse_args()
    there = direct([*wanted.there, "pip"])
    missing = needed(["mbkd"], there if wanted.sweeps else {*there, "ray"})
    for name in ("mbkd", "deepspeed"):
        missing.pop(name, None)
    shutil.rmtree(wanted.out, ignore_errors=True)
    out = ["--quiet", "--no-deps"]
    pip("wheel", *out, "--wheel-dir", str(wanted.out), str(ROOT))
    # No build isolation, because DeepSpeed's setup imports the installed torch.
    pip(
        "wheel",
        *out,
        "--no-build-isolation",
        "--wheel-dir",
        str(wanted.out),
        f"deepspeed=={metadata.version('deepspeed')}",
    )
    target = ["--only-binary=:all:"]
    if wanted.python:
        target += ["--python-version", wanted.python, "--implementation", "cp"]
        for minor in MANYLINUX:
            target += ["--platform", f"manylinux_2_{minor}_x86_64"]
        target += ["--platform", "manylinux2014_x86_64"]
    names = [f"{name}=={version}" for name, version in sorted(missing.items())]
    pip("download", *out, *target, "--dest", str(wanted.out), *names)
    files = sorted(wanted.out.glob("*.whl"), key=lambda file: -file.stat().st_size)
    for file in files:
        print(f"{file.stat().st_size / 1e6:6.1f} MB  {file.name}")
    print(
        f"{sum(file.stat().st_size for file in files) / 1e6:6.1f} MB in {len(files)} wheels; on the other machine, run:"
    )
    print(f"pip install --no-index --no-deps {wanted.out.name}/*.whl")


if __name__ == "__main__":
    main()
