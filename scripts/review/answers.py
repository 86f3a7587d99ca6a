"""What an archive answers to photos: `python -m scripts.review.answers ARCHIVE LIST OUT`, a process for each archive.

LIST has a path a line. OUT becomes a NumPy file: `found` (M,) indices of the photos that could be read, `best` (M, k) indices of
each's best classes, `probabilities` (M, k), `sure` (M,), `features` (M, D) if the archive has any; `labels`, `version`.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handler.parts import sha256
from scripts.archive.read import load_handler, unpack
from scripts.atomic import aside
from scripts.command import parser, run
from scripts.errors import SeeFoodError
from scripts.paths import ROOT

BATCH = 8
TOP_K = 5


class ReviewError(SeeFoodError):
    """A review that cannot begin."""


class Answered(NamedTuple):
    """By a photo's index: the archive's answer {"predictions", "sure", "version"}, and the features (D,) if it has any."""

    labels: list[str]
    answers: dict[int, dict[str, Any]]
    features: dict[int, np.ndarray]


def answers_of(archive: Path, photos: Sequence[Path], cache: Path) -> Answered:
    """The archive's answers; those to the same photos are kept in `cache`. ReviewError."""
    if not archive.is_file():
        raise ReviewError(f"there is no archive {archive}: MAR=model_store/NAME-VERSION.mar")
    text = "".join(f"{photo.resolve()}\n" for photo in photos)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "photos.txt"
        listed.write_text(text)
        out = cache / f"{archive.stem}-{sha256(archive)[:12]}-{sha256(listed)[:12]}.npz"
        if not out.exists():
            cache.mkdir(parents=True, exist_ok=True)
            print(f"{archive.name} answers {len(photos):,} photos ...", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "scripts.review.answers", str(archive.resolve()), str(listed), str(out.resolve())]
            if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
                raise ReviewError(f"{archive} does not answer the photos, for the reason above")
        return _read(out)


def _read(path: Path) -> Answered:
    with np.load(path) as kept:
        labels, found = [str(label) for label in kept["labels"]], [int(index) for index in kept["found"]]
        answers = {}
        for row, index in enumerate(found):
            best = zip(kept["best"][row], kept["probabilities"][row], strict=True)
            predictions = [{"label": labels[i], "probability": round(float(p), 4)} for i, p in best]
            answers[index] = {"predictions": predictions, "sure": bool(kept["sure"][row]), "version": str(kept["version"])}
        features = dict(zip(found, kept["features"], strict=True)) if kept["features"].size else {}
    return Answered(labels, answers, features)


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
