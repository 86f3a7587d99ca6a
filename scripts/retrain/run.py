"""One run of make retrain: a folder in build/retrain with its options, what its steps left, and which of them are done."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.atomic import write_json
from scripts.errors import SeeFoodError

FOLDER = Path("build/retrain")
STEPS_FILE = "steps.json"
CHAMPION = "champion"  # in a run's folder: what training replaces
KEPT = 10  # finished runs whose reports stay
# the step that reads an option: up to its end another value may be given. FROM is none of them: its photos may be in the data set
READ_BY = {"new_classes": "ingest", "alpha": "promote", "version": "archive", "photos": "shadow"}


class RetrainError(SeeFoodError):
    """A step that failed, with the command that goes on."""


@contextmanager
def locked() -> Iterator[int]:
    """Within `with`, no other make retrain works here: a descriptor that the commands of the steps hold, too.

    A kill (-9) may leave a step's command running. The next make retrain waits for it: two trainings in one folder would mix.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = os.open(FOLDER / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another make retrain, or for a step that one left running", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


@dataclass
class Run:
    """A run's folder, its options and, by name, the steps that are done with what they found."""

    folder: Path
    options: dict[str, Any]
    again: str  # the command that goes on
    lock: int  # see locked()
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """When it was started: 2026-11-27T01-56-11."""
        return self.folder.name

    def finish(self, step: str, found: dict[str, Any], seconds: float) -> None:
        """Note that a step is done. A step that was killed before this line runs again."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.done[step] = found | {"at": at, "seconds": round(seconds, 1)}
        self.write()

    def write(self) -> None:
        """Write the options and the steps that are done, whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / STEPS_FILE, {"options": self.options, "done": self.done})

    def remove(self) -> None:
        """Leave nothing of it."""
        shutil.rmtree(self.folder)

    def command(self, *words: str | Path, good: tuple[int, ...] = (0,)) -> None:
        """Run `python -m WORDS`; or dvc, where that is the first word. RetrainError if it ends with another status than `good`."""
        python = Path(sys.executable)
        start = [str(python.with_name("dvc"))] if words[0] == "dvc" else [str(python), "-m", str(words[0])]
        # the stages of dvc.yaml call `python`: this one
        path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        command = [*start, *map(str, words[1:])]
        print(f"$ {' '.join(map(str, words))}", flush=True)
        status = subprocess.run(
            command, env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}, pass_fds=(self.lock,), check=False
        ).returncode
        if status not in good:
            raise RetrainError(f"`{' '.join(map(str, words))}` ended with {status}, see its output above")


def find_run(options: dict[str, Any], again: str, lock: int, last: str, defaults: dict[str, Any] | None = None) -> Run:
    """The run that is not finished (its step `last` is not done), else a new one; what is not given (None) is as it was.

    ValueError if the run was started with another value that a step has read. `defaults` are those of a new run.
    """
    for path in sorted(FOLDER.glob(f"*/{STEPS_FILE}"), reverse=True):
        content = json.loads(path.read_text(encoding="utf-8"))
        before, done = content["options"], content["done"]
        if last in done:
            continue
        options = before | {name: value for name, value in options.items() if value is not None}
        other = {name for name in options if options[name] != before.get(name)}
        if any(name not in READ_BY or READ_BY[name] in done for name in other):
            raise ValueError(
                f"{path.parent} is not finished, and was started with {before}, not {options}: "
                f"go on with those values, or remove the folder to start anew"
            )
        print(f"going on with {path.parent}: {', '.join(done) or 'no step'} done")
        return Run(path.parent, options, again, lock, done)
    options = {name: (defaults or {}).get(name) if value is None else value for name, value in options.items()}
    run = Run(FOLDER / time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime()), options, again, lock)
    run.write()
    return run


def tidy(last: str) -> None:
    """Of finished runs leave no copy of a champion, and the folders of the newest KEPT."""
    files = sorted(FOLDER.glob(f"*/{STEPS_FILE}"), reverse=True)
    finished = [path.parent for path in files if last in json.loads(path.read_text(encoding="utf-8"))["done"]]
    for number, folder in enumerate(finished):
        shutil.rmtree(folder if number >= KEPT else folder / CHAMPION, ignore_errors=True)
