"""A data set's tree of folders: which of its files are photos, by content, and what the others are."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from handler.limits import IMAGE_FORMATS
from handler.preprocess import PhotoError, read_photo
from scripts.folders import Folder, read_folder

# a file of such a name is meant as a photo: it is counted as unreadable if it is none. Of all others the content decides
PHOTO_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx"),
}
# lists and notes beside photos: a folder of nothing else is no class. XML and HTML are not SVG here
TEXT_SUFFIXES = {
    *(".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".xls", ".xlsx", ".md", ".html", ".htm", ".yaml", ".yml", ".log", ".rtf"),
    *(".mat", ".npy", ".npz", ".pkl", ".h5", ".tfrecord", ".lst", ".py", ".ipynb", ".names", ".ini"),
}
NO_IMAGE = "no image"
EMPTY, UNSUPPORTED = 400, 415  # PhotoError's status for no bytes, and for a format that is not read
START_BYTES = 4096  # enough to tell a format


@dataclass(eq=False)
class PhotoFolder:
    """A folder with the photos and folders directly in it, and its other files by (suffix, what they are)."""

    path: Path
    photos: list[Path] = field(default_factory=list)
    folders: list["PhotoFolder"] = field(default_factory=list)
    others: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def label(self) -> str:
        """Its name as a class's: composed (NFC), as macOS writes é in two characters and other systems in one."""
        return unicodedata.normalize("NFC", self.path.name)

    @cached_property
    def count(self) -> int:
        """Photos in it and below."""
        return len(self.photos) + sum(folder.count for folder in self.folders)

    def with_photos(self) -> list["PhotoFolder"]:
        """Its folders with a photo in them or below."""
        return [folder for folder in self.folders if folder.count]

    def all_photos(self) -> Iterator[Path]:
        """The photos in it and below."""
        yield from self.photos
        for folder in self.folders:
            yield from folder.all_photos()

    def all_others(self) -> Counter[tuple[str, str]]:
        """Other files in it and below, by (suffix, what they are)."""
        return sum((folder.all_others() for folder in self.folders), self.others)


def kinds(others: Counter[tuple[str, str]]) -> Counter[str]:
    """Counts of other files under their names for people: ".txt (no image)"."""
    return Counter({f"{suffix or 'without suffix'} ({kind})": count for (suffix, kind), count in others.items()})


def read_tree(root: Path, passed: Counter[str]) -> PhotoFolder:
    """The tree below `root`; what is passed over is counted in `passed`, see scripts/folders.py."""
    return _sorted_out(read_folder(root, passed))


def _sorted_out(folder: Folder) -> PhotoFolder:
    found = PhotoFolder(folder.path, folders=[_sorted_out(inner) for inner in folder.folders])
    for path in folder.files:
        kind = what_instead(path)
        if kind is None:
            found.photos.append(path)
        else:
            found.others[path.suffix.lower(), kind] += 1
    return found


def what_instead(path: Path) -> str | None:
    """None for a photo, or a file that is named as one; else what the file is: "JPEG XL", "no image", "Permission denied"."""
    suffix = path.suffix.lower()
    if suffix in PHOTO_SUFFIXES:
        return None
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(START_BYTES)
        # the first bytes tell; to try to decode it would take many times as long, of 100,000 files a minute
        if not any(re.match(magic, start, re.DOTALL) for magic in IMAGE_FORMATS.values()):
            read_photo(start)
    except PhotoError as error:
        if error.status == UNSUPPORTED:
            named = re.match(r"unsupported format: (.*?);", str(error))
            return named[1] if named and suffix not in TEXT_SUFFIXES else NO_IMAGE
        return NO_IMAGE if error.status == EMPTY else None
    except OSError as error:
        return error.strerror or str(error)
    return None
