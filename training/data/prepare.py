"""Read and split a data set once: `python -m training.data.prepare --data FOLDER --params params.yaml --out build/split.json`.

The file lists the photos to train on, the held-out and the test photos, with the sha256 of each; `make train DATA=build/split.json`
takes it in place of the folder, and trains on the very same photos. The photos themselves stay where they are.
"""

import sys
from pathlib import Path

from scripts.command import parser, run
from training.data.sets import read_data, write_prepared
from training.data.summary import print_summary
from training.params import read_params


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
