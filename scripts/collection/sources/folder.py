"""All photos of a folder, or below a prefix on S3."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scripts.collection.source import Fetched, Found
from scripts.folders import walk
from scripts.predict.bucket import SCHEME, objects_below, split_address
from scripts.predict.photo import LocalPhoto, Photo


def place_of(address: str) -> str:
    """The address, absolute. ValueError if there is no such folder, or if it names no bucket."""
    if address.startswith(SCHEME):
        split_address(address)
        return address
    if not Path(address).is_dir():
        raise ValueError(f"SOURCE names {address!r}, expected a folder or s3://bucket/prefix")
    return os.path.realpath(address)


def files_of(place: str, passed: Counter[str]) -> Iterator[Photo]:
    """The files of a folder with all its folders by name, or the objects below a prefix by key; see walk, objects_below."""
    if place.startswith(SCHEME):
        yield from objects_below(place, passed)
    else:
        yield from map(LocalPhoto, walk(Path(place), passed))


class Folder:
    """See the module."""

    def __init__(self, address: str) -> None:
        """ValueError, see place_of."""
        self.address = place_of(address)
        self.kind = "s3" if self.address.startswith(SCHEME) else "folder"

    def found(self, passed: Counter[str]) -> Iterator[Found]:
        """See Source."""
        for photo in files_of(self.address, passed):
            yield Found(photo.name, photo.stamp(), lambda photo=photo: Fetched(photo.read()))  # type: ignore[misc]
