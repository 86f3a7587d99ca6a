"""A GPU's figures within ten minutes: `make bench-gpu`, with `DATA=photos TIMM_TRAIN=train.py` for training's, too.

Parts share the budget of `--seconds`: the exported torch program in each precision and size of batch, as it is served and by a CUDA
graph; decoding by threads and by nvJPEG; both together, with the GPU's idle share (device.py); training beside timm's script
(bench.py). Each part is a process of its own: one that fails or takes too long is shown, and the others go on. The network is that
of the parameters, with random weights, which change no time. Prints a table and writes --out.
"""

import argparse
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from handler.preprocess import Spec
from scripts.atomic import write_json
from scripts.command import parser, run
from scripts.machine import cpu
from scripts.paths import ROOT
from training.data.pictures import draw
from training.data.sets import read_data
from training.evaluation.confidence import Confidence
from training.evaluation.features import WithFeatures
from training.export.formats import EXPORT_FORMATS, export_to
from training.export.program import ExportedProgram
from training.model import build
from training.params import Params, read_params
from training.recipes.choose import DEFAULT, add_options, fill_in
from training.speed import device as on_device

PROGRAM = Path("torch") / EXPORT_FORMATS["torch"].file
PHOTOS, DRAWN_SIZE = 32, (512, 384)
CLASSES = 101  # of the last layer: hardly any of the time
MEASURING = 0.6  # of a part's share; the rest is for imports, CUDA's start and warm-ups
TRAINING_BATCH = 128
PAIR = re.compile(r"ours ([\d.]+), timm ([\d.]+) images/s, ratio ([\d.]+)")

Row = dict[str, Any]


class Part(NamedTuple):
    """What is measured by one process: its command for so many seconds of measuring, and the rows in what it prints."""

    name: str
    command: Callable[[float], list[str]]
    rows: Callable[[str], list[Row]]


def check_gpu() -> None:
    """ValueError unless torch finds a GPU."""
    if not torch.cuda.is_available():
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ValueError(
            f"torch {torch.__version__} finds no GPU on this machine, and bench-gpu measures one"
            + (f" (CUDA_VISIBLE_DEVICES is {shown!r})" if shown is not None else "")
            + ": nvidia-smi shows which there are, and their driver"
        )


def prepare(params: Params, data: Path | None, folder: Path) -> None:
    """Fill the folder: PROGRAM as `make export FORMAT=torch` writes it, spec.json, photos.

    ValueError if no photo is a JPEG, UnsupportedError if torch cannot export the network.
    """
    photos = folder / "photos"
    photos.mkdir()
    if data is None:
        for number in range(PHOTOS):
            draw(number, random.Random(number), DRAWN_SIZE).save(photos / f"{number}.jpg", quality=90)
    else:
        found = read_data(data, params.val_fraction, params.seed, params.near_duplicates, quiet=True).train
        jpegs = (content for photo in found if (content := photo.path.read_bytes()).startswith(b"\xff\xd8"))
        for number, content in enumerate(itertools.islice(jpegs, PHOTOS)):
            (photos / f"{number}.jpg").write_bytes(content)
        if not any(photos.iterdir()):
            raise ValueError(f"DATA is {str(data)!r}, expected photos of which some are JPEGs, which nvJPEG reads")
    classifier, spec = build(params, CLASSES, load_weights=False)
    classifier.eval()
    with torch.inference_mode():
        # also because LeViT fills its cache of attention biases in the first call, which torch.export must not trace
        features, _, _ = WithFeatures(classifier.network, spec.input_size[-1])(torch.zeros(1, *spec.input_size))
    program = ExportedProgram(classifier, spec, 1.0, Confidence(torch.randn(CLASSES, features.shape[1]))).eval()
    export_to("torch", program, np.zeros((2, *spec.input_size[1:], 3), np.uint8), folder / PROGRAM.parent)
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()), encoding="utf-8")


def measure(part: str, folder: Path, device: torch.device, seconds: float) -> list[Row]:
    """The rows of one part, from a folder that prepare() has filled."""
    spec = Spec.from_dict(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
    photos = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]
    match part:
        case "programs":
            return on_device.time_programs(folder / PROGRAM, spec, device, seconds)
        case "decoding":
            return on_device.time_decoding(photos, spec, device, seconds)
        case "pipelines":
            return on_device.time_pipelines(folder / PROGRAM, photos, spec, device, seconds)
    raise ValueError(f"--part is {part!r}, expected programs, decoding or pipelines")


def parts_of(args: argparse.Namespace, params: Params, folder: Path) -> list[Part]:
    """All that is measured, in order; training last, as it takes what is left of the budget."""
    parts = [
        Part(name, partial(own_command, args.device, folder, name), last_line) for name in ("programs", "decoding", "pipelines")
    ]
    if args.timm_train:
        train = [sys.executable, "-m", "training.speed.bench", f"--timm-train={args.timm_train}", f"--models={params.model}"]
        train += ["--pairs=1", f"--batch={TRAINING_BATCH}", *([f"--data={args.data}"] if args.data else [])]
        train += [f"--params={args.params}"] if args.params else []
        parts.append(Part("training", lambda seconds: train, pairs))
    return parts


def own_command(device: str, folder: Path, part: str, seconds: float) -> list[str]:
    """This command, for one part alone."""
    options = {"device": device, "folder": folder, "part": part, "seconds": f"{seconds:.1f}"}
    return [sys.executable, "-m", "training.speed.gpu", *(f"--{name}={value}" for name, value in options.items())]


def last_line(printed: str) -> list[Row]:
    """The rows that a part of this command prints."""
    rows: list[Row] = json.loads(printed.splitlines()[-1])
    return rows


def pairs(printed: str) -> list[Row]:
    """The rows of what training/speed/bench.py prints."""
    rows = []
    for ours, theirs, ratio in PAIR.findall(printed):
        rows.append({"what": "ours", "batch_size": TRAINING_BATCH, "photos_per_s": float(ours), "of_timm": float(ratio)})
        rows.append({"what": "timm's train.py", "batch_size": TRAINING_BATCH, "photos_per_s": float(theirs)})
    return rows


def run_parts(parts: Sequence[Part], budget_s: float) -> dict[str, list[Row]]:
    """The rows of each part; one with an "error" for a part that failed, or took longer than its share of what was left."""
    end, found = time.monotonic() + budget_s, {}
    for number, part in enumerate(parts):
        share = max(0.0, end - time.monotonic()) / (len(parts) - number)
        print(f"{part.name}: at most {share:.0f} s", flush=True)
        found[part.name] = run_part(part, share)
    return found


def run_part(part: Part, seconds: float) -> list[Row]:
    """The rows of one part, which ends after so many seconds with all that it has started."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            part.command(MEASURING * seconds), cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return [{"what": part.name, "error": f"took longer than the {seconds:.0f} s that it had"}]
        finally:
            stop(process)
        errors.seek(0)
        if process.returncode == 0:
            try:
                return part.rows(printed)
            except (ValueError, IndexError) as error:
                return [{"what": part.name, "error": f"printed no figures: {error}"}]
        last = (errors.read().strip().splitlines() or ["nothing was printed"])[-1]
        return [{"what": part.name, "error": f"ended with {process.returncode}: {last.removeprefix('error: ')}"}]


def stop(process: subprocess.Popen[str]) -> None:
    """End a process, if it runs, with its loaders' workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def table(found: dict[str, list[Row]]) -> str:
    """A line for each row; what was not measured is a dash, what failed has its reason."""
    lines = ["| | batch | photos/s | p50 ms | GPU idle | off by |", "|---|---|---|---|---|---|"]
    for name, rows in found.items():
        for row in rows:
            if "error" in row:
                lines.append(f"| {name}: {row['what']} | {row.get('batch_size', '-')} | failed: {row['error']} | | | |")
                continue
            shown = {"photos_per_s": ".1f", "p50_ms": ".2f", "idle": ".0%", "off": ".4f"}
            cells = [format(row[key], how) if key in row else "-" for key, how in shown.items()]
            beside = f", {row['of_timm']:.2f} times as fast as timm" if "of_timm" in row else ""
            lines.append(f"| {name}: {row['what']}{beside} | {row['batch_size']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bench(args: argparse.Namespace) -> None:
    """Measure, print, write. ValueError or OSError if that cannot be."""
    started = time.monotonic()
    params = read_params(args.params or DEFAULT)
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU: the command is tried on the CPU"
    machine = {"gpu": gpu, "cpu": cpu(), "torch": torch.__version__, "cuda": torch.version.cuda, "model": params.model}
    print(f"{gpu}; {cpu()}; torch {torch.__version__}; {params.model}, random weights", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        prepare(params, args.data, Path(temporary))
        found = run_parts(parts_of(args, params, Path(temporary)), args.seconds - (time.monotonic() - started))
    if not args.timm_train:
        found["training"] = [{"what": "not measured", "error": "TIMM_TRAIN is missing: train.py of timm's repository"}]
    write_json(args.out, {**machine, "seconds": args.seconds, "parts": found})
    print(f"\n{table(found)}\n\nwritten: {args.out}")
    if not any("photos_per_s" in row for rows in found.values() for row in rows):
        raise ValueError("nothing could be measured: the table has the reasons")


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    line = parser(__doc__)
    line.add_argument("--data", type=Path, help="photos to decode, and to train on; default: drawn ones")
    add_options(line)
    line.add_argument("--timm-train", type=Path, help="train.py of timm's repository, release of the installed package")
    line.add_argument("--seconds", type=float, default=600.0, help="of all parts together")
    line.add_argument("--out", type=Path, default=Path("build/bench-gpu/bench.json"))
    line.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the command; no figure is a GPU's")
    line.add_argument("--part", help=argparse.SUPPRESS)
    line.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = line.parse_args()
    if not args.seconds > 0:
        raise ValueError(f"SECONDS is {args.seconds:g}, expected a positive number")
    if args.timm_train and not args.timm_train.is_file():
        raise ValueError(f"TIMM_TRAIN is {str(args.timm_train)!r}, expected the file train.py of timm's repository")
    return args


def main() -> None:
    """Command line; see the module's docstring."""
    args = arguments()
    if args.device == "cuda":
        check_gpu()
    if args.part:
        print(json.dumps(measure(args.part, args.folder, torch.device(args.device), args.seconds)))
        return
    fill_in(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    bench(args)


if __name__ == "__main__":
    sys.exit(run(main))
