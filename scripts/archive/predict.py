"""Label the photos in a folder: `python -m scripts.archive.predict photos/ --out labels.csv` (or .jsonl).

Needs no running server: the archive's own handler answers, as in TorchServe's worker. For a file that is not a photo the
row holds the error. Leftovers of other programs, such as .DS_Store and Thumbs.db, get none.
"""

import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from scripts.archive.name import choose_archive
from scripts.archive.read import load_handler, unpack
from scripts.atomic import aside
from scripts.command import parser, run
from scripts.folders import files_below, not_taken, shown
from scripts.paths import ROOT
from scripts.phrases import counted

# enough to keep the handler's decoding threads busy; all photos of a batch are in memory together
BATCH_SIZE = 8
# a video beside the photos may have gigabytes
MAX_READ = 64 * 1024 * 1024


class OfflineContext:
    """The part of TorchServe's context that handle() uses, for photos from a folder."""

    def get_all_request_header(self, index: int) -> dict[str, str]:
        """No headers: there was no request."""
        return {}

    def set_response_content_type(self, index: int, value: str) -> None:
        """Nothing to do: all answers to photos are JSON."""

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        """Nothing to do: it is in the answer, as "code"."""

    def set_response_header(self, index: int, key: str, value: str) -> None:
        """Nothing to do: nobody asks again."""


def predict(handler: Any, paths: list[Path]) -> Iterator[dict[str, Any]]:
    """{"photo", ...handle()'s answer} for each file, in order; progress on stderr."""
    context = OfflineContext()
    # None: off where stderr is not a terminal
    with tqdm(total=len(paths), unit="photo", disable=None) as progress:
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            answers = handler.handle([{"body": read_start(path)} for path in batch], context)
            for path, answer in zip(batch, answers, strict=True):
                yield {"photo": shown(path), **json.loads(answer)}
            progress.update(len(batch))


def read_start(path: Path) -> bytes:
    """The bytes of a file, of one that is far over a photo's limit only the first."""
    with path.open("rb") as file:
        return file.read(MAX_READ)


def write_csv(rows: Iterator[dict[str, Any]], out: TextIO) -> None:
    """One line a photo: its most probable label and the next ones, or the error."""
    writer = csv.writer(out)
    writer.writerow(["photo", "label", "probability", "others", "error"])
    for row in rows:
        if "predictions" in row:
            best, *others = row["predictions"]
            listed = "; ".join(f"{other['label']} {other['probability']:.3f}" for other in others)
            writer.writerow([row["photo"], best["label"], f"{best['probability']:.4f}", listed, ""])
        else:
            writer.writerow([row["photo"], "", "", "", row["message"]])


def write_json_lines(rows: Iterator[dict[str, Any]], out: TextIO) -> None:
    """One JSON object a line: the photo's path and the server's answer for it."""
    for row in rows:
        out.write(json.dumps(row) + "\n")


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("photos", type=Path, help="a photo, or a folder that is searched with all its folders")
    arguments.add_argument("--out", type=Path, help="file.csv or file.jsonl; default: CSV on standard output")
    arguments.add_argument("--model", metavar="NAME", help="needed where the model store holds several models")
    arguments.add_argument("--version", help="default: the newest")
    arguments.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    args = arguments.parse_args()
    if not args.photos.exists():
        raise ValueError(f"{args.photos} does not exist")
    if args.out and args.out.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"--out is {args.out}, expected a name that ends in .csv or .jsonl")
    archive = choose_archive(args.model_store, args.version, args.model)
    passed: Counter[str] = Counter()
    paths = [args.photos] if args.photos.is_file() else files_below(args.photos, passed)
    if passed:
        print(not_taken(args.photos, passed), file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "archive"
        unpack(archive, unpacked)  # all parts checked before any of its code runs
        rows = predict(load_handler(unpacked), paths)
        if args.out is None:
            write_csv(rows, sys.stdout)
            return 0
        write = write_json_lines if args.out.suffix == ".jsonl" else write_csv
        with aside(args.out) as part, part.open("w", encoding="utf-8", newline="") as out:
            write(rows, out)
    print(f"{args.out}: {counted(len(paths), 'photo')}, by {archive.name}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "nothing was written"))
