"""What lies in a folder of captured photos: `TIME-KEY.photo`, its answer `.json`, and what a person made of it, `.feedback`.

TIME is that of the answer in nanoseconds. KEY stands for the request's id, which may hold what no file's name may; its first two
digits name one of 256 folders, so that an answer is found quickly among many. The same id may come again: each photo has its own
answer, and the last one is meant. Photos of earlier versions lie at the top, without an answer.
capture.py writes photos and answers, the door writes feedback. Without Pillow and NumPy, which the door does without.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PHOTO, ANSWER, FEEDBACK = ".photo", ".json", ".feedback"
# the name of a photo, and what follows it; whatever else lies in the folder is not ours. A file that is written ends in .part
NAME = re.compile(r"(\d+-[0-9a-f]+)(\.photo|\.json|\.feedback|\.part)(?:\.[\w-]+\.part)?", re.ASCII)
PLACE = re.compile(r"[0-9a-f]{2}", re.ASCII)
LEFT_S = 60.0  # what has had no photo for so long is left over from a process that was killed


def key_of(request_id: str) -> str:
    """The part of a file's name that stands for an id, whatever its characters."""
    return hashlib.sha256(request_id.encode(errors="replace")).hexdigest()[:32]


def place_of(folder: Path, key: str) -> Path:
    """The folder in which the files with this key lie."""
    return folder / key[:2]


def answer_of(folder: Path, request_id: str) -> Path | None:
    """The file of the last answer with this id, None if there is none."""
    key = key_of(request_id)
    place, ending = place_of(folder, key), f"-{key}{ANSWER}"
    try:
        with os.scandir(place) as entries:
            return place / max(entry.name for entry in entries if entry.name.endswith(ending))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def captured_photos(folder: Path, end: str = PHOTO) -> Iterator[bytes]:
    """The photos that were kept, the newest first; with FEEDBACK as `end` those that have feedback."""
    for path in sorted(folder.rglob(f"*{end}"), key=lambda path: path.name, reverse=True):
        with contextlib.suppress(FileNotFoundError):
            yield path.with_suffix(PHOTO).read_bytes()


def model_of(answer: bytes) -> str | None:
    """The model that gave an answer, by its file's content; None where the file names none, or is broken."""
    try:
        model = json.loads(answer)["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return model if isinstance(model, str) else None


def answered_by(photo: Path) -> str | None:
    """The model that answered a captured photo; None where that is not known: photos of earlier versions have no answer."""
    try:
        return model_of(photo.with_suffix(ANSWER).read_bytes())
    except OSError:
        return None


class _Files(NamedTuple):
    """A photo's files: their paths by the end of their names, when the photo was written, and how many bytes they have."""

    paths: dict[str, Path]
    written: float
    size: int


def prune(folder: Path, max_bytes: int, max_age_s: float) -> None:
    """Remove photos that are too old, and the oldest until the others fit; with each its answer and feedback.

    Those with feedback go last: nobody says again what they show.
    """
    now, room = time.time(), max_bytes
    photos = sorted(_all_files(folder), key=lambda photo: (FEEDBACK in photo.paths, photo.written), reverse=True)
    for photo in photos:
        if now - photo.written > (max_age_s if PHOTO in photo.paths else min(LEFT_S, max_age_s)):
            _remove(photo)
            continue
        if photo.size > room and PHOTO in photo.paths:
            _remove(photo)
        else:
            room -= photo.size


def _all_files(folder: Path) -> list[_Files]:
    places = [folder]
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # no folder: nothing was kept
        places += [Path(entry.path) for entry in entries if PLACE.fullmatch(entry.name)]
    return [photo for place in places for photo in _files(place)]


def _files(folder: Path) -> list[_Files]:
    found: dict[str, dict[str, tuple[Path, os.stat_result]]] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if match := NAME.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):  # another worker prunes, too
                    found.setdefault(match[1], {})[entry.name.removeprefix(match[1])] = Path(entry.path), entry.stat()
    listed = []
    for files in found.values():
        stats = [files[PHOTO][1]] if PHOTO in files else [stat for _, stat in files.values()]
        written = max(stat.st_mtime for stat in stats)
        size = sum(stat.st_size for _, stat in files.values())
        listed.append(_Files({end: path for end, (path, _) in files.items()}, written, size))
    return listed


def _remove(photo: _Files) -> None:
    """The photo last: what belongs to it does not stay without it."""
    for end in sorted(photo.paths, key=lambda end: end == PHOTO):
        with contextlib.suppress(OSError):
            photo.paths[end].unlink()
