"""Files beside photos that hold labels in a format that is not read: what they are, and what to do instead.

No loaders here: one sentence for each kind.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from scripts.class_names import split_name
from scripts.folders import files_below
from training.data.photo_folders import TEXT_SUFFIXES

START = 100_000  # characters of a file that tell its kind
KINDS = 4  # so many are said
AS_CSV = "write its photos and labels into a CSV with the columns path,label"
UNPACK = "unpack it, and give the folder"
SHEET, ARRAYS = "save it as CSV (UTF-8) with the columns path,label", "save its photos as files, in a folder for each class"
BY_SUFFIX = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), ("a spreadsheet", SHEET)),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz"), ("an archive", UNPACK)),
    **dict.fromkeys((".mat",), ("a MATLAB file", AS_CSV)),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), ("a table in Parquet or Arrow", AS_CSV)),
    **dict.fromkeys((".tfrecord", ".tfrecords", ".rec", ".mdb", ".lmdb"), ("a file of packed photos (records)", ARRAYS)),
    **dict.fromkeys((".npy", ".npz", ".h5", ".hdf5"), ("a file of arrays", ARRAYS)),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), ("a pickle, which can run code,", ARRAYS)),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), ("a database", AS_CSV)),
}
BY_START = {
    r"\x00\x00\x08[\x01\x03]": ("an IDX file (MNIST's are such)", ARRAYS),
    r"\x80[\x02-\x05]": ("a pickle (CIFAR's batches are such), which can run code,", ARRAYS),
    r"PK\x03\x04": ("an archive", UNPACK),
    r"SQLite": ("a database", AS_CSV),
}


def foreign_files(root: Path) -> list[str]:
    """A sentence for each kind of file below a folder that may hold its labels or photos."""
    paths = defaultdict(list)
    for path in files_below(root, Counter()):
        if found := foreign(path):
            paths[found].append(path.relative_to(root))
    said = []
    for (kind, remedy), of_kind in list(paths.items())[:KINDS]:
        others = f" and {len(of_kind) - 1} more" if len(of_kind) > 1 else ""
        said.append(f"{kind} is not read ({of_kind[0]}{others}): {remedy}")
    return said


def foreign(path: Path) -> tuple[str, str] | None:
    """(what a file is, what to do instead), None for one of no known kind."""
    suffix = path.suffix.lower()
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if suffix not in ("", ".json", ".jsonl", ".xml", ".txt", ".lst", ".bin") and not re.search(r"[.-]idx\d$|ubyte$", path.name):
        return None
    try:
        with path.open("rb") as file:
            start = file.read(START).decode("latin-1")
    except OSError:
        return None
    if found := next((kind for magic, kind in BY_START.items() if re.match(magic, start)), None):
        return found
    if suffix in (".json", ".jsonl"):
        return _json(path, start), AS_CSV
    if suffix == ".xml":
        return ("a file of Pascal VOC boxes", AS_CSV) if "<annotation" in start else None
    if suffix in (".txt", ".lst") and (kind := _text(start)):
        return kind, AS_CSV
    return None


def _json(path: Path, start: str) -> str:
    keys = {
        r'"_via_|"regions"': "a file of VIA annotations",
        r'"categories"\s*:': "a file of COCO annotations",
        r'"annotations"\s*:': "a file of annotations in JSON",
        r'"shapes"\s*:|"imagePath"': "a file of LabelMe outlines",
    }
    if found := next((kind for key, kind in keys.items() if re.search(key, start)), None):
        return found
    if path.stat().st_size <= START:
        try:
            values = json.loads(start)
        except ValueError:
            return "a list in JSON"
        if isinstance(values, dict) and values and all(re.fullmatch(r"\d+", key) for key in values):
            return "a map of numbers to names of classes"
    return "a list in JSON"


def _text(start: str) -> str:
    """What a text is: a list of photos, or boxes; "" if it is neither."""
    lines = [line.split() for line in start.splitlines()[:50] if line.strip() and not line.startswith("#")]
    if lines and all(len(line) == 5 and all(re.fullmatch(r"[\d.e-]+", value) for value in line) for line in lines):
        return "a file of YOLO boxes"
    columns = Counter(len(line) for line in lines)
    photos = sum(any(re.search(r"\.(jpe?g|png)\b", value, re.IGNORECASE) for value in line) for line in lines)
    if photos > len(lines) / 2:
        return "a list of photos in plain text"
    same = len(lines) > 2 and columns.most_common(1)[0][1] > 0.9 * len(lines) and len(lines[0]) > 1
    return "a list in plain text" if same and any(value.isdigit() for value in lines[0]) else ""


def unused_splits(root: Path) -> str:
    """A sentence about text files that are named like lists of splits, which are not read; "" if there is none."""
    found = [path for path in files_below(root, Counter()) if path.suffix.lower() in TEXT_SUFFIXES and _names_split(path.stem)]
    if not found:
        return ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"not used, but named like lists of splits: {found[0].relative_to(root)}{more}: published splits are read from folders "
        "(train/CLASS, test/CLASS) or a CSV (path,label,split)"
    )


def _names_split(stem: str) -> bool:
    words = re.split(r"[\W_]+", stem.lower())
    return split_name(stem) is not None or bool({"split", "splits", "setid", "partition", "fold", "folds"} & set(words))


def class_in_names(names: Iterable[str]) -> str:
    """A hint where names of photos seem to begin with their class (cat.1.jpg, Abyssinian_12.jpg); "" if not."""
    starts = Counter(re.sub(r"[\W_]*\d+$", "", Path(name).stem) for name in names)
    classes = [start for start, times in starts.items() if times > 1 and start]
    if len(classes) < 2 or sum(starts[one] for one in classes) < 0.9 * starts.total():
        return ""
    return f"if their names begin with the class ({classes[0]}, {classes[1]} ...), move each into a folder of that name"
