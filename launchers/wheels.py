"""Pack what a machine without a network lacks into one folder: `make wheels`, then copy the folder there.

usage: python launchers/wheels.py [--out wheels] [--there torch transformers ...] [--python 3.12]

Packs mbkd, DeepSpeed, which the index has as source only, and all that these need beside the packages that are there
already, in the versions of constraints.txt. Ray, which only a sweep needs, is left out unless --sweeps is given.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# What a machine for training has with all that it needs, as clusters' modules and images do.
THERE = ("torch", "transformers", "scikit-learn", "pandas", "pyarrow")
MANYLINUX = (28, 27, 24, 17, 12, 5)  # glibc's minor versions; pip matches each exactly


def needed(names: list[str]) -> dict[str, str]:
    """The packages that some need, these included, with the versions that are installed here."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, set[str]]] = [(name, set()) for name in names]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, frozenset(extras)) in done:
            continue
        done.add((name, frozenset(extras)))
        found[name] = metadata.version(name)
        for line in metadata.requires(name) or ():
            wish = Requirement(line)
            if wish.marker is None or any(wish.marker.evaluate({"extra": x}) for x in ("", *extras)):
                waiting.append((re.sub(r"[-_.]+", "-", wish.name).lower(), wish.extras))
    return found


def pip(*arguments: str) -> None:
    """Run pip, with DeepSpeed's operations left to be compiled where they are used, which mbkd never does."""
    environment = os.environ | {"DS_BUILD_OPS": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: pip {' '.join(arguments)}\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("wheels"), help="the folder (default: wheels)")
    parser.add_argument("--there", nargs="*", default=THERE, help=f"packages there (default: {' '.join(THERE)})")
    parser.add_argument("--python", help="version of Python there, such as 3.12 (default: this one's), on x86-64 Linux")
    parser.add_argument("--sweeps", action="store_true", help="with Ray")
    wanted = parser.parse_args()
    missing = needed(["mbkd"])
    if not wanted.sweeps:
        ray = needed(["ray"])
        others = [x for x in metadata.requires("mbkd") or () if "extra ==" not in x and not x.startswith("ray")]
        kept = needed([re.sub(r"[-_.]+", "-", Requirement(x).name).lower() for x in others])
        missing = {name: version for name, version in missing.items() if name in kept or name not in ray}
    there = needed([*wanted.there, "pip"])
    missing = {name: version for name, version in missing.items() if name not in there}
    for name in ("mbkd", "deepspeed"):
        missing.pop(name, None)
    shutil.rmtree(wanted.out, ignore_errors=True)
    out = ["--quiet", "--no-deps"]
    pip("wheel", *out, "--wheel-dir", str(wanted.out), str(ROOT))
    # Without a build environment of its own: DeepSpeed's setup looks at the torch that is here.
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
        f"{sum(file.stat().st_size for file in files) / 1e6:6.1f} MB in {len(files)} wheels; there, without a network:"
    )
    print(f"pip install --no-index --no-deps {wanted.out.name}/*.whl")


if __name__ == "__main__":
    main()
