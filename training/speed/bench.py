"""The speed of the training loop beside timm's own script: `make bench-train TIMM_TRAIN=train.py DATA=photos`.

TIMM_TRAIN is the file train.py of the release of timm that is installed, from its repository (the package does not have it):
https://github.com/huggingface/pytorch-image-models. Pairs of runs, one after the other: the same
network, photos, batch, precision, crops, flips and number of loader workers. Each pair gives one ratio of images/s, as single rates
mean little on a shared machine. The longest and the shortest quarter of the steps and a few at either end do not count.

With --cache (CACHE=1) it measures what `cache: ram` and `disk` in the parameters make of the epochs after the first.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import timm
import torch
from scipy.stats import trim_mean

from scripts.command import parser, run
from scripts.errors import SeeFoodError
from scripts.machine import cpu
from training.data import kept
from training.data.sets import Data, read_data
from training.data.split import Photo
from training.loop import train
from training.params import Params, read_params
from training.recipes.choose import DEFAULT, add_options, fill_in

NAME = "bench"  # a model's name, which nothing registers
MODELS = ("levit_128s", "mobilenetv2_100")
# off, as timm's script has them off; progress and bookkeeping stay on: they are what is measured
PLAIN = {"weights": "none", "augment": "none", "mixup": 0.0, "cutmix": 0.0, "clip_norm": 0.0, "freeze": [], "layer_decay": 1.0}
PLAIN |= {"ema_decay": 0.0, "teacher": None, "cache": "none"}
EDGE = 8  # steps at either end that do not count
STEP = re.compile(r"^Train: .* Time: ([\d.]+)s, ", re.MULTILINE)  # a line of timm's script for each


class TimmError(SeeFoodError):
    """timm's script failed, or printed no steps; the message has its last words."""


def sample(data: Data, photos: int, folder: Path) -> Path:
    """Class folders in `folder`/train with links to so many training photos, repeated if there are fewer; one a class held out.

    timm's script wants held-out ones in `folder`/validation.
    """
    by_class = {photo.index: photo for photo in data.held_out}
    for split, chosen in (
        ("train", (data.train * (photos // len(data.train) + 1))[:photos]),
        ("validation", tuple(by_class.values())),
    ):
        for number, photo in enumerate(chosen):
            _link(photo, folder / split / data.labels[photo.index] / f"{number}{photo.path.suffix}")
    return folder


def _link(photo: Photo, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(photo.path.resolve())


def rate(durations: list[float], params: Params) -> float:
    """images/s by the durations of steps, in s: over the middle half of them, as other work makes some of them long."""
    return params.global_batch_size / float(trim_mean(durations[EDGE:-EDGE], 0.25))


def our_rates(root: Path, params: Params, out: Path) -> list[float]:
    """images/s of train() in each epoch, with all that it does between steps."""
    ends: list[float] = []
    train(NAME, root, params, out, on_step=lambda step: ends.append(time.perf_counter()))
    steps = len(ends) // params.epochs
    return [rate([b - a for a, b in pairwise(ends[i * steps : (i + 1) * steps])], params) for i in range(params.epochs)]


def timm_command(script: Path, folder: Path, params: Params, classes: int, out: Path) -> list[str]:
    """The command of timm's script for the same work."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = f"--model {params.model} --num-classes {classes} --device {device} --no-prefetcher --opt adamw --epochs 1"
    words += f" --warmup-epochs 0 --log-interval 1 -b {params.global_batch_size} -j {params.workers} --seed {params.seed}"
    words += f" --img-size {params.train_size} --scale {params.crop_scale_min} 1.0 --train-interpolation bicubic --color-jitter 0"
    words += f" --smoothing {params.label_smoothing} --lr {params.lr} --weight-decay {params.weight_decay}"
    words += " --channels-last" * params.channels_last + " --amp --amp-dtype bfloat16" * (params.precision == "bfloat16")
    arguments = [f"{name}={value}" for name, value in params.model_args.items()]
    named = ["--model-kwargs", *arguments] if arguments else []
    return [sys.executable, str(script.resolve()), "--data-dir", str(folder), *words.split(), *named, "--output", str(out)]


def timm_rate(script: Path, folder: Path, params: Params, classes: int, out: Path) -> float:
    """images/s of timm's script. TimmError if it fails."""
    words = timm_command(script, folder, params, classes, out)
    done = subprocess.run(words, cwd=out, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    steps = [float(seconds) for seconds in STEP.findall(printed)]
    if done.returncode or len(steps) <= 2 * EDGE:
        raise TimmError(f"{script} ended with {done.returncode} after {len(steps)} steps: {printed.strip()[-500:]}")
    return rate(steps, params)


def compare(script: Path, folder: Path, classes: int, params: Params, pairs: int) -> float:
    """Median ratio of our rate to timm's over so many pairs, each pair printed."""
    ratios = []
    for pair in range(pairs):
        rates = {}
        # in turns, as the second of a pair runs on a warmer, slower machine
        for name in ("ours", "timm") if pair % 2 else ("timm", "ours"):
            with tempfile.TemporaryDirectory() as out:
                if name == "ours":
                    (rates[name],) = our_rates(folder, params, Path(out) / "run")
                else:
                    rates[name] = timm_rate(script, folder, params, classes, Path(out))
        ratios.append(rates["ours"] / rates["timm"])
        print(f"  {params.model}: ours {rates['ours']:.1f}, timm {rates['timm']:.1f} images/s, ratio {ratios[-1]:.3f}", flush=True)
    return statistics.median(ratios)


def compare_caches(folder: Path, params: Params) -> None:
    """Print each epoch's images/s with decoded photos kept and without."""
    for cache in ("none", "ram", "disk"):
        with tempfile.TemporaryDirectory() as out:
            kept.FOLDER = Path(out) / "decoded"  # nothing of an earlier run is found, and nothing is left
            rates = our_rates(folder, params.model_copy(update={"epochs": 3, "cache": cache}), Path(out) / "run")
        print(f"  {params.model}, cache: {cache}: " + ", ".join(f"{one:.1f}" for one in rates) + " images/s by epoch", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--timm-train", type=Path, help="train.py of timm's repository, release of the installed package")
    line.add_argument("--data", type=Path)
    add_options(line)
    line.add_argument("--models", nargs="+", help=f"networks that timm knows; default: the recipe's, or {' '.join(MODELS)}")
    line.add_argument("--pairs", type=int, default=5)
    line.add_argument("--steps", type=int, default=40)
    line.add_argument("--batch", type=int, default=32)
    line.add_argument("--cache", action="store_true", help="measure cache: ram and disk, too")
    args = line.parse_args()
    if not args.timm_train and not args.cache:
        line.error(
            f"TIMM_TRAIN (--timm-train) is missing: the path of train.py of timm {timm.__version__}, from "
            "https://github.com/huggingface/pytorch-image-models"
        )
    if args.steps < 3 * EDGE:
        raise ValueError(f"--steps is {args.steps}, expected {3 * EDGE} at least: {EDGE} at either end do not count")
    if args.timm_train and not args.timm_train.is_file():
        raise ValueError(f"TIMM_TRAIN is {str(args.timm_train)!r}, expected the file train.py of timm's repository")
    return args


def main() -> None:
    """Command line; see the module's docstring."""
    args = arguments()
    fill_in(args)
    os.environ["MLFLOW_TRACKING_URI"] = "none"  # MLflow keeps no benchmarks
    params = read_params(args.params or DEFAULT).model_copy(update=PLAIN | {"epochs": 1, "global_batch_size": args.batch})
    data = read_data(args.data, params.val_fraction, params.seed, params.near_duplicates)
    print(f"{cpu()}, {torch.get_num_threads()} threads, timm {timm.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = sample(data, args.steps * args.batch, Path(temporary) / "photos")
        # a recipe's model_args and sizes of crops are for its own network
        for model in args.models or ([params.model] if args.recipe else MODELS):
            of_model = params.model_copy(update={"model": model})
            if args.timm_train:
                ratio = compare(args.timm_train, folder, len(data.labels), of_model, args.pairs)
                print(f"{model}: {ratio:.3f} times the images/s of timm's train.py (median of {args.pairs} pairs)")
            if args.cache:
                compare_caches(folder, of_model)


if __name__ == "__main__":
    sys.exit(run(main))
