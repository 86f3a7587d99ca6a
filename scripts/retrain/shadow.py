"""What the challenger answers to photos that were captured, beside the champion: no label is needed, and no server."""

import json
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from handler.captured import FEEDBACK, PHOTO
from scripts.atomic import write_text
from scripts.rollout.judge import Verdict
from scripts.rollout.pairs import Answer, Pair, Pairs, paired_differences
from scripts.settings import Settings

SHOWN = 10  # of the classes that change


def photos_of(place: str, folder: Path) -> str:
    """What make predict takes for `place`: of a server's folder of captured photos a list, as answers lie beside them.

    Photos that people gave feedback on are left out: a version that learned from them rightly answers otherwise, and a bake
    leaves them out, too.
    """
    root = Path(place)
    photos = sorted(root.rglob(f"*{PHOTO}")) if root.is_dir() else []
    if not photos:
        return place
    path = folder / "captured.txt"
    write_text(path, "".join(f"{photo.resolve()}\n" for photo in photos if not photo.with_suffix(FEEDBACK).exists()))
    return str(path)


def labels_of(archive: Path) -> set[str]:
    """The classes of an archive."""
    with zipfile.ZipFile(archive) as file:
        return set(json.loads(file.read("index_to_name.json")).values())


def answers_in(path: Path, others: Collection[str]) -> dict[str, Answer]:
    """The answer to each photo that make predict answered, in its JSON lines; `others` are the other version's classes."""
    answers = {}
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if found := row.get("predictions"):
                label = found[0]["label"]
                answers[row["photo"]] = Answer(label, found[0]["probability"], row.get("sure", True), label not in others)
    return answers


def compared(champion: dict[str, Answer], challenger: dict[str, Answer]) -> dict[str, Any]:
    """How many photos both answer, how many of them by the same class, the most frequent changes, and what a bake makes of them.

    `differs` is why the watch of a rollout restores the version before, "" if these photos give it no reason; `broken` is why it
    does so even where answers that differ are expected.
    """
    both = sorted(champion.keys() & challenger.keys())
    pairs: list[Pair] = [(champion[photo], challenger[photo]) for photo in both]
    changed = Counter((champion[photo].label, challenger[photo].label) for photo in both)
    changes = [
        {"from": old, "to": new, "photos": count}
        for (old, new), count in sorted(changed.items(), key=lambda change: (-change[1], change[0]))
        if old != new
    ]
    verdict, settings = Verdict(paired_differences(Pairs(pairs, [])), "", "", True), Settings()
    return {
        "photos": len(both),
        "agree": sum(old.label == new.label for old, new in pairs if old and new),
        "changes": changes[:SHOWN],
        "differs": verdict.why(settings),
        "broken": verdict.why(settings, broken=True),
    }
