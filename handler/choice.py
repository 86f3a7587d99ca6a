"""Which of an archive's programs serves: the fastest on this machine, measured once at load and remembered.

**The rule.** Each program that this machine runs answers its golden photos. Then, from the most precise to the least, one takes the
place of the one before if its lowest time a photo, in batches of batchSize, is over 3 % less. The two are timed in turn, so that
other work slows both; no more than two are in memory at a time. Batches of one are timed, too, and shown.

SEEFOOD_FORMAT fixes it: a format, of whose precisions the fastest is taken, or one program (openvino/f32).
SEEFOOD_PROGRAMS_DIR names a folder in which the choice (remembered.py) and the compiled program (compiled.py) are kept for the next
worker and the next start.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from handler.compiled import Compiled
from handler.golden import GoldenPhotos
from handler.program import NOT_KEPT, Program, open_program, program_name
from handler.remembered import Remembered, key_of

PRECISE = ("f32", "bf16", "f16", "int8")  # the most precise first
MARGIN = 0.03  # by so much a less precise program has to be faster
# of two programs beside each other: rounds, at least so many, and seconds after which no other one begins
ROUNDS, LEAST_ROUNDS, MEASURE_S = 7, 3, 0.4
CLEAR = 0.8  # one that needs less than this share of the other's time after LEAST_ROUNDS is faster

Times = dict[str, dict[str, float]]  # milliseconds a photo by program and size of the batch


class Choice(NamedTuple):
    """The program that serves, by its name; the times of all that were measured, and why others were not."""

    name: str
    program: Program
    why: str
    ms_per_photo: Times
    refused: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """For describe()."""
        return {"why": self.why, "ms_per_photo": self.ms_per_photo, "refused": self.refused}


def allowed(programs: Mapping[str, Mapping[str, Any]], wanted: str) -> dict[str, Mapping[str, Any]]:
    """Those of an archive's programs that SEEFOOD_FORMAT names, all if it is empty; the most precise first.

    ValueError if it names none of them.
    """
    full = {name: program_name(about["format"], about["precision"]) for name, about in programs.items()}
    chosen = [name for name, about in programs.items() if wanted in ("", about["format"], full[name])]
    if not chosen:
        raise ValueError(f"FORMAT (SEEFOOD_FORMAT) is {wanted!r}, but this archive has {', '.join(full.values())}")
    return {name: programs[name] for name in sorted(chosen, key=lambda name: PRECISE.index(programs[name]["precision"]))}


class Choosing:
    """Chooses among the programs of an unpacked archive."""

    def __init__(
        self,
        folder: Path,
        programs: Mapping[str, Mapping[str, Any]],
        golden: GoldenPhotos,
        num_threads: int,
        batch_sizes: Sequence[int],
    ) -> None:
        """`programs` as programs_of(); the largest of `batch_sizes` decides. ValueError as allowed()."""
        self.wanted = os.environ.get("SEEFOOD_FORMAT", "")
        self.programs = allowed(programs, self.wanted)
        self.folder, self.golden, self.num_threads, self.batch_sizes = folder, golden, num_threads, sorted(batch_sizes)
        self.key = key_of(folder, self.programs, num_threads, self.batch_sizes)
        self.compiled = Compiled.of(folder, self.key)

    def __call__(self) -> Choice:
        """The choice: of one alone it is that, else the remembered one, else a measured one. ValueError if none can be used."""
        choice = self._chosen()
        choice.program.settle()
        return choice

    def _chosen(self) -> Choice:
        if len(self.programs) == 1:
            (name,) = self.programs
            why = f"by FORMAT={self.wanted}" if self.wanted else "the only one of the archive"
            return Choice(name, self._ready_or_compiled_anew(name), why, {}, {})
        remembered = Remembered.of(self.folder, self.key)
        with remembered.alone():  # workers that start together measure once, and do not disturb each other
            kept = self._kept(remembered.read())
            if kept is None:
                return self._measured_and_kept(remembered)
        name, times, refused = kept
        try:
            return self._choice(name, self._ready_or_compiled_anew(name), times, refused)
        except Exception:  # what ran when it was measured does so no more: libraries raise types of many kinds
            return self._measured_and_kept(remembered)

    def _kept(self, content: Any) -> tuple[str, Times, dict[str, str]] | None:
        """What _measured_and_kept wrote; None for anything else."""
        try:
            name, refused = content["program"], {one: str(why) for one, why in content["refused"].items()}
            times = {one: {str(size): float(ms) for size, ms in at.items()} for one, at in content["ms_per_photo"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        sizes = {str(size) for size in self.batch_sizes}
        whole = name in self.programs and (not times or name in times) and {*times, *refused} <= {*self.programs}
        return (name, times, refused) if whole and all(set(at) == sizes for at in times.values()) else None

    def _measured_and_kept(self, remembered: Remembered) -> Choice:
        choice, lasting = self._measured()
        choice.program.keep(self.compiled)
        if lasting:
            remembered.write({"program": choice.name, "ms_per_photo": choice.ms_per_photo, "refused": choice.refused})
        return choice

    def _ready_or_compiled_anew(self, name: str) -> Program:
        """The same of what an earlier worker has compiled, or anew where that does not do."""
        sizes = sorted({*self.batch_sizes, self.golden.count})  # the last for batches of any size
        try:
            return self._ready(name, sizes, self.compiled)
        except Exception:  # a library raises types of many kinds; what is wrong with the program itself shows again
            self.compiled.forget()
        program = self._ready(name, sizes)
        program.keep(self.compiled)
        return program

    def _ready(self, name: str, sizes: Sequence[int], kept: Compiled = NOT_KEPT) -> Program:
        """A program that has answered its golden photos in batches of these sizes."""
        program = open_program(self.folder, self.programs[name], self.num_threads, self.batch_sizes, kept)
        self.golden.check(program, name, sizes)
        return program

    def _measured(self) -> tuple[Choice, bool]:
        """The choice by the rule, and whether it is so tomorrow: not if memory, say, was short for one of the programs."""
        name, program = "", None
        times: Times = {}
        errors: dict[str, Exception] = {}
        for other in self.programs:
            try:
                challenger = self._ready(other, self.batch_sizes)
            except Exception as error:  # the others may serve; libraries raise types of many kinds
                errors[other] = error
                continue
            if program is not None:
                for one, at in self._timed({name: program, other: challenger}).items():
                    before = times.get(one, at)
                    times[one] = {size: min(ms, before[size]) for size, ms in at.items()}
                most = str(self.batch_sizes[-1])
                if times[other][most] >= (1 - MARGIN) * times[name][most]:
                    continue
            name, program = other, challenger
        if program is not None:
            self.golden.check(program, name, [self.golden.count])
        else:
            raise ValueError("; ".join(str(error) for error in errors.values())) from next(iter(errors.values()))
        refused = {one: " ".join(str(error).split())[:300] for one, error in errors.items()}
        lasting = all(isinstance(error, ValueError) for error in errors.values())
        return self._choice(name, program, times, refused), lasting

    def _timed(self, programs: Mapping[str, Program]) -> Times:
        """The lowest milliseconds a photo of each program at each size, all of them in turn."""
        best = {name: {str(size): float("inf") for size in self.batch_sizes} for name in programs}
        batches = {size: self.golden.batch(size) for size in self.batch_sizes}
        started = time.perf_counter()
        for done in range(ROUNDS):
            if done >= LEAST_ROUNDS and (time.perf_counter() - started > MEASURE_S or self._is_clear(best)):
                break
            for name, program in programs.items():
                program(*batches[self.batch_sizes[0]])  # not timed: the caches are the other one's
                for size, batch in batches.items():
                    before = time.perf_counter()
                    program(*batch)
                    ms = 1000 * (time.perf_counter() - before) / size
                    best[name][str(size)] = min(best[name][str(size)], ms)
        return best

    def _is_clear(self, best: Times) -> bool:
        """Whether more rounds would not change which one is faster."""
        low, high = sorted(at[str(self.batch_sizes[-1])] for at in best.values())
        return low < CLEAR * high

    def _choice(self, name: str, program: Program, times: Times, refused: dict[str, str]) -> Choice:
        times = {one: {size: round(ms, 3) for size, ms in at.items()} for one, at in times.items()}
        most = str(self.batch_sizes[-1])
        others = sorted((at[most], one) for one, at in times.items() if one != name)
        beside = [f"{one} {ms:.2f}" for ms, one in others] + [f"{one} not used here" for one in refused]
        own = f"{times[name][most]:.2f} ms a photo in batches of {most}" if name in times else "the only one that runs here"
        return Choice(name, program, f"{own}; {', '.join(beside)}" if beside else own, times, refused)
