"""Retrain on reviewed photos, and make a version of it if it is better: `python -m scripts.retrain.retrain --from labels.csv`.

pull, ingest, check, train, evaluate, promote, archive, shadow, push, report: steps.py says what each does. Nothing is released:
the report names the commands that do. Killed anywhere, the same command goes on with the step that was not done; where no
photo has come in since the last retraining, it changes nothing. Exit status: 0, also where the challenger is no better.
"""

import sys
import time
from pathlib import Path
from shlex import join
from typing import Any

from scripts.command import parser, run
from scripts.errors import SeeFoodError
from scripts.paths import REVIEWED as LABELS
from scripts.paths import ROOT
from scripts.retrain.run import RetrainError, Run, find_run, locked
from scripts.retrain.steps import STEPS, Step

REVIEWED = LABELS.relative_to(ROOT)  # make runs here; reports name no folder of this machine
NAMES = [step.name for step in STEPS]


def options_of(args: Any) -> dict[str, Any]:
    """What a run is started with; the same values go on with it."""
    sources = args.sources if args.sources is not None else [str(REVIEWED)] if REVIEWED.is_file() else []
    if missing := [source for source in sources if not Path(source).exists()]:
        raise ValueError(
            f"FROM is {missing[0]}, which does not exist: expected a list with path,label, or a folder of class folders"
        )
    return {"from": sources, "photos": args.photos, "version": args.version, "alpha": args.alpha}


def command_of(args: Any) -> str:
    """The make command that was given, to print where it can go on."""
    given = {"FROM": " ".join(args.sources or []), "PHOTOS": args.photos, "VERSION": args.version, "ALPHA": args.alpha}
    return join(["make", "retrain", *(f"{name}={value}" for name, value in given.items() if value)])


def take(run: Run, step: Step) -> None:
    """Run one step, and note that it is done. RetrainError that names the step and the command to go on."""
    print(f"--- {step.name}: {step.inputs} -> {step.outputs}", flush=True)
    start = time.monotonic()
    try:
        found = step.take(run)
    except (SeeFoodError, ValueError, OSError) as error:
        raise RetrainError(f"step {step.name} failed: {error}. Mend that, then go on: {run.again}") from error
    run.finish(step.name, found, time.monotonic() - start)


def retrain(run: Run, until: str) -> None:
    """Take the steps that are not done, up to `until`."""
    for step in STEPS[: NAMES.index(until) + 1]:
        if step.name not in run.done:
            take(run, step)
        if nothing := run.done[step.name].get("nothing"):
            run.remove()
            print(nothing)
            return
    if until != NAMES[-1]:
        print(f"{run.folder} is done up to {until}. Next: {run.again}")
        return
    better = run.done["promote"]["better"]
    verdict = f"{run.done['archive']['version']} is packed" if better else f"nothing is released: {run.done['promote']['why']}"
    print(f"{verdict}. {run.folder / 'report.md'} has the figures and the next commands")


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
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
    args = arguments.parse_args()
    with locked() as lock:
        retrain(find_run(options_of(args), command_of(args), lock, NAMES[-1]), args.until)


if __name__ == "__main__":
    sys.exit(run(main, "what is done stays done; the same command goes on"))
