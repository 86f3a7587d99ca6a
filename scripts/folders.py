"""What lies in a folder of photos as people have them: links are followed, leftovers of other programs are passed over."""

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scripts.phrases import counted

# what systems and programs leave in folders, beside names that begin with a dot; in small letters
LEFTOVERS = {
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@recently-snapshot"),  # Synology, QNAP
    *("lost+found", "__pycache__", "picasa.ini"),
}
# files of macOS that hold a file's attributes on a disk which cannot: ._photo.jpg is no photo
APPLE_DOUBLE = "._"
UNREADABLE = "not readable"  # before the reason
FOLDER = " folder"  # after the kind of a folder that is passed over
Place = tuple[int, int]  # a folder's device and inode
Above = frozenset[Place]
NOTHING: Place = (-1, -1)


@dataclass
class Folder:
    """A folder, its files and folders by name. Nothing in `files` was opened."""

    path: Path
    files: list[Path] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)

    def all_files(self) -> Iterator[Path]:
        """Its files and those of all folders below it."""
        yield from self.files
        for folder in self.folders:
            yield from folder.all_files()


def leftover(name: str) -> str | None:
    """The kind of a file or folder that systems and programs leave behind; None for any other name."""
    if name.startswith(APPLE_DOUBLE):
        return f"{APPLE_DOUBLE} file"
    if name == ".DS_Store" or name.casefold() in LEFTOVERS:
        return name.strip()
    return "hidden" if name.startswith(".") else None


def read_folder(path: Path, passed: Counter[str]) -> Folder:
    """The tree below `path`, links followed. What is passed over is counted in `passed`, by kind: a leftover folder counts once.

    OSError if `path` itself cannot be listed.
    """
    status = path.stat()
    return _read(path, frozenset([(status.st_dev, status.st_ino)]), passed)


def _read(path: Path, above: Above, passed: Counter[str]) -> Folder:
    folder = Folder(path)
    for child, place in _entries(path, above, passed):
        if place is None:
            folder.files.append(child)
            continue
        try:
            folder.folders.append(_read(child, above | {place}, passed))
        except OSError as error:
            passed[f"{UNREADABLE} ({error.strerror}){FOLDER}"] += 1
    return folder


def walk(path: Path, passed: Counter[str]) -> Iterator[Path]:
    """The files of files_below, one after the other: in memory are the names of the folders on the way, and nothing more."""
    status = path.stat()
    yield from _walk(path, frozenset([(status.st_dev, status.st_ino)]), passed)


def _walk(path: Path, above: Above, passed: Counter[str]) -> Iterator[Path]:
    for child, place in _entries(path, above, passed):
        if place is None:
            yield child
            continue
        try:
            yield from _walk(child, above | {place}, passed)
        except OSError as error:
            passed[f"{UNREADABLE} ({error.strerror}){FOLDER}"] += 1


def _entries(path: Path, above: Above, passed: Counter[str]) -> Iterator[tuple[Path, Place | None]]:
    """(a file, None) or (a folder, its place) for what lies in a folder, by name; what is passed over is counted.

    `above` has the places of the folder and of all above it: a link to one of them would never end.
    """
    names, others = [], {}
    with os.scandir(path) as entries:
        for entry in entries:
            if kind := leftover(entry.name):
                passed[f"{kind}{FOLDER * entry.is_dir()}"] += 1
                continue
            names.append(entry.name)
            # of a million files the names alone are kept
            if not entry.is_file(follow_symlinks=False):
                others[entry.name] = entry
    names.sort()
    for name in names:
        try:
            place = _place(others[name]) if name in others else None
        except OSError as error:
            nowhere = others[name].is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
            passed["link that leads nowhere" if nowhere else f"{UNREADABLE} ({error.strerror})"] += 1
            continue
        if place in above:
            passed["link to a folder above it"] += 1
        elif place == NOTHING:
            passed["link that leads nowhere" if others[name].is_symlink() else "no file (a device, pipe or socket)"] += 1
        else:
            yield path / name, place


def _place(entry: os.DirEntry[str]) -> Place | None:
    """The place of a folder, None for a file, NOTHING for what is neither. OSError."""
    if entry.is_file():
        return None
    if not entry.is_dir():
        return NOTHING
    status = entry.stat()
    return status.st_dev, status.st_ino


def files_below(path: Path, passed: Counter[str]) -> list[Path]:
    """All files of the tree below `path`, sorted; see read_folder."""
    return sorted(read_folder(path, passed).all_files())


def shown(path: Path | str) -> str:
    """A path or text for people and for files in UTF-8: bytes of it that are no UTF-8 become question marks."""
    return str(path).encode(errors="replace").decode()


def listed(counts: Counter[str]) -> str:
    """Counts by kind for people, most first: "7 .txt, 3 .DS_Store"."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def unreadable(counts: Counter[str]) -> int:
    """How many of what was passed over could not be read: files and folders that may hold what is looked for."""
    return sum(count for kind, count in counts.items() if kind.startswith(UNREADABLE))


def not_taken(path: Path | str, counts: Counter[str]) -> str:
    """A line for people about files of `path` that are not taken, by kind; "" if there are none."""
    folders = sum(count for kind, count in counts.items() if kind.endswith(FOLDER))
    files = counts.total() - folders
    total = [counted(number, noun) for number, noun in ((files, "file"), (folders, "folder")) if number]
    return f"not taken: {' and '.join(total)} of {path}: {listed(counts)}" if total else ""
