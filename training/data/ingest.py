"""New labelled photos become a new version of a data set: `python -m training.data.ingest FROM --data data/food`.

FROM is a folder of class folders, or a CSV with the columns path,label (paths relative to the CSV). Each photo is read as
the worker reads it, turned upright, made smaller and saved as JPEG without metadata, under a name made from its content:
the same command again changes nothing. Val and test splits stay as they are. Duplicates, near-duplicates and unreadable files
are refused and listed. Where the project uses DVC, it then tracks the new version.

With --reviewed, FROM is a list that people go on with, as make review writes it: of a photo's labels the last counts, a photo that
the data set has under another label moves to it, one that has no label any more goes if an earlier ingest added it, and a list of
which nothing can be added is no error.

Exit status: 0 if photos were added or are present already, 1 if every one was refused or nothing could be done.
"""

import csv
import difflib
import fcntl
import hashlib
import io
import os
import re
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
from scripts.atomic import aside
from scripts.command import parser, run
from scripts.errors import SeeFoodError
from scripts.folders import shown
from scripts.phrases import counted
from training.data.given import read_given
from training.data.growth import print_growth
from training.data.photo_folders import what_instead
from training.data.place import class_folders, correct, place, take_out
from training.data.selection import Candidate, GivenPhoto, KnownPhotos, Refusal, Selection, read_known_photos
from training.data.sets import HASH_CACHE, Data, read_data
from training.data.thumbnail import thumbnail
from training.params import Params, read_params
from training.tracking.provenance import dvc_version

# a training crop of a quarter of the area still has 256 px then: more than the 224 that most networks take
SHORT_SIDE = 512
JPEG_QUALITY = 90
SHOWN = 10  # unknown classes in one message


class IngestError(SeeFoodError):
    """Photos that could not be added, or not recorded by DVC."""


def check_labels(given: list[GivenPhoto], known: KnownPhotos, new_classes: bool) -> None:
    """ValueError if a class is unknown and may not be new."""
    first = {photo.label: photo for photo in reversed(given)} if known.labels else {}
    unknown = sorted(first.keys() - set(known.labels))
    if not unknown or (new_classes and not any(photo.split for photo in known.photos)):
        return
    named = [named_unknown(first[label], known.labels) for label in unknown]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    remedy = "if they are new, add --new-classes (NEW_CLASSES=1), else correct them"
    if any(photo.split for photo in known.photos):
        remedy = "a data set with a test split takes no new ones, as nothing would test them: correct them"
    raise ValueError(f"unknown classes: {', '.join(named[:SHOWN])}{more}; {remedy}")


def named_unknown(photo: GivenPhoto, labels: tuple[str, ...]) -> str:
    """A photo's unknown class, with its line in a list and the classes that are close: 'soop' (labels.csv, line 7; close: soup)."""
    plain = {re.sub(r"[\W_]+", " ", label.casefold()): label for label in labels}  # Pad-Thai is pad_thai
    close = difflib.get_close_matches(re.sub(r"[\W_]+", " ", photo.label.casefold()), plain, cutoff=0.5)
    about = [photo.where, f"close: {', '.join(plain[one] for one in close)}" if close else ""]
    return repr(photo.label) + (f" ({'; '.join(filter(None, about))})" if any(about) else "")


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


def stage(given: list[GivenPhoto], known: KnownPhotos, staging: Path) -> list[Candidate]:
    """The given photos; those that the data set does not have are in `staging` as JPEG."""

    def candidate(number: int, photo: GivenPhoto) -> Candidate:
        try:
            if kind := what_instead(photo.path):  # before it is read: it may be a video of gigabytes
                return Candidate(photo, problem=f"not a photo: {kind}")
            photo_bytes = photo.path.read_bytes()
            found = Candidate(photo, hashlib.sha256(photo_bytes).hexdigest(), staging / f"{number}.jpg")
            if not photo.label:  # it is only looked for
                return found
            # present already: no need to decode and encode it, which takes most of the time
            if found.name in known.by_content or found.sha256 in known.by_content:
                return found
            jpeg = jpeg_of(photo_bytes)
        except PhotoError as error:
            return Candidate(photo, problem=str(error))
        except OSError as error:
            return Candidate(photo, problem=error.strerror or str(error))
        found.jpeg.write_bytes(jpeg)
        return Candidate(photo, found.sha256, found.jpeg, thumbnail(jpeg))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = tqdm(pool.map(candidate, range(len(given)), given), "reading photos", len(given), delay=3, leave=False)
        return list(progress)


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """An empty folder beside the data set, gone after this `with`. IngestError if another ingest into it is running.

    Not scripts/atomic.py's: photos are moved from here one by one, and the folder is the lock, which a kill releases.
    """
    staging = root.resolve().with_name(root.resolve().name + ".part")
    staging.mkdir(parents=True, exist_ok=True)
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise IngestError(f"another ingest into {root} is running: wait for it to end") from error
    try:
        for left in staging.iterdir():  # by one that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def write_refused(refused: list[Refusal], path: Path) -> None:
    """Every refused photo with its reason on stdout and in a CSV, which has only its header if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(shown(refusal.given.path), refusal.given.label, refusal.reason, refusal.detail) for refusal in refused]
    with aside(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "reason", "detail"), *rows])
    for refusal in refused:
        print(f"refused {refusal}")


def read_split(root: Path, params: Params, quiet: bool = False) -> Data | None:
    """The data set as it is trained on; None, and why on stderr, if it cannot be. `quiet`: as read_data."""
    try:
        return read_data(root, params.val_fraction, params.seed, params.near_duplicates, quiet=quiet)
    except ValueError as error:
        print(f"not enough to train on yet: {error}", file=sys.stderr)
        return None


def update_dvc(root: Path, before: str) -> None:
    """Track the new version with DVC, and print how to commit it. IngestError if DVC fails."""
    if not Path(".dvc").is_dir():
        print("this version is not tracked: there is no .dvc folder here (dvc init makes one)")
        return
    # the dvc beside this Python: PATH may name another one, or none
    command = [str(Path(sys.executable).with_name("dvc")), "add", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"DVC_NO_ANALYTICS": "1"})
    if done.returncode != 0:
        raise IngestError(
            f"the photos are in place, but `dvc add {root}` failed; fix that and run this again: {done.stderr.strip()}"
        )
    print(f"data version {before} -> {dvc_version(root)}")
    files = [f"{root}.dvc"]
    ignored = root.parent / ".gitignore"
    if ignored.exists():
        files.append(str(ignored))
    changed = subprocess.run(["git", "status", "--porcelain", "--", *files], capture_output=True, text=True, check=False).stdout
    if changed:
        print(f"commit it: git add {' '.join(files)} && git commit -m 'New photos in {root}'; then: make push")


def print_counts(selection: Selection, report: Path) -> None:
    """How many photos were added, present already and refused, and for which reasons."""
    refused = selection.refused
    for correction in selection.corrected:
        print(f"corrected {correction}")
    for removal in selection.removed:
        print(f"removed {removal}")
    counts = [f"{counted(len(selection.added), 'photo')} added", f"{selection.present} present already", f"{len(refused)} refused"]
    if selection.corrected:
        counts.insert(1, f"{len(selection.corrected)} corrected")
    if selection.removed:
        counts.insert(1, f"{len(selection.removed)} removed")
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in refused).most_common())
    print(", ".join(counts) + (f": {reasons} ({report})" if refused else ""))


def ingest(source: Path, root: Path, params: Params, new_classes: bool, report: Path, reviewed: bool = False) -> None:
    """Add the new photos of `source` to the data set in `root`. IngestError, ValueError or OSError if there is none to add.

    `reviewed`: as --reviewed in the module's docstring.
    """
    given = read_given(source, reviewed)
    if not given:
        print(f"{source} has no row yet: nothing is added")
        return
    with staging_folder(root) as staging:
        known = read_known_photos(root, HASH_CACHE)
        check_labels([photo for photo in given if photo.label], known, new_classes)
        before, version = read_split(root, params, quiet=True) if known.photos else None, dvc_version(root)
        selection = known.select(stage(given, known, staging), params.near_duplicates, reviewed)
        write_refused(selection.refused, report)
        if selection.added:
            if not known.labels and len({candidate.given.label for candidate in selection.added}) < 2:
                label = selection.added[0].given.label
                raise ValueError(f"only class {label!r} has photos to add; a data set needs two classes")
            place(selection.added, root, class_folders(root, known), staging)
        if selection.corrected:
            correct(selection.corrected, root, class_folders(root, known))
        if selection.removed:
            take_out([copy for removal in selection.removed for copy in removal.copies], root)
    print_counts(selection, report)
    if not (selection.added or selection.corrected or selection.removed or selection.present):
        if reviewed:
            return
        raise IngestError("no photo could be added")
    after = read_split(root, params)
    if after is not None:
        print_growth(before, after)
    update_dvc(root, version)


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("source", type=Path, metavar="FROM")
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"), help="for val_fraction, seed and near_duplicates")
    arguments.add_argument("--new-classes", action="store_true", help="add classes that the data set does not have")
    arguments.add_argument(
        "--reviewed", action="store_true", help="of a photo's labels the last counts; nothing to add is no error"
    )
    arguments.add_argument("--refused", type=Path, default=Path("build/ingest-refused.csv"))
    args = arguments.parse_args()
    ingest(args.source, args.data, read_params(args.params), args.new_classes, args.refused, args.reviewed)


if __name__ == "__main__":
    sys.exit(run(main, "the data set is whole; the same command adds what is missing"))
