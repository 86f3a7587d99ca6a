"""Read and split a data set once: `python -m training.data.prepare --data FOLDER --params params.yaml --out build/split.json`.

The file lists the photos to train on, the held-out and the test photos, with the sha256 of each; `make train DATA=build/split.json`
takes it in place of the folder, and trains on the very same photos. The photos themselves stay where they are.
"""

import sys
from collections import Counter
from pathlib import Path

from scripts.command import parser, run
from scripts.phrases import counted
from training.data.sets import Data, read_data, write_prepared
from training.params import read_params


def print_summary(data: Data) -> None:
    """Print how many photos of each class are trained on, held out and, where there are any, for the test alone."""
    train, held_out, test = (Counter(photo.index for photo in photos) for photos in (data.train, data.held_out, data.test))
    width = max(len(label) for label in data.labels)
    print(f"{'class':{width}}  train  held out" + ("   test" if test else ""))
    for index, label in enumerate(data.labels):
        print(f"{label:{width}} {train[index]:6d} {held_out[index]:9d}" + (f" {test[index]:6d}" if test else ""))
    counts = f"{counted(len(data.train), 'photo')} to train on, {len(data.held_out)} held out"
    counts += f", {len(data.test)} for make evaluate alone" if test else ""
    print(f"{data.source}: {counts}; fingerprint {data.fingerprint[:12]}")


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments.add_argument("--out", type=Path, default=Path("build/split.json"))
    args = arguments.parse_args()
    # read_data takes any .json for a prepared data set, and anything else for a folder
    if args.data.suffix == ".json" or args.out.suffix != ".json":
        raise ValueError(f"--data is {args.data} and --out {args.out}, expected a folder and a .json")
    params = read_params(args.params)
    data = read_data(args.data, params.val_fraction, params.seed, params.near_duplicates)
    write_prepared(data, params.val_fraction, params.seed, args.out, params.near_duplicates)
    print_summary(data)
    print(f"{args.out} is written. Next: make train DATA={args.out}")


if __name__ == "__main__":
    sys.exit(run(main, "nothing was written"))
