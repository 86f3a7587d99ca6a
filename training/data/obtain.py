"""A data set, ready to train on: `python -m training.data.obtain SET --data data` (make data SET=...).

SET is the name of a published set (food101, cifar10, flowers102, pets, eurosat), which is downloaded, verified and laid out in
class folders; or a folder or a list of photos of yours, which is read as training reads it, or a folder of saved tensors with their
labels, which are written as photos. Without a network, copy the published files from another machine: the error says where to.
"""

import sys
from argparse import Namespace
from pathlib import Path

from scripts.command import parser, run
from scripts.phrases import counted
from training.data.published import PUBLISHED, obtain
from training.data.sets import read_data
from training.data.summary import print_summary
from training.data.tensors import Normalisation, convert, has_tensors
from training.params import read_params
from training.recipes.choose import recipes_of


def three(text: str) -> tuple[float, ...]:
    """Three numbers, as in 0.5,0.5,0.5."""
    values = tuple(float(value) for value in text.split(","))
    if len(values) != 3:
        raise ValueError(text)
    return values


def own(source: Path, args: Namespace) -> Path:
    """The data set of someone's own photos, checked and shown. ValueError as read_data and convert."""
    if has_tensors(source):
        target = args.data / source.resolve().name
        found = convert(source, target, Normalisation(args.mean, args.std))
        print(f"{counted(sum(found.values()), 'photo')} of tensors written to {target}")
        source = target
    params = read_params(args.params)
    print_summary(read_data(source, params.val_fraction, params.seed, params.near_duplicates))
    return source


def main() -> None:
    """Command line; see the module's docstring."""
    line = parser(__doc__)
    line.add_argument("set", help=f"{', '.join(PUBLISHED)}, a folder or a list")
    line.add_argument("--data", type=Path, default=Path("data"), help="where downloads and converted photos go")
    line.add_argument("--params", type=Path, default=Path("params.yaml"))
    line.add_argument("--mean", type=three, default=Normalisation.mean, help="of tensors that were normalised: 0.485,0.456,0.406")
    line.add_argument("--std", type=three, default=Normalisation.std, help="of tensors that were normalised: 0.229,0.224,0.225")
    args = line.parse_args()
    if args.set in PUBLISHED:
        published = PUBLISHED[args.set]
        print(f"{published.title}: {published.download_size} to download, unless it is there")
        root = obtain(args.set, args.data)
        print(f"{published.title} is complete in {root}")
    elif (source := Path(args.set)).exists():
        root = own(source, args)
    else:
        raise ValueError(f"SET is {args.set!r}: no such folder or file, and no published set; known are {', '.join(PUBLISHED)}")
    recipes = recipes_of(root)
    print(f"Next: make train RECIPE={recipes[0]}" if recipes else f"Next: make train DATA={root}")


if __name__ == "__main__":
    sys.exit(run(main, "the same command goes on or starts a download again"))
