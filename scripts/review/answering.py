"""What an archive answers to photos: `python -m scripts.review.answering ARCHIVE LIST OUT`, a process for each archive.

LIST has a path a line. OUT becomes a NumPy file: `found` (M,) indices of the photos that could be read, `best` (M, k) indices of
each's best classes, `probabilities` (M, k), `sure` (M,), `features` (M, D) if the archive has any; `labels`, `version`.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.archive.read import load_handler, unpack
from scripts.atomic import aside
from scripts.command import parser, run
from scripts.review.answers import BATCH, TOP_K, ReviewError


def _answer(handler: Any, paths: Sequence[Path]) -> dict[str, Any]:
    k = min(TOP_K, len(handler.labels))
    found, best, probabilities, sure, features = [], [], [], [], []
    for start in range(0, len(paths), BATCH):
        crops = handler.preprocess([path.read_bytes() for path in paths[start : start + BATCH]])
        good = [(start + i, crop) for i, crop in enumerate(crops) if not isinstance(crop, Exception)]
        if not good:
            continue
        # archives of before have no features
        all_probabilities, confidence, *of_batch = handler.inference([crop for _, crop in good])
        order = np.argsort(-all_probabilities, axis=1, kind="stable")[:, :k]
        found += [index for index, _ in good]
        best.append(order)
        probabilities.append(np.take_along_axis(all_probabilities, order, axis=1))
        sure.append(confidence >= handler.threshold)
        features.append(of_batch[0] if of_batch else np.zeros((len(good), 0)))
    shape = {"found": found, "labels": handler.labels, "version": handler.version}
    if not found:
        raise ReviewError("none of the photos can be read")
    joined = {"best": best, "probabilities": probabilities, "sure": sure, "features": features}
    return shape | {name: np.concatenate(values) for name, values in joined.items()}


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("archive", type=Path)
    arguments.add_argument("photos", type=Path, metavar="LIST")
    arguments.add_argument("out", type=Path)
    args = arguments.parse_args()
    paths = [Path(line) for line in args.photos.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        unpack(args.archive, Path(folder) / "archive")
        answers = _answer(load_handler(Path(folder) / "archive"), paths)
    with aside(args.out) as part, part.open("wb") as file:
        np.savez(file, **answers)


if __name__ == "__main__":
    sys.exit(run(main))
