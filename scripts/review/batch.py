"""The photos that are reviewed, with what is known of each, in the order in which they are shown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scripts.review.answers import Answered, ReviewError
from scripts.review.order import in_order, margins

LINES = "batch.jsonl"
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
        best = [one["probability"] for one in self.answers[0]["predictions"]] if self.answers else []
        return float(margins(np.array([best]))[0]) if len(best) > 1 else UNKNOWN

    @property
    def differs(self) -> bool:
        """Whether two versions, or a version and a person, name different classes."""
        named = {one["predictions"][0]["label"] for one in self.answers if one["predictions"]}
        return len(named | ({self.feedback} if self.given else set())) > 1


def read_items(folder: Path) -> list[Item]:
    """The photos of a batch. ReviewError unless the folder is a finished one."""
    lines = folder / LINES
    if not lines.is_file():
        raise ReviewError(f"{folder} is no batch: it has no {LINES}: make collect SOURCE=... makes one")
    items = []
    for number, line in enumerate(lines.read_bytes().splitlines(), 1):
        try:
            items.append(_item(folder, json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReviewError(f"{lines}, line {number} is no photo of a batch: {error}") from error
    if not items:
        raise ReviewError(f"{folder} holds no photo")
    return items


def _item(folder: Path, line: dict[str, Any]) -> Item:
    path = (folder / line["photo"]).resolve()
    if not path.is_relative_to(folder.resolve()):  # a batch of somebody else's shows no other file
        raise ValueError(f"the photo is {line['photo']!r}, expected a path in the batch")
    answer = line.get("answer")
    answers = [answer] if answer and answer.get("predictions") else []
    return Item(path, str(line["source"]), line.get("title"), answers, bool(line.get("given")), line.get("feedback"))


def labels_of(items: Sequence[Item], answered: Sequence[Answered]) -> list[str]:
    """All classes that are known of, sorted."""
    known = {label for one in answered for label in one.labels}
    for item in items:
        known |= {label for answer in item.answers for label in answer.get("labels", [])}
        known |= {one["label"] for answer in item.answers for one in answer["predictions"]}
        known |= {item.feedback} if item.feedback else set()
    return sorted(known)


def sort(items: list[Item], answered: Sequence[Answered]) -> list[Item]:
    """The items with the archives' answers, those first that are worth most."""
    for one in answered:
        for index, answer in one.answers.items():
            items[index].answers.append(answer)
    unsure, differs = np.array([item.unsure for item in items]), np.array([item.differs for item in items])
    features = next((one.features for one in answered if one.features), {})
    size = len(next(iter(features.values()))) if features else 0
    nothing = np.zeros(size, np.float32)
    table = np.stack([features.get(index, nothing) for index in range(len(items))]) if features else None
    return [items[index] for index in in_order(unsure, differs, table)]
