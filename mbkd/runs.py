"""Run directories. config.yaml is written first; result.json is written last and marks a finished run."""

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mbkd import result
from mbkd.config import Config
from mbkd.errors import UserError
from mbkd.files import read_json, refuse_full, write_json, write_whole

PACKAGES = ("mbkd", "torch", "deepspeed", "transformers", "datasets", "tokenizers", "numpy")


def folder(root: Path, config: Config) -> Path:
    """Return the directory of a configuration's run. An older finished run may have a first-schema name."""
    run = root / config.run_name
    if not run.exists() and (earlier := config.first_run_name) is not None and finished(root / earlier):
        return root / earlier
    return run


def finished(run: Path) -> bool:
    """Whether a run directory has a result."""
    return (run / result.FILE).is_file()


def begin(run: Path, config: Config, device: dict[str, Any]) -> None:
    """Create the run directory with the resolved configuration and the environment. Raises UserError."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_whole(run / "config.yaml", config.dump().encode())
        write_json(run / "environment.json", environment() | device)
        (run / "metrics.jsonl").write_text("", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{run}: cannot be written ({error.strerror}); choose another place with --runs") from None


def resume(run: Path, step: int, metrics_bytes: int, device: dict[str, Any]) -> None:
    """Record in environment.json that the run resumes, and drop the metrics of repeated steps.

    metrics_bytes: the size of metrics.jsonl at this step. Raises UserError for a damaged environment.json.
    """
    record = read_json(run / "environment.json", "--fresh trains the run again")
    record.setdefault("resumed", []).append({"step": step, **environment(), **device})
    write_json(run / "environment.json", record)
    os.truncate(run / "metrics.jsonl", metrics_bytes)


def lock(root: Path, config: Config) -> FileLock:
    """Lock a run; the lock ends with the process at the latest. Raises UserError if another process holds it."""
    file = root / "store" / "locks" / f"{config.run_name}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        taken = FileLock(file)
        taken.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder(root, config)}: another process is working on this run") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); choose another place with --runs") from None
    return taken


def append_metrics(run: Path, lines: list[dict[str, Any]]) -> None:
    """Append all lines or none to metrics.jsonl. Raises UserError for a full disk."""
    file = run / "metrics.jsonl"
    before = file.stat().st_size if file.exists() else 0
    with refuse_full(file):
        try:
            with file.open("ab") as stream:
                stream.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        except OSError:
            os.truncate(file, before)  # removes a partly written line
            raise


def environment() -> dict[str, Any]:
    """Return versions, machine and git revision for environment.json."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    """Return the git revision of mbkd's checkout, with -dirty if files differ; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
