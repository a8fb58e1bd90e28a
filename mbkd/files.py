"""Atomic files and folders, and the hashes that detect changes of them."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mbkd.errors import UserError

MANIFEST = "manifest.json"
REPEAT = 60.0  # seconds between two such reports
PATIENCE = 5.0  # seconds before a process reports that it waits for another one
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger(__name__)


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file that mbkd has written. Raises UserError with the remedy if it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); {remedy}") from None
    return found


def write_json(file: Path, value: Any) -> None:
    """Write a value as a JSON file, as `write_whole` does."""
    write_whole(file, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_whole(file: Path, content: bytes) -> None:
    """Write a file atomically, even if power is lost. Raises UserError for a full disk."""
    with refuse_full(file), beside(file) as part, part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def beside(file: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces the file at the end, and is removed after an error."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces the folder at the end, and is removed after an error."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def refuse_full(place: Path) -> Iterator[None]:
    """Convert the error of a full disk or quota to a UserError that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno not in {*FULL, None}:  # None: numpy's error for a truncated array
            raise
        reason = error.strerror or str(error)
        raise UserError(f"{place}: cannot be written ({reason}); make room, then run the same command again") from None


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def digest(file: Path, store: Path | None = None) -> str:
    """Return the SHA-256 of a file. The file is read again only if its size, inode or a time has changed.

    store: keeps hashes for other processes; None keeps them in this process only.
    """
    stat = file.stat()
    # The inode's change time is included, because a copy can have any modification time.
    return _digest((str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino), store)


@functools.cache
def _digest(seen: tuple[str | int, ...], store: Path | None) -> str:
    name = str(seen[0])
    if store is None:
        return sha256(Path(name))
    kept = store / "hashes" / f"{fingerprint(name)[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not hashed yet
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before["seen"] == list(seen):
            return str(before["sha256"])
    found = sha256(Path(name))
    with contextlib.suppress(OSError, UserError):  # on a full or read-only disk, the next process reads the file again
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"seen": seen, "sha256": found})
    return found


def fingerprint(made_from: Any) -> str:
    """Return the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


class Store:
    """A folder that is built once and atomically, and named by the hash of its inputs.

    folder       <path>-<hash>
    fingerprint  the full hash of `made_from`
    lock         held by the building process; the system releases it when the process ends
    """

    def __init__(self, path: Path, made_from: dict[str, Any]):
        self.made_from, self.fingerprint = made_from, fingerprint(made_from)
        self.folder = path.with_name(f"{path.name}-{self.fingerprint[:16]}")
        self.lock = FileLock(f"{self.folder}.lock")

    def problem(self, checksums: bool = True) -> str:
        """Return the first problem with the sizes and checksums of the folder's files, or ""."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            for name, file in manifest["files"].items():
                if (size := (self.folder / name).stat().st_size) != file["bytes"]:
                    return f"{name} has {size:,} bytes, not {file['bytes']:,}"
                if checksums and sha256(self.folder / name) != file["sha256"]:
                    return f"{name} differs from the written file (another checksum)"
            return "" if manifest["fingerprint"] == self.fingerprint else f"{MANIFEST} is another store's"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{MANIFEST} is damaged"

    def open(self, write: Callable[[Path], dict[str, Any]], verified: bool = False) -> None:
        """Build the folder unless it is complete. If several processes call, one builds and the others wait.

        write: as in `build`. verified: another process has just compared the checksums.
        """
        if not self.problem(checksums=not verified):  # without the lock, to open stores on a read-only disk
            return
        with refuse_full(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=PATIENCE)
        except Timeout:
            # Repeated, because a sweep stops a trial that prints nothing for `--hang-minutes`.
            while not self.lock.is_locked:
                log.warning("waiting for another process that builds %s", self.folder.name)
                with contextlib.suppress(Timeout):
                    self.lock.acquire(timeout=REPEAT)
        try:
            if problem := self.problem():  # empty if another process has built it meanwhile
                if self.folder.exists():
                    log.warning("%s: %s; it is built again", self.folder, problem)
                self.build(write)
        finally:
            self.lock.release()

    def build(self, write: Callable[[Path], dict[str, Any]]) -> None:
        """Build in a temporary folder, then rename it. The lock must be held.

        write: gets an empty folder for its files, and returns entries for the manifest. Raises UserError for a full
        disk, and then removes the files.
        """
        part = self.folder.with_name(f"{self.folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # left by a killed process
        try:
            with refuse_full(self.folder):
                part.mkdir()
                manifest = {"fingerprint": self.fingerprint, "made_from": self.made_from, **write(part)}
                files = {x.name: {"bytes": x.stat().st_size, "sha256": sha256(x)} for x in sorted(part.iterdir())}
                write_json(part / MANIFEST, manifest | {"files": files})
                shutil.rmtree(self.folder, ignore_errors=True)  # a damaged one
                part.rename(self.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # exists only after an error


def refuse_file(root: Path) -> Path:
    """Return the folder of run directories, as given with --runs. Raises UserError for a file."""
    if root.exists() and not root.is_dir():
        raise UserError(f"--runs {root}: is a file; name a folder")
    return root
