"""New labelled photos become a new version of a data set: `python -m training.data.ingest FROM --data data/food`.

FROM is a folder of class folders, or a CSV with the columns path,label (paths relative to the CSV). Each photo is read as
the worker reads it, turned upright, made smaller and saved as JPEG without metadata, under a name that its content gives:
the same command again changes nothing. A test split stays as it is. Copies of photos that are there, and what cannot be
read, are refused with a list. Afterwards DVC notes the new version, where the project uses DVC.

Exit status: 0 if photos were taken or are there already, 1 if every one was refused or nothing could be done.
"""

import argparse
import csv
import difflib
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from handler.preprocess import PhotoError, read_photo
from training.data.duplicates import Candidate, Given, Known, Refusal, read_known
from training.data.sets import HELD_OUT_FOLDERS, Data, read_data
from training.data.split import thumbnail
from training.params import Params, read_params
from training.tracking.provenance import dvc_version

# a training crop of a quarter of the area still has 256 px then: more than the 224 that most networks take
SHORT_SIDE = 512
JPEG_QUALITY = 90
CACHE = Path("build/photo-hashes")


def read_given(source: Path) -> list[Given]:
    """The labelled photos in a folder or a CSV. ValueError if it is neither, or a label cannot be a folder's name."""
    if source.is_dir():
        folders = sorted(folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        files = [(path, folder.name) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        given = [Given(path, label) for path, label in files if not path.name.startswith(".")]
    elif source.suffix.lower() == ".csv" and source.is_file():
        with source.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"path", "label"} <= set(rows.fieldnames or ()):
                raise ValueError(f"{source} has the columns {rows.fieldnames}, expected path,label")
            given = [Given(source.parent / (row["path"] or ""), (row["label"] or "").strip()) for row in rows]
    else:
        raise ValueError(f"{source} is no folder of class folders and no CSV with the columns path,label")
    for photo in given:
        if photo.label in ("", "train", *HELD_OUT_FOLDERS) or photo.label != Path(photo.label).name or photo.label[0] == ".":
            raise ValueError(f"{photo.path} has the label {photo.label!r}, expected the name of a class")
    if not given:
        raise ValueError(f"{source} holds no photo in a class folder")
    return given


def check_labels(given: list[Given], known: Known, new_classes: bool) -> None:
    """ValueError if a class is unknown and may not be new."""
    unknown = sorted({photo.label for photo in given} - set(known.labels)) if known.labels else []
    if unknown and any(entry.split for entry in known.entries):
        raise ValueError(f"unknown classes: {unknown}; a data set with a test split takes none, as nothing would test them")
    if unknown and not new_classes:
        close = {label: difflib.get_close_matches(label, known.labels, cutoff=0.5) for label in unknown}
        named = [f"{label!r}" + (f" (close: {', '.join(names)})" if names else "") for label, names in close.items()]
        raise ValueError(f"unknown classes: {', '.join(named)}; if they are new ones, give --new-classes (NEW_CLASSES=1)")


def jpeg_of(photo_bytes: bytes) -> bytes:
    """The photo as the data set keeps it: upright, RGB, its short side SHORT_SIDE at most, no metadata. Raises PhotoError."""
    image = read_photo(photo_bytes)
    shrink = SHORT_SIDE / min(image.size)
    if shrink < 1:
        image = image.resize((round(shrink * image.width), round(shrink * image.height)), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would write a comment again
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def stage(given: list[Given], known: Known, staging: Path) -> list[Candidate]:
    """The given photos, each that is not there yet as a JPEG in `staging`."""

    def one(number: int, photo: Given) -> Candidate:
        try:
            photo_bytes = photo.path.read_bytes()
            found = Candidate(photo, hashlib.sha256(photo_bytes).hexdigest(), staging / f"{number}.jpg")
            if found.name in known.by_content or found.sha256 in known.by_content:
                return found
            jpeg = jpeg_of(photo_bytes)
        except (PhotoError, OSError) as error:
            return Candidate(photo, problem=error.strerror or str(error) if isinstance(error, OSError) else str(error))
        found.jpeg.write_bytes(jpeg)
        return Candidate(photo, found.sha256, found.jpeg, thumbnail(jpeg))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(one, range(len(given)), given), "reading photos", len(given), delay=3, leave=False))


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """An empty folder beside the data set, gone after this `with`. ValueError if another ingest is at work there."""
    staging = root.resolve().with_name(root.resolve().name + ".part")
    staging.mkdir(parents=True, exist_ok=True)
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ValueError(f"another ingest into {root} is at work") from error
    try:
        for left in staging.iterdir():  # by one that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def class_folders(root: Path, known: Known) -> Path:
    """The folder in `root` whose class folders take new photos."""
    official = food101(root)
    if official:
        return official / "images"
    return root / "train" if any(entry.split for entry in known.entries) else root


def food101(root: Path) -> Path | None:
    """Food-101's own folder, if that is the layout of `root`."""
    return next((folder for folder in (root, root / "food-101") if (folder / "meta" / "classes.txt").is_file()), None)


def place(taken: list[Candidate], root: Path, target: Path, staging: Path) -> None:
    """Move photos, each whole, into the class folders in `target`: stopped anywhere, `root` is a data set and can grow on."""
    classes = staging / "classes"
    for candidate in taken:
        (classes / candidate.given.label).mkdir(parents=True, exist_ok=True)
        candidate.jpeg.rename(classes / candidate.given.label / candidate.name)
    os.sync()  # content first, then names: a power cut leaves no empty photo
    if not target.exists() or not any(target.iterdir()):
        target.parent.mkdir(parents=True, exist_ok=True)
        classes.rename(target)
        return
    for folder in sorted(classes.iterdir()):
        if not (target / folder.name).is_dir():
            folder.rename(target / folder.name)
            continue
        for path in sorted(folder.iterdir()):
            path.replace(target / folder.name / path.name)
    official = food101(root)
    if official:
        list_in_food101(official / "meta" / "train.json", taken)


def list_in_food101(path: Path, taken: list[Candidate]) -> None:
    """Add photos to Food-101's list of training photos, whole or not at all."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    for candidate in taken:
        listed[candidate.given.label].append(f"{candidate.given.label}/{Path(candidate.name).stem}")
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(listed), encoding="utf-8")
    part.replace(path)


def write_refused(refused: list[Refusal], path: Path) -> None:
    """Every refused photo with its reason on stdout and in a CSV, which has no row if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "reason", "detail"])
        for refusal in refused:
            writer.writerow([refusal.given.path, refusal.given.label, refusal.reason, refusal.detail])
            print(f"refused {refusal}")
    part.replace(path)


def read_split(root: Path, params: Params) -> Data | None:
    """The data set as it is trained on; None, and why on stderr, if it cannot be."""
    try:
        return read_data(root, params.val_fraction, params.seed, CACHE)
    except ValueError as error:
        print(f"nothing to train on yet: {error}", file=sys.stderr)
        return None


def print_growth(before: Data | None, after: Data | None) -> None:
    """Photos of each class and side before and after, and whether an old one has changed sides."""
    if after is None:
        return
    sides = [
        {p.path: side for side in ("train", "held_out") for p in getattr(data, side)} if data else {} for data in (before, after)
    ]
    count = [Counter(data.labels[p.index] for p in data.train + data.held_out) if data else Counter() for data in (before, after)]
    grown = [label for label in after.labels if count[0][label] != count[1][label]]
    for label in grown:
        print(f"  {label:30s} {count[0][label]:6d} -> {count[1][label]}")
    print(f"  {len(after.labels) - len(grown)} of {len(after.labels)} classes as before")
    for side in ("train", "held_out"):
        print(f"  {side.replace('_', ' '):30s} {len(getattr(before, side, ())):6d} -> {len(getattr(after, side))}")
    print(f"  fingerprint {before.fingerprint[:12] if before else '(none)'} -> {after.fingerprint[:12]}")
    moved = [path for path, side in sides[0].items() if sides[1].get(path, side) != side]
    print(f"  {len(moved) or 'no'} old photos changed sides" + "".join(f"\n    {path} -> {sides[1][path]}" for path in moved))
    if moved:
        print("  (their class was so small that one photo stood in for a side of it, see hold_out in training/data/split.py)")


def update_dvc(root: Path, before: str) -> None:
    """Note the new version with DVC, and say how to commit it. ValueError if DVC cannot."""
    if not Path(".dvc").is_dir():
        print("no version is kept: this folder has no .dvc (dvc init makes one)")
        return
    command = [str(Path(sys.executable).with_name("dvc")), "add", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"DVC_NO_ANALYTICS": "1"})
    if done.returncode != 0:
        raise ValueError(
            f"the photos are in place, but `dvc add {root}` failed; mend that and run this again: {done.stderr.strip()}"
        )
    print(f"data version {before} -> {dvc_version(root)}")
    files = [f"{root}.dvc", *([str(root.parent / ".gitignore")] if (root.parent / ".gitignore").exists() else [])]
    changed = subprocess.run(["git", "status", "--porcelain", "--", *files], capture_output=True, text=True, check=False).stdout
    if changed:
        print(f"commit it: git add {' '.join(files)} && git commit -m 'New photos in {root}'; then: make push")


def ingest(source: Path, root: Path, params: Params, new_classes: bool, report: Path) -> bool:
    """Whether any photo of `source` is in the data set now. ValueError or OSError if nothing could be done."""
    given = read_given(source)
    with staging_folder(root) as staging:
        known = read_known(root, CACHE)
        check_labels(given, known, new_classes)
        before, version = read_split(root, params) if known.entries else None, dvc_version(root)
        taken, already, refused = known.choose(stage(given, known, staging))
        write_refused(refused, report)
        if taken and not known.labels and len({candidate.given.label for candidate in taken}) < 2:
            raise ValueError(f"only class {taken[0].given.label!r} has photos to take; a data set needs two classes")
        if taken:
            place(taken, root, class_folders(root, known), staging)
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in refused).most_common())
    print(
        f"{len(taken)} photos taken, {already} there already, {len(refused)} refused"
        + (f": {reasons} ({report})" if refused else "")
    )
    if taken or already:
        print_growth(before, read_split(root, params))
        update_dvc(root, version)
    return bool(taken or already)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="for val_fraction and seed")
    parser.add_argument("--new-classes", action="store_true", help="take classes that the data set does not have")
    parser.add_argument("--refused", type=Path, default=Path("build/ingest-refused.csv"))
    args = parser.parse_args()
    try:
        done = ingest(args.source, args.data, read_params(args.params), args.new_classes, args.refused)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not done:
        print("error: no photo could be taken", file=sys.stderr)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
