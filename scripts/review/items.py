"""The photos that are reviewed, with what is known of each, in the order in which they are shown."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scripts.collection.batch import read_batch
from scripts.review.answers import Answered, ReviewError
from scripts.review.order import in_order, margins

UNKNOWN = 1.0  # how unsure a photo counts that nobody answered


@dataclass
class Item:
    """A photo; `answers` are those of each version, the one that was captured first, as {"predictions", "sure", "version"}."""

    path: Path
    source: str
    title: str | None
    answers: list[dict[str, Any]] = field(default_factory=list)
    given: bool = False  # whether a person gave feedback ...
    feedback: str | None = None  # ... and the class that they named, None for none of them

    @property
    def unsure(self) -> float:
        """From 0 to 1."""
        if not self.answers:
            return UNKNOWN
        measured = self.answers[0].get("unsure")
        if isinstance(measured, float) and 0 <= measured <= 1:
            return measured
        best = [one["probability"] for one in self.answers[0]["predictions"]]
        # of one class alone, as x-top-k: 1 has it: the next has at most what is left
        return float(margins(np.array([best if len(best) > 1 else [*best, min(best[0], 1 - best[0])]]))[0])

    @property
    def differs(self) -> bool:
        """Whether two versions, or a version and a person, name different classes."""
        named = {one["predictions"][0]["label"] for one in self.answers if one["predictions"]}
        return len(named | ({self.feedback} if self.given else set())) > 1


def read_items(folder: Path) -> list[Item]:
    """The photos of a batch. BatchError unless the folder is a finished one; ReviewError if several models answered its photos."""
    items = [
        Item(
            path=(folder / photo.photo).resolve(),
            source=photo.source,
            title=photo.title,
            answers=[photo.answer] if photo.answer and photo.answer.get("predictions") else [],
            given=photo.given,
            feedback=photo.feedback,
        )
        for photo in read_batch(folder)
    ]
    if len(models := sorted({str(answer["model"]) for item in items for answer in item.answers if "model" in answer})) > 1:
        raise ReviewError(
            f"the photos of {folder} were answered by several models, {', '.join(models)}, whose classes do not mix: collect those "
            f"of one into another OUT, make collect MODEL={models[0]} OUT=collected-{models[0]}"
        )
    return items


def labels_of(items: Sequence[Item], answered: Sequence[Answered]) -> list[str]:
    """All classes that are known of, sorted."""
    known = {label for one in answered for label in one.labels}
    for item in items:
        known |= {label for answer in item.answers for label in answer.get("labels", [])}
        known |= {one["label"] for answer in item.answers for one in answer["predictions"]}
        known |= {item.feedback} if item.feedback else set()
    return sorted(known)


def sort(items: list[Item], answered: Sequence[Answered], decided: Collection[Path] = ()) -> list[Item]:
    """The items with the archives' answers, those first that are worth most; those that were decided before come last.

    What is worth most is far from what is decided, too.
    """
    for one in answered:
        for index, answer in one.answers.items():
            items[index].answers.append(answer)
    unsure, differs = np.array([item.unsure for item in items]), np.array([item.differs for item in items])
    features = next((one.features for one in answered if one.features), {})
    size = len(next(iter(features.values()))) if features else 0
    nothing = np.zeros(size, np.float32)
    table = np.stack([features.get(index, nothing) for index in range(len(items))]) if features else None
    done = np.array([item.path in decided for item in items], bool)
    left = np.flatnonzero(~done)
    order = in_order(unsure[left], differs[left], None if table is None else table[left], None if table is None else table[done])
    return [items[index] for index in [*left[order], *np.flatnonzero(done)]]
