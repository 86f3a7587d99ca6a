"""Label photos: `python -m scripts.predict.predict photos/ --out labels.csv` (or .jsonl, .parquet, s3://bucket/labels.csv).

The photos are one, a folder, a list (.txt, .csv) or s3://bucket/prefix. The archive's own handler answers, as in TorchServe's
worker, or with --url a server. For a photo that cannot be labelled the row holds the error. A run that was ended goes on when
the same command is run again (journal.py).

Exit status: 0 all photos are labelled, 3 the results are written but some photos failed or could not be looked for, else as any
command's (scripts/command.py): 1 no results, and what is there goes on, 2 wrong arguments, 130 Ctrl-C.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from handler.parts import sha256
from scripts.archive.name import choose_archive
from scripts.archive.precise import most_precise
from scripts.archive.read import unpack
from scripts.command import parser, run
from scripts.folders import not_taken, shown, unreadable
from scripts.paths import ROOT
from scripts.phrases import counted
from scripts.predict.chosen import choose
from scripts.predict.journal import Journal
from scripts.predict.offline import Offline
from scripts.predict.out import HTML, Out, put
from scripts.predict.photo import Photo
from scripts.predict.progress import Progress
from scripts.predict.server import Server
from scripts.predict.sheet import write_sheet
from scripts.predict.sources import Source
from scripts.predict.summary import Summary
from scripts.predict.tables import write_csv

SOME_FAILED = 3  # argparse has 2

Answers = Callable[[Iterator[Photo]], Iterator[dict[str, Any]]]


def tell(message: str) -> None:
    """A line for people; results may stand on standard output."""
    if message:
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def answering(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], Answers]]]:
    """(what answers, for comparison with an earlier run; the way to it, which may take seconds). ValueError, PredictError."""
    if args.url:
        server = Server(args.url, args.model, args.version)
        yield server.identity, lambda: server.answers
        return
    archive = choose_archive(args.model_store, args.version, args.model)
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "archive"
        unpack(archive, unpacked)  # all parts checked before any of its code runs
        # the most precise, not the fastest, which is another one on another day: rows of a run that goes on are of one program
        with most_precise(unpacked) as program:
            by = {"archive": archive.name, "sha256": sha256(archive), "program": program}
            yield by | ({"tta": True} if args.tta else {}), lambda: Offline(unpacked, args.tta).answers


def some(source: Source) -> Iterator[Photo]:
    """The source's photos. ValueError if there is none."""
    photos = source.photos()
    first = next(photos, None)
    if first is None:
        raise ValueError(". ".join(filter(None, (f"{source.address} holds no photo", not_taken(source.address, source.passed)))))
    return chain([first], photos)


def to_stdout(source: Source, answers: Answers, summary: Summary) -> None:
    """Write CSV as it comes; nothing of it is kept for another run."""

    def rows() -> Iterator[dict[str, Any]]:
        with Progress(source.count, 0) as progress:
            for row in answers(some(source)):
                summary.add(row)
                yield row
                progress.update()

    write_csv(rows(), sys.stdout)


def to_file(source: Source, by: dict[str, Any], load: Callable[[], Answers], out: Out, html: bool, summary: Summary) -> None:
    """Label what is not labelled yet, then write the table and, with `html`, the contact sheet."""
    with Journal(out.part, {"photos": source.place, "by": by}) as journal:
        photos = journal.go_on(some(source), summary.add)
        tell(f"{journal.path}: {counted(summary.photos, 'photo')} of an earlier run kept" if summary.photos else "")
        tell(f"{journal.path}: {'later' if summary.photos else 'all'} rows are made anew: {journal.anew}" if journal.anew else "")
        first, kept = next(photos, None), summary.photos
        if first is not None:
            answers = load()
            with Progress(source.count, kept) as progress:
                for row in answers(chain([first], photos)):
                    journal.append(row)
                    summary.add(row)
                    progress.update()
                tell(f"labelled {counted(progress.done - kept, 'photo')}, {progress.rate:.1f} photos/s")
        if html:
            title = Path(source.address).name or source.address
            put(out.sheet, lambda path: write_sheet(choose(journal.rows()), path, title, out.address), HTML)
        out.write(journal.rows())
        journal.remove()
    print(f"{shown(out.address)}: {counted(summary.photos, 'photo')}, by {', '.join(summary.versions) or 'no model'}")
    if html:
        print(f"{shown(out.sheet)}: the contact sheet")


def arguments() -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("photos", help="a photo, a folder that is searched with all its folders, a list, or s3://bucket/prefix")
    options.add_argument("--out", help="file or s3://bucket/key, .csv, .jsonl or .parquet; default: CSV on standard output")
    options.add_argument("--html", action="store_true", help="a contact sheet, too, beside --out")
    options.add_argument("--url", help="ask this server, not an archive; SEEFOOD_API_KEY has its key")
    options.add_argument("--model", metavar="NAME", help="needed where the model store, or the server, has several models")
    options.add_argument("--tta", action="store_true", help="test-time augmentation: each photo's mirror image counts, too")
    options.add_argument("--version", help="default: the newest; a server's default version")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    args = options.parse_args()
    if args.html and not args.out:
        options.error("HTML=1 (--html) writes a page beside OUT (--out), and there is none: name one, e.g. OUT=labels.csv")
    if args.tta and args.url:
        options.error("TTA=1 (--tta) needs an archive here, and URL (--url) asks a server: leave one of them out")
    return args


def main() -> int:
    """Command line; see the module's docstring."""
    args = arguments()
    out = Out(args.out) if args.out else None
    source, summary = Source(args.photos, out.results if out else ()), Summary()
    with answering(args) as (by, load):
        if out is None:
            to_stdout(source, load(), summary)
        else:
            to_file(source, by, load, out, args.html, summary)
    for line in (not_taken(source.address, source.passed), summary.failures(), summary.changed()):
        tell(line)
    if missing := unreadable(source.passed):
        tell(f"photos are missing: {missing} of what is not taken cannot be read")
    return SOME_FAILED if summary.failed or missing else 0


if __name__ == "__main__":
    sys.exit(run(main, "the same command goes on where it stopped; without OUT it starts anew"))
