"""New photos, and those with another label, in a data set's class folders: stopped anywhere, it is a data set and can grow on."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scripts.atomic import write_text
from training.data.folders_or_lists import layout_of
from training.data.photo_folders import read_tree
from training.data.selection import Candidate, Correction, KnownPhoto, KnownPhotos
from training.data.sets import food101_folder


def class_folders(root: Path, known: KnownPhotos) -> Path:
    """The folder in `root` whose class folders take new photos. ValueError if its layout has none."""
    official = food101_folder(root)
    if official:
        return official / "images"
    if not known.labels:
        return root
    folder = layout_of(read_tree(root, Counter())).class_folder
    if folder is None:
        raise ValueError(f"{root} has no folder that new photos could go into: expected class folders, or train/CLASS")
    return folder


def place(added: list[Candidate], root: Path, target: Path, staging: Path) -> None:
    """Move photos, each whole, into the class folders in `target`: stopped anywhere, `root` is a data set and can grow on."""
    classes = staging / "classes"
    for candidate in added:
        (classes / candidate.given.label).mkdir(parents=True, exist_ok=True)
        candidate.jpeg.rename(classes / candidate.given.label / candidate.name)
    os.sync()  # content first, then names: a power cut leaves no empty photo
    if not target.exists() or not any(target.iterdir()):
        target.parent.mkdir(parents=True, exist_ok=True)
        classes.rename(target)  # a new data set appears in one step
        return
    for folder in sorted(classes.iterdir()):
        if not (target / folder.name).is_dir():
            folder.rename(target / folder.name)  # and so does a new class
            continue
        for path in sorted(folder.iterdir()):
            path.replace(target / folder.name / path.name)
    official = food101_folder(root)
    if official:
        # after the photos: a list that names photos which are not there yet would break the data set
        list_in_food101(official / "meta" / "train.json", added, [])


def list_in_food101(path: Path, added: list[Candidate], gone: list[KnownPhoto]) -> None:
    """Change Food-101's list of training photos, whole or not at all."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    for photo in gone:
        listed[photo.label] = [name for name in listed[photo.label] if name != f"{photo.label}/{photo.path.stem}"]
    for candidate in added:
        name = f"{candidate.given.label}/{Path(candidate.name).stem}"
        if name not in listed[candidate.given.label]:
            listed[candidate.given.label].append(name)
    write_text(path, json.dumps(listed))


def correct(corrected: list[Correction], root: Path, target: Path) -> None:
    """Move photos to the class folders of their last labels: stopped anywhere, the same command goes on."""
    official = food101_folder(root)
    for correction in corrected:
        path = target / correction.given.given.label / correction.given.name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            # Food-101's list names the old place up to its change
            (os.link if official else os.rename)(correction.copies[0].path, path)
    gone = [copy for correction in corrected for copy in correction.copies]
    take_out(gone, root, [correction.given for correction in corrected])


def take_out(gone: list[KnownPhoto], root: Path, instead: Sequence[Candidate] = ()) -> None:
    """Remove photos, and list others in their place where the data set has a list: stopped anywhere, the same command goes on."""
    if official := food101_folder(root):
        list_in_food101(official / "meta" / "train.json", list(instead), gone)
    for copy in gone:
        copy.path.unlink(missing_ok=True)
        if not any(copy.path.parent.iterdir()):
            copy.path.parent.rmdir()  # DVC keeps no empty folder: here as in every clone
