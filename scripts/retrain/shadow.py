"""How often the challenger and the champion agree on photos that were captured: no label is needed, and no server."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from handler.captured import PHOTO
from scripts.atomic import write_text

SHOWN = 10  # of the classes that change


def photos_of(place: str, folder: Path) -> str:
    """What make predict takes for `place`: of a server's folder of captured photos a list, as answers lie beside them."""
    root = Path(place)
    photos = sorted(root.rglob(f"*{PHOTO}")) if root.is_dir() else []
    if not photos:
        return place
    path = folder / "captured.txt"
    write_text(path, "".join(f"{photo.resolve()}\n" for photo in photos))
    return str(path)


def labels_in(path: Path) -> dict[str, str]:
    """The label of each photo in a CSV of make predict; photos without one are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["photo"]: row["label"] for row in csv.DictReader(file) if row["label"]}


def agreement(champion: dict[str, str], challenger: dict[str, str]) -> dict[str, Any]:
    """How many photos both have a label for, how many of them are the same, and the most frequent changes."""
    both = champion.keys() & challenger.keys()
    changed = Counter((champion[photo], challenger[photo]) for photo in both if champion[photo] != challenger[photo])
    changes = [
        {"from": old, "to": new, "photos": count} for (old, new), count in sorted(changed.items(), key=lambda c: (-c[1], c[0]))
    ]
    return {"photos": len(both), "agree": len(both) - changed.total(), "changes": changes[:SHOWN]}
