"""What drift finds on real photos, and how often it is wrong: the table in scripts/monitoring/README.md.

`pytest -s tests/drift/test_real_photos.py` prints it. The starter answers photos that it was not trained on and that are not in its
reference; skipped where the data is not. The answers are kept in build/ under a name that changes with the code and the starter, as
they take minutes.
"""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from handler.preprocess import Spec
from handler.program import load_program
from handler.signals import COLUMNS, PROFILE, Profile
from scripts.drift.statistics import drift, drifted, estimated_accuracy
from tests.conftest import ROOT
from training.data.sets import read_data
from training.evaluation.confidence import FALSE_POSITIVE_RATE
from training.export.profile import crop_and_size

STARTER = ROOT / "model_store" / "starter"
DATA = ROOT.parent / "shared" / "data"
REFERENCE = 300  # of the held-out photos, by sha256: see the starter's MODEL_CARD.md
WINDOW, WINDOWS = 500, 1000


def cache():
    """Where the answers are kept: another file for each state of all that they come from."""
    made_by = [*(ROOT / "handler").glob("*.py"), *STARTER.iterdir(), ROOT / "training/export/profile.py", Path(__file__)]
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sorted(made_by)))
    return ROOT / "build" / f"drift-rows-{digest.hexdigest()[:16]}.npz"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "food10").is_dir() and not cache().is_file(), reason="needs the real photos"),
]


def unseen_photos():
    """Neither in the starter's training set nor in its reference, in an order that is none of classes."""
    return sorted(read_data(DATA / "food10", 0.15, 0, 0.3).held_out, key=lambda photo: photo.sha256)[REFERENCE:]


def as_jpeg(image, quality=95):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def thumbnail(image):
    image.thumbnail((64, 64))
    return image


def shifted(image):
    red, green, blue = image.split()
    return Image.merge("RGB", (red.point(lambda v: min(255, int(v * 1.25))), green, blue.point(lambda v: int(v * 0.75))))


CHANGED = {
    "darkened": lambda image: as_jpeg(ImageEnhance.Brightness(image).enhance(0.5)),
    "blurred": lambda image: as_jpeg(image.filter(ImageFilter.GaussianBlur(2))),
    "64-px thumbnails": lambda image: as_jpeg(thumbnail(image)),
    "64-px thumbnails, enlarged": lambda image: as_jpeg(thumbnail(image.copy()).resize(image.size, Image.Resampling.BICUBIC)),
    "JPEG quality 10": lambda image: as_jpeg(image, 10),
    "colours shifted": lambda image: as_jpeg(shifted(image)),
}


def measured(files, change, program, spec, profile):
    rows = []
    for path in files:
        content = path.read_bytes()
        if change is not None:
            content = change(Image.open(io.BytesIO(content)).convert("RGB"))
        crop, size = crop_and_size(content, spec)
        rows.append(profile.measure([crop], [size], program(crop[None])))
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def sets():
    """(profile, rows of each set, classes of the unseen photos)."""
    profile = Profile.load(STARTER / PROFILE)
    kept = cache()
    if not kept.is_file():
        spec = Spec.from_dict(json.loads((STARTER / "spec.json").read_text()))
        program = load_program(STARTER, json.loads((STARTER / "program.json").read_text()), 1, [1])
        unseen = unseen_photos()
        files = [photo.path for photo in unseen]
        rows = {name: measured(files, change, program, spec, profile) for name, change in {"ordinary": None, **CHANGED}.items()}
        rows["not food"] = measured(sorted(Path(DATA / "not_food").rglob("*.jpg")), None, program, spec, profile)
        kept.parent.mkdir(exist_ok=True)
        for older in kept.parent.glob("drift-rows*.npz"):
            older.unlink()
        np.savez(kept, targets=[photo.index for photo in unseen], **rows)
    with np.load(kept) as found:
        return profile, {name: found[name] for name in found.files if name != "targets"}, found["targets"]


def split(profile, ordinary, rng, window):
    """(a reference, a window of so many photos), drawn from all held-out photos without replacement: none is in both, or twice.

    Windows with replacement from the few photos that are not in the reference would have the chance of these few in common.
    """
    everything = rng.permutation(np.concatenate([profile.rows, ordinary]))
    return replace(profile, rows=everything[window:][:REFERENCE]), everything[:window]


def mixtures(rows, targets, rng):
    """(rows, whether each is right) of a window of each kind that has drifted, drawn with replacement."""
    right = {name: values[:, 0] == targets for name, values in rows.items() if len(values) == len(targets)}

    def drawn(name, among, count=WINDOW):
        chosen = rng.choice(among, count)
        return rows[name][chosen], right[name][chosen]

    everything = np.arange(len(targets))
    for name in CHANGED:
        yield name, *drawn(name, everything)
    a, b = drawn("ordinary", everything, 400)
    strange = rows["not food"][rng.choice(len(rows["not food"]), 100)]
    yield "20 % without food", np.concatenate([a, strange]), np.concatenate([b, np.zeros(100, bool)])
    yield "two of ten dishes only", *drawn("ordinary", everything[np.isin(targets, (3, 7))])
    one, many = drawn("ordinary", everything[targets == 7], 300), drawn("ordinary", everything[targets != 7], 200)
    yield "one dish at 60 %", np.concatenate([one[0], many[0]]), np.concatenate([one[1], many[1]])


def test_what_is_found_within_500_photos(sets):
    profile, rows, targets = sets
    rng, rounds, print_ = np.random.default_rng(0), 20, []
    ordinary = rows["ordinary"], rows["ordinary"][:, 0] == targets
    accuracy = {"ordinary": [(estimated_accuracy(profile, ordinary[0]), ordinary[1].mean())]}
    alarms = [drifted(drift(*split(profile, ordinary[0], rng, len(targets)))) for _ in range(rounds)]
    found, worst = {"ordinary": sum(map(bool, alarms))}, {"ordinary": sorted({one for alarm in alarms for one in alarm})}
    for _ in range(rounds):
        for name, window, right in mixtures(rows, targets, rng):
            values = drift(profile, window)
            found[name] = found.get(name, 0) + bool(drifted(values))
            accuracy.setdefault(name, []).append((estimated_accuracy(profile, window), right.mean()))
            worst[name] = drifted(values)[:3] or worst.get(name, [])
    for name, count in found.items():
        estimated, true = np.mean(accuracy[name], axis=0)
        print_.append(f"| {name} | {count} of {rounds} | {', '.join(worst[name])} | {estimated:.1%} | {true:.1%} |")
    print("\n| photos | drift found | signals | estimated accuracy | true |\n|---|---|---|---|---|\n" + "\n".join(print_))
    assert all(count == rounds for name, count in found.items() if name != "ordinary")
    assert found["ordinary"] <= 1
    estimated, true = np.mean(accuracy["ordinary"], axis=0)
    assert abs(estimated - true) < 0.03


@pytest.mark.parametrize("window", [100, 283, WINDOW])
def test_ordinary_photos_raise_at_most_one_alarm_in_a_hundred_windows(sets, window):
    profile, rows, _ = sets
    rng = np.random.default_rng(1)
    splits = [split(profile, rows["ordinary"], rng, window) for _ in range(WINDOWS)]
    alarms = [drifted(drift(*one)) for one in splits]
    count, beside = sum(map(bool, alarms)), len(splits[0][0].rows)
    print(f"\n{count} of {WINDOWS} windows of {window} beside {beside} others: {sorted({s for a in alarms for s in a})}")
    assert count <= WINDOWS / 100


def test_reference_was_made_by_these_functions_and_unsure_answers_are_as_many_as_fitted(sets):
    profile, _, _ = sets
    assert profile.rows.shape == (REFERENCE, len(COLUMNS))
    assert profile.unsure == pytest.approx(FALSE_POSITIVE_RATE, abs=0.03)
