"""The speed of the training loop: `python -m training.speed.bench --data photos`, or `make bench-train DATA=photos`.

Pairs of runs, one after the other: the loop of training/loop.py, and a bare loop (forward, backward, step) over timm's loader,
with the same network, photos, batch, precision, crop and flip, and number of loader workers. Each pair gives one ratio of
images/s, as single rates mean little on a shared machine. The longest and the shortest quarter of the steps and a few at
either end do not count.
"""

import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import timm
import torch
from scipy.stats import trim_mean
from timm.data.dataset import ImageDataset
from timm.data.loader import create_loader
from torch import nn

from scripts.command import parser, run
from training.data.sets import Data, read_data
from training.data.split import Photo
from training.loop import train
from training.model import build
from training.params import Params, read_params
from training.recipes.choose import DEFAULT, add_options, fill_in

NAME = "bench"  # a model's name, which nothing registers
MODELS = ("levit_128s", "mobilenetv2_100")
# off, as the bare loop has no such thing; averaging, progress and bookkeeping stay on: they are what is measured
BARE = {"weights": "none", "augment": "none", "mixup": 0.0, "cutmix": 0.0, "clip_norm": 0.0, "freeze": [], "layer_decay": 1.0}
EDGE = 8  # steps at either end that do not count


class Listed:
    """A reader for timm's ImageDataset: open files and class indexes of photos."""

    def __init__(self, photos: tuple[Photo, ...]) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[BinaryIO, int]:
        return self.photos[i].path.open("rb"), self.photos[i].index


def sample(data: Data, photos: int, folder: Path) -> Path:
    """Class folders in `folder` with links to `photos` training photos of a data set; they repeat if there are fewer."""
    for number, photo in enumerate((data.train * (photos // len(data.train) + 1))[:photos]):
        link = folder / data.labels[photo.index] / f"{number}{photo.path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(photo.path.resolve())
    return folder


def rate(ends: list[float], params: Params) -> float:
    """images/s by the times at which steps ended: over the middle half of the steps, as other work makes some of them long."""
    durations = [after - before for before, after in pairwise(ends[EDGE:-EDGE])]
    return params.global_batch_size / float(trim_mean(durations, 0.25))


def our_rate(data: Data, params: Params, out: Path) -> float:
    """images/s of train(), with all that it does between steps."""
    ends: list[float] = []
    train(NAME, data.root, params, out, on_step=lambda step: ends.append(time.perf_counter()))
    return rate(ends, params)


def bare_rate(data: Data, params: Params) -> float:
    """images/s of the bare loop."""
    spec = build(params, len(data.labels))[1]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = timm.create_model(params.model, num_classes=len(data.labels), **params.model_args)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    loader = create_loader(
        ImageDataset("", reader=Listed(data.train)),
        (3, params.train_size, params.train_size),
        params.global_batch_size,
        is_training=True,
        scale=(params.crop_scale_min, 1.0),
        color_jitter=0.0,
        interpolation="bicubic",
        mean=spec.mean,
        std=spec.std,
        num_workers=params.workers,
        device=device,
    )
    optimizer = torch.optim.AdamW(network.parameters(), params.lr, fused=True)
    criterion, ends = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing), []
    for x, targets in loader:  # (B, 3, S, S), (B,)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=params.precision == "bfloat16"):
            loss = criterion(network(x), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(time.perf_counter())
    return rate(ends, params)


def compare(data: Data, params: Params, pairs: int) -> float:
    """Median ratio of our rate to the bare loop's over so many pairs, each pair printed."""
    ratios = []
    for pair in range(pairs):
        with tempfile.TemporaryDirectory() as out:
            rates = {}
            # in turns, as the second of a pair runs on a warmer, slower machine
            for name in ("ours", "bare") if pair % 2 else ("bare", "ours"):
                rates[name] = our_rate(data, params, Path(out)) if name == "ours" else bare_rate(data, params)
        ratios.append(rates["ours"] / rates["bare"])
        print(f"  {params.model}: ours {rates['ours']:.1f}, bare {rates['bare']:.1f} images/s, ratio {ratios[-1]:.3f}", flush=True)
    return statistics.median(ratios)


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path)
    add_options(arguments)
    arguments.add_argument("--models", nargs="+", help=f"networks that timm knows; default: the recipe's, or {' '.join(MODELS)}")
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=40)
    arguments.add_argument("--batch", type=int, default=32)
    args = arguments.parse_args()
    fill_in(args)
    os.environ["MLFLOW_TRACKING_URI"] = "none"  # MLflow keeps no benchmarks
    params = read_params(args.params or DEFAULT).model_copy(update=BARE | {"epochs": 1, "global_batch_size": args.batch})
    data = read_data(args.data, params.val_fraction, params.seed, params.near_duplicates)
    with tempfile.TemporaryDirectory() as folder:
        photos = sample(data, round(args.steps * args.batch / (1 - params.val_fraction)) + args.batch, Path(folder))
        # no cache: the folder is gone afterwards
        data = read_data(photos, params.val_fraction, params.seed, params.near_duplicates, cache=None)
        # a recipe's model_args and sizes of crops are for its own network
        for model in args.models or ([params.model] if args.recipe else MODELS):
            ratio = compare(data, params.model_copy(update={"model": model}), args.pairs)
            print(f"{model}: the loop reaches {ratio:.3f} of the bare loop's images/s (median of {args.pairs} pairs)")


if __name__ == "__main__":
    sys.exit(run(main))
