"""Name the dishes in a folder of photos: `python -m scripts.archive.predict photos/ --out dishes.csv` (or .jsonl).

Needs no running server: the archive's own handler answers, as TorchServe's worker would. A file that is no photo gets
its error in its row.
"""

import argparse
import csv
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from scripts.archive.build import choose_archive, load_handler

BATCH_SIZE = 8


class OfflineContext:
    """What handle() asks of TorchServe's context, for photos that come from a folder."""

    def get_all_request_header(self, index: int) -> dict[str, str]:
        """No headers: there was no request."""
        return {}

    def set_response_content_type(self, index: int, value: str) -> None:
        """Nothing to do: all answers to photos are JSON."""

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        """Nothing to do: the answer's "code" says it."""


def predict(handler: Any, paths: list[Path]) -> Iterator[dict[str, Any]]:
    """{"photo", ...handle()'s answer} for each file, in order; progress on stderr."""
    context = OfflineContext()
    with tqdm(total=len(paths), unit="photo", disable=None) as progress:
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            answers = handler.handle([{"body": path.read_bytes()} for path in batch], context)
            for path, answer in zip(batch, answers, strict=True):
                yield {"photo": str(path), **json.loads(answer)}
            progress.update(len(batch))


def write_csv(rows: Iterator[dict[str, Any]], out: TextIO) -> None:
    """One line a photo: its best dish and the next ones, or the error."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a photo, or a folder that is searched with all its folders")
    parser.add_argument("--out", type=Path, help="file.csv or file.jsonl; default: CSV on standard output")
    parser.add_argument("--version", help="ask this version, not the newest")
    parser.add_argument("--model-store", type=Path, default=Path("model_store"))
    args = parser.parse_args()
    if not args.photos.exists():
        print(f"error: {args.photos} does not exist", file=sys.stderr)
        return 1
    if args.out and args.out.suffix not in (".csv", ".jsonl"):
        print(f"error: --out is {args.out}, expected a name that ends in .csv or .jsonl", file=sys.stderr)
        return 1
    try:
        archive = choose_archive(args.model_store, args.version)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    paths = [args.photos] if args.photos.is_file() else sorted(path for path in args.photos.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as unpacked:
        with zipfile.ZipFile(archive) as content:
            content.extractall(unpacked)
        rows = predict(load_handler(Path(unpacked)), paths)
        write = write_json_lines if args.out and args.out.suffix == ".jsonl" else write_csv
        if args.out is None:
            write(rows, sys.stdout)
            return 0
        part = args.out.with_name(args.out.name + ".part")
        with part.open("w", encoding="utf-8", newline="") as out:
            write(rows, out)
        part.replace(args.out)
    print(f"{args.out}: {len(paths)} photos, by {archive.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
