"""Which photos a contact sheet shows: of each class those that the model is least sure of, and failures."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from scripts.predict.summary import version_of

PICTURES = 2000  # of a sheet: some 15 MB
PER_CLASS = 60
FAILURES = 300

Row = dict[str, Any]


@dataclass
class Class:
    """The photos of one class: how many, how many of them unsure, and the rows that are shown, the unsure first."""

    label: str
    photos: int = 0
    unsure: int = 0
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Count a row, and keep it if it may be shown."""
        self.photos += 1
        self.unsure += not row.get("sure", True)
        self.rows.append(row)
        if len(self.rows) >= 4 * PER_CLASS:
            self.keep(PER_CLASS)

    def keep(self, most: int) -> None:
        """Leave the first rows alone: unsure ones, then by probability."""
        self.rows.sort(key=lambda row: (row.get("sure", True), row["predictions"][0]["probability"], row["photo"]))
        del self.rows[most:]


@dataclass
class Chosen:
    """What a sheet shows."""

    classes: list[Class]
    failures: list[Row]
    failed: int
    versions: Counter[str]

    @property
    def photos(self) -> int:
        """All photos, shown or not."""
        return self.failed + sum(found.photos for found in self.classes)


def choose(rows: Iterable[Row]) -> Chosen:
    """The photos of a sheet, in memory for each class a few hundred rows."""
    classes: dict[str, Class] = {}
    failures: list[Row] = []
    versions: Counter[str] = Counter()
    failed = 0
    for row in rows:
        if "predictions" in row:
            label = row["predictions"][0]["label"]
            classes.setdefault(label, Class(label)).add(row)
            versions[version_of(row)] += 1
            continue
        failed += 1
        if len(failures) < FAILURES:
            failures.append(row)
    most = max(1, min(PER_CLASS, PICTURES // max(1, len(classes))))
    for found in classes.values():
        found.keep(most)
    ordered = sorted(classes.values(), key=lambda found: found.label)
    return Chosen(ordered, failures, failed, versions)
