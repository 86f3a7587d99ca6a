"""Which names classes can have, and which are those of splits: train, Validation, test_images, imagesTrain, 01_train, held_out ...

`make ingest` refuses what is none; `make review` takes it from nobody.
"""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from scripts.folders import leftover

TRAIN, VAL, TEST = "train", "val", "test"
WORDS = {
    **dict.fromkeys(("train", "training", "trainval", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "vali", "vld", "dev", "devel", "development"), VAL),
    **dict.fromkeys(("eval", "evaluation"), VAL),
    **dict.fromkeys(("test", "tests", "testing", "tst", "holdout", "heldout"), TEST),
}
# words beside them that say nothing of what the photos show
NOUNS = (
    *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "data", "dataset", "datasets"),
    *("set", "sets", "split", "splits", "folder", "folders", "dir", "directory", "file", "files", "sample", "samples"),
)
NEUTRAL = {
    *NOUNS,
    *("x", "the", "of", "for", "my", "class", "classes", "jpg", "jpeg", "png", "raw", "cropped", "resized", "original", "final"),
    *("full", "new", "clean", "cleaned", "labeled", "labelled", "subset", "part", "fold", "public", "archive", "v"),
}
# trainset, testimages, datatrain: longest first, as a shorter one may begin another
_NOUN = "|".join(sorted(NOUNS, key=len, reverse=True))
GLUED = re.compile(rf"(?:{_NOUN})?({'|'.join(sorted(WORDS, key=len, reverse=True))})(?:{_NOUN})?")


@dataclass(frozen=True)
class SplitName:
    """The split that a folder's name says: "train", "val" or "test", and the `rest` of its words: ("food",) of food-train."""

    role: str
    rest: tuple[str, ...]


def split_name(name: str) -> SplitName | None:
    """The split in a folder's name, None if there is none, or several."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)  # trainImages, XTrain
    text = re.sub(r"\b(held|hold) out\b", "holdout", re.sub(r"[\W\d_]+", " ", spaced).lower())
    roles, rest = set(), []
    for word in text.split():
        if found := GLUED.fullmatch(word):
            roles.add(WORDS[found[1]])
        elif word not in NEUTRAL:
            rest.append(word)
    if roles == {TRAIN, VAL}:  # train_val is what is trained on where only the test split is published apart
        roles = {TRAIN}
    return SplitName(roles.pop(), tuple(rest)) if len(roles) == 1 else None


# what programs write for an empty cell
MISSING = ("nan", "null", "<na>", "#n/a", "#na", "#ref!", "#name?", "#value!")
MOST_BYTES = 200  # of a folder's name: file systems take 255, and one that is written has a longer name (scripts/atomic.py)


def class_problem(label: str) -> str:
    """Why a class cannot have this name, and the remedy; "" if it can."""
    split = split_name(label)
    if split and not split.rest:
        return f"{label!r} is that of a split. Give a split's class folders (FROM=.../{label}), or rename the class ({label}_class)"
    if label != Path(label).name or leftover(label) or not label.isprintable() or len(label.encode(errors="replace")) > MOST_BYTES:
        return "which can be that of a folder: rename it"
    return ""


def cell_problem(label: str) -> str:
    """What is wrong with a label in a cell of a list, and the remedy; "" if nothing is."""
    if not label or label.casefold() in MISSING:
        return "no label: fill it in, or remove the row"
    if "\ufffd" in label:
        return f"{label!r} has lost a letter (U+FFFD): save the list as UTF-8 from where it comes"
    if "\n" in label:
        return f"a line break in {label!r}: remove it; is a quote not closed?"
    if not label.isprintable():
        return f"the label {label!r} has a character that is no text: write the label anew"
    if label.count('"') % 2 and not re.search(r'\d"', label):  # 5" is a size
        return f"a stray quote in {label!r}: remove it"
    return ""


def as_in_lists(label: str) -> str:
    """The label as lists are read: composed characters, each run of blanks one space."""
    return re.sub(r"[^\S\n]+", " ", unicodedata.normalize("NFC", label))
