"""Which of the photos that someone gives are new to a data set, and why the others are refused."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.data.sets import find_photos
from training.data.split import NEAR_DUPLICATE, THUMBNAIL, hash_photos, normalise


@dataclass(frozen=True)
class Given:
    """A photo that someone wants in the data set."""

    path: Path
    label: str


@dataclass(frozen=True)
class Candidate:
    """A given photo as JPEG. `grey` is its thumbnail, None if the photo is there already; `problem` says why it cannot be read."""

    given: Given
    sha256: str = ""
    jpeg: Path = Path()
    grey: np.ndarray | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """The file that it becomes: the same bytes are found again, whatever they are called then."""
        return f"{self.sha256[:16]}.jpg"


@dataclass(frozen=True)
class Entry:
    """A photo that new ones are compared with."""

    path: Path
    label: str
    split: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a photo is not taken; `detail` is the photo that it repeats, or what is wrong."""

    given: Given
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.given.path}: {self.reason}{' of' if self.reason.endswith('duplicate') else ':'} {self.detail}"


@dataclass
class Known:
    """What new photos are compared with: the photos of the data set, then each that is taken, too."""

    labels: tuple[str, ...] = ()
    entries: list[Entry] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, THUMBNAIL**2), np.float32))  # normalised
    by_content: dict[str, Entry] = field(default_factory=dict)  # by sha256, and by name

    def near(self, grey: np.ndarray, label: str) -> Entry | None:
        """The photo that this thumbnail shows, too; of several one of the test split, or else one under another label."""
        both = np.concatenate(normalise(grey[None]))  # (2, 16 * 16): as it is, and mirrored
        near = np.flatnonzero((self.pixels[: len(self.entries)] @ both.T).max(axis=1) >= NEAR_DUPLICATE)
        return max((self.entries[i] for i in near), key=lambda e: (e.split == "test", e.label != label), default=None)

    def refusal(self, candidate: Candidate, labels: set[str]) -> Refusal | None:
        """Why not to take a photo that is given under these labels; None if it is new."""
        given = candidate.given
        if candidate.problem:
            return Refusal(given, "unreadable", candidate.problem)
        if len(labels) > 1:
            return Refusal(given, "label conflict", f"the same photo is given as {' and as '.join(sorted(labels))}")
        kind, entry = "exact duplicate", self.by_content.get(candidate.name) or self.by_content.get(candidate.sha256)
        if entry is None and candidate.grey is not None:
            kind, entry = "near duplicate", self.near(candidate.grey, given.label)
        if entry is None:
            return None
        if entry.split == "test":
            return Refusal(given, "in the held-out test split", str(entry.path))
        if entry.label != given.label:
            return Refusal(given, "label conflict", f"{kind} of {entry.path}, which is {entry.label}")
        return Refusal(given, kind, str(entry.path))

    def choose(self, candidates: list[Candidate]) -> tuple[list[Candidate], int, list[Refusal]]:
        """(to take, number of those that were taken before, refused), in the order that they are given."""
        taken, refused, seen = [], [], set()
        labels_of = defaultdict(set)
        for candidate in candidates:
            labels_of[candidate.sha256].add(candidate.given.label)
        came = {(e.path.name, e.label) for e in self.entries if e.split != "test"}
        self.pixels = np.concatenate([self.pixels, np.zeros((len(candidates), THUMBNAIL**2), np.float32)])
        for candidate in tqdm(candidates, "comparing photos", delay=3, leave=False):
            labels = set() if candidate.problem else labels_of[candidate.sha256]
            again = (candidate.name, candidate.given.label) in came and len(labels) == 1
            if again and candidate.sha256 not in seen:
                seen.add(candidate.sha256)
            elif (refusal := self.refusal(candidate, labels)) is not None:
                refused.append(refusal)
            else:
                assert candidate.grey is not None
                self.pixels[len(self.entries)] = normalise(candidate.grey[None])[0]
                self.by_content[candidate.sha256] = Entry(candidate.given.path, candidate.given.label)
                self.entries.append(self.by_content[candidate.sha256])
                taken.append(candidate)
        return taken, len(seen), refused


def read_known(root: Path, cache: Path) -> Known:
    """The photos in `root`, none if there is nothing. ValueError if that is no data set, or one that DVC has not fetched."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        if root.with_name(root.name + ".dvc").exists():
            raise ValueError(f"{root} is not here, but {root}.dvc knows of photos in it: make pull brings them")
        return Known()
    labels, photos, _ = find_photos(root)
    photos, thumbnails = hash_photos(root, photos, cache)
    entries = [Entry(photo.path, labels[photo.index], photo.split) for photo in photos]
    by_content = {entry.path.name: entry for entry in entries}
    by_content |= {photo.sha256: entry for photo, entry in zip(photos, entries, strict=True)}
    return Known(labels, entries, normalise(thumbnails)[0], by_content)
