"""Every export format of a checkpoint side by side: `python -m training.export.compare --checkpoint runs/latest/checkpoint.pt`.

For each format and precision that this machine runs: size, milliseconds per photo at batch 1 and 8, and whether it passes the
accuracy gate. torch's AOTInductor is timed beside them: it is not a format of ours, as its output runs on one kind of CPU only.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.program import inputs
from scripts.command import parser, run
from training.export.formats import EXPORT_FORMATS, UnsupportedError, export_to, why, write_torch
from training.export.gate import BATCH, agreement, failure, measure, programs
from training.export.program import ExportedProgram, Prepared, prepare
from training.export.quiet import quiet_libraries
from training.model import Checkpoint

BATCHES = (1, BATCH)
ROUNDS = 15


def compiled(program: ExportedProgram, crops: np.ndarray, ids: np.ndarray | None, folder: Path) -> Callable[..., Any]:
    """The program compiled by AOTInductor for this CPU, in float32; needs a C++ compiler."""
    write_torch(program, crops, folder / "model.pt2", ids)
    exported = torch.export.load(folder / "model.pt2")
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "aoti.pt2"))
    run = torch._inductor.aoti_load_package(package)

    def call(*batch: np.ndarray) -> Any:
        with torch.inference_mode():
            return tuple(tensor.numpy() for tensor in run(*map(torch.from_numpy, batch)))

    return call


@dataclass(frozen=True)
class Row:
    """A row of the table: format, precision and size; the gate's verdict; the program to time."""

    title: str
    verdict: str
    program: Callable[..., Any]


def format_rows(prepared: Prepared, format_name: str, folder: Path) -> list[Row]:
    """A row for each precision of a format that this machine runs, written into `folder`; none if it cannot take the network."""
    print(f"writing {format_name} ...", flush=True)
    try:
        export_to(format_name, prepared.program, prepared.calibration, folder, prepared.calibration_ids)
        measured = [(program, measure(program, prepared.reference)) for program in programs(format_name, folder)]
    except UnsupportedError as error:
        print(f"  {format_name} cannot take this network: {error}", flush=True)
        return []
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    rows = []
    for program, metrics in measured:
        refused = failure(program.precision, metrics) is not None
        verdict = f"top-1 {metrics['top1']:.2%}, agreement {agreement(metrics)}, " + ("refused" if refused else "passes")
        rows.append(Row(f"{format_name:17s} {program.precision:9s} {size:6.1f} MB", verdict, program))
    return rows


def aoti_rows(prepared: Prepared, folder: Path) -> list[Row]:
    """AOTInductor's row; none where it does not compile."""
    folder.mkdir()
    try:
        with quiet_libraries():
            program = compiled(prepared.program, prepared.calibration, prepared.calibration_ids, folder)
        return [Row(f"{'AOTInductor':17s} f32", "not a format", program)]
    except Exception as error:  # a missing compiler raises whatever it likes
        print(f"AOTInductor does not compile here: {why(error)}", file=sys.stderr)
        return []


def times(rows: list[Row], crops: np.ndarray, ids: np.ndarray | None) -> list[list[float]]:
    """Lowest milliseconds per photo of each row at each of BATCHES, over ROUNDS."""
    best = [[float("inf")] * len(BATCHES) for _ in rows]
    # round by round through all programs: other work on the machine slows all of them alike
    for _ in range(ROUNDS):
        for row, lowest in zip(rows, best, strict=True):
            for column, size in enumerate(BATCHES):
                batch = [np.ascontiguousarray(given[:size]) for given in inputs(crops, ids)]
                row.program(*batch)  # not timed: caches and clock rates are those of the program before
                started = time.perf_counter()
                row.program(*batch)
                lowest[column] = min(lowest[column], 1000 * (time.perf_counter() - started) / size)
    return best


def compare(checkpoint: Checkpoint, root: Path | None) -> None:
    """Print the table. ValueError as prepare()."""
    prepared = prepare(checkpoint, root)
    with tempfile.TemporaryDirectory() as temp:
        rows = [row for name in EXPORT_FORMATS for row in format_rows(prepared, name, Path(temp) / name)]
        rows += aoti_rows(prepared, Path(temp) / "aoti")
        timed = zip(rows, times(rows, prepared.reference.crops, prepared.reference.ids), strict=True)
        print(f"{'format':17s} {'':15s} " + " ".join(f"batch {size:2d}" for size in BATCHES) + "  ms per photo, best of rounds")
        for row, milliseconds in sorted(timed, key=lambda pair: pair[1][-1]):
            print(f"{row.title:33s} " + " ".join(f"{value:8.2f}" for value in milliseconds) + f"  {row.verdict}")


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--checkpoint", type=Path, required=True)
    arguments.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    args = arguments.parse_args()
    compare(Checkpoint.load(args.checkpoint), args.data)


if __name__ == "__main__":
    sys.exit(run(main))
