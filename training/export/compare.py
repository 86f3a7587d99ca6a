"""Every format of a checkpoint side by side: `python -m training.export.compare --checkpoint runs/latest/checkpoint.pt`.

For each format and precision that this machine runs: size, milliseconds a photo at batch 1 and 8, and whether it passes the
gate. torch's AOTInductor is timed beside them: it is no format of ours, as what it writes runs on this kind of CPU only.
The rounds go through all programs in turn, so that others' work on the machine slows all alike.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.export.export import ExportedProgram, prepare
from training.export.formats import BATCH, FORMATS, failure, measure, programs, write_torch
from training.model import Checkpoint

BATCHES = (1, BATCH)
ROUNDS = 15


def compiled(program: ExportedProgram, crops: np.ndarray, folder: Path) -> Callable[[np.ndarray], Any]:
    """The program compiled by AOTInductor for this CPU, in float32; needs a C++ compiler."""
    write_torch(program, crops, folder / "model.pt2")
    exported = torch.export.load(folder / "model.pt2")
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "aoti.pt2"))
    run = torch._inductor.aoti_load_package(package)

    def call(batch: np.ndarray) -> Any:
        with torch.inference_mode():
            return tuple(tensor.numpy() for tensor in run(torch.from_numpy(batch)))

    return call


def times(candidates: dict[str, Callable[[np.ndarray], Any]], crops: np.ndarray) -> dict[str, list[float]]:
    """Lowest milliseconds a photo of each candidate at each of BATCHES, over ROUNDS."""
    best = {name: [float("inf")] * len(BATCHES) for name in candidates}
    for _ in range(ROUNDS):
        for name, program in candidates.items():
            for column, size in enumerate(BATCHES):
                batch = np.ascontiguousarray(crops[:size])
                program(batch)
                started = time.perf_counter()
                program(batch)
                best[name][column] = min(best[name][column], 1000 * (time.perf_counter() - started) / size)
    return best


def compare(checkpoint: Checkpoint, root: Path | None) -> None:
    """Print the table. ValueError as export()."""
    prepared = prepare(checkpoint, root)
    candidates: dict[str, Any] = {}
    verdicts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, candidate in FORMATS.items():
            folder = Path(temp) / name
            folder.mkdir()
            print(f"writing {name} ...", flush=True)
            with contextlib.redirect_stdout(io.StringIO()):
                candidate.write(prepared.program, prepared.calibration, folder / candidate.file)
            size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
            for program in programs(name, folder):
                row = f"{name:17s} {program.precision:4s} {size:6.1f} MB"
                figures = measure(program, prepared.crops, prepared.targets, prepared.expected)
                reason = failure(program.precision, figures)
                verdicts[row] = f"top-1 {figures['top1']:.2%}, agreement {figures['agreement']:.2%}, " + (
                    "refused" if reason else "passes"
                )
                candidates[row] = program
        aoti = Path(temp) / "aoti"
        aoti.mkdir()
        try:
            row = f"{'AOTInductor':17s} f32"
            candidates[row], verdicts[row] = compiled(prepared.program, prepared.calibration, aoti), "not a format"
        except Exception as error:  # a missing compiler raises whatever it likes
            print(f"AOTInductor does not compile here: {str(error)[:200]}", file=sys.stderr)
        print(f"{'format':17s} {'':15s} " + " ".join(f"batch {size:2d}" for size in BATCHES) + "  ms a photo, best of rounds")
        for row, milliseconds in sorted(times(candidates, prepared.crops).items(), key=lambda item: item[1][-1]):
            print(f"{row:33s} " + " ".join(f"{value:8.2f}" for value in milliseconds) + f"  {verdicts[row]}")


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    args = parser.parse_args()
    try:
        compare(Checkpoint.load(args.checkpoint), args.data)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
