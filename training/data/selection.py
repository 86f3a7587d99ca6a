"""Which of the photos that someone gives are new to a data set, and why the others are refused."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.folders import shown
from training.data.duplicates import near_duplicate_pairs
from training.data.sets import find_photos
from training.data.split import OFFICIAL, hash_photos
from training.data.thumbnail import PIXELS


@dataclass(frozen=True)
class GivenPhoto:
    """A photo that someone wants in the data set, or out of it: its `label` is "" then.

    `where` it is listed is for people: "labels.csv, line 7", or "" in a folder.
    """

    path: Path
    label: str
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Candidate:
    """A given photo as JPEG. `thumbnail` is None if the data set has the photo already; `problem` is why it is unreadable."""

    given: GivenPhoto
    sha256: str = ""
    jpeg: Path = Path()
    thumbnail: np.ndarray | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """Its file name in the data set, made from its content: given again under another name, it is found again."""
        return f"{self.sha256[:16]}.jpg"


@dataclass(frozen=True)
class KnownPhoto:
    """A photo that new ones are compared with."""

    path: Path
    label: str
    split: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a photo is not added; `detail` is the photo that it repeats, or what is wrong."""

    given: GivenPhoto
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{shown(self.given.path)}: {self.reason}{' of' if self.reason.endswith('duplicate') else ':'} {self.detail}"


def _labels(copies: Iterable[KnownPhoto]) -> str:
    return " and ".join(sorted({copy.label for copy in copies}))


@dataclass(frozen=True)
class Correction:
    """A photo that gets another label: `copies` is where the data set has it, under one label or several."""

    given: Candidate
    copies: list[KnownPhoto]

    def __str__(self) -> str:
        return f"{shown(self.given.given.path)}: {_labels(self.copies)} -> {self.given.given.label}"


@dataclass(frozen=True)
class Removal:
    """A photo that is of none of the classes: `copies` is where an earlier ingest put it."""

    given: Candidate
    copies: list[KnownPhoto]

    def __str__(self) -> str:
        return f"{shown(self.given.given.path)}: no longer {_labels(self.copies)}"


@dataclass
class Selection:
    """Candidates to add, the number of those that an earlier ingest added, and refusals, in the order of the candidates."""

    added: list[Candidate] = field(default_factory=list)
    corrected: list[Correction] = field(default_factory=list)
    removed: list[Removal] = field(default_factory=list)
    present: int = 0
    refused: list[Refusal] = field(default_factory=list)


@dataclass
class KnownPhotos:
    """What new photos are compared with: the photos of the data set, and each new one that is added to them."""

    labels: tuple[str, ...] = ()
    photos: list[KnownPhoto] = field(default_factory=list)
    # of the photos that the data set has, see hash_photos
    thumbnails: np.ndarray = field(default_factory=lambda: np.zeros((0, PIXELS), np.uint8))
    by_content: dict[str, KnownPhoto] = field(default_factory=dict)  # by sha256 and by file name

    def select(self, candidates: list[Candidate], limit: float, reviewed: bool = False) -> Selection:
        """Which candidates to add. Each added one is known from then on, so that a second copy of it is refused.

        `limit` is as in near_duplicate_pairs. `reviewed`: of a photo's labels the last counts, also over the one that it has in the
        data set, unless it is held out there by a split of its own; without a label it goes, if an earlier ingest added it.
        """
        if reviewed:
            candidates = _last_of_each(candidates)
        selection = Selection()
        labels_of = _labels_by_content(candidates)
        ingested = {(photo.path.name, photo.label) for photo in self.photos if photo.split not in OFFICIAL}
        present: set[str] = set()
        known = dict(enumerate(self.photos))  # by number of the thumbnail: those of the candidates follow
        near = self._near_duplicates(candidates, limit)
        for number, candidate in enumerate(candidates):
            if not candidate.given.label and not candidate.problem:
                if copies := self._ingested(candidate):
                    selection.removed.append(Removal(candidate, copies))
                continue
            labels = labels_of.get(candidate.sha256, set())
            # one label: a photo that is present and given under two labels is a conflict
            is_present = (candidate.name, candidate.given.label) in ingested and len(labels) == 1
            if reviewed and (copies := self._under_other_labels(candidate)):
                selection.corrected.append(Correction(candidate, copies))
            elif is_present and candidate.sha256 not in present:
                present.add(candidate.sha256)
            elif (refusal := self._refusal(candidate, labels, [known[k] for k in near[number] if k in known])) is not None:
                selection.refused.append(refusal)
            else:
                known[len(self.thumbnails) + number] = self._add(candidate)
                selection.added.append(candidate)
        selection.present = len(present)
        return selection

    def _refusal(self, candidate: Candidate, labels: set[str], near: list[KnownPhoto]) -> Refusal | None:
        """Why not to add a photo that is given under these labels and has these near-duplicates; None if it is new."""
        given = candidate.given
        if candidate.problem:
            return Refusal(given, "unreadable", candidate.problem)
        if len(labels) > 1:
            return Refusal(given, "label conflict", f"the same photo is given as {' and as '.join(sorted(labels))}")
        kind, known = "exact duplicate", self.by_content.get(candidate.name) or self.by_content.get(candidate.sha256)
        if known is None and near:
            # of several, one in a held-out split, or else one under another label: the graver reason is reported
            kind, known = "near-duplicate", max(near, key=lambda p: (p.split in OFFICIAL, p.label != given.label))
        if known is None:
            return None
        if known.split in OFFICIAL:
            return Refusal(given, f"in the held-out {known.split} split", str(known.path))
        if known.label != given.label:
            return Refusal(given, "label conflict", f"{kind} of {known.path}, which is {known.label}")
        return Refusal(given, kind, str(known.path))

    def _ingested(self, candidate: Candidate) -> list[KnownPhoto]:
        """Where earlier ingests put the photo; what the data set had from the beginning is none of these."""
        return [one for one in self.photos if one.path.name == candidate.name and one.split not in OFFICIAL]

    def _under_other_labels(self, candidate: Candidate) -> list[KnownPhoto]:
        """The photo where the data set has it under another label; [] if a published split has it, which stays as it is."""
        if candidate.problem:
            return []
        held = self.by_content.get(candidate.sha256)
        copies = [one for one in self.photos if one.path.name == candidate.name or one is held]
        if any(one.split in OFFICIAL for one in copies):
            return []
        return [one for one in copies if one.label != candidate.given.label]

    def _near_duplicates(self, candidates: list[Candidate], limit: float) -> dict[int, list[int]]:
        """Of each candidate's number, the numbers of its near-duplicates: the photos here come first, then the candidates."""
        old = len(self.thumbnails)
        staged = [number for number, candidate in enumerate(candidates) if candidate.thumbnail is not None]
        given = [candidate.thumbnail for candidate in candidates if candidate.thumbnail is not None]
        near = defaultdict(list)
        for i, j in near_duplicate_pairs(np.stack([*self.thumbnails, *given]), limit, first_new=old) if given else ():
            one, other = (int(k) if k < old else old + staged[k - old] for k in (i, j))
            near[other - old].append(one)
            if one >= old:
                near[one - old].append(other)
        return near

    def _add(self, candidate: Candidate) -> KnownPhoto:
        photo = KnownPhoto(candidate.given.path, candidate.given.label)
        self.by_content[candidate.sha256] = photo
        self.photos.append(photo)
        return photo


def _last_of_each(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates, of those with the same content the last."""
    last = {candidate.sha256: number for number, candidate in enumerate(candidates) if not candidate.problem}
    return [one for number, one in enumerate(candidates) if one.problem or last[one.sha256] == number]


def _labels_by_content(candidates: Iterable[Candidate]) -> dict[str, set[str]]:
    """The labels under which each readable photo (sha256) is given."""
    labels_of = defaultdict(set)
    for candidate in candidates:
        if not candidate.problem:
            labels_of[candidate.sha256].add(candidate.given.label)
    return labels_of


def read_known_photos(root: Path, cache: Path) -> KnownPhotos:
    """The photos in `root`, none if it is empty or missing. ValueError if it is not a data set, or DVC has not fetched it."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        if root.with_name(root.name + ".dvc").exists():
            raise ValueError(f"{root} is not here, but {root}.dvc lists photos of it: fetch them with make pull")
        return KnownPhotos()
    labels, found, _ = find_photos(root)
    found, thumbnails = hash_photos(root, found, cache)
    photos = [KnownPhoto(photo.path, labels[photo.index], photo.split) for photo in found]
    by_name = {photo.path.name: photo for photo in photos}
    by_sha256 = {photo.sha256: known for photo, known in zip(found, photos, strict=True)}
    return KnownPhotos(labels, photos, thumbnails, by_name | by_sha256)
