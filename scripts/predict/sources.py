"""Which photos: one, a folder, a list, s3://. Each time the same ones in the same order, one after the other."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from scripts.folders import walk
from scripts.predict.bucket import SCHEME, objects_below, split_address, stored
from scripts.predict.lists import SUFFIXES, listed_photos
from scripts.predict.photo import LocalPhoto, Photo

# what a write that was killed leaves beside a file (scripts/atomic.py)
ASIDE = re.compile(r"\.\d+-[0-9a-f]{8}\.part$")


class Source:
    """What PHOTOS names. `passed` counts what the last iteration passed over, by kind.

    `results`: files and addresses that the run itself writes; in a folder or below a prefix they are no photos.
    """

    def __init__(self, address: str, results: Iterable[str] = ()) -> None:
        """ValueError if there is no such thing, or if it is one of the results."""
        self.address, self.passed = address, Counter[str]()
        self._results = {result if result.startswith(SCHEME) else os.path.realpath(result) for result in results}
        self._result_names = {Path(result).name for result in results}
        self.path = Path(address)
        if address.startswith(SCHEME):
            split_address(address)
            if address.lower().endswith(SUFFIXES):
                raise ValueError(f"PHOTOS is {address}, and lists are read from this machine: aws s3 cp {address} .")
        elif "://" in address:
            raise ValueError(f"PHOTOS is {address}, expected a photo, a folder, a list or s3://bucket/prefix")
        elif not self.path.exists():
            raise ValueError(f"{address} does not exist: PHOTOS is a photo, a folder, a list or s3://bucket/prefix")
        if any(map(self._is_same, results)):
            raise ValueError(f"OUT would write over {address}, which is PHOTOS: choose another name")

    @property
    def place(self) -> str:
        """The address, the same from whatever folder it is given."""
        return self.address if self.address.startswith(SCHEME) else str(self.path.resolve())

    def photos(self) -> Iterator[Photo]:
        """The photos. PredictError, ValueError or OSError where they cannot be listed."""
        self.passed.clear()
        return self._photos(self.passed)

    def count(self) -> int:
        """How many there are; takes a while."""
        return sum(1 for _ in self._photos(Counter()))

    def _photos(self, passed: Counter[str]) -> Iterator[Photo]:
        if self.address.startswith(SCHEME):
            yield from (photo for photo in objects_below(self.address, passed) if photo.name not in self._results)
        elif self.path.is_dir():
            yield from (LocalPhoto(path) for path in walk(self.path, passed) if not self._is_result(path))
        elif self.path.suffix.lower() in SUFFIXES:
            yield from listed_photos(self.path)
        else:
            yield LocalPhoto(self.path)

    def _is_same(self, result: str) -> bool:
        if self.address.startswith(SCHEME) or result.startswith(SCHEME):
            return self.address == result
        return self.path.is_file() and Path(result).exists() and self.path.samefile(result)

    def _is_result(self, path: Path) -> bool:
        name = ASIDE.sub("", path.name)
        return name in self._result_names and os.path.realpath(path.with_name(name)) in self._results


def photo_named(name: str) -> Photo:
    """The photo of a row's name."""
    return stored(name) if name.startswith(SCHEME) else LocalPhoto(Path(name))
