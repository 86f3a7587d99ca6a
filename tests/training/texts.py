"""Lists of generated pictures with texts, for tests of models that read both."""

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.loop import train
from training.model import Checkpoint
from training.params import Params
from training.resume import Stopped

WORDS = ("pizza", "ramen soup", "green salad", "ice cream")


def assert_resumed_run_ends_in_the_same_bits(data: Path, params: Params, folder: Path, meanwhile: Callable[[], object]) -> None:
    """A run that is stopped after three steps, and goes on after `meanwhile`, has the weights of one that was not stopped."""
    whole = Checkpoint.load(train("seefood", data, params, folder / "whole"))

    def stop(step: int) -> None:
        if step == 3:
            raise Stopped(0)

    with pytest.raises(Stopped):
        train("seefood", data, params.model_copy(update={"checkpoint_minutes": 0.0}), folder / "resumed", on_step=stop)
    meanwhile()
    resumed = Checkpoint.load(train("seefood", data, params, folder / "resumed"))
    assert whole.tower is not None
    assert resumed.tower is not None
    for one, other in ((whole.weights, resumed.weights), (whole.tower, resumed.tower)):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def write_texts(photos: Path, path: Path, per_class: int = 16) -> Path:
    """A list of photos in class folders, each with a text that names its class, or with none for three in ten."""
    rng = random.Random(0)
    folders = sorted(folder for folder in photos.iterdir() if folder.is_dir())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "text"])
        for folder, word in zip(folders, WORDS, strict=True):
            for photo in sorted(folder.iterdir())[:per_class]:
                text = "" if rng.random() < 0.3 else f"{rng.choice(['My', 'the best', 'Sunday'])} {word}!"
                rows.writerow([photo, folder.name, text])
    return path
