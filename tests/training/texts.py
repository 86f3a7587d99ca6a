"""Lists of generated pictures with texts, for tests of models that read both."""

import csv
import random
from pathlib import Path

WORDS = ("pizza", "ramen soup", "green salad", "ice cream")


def write_texts(photos: Path, path: Path, per_class: int = 16) -> Path:
    """A list of photos in class folders, each with a text that names its class, or with none for three in ten."""
    rng = random.Random(0)
    folders = sorted(folder for folder in photos.iterdir() if folder.is_dir())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "text"])
        for folder, word in zip(folders, WORDS, strict=True):
            for photo in sorted(folder.iterdir())[:per_class]:
                text = "" if rng.random() < 0.3 else f"{rng.choice(['My', 'the best', 'Sunday'])} {word}!"
                rows.writerow([photo, folder.name, text])
    return path
