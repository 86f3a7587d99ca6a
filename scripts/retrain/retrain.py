"""Retrain on reviewed photos, and make a version of it if it is better: `python -m scripts.retrain.retrain --from labels.csv`.

pull, ingest, check, train, evaluate, promote, archive, shadow, push, report: steps.py says what each does. Nothing is released:
the report names the commands that do. Killed anywhere, the same command goes on with the step that was not done; where no
photo has come in since the last retraining, it changes nothing. Exit status: 0, also where the challenger is no better.
"""

import os
import sys
import time
from pathlib import Path
from shlex import join
from typing import Any

from scripts.archive.name import check_version
from scripts.command import parser, run
from scripts.errors import SeeFoodError, is_full
from scripts.paths import REVIEWED as LABELS
from scripts.paths import ROOT
from scripts.retrain.pipeline import archive_of
from scripts.retrain.run import RetrainError, Run, find_run, locked, tidy
from scripts.retrain.steps import STEPS, Step

REVIEWED = LABELS.relative_to(ROOT)  # make runs here; reports name no folder of this machine
NAMES = [step.name for step in STEPS]


def options_of(args: Any) -> dict[str, Any]:
    """What is given, None for what is not. ValueError for what a step could not use, before any runs."""
    sources = None if args.sources is None else [os.path.normpath(source) for source in args.sources]
    if missing := [source for source in sources or [] if not Path(source).exists()]:
        raise ValueError(
            f"FROM is {missing[0]}, which does not exist: expected a list with path,label, or a folder of class folders"
        )
    if args.version is not None:
        check_version(args.version)
    return {
        "from": sources,
        "new_classes": args.new_classes,
        "photos": args.photos,
        "version": args.version,
        "alpha": checked_alpha(args.alpha),
    }


def checked_alpha(text: str | None) -> str | None:
    """ALPHA as it was given. ValueError if it is no probability."""
    try:
        is_one = text is None or 0 < float(text) < 1
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError(f"ALPHA is {text!r}, expected a probability between 0 and 1 such as 0.05")
    return text


def command_of(args: Any) -> str:
    """The make command that was given, to print where it can go on."""
    given = {"FROM": " ".join(args.sources or []), "PHOTOS": args.photos, "VERSION": args.version, "ALPHA": args.alpha}
    given["NEW_CLASSES"] = "1" if args.new_classes else ""
    return join(["make", "retrain", *(f"{name}={value}" for name, value in given.items() if value)])


def take(run: Run, step: Step) -> None:
    """Run one step, and note that it is done. RetrainError that names the step and the command to go on."""
    print(f"--- {step.name}: {step.inputs} -> {step.outputs}", flush=True)
    start = time.monotonic()
    try:
        found = step.take(run)
    except (SeeFoodError, ValueError, OSError) as error:
        why = f"the disk is full ({error}): make room" if isinstance(error, OSError) and is_full(error) else str(error)
        raise RetrainError(f"step {step.name} failed: {why}. Mend that, then go on: {run.again}") from error
    run.finish(step.name, found, time.monotonic() - start)


def check_archive(run: Run) -> None:
    """ValueError if the version that is asked for is packed already; not by this run, which has not come so far."""
    if run.options["version"] and "promote" not in run.done and archive_of(run.options["version"]).exists():
        raise ValueError(f"{archive_of(run.options['version'])} exists, and a version is never overwritten: choose another VERSION")


def retrain(run: Run, until: str, nothing_new: int) -> int:
    """Take the steps that are not done, up to `until`. Returns the exit status, `nothing_new` where no photo has come in."""
    check_archive(run)
    for step in STEPS[: NAMES.index(until) + 1]:
        if step.name not in run.done:
            take(run, step)
        if nothing := run.done[step.name].get("nothing"):
            run.remove()
            print(nothing)
            return nothing_new
    if until != NAMES[-1]:
        print(f"{run.folder} is done up to {until}. Next: {run.again}")
        return 0
    better = run.done["promote"]["better"]
    verdict = f"{run.done['archive']['version']} is packed" if better else f"nothing is released: {run.done['promote']['why']}"
    print(f"{verdict}. {run.folder / 'report.md'} has the figures and the next commands")
    tidy(NAMES[-1])
    return 0


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    # None, not False, where it is not given: a run that goes on has its own
    arguments.add_argument("--new-classes", action="store_true", default=None, help="FROM may have classes that are new")
    arguments.add_argument(
        "--from",
        dest="sources",
        nargs="*",
        metavar="LIST",
        help=f"reviewed photos: lists or folders; default: {REVIEWED} if it is there",
    )
    arguments.add_argument("--photos", help="captured photos on which both versions are compared: a folder, a list or s3://...")
    arguments.add_argument("--version", help="of the archive; default: the next minor version")
    arguments.add_argument("--alpha", help="p that a promotion must be below; default: 0.05")
    arguments.add_argument("--until", choices=NAMES, default=NAMES[-1], metavar="STEP", help=f"the last step: {', '.join(NAMES)}")
    arguments.add_argument(
        "--nothing-new-status", type=int, default=0, metavar="N", help="exit status where no photo has come in; default: 0"
    )
    args = arguments.parse_args()
    options = options_of(args)
    with locked() as lock:
        tidy(NAMES[-1])  # of a run that was killed at its very end
        defaults = {"from": [str(REVIEWED)] if REVIEWED.is_file() else []}
        return retrain(find_run(options, command_of(args), lock, NAMES[-1], defaults), args.until, args.nothing_new_status)


if __name__ == "__main__":
    sys.exit(run(main, "what is done stays done; the same command goes on"))
