"""The folder of a run: made for it alone, locked while the run is at work, and pointed to by runs/latest.

The locks are the kernel's, on the file `lock` in the folder: they end with their process, however that ends.
"""

import errno
import fcntl
import itertools
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from scripts.errors import FullDiskError, is_full
from scripts.folders import leftover
from scripts.phrases import some
from training.tracking.store import RECORDS

RUNS, LATEST, LOCK = Path("runs"), Path("runs/latest"), "lock"
OF_RUNS = ("last.pt", "checkpoint.pt", "history.csv")  # what tells a run's folder: each run writes them
# beside those: what a run, or a sweep for its trial, writes before them; a shell may write a .log there for it
BEFORE_THEM = {LOCK, *RECORDS, "params.yaml", "output.txt"}
TRIES, PAUSE_S = 20, 0.05  # whoever asks whether a run is at work has the lock for a moment
TAKEN = (errno.EACCES, errno.EAGAIN)
# a byte for the process that started the run, and one for rank 0, which may outlive it; both are the same process in most runs
STARTER, RANK_0, BOTH = (1, 0), (1, 1), (2, 0)  # number of bytes, the first of them


def new_folder() -> Path:
    """A new folder in runs/, named by the time in UTC, that no other run has. ValueError if none can be made."""
    if gone := leads_nowhere(RUNS):
        raise ValueError(f"{gone}: make that folder, or remove the link")
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    try:
        RUNS.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = RUNS / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise _unwritable(RUNS, error) from error
    raise AssertionError("count() has no end")


def named_folder(out: Path) -> Path:
    """`out`, or where it leads if it is a link such as runs/latest, which the run itself may change. ValueError if that is gone."""
    if gone := leads_nowhere(out):
        raise ValueError(f"{gone}: {known_runs()}")
    if not out.is_symlink():
        return out
    folder = out.resolve()
    return Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder


def check_exists(folder: Path) -> None:
    """ValueError, with the runs that there are, unless a run's folder exists."""
    if not folder.is_dir():
        raise ValueError(f"{leads_nowhere(folder) or f'there is no run {folder}'}: {known_runs()}")


def leads_nowhere(path: Path) -> str:
    """Which of the path and the folders above it is a link to nothing, in a sentence; "" if none is."""
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            return f"{link} leads to {link.resolve()}, which does not exist"
    return ""


def known_runs() -> str:
    """What to do where a run is missing: the runs in runs/, the newest first."""
    if leads_nowhere(RUNS):
        return "make that folder, or remove the link"
    found = [file.parent for name in OF_RUNS for file in RUNS.glob(f"*/{name}") if not file.parent.is_symlink()]
    runs = sorted(set(found), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return (
        f"name one that is there (RUN=, RESUME=): {some(map(str, runs))}" if runs else f"no run is in {RUNS}; make train starts one"
    )


def _check_own(out: Path) -> None:
    """ValueError if a folder that is no run's holds files or folders: a run would write among them."""
    if not out.is_dir() or any((out / name).exists() for name in OF_RUNS):
        return
    names = sorted(path.name for path in out.iterdir() if not _of_a_run(path.name))
    if names:
        raise ValueError(
            f"{out} is no run's folder, and holds {some(names)}: give a new or an empty folder, such as RUN=runs/mine (--out)"
        )


def _of_a_run(name: str) -> bool:
    return name in BEFORE_THEM or name.endswith((".part", ".log")) or leftover(name) is not None


@contextmanager
def at_work(out: Path, pid: int, part: tuple[int, int] = BOTH) -> Iterator[None]:
    """Within this `with`, nobody else trains into `out`, which is made if need be, and removed if nothing is written into it.

    `pid` is the process that ends the run. `part` is BOTH for a run of one process, else STARTER and RANK_0 for those two.
    ValueError if a run is at work there, the folder holds anything else, or cannot be written; OSError if the disk is full.
    """
    try:
        _check_own(out)
        file = _locked(out, part)
    except OSError as error:
        raise _unwritable(out, error) from error
    with file:
        try:
            if part != RANK_0:
                _write_holder(file, out, pid)
            yield
        finally:
            if part != RANK_0:
                _remove_unused(out)


def process_at_work(out: Path) -> str | None:
    """The process that ends the run that is at work in `out`; None if there is none."""
    with suppress(FileNotFoundError, NotADirectoryError), (out / LOCK).open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return _holder(file) if error.errno in TAKEN else None
    return None


def point_latest(out: Path) -> None:
    """Make runs/latest lead to a run that lies in runs/, in one step; no other run, as a trial of a sweep, changes it."""
    if out.resolve().parent != RUNS.resolve():
        return
    link = LATEST.with_name(f"{LATEST.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        link.symlink_to(out.resolve().name)
        # replaces a file, too; not a folder
        link.replace(LATEST)
    except OSError as error:
        link.unlink(missing_ok=True)
        print(f"warning: {LATEST} does not lead to {out} ({error.strerror}): name the run, as in RUN={out}", file=sys.stderr)


def is_latest(out: Path) -> bool:
    """Whether runs/latest leads to a run."""
    return LATEST.resolve() == out.resolve()


def _locked(out: Path, part: tuple[int, int]) -> BinaryIO:
    """The lock file of a folder, locked until it is closed. ValueError if another process has locked it; OSError as it comes."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S)
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("a+b", buffering=0)
        try:
            # lockf and not flock: the loader's workers do not inherit it, who may outlive a process that is killed
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *(RANK_0 if part == RANK_0 else BOTH))
            if part == STARTER:
                fcntl.lockf(file, fcntl.LOCK_UN, *RANK_0)
        except OSError as error:
            if error.errno not in TAKEN:
                print(f"warning: {out} cannot be locked ({error.strerror}): start no other run there", file=sys.stderr)
                return file
        else:
            # it may have been removed, with its folder, since it was opened
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), (out / LOCK).stat()):
                    return file
        pid = _holder(file)
        file.close()
    raise ValueError(f"the run in {out} is at work, as process {pid}: wait for its end, or end it with kill {pid}")


def _remove_unused(out: Path) -> None:
    with suppress(OSError):
        if [path.name for path in out.iterdir()] == [LOCK]:
            (out / LOCK).unlink()
            out.rmdir()


def _write_holder(file: BinaryIO, out: Path, pid: int) -> None:
    try:
        file.truncate(0)
        file.write(b"%d\n" % pid)
    except OSError as error:
        raise _unwritable(out, error) from error


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip() or "unknown"


def _unwritable(folder: Path, error: OSError) -> Exception:
    """The error for a person, with what to do."""
    if is_full(error):
        return FullDiskError(f"{folder} cannot be written")
    return ValueError(f"{folder} cannot be written ({error.strerror}): give a folder that can, with RUN=folder (--out)")
