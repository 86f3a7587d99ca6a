"""What the challenger answers to photos that were captured, beside the champion: no label is needed, and no server."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from handler.captured import FEEDBACK, PHOTO, answered_by
from scripts.archive.read import unpack
from scripts.atomic import write_text
from scripts.rollout.judge import Verdict
from scripts.rollout.pairs import Answer, Pair, Pairs, paired_differences
from scripts.serving.capture_store import CaptureStore
from scripts.settings import Settings

SCHEME = "s3://"
MOST = 1000  # captured photos, the newest
SHOWN = 10  # of the classes that change


def photos_of(place: str, folder: Path, model: str) -> str | None:
    """What make predict takes for `place`: of captured photos, in a folder or on S3, a list of the newest MOST of this model.

    Photos that people gave feedback on are left out: a version that learned from them rightly answers otherwise, and a bake
    leaves them out, too. None if photos were captured, and none is left. ValueError for an address that is none, StoreError if S3
    cannot be listed.
    """
    if place.startswith(SCHEME):
        newest = CaptureStore(place, Settings.from_environment(), "PHOTOS").uncorrected(MOST, model)
    else:
        newest = _in_folder(Path(place), model)
    if newest is None:
        return place
    path = folder / "captured.txt"
    write_text(path, "".join(f"{photo}\n" for photo in newest))
    return str(path) if newest else None


def _in_folder(root: Path, model: str) -> list[str] | None:
    """The newest MOST captured photos of a model without feedback: names begin with the time. None if none was captured."""
    named = [(int(name[1]), photo) for photo in root.rglob(f"*{PHOTO}") if (name := re.match(r"(\d+)-", photo.name))]
    newest = (photo for _, photo in sorted(named, reverse=True) if not photo.with_suffix(FEEDBACK).exists())
    ours = (str(photo.resolve()) for photo in newest if answered_by(photo) in (None, model))
    return list(islice(ours, MOST)) if named else None


def labels_of(archive: Path) -> set[str]:
    """The classes of an archive. ValueError for a damaged one."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder) / "archive")
        return set(json.loads((Path(folder) / "archive/index_to_name.json").read_text(encoding="utf-8")).values())


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
