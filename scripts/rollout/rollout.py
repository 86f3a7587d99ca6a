"""Roll a version out, and back: `python -m scripts.rollout.rollout start 1.1.0`, `... back`, `... status`, `... history`.

Writes the release document and watches the instances that follow it (scripts/serving/serve.py). Fails, and restores the document
before, when an instance reports a failure or stops reporting, when they take too long, on Ctrl-C, or when the new version has
more errors or a worse p99 than the old one, or other answers, while it is watched. A rollout that is refused has changed nothing.

Where several models are released --model says which; `withdraw --model flowers` releases that one no more.

`start --url http://host:8080` instead rolls a TorchServe without a release document: its model store must hold the archive.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from scripts.archive.foreign import unpack_foreign
from scripts.archive.name import choose_archive
from scripts.command import parser, run
from scripts.paths import ROOT
from scripts.release.address import open_store
from scripts.release.document import entry_of
from scripts.release.fetch import unpack_as_named
from scripts.release.status import history_table, status_table
from scripts.rollout.guarded import Rollout
from scripts.rollout.plan import ANSWERS, Candidate, Options, plan_back, plan_start, plan_withdraw
from scripts.rollout.unmanaged import start_unmanaged, unmanaged_server
from scripts.settings import Settings
from scripts.steps import Steps


def start(rollout: Rollout, archive: Path, asked: Options) -> None:
    """Roll an archive out. RolloutError, with all as it was, if that fails; ValueError, with nothing changed, if it is refused."""
    unpack = unpack_foreign if asked.unverified else unpack_as_named
    with tempfile.TemporaryDirectory() as folder:
        model, version = unpack(archive, archive.name, Path(folder) / "archive")
    candidate = Candidate(archive, model, version, entry_of(archive, asked.unverified))
    released = rollout.released
    rollout.run(plan_start(rollout.store.address, released.before, rollout.instances, candidate, asked, released.others))


def back(rollout: Rollout) -> None:
    """Release again what was released before. RolloutError if that is not served then; ValueError if there is nothing."""
    store, released = rollout.store, rollout.released
    plan = plan_back(store.address, released.before, store.history()[1:], rollout.instances, released.others)
    # old archives may have been deleted by somebody or by a lifecycle rule; the instances would find out too late
    for document in plan.documents:
        for entry in document["versions"].values():
            if not store.has(entry["archive"]):
                raise ValueError(f"{entry['archive']} is no longer beside {store.address}: there is no way back to {plan.new}")
    rollout.run(plan)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--release", help="path or s3://bucket/key; default: SEEFOOD_RELEASE, else MODEL_STORE/release.json")
    arguments.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    commands = arguments.add_subparsers(dest="command", required=True)
    starter = commands.add_parser("start", help="roll a version out")
    starter.add_argument("version")
    starter.add_argument("--model", metavar="NAME", help="of this model; default: the only released one, else the only one there")
    starter.add_argument("--canary", type=float, metavar="PERCENT", help="for this share of the instances alone")
    starter.add_argument("--shadow", type=int, metavar="N", help="first compare the answers to the last N captured photos")
    starter.add_argument("--keep", action="store_true", help="the other versions stay loaded, under their own paths")
    starter.add_argument("--unwatched", action="store_true", help="write the document though no running instance follows it")
    starter.add_argument(
        "--answers", metavar="differ", help="on purpose: not restored for it; or unjudged: though too few are seen"
    )
    starter.add_argument("--unverified", action="store_true", help="an archive that make archive has not packed")
    starter.add_argument("--bake", type=float, metavar="SECONDS", help="watch the new version for so long")
    starter.add_argument("--url", help="a TorchServe without a release document: where it answers predictions, http://host:8080")
    starter.add_argument("--management-url", help="with --url: its management address; default: the port after")
    starter.add_argument("--mar", help="with --url: the archive's name in its model store, or its URL; default: the archive's own")
    backward = commands.add_parser("back", help="release again what was released before")
    backward.add_argument("--model", metavar="NAME", help="of this model; default: the only one")
    withdrawal = commands.add_parser("withdraw", help="release a model no more, where others are")
    withdrawal.add_argument("--model", metavar="NAME", required=True, help="this model")
    commands.add_parser("status", help="a table of the instances")
    commands.add_parser("history", help="a table of the releases")
    return arguments.parse_args()


def _start_by_url(args: argparse.Namespace, settings: Settings, steps: Steps) -> None:
    if args.canary is not None or args.shadow is not None or args.keep or args.answers is not None or args.unverified:
        raise ValueError(
            "CANARY, SHADOW, KEEP, ANSWERS and UNVERIFIED need a release document, and URL is for a TorchServe without one"
        )
    archive = choose_archive(args.model_store, args.version, args.model)
    server = unmanaged_server(args.url, args.management_url)
    model = start_unmanaged(server, archive, args.mar or archive.name, settings, steps)
    steps.say(f"{model} {args.version} answers at {args.url}", "done", model=model, default=args.version, url=args.url)


def main() -> None:
    """Command line; see the module's docstring."""
    args, settings = _arguments(), Settings.from_environment()
    steps = Steps(settings.log_json)
    if args.command == "start" and args.bake is not None:
        if not 0 <= args.bake < math.inf:  # nan, too
            raise ValueError(f"BAKE is {args.bake:g}, expected a number of seconds from 0")
        settings = replace(settings, bake_s=args.bake)
    if args.command == "start" and args.answers not in (None, *ANSWERS):
        raise ValueError(
            f"ANSWERS is {args.answers!r}, expected differ, for a version that answers differently on purpose, or unjudged, for "
            "one whose answers are too few to judge it"
        )
    if args.command == "start" and args.url:
        return _start_by_url(args, settings, steps)
    store = open_store(args.release or settings.release or str(args.model_store / "release.json"), settings)
    if args.command in ("status", "history"):
        print(status_table(store, settings) if args.command == "status" else history_table(store))
        return None
    rollout = Rollout(store, settings, steps, args.model)
    released = rollout.released
    if args.command == "start":
        options = Options(args.canary, args.shadow, args.keep, args.unwatched, settings.bake_photos, args.answers, args.unverified)
        start(rollout, choose_archive(args.model_store, args.version, released.model), options)
    elif args.command == "back":
        back(rollout)
    else:
        rollout.run(plan_withdraw(store.address, released.before, rollout.instances, released.others))
    if rollout.document is None:
        steps.say(f"{released.model} is released no more, {', '.join(released.others)} as before", "done", model=released.model)
        return None
    model, default, stage = (rollout.document[key] for key in ("model", "default", "stage"))
    message = f"{model} {default} is released. make status shows the instances, make rollback goes back"
    steps.say(message, "done", model=model, default=default, stage=stage)
    return None


if __name__ == "__main__":
    sys.exit(run(main))
