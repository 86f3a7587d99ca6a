"""Download the real Food-101 (about 5 GB) and verify it: `python -m training.data.download data` (make data).

Without a network, put food-101.tar.gz into the folder first: it is then verified and unpacked, not downloaded.
"""

import sys
from pathlib import Path

from torchvision import datasets

from scripts.command import parser, run
from scripts.errors import SeeFoodError
from scripts.phrases import counted

FOOD101_PHOTOS = {"train": 75_750, "test": 25_250}


class DownloadError(SeeFoodError):
    """A data set that could not be downloaded, or is incomplete."""


def download(root: Path) -> None:
    """Download Food-101 into `root`/food-101 and verify it. DownloadError where there is no network, or photos are missing."""
    try:
        datasets.Food101(str(root), download=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision's, for a wrong md5
        raise DownloadError(
            f"Food-101 could not be downloaded: {error}\n"
            f"Without a network, copy food-101.tar.gz from another machine to {root}/ and run this again,\n"
            "or train on your own folder of class folders: make train DATA=path/to/folder"
        ) from error
    for split, expected in FOOD101_PHOTOS.items():
        found = len(datasets.Food101(str(root), split=split))
        if found < expected:  # make ingest may have added some
            raise DownloadError(
                f"Food-101 in {root} lists {counted(found, split + ' photo')}, expected {expected}: delete it and try again"
            )


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("root", type=Path)
    root = arguments.parse_args().root
    download(root)
    print(f"Food-101 is complete in {root / 'food-101'}. Next: make train DATA={root}")


if __name__ == "__main__":
    sys.exit(run(main, "the same command goes on or starts the download again"))
