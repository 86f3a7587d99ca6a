"""How fast is the training loop: `python -m training.speed.bench --data photos`, or `make bench-train DATA=photos`.

Pairs of runs, one after the other: our training/train.py, and a bare loop (forward, backward, step) over timm's loader, with
the same network, photos, batch, precision, crop and flip, and number of loader workers. Each pair gives one ratio of
images/s; on machines that others share, single rates mean little. The longest quarter of the steps, the shortest and
the first and last few do not count.
"""

import argparse
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

from training.data.sets import Data, read_data
from training.data.split import Photo
from training.model import build
from training.params import Params, read_params
from training.train import train

MODELS = ("levit_128s", "mobilenetv2_100")
# what the bare loop leaves out is left on: averaging, progress, checkpoints, evaluation's bookkeeping
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
    """Class folders in `folder` with links to so many photos of a data set, spread over its classes."""
    for number, photo in enumerate((data.train * (photos // len(data.train) + 1))[:photos]):
        link = folder / data.labels[photo.index] / f"{number}{photo.path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(photo.path.resolve())
    return folder


def rate(ends: list[float], params: Params) -> float:
    """images/s by the times at which steps ended: of the middle half of the steps, as others' work makes some of them long."""
    durations = [after - before for before, after in pairwise(ends[EDGE:-EDGE])]
    return params.global_batch_size / float(trim_mean(durations, 0.25))


def our_rate(data: Data, params: Params, out: Path) -> float:
    """images/s of train(), all that it does at its steps included."""
    ends: list[float] = []
    train(data.root, params, out, on_step=lambda step: ends.append(time.perf_counter()))
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
            for name in ("ours", "bare") if pair % 2 else ("bare", "ours"):  # no side always finds the warmer machine
                rates[name] = our_rate(data, params, Path(out)) if name == "ours" else bare_rate(data, params)
        ratios.append(rates["ours"] / rates["bare"])
        print(f"  {params.model}: ours {rates['ours']:.1f}, bare {rates['bare']:.1f} images/s, ratio {ratios[-1]:.3f}", flush=True)
    return statistics.median(ratios)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = "none"  # a benchmark is no run to keep
    try:
        params = read_params(args.params).model_copy(update=BARE | {"epochs": 1, "global_batch_size": args.batch})
        data = read_data(args.data, params.val_fraction, params.seed, Path("build/photo-hashes"))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        photos = sample(data, round(args.steps * args.batch / (1 - params.val_fraction)) + args.batch, Path(folder))
        data = read_data(photos, params.val_fraction, params.seed)
        for model in args.models:
            ratio = compare(data, params.model_copy(update={"model": model}), args.pairs)
            print(f"{model}: ours does {ratio:.3f} of the bare loop's images/s (median of {args.pairs} pairs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
