"""What `make ingest` changed in a data set: photos a class and a split before and after, and which old photos changed splits."""

from collections import Counter
from pathlib import Path

from scripts.phrases import counted
from training.data.sets import Data

NO_DATA = Data(labels=(), train=(), held_out=(), fingerprint="(none)", source="nothing")


def print_growth(before: Data | None, after: Data) -> None:
    """Print the change from `before`, None if there was no data set, to `after`."""
    before = before or NO_DATA
    _print_classes(before, after)
    print(f"  {'train':30s} {len(before.train):6d} -> {len(after.train)}")
    print(f"  {'held out':30s} {len(before.held_out):6d} -> {len(after.held_out)}")
    if before.test or after.test:
        print(f"  {'test':30s} {len(before.test):6d} -> {len(after.test)}")
    print(f"  fingerprint {before.fingerprint[:12]} -> {after.fingerprint[:12]}")
    _print_moved(before, after)


def _print_classes(before: Data, after: Data) -> None:
    old, new = _photos_per_class(before), _photos_per_class(after)
    grown = [label for label in after.labels if old[label] != new[label]]
    for label in grown:
        print(f"  {label:30s} {old[label]:6d} -> {new[label]}")
    print(f"  {len(after.labels) - len(grown)} of {counted(len(after.labels), 'class')} unchanged")


def _print_moved(before: Data, after: Data) -> None:
    old, new = _split_of_each(before), _split_of_each(after)
    # a photo that is left out now, as a near-duplicate came into the other split, has not moved
    moved = [path for path in old if path in new and old[path] != new[path]]
    print(f"  {counted(len(moved), 'old photo') if moved else 'no old photos'} moved between train and held-out")
    for path in moved:
        print(f"    {path} -> {new[path]}")
    if moved:
        print("  (their class is so small that one photo was the whole of a split, see hold_out in training/data/split.py)")


def _photos_per_class(data: Data) -> Counter[str]:
    return Counter(data.labels[photo.index] for photo in data.train + data.held_out + data.test)


def _split_of_each(data: Data) -> dict[Path, str]:
    sides = {"train": data.train, "held_out": data.held_out, "test": data.test}
    return {photo.path: side for side, photos in sides.items() for photo in photos}
