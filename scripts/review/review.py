"""Label the photos of a batch on a local page: `make review BATCH=collected/2026-11-27-captured`.

Choices go to a CSV `path,label`, collected/labels.csv or --out, which `make ingest` takes; the same command goes on where
one left. With --mar archives answer the photos: the first orders them, a second one shows where versions disagree. --export writes
the photos as tasks of Label Studio instead, --import takes annotations from there.
"""

import argparse
import sys
import time
from pathlib import Path

from scripts.command import parser, run
from scripts.folders import shown
from scripts.paths import REVIEWED, ROOT
from scripts.phrases import counted
from scripts.review.answers import answers_of
from scripts.review.decisions import LABEL, NONE, OPEN, Decisions, alone
from scripts.review.items import Item, labels_of, read_items, sort
from scripts.review.label_studio import export_tasks, import_annotations
from scripts.review.server import ReviewServer

MODEL_STORE = ROOT / "model_store"


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("batch", type=Path, help="a folder that make collect has made")
    arguments.add_argument("--mar", type=Path, nargs="+", default=[], help="archives; two to compare two versions")
    arguments.add_argument("--out", type=Path, default=REVIEWED)
    arguments.add_argument("--port", type=int, default=8090)
    arguments.add_argument("--export", type=Path, metavar="TASKS.json")
    arguments.add_argument("--import", type=Path, metavar="ANNOTATIONS.json", dest="annotations")
    arguments.add_argument("--new-classes", action="store_true", help="--import takes classes that no version has")
    args = arguments.parse_args()
    with alone(args.out):
        review(args)


def review(args: argparse.Namespace) -> None:
    """Export, import, or the page until Ctrl-C. ValueError, SeeFoodError, OSError."""
    items = read_items(args.batch)
    answered = [answers_of(mar, [item.path for item in items], args.out.parent / "answers") for mar in args.mar]
    decisions = Decisions(args.out)
    decided = {item.path for item in items if decisions.of(item.path).kind in (LABEL, NONE)}
    labels, items = labels_of(items, answered), sort(items, answered, decided)
    if not any(one.features for one in answered):
        print(without_features(items, args.mar), file=sys.stderr)
    if args.export:
        export_tasks(items, labels, decisions, args.export)
        print(f"{args.export}: {counted(len(items), 'task')} for Label Studio, its labelling interface beside it")
        return
    if args.annotations:
        print(import_annotations(args.annotations, items, labels, decisions, args.new_classes))
        return
    with ReviewServer(args.port, items, labels, decisions) as server:
        left = sum(decisions.of(item.path).kind == OPEN for item in items)
        print(f"{counted(left, 'photo')} of {len(items)} to review: {server.url} (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(3600)


def without_features(items: list[Item], archives: list[Path]) -> str:
    """Why photos are not kept apart from each other in the order, and which archive would do it."""
    why = f"{archives[0].name} has no features" if archives else "no archive is given"
    named = {(one.get("model"), one.get("version")) for item in items for one in item.answers}
    here = [mar for model, version in sorted(named, key=str) if (mar := MODEL_STORE / f"{model}-{version}.mar").is_file()]
    found = [mar for mar in here if mar not in archives] or sorted(MODEL_STORE.glob("*.mar"))
    remedy = f"MAR={shown(found[-1])}" if found and not archives else "MAR=an archive that was exported since then"
    return f"photos are in order of unsureness and disagreement alone, and alike ones may come in a row, as {why}: {remedy}"


if __name__ == "__main__":
    sys.exit(run(main, f"every choice is kept: make ingest FROM={REVIEWED.relative_to(ROOT)}"))
