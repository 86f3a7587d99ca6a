"""New photos of a source into a batch for review: `python -m scripts.collection.collect SOURCE`.

SOURCE is a folder, s3://bucket/prefix, a CSV of web addresses, captured:FOLDER (or s3://.../captured), or reddit:NAME. Photos are
checked as the server does it, and kept without what their files say about people and places. The same command brings only what
is new; one that was killed is gone on with. Prints the batch's folder.

Exit status: 0 all is done, 3 some photos could not be taken or looked for, else as any command's (scripts/command.py).
"""

import argparse
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.collection.batch import Batch
from scripts.collection.check import Checker
from scripts.collection.choose import choose
from scripts.collection.seen import Seen
from scripts.collection.source import Found, Source
from scripts.command import parser, run
from scripts.folders import not_taken, shown, unreadable
from scripts.paths import ROOT
from scripts.phrases import counted
from scripts.predict.photo import UnreadError
from scripts.predict.summary import Summary
from scripts.settings import Settings

SOME_FAILED = 3  # argparse has 2
EVERY_S = 30.0  # between two lines about how far it is
# what never becomes a photo, unless its file changes; others are looked at again the next time
FINAL = (400, 404, 410, 413, 415, 422)


class Collection:
    """One run: photos of a source into a batch, and what became of the others."""

    def __init__(self, batch: Batch, seen: Seen) -> None:
        self.batch, self.seen, self.summary = batch, seen, Summary()
        self.before = self.twice = 0
        self._checker = Checker()

    def take_all(self, source: Source, limit: int | None, passed: Counter[str]) -> None:
        """Take what is new, `limit` photos in the batch at most."""
        said = time.monotonic()
        for found in source.found(passed):
            if limit is not None and len(self.batch.photos) >= limit:
                return
            self.take(found)
            if time.monotonic() - said > EVERY_S:
                said = time.monotonic()
                tell(f"{counted(self.before + self.summary.photos, 'photo')} looked at, {len(self.batch.photos)} in the batch")

    def take(self, found: Found) -> None:
        """Take one photo if it is new."""
        origin = shown(found.origin)
        if self.seen.has(origin, found.stamp):
            self.before += 1
            return
        try:
            self._keep(found, origin)
        except UnreadError as error:
            self.summary.add({"photo": origin, "message": str(error)})
            if error.status in FINAL:
                self.seen.add(origin, found.stamp, None)

    def _keep(self, found: Found, origin: str) -> None:
        fetched = found.fetch()
        content, suffix = self._checker.clean(fetched.content)
        feedback = fetched.given, fetched.feedback
        name = self.batch.name_of(content)
        if self.seen.has_photo(name, feedback):
            self.twice += 1
        else:
            at = fetched.at or datetime.now(UTC).isoformat(timespec="milliseconds")
            values = {key: getattr(fetched, key) for key in ("title", "id", "answer", "feedback", "given")}
            self.batch.add(content, suffix, origin=origin, at=at, **values)
        self.seen.add(origin, found.stamp, name, feedback)
        self.summary.add({"photo": origin, "predictions": []})


def tell(message: str) -> None:
    """A line for people."""
    if message:
        print(message, file=sys.stderr, flush=True)


def outcome(collection: Collection) -> str:
    """The last line: the batch, or that there is nothing new."""
    photos = len(collection.batch.photos)
    others = [
        f"{count} {what}" for count, what in ((collection.before, "looked at before"), (collection.twice, "there already")) if count
    ]
    known = f" ({', '.join(others)})" if others else ""
    return f"{shown(collection.batch.folder)}: {counted(photos, 'new photo')}{known}" if photos else f"nothing new{known}"


def arguments() -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("source", help="a folder, s3://bucket/prefix, addresses.csv, captured:FOLDER, reddit:NAME")
    options.add_argument("--out", type=Path, default=ROOT / "collected", help="where the batches are; default: collected")
    options.add_argument("--limit", type=positive, metavar="N", help="so many photos in the batch at most")
    options.add_argument("--model", metavar="NAME", help="only captured photos that this model answered; default: the only one")
    options.add_argument("--reviewed", action="store_true", help="only captured photos with feedback")
    return options.parse_args()


def positive(text: str) -> int:
    """A number from 1. ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> int:
    """Command line; see the module's docstring."""
    args = arguments()
    source, passed = choose(args.source, args.reviewed, Settings.from_environment(), args.model), Counter[str]()
    about: dict[str, Any] = {"source": source.kind, "address": shown(source.address), "reviewed": args.reviewed}
    about |= {"model": args.model} if args.model else {}
    with Seen(args.out) as seen:
        collection = Collection(Batch.open(args.out, about), seen)
        if kept := len(collection.batch.photos):
            tell(f"{collection.batch.folder}: {counted(kept, 'photo')} of an earlier run kept")
        collection.take_all(source, args.limit, passed)
        collection.batch.finish()
    for line in (not_taken(source.address, passed), collection.summary.failures()):
        tell(line)
    print(outcome(collection))
    return SOME_FAILED if collection.summary.failed or unreadable(passed) else 0


if __name__ == "__main__":
    sys.exit(run(main, "the same command goes on where it stopped"))
