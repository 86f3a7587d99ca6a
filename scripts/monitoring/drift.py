"""Are today's photos and answers still like the reference profile's? `python -m scripts.monitoring.drift`.

Asks every instance that reports beside a release document (--release, by default the local one), or measures a folder of photos
by an archive of the model store (--photos). Prints a table for each instance, version and window, and writes a page with plots
(--out). Exit status 3 where a signal has drifted, 0 where none has, 1 after an error.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.archive.name import choose_archive, split_name
from scripts.archive.precise import most_precise
from scripts.archive.read import load_handler, unpack
from scripts.command import parser, run
from scripts.drift.statistics import LEAST, compare, drifted, estimated_accuracy
from scripts.monitoring.drift_page import Line, write_page
from scripts.monitoring.measured_photos import in_words, measure
from scripts.monitoring.reported_drift import lines_of
from scripts.paths import ROOT
from scripts.phrases import printable
from scripts.release.address import open_store
from scripts.release.status import Fleet, parts_of
from scripts.settings import Settings

DRIFTED = 3


def reported(address: str) -> Iterator[Line]:
    """What instances report beside the release document. ValueError if none reports, or a document is a stranger's; StoreError."""
    settings = Settings.from_environment()
    fleet = Fleet.of(open_store(address, settings), settings)
    if not fleet.statuses:
        raise ValueError(f"no running instance follows {address}: make serve starts one; make status shows what else reports")
    for name, status in sorted(fleet.statuses.items()):
        parts = parts_of(status)
        for model, part in parts.items():
            yield from lines_of(f"{name} {model}" if len(parts) > 1 else name, part)


def of_photos(archive: Path, photos: Path) -> Iterator[Line]:
    """The photos of a folder, measured by the archive's handler. ValueError as measure(), or if it has no profile; OSError."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder) / "archive")
        with most_precise(Path(folder) / "archive"):
            handler = load_handler(Path(folder) / "archive")
        if handler.profile is None:
            raise ValueError(f"{archive.name} has no reference profile: export and archive it again")
        model, version = split_name(archive)
        rows, others = measure(handler, photos, model)
        if others:
            print(f"not measured: {in_words(others)}")
        signals, estimate = compare(handler.profile, rows), estimated_accuracy(handler.profile, rows)
        yield Line(str(photos), version, len(rows), signals, estimate, tuple(handler.labels))


def show(lines: list[Line]) -> None:
    """Print the tables."""
    for line in lines:
        where = f"{printable(line.where)}  {printable(line.version)}"
        print(f"{where}  last {line.window}  estimated accuracy {line.accuracy:.1%}")
        bad = drifted(line.values())
        for signal, value in sorted(line.values().items(), key=lambda pair: -pair[1]):
            print(f"  {printable(signal):11s} {value:6.1f}{'  drift' if signal in bad else ''}")
    print("the values are -log10 of a p-value; scripts/monitoring/README.md says what to do about drift")


def arguments() -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--release", help="release document, a file or s3://...")
    options.add_argument("--photos", type=Path, help="folder of photos, measured here in place of asking instances")
    options.add_argument("--out", type=Path, default=ROOT / "build" / "drift.html", help="page to write")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    options.add_argument("--model", help="of this model's archives")
    options.add_argument("--version", help="of this version; default: the newest")
    return options.parse_args()


def main() -> int:
    """Command line; see the module's docstring."""
    args, settings = arguments(), Settings.from_environment()
    if args.photos is not None:
        lines = list(of_photos(choose_archive(args.model_store, args.version, args.model), args.photos))
    else:
        lines = list(reported(args.release or settings.release or str(args.model_store / "release.json")))
    if not lines:
        print(f"no version has answered {LEAST} photos yet, or their archives have no reference profile")
        return 0
    show(lines)
    write_page(lines, args.out)
    print(f"plots: {args.out}")
    return DRIFTED if any(drifted(line.values()) for line in lines) else 0


if __name__ == "__main__":
    sys.exit(run(main))
