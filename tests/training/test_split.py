"""Which photos are held out, and that they stay where they are."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.training.test_sets import read
from training.data.duplicates import near_duplicate_pairs
from training.data.sets import find_photos
from training.data.split import hash_photos, split_photos, unit_hash
from training.params import NEAR_DUPLICATES


@pytest.mark.slow
def test_no_copy_of_a_training_photo_is_held_out(tmp_path, generated, capsys):
    root = tmp_path / "copies"
    shutil.copytree(generated, root)
    for path in sorted(root.rglob("0[01]*.jpg")):
        image = Image.open(path)
        image.save(path.with_name(f"again_{path.name}"), quality=50)
        ImageOps.mirror(image).save(path.with_name(f"mirror_{path.name}"))
        shutil.copyfile(path, path.with_name(f"copy_{path.name}"))
    data = read(root)
    train, held_out = ([(p.index, p.path.stem.split("_")[-1]) for p in photos] for photos in (data.train, data.held_out))
    assert not set(train) & set(held_out)
    assert len(set(train) | set(held_out)) == 120  # of each picture at least one copy is used
    assert len(train) > 0.6 * 4 * (30 + 3 * 20)
    assert f"left out {4 * (30 + 3 * 20) - len(train) - len(held_out)} photos" in capsys.readouterr().err


def test_photo_under_two_labels_is_never_held_out(tmp_path, generated):
    root = tmp_path / "both"
    shutil.copytree(generated, root)
    for path in sorted((root / "class_0").iterdir()):
        shutil.copyfile(path, root / "class_1" / f"twin_{path.name}")
    data = read(root)
    assert not any(p.index == 0 for p in data.held_out)
    assert len({p.sha256 for p in data.train if p.index == 0}) > 20


def altered(path, number):
    """A near-duplicate of a picture."""
    image = Image.open(path)
    return ImageOps.mirror(image) if number % 2 else ImageEnhance.Brightness(image).enhance(0.8)


@pytest.fixture(scope="module")
def grown(tmp_path_factory, generated):
    """Photos and pairs of three growing data sets, the last also with near-duplicates of old photos and second labels."""
    root = tmp_path_factory.mktemp("grown") / "data"
    shutil.copytree(generated, root)
    for number, path in enumerate(sorted(generated.rglob("0[01]*.jpg"))):
        altered(path, number).save(root / path.parent.name / f"near_{path.name}")
        if number % 3 == 0:
            shutil.copyfile(path, root / f"class_{3 - int(path.parent.name[-1])}" / f"second_{path.name}")
    photos, thumbnails = hash_photos(root, find_photos(root)[1], None)
    old = np.array([p.path.stem.isdigit() for p in photos])
    first = old & np.array([p.path.stem[-1] in "02468" for p in photos])
    return [
        ([p for p, k in zip(photos, kept, strict=True) if k], near_duplicate_pairs(thumbnails[kept], NEAR_DUPLICATES))
        for kept in (first, old, old | True)
    ]


def stand_ins(train, held_out, val_fraction, seed):
    """Photos on another side than their unit hashes give: each alone in its class, near-duplicates apart."""
    wrong = [p for p in train if unit_hash(p, seed) < val_fraction] + [p for p in held_out if unit_hash(p, seed) >= val_fraction]
    for photo in wrong:
        side = held_out if photo in held_out else train
        assert all(p in wrong for p in side if p.index == photo.index)
    return {p.path for p in wrong}


@pytest.mark.slow
def test_added_photos_move_no_old_one_to_the_other_side(grown):
    excepted = 0
    for seed in range(150):
        sides = [split_photos(*photos, val_fraction=0.3, seed=seed) for photos in grown]
        for train, held_out in sides:
            assert not {p.path for p in train} & {p.path for p in held_out}
        for (train, held_out), (later_train, later_held_out) in itertools.combinations(sides, 2):
            moved = {p.path for p in train} & {p.path for p in later_held_out}
            moved |= {p.path for p in held_out} & {p.path for p in later_train}
            assert moved <= stand_ins(train, held_out, 0.3, seed) | stand_ins(later_train, later_held_out, 0.3, seed)
            excepted += bool(moved)
    assert excepted < 20  # of 450: nothing of a class of 15 is held out with a chance of 0.7 ** 15


@pytest.mark.slow
def test_added_photos_that_are_no_copies_all_stay(grown):
    for seed in range(150):
        (train, held_out), (later_train, later_held_out) = (split_photos(*photos, 0.5, seed) for photos in grown[:2])
        assert set(train) <= set(later_train)
        assert set(held_out) <= set(later_held_out)


def test_tiny_class_has_photos_on_both_sides_and_only_its_stand_in_moves(grown):
    (photos, pairs), moved = grown[1], 0
    assert not len(pairs)
    order = sorted(range(len(photos)), key=lambda i: (photos[i].path.stem, photos[i].index))
    for seed in range(40):
        before = None
        for size in (2, 3, 4, 8):
            chosen = order[: 4 * size]  # so many photos a class
            train, held_out = split_photos([photos[i] for i in chosen], pairs, 0.1, seed)
            assert {p.index for p in train} == {p.index for p in held_out} == {0, 1, 2, 3}
            assert len(train) + len(held_out) == 4 * size
            if before is not None:
                changed = [p for p in before[0] if p in held_out] + [p for p in before[1] if p in train]
                assert len({p.index for p in changed}) == len(changed)  # one a class
                assert all(unit_hash(p, seed) >= 0.1 for p in changed if p in before[1])
                moved += len(changed)
            before = train, held_out
    assert moved


def test_class_of_which_everything_falls_below_the_threshold_keeps_a_photo_to_train_on(grown):
    for seed in range(20):
        train, held_out = split_photos(*grown[1], val_fraction=0.999, seed=seed)
        assert {p.index for p in train} == {p.index for p in held_out} == {0, 1, 2, 3}


def test_data_set_of_single_photos_is_refused_as_nothing_can_be_held_out(tmp_path, generated):
    for folder in generated.iterdir():
        (tmp_path / folder.name).mkdir()
        shutil.copyfile(folder / "000.jpg", tmp_path / folder.name / "000.jpg")
    with pytest.raises(ValueError, match="4 photos to train on and 0 to hold out"):
        read(tmp_path)
