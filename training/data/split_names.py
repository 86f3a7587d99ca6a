"""Whether a folder's name is that of a split: train, Validation, test_images, imagesTrain, 01_train, food-train, held_out ..."""

import re
from dataclasses import dataclass

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
