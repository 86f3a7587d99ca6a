"""An archive's answers to photos, by answering.py in a process of its own, and kept for the next start."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handler.parts import sha256
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
            command = [sys.executable, "-m", "scripts.review.answering", str(archive.resolve()), str(listed), str(out.resolve())]
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
