"""What a data set holds, as a table for people."""

from collections import Counter

from scripts.phrases import counted
from training.data.sets import Data


def print_summary(data: Data) -> None:
    """Print how many photos of each class are trained on, held out and, where there are any, for the test alone."""
    train, held_out, test = (Counter(photo.index for photo in photos) for photos in (data.train, data.held_out, data.test))
    width = max(len(label) for label in data.labels)
    print(f"{'class':{width}}  train  held out" + ("   test" if test else ""))
    for index, label in enumerate(data.labels):
        print(f"{label:{width}} {train[index]:6d} {held_out[index]:9d}" + (f" {test[index]:6d}" if test else ""))
    counts = f"{counted(len(data.train), 'photo')} to train on, {len(data.held_out)} held out"
    counts += f", {len(data.test)} for make evaluate alone" if test else ""
    print(f"{data.source}: {counts}; fingerprint {data.fingerprint[:12]}")
