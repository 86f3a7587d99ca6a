"""Which of an archive's programs serves: the fastest on this machine, measured once at load and remembered.

**The rule.** Each program that this machine runs settles in which parts it answers batches, and answers its golden photos so, as it
would serve. Then, from the most precise to the least, one takes the place of the one before if its lowest time a photo,
in batches of batchSize, is over 3 % less. The two are timed in turn, so that other work slows both; no more than two are in memory
at a time. Batches of one are timed, too, and shown. Workers that start together load and measure one after the other.

SEEFOOD_FORMAT fixes it: a format, of whose precisions the fastest is taken, or one program (openvino/f32).
SEEFOOD_PROGRAMS_DIR names a folder in which the choice (remembered.py) and the compiled program (compiled.py) are kept for the next
worker and the next start.
"""

import contextlib
import gc
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from handler.batching import return_freed_memory
from handler.compiled import NOT_KEPT, Compiled
from handler.golden import GoldenPhotos
from handler.openvino_models import beginning
from handler.program import Program, open_program, program_name
from handler.remembered import Remembered, key_of

PRECISE = ("f32", "bf16", "f16", "int8", "int8+bf16")  # the most precise first
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
        return {"why": self.why, "batches": self.program.batches, "ms_per_photo": self.ms_per_photo, "refused": self.refused}


def allowed(programs: Mapping[str, Mapping[str, Any]], wanted: str) -> dict[str, Mapping[str, Any]]:
    """Those of an archive's programs that SEEFOOD_FORMAT names, all if it is empty; the most precise first.

    ValueError if it names none of them, or one is in an unknown precision.
    """
    for name, about in programs.items():
        if about["precision"] not in PRECISE:
            raise ValueError(f"the precision of the program {name} is {about['precision']!r}, expected one of {', '.join(PRECISE)}")
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
        remembered = Remembered.of(self.folder, self.key)
        with remembered.alone():  # workers that start together measure once, and do not disturb each other
            choice = self._chosen(remembered)
        if choice.program.in_float:
            choice = choice._replace(why=f"{choice.why}; computed in float32, as this CPU has no exact int8 (VNNI)")
        gc.collect()
        return_freed_memory()
        return choice

    def _chosen(self, remembered: Remembered) -> Choice:
        if len(self.programs) == 1:
            (name,) = self.programs
            why = f"by FORMAT={self.wanted}" if self.wanted else "the only one of the archive"
            return Choice(name, self._kept_or_compiled_anew(name), why, {}, {})
        if (kept := self._kept(remembered.read())) is not None:
            name, times, refused = kept
            with contextlib.suppress(Exception):  # what ran when it was measured may do so no more
                return self._choice(name, self._kept_or_compiled_anew(name), times, refused)
        choice, lasting = self._measured()
        if lasting:
            remembered.write({"program": choice.name, "ms_per_photo": choice.ms_per_photo, "refused": choice.refused})
        return choice

    def _kept(self, content: Any) -> tuple[str, Times, dict[str, str]] | None:
        """What _chosen wrote; None for anything else."""
        try:
            name, refused = content["program"], {one: str(why) for one, why in content["refused"].items()}
            times = {one: {str(size): float(ms) for size, ms in at.items()} for one, at in content["ms_per_photo"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        sizes = {str(size) for size in self.batch_sizes}
        whole = name in self.programs and (not times or name in times) and {*times, *refused} <= {*self.programs}
        return (name, times, refused) if whole and all(set(at) == sizes for at in times.values()) else None

    def _kept_or_compiled_anew(self, name: str) -> Program:
        """The program as it serves: of what an earlier worker has compiled, or anew where that does not do."""
        try:
            return self._to_keep(self._ready(name, self.compiled))
        except Exception:  # a library raises types of many kinds; what is wrong with the program itself shows again
            about = self.programs[name]
            self.compiled.forget(beginning(about["file"], about["precision"]))
        return self._to_keep(self._ready(name))

    def _ready(self, name: str, kept: Compiled = NOT_KEPT) -> Program:
        """A program that is settled, and has answered its golden photos."""
        program = open_program(self.folder, self.programs[name], self.num_threads, self.batch_sizes, kept)
        program.settle()
        most = self.batch_sizes[-1]
        # a batch that is not full is answered in other parts than a full one, unless all parts are single crops
        self.golden.check(program, name, sorted({1, most} if program.singly else {1, max(1, most - 1), most}))
        return program

    def _to_keep(self, program: Program) -> Program:
        """One that serves: kept for the next worker."""
        program.keep(self.compiled)
        return program

    def _measured(self) -> tuple[Choice, bool]:
        """The choice by the rule, and whether it is so tomorrow: not if memory, say, was short for one of the programs."""
        name, program = "", None
        times: Times = {}
        reasons: dict[str, str] = {}  # not the errors: their tracebacks would hold what was loaded
        lasting, most = True, str(self.batch_sizes[-1])
        for other in self.programs:
            try:
                challenger = self._ready(other)
            except Exception as error:  # the others may serve; libraries raise types of many kinds
                lasting = lasting and isinstance(error, ValueError)
                reasons[other] = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                continue
            is_faster = True
            if program is not None:
                pair = self._timed({name: program, other: challenger})
                is_faster = pair[other][most] < (1 - MARGIN) * pair[name][most]
                for one, at in pair.items():
                    times[one] = {size: min(ms, times.get(one, at)[size]) for size, ms in at.items()}
            if is_faster:
                name, program = other, challenger
            del challenger  # else the slower one would be there while the next one is loaded
        if program is None:
            raise ValueError("; ".join(reasons.values()))
        refused = {one: " ".join(reason.split())[:300] for one, reason in reasons.items()}
        return self._choice(name, self._to_keep(program), times, refused), lasting

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
        own = "the only one that runs here"
        if name in times:
            own = f"{times[name][most]:.2f} ms a photo in batches of {most}, answered {program.batches}"
        return Choice(name, program, f"{own}; {', '.join(beside)}" if beside else own, times, refused)
