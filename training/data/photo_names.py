"""Which photo a list means: relative to the list's folder, or as another machine or a bucket had it, where one photo alone fits."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from scripts.class_names import split_name
from scripts.phrases import counted
from training.data.photo_folders import PHOTO_SUFFIXES

# how a name fits a photo; names of one list fit alike, and one that fits less well is another photo's
IN_LISTS_FOLDER, IN_LISTS_OWN_FOLDER, BELOW, RENAMED_FOLDER = 3, 2, 1, 0


def looks_like_photo(name: str) -> bool:
    """Whether a name ends like a photo's."""
    return Path(name).suffix.lower() in PHOTO_SUFFIXES


def slashed(name: str) -> str:
    r"""A name with slashes: of sub\1.jpg, and of gs://bucket/1.jpg or https://host/1%20a.jpg."""
    if "://" in name:
        name = unquote(name.partition("://")[2].partition("?")[0])
    return name.replace("\\", "/")


@lru_cache(maxsize=100_000)
def _parts(name: str) -> tuple[str, ...]:
    """Folders and file name, whatever the case and the form of Unicode."""
    key = unicodedata.normalize("NFC", slashed(name)).casefold()
    return tuple(part for part in key.split("/") if part not in ("", ".", ".."))


class PhotoNames:
    """Photos by the names that lists give them: with their suffix or without.

    With `elsewhere` a list may also name files that are not among them, by their path on this machine.
    """

    def __init__(self, photos: Iterable[Path], elsewhere: bool = False) -> None:
        self.elsewhere = elsewhere
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        self.parts = {photo: _parts(str(photo)) for photo in photos}
        for photo in self.parts:
            self.by_name[_parts(photo.name)[-1]].append(photo)
            self.by_stem[_parts(photo.stem)[-1]].append(photo)
        # by the folder that they are in, too: a name may be in a thousand folders
        self.by_folder: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for photo, parts in self.parts.items():
            for name in {parts[-1], _parts(photo.stem)[-1]}:
                self.by_folder["".join(parts[-2:-1]), name].append(photo)
        self.by_path = {photo.absolute(): photo for photo in self.parts}

    def match(self, name: str) -> int:
        """How sure a text is the name of a photo: 2 with its suffix, 1 without, 0 if it is none."""
        file_name = (_parts(name) or ("",))[-1]
        return 2 if file_name in self.by_name else 1 if file_name in self.by_stem else 0

    def find(self, names: list[str], path: Path) -> list[Path | str]:
        """The photo of each name in the list `path`, or why there is none."""
        found = [self._candidates(name, path) for name in names]
        needed = max((rank for rank, photos in found if photos), default=0)
        result: list[Path | str] = []
        for name, (rank, photos) in zip(names, found, strict=True):
            if not photos or rank < needed:
                result.append(f"no photo {path.parent / slashed(name)}: paths are relative to the list's folder")
            elif len(photos) > 1:
                result.append(f"{counted(len(photos), 'photo')} are called {photos[0].name}: write their folders, too")
            else:
                result.append(photos[0])
        if needed == RENAMED_FOLDER:  # a/1.jpg and b/1.jpg are not both c/1.jpg
            names_of = Counter({photo: len(set(of)) for photo, of in _grouped(names, result).items()})
            result = [
                f"no photo {name!r}, only {photo} in another folder" if names_of[photo] > 1 else photo
                for name, photo in zip(names, result, strict=True)
            ]
        return result

    def _candidates(self, name: str, path: Path) -> tuple[int, list[Path]]:
        """The photos that a name fits best, and how."""
        parts, exact = _parts(name), Path(os.path.normpath(path.parent / slashed(name)))
        if not parts:
            return 0, []
        if photo := self.by_path.get(exact.absolute()):
            return IN_LISTS_FOLDER, [photo]
        if self.elsewhere and exact.is_file():
            return IN_LISTS_FOLDER, [exact]
        photos = self.by_name.get(parts[-1]) or self.by_stem.get(parts[-1], [])
        folders, base = parts[:-1], _parts(str(path.parent))
        if folders and (near := self._near(folders[-1], parts[-1])):
            photos = near
        elif folders:
            return RENAMED_FOLDER, photos
        if inside := [photo for photo in photos if self.parts[photo][:-1] == (*base, *folders)]:
            return IN_LISTS_FOLDER, inside
        if not folders and (inside := [photo for photo in photos if _same_split(photo, path)]):
            return IN_LISTS_OWN_FOLDER, inside
        if not folders:
            return BELOW, photos
        tails = {photo: _tail(self.parts[photo][:-1], folders) for photo in photos}
        best = max(tails.values())
        return BELOW, [photo for photo, tail in tails.items() if tail == best]

    def _near(self, folder: str, name: str) -> list[Path]:
        """The photos of a name in a folder of that name; by their whole name where any photo has it, else by their stem."""
        whole = name in self.by_name
        return [photo for photo in self.by_folder.get((folder, name), []) if not whole or self.parts[photo][-1] == name]


def _same_split(photo: Path, path: Path) -> bool:
    """Whether a photo is in the folder of a list's name: in train/ or train_images/ of train.csv or trainLabels.csv."""
    folder, stem = photo.parent.name, path.stem
    one, other = split_name(folder), split_name(stem)
    return folder.casefold() == stem.casefold() or (one is not None and other is not None and one.role == other.role)


def _grouped(names: list[str], found: list[Path | str]) -> dict[Path | str, set[tuple[str, ...]]]:
    names_of: dict[Path | str, set[tuple[str, ...]]] = defaultdict(set)
    for name, photo in zip(names, found, strict=True):
        if isinstance(photo, Path):
            names_of[photo].add(_parts(name))
    return names_of


def _tail(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many folders two paths share at their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
