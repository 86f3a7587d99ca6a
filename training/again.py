"""The command that goes on with a run, word for word: what a person copies into a shell after an interruption or an error."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from training.resume import STATE

STARTED_AS = "SEEFOOD_STARTED_AS"  # for the ranks of a run: the command that started their launcher


def started_as() -> list[str]:
    """The command, other than make, that started this process, or torchrun for a rank of it."""
    if command := os.environ.get(STARTED_AS):
        return shlex.split(command)
    if "DVC_STAGE" in os.environ:
        return ["make", "pipeline"]
    return psutil.Process(os.getppid()).cmdline() if "TORCHELASTIC_RUN_ID" in os.environ else sys.orig_argv


@dataclass(frozen=True)
class Again:
    """How the run in `out` was started: by the command `started`, or by `make train` with the values `make`, e.g. DATA=photos."""

    out: Path
    started: Sequence[str]
    make: Sequence[str] | None

    @property
    def saved(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.out / STATE).is_file()

    def command(self, with_params: bool = False) -> str:
        """The command for a shell; `with_params` if it must read the parameter file again, as resuming otherwise does not."""
        if self.make is None:
            words = [*self.started]
            if (
                self.saved
                and with_params
                and "--resume" in words
                and not any(word.startswith(("--params", "--recipe")) for word in words)
            ):
                words += ["--params", "params.yaml"]
            return shlex.join(words)
        given = dict(value.partition("=")[::2] for value in self.make)
        if self.saved:
            file = {"RECIPE": given["RECIPE"]} if "RECIPE" in given else {"PARAMS": given.get("PARAMS", "params.yaml")}
            params = file if with_params else {}
            given = {"RESUME": str(self.out)} | {name: given[name] for name in ("GPUS",) if name in given} | params
        return shlex.join(["make", "train", *(f"{name}={value}" for name, value in given.items())])

    def advice(self, with_params: bool = False) -> str:
        """A sentence that ends with the command."""
        if self.saved:
            return f"to go on from the last saved state: {self.command(with_params)}"
        return f"nothing is saved yet; to start again: {self.command()}"
