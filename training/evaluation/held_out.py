"""The photos by which a checkpoint is judged: those that it was not trained on."""

from dataclasses import replace

from training.data.sets import Data
from training.model import Checkpoint


def held_out_photos(checkpoint: Checkpoint, data: Data, ask_test: bool = False) -> Data:
    """`data` with the photos that the checkpoint was not trained on as held out: its own held-out ones, or all of other data.

    With `ask_test`, those of the test split, if `data` has one beside its val split.
    ValueError if the classes differ or nothing is left.
    """
    if data.labels != checkpoint.labels:
        differing = sorted(set(data.labels) ^ set(checkpoint.labels))
        raise ValueError(f"{data.source} and the checkpoint differ in classes: {differing[:10]}")
    same = data.fingerprint == checkpoint.data["fingerprint"]
    photos = data.held_out if same else data.train + data.held_out
    if ask_test and data.test:
        photos = data.test
    # by content: another data set, or a later version of this one, may hold photos that were trained on
    seen = set(checkpoint.trained_on)
    left = tuple(photo for photo in photos if photo.sha256 not in seen)
    if not left:
        raise ValueError(f"every photo of {data.source} was trained on")
    return replace(data, held_out=left)


def split_of(data: Data) -> str:
    """The split that the held-out photos are of: "test", "val", "train and val" ..., or "held-out" where there are none."""
    return " and ".join(sorted({photo.split for photo in data.held_out} - {""})) or "held-out"
