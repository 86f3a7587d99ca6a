"""Which of the photos that someone gives are new to a data set, and why the others are refused."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scripts.folders import shown
from training.data.duplicates import NEAR_DUPLICATE, THUMBNAIL, normalise
from training.data.sets import find_photos
from training.data.split import OFFICIAL, hash_photos


@dataclass(frozen=True)
class GivenPhoto:
    """A photo that someone wants in the data set."""

    path: Path
    label: str


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


@dataclass
class Selection:
    """Candidates to add, the number of those that an earlier ingest added, and refusals, in the order of the candidates."""

    added: list[Candidate] = field(default_factory=list)
    present: int = 0
    refused: list[Refusal] = field(default_factory=list)


@dataclass
class KnownPhotos:
    """What new photos are compared with: the photos of the data set, and each new one that is added to them."""

    labels: tuple[str, ...] = ()
    photos: list[KnownPhoto] = field(default_factory=list)
    # normalised thumbnails, a row a photo; there may be more rows than photos, see select
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, THUMBNAIL**2), np.float32))
    by_content: dict[str, KnownPhoto] = field(default_factory=dict)  # by sha256 and by file name

    def select(self, candidates: list[Candidate]) -> Selection:
        """Which candidates to add. Each added one is known from then on, so that a second copy of it is refused."""
        selection = Selection()
        labels_of = _labels_by_content(candidates)
        ingested = {(photo.path.name, photo.label) for photo in self.photos if photo.split not in OFFICIAL}
        present: set[str] = set()
        # rows for all candidates at once: to append each alone would copy all the others every time
        self.pixels = np.concatenate([self.pixels, np.zeros((len(candidates), THUMBNAIL**2), np.float32)])
        for candidate in tqdm(candidates, "comparing photos", delay=3, leave=False):
            labels = labels_of.get(candidate.sha256, set())
            # one label: a photo that is present and given under two labels is a conflict
            is_present = (candidate.name, candidate.given.label) in ingested and len(labels) == 1
            if is_present and candidate.sha256 not in present:
                present.add(candidate.sha256)
            elif (refusal := self._refusal(candidate, labels)) is not None:
                selection.refused.append(refusal)
            else:
                self._add(candidate)
                selection.added.append(candidate)
        selection.present = len(present)
        return selection

    def _refusal(self, candidate: Candidate, labels: set[str]) -> Refusal | None:
        """Why not to add a photo that is given under these labels; None if it is new."""
        given = candidate.given
        if candidate.problem:
            return Refusal(given, "unreadable", candidate.problem)
        if len(labels) > 1:
            return Refusal(given, "label conflict", f"the same photo is given as {' and as '.join(sorted(labels))}")
        kind, known = "exact duplicate", self.by_content.get(candidate.name) or self.by_content.get(candidate.sha256)
        if known is None and candidate.thumbnail is not None:
            kind, known = "near-duplicate", self._near_duplicate(candidate.thumbnail, given.label)
        if known is None:
            return None
        if known.split in OFFICIAL:
            return Refusal(given, f"in the held-out {known.split} split", str(known.path))
        if known.label != given.label:
            return Refusal(given, "label conflict", f"{kind} of {known.path}, which is {known.label}")
        return Refusal(given, kind, str(known.path))

    def _near_duplicate(self, thumbnail: np.ndarray, label: str) -> KnownPhoto | None:
        """A known photo that this one repeats, None if there is none."""
        both = np.concatenate(normalise(thumbnail[None]))  # (2, 16 * 16): as it is, and mirrored
        near = np.flatnonzero((self.pixels[: len(self.photos)] @ both.T).max(axis=1) >= NEAR_DUPLICATE)
        # of several, one in a held-out split, or else one under another label: the graver reason is reported
        return max((self.photos[i] for i in near), key=lambda p: (p.split in OFFICIAL, p.label != label), default=None)

    def _add(self, candidate: Candidate) -> None:
        assert candidate.thumbnail is not None, "a photo without a thumbnail is in the data set already"
        photo = KnownPhoto(candidate.given.path, candidate.given.label)
        self.pixels[len(self.photos)] = normalise(candidate.thumbnail[None])[0]
        self.by_content[candidate.sha256] = photo
        self.photos.append(photo)


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
    return KnownPhotos(labels, photos, normalise(thumbnails)[0], by_name | by_sha256)
