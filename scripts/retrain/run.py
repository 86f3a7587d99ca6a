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


def find_run(options: dict[str, Any], again: str, lock: int, last: str) -> Run:
    """The run that is not finished (its step `last` is not done), else a new one. ValueError if it was started otherwise."""
    for path in sorted(FOLDER.glob(f"*/{STEPS_FILE}"), reverse=True):
        content = json.loads(path.read_text(encoding="utf-8"))
        if last in content["done"]:
            continue
        if content["options"] != options:
            raise ValueError(
                f"{path.parent} is not finished, and was started with {content['options']}, not {options}: "
                f"go on with those values, or remove the folder to start anew"
            )
        print(f"going on with {path.parent}: {', '.join(content['done']) or 'no step'} done")
        return Run(path.parent, options, again, lock, content["done"])
    run = Run(FOLDER / time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime()), options, again, lock)
    run.write()
    return run
